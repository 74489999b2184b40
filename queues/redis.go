package queues

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/internal/abandon"
	"github.com/spendflush/spendflush/internal/rediserr"
)

// DefaultPrefix is the beginning of all keys unless another is given.
const DefaultPrefix = "spendflush"

const (
	// markSeconds is how long a mark is kept after it was last published.
	markSeconds = 24 * 60 * 60
	// settleChunk is how many ids or marks one script gets. Redis serves nobody else while it runs, and Lua's unpack
	// takes some thousands at most.
	settleChunk = 500
)

var (
	//go:embed entry.lua
	entryLua string
	//go:embed push.lua
	pushLua string
	//go:embed present.lua
	presentLua string
	//go:embed settle.lua
	settleLua string
	//go:embed stats.lua
	statsLua string

	pushScript    = redis.NewScript(entryLua + pushLua)
	presentScript = redis.NewScript(presentLua)
	settleScript  = redis.NewScript(settleLua)
	statsScript   = redis.NewScript(statsLua)
)

// RedisOptions say how a queue lies in Redis.
type RedisOptions struct {
	// Prefix is the beginning of all keys; "" stands for DefaultPrefix. It must not hold braces. Queues of different
	// prefixes have nothing to do with each other.
	Prefix string

	// MaxBytes bounds the memory that each shard's queue takes in Redis, about; 0 is no bound. An empty queue takes a
	// batch of any size, so that none is stuck for ever.
	MaxBytes int64

	// KeepSettled makes Settle keep what it takes out, until Requeue or Expire; else it is deleted. Redis then needs room
	// for all that is settled within the age given to Expire; Kept says how much it is. MaxBytes doesn't count it. A
	// Redis out of memory keeps nothing more (see Unkept): settling works on and makes room. It refuses pushes until there
	// is some, so call Expire with less age if that lasts.
	//
	// All instances should agree, but nothing goes wrong if they don't. Requeue and Expire do their work on what is kept,
	// whoever kept it, so Expire is still to be called after keeping was switched off.
	KeepSettled bool
}

// Redis is a queue of Redis streams, one a shard. It needs Redis 6.2 or later, or Valkey; Cluster and services without
// the CONFIG command will do.
//
// All methods return as soon as ctx ends, with its error, even from a server that hangs. What was sent to it may then
// still be carried out. go-redis sends a command again whose reply was lost: a batch may be added twice by one Push
// that returns no error.
type Redis struct {
	client redis.UniversalClient
	opts   RedisOptions
	calls  abandon.Calls
	unkept atomic.Int64
}

// NewRedis returns a queue on the client, which stays the caller's and should be one that Dial made: go-redis obeys the
// deadline of a context only if told so. It doesn't talk to Redis.
func NewRedis(client redis.UniversalClient, opts RedisOptions) *Redis {
	if opts.Prefix == "" {
		opts.Prefix = DefaultPrefix
	}
	return &Redis{client: client, opts: opts}
}

// Wait blocks until the calls have ended that were given up when their context ended. Close the client first, for that
// ends them. It must not be called while other methods are.
func (q *Redis) Wait() { q.calls.Wait() }

// shardKeys returns the keys that every script begins with.
func (q *Redis) shardKeys(shard int) []string {
	return []string{q.key(shard, "queue"), q.key(shard, "index"), q.key(shard, "bytes")}
}

func (q *Redis) markKey(shard int, producer spendflush.ProducerID) string {
	return q.key(shard, "mark:"+producer.String())
}

func (q *Redis) key(shard int, name string) string {
	return "{" + q.opts.Prefix + ":" + strconv.Itoa(shard) + "}:" + name
}

// failed says what failed. What a Redis without memory refuses was definitely not done.
func failed(operation string, shard int, err error) error {
	if redis.IsOOMError(err) {
		return fmt.Errorf("%s shard %d: %w: Redis is out of memory", operation, shard, spendflush.ErrQueueFull)
	}
	if rediserr.Denied(err) || errors.Is(err, ErrSentinel) {
		err = fmt.Errorf("%w: %w", spendflush.ErrDenied, err)
	}
	return fmt.Errorf("%s shard %d: %w", operation, shard, err)
}

