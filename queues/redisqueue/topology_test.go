package redisqueue_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/queues/redisqueue"
)

// topologyPatience is less than go-redis by itself needs to hear of a new master.
const topologyPatience = 30 * time.Second

// works waits until a write to the key succeeds. Each try may take much longer than it takes to
// learn of a new master.
func works(t *testing.T, client redis.UniversalClient, key string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), topologyPatience)
	defer cancel()
	for {
		err := client.Incr(ctx, key).Err()
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("%s can't be written: %v", key, err)
		}
	}
}

// A call under way to a master that hangs would otherwise last until its deadline, and the next one
// go there, too.
func TestACallToAFrozenMasterGoesOnAtTheNewOne(t *testing.T) {
	t.Parallel()
	t.Run("Cluster", func(t *testing.T) {
		t.Parallel()
		c := testserver.NewRedisCluster(t)
		client := dial(t, c.URL("read_timeout=10m"))
		const key = "{spendflush:0}"
		works(t, client, key)
		frozen := c.MasterOf(key)
		if err := c.Servers[frozen].Pause(); err != nil {
			t.Fatal(err)
		}
		works(t, client, key)

		// Woken up, it is a replica soon, and its connections are of no use.
		if err := c.Servers[frozen].Resume(); err != nil {
			t.Fatal(err)
		}
		c.AwaitHealthy(t.Context())
		works(t, client, key)
		if n, err := client.Get(t.Context(), key).Int(); n < 3 || err != nil {
			t.Errorf("%d of 3 writes are there, %v", n, err)
		}
	})
	t.Run("Sentinels", func(t *testing.T) {
		t.Parallel()
		s := testserver.NewRedisSentinels(t)
		client := dial(t, s.URL("read_timeout=10m"))
		works(t, client, "key")
		// One that hangs must not stand in the way of the others.
		if err := s.Sentinels[0].Pause(); err != nil {
			t.Fatal(err)
		}
		if err := s.Servers[0].Pause(); err != nil {
			t.Fatal(err)
		}
		works(t, client, "key")
		s.AwaitMaster(t.Context(), 1)
		for _, frozen := range []interface{ Resume() error }{s.Sentinels[0], s.Servers[0]} {
			if err := frozen.Resume(); err != nil {
				t.Fatal(err)
			}
		}
		works(t, client, "key")
	})
}

// The first call of a client would otherwise wait for a node picked at random, which may hang while
// the key's own answers.
func TestNoNodeIsAskedWhatCommandsThereAre(t *testing.T) {
	t.Parallel()
	c := testserver.NewRedisCluster(t)
	client := dial(t, c.URL())
	for shard := range 4 {
		works(t, client, fmt.Sprintf("{spendflush:%d}", shard))
	}
	for n := range c.Servers {
		stats, err := c.Client(n).InfoMap(t.Context(), "commandstats").Result()
		if err != nil {
			t.Fatal(err)
		}
		if len(stats["Commandstats"]) == 0 {
			t.Fatalf("node %d tells of no commands: %v", n, stats)
		}
		for command, calls := range stats["Commandstats"] {
			if command == "cmdstat_command" || strings.HasPrefix(command, "cmdstat_command|") {
				t.Errorf("node %d was asked: %s %s", n, command, calls)
			}
		}
	}
}

func TestACommandIsRepeatedAtTheMasterThatTookOver(t *testing.T) {
	t.Parallel()
	t.Run("Cluster", func(t *testing.T) {
		t.Parallel()
		c := testserver.NewRedisCluster(t)
		client := dial(t, c.URL())
		const key = "{spendflush:0}"
		works(t, client, key)
		if err := c.Servers[c.MasterOf(key)].Kill(); err != nil {
			t.Fatal(err)
		}
		works(t, client, key)
	})
	t.Run("Sentinels", func(t *testing.T) {
		t.Parallel()
		s := testserver.NewRedisSentinels(t)
		client := dial(t, s.URL())
		works(t, client, "key")
		if err := s.Servers[0].Kill(); err != nil {
			t.Fatal(err)
		}
		works(t, client, "key")
	})
	t.Run("SentinelsWithTheOldMasterAlive", func(t *testing.T) {
		t.Parallel()
		s := testserver.NewRedisSentinels(t)
		client := dial(t, s.URL())
		works(t, client, "key")
		s.Failover(t.Context())
		s.AwaitMaster(t.Context(), 1)
		works(t, client, "key")
	})
}

func TestASentinelIsNotTakenForARedis(t *testing.T) {
	t.Parallel()
	s := testserver.NewRedisSentinels(t)
	password := s.Sentinels[0].Password()
	for _, url := range []string{
		fmt.Sprintf("redis://:%s@127.0.0.1:%d", password, s.Sentinels[0].Port()),
		fmt.Sprintf("redis://:%s@127.0.0.1:%d,127.0.0.1:%d", password, s.Sentinels[0].Port(), s.Sentinels[1].Port()),
	} {
		err := dial(t, url).Ping(t.Context()).Err()
		if !errors.Is(err, redisqueue.ErrSentinel) || !strings.Contains(err.Error(), "master_name") {
			t.Errorf("the error is %v, want one that says how to name the master", err)
		}
	}
	err := dial(t, strings.Replace(s.URL(), "/"+testserver.MasterName+"?", "/other?", 1)).Ping(t.Context()).Err()
	if err == nil || !strings.Contains(err.Error(), "no master of that name") || !strings.Contains(err.Error(), "other") {
		t.Errorf("a master that the sentinels don't know: %v", err)
	}
}
