package redisqueue

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush/internal/abandon"
	"github.com/spendflush/spendflush/internal/redislink"
	"github.com/spendflush/spendflush/spend"
)

// Bounds of heartbeats.
const (
	MaxHeartbeatBytes  = 32 << 10 // of one record
	maxHeartbeatID     = 256      // bytes of an id
	maxHeartbeatsBytes = 8 << 20  // bytes of all that is listed; beyond it the oldest are left out
	maxHeartbeats      = 1000     // records; beyond it the oldest are evicted

	// DefaultHeartbeatTTL is how long a record is kept that isn't written again.
	DefaultHeartbeatTTL = 10 * time.Minute
)

// ErrHeartbeatRecord is wrapped by Heartbeats.Put where a record or its id is too large.
var ErrHeartbeatRecord = errors.New("bad heartbeat")

var (
	//go:embed heartbeats_put.lua
	heartbeatsPutLua string
	//go:embed heartbeats_list.lua
	heartbeatsListLua string

	heartbeatsPutScript  = redis.NewScript(heartbeatsPutLua)
	heartbeatsListScript = redis.NewScript(heartbeatsListLua)
)

// HeartbeatOptions say how heartbeats lie in Redis.
type HeartbeatOptions struct {
	// Prefix is the beginning of all keys; "" stands for DefaultPrefix. It must not hold braces.
	Prefix string

	// TTL is how long a record is kept that isn't written again, in whole milliseconds; 0 stands
	// for DefaultHeartbeatTTL.
	TTL time.Duration
}

// Heartbeats is a list of processes in Redis, each with a record that it writes again and again. It
// is for people to look at: records may be missing, old or untrue, and nothing that counts may
// depend on it. It needs Redis 6.2 or later or Valkey, a Cluster too. It is safe for concurrent
// use.
type Heartbeats struct {
	client redis.UniversalClient
	root   string // the prefix of the options
	keys   []string
	ttl    time.Duration
	calls  *abandon.Calls
}

// Heartbeat is the record of one process.
type Heartbeat struct {
	ID     string
	Age    time.Duration // since it was written, by the clock of Redis
	Record []byte
}

// NewHeartbeats returns heartbeats on the client, which stays the caller's. It doesn't talk to
// Redis. The error wraps ErrClient, where the client is one that New refuses, too.
func NewHeartbeats(client redis.UniversalClient, o HeartbeatOptions) (*Heartbeats, error) {
	if err := redislink.Check(client); err != nil {
		return nil, fmt.Errorf("heartbeats on Redis: %w", err)
	}
	if o.Prefix == "" {
		o.Prefix = DefaultPrefix
	}
	if o.TTL == 0 {
		o.TTL = DefaultHeartbeatTTL
	}
	return &Heartbeats{client: client, root: o.Prefix, keys: heartbeatKeys(o.Prefix), ttl: o.TTL, calls: new(abandon.Calls)}, nil
}

func heartbeatKeys(prefix string) []string {
	tag := "{" + prefix + ":heartbeats}:"
	return []string{tag + "records", tag + "seen"}
}

// ForBooks returns the heartbeats of the instances of these books. It shares the client and what
// Wait knows.
func (r *Heartbeats) ForBooks(id spend.BooksID) *Heartbeats {
	other := *r
	other.keys = heartbeatKeys(prefixOf(r.root, id))
	return &other
}

// Wait blocks until the calls have ended that were given up when their context ended. Close the
// client first. It must not be called while other methods are.
func (r *Heartbeats) Wait() { r.calls.Wait() }

// Put writes the record of the process with this id, in place of its last one. The error wraps
// ErrHeartbeatRecord if it has more than MaxHeartbeatBytes, or its id more than 256 bytes. It
// returns the time by the clock of Redis. Like all methods it returns as soon as ctx ends.
func (r *Heartbeats) Put(ctx context.Context, id string, record []byte) (now time.Time, err error) {
	if len(record) > MaxHeartbeatBytes || len(id) > maxHeartbeatID {
		return now, fmt.Errorf("%w: it has %d bytes and its id %d; allowed are %d and %d", ErrHeartbeatRecord, len(record), len(id),
			MaxHeartbeatBytes, maxHeartbeatID)
	}
	text := string(record) // the caller may change it after a call that was given up
	ms, err := abandon.Call(ctx, r.calls, func() (int64, error) {
		return heartbeatsPutScript.Run(ctx, r.client, r.keys, id, text, r.ttl.Milliseconds(), maxHeartbeats).Int64()
	})
	if err != nil {
		return now, fmt.Errorf("write the heartbeat: %w", err)
	}
	return time.UnixMilli(ms), nil
}

// Remove takes the record of the process out.
func (r *Heartbeats) Remove(ctx context.Context, id string) error {
	_, err := abandon.Call(ctx, r.calls, func() ([]redis.Cmder, error) {
		return r.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			p.ZRem(ctx, r.keys[1], id)
			p.HDel(ctx, r.keys[0], id)
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("remove the heartbeat: %w", err)
	}
	return nil
}

// List returns the records, the last written first, and the time by the clock of Redis. What Put
// would refuse is left out, whoever has written it, and so are the oldest beyond 8 MiB.
func (r *Heartbeats) List(ctx context.Context) (list []Heartbeat, now time.Time, err error) {
	reply, err := abandon.Call(ctx, r.calls, func() ([]any, error) {
		return heartbeatsListScript.Run(ctx, r.client, r.keys, r.ttl.Milliseconds(), maxHeartbeats, maxHeartbeatID, MaxHeartbeatBytes,
			maxHeartbeatsBytes).Slice()
	})
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("read the heartbeats: %w", err)
	}
	if len(reply) == 0 {
		return nil, time.Time{}, errors.New("read the heartbeats: Redis answers nothing")
	}
	ms, _ := reply[0].(int64)
	now = time.UnixMilli(ms)
	for rest := reply[1:]; len(rest) >= 3; rest = rest[3:] {
		id, _ := rest[0].(string)
		at, _ := rest[1].(int64)
		record, _ := rest[2].(string)
		list = append(list, Heartbeat{ID: id, Age: max(0, now.Sub(time.UnixMilli(at))), Record: []byte(record)})
	}
	return list, now, nil
}