// Push adds the batch to the end of the queue of its shard; see spendflush.Queue. ErrQueueFull is also the error of a
// Redis that is out of memory.
func (q *Redis) Push(ctx context.Context, b *spendflush.Batch, previous spendflush.EntryID) (spendflush.EntryID, error) {
	id, err := abandon.Call(ctx, &q.calls, func() (string, error) {
		keys := q.shardKeys(b.Shard)
		producer, sequence := b.Producer.String(), strconv.FormatUint(b.Sequence, 10)
		if _, ok := parseID(previous); ok {
			// Asked before, so that a batch that is still there isn't sent again.
			present, err := presentScript.Run(ctx, q.client, keys[:1], string(previous), producer, sequence).Bool()
			if err != nil || present {
				return string(previous), err
			}
		}
		return pushScript.Run(ctx, q.client, keys, q.opts.MaxBytes, producer, sequence, b.Bytes()).Text()
	})
	if err != nil {
		return "", failed("push to", b.Shard, err)
	}
	if id == "" {
		return "", fmt.Errorf("push to shard %d: %w: it holds %d bytes at most", b.Shard, spendflush.ErrQueueFull, q.opts.MaxBytes)
	}
	return spendflush.EntryID(id), nil
}

// Read returns entries of the shard in order, from the first one after the given id; see spendflush.Queue. It loads no
// more than maxBytes, or one entry, even if the queue is far larger.
func (q *Redis) Read(
	ctx context.Context, shard int, after spendflush.EntryID, maxEntries, maxBytes int,
) ([]spendflush.Entry, error) {
	entries, err := abandon.Call(ctx, &q.calls, func() ([]spendflush.Entry, error) {
		from := "-"
		if after != "" {
			from = "(" + string(after)
		}
		count, err := q.fitting(ctx, shard, from, int64(max(maxEntries, 1)), int64(maxBytes))
		if err != nil {
			return nil, err
		}
		messages, err := q.client.XRangeN(ctx, q.key(shard, "queue"), from, "+", count).Result()
		if err != nil {
			return nil, err
		}
		return entriesOf(messages, maxBytes), nil
	})
	if err != nil {
		return nil, failed("read", shard, err)
	}
	return entries, nil
}

// fitting returns how many entries from the given place fit into maxBytes, by the index, at least 1.
func (q *Redis) fitting(ctx context.Context, shard int, from string, maxEntries, maxBytes int64) (int64, error) {
	if maxEntries == 1 {
		return 1, nil
	}
	index, err := q.client.XRangeN(ctx, q.key(shard, "index"), from, "+", maxEntries).Result()
	if err != nil {
		return 0, err
	}
	var count, bytes int64
	for _, message := range index {
		text, _ := message.Values["n"].(string)
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			break // not written by us
		}
		bytes += n
		if bytes > maxBytes {
			break
		}
		count++
	}
	return max(count, 1), nil
}

// entriesOf returns the first entries, as many as fit into maxBytes, at least one.
func entriesOf(messages []redis.XMessage, maxBytes int) []spendflush.Entry {
	entries := make([]spendflush.Entry, 0, len(messages))
	bytes := 0
	for _, message := range messages {
		entry := spendflush.Entry{ID: spendflush.EntryID(message.ID)}
		if text, ok := message.Values["b"].(string); ok {
			entry.Bytes = []byte(text)
		}
		bytes += len(entry.Bytes)
		if bytes > maxBytes && len(entries) > 0 {
			break
		}
		entries = append(entries, entry)
	}
	return entries
}

