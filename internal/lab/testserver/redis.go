package testserver

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush/internal/servers"
)

// RedisDatabases is how many tests may use the shared Redis at the same time.
const RedisDatabases = 512

var (
	sharedRedis = shared{name: "Redis", variable: RedisVariable, local: localRedis, inspect: inspectRedis}
	freeNumbers = numbers(RedisDatabases)
)

// numbers returns a channel that holds the numbers below n. Taking and giving back at its two ends
// lets a number rest as long as possible before it is used again.
func numbers(n int) chan int {
	c := make(chan int, n)
	for i := range n {
		c <- i
	}
	return c
}

// Redis returns the URL of an empty database on the Redis that the package's tests share. It is
// emptied when the test ends. FLUSHALL, CONFIG SET and the like reach the other tests' databases
// too: NewRedis is for that.
func Redis(t testing.TB) string {
	t.Helper()
	o, err := redis.ParseURL(sharedRedis.get(t))
	if err != nil {
		t.Fatal(err)
	}
	select {
	case o.DB = <-freeNumbers:
	default:
		t.Fatalf("testserver: more than %d tests use the shared Redis at once", RedisDatabases)
	}
	flush(t, o)
	t.Cleanup(func() {
		flush(t, o)
		freeNumbers <- o.DB
	})
	return fmt.Sprintf("redis://:%s@%s/%d", o.Password, o.Addr, o.DB)
}

func flush(t testing.TB, o *redis.Options) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	client := redis.NewClient(o)
	defer client.Close()
	if err := client.FlushDB(ctx).Err(); err != nil {
		t.Fatalf("testserver: flush database %d of Redis: %v", o.DB, err)
	}
}

func localRedis(ctx context.Context) (string, error) {
	dir, err := tempDir()
	if err != nil {
		return "", err
	}
	atEnd(func(context.Context) error { return os.RemoveAll(dir) })
	args := []string{"--databases", strconv.Itoa(RedisDatabases), "--appendonly", "no"}
	r, err := servers.StartRedis(ctx, servers.RedisConfig{Dir: dir, Args: args})
	if err != nil {
		return "", err
	}
	atEnd(r.Stop)
	return r.URL(), nil
}

// NewRedis starts a Redis for this test alone, which may kill, pause and restart it. It writes its
// append-only file before it replies, and never waits for the disk: a killed one comes back with
// all that it has acknowledged. It is always one of this machine. Args are more arguments for
// redis-server.
func NewRedis(t testing.TB, args ...string) *servers.Redis {
	t.Helper()
	dir := privateDir(t)
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	r, err := servers.StartRedis(ctx, servers.RedisConfig{Dir: dir, Args: append([]string{"--appendfsync", "no"}, args...)})
	if err != nil {
		t.Fatalf("testserver: %v", err)
	}
	t.Cleanup(func() {
		showLog(t, filepath.Join(dir, "redis.log"))
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		if err := r.Stop(ctx); err != nil {
			t.Errorf("testserver: %v", err)
		}
	})
	return r
}

// inspectRedis tells the name of what isn't Redis but says so, such as valkey, too. Package queues
// asks the same; its own tests use this package, so this one can't use it.
func inspectRedis(ctx context.Context, url string) (is inspection, err error) {
	o, err := redis.ParseURL(url)
	if err != nil {
		return is, err
	}
	client := redis.NewClient(o)
	defer client.Close()
	all, err := client.InfoMap(ctx).Result()
	if err != nil {
		return is, err
	}
	for database, keys := range all["Keyspace"] {
		is.holds = database + ": " + keys
	}
	server := all["Server"]
	is.version = server["redis_version"]
	if name := server["server_name"]; name != "" && name != "redis" {
		is.version = name + " " + server[name+"_version"]
	}
	return is, nil
}
