package redisqueue

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush/internal/abandon"
	"github.com/spendflush/spendflush/spend"
)

var (
	//go:embed requeue.lua
	requeueLua string
	//go:embed expire.lua
	expireLua string
	//go:embed retained.lua
	retainedLua string

	requeueScript  = newScript(requeueLua)
	expireScript   = newScript(expireLua)
	retainedScript = newScript(retainedLua)
)

// errReply is what a script returns only if another program has changed it.
var errReply = errors.New("the reply of the script makes no sense")

var _ spend.Retainer = (*Queue)(nil)

func (q *Queue) retainedKey(shard int) string { return q.key(shard, "retained") }

func (q *Queue) bookedKey(shard int) string { return q.key(shard, "changes") }

func (q *Queue) aheadKey(shard int) string { return q.key(shard, "ahead") }

// Booked returns the number of changes that was published last, 0 if none is known; see
// spend.Retainer.
func (q *Queue) Booked(ctx context.Context, shard int) (int64, error) {
	text, err := q.text(ctx, q.bookedKey(shard), len("-9223372036854775808"))
	if errors.Is(err, redis.Nil) {
		return 0, nil
	}
	var changes int64
	if err == nil {
		changes, err = strconv.ParseInt(text, 10, 64)
	}
	if err != nil {
		return 0, q.failed("read the number of changes of", shard, err)
	}
	return max(changes, 0), nil
}

// Retained returns the shards that have retained entries or a published number of changes; see
// spend.Retainer. It asks for all of them in one round trip, to each node of a Cluster.
func (q *Queue) Retained(ctx context.Context) (shards []int, err error) {
	replies, err := abandon.Call(ctx, q.calls, func() ([]redis.Cmder, error) {
		return q.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for shard := range spend.MaxShards {
				p.XLen(ctx, q.retainedKey(shard))
				p.Exists(ctx, q.bookedKey(shard))
			}
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("look which shards retain anything: %w", err)
	}
	for shard := range spend.MaxShards {
		entries, booked := replies[2*shard].(*redis.IntCmd).Val(), replies[2*shard+1].(*redis.IntCmd).Val()
		if entries+booked > 0 {
			shards = append(shards, shard)
		}
	}
	return shards, nil
}

// Requeue adds the retained entries of the shard to the end of its queue; see spend.Retainer. Those
// acked while it runs may stay retained. It needs no memory of Redis but what one batch takes, so
// it does its work when there is none left. Many entries take several round trips; each moves its
// share wholly or not at all. What was moved by one whose reply was lost isn't in the number
// returned. The error may wrap ErrIDsExhausted.
func (q *Queue) Requeue(ctx context.Context, shard int) (entries int, err error) {
	entries, err = abandon.Call(ctx, q.calls, func() (int, error) {
		keys := append(q.shardKeys(shard), q.retainedKey(shard), q.bookedKey(shard), q.aheadKey(shard))
		last := ""
		for total := 0; ; {
			reply, err := requeueScript.Run(ctx, q.client, keys, last, retainChunk, scriptBytes).Slice()
			if err != nil {
				return total, err
			}
			if len(reply) != 2 {
				return total, errReply
			}
			moved, _ := reply[0].(int64)
			total += int(moved)
			if last, _ = reply[1].(string); last == "" {
				return total, nil
			}
		}
	})
	if err != nil {
		return entries, q.failed("requeue what is retained of", shard, err)
	}
	return entries, nil
}

// Expire forgets the retained entries of the shard that were acked at least age ago; see
// spend.Retainer. Ages are counted in milliseconds; an age of 0 forgets all.
//
// Entries that were acked while the clock of Redis, or of the instance that acked them, was ahead
// say a time that is still to come. They go once they were retained for the age since Expire first
// saw that.
//
// With Retain the age is published as the window of this instance, and the longest one published
// within ten minutes decides instead of a shorter age. While there is one, Ack retains without
// Retain too.
//
// It is one script, whose time goes with what it forgets (3 ms for 1,000 entries of 16 kB), so it
// is to be called often.
func (q *Queue) Expire(ctx context.Context, shard int, age time.Duration, now time.Time) error {
	ms := age.Milliseconds()
	if age > 0 && age%time.Millisecond > 0 {
		ms++
	}
	_, err := abandon.Call(ctx, q.calls, func() (struct{}, error) {
		publishes := 0
		if q.opts.Retain {
			publishes = 1
		}
		keys := []string{q.retainedKey(shard), q.aheadKey(shard), q.windowKey(shard), q.lastWindowKey(shard)}
		return struct{}{}, expireScript.Run(ctx, q.client, keys, ms, now.UnixMilli(), publishes, windowLives, windowKnown).Err()
	})
	if err != nil {
		return q.failed("forget what is retained of", shard, err)
	}
	return nil
}

// For how many milliseconds a window is that of a living instance, and for how many it is known
// which one they had.
const (
	windowLives = 10 * 60 * 1000
	windowKnown = 7 * 24 * 60 * 60 * 1000

	windowDigits = 12 // 31 years; an age is less
)

func (q *Queue) windowKey(shard int) string { return q.key(shard, "window") }

func (q *Queue) lastWindowKey(shard int) string { return q.key(shard, "lastwindow") }

// Window returns the longest age that instances with Retain have given to Expire lately, 0 if there
// was none for a week: how long a process that acks in place of them should have what it acks
// retained.
func (q *Queue) Window(ctx context.Context) (time.Duration, error) {
	replies, err := abandon.Call(ctx, q.calls, func() ([]redis.Cmder, error) {
		return q.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for shard := range spend.MaxShards {
				p.GetRange(ctx, q.lastWindowKey(shard), 0, windowDigits)
			}
			return nil
		})
	})
	if err != nil {
		return 0, fmt.Errorf("look for how long instances retain: %w", err)
	}
	var longest int64
	for shard, reply := range replies {
		text := reply.(*redis.StringCmd).Val()
		if text == "" {
			continue
		}
		ms, err := strconv.ParseInt(text, 10, 64)
		if err != nil || ms < 0 || len(text) > windowDigits {
			return 0, fmt.Errorf("look for how long instances retain: %s holds %q instead of milliseconds", q.lastWindowKey(shard), text)
		}
		longest = max(longest, ms)
	}
	return time.Duration(longest) * time.Millisecond, nil
}

// RetainedStats returns how many entries of the shard are retained and the memory that they take in
// Redis, about, by the same count as that of Stats. It costs the copying of two batches inside of
// Redis, whatever is retained.
func (q *Queue) RetainedStats(ctx context.Context, shard int) (entries, bytes int64, err error) {
	reply, err := abandon.Call(ctx, q.calls, func() ([]int64, error) {
		return retainedScript.Run(ctx, q.client, []string{q.retainedKey(shard)}).Int64Slice()
	})
	if err == nil && len(reply) != 2 {
		err = errReply
	}
	if err != nil {
		return 0, 0, q.failed("look at what is retained of", shard, err)
	}
	return reply[0], reply[1], nil
}

// Unretained returns how many entries this queue has acked without retaining them, as Retain would
// have it, because Redis was out of memory. A Requeue can't bring them back.
func (q *Queue) Unretained() int64 { return q.unretained.Load() }
