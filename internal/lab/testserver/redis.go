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

// redisDatabases is how many tests may use the shared Redis at the same time.
const redisDatabases = 512

var (
	sharedRedis = shared{name: "Redis", local: localRedis, docker: dockerRedis, version: redisVersion}
	freeNumbers = numbers(redisDatabases)
)

// numbers returns a channel that holds the numbers below n. Taking and giving back at its two ends lets a number rest
// as long as possible before it is used again.
func numbers(n int) chan int {
	c := make(chan int, n)
	for i := range n {
		c <- i
	}
	return c
}

// Redis returns the URL of an empty database on the Redis that the package's tests share. It is emptied when the test
// ends. FLUSHALL, CONFIG SET and the like reach the other tests' databases too: NewRedis is for that.
func Redis(t testing.TB) string {
	t.Helper()
	o, err := redis.ParseURL(sharedRedis.get(t))
	if err != nil {
		t.Fatal(err)
	}
	select {
	case o.DB = <-freeNumbers:
	default:
		t.Fatalf("testserver: more than %d tests use the shared Redis at once", redisDatabases)
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
	args := []string{"--databases", strconv.Itoa(redisDatabases), "--appendonly", "no"}
	r, err := servers.StartRedis(ctx, servers.RedisConfig{Dir: dir, Args: args})
	if err != nil {
		return "", err
	}
	atEnd(r.Stop)
	return r.URL(), nil
}

// NewRedis starts a Redis for this test alone, which may kill, pause and restart it. It writes its append-only file
// before it replies, and never waits for the disk: a killed one comes back with all that it has acknowledged. It is
// always one of this machine. Args are more arguments for redis-server.
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

// redisVersion returns the version, and the name of what isn't Redis but says so, such as valkey. Package queues asks the
// same; its own tests use this package, so this one can't use it.
func redisVersion(ctx context.Context, url string) (string, error) {
	o, err := redis.ParseURL(url)
	if err != nil {
		return "", err
	}
	client := redis.NewClient(o)
	defer client.Close()
	all, err := client.InfoMap(ctx, "server").Result()
	if err != nil {
		return "", err
	}
	server := all["Server"]
	if name := server["server_name"]; name != "" && name != "redis" {
		return name + " " + server[name+"_version"], nil
	}
	return server["redis_version"], nil
}
