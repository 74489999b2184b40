package redisqueue

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush/internal/abandon"
	"github.com/spendflush/spendflush/internal/rediserr"
	"github.com/spendflush/spendflush/internal/redislink"
	"github.com/spendflush/spendflush/spend"
)

// DefaultPrefix is the beginning of all keys unless another is given.
const DefaultPrefix = "spendflush"

const (
	// markSeconds is how long a mark is kept after it was last published.
	markSeconds = 24 * 60 * 60
)

var (
	//go:embed entry.lua
	entryLua string
	//go:embed push.lua
	pushLua string
	//go:embed present.lua
	presentLua string
	//go:embed stats.lua
	statsLua string
	//go:embed text.lua
	textLua string

	pushScript    = newScript(pushLua)
	presentScript = newScript(presentLua)
	statsScript   = redis.NewScript(statsLua)
	textScript    = redis.NewScript(textLua)
)

// newScript returns a script that has the functions of entry.lua.
func newScript(lua string) *redis.Script {
	return redis.NewScript(fmt.Sprintf("local LARGEST = %d\n", MaxBatchBytes) + entryLua + lua)
}

// Options say how a queue lies in Redis.
type Options struct {
	// Prefix is the beginning of all keys; "" stands for DefaultPrefix. It must not hold braces.
	// Queues of different prefixes have nothing to do with each other. The queues that ForBooks
	// returns add the id of the books to it.
	Prefix string

	// MaxBytes bounds the memory that each shard's queue takes in Redis, about; 0 is no bound. An
	// empty queue takes a batch of any size, so that none is stuck for ever.
	MaxBytes int64

	// Retain makes Ack retain what it takes out, until Requeue or Expire; else it is deleted. Redis
	// then needs room for all that is acked within the age given to Expire; RetainedStats says how
	// much it is. MaxBytes doesn't count it. A Redis out of memory retains nothing more (see
	// Unretained): Ack works on and makes room. It refuses pushes until there is some, so call
	// Expire with less age if that lasts.
	//
	// All instances should agree. Where they don't, what is acked is retained as long as one of
	// them calls Expire, for the longest age. Requeue and Expire do their work on what is retained,
	// whoever retained it, so Expire is still to be called after this was switched off.
	Retain bool
}

// Queue is a queue of Redis streams, one a shard. It needs Redis 6.2 or later, or Valkey; Cluster
// and services without the CONFIG command will do.
//
// All methods return as soon as ctx ends, with its error, even from a server that hangs. What was
// sent to it may then still be carried out. go-redis sends a command again whose reply was lost: a
// batch may be added twice by one Push that returns no error.
type Queue struct {
	client redis.UniversalClient
	root   string // the prefix of the options
	opts   Options
	calls  *abandon.Calls

	unretained *atomic.Int64
	now        func() time.Time
}

// ErrClient is wrapped by the errors of New and NewHeartbeats.
var ErrClient = redislink.ErrClient

// New returns a queue on the client, which stays the caller's, who may use it for anything else. It
// doesn't talk to Redis. The error wraps ErrClient and names each option of the client that won't
// do, with what is allowed:
//
//	                                      allowed             Dial sets
//	ContextTimeoutEnabled                 true                true
//	MaxRetries                            -1 to 3             1
//	DialTimeout                           100ms to 10m        3s
//	ReadTimeout, WriteTimeout             100ms to 10m        10s, 30s
//	PoolSize (MaxActiveConns, if set)     4 and more          10
//	Protocol                              2, 3                3
//	ClientSideCache, ClientSideCacheConfig nil                nil
//	ReadOnly, RouteByLatency, RouteRandomly (cluster) false   false
//	MaxRedirects (cluster)                1 and more          3
//
// The client is a *redis.Client, a *redis.ClusterClient, or what embeds one. A client that Dial
// made learns of another master within about a second, others as soon as go-redis does, up to a
// minute later.
func New(client redis.UniversalClient, opts Options) (*Queue, error) {
	if err := redislink.Check(client); err != nil {
		return nil, fmt.Errorf("queue on Redis: %w", err)
	}
	if opts.Prefix == "" {
		opts.Prefix = DefaultPrefix
	}
	return &Queue{
		client: client, root: opts.Prefix, opts: opts, now: time.Now, calls: new(abandon.Calls), unretained: new(atomic.Int64),
	}, nil
}

// Wait blocks until the calls have ended that were given up when their context ended. Close the
// client first, for that ends them. It must not be called while other methods are.
func (q *Queue) Wait() { q.calls.Wait() }

// shardKeys returns the keys that every script begins with.
func (q *Queue) shardKeys(shard int) []string {
	return []string{q.key(shard, "queue"), q.key(shard, "index"), q.key(shard, "bytes")}
}

func (q *Queue) markKey(shard int, producer spend.ProducerID) string {
	return q.key(shard, "mark:"+producer.String())
}

func (q *Queue) key(shard int, name string) string {
	return "{" + q.opts.Prefix + ":" + strconv.Itoa(shard) + "}:" + name
}

