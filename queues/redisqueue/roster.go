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

// Bounds of a roster.
const (
	MaxRosterBytes = 32 << 10 // of one record
	maxRosterID    = 256      // bytes of an id
	maxRosterAll   = 8 << 20  // bytes of all that is listed; beyond it the oldest are left out
	maxRostered    = 1000     // records; beyond it the oldest are forgotten

	// DefaultRosterKeep is how long a record is kept that isn't written again.
	DefaultRosterKeep = 10 * time.Minute
)

// ErrRosterRecord is wrapped by Roster.Put where a record or its id is too large.
var ErrRosterRecord = errors.New("bad roster record")

var (
	//go:embed roster_put.lua
	rosterPutLua string
	//go:embed roster_list.lua
	rosterListLua string

	rosterPutScript  = redis.NewScript(rosterPutLua)
	rosterListScript = redis.NewScript(rosterListLua)
)

// RosterOptions say how a roster lies in Redis.
type RosterOptions struct {
	// Prefix is the beginning of all keys; "" stands for DefaultPrefix. It must not hold braces.
	Prefix string

	// Keep is how long a record is kept that isn't written again, in whole milliseconds; 0 stands for DefaultRosterKeep.
	Keep time.Duration
}

// Roster is a list of processes in Redis, each with a record that it writes again and again. It is for people to look
// at: records may be missing, old or untrue, and nothing that counts may depend on it. It needs Redis 6.2 or later or
// Valkey, a Cluster too. It is safe for concurrent use.
type Roster struct {
	client redis.UniversalClient
	root   string // the prefix of the options
	keys   []string
	keep   time.Duration
	calls  *abandon.Calls
}

// Rostered is a record of a roster.
type Rostered struct {
	ID     string
	Age    time.Duration // since it was written, by the clock of Redis
	Record []byte
}

// NewRoster returns a roster on the client, which stays the caller's. It doesn't talk to Redis. The error wraps ErrClient,
// where the client is one that New refuses, too.
func NewRoster(client redis.UniversalClient, o RosterOptions) (*Roster, error) {
	if err := redislink.Check(client); err != nil {
		return nil, fmt.Errorf("roster on Redis: %w", err)
	}
	if o.Prefix == "" {
		o.Prefix = DefaultPrefix
	}
	if o.Keep == 0 {
		o.Keep = DefaultRosterKeep
	}
	return &Roster{client: client, root: o.Prefix, keys: rosterKeys(o.Prefix), keep: o.Keep, calls: new(abandon.Calls)}, nil
}

func rosterKeys(prefix string) []string {
	tag := "{" + prefix + ":roster}:"
	return []string{tag + "records", tag + "seen"}
}

// ForBooks returns the roster of the instances of these books. It shares the client and what Wait knows.
func (r *Roster) ForBooks(id spend.BooksID) *Roster {
	other := *r
	other.keys = rosterKeys(prefixOf(r.root, id))
	return &other
}

// Wait blocks until the calls have ended that were given up when their context ended. Close the client first. It must
// not be called while other methods are.
func (r *Roster) Wait() { r.calls.Wait() }

// Put writes the record of the process with this id, in place of its last one. The error wraps ErrRosterRecord if it has
// more than MaxRosterBytes, or its id more than 256 bytes. It returns the time by the clock of Redis. Like all methods it
// returns as soon as ctx ends.
func (r *Roster) Put(ctx context.Context, id string, record []byte) (now time.Time, err error) {
	if len(record) > MaxRosterBytes || len(id) > maxRosterID {
		return now, fmt.Errorf("%w: it has %d bytes and its id %d; allowed are %d and %d", ErrRosterRecord, len(record), len(id),
			MaxRosterBytes, maxRosterID)
	}
	text := string(record) // the caller may change it after a call that was given up
	ms, err := abandon.Call(ctx, r.calls, func() (int64, error) {
		return rosterPutScript.Run(ctx, r.client, r.keys, id, text, r.keep.Milliseconds(), maxRostered).Int64()
	})
	if err != nil {
		return now, fmt.Errorf("write the roster: %w", err)
	}
	return time.UnixMilli(ms), nil
}

// Remove takes the record of the process out.
func (r *Roster) Remove(ctx context.Context, id string) error {
	_, err := abandon.Call(ctx, r.calls, func() ([]redis.Cmder, error) {
		return r.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			p.ZRem(ctx, r.keys[1], id)
			p.HDel(ctx, r.keys[0], id)
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("leave the roster: %w", err)
	}
	return nil
}

// List returns the records, the last written first, and the time by the clock of Redis. What Put would refuse is left out,
// whoever has written it, and so are the oldest beyond 8 MiB.
func (r *Roster) List(ctx context.Context) (list []Rostered, now time.Time, err error) {
	reply, err := abandon.Call(ctx, r.calls, func() ([]any, error) {
		return rosterListScript.Run(ctx, r.client, r.keys, r.keep.Milliseconds(), maxRostered, maxRosterID, MaxRosterBytes,
			maxRosterAll).Slice()
	})
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("read the roster: %w", err)
	}
	if len(reply) == 0 {
		return nil, time.Time{}, errors.New("read the roster: Redis answers nothing")
	}
	ms, _ := reply[0].(int64)
	now = time.UnixMilli(ms)
	for rest := reply[1:]; len(rest) >= 3; rest = rest[3:] {
		id, _ := rest[0].(string)
		at, _ := rest[1].(int64)
		record, _ := rest[2].(string)
		list = append(list, Rostered{ID: id, Age: max(0, now.Sub(time.UnixMilli(at))), Record: []byte(record)})
	}
	return list, now, nil
}