// Settle takes exactly these entries out of the shard and publishes marks; see spendflush.Queue. Long lists take
// several round trips; the marks go with the first one. A mark is forgotten a day after it was published. With
// KeepSettled, taking an entry out and keeping it is one step, and entries that hold no batch are deleted all the same.
func (q *Redis) Settle(
	ctx context.Context, shard int, ids []spendflush.EntryID, marks map[spendflush.ProducerID]uint64,
) error {
	// The lists are copied, because the caller may change them after a call that was given up.
	lists := settleLists{}
	for _, id := range ids {
		lists.ids = append(lists.ids, string(id))
	}
	for producer, mark := range marks {
		lists.keys = append(lists.keys, q.markKey(shard, producer))
		lists.marks = append(lists.marks, mark)
	}
	_, err := abandon.Call(ctx, &q.calls, func() (struct{}, error) {
		if q.opts.KeepSettled {
			return struct{}{}, q.settleKeeping(ctx, shard, lists)
		}
		for len(lists.ids)+len(lists.keys) > 0 {
			keys, args := lists.next(q.shardKeys(shard))
			if err := settleScript.Run(ctx, q.client, keys, args...).Err(); err != nil {
				return struct{}{}, err
			}
		}
		return struct{}{}, nil
	})
	if err != nil {
		return failed("settle", shard, err)
	}
	return nil
}

// settleLists is what is still to be settled.
type settleLists struct {
	ids   []string
	keys  []string // of the marks
	marks []uint64
}

// next takes off as much as one script gets.
func (l *settleLists) next(shardKeys []string) (keys []string, args []any) {
	ids, marks := min(len(l.ids), settleChunk), min(len(l.keys), settleChunk)
	keys = append(shardKeys, l.keys[:marks]...)
	args = l.appendTo([]any{markSeconds, ids}, ids, marks)
	l.drop(ids, marks)
	return keys, args
}

// appendTo appends the first ids and the first marks to the arguments of a script.
func (l *settleLists) appendTo(args []any, ids, marks int) []any {
	for _, id := range l.ids[:ids] {
		args = append(args, id)
	}
	for _, mark := range l.marks[:marks] {
		args = append(args, mark)
	}
	return args
}

// drop takes off the first ids and the first marks.
func (l *settleLists) drop(ids, marks int) {
	l.ids, l.keys, l.marks = l.ids[ids:], l.keys[marks:], l.marks[marks:]
}

// Mark returns the last published mark of the producer, 0 if none is known; see spendflush.Queue.
func (q *Redis) Mark(ctx context.Context, shard int, producer spendflush.ProducerID) (uint64, error) {
	mark, err := abandon.Call(ctx, &q.calls, func() (uint64, error) {
		return q.client.Get(ctx, q.markKey(shard, producer)).Uint64()
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return 0, failed("read a mark of", shard, err)
	}
	return mark, nil
}

// Stats looks at the shard without changing it; see spendflush.Queue. It costs the same whatever waits.
func (q *Redis) Stats(ctx context.Context, shard int) (spendflush.QueueStats, error) {
	reply, err := abandon.Call(ctx, &q.calls, func() ([]any, error) {
		return statsScript.Run(ctx, q.client, q.shardKeys(shard)).Slice()
	})
	if err != nil {
		return spendflush.QueueStats{}, failed("look at", shard, err)
	}
	var stats spendflush.QueueStats
	if len(reply) == 3 {
		stats.Batches, _ = reply[0].(int64)
		stats.Bytes, _ = reply[1].(int64)
		first, _ := reply[2].(string)
		stats.Oldest, _ = parseID(spendflush.EntryID(first))
	}
	return stats, nil
}

// parseID returns when the entry was added, by the clock of Redis, and whether it is the id of an entry of a stream.
func parseID(id spendflush.EntryID) (time.Time, bool) {
	before, after, found := strings.Cut(string(id), "-")
	if !found {
		return time.Time{}, false
	}
	ms, err := strconv.ParseUint(before, 10, 63)
	if err != nil {
		return time.Time{}, false
	}
	if _, err := strconv.ParseUint(after, 10, 64); err != nil {
		return time.Time{}, false
	}
	return time.UnixMilli(int64(ms)), true
}