// ErrIDsExhausted is wrapped by the errors of Push and Requeue where the stream of a shard has
// given its last id, for example because an entry was added by hand, and isn't empty. Nothing was
// added. Once the stream is empty they work again.
var ErrIDsExhausted = errors.New("the ids of the stream are exhausted")

// failed says what failed. What a Redis without memory refuses was definitely not done.
func (q *Queue) failed(operation string, shard int, err error) error {
	switch {
	case redis.IsOOMError(err):
		return fmt.Errorf("%s shard %d: %w: Redis is out of memory", operation, shard, spend.ErrQueueFull)
	case redis.HasErrorPrefix(err, "EXHAUSTED"):
		return fmt.Errorf("%s shard %d: %w: it works again once %s is empty: run \"spendflush flush\"; only if that leaves "+
			"entries that you can do without, DEL %[4]s", operation, shard, ErrIDsExhausted, q.key(shard, "queue"))
	case rediserr.Denied(err), errors.Is(err, ErrSentinel):
		return fmt.Errorf("%s shard %d: %w: %w", operation, shard, spend.ErrDenied, err)
	default:
		return fmt.Errorf("%s shard %d: %w", operation, shard, err)
	}
}

// MaxBatchBytes is how large a batch may be. Those that the engine seals have less than 40 MiB.
const MaxBatchBytes = 64 << 20

// Push adds the batch to the end of the queue of its shard; see spend.Queue. ErrQueueFull is also
// the error of a Redis that is out of memory. Other errors are ErrIDsExhausted and that of a batch
// of more than MaxBatchBytes.
func (q *Queue) Push(ctx context.Context, b *spend.Batch, previous spend.EntryID) (spend.EntryID, error) {
	if n := len(b.Bytes()); n > MaxBatchBytes {
		return "", fmt.Errorf("push to shard %d: the batch has %d bytes; allowed are %d", b.Shard, n, MaxBatchBytes)
	}
	producer, sequence := b.Producer.String(), strconv.FormatUint(b.Sequence, 10)
	identity := fmt.Sprintf("%s/%s/%08x", producer, sequence, b.Checksum())
	id, err := abandon.Call(ctx, q.calls, func() (string, error) {
		keys := q.shardKeys(b.Shard)
		if place, ok := parseID(previous); ok {
			// Asked before, so that a batch that is still there isn't sent again.
			present, err := presentScript.Run(ctx, q.client, keys[:1], place.id, identity).Bool()
			if err != nil || present {
				return place.id, err
			}
		}
		return pushScript.Run(ctx, q.client, keys, q.opts.MaxBytes, producer, sequence, b.Bytes()).Text()
	})
	if err != nil {
		return "", q.failed("push to", b.Shard, err)
	}
	if id == "" {
		return "", fmt.Errorf("push to shard %d: %w: it holds %d bytes at most", b.Shard, spend.ErrQueueFull, q.opts.MaxBytes)
	}
	return entryID(id, identity), nil
}

// Mark returns the last published mark of the producer, the zero Mark if none is known; see
// spend.Queue. The error wraps spend.ErrMarkText if another program has changed it.
func (q *Queue) Mark(ctx context.Context, shard int, producer spend.ProducerID) (spend.Mark, error) {
	text, err := q.text(ctx, q.markKey(shard, producer), spend.MaxMarkText)
	var mark spend.Mark
	switch {
	case errors.Is(err, redis.Nil):
		return mark, nil
	case redis.HasErrorPrefix(err, "TOOLONG"):
		err = fmt.Errorf("%w: %w", spend.ErrMarkText, err)
	case err == nil:
		err = mark.UnmarshalText([]byte(text))
	}
	if err != nil {
		return spend.Mark{}, q.failed("read a mark of", shard, err)
	}
	return mark, nil
}

// text returns what the key holds. The error is redis.Nil if that is nothing, and TOOLONG if it has
// more bytes than allowed, which then stay in Redis.
func (q *Queue) text(ctx context.Context, key string, most int) (string, error) {
	return abandon.Call(ctx, q.calls, func() (string, error) {
		return textScript.Run(ctx, q.client, []string{key}, most).Text()
	})
}

// Stats looks at the shard without changing it; see spend.Queue. It costs the same whatever waits.
func (q *Queue) Stats(ctx context.Context, shard int) (spend.QueueStats, error) {
	reply, err := abandon.Call(ctx, q.calls, func() ([]any, error) {
		return statsScript.Run(ctx, q.client, q.shardKeys(shard)).Slice()
	})
	if err != nil {
		return spend.QueueStats{}, q.failed("look at", shard, err)
	}
	var stats spend.QueueStats
	if len(reply) == 3 {
		stats.Batches, _ = reply[0].(int64)
		stats.Bytes, _ = reply[1].(int64)
		first, _ := reply[2].(string)
		if place, ok := parseID(spend.EntryID(first)); ok {
			stats.Oldest = place.added
		}
	}
	return stats, nil
}
