// Package redislock hands out locks that are keys in Redis. Package lockers says how they work.
package redislock

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush/internal/abandon"
	"github.com/spendflush/spendflush/internal/rediserr"
	"github.com/spendflush/spendflush/internal/redislink"
	"github.com/spendflush/spendflush/lockers/lease"
	"github.com/spendflush/spendflush/spend"
)

// Defaults of Options.
const (
	DefaultPrefix = "spendflush"
	DefaultTTL    = 800 * time.Millisecond
)

var (
	//go:embed acquire.lua
	acquireLua string
	//go:embed renew.lua
	renewLua string
	//go:embed release.lua
	releaseLua string
	//go:embed holder.lua
	holderLua string

	acquireScript = redis.NewScript(acquireLua)
	renewScript   = redis.NewScript(renewLua)
	releaseScript = redis.NewScript(releaseLua)
	holderScript  = redis.NewScript(holderLua)
)

// Options say how locks lie in Redis.
type Options struct {
	// Prefix is the beginning of all keys; "" stands for DefaultPrefix. Locks of different prefixes
	// have nothing to do with each other. A queue beside it should have the same: then a shard's
	// queue and its lock share a hash tag.
	Prefix string

	// TTL is how long a lock outlives a holder that isn't heard of any more; 0 stands for
	// DefaultTTL. It is at least MinTTL, in whole milliseconds. The lock is renewed every third of
	// it.
	TTL time.Duration
}

// Locker hands out locks that are keys in Redis. It needs Redis 2.6 or later or Valkey, a Cluster
// too.
type Locker struct {
	client redis.UniversalClient
	owner  string
	root   string // the prefix of the options
	opts   Options
	calls  *abandon.Calls
	unsure *unsure
}

// unsure has, by the key of a lock, the token of an Acquire whose outcome is unknown.
type unsure struct {
	mu     sync.Mutex
	tokens map[string]string
}

var (
	_ spend.Locker      = (*Locker)(nil)
	_ spend.BooksLocker = (*Locker)(nil)
)

// ErrClient is wrapped by the error of New.
var ErrClient = redislink.ErrClient

// New returns a locker whose locks show the owner, which names this instance. The client stays the
// caller's, and must outlive all leases. It doesn't talk to Redis. The error wraps ErrClient and
// names each option of the client that won't do, with what is allowed: the same as for
// redisqueue.New.
func New(client redis.UniversalClient, owner string, opts Options) (*Locker, error) {
	if err := redislink.Check(client); err != nil {
		return nil, fmt.Errorf("locker on Redis: %w", err)
	}
	if opts.Prefix == "" {
		opts.Prefix = DefaultPrefix
	}
	if opts.TTL == 0 {
		opts.TTL = DefaultTTL
	}
	opts.TTL = opts.TTL.Truncate(time.Millisecond)
	return &Locker{
		client: client, owner: owner, root: opts.Prefix, opts: opts, calls: new(abandon.Calls), unsure: &unsure{tokens: map[string]string{}},
	}, nil
}

// ForBooks returns the locks of these books; see spend.BooksLocker. It shares the client and what
// Wait knows.
func (l *Locker) ForBooks(id spend.BooksID) spend.Locker { return l.Of(id) }

// Of is ForBooks with the type that it has.
func (l *Locker) Of(id spend.BooksID) *Locker {
	other := *l
	other.opts.Prefix = l.root + ":" + id.String()
	return &other
}

// Wait blocks until the calls have ended that were given up when their context ended. Release all
// leases and close the client first. It must not be called while other methods are.
func (l *Locker) Wait() { l.calls.Wait() }

// Key returns the key in Redis that shows who holds the lock. The lock "flush/3" of a shard is
// under the hash tag of the shard's queue, {<prefix>:3}:lock:flush, so that in a Redis Cluster a
// shard depends on one slot alone. A name without a number has a tag of its own,
// {<prefix>:lock:<name>}.
func (l *Locker) Key(name string) string {
	what, number, found := strings.Cut(name, "/")
	shard, err := strconv.ParseUint(number, 10, 32)
	if !found || err != nil || number != strconv.FormatUint(shard, 10) {
		return "{" + l.opts.Prefix + ":lock:" + name + "}"
	}

	return "{" + l.opts.Prefix + ":" + number + "}:lock:" + what
}

const tokenBytes = 16

// value returns what the key of a lock holds: the owner, for people, and the token, which no other
// Acquire has.
func (l *Locker) value(token string) string { return l.owner + "#" + token }

