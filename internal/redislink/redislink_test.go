package redislink_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush/internal/redislink"
	"github.com/spendflush/spendflush/queues/redisqueue"
)

func fine(change func(*redis.Options)) redis.UniversalClient {
	o := &redis.Options{Addr: "127.0.0.1:1", ContextTimeoutEnabled: true}
	change(o)
	return redis.NewClient(o)
}

func fineCluster(change func(*redis.ClusterOptions)) redis.UniversalClient {
	o := &redis.ClusterOptions{Addrs: []string{"127.0.0.1:1"}, ContextTimeoutEnabled: true}
	change(o)
	return redis.NewClusterClient(o)
}

func TestEachOptionThatWillNotDoIsRefusedByNameWithWhatIsAllowed(t *testing.T) {
	for _, c := range []struct {
		client redis.UniversalClient
		want   []string // all faults, in order
	}{
		{fine(func(o *redis.Options) { o.ContextTimeoutEnabled = false }), []string{"ContextTimeoutEnabled: false; allowed is true"}},
		{fine(func(o *redis.Options) { o.MaxRetries = 4 }), []string{"MaxRetries: 4; allowed are -1 to 3"}},
		{fine(func(o *redis.Options) { o.ReadTimeout = -1 }), []string{"ReadTimeout: none; allowed are 100ms to 10m", "WriteTimeout: none"}},
		{fine(func(o *redis.Options) { o.ReadTimeout, o.WriteTimeout = -2, time.Second }), []string{"ReadTimeout: none"}},
		{fine(func(o *redis.Options) { o.WriteTimeout = 50 * time.Millisecond }), []string{"WriteTimeout: 50ms; allowed are 100ms to 10m"}},
		{fine(func(o *redis.Options) { o.DialTimeout = time.Hour }), []string{"DialTimeout: 1h0m0s; allowed are 100ms to 10m"}},
		{fine(func(o *redis.Options) { o.PoolSize = 3 }), []string{"PoolSize: 3; allowed are 4 and more"}},
		{fine(func(o *redis.Options) { o.MaxActiveConns = 2 }), []string{"MaxActiveConns: 2; allowed are 0 (no bound), and 4 and more"}},
		{fine(func(o *redis.Options) { o.Protocol = 4 }), []string{"Protocol: 4; allowed are 2 and 3"}},
		{fine(func(o *redis.Options) { o.ClientSideCacheConfig = &redis.CacheConfig{} }), []string{"ClientSideCache"}},
		{fineCluster(func(o *redis.ClusterOptions) { o.ReadOnly = true }), []string{"ReadOnly: true; allowed is false"}},
		{fineCluster(func(o *redis.ClusterOptions) { o.RouteByLatency = true }), []string{"RouteByLatency: true; allowed is false"}},
		{fineCluster(func(o *redis.ClusterOptions) { o.RouteRandomly = true }), []string{"RouteRandomly: true; allowed is false"}},
		{fineCluster(func(o *redis.ClusterOptions) { o.MaxRedirects = -1 }), []string{"MaxRedirects: none; allowed are 1 and more"}},
		{fineCluster(func(o *redis.ClusterOptions) { o.ContextTimeoutEnabled, o.PoolSize, o.ReadOnly = false, 1, true }),
			[]string{"ContextTimeoutEnabled: false", "PoolSize: 1", "ReadOnly: true"}},
		{redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": "127.0.0.1:1"}}), []string{"*redis.Ring; allowed are *redis.Client"}},
		{nil, []string{"it is nil"}},
	} {
		err := redislink.Check(c.client)
		if c.client != nil {
			defer c.client.Close()
		}
		if !errors.Is(err, redislink.ErrClient) {
			t.Errorf("want %q, got %v", c.want, err)
			continue
		}
		lines := strings.Split(err.Error(), "\n")
		if len(lines) != len(c.want) {
			t.Errorf("want %q, got %v", c.want, err)
			continue
		}
		for i, want := range c.want {
			if !strings.Contains(lines[i], want) {
				t.Errorf("want %q, got %q", want, lines[i])
			}
		}
	}
}

// wrapped is a client of a caller that adds to it.
type wrapped struct{ *redis.Client }

func TestUsualClientsAreTaken(t *testing.T) {
	for name, client := range map[string]redis.UniversalClient{
		"by default":         fine(func(*redis.Options) {}),
		"without retries":    fine(func(o *redis.Options) { o.MaxRetries = -1 }),
		"RESP2":              fine(func(o *redis.Options) { o.Protocol = 2 }),
		"wrapped":            wrapped{fine(func(*redis.Options) {}).(*redis.Client)},
		"cluster by default": fineCluster(func(*redis.ClusterOptions) {}),
		"sentinels": redis.NewFailoverClient(&redis.FailoverOptions{
			MasterName: "m", SentinelAddrs: []string{"127.0.0.1:1"}, ContextTimeoutEnabled: true}),
	} {
		if err := redislink.Check(client); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		client.Close()
	}
	for _, url := range []string{"redis://a", "redis://a,b", "redis+sentinel://a/m"} {
		client, err := redisqueue.Dial(url)
		if err != nil {
			t.Fatal(err)
		}
		if err := redislink.Check(client); err != nil {
			t.Errorf("%s: %v", url, err)
		}
		client.Close()
	}
}
