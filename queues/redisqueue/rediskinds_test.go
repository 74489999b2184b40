package redisqueue_test

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/internal/servers"
	"github.com/spendflush/spendflush/queues/queuetest"
	"github.com/spendflush/spendflush/queues/redisqueue"
)

// startCluster starts a cluster of three masters and returns the URL of all of them.
func startCluster(t *testing.T) string {
	t.Helper()
	const nodes = 3
	var clients []*redis.Client
	var addresses []string
	for range nodes {
		port, bus := freePorts(t)
		server := startRedis(t, servers.RedisConfig{Port: port, Args: []string{
			"--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(bus), "--cluster-node-timeout", "2000", "--appendonly", "no",
		}})
		client := dial(t, server.URL()).(*redis.Client)
		do(t, client, "CONFIG", "SET", "requirepass", "") // each has another one
		clients, addresses = append(clients, client), append(addresses, client.Options().Addr)
		for _, earlier := range clients[:len(clients)-1] {
			host, port, _ := net.SplitHostPort(earlier.Options().Addr)
			do(t, client, "CLUSTER", "MEET", host, port, busPort(t, earlier))
		}
	}
	const slots = 16384
	for i, client := range clients {
		do(t, client, "CLUSTER", "ADDSLOTSRANGE", i*slots/nodes, (i+1)*slots/nodes-1)
	}
	for _, client := range clients {
		await(t, client, "cluster_state:ok", fmt.Sprint("cluster_known_nodes:", nodes), "cluster_slots_ok:16384")
	}
	return "redis://" + strings.Join(addresses, ",")
}

// startRedis starts a server that is stopped when the test ends.
func startRedis(t *testing.T, c servers.RedisConfig) *servers.Redis {
	t.Helper()
	c.Dir = t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	server, err := servers.StartRedis(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return server
}

// freePorts returns two ports that were free a moment ago.
func freePorts(t *testing.T) (int, int) {
	t.Helper()
	var ports [2]int
	for i := range ports {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		ports[i] = listener.Addr().(*net.TCPAddr).Port
	}
	return ports[0], ports[1]
}

func busPort(t *testing.T, client *redis.Client) string {
	t.Helper()
	values, err := client.ConfigGet(t.Context(), "cluster-port").Result()
	if err != nil {
		t.Fatal(err)
	}
	return values["cluster-port"]
}

func do(t *testing.T, client *redis.Client, args ...any) {
	t.Helper()
	if err := client.Do(t.Context(), args...).Err(); err != nil {
		t.Fatalf("%v: %v", args, err)
	}
}

// await asks the node about the cluster until it says all of these.
func await(t *testing.T, client *redis.Client, want ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		text, err := client.ClusterInfo(ctx).Result()
		missing := err != nil
		for _, line := range want {
			missing = missing || !strings.Contains(text, line)
		}
		if !missing {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("the cluster isn't ready: %v\n%s", err, text)
		}
	}
}

// suite is queuetest.Run or queuetest.RunRetainer.
type suite func(t *testing.T, open func(t *testing.T, maxBytes int64) queuetest.Opened)

func TestRedisClusterIsAQueue(t *testing.T) {
	url := startCluster(t)
	run := func(t *testing.T, suite suite, opts redisqueue.Options) {
		suite(t, func(t *testing.T, maxBytes int64) queuetest.Opened {
			opts.MaxBytes = maxBytes
			q := opened(t, dial(t, url), opts)
			q.Lose()
			return q
		})
	}
	run(t, queuetest.Run, redisqueue.Options{})
	t.Run("Keeping", func(t *testing.T) { run(t, queuetest.RunRetainer, redisqueue.Options{Retain: true}) })
	t.Run("OneAddressIsEnough", func(t *testing.T) {
		first, _, _ := strings.Cut(url, ",")
		q := open(t, dial(t, first+"?cluster=true"), redisqueue.Options{Prefix: "one"})
		for shard := range 4 { // on several nodes
			push(t, q, queuetest.NewBatch(queuetest.NewProducer(), shard, 1, 1), "")
		}
		if server, err := q.Info(t.Context()); err != nil || server.Mode != "cluster" {
			t.Errorf("the server is %+v, %v", server, err)
		}
		heartbeats := openHeartbeats(t, dial(t, url), redisqueue.HeartbeatOptions{})
		put(t, heartbeats, "a", "record")
		if list := ids(t, heartbeats); len(list) != 1 {
			t.Errorf("the heartbeats are of %q", list)
		}
		if err := heartbeats.Remove(t.Context(), "a"); err != nil {
			t.Error(err)
		}
	})
}

// A managed Redis forbids CONFIG and more. These are all the commands that a queue and its lock
// need.
func TestAUserWithFewRightsIsEnough(t *testing.T) {
	server := testserver.NewRedis(t)
	admin := dial(t, server.URL()).(*redis.Client)
	do(t, admin, "ACL", "SETUSER", "few", "on", ">secret", "~{spendflush:*", "-@all",
		"+evalsha", "+eval", "+xadd", "+xrange", "+xdel", "+xlen", "+get", "+set", "+del", "+exists", "+incrby", "+decrby", "+info")
	url := "redis://few:secret@" + host(t, server.URL())
	run := func(t *testing.T, suite suite, opts redisqueue.Options) {
		suite(t, func(t *testing.T, maxBytes int64) queuetest.Opened {
			do(t, admin, "FLUSHALL")
			opts.MaxBytes = maxBytes
			q := opened(t, dial(t, url), opts)
			q.Lose = func() { do(t, admin, "FLUSHALL") }
			return q
		})
	}
	run(t, queuetest.Run, redisqueue.Options{})
	t.Run("Keeping", func(t *testing.T) {
		do(t, admin, "ACL", "SETUSER", "few", "+xrevrange", "+xtrim", "+time", "+getrange", "+pttl")
		run(t, queuetest.RunRetainer, redisqueue.Options{Retain: true})
		if _, _, err := open(t, dial(t, url), redisqueue.Options{}).RetainedStats(t.Context(), 0); err != nil {
			t.Error(err)
		}
	})
	t.Run("Info", func(t *testing.T) {
		info, err := open(t, dial(t, url), redisqueue.Options{}).Info(t.Context())
		if err != nil || info.Version == "" || info.Mode != "standalone" || info.Role != "master" || info.EvictionPolicy != "noeviction" {
			t.Errorf("the server is %+v, %v", info, err)
		}
	})
}