// ownerOf returns the owner that a value names.
func ownerOf(value string) string {
	at := len(value) - 2*tokenBytes - 1
	if at >= 0 && value[at] == '#' {
		return value[:at]
	}
	return value // not ours
}

func parseHolder(reply []any) spend.Holder {
	var h spend.Holder
	if len(reply) == 2 {
		value, _ := reply[0].(string)
		ms, _ := reply[1].(int64)
		h.Owner, h.Expires = ownerOf(value), time.Duration(max(ms, 0))*time.Millisecond
	}
	return h
}

// Acquire tries once to get the lock; see spend.Locker. Errors: *spend.HeldError; ErrTTL; those of
// Redis, after which it isn't known whether the lock was taken. It then is free, or got by the next
// Acquire, at the latest when its TTL is over.
func (l *Locker) Acquire(ctx context.Context, name string) (spend.Lease, error) {
	if err := lease.CheckTTL(l.opts.TTL); err != nil {
		return nil, fmt.Errorf("acquire lock %s: %w", name, err)
	}
	token := l.token(name)
	value := l.value(token)
	start := time.Now()
	// What takes longer would be of no use.
	ctx, cancel := context.WithTimeout(ctx, l.opts.TTL-lease.Margin(l.opts.TTL))
	defer cancel()
	reply, err := abandon.Call(ctx, l.calls, func() ([]any, error) {
		return acquireScript.Run(ctx, l.client, []string{l.Key(name)}, value, l.opts.TTL.Milliseconds()).Slice()
	})
	if err != nil {
		l.remember(name, token)
		return nil, fmt.Errorf("acquire lock %s: %w", name, denied(err))
	}
	if len(reply) > 0 {
		return nil, &spend.HeldError{Name: name, Holder: parseHolder(reply)}
	}
	lease, err := lease.New(start, l.opts.TTL, &redisLink{locker: l, name: name, value: value})
	if err != nil {
		l.remember(name, token)
		return nil, fmt.Errorf("acquire lock %s: %w", name, err)
	}
	return lease, nil
}

// token returns the token of an earlier try whose outcome is unknown, or a new one. No other lease
// gets the same.
func (l *Locker) token(name string) string {
	l.unsure.mu.Lock()
	defer l.unsure.mu.Unlock()
	key := l.Key(name)
	if token, ok := l.unsure.tokens[key]; ok {
		delete(l.unsure.tokens, key)
		return token
	}
	var token [tokenBytes]byte
	rand.Read(token[:]) // never fails
	return hex.EncodeToString(token[:])
}

func (l *Locker) remember(name, token string) {
	l.unsure.mu.Lock()
	defer l.unsure.mu.Unlock()
	l.unsure.tokens[l.Key(name)] = token
}

// Holder says who holds the lock; see spend.Locker.
func (l *Locker) Holder(ctx context.Context, name string) (spend.Holder, error) {
	reply, err := abandon.Call(ctx, l.calls, func() ([]any, error) {
		return holderScript.Run(ctx, l.client, []string{l.Key(name)}).Slice()
	})
	if err != nil {
		return spend.Holder{}, fmt.Errorf("look who holds lock %s: %w", name, denied(err))
	}
	return parseHolder(reply), nil
}

// denied has the error wrap spend.ErrDenied if it is of that kind.
func denied(err error) error {
	if rediserr.Denied(err) {
		return fmt.Errorf("%w: %w", spend.ErrDenied, err)
	}
	return err
}

// redisLink is a lock's key.
type redisLink struct {
	locker *Locker
	name   string
	value  string
}

func (k *redisLink) Rest(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil
}

func (k *redisLink) Renew(ctx context.Context) error {
	return k.run(ctx, renewScript, k.value, k.locker.opts.TTL.Milliseconds())
}

func (k *redisLink) Release(ctx context.Context) error {
	err := k.run(ctx, releaseScript, k.value)
	if err != nil && !errors.Is(err, lease.ErrGone) {
		return fmt.Errorf("release lock %s: %w", k.name, err)
	}
	return nil
}

// run runs a script that returns whether the lock is ours.
func (k *redisLink) run(ctx context.Context, script *redis.Script, args ...any) error {
	ours, err := abandon.Call(ctx, k.locker.calls, func() (bool, error) {
		return script.Run(ctx, k.locker.client, []string{k.locker.Key(k.name)}, args...).Bool()
	})
	if err == nil && !ours {
		return lease.ErrGone
	}
	return err
}
