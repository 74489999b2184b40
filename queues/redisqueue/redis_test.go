package redisqueue_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/queues/queuetest"
	"github.com/spendflush/spendflush/queues/redisqueue"
)

// dial returns a client that is closed when the test ends.
func dial(t *testing.T, url string) redis.UniversalClient {
	t.Helper()
	client, err := redisqueue.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// open returns a queue on the client that has no abandoned call left when the test ends.
func open(t *testing.T, client redis.UniversalClient, opts redisqueue.Options) *redisqueue.Queue {
	t.Helper()
	q := testserver.Must(redisqueue.New(client, opts))
	t.Cleanup(func() {
		_ = client.Close()
		q.Wait()
	})
	return q
}

// key returns a key as the documentation of package queues names it.
func key(prefix string, shard int, name string) string {
	return fmt.Sprintf("{%s:%d}:%s", prefix, shard, name)
}

func opened(t *testing.T, client redis.UniversalClient, opts redisqueue.Options) queuetest.Opened {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	return queuetest.Opened{
		Queue: open(t, client, opts),
		Lose: func() {
			if cluster, ok := client.(*redis.ClusterClient); ok {
				must(cluster.ForEachMaster(t.Context(), func(ctx context.Context, node *redis.Client) error {
					return node.FlushDB(ctx).Err()
				}))
				return
			}
			must(client.FlushDB(t.Context()).Err())
		},
		AddForeign: func(shard int) {
			must(client.XAdd(t.Context(), &redis.XAddArgs{
				Stream: key(redisqueue.DefaultPrefix, shard, "queue"), Values: []string{"some", "thing"},
			}).Err())
		},
	}
}

func TestRedisIsAQueue(t *testing.T) {
	queuetest.Run(t, func(t *testing.T, maxBytes int64) queuetest.Opened {
		return opened(t, dial(t, testserver.Redis(t)), redisqueue.Options{MaxBytes: maxBytes})
	})
}

func TestRedisIsARetainer(t *testing.T) {
	queuetest.RunRetainer(t, func(t *testing.T, maxBytes int64) queuetest.Opened {
		return opened(t, dial(t, testserver.Redis(t)), redisqueue.Options{MaxBytes: maxBytes, Retain: true})
	})
}
