package queues

import (
	"context"
	_ "embed"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/internal/abandon"
)

const (
	// keepChunk is how many entries one script keeps or moves back, and keepBytes how many bytes of batches it copies
	// before it stops; the last batch may go beyond. Deleting costs about the same whatever an entry holds, so
	// settleChunk bounds it well. Copying a batch costs by its size, some 4 ms a MiB, and that is also about what a
	// hundred small ones take (BenchmarkKeep).
	keepChunk = 100
	keepBytes = 1 << 20
)

var (
	//go:embed keep.lua
	keepLua string
	//go:embed requeue.lua
	requeueLua string
	//go:embed expire.lua
	expireLua string
	//go:embed kept.lua
	keptLua string

	keepScript    = redis.NewScript(entryLua + keepLua)
	requeueScript = redis.NewScript(entryLua + requeueLua)
	expireScript  = redis.NewScript(expireLua)
	keptScript    = redis.NewScript(entryLua + keptLua)
)

// errReply is what a script returns only if somebody has been at it.
var errReply = errors.New("the reply of the script makes no sense")

var _ spendflush.Keeper = (*Redis)(nil)

func (q *Redis) keptKey(shard int) string { return q.key(shard, "kept") }

// settleKeeping settles what is in the lists and keeps the entries.
func (q *Redis) settleKeeping(ctx context.Context, shard int, lists settleLists) error {
	for len(lists.ids)+len(lists.keys) > 0 {
		ids, marks := min(len(lists.ids), keepChunk), min(len(lists.keys), settleChunk)
		keys := append(q.shardKeys(shard), q.keptKey(shard))
		keys = append(keys, lists.keys[:marks]...)
		args := []any{markSeconds, keepBytes, ids}
		args = lists.appendTo(args, ids, marks)
		reply, err := keepScript.Run(ctx, q.client, keys, args...).Int64Slice()
		if err != nil {
			return err
		}
		if len(reply) != 2 || reply[0] > int64(ids) || (reply[0] < 1 && ids > 0) {
			return errReply
		}
		q.unkept.Add(reply[1])
		lists.drop(int(reply[0]), marks)
	}
	return nil
}

// Requeue adds the kept entries of the shard to the end of its queue; see spendflush.Keeper. Those settled while it runs
// may stay kept. It needs no memory of Redis but what one batch takes, so it does its work when there is none left. Many
// entries take several round trips; each moves its share wholly or not at all. What was moved by one whose reply was lost
// isn't in the number returned.
func (q *Redis) Requeue(ctx context.Context, shard int) (entries int, err error) {
	entries, err = abandon.Call(ctx, &q.calls, func() (int, error) {
		keys := append(q.shardKeys(shard), q.keptKey(shard), q.markKey(shard, spendflush.ProducerID{}))
		last := ""
		for total := 0; ; {
			reply, err := requeueScript.Run(ctx, q.client, keys, last, keepChunk, keepBytes).Slice()
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
		return entries, failed("requeue what is kept of", shard, err)
	}
	return entries, nil
}

// Expire forgets the kept entries of the shard that were settled at least age ago; see spendflush.Keeper. The clock is
// that of Redis, in milliseconds; an age of 0 forgets all. It is one script, whose time goes
// with what it forgets (3 ms for 1,000 entries of 16 kB), so it is to be called often.
func (q *Redis) Expire(ctx context.Context, shard int, age time.Duration) error {
	ms := age.Milliseconds()
	if age > 0 && age%time.Millisecond > 0 {
		ms++
	}
	_, err := abandon.Call(ctx, &q.calls, func() (struct{}, error) {
		return struct{}{}, expireScript.Run(ctx, q.client, []string{q.keptKey(shard)}, ms).Err()
	})
	if err != nil {
		return failed("forget what is kept of", shard, err)
	}
	return nil
}

// Kept returns how many entries of the shard are kept and the memory that they take in Redis, about, by the same count as
// that of Stats. It costs the copying of two batches inside of Redis, whatever is kept.
func (q *Redis) Kept(ctx context.Context, shard int) (entries, bytes int64, err error) {
	reply, err := abandon.Call(ctx, &q.calls, func() ([]int64, error) {
		return keptScript.Run(ctx, q.client, []string{q.keptKey(shard)}).Int64Slice()
	})
	if err == nil && len(reply) != 2 {
		err = errReply
	}
	if err != nil {
		return 0, 0, failed("look at what is kept of", shard, err)
	}
	return reply[0], reply[1], nil
}

// Unkept returns how many entries this queue has settled without keeping them, as KeepSettled would have it, because
// Redis was out of memory. A Requeue can't bring them back.
func (q *Redis) Unkept() int64 { return q.unkept.Load() }
