package redisqueue_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/queues/queuetest"
	"github.com/spendflush/spendflush/queues/redisqueue"
)

// callersClient returns a client as a caller makes it, with go-redis's defaults.
func callersClient(t *testing.T, change func(*redis.Options)) *redis.Client {
	t.Helper()
	o, err := redis.ParseURL(testserver.Redis(t))
	if err != nil {
		t.Fatal(err)
	}
	o.ContextTimeoutEnabled = true
	change(o)
	client := redis.NewClient(o)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func TestAClientOfTheCallersCarriesAQueue(t *testing.T) {
	for name, change := range map[string]func(*redis.Options){
		"by default":             func(*redis.Options) {},
		"RESP2, without retries": func(o *redis.Options) { o.Protocol, o.MaxRetries, o.PoolSize = 2, -1, 4 },
	} {
		t.Run(name, func(t *testing.T) {
			queuetest.RunRetainer(t, func(t *testing.T, maxBytes int64) queuetest.Opened {
				return opened(t, callersClient(t, change), redisqueue.Options{MaxBytes: maxBytes, Retain: true})
			})
			q := open(t, callersClient(t, change), redisqueue.Options{})
			if info, err := q.Info(t.Context()); err != nil || info.Version == "" {
				t.Errorf("Info: %+v, %v", info, err)
			}
		})
	}
}

func TestAClientThatDoesNotObeyContextsCarriesNeitherAQueueNorHeartbeats(t *testing.T) {
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	defer client.Close()
	_, queueErr := redisqueue.New(client, redisqueue.Options{})
	_, heartbeatsErr := redisqueue.NewHeartbeats(client, redisqueue.HeartbeatOptions{})
	for _, err := range []error{queueErr, heartbeatsErr} {
		if !errors.Is(err, redisqueue.ErrClient) || !strings.Contains(err.Error(), "ContextTimeoutEnabled: false; allowed is true") {
			t.Errorf("the error is %v", err)
		}
	}
}
