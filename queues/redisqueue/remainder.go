package redisqueue

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush/internal/abandon"
	"github.com/spendflush/spendflush/spend"
)

// Remainder is what lies in all shards of a queue, whoever uses it.
type Remainder struct {
	Batches  int64 // that wait
	Retained int64 // that were acked and are retained
	Shards   []int // that have any of them, ascending
}

// Remainder looks what is in all shards, in one round trip, to each node of a Cluster.
func (q *Queue) Remainder(ctx context.Context) (Remainder, error) {
	replies, err := abandon.Call(ctx, q.calls, func() ([]redis.Cmder, error) {
		return q.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for shard := range spend.MaxShards {
				p.XLen(ctx, q.key(shard, "queue"))
				p.XLen(ctx, q.retainedKey(shard))
			}
			return nil
		})
	})
	if err != nil {
		return Remainder{}, fmt.Errorf("look what is left in the queue: %w", err)
	}
	var left Remainder
	for shard := range spend.MaxShards {
		batches, retained := replies[2*shard].(*redis.IntCmd).Val(), replies[2*shard+1].(*redis.IntCmd).Val()
		left.Batches, left.Retained = left.Batches+batches, left.Retained+retained
		if batches+retained > 0 {
			left.Shards = append(left.Shards, shard)
		}
	}
	return left, nil
}
