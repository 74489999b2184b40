package lockers

import (
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/internal/abandon"
)

// DefaultPrefix is the beginning of all keys unless another is given.
const DefaultPrefix = "spendflush"

// DefaultTTL is how long the lock of a holder that died keeps others out, unless another time is given.
const DefaultTTL = 3 * time.Second

// MinTTL is the least TTL: with less, a slow reply would lose the lock.
const MinTTL = 100 * time.Millisecond

var (
	//go:embed acquire.lua
	acquireLua string
	//go:embed renew.lua
	renewLua string
	//go:embed release.lua
	releaseLua string

	acquireScript = redis.NewScript(acquireLua)
	renewScript   = redis.NewScript(renewLua)
	releaseScript = redis.NewScript(releaseLua)
)

// RedisOptions say how locks lie in Redis.
type RedisOptions struct {
	// Prefix is the beginning of all keys; "" stands for DefaultPrefix. It must not hold braces.
	Prefix string

	// TTL is how long the lock of a holder that died keeps others out; 0 stands for DefaultTTL, and less than MinTTL
	// for MinTTL.
	TTL time.Duration
}

// Redis hands out locks that are keys in Redis, set if absent, with a TTL and a token of their holder. It needs Redis
// 6.2 or later, or Valkey. All methods return as soon as ctx ends.
type Redis struct {
	client redis.UniversalClient
	owner  string
	prefix string
	ttl    time.Duration
	calls  abandon.Calls
}

var _ spendflush.Locker = (*Redis)(nil)

// NewRedis returns a locker for the owner, whose name others see while it holds a lock. The client stays the caller's.
func NewRedis(client redis.UniversalClient, owner string, opts RedisOptions) *Redis {
	l := &Redis{client: client, owner: owner, prefix: opts.Prefix, ttl: opts.TTL}
	if l.prefix == "" {
		l.prefix = DefaultPrefix
	}
	if l.ttl == 0 {
		l.ttl = DefaultTTL
	}
	l.ttl = max(l.ttl, MinTTL)
	return l
}

// Wait blocks until the calls have ended that were given up when their context ended. Close the client first, for that
// ends them. It must not be called while other methods are, nor with a lease not released.
func (l *Redis) Wait() { l.calls.Wait() }

// Key returns the key that the status of the lock is stored under, as Redis knows it.
func (l *Redis) Key(name string) string { return "{" + l.prefix + ":lock:" + name + "}" }

// trust is how long after the beginning of a call a success of it can be trusted.
func (l *Redis) trust() time.Duration { return l.ttl - l.ttl/10 }

// valueSeparator stands between the token, which never has it, and the owner in the value of a lock.
const valueSeparator = " "

// Acquire tries once to take the lock; see spendflush.Locker. A call whose reply is lost may leave the lock taken by
// nobody until its TTL has passed.
func (l *Redis) Acquire(ctx context.Context, name string) (spendflush.Lease, error) {
	key, value := l.Key(name), rand.Text()+valueSeparator+l.owner
	start := time.Now()
	reply, err := abandon.Call(ctx, &l.calls, func() ([]any, error) {
		return acquireScript.Run(ctx, l.client, []string{key}, value, l.ttl.Milliseconds()).Slice()
	})
	if err != nil {
		return nil, fmt.Errorf("acquire lock %s: %w", name, err)
	}
	if taken, _ := reply[0].(int64); taken != 1 {
		return nil, &spendflush.HeldError{Name: name, Holder: holderOf(reply[1:])}
	}
	renew := func(ctx context.Context) (time.Time, bool, error) {
		start := time.Now()
		renewed, err := abandon.Call(ctx, &l.calls, func() (bool, error) {
			return renewScript.Run(ctx, l.client, []string{key}, value, l.ttl.Milliseconds()).Bool()
		})
		return start.Add(l.trust()), renewed, err
	}
	release := func(ctx context.Context) error {
		_, err := abandon.Call(ctx, &l.calls, func() (int64, error) {
			return releaseScript.Run(ctx, l.client, []string{key}, value).Int64()
		})
		if err != nil {
			return fmt.Errorf("release lock %s: %w", name, err)
		}
		return nil
	}
	until := start.Add(l.trust())
	keep := func(ctx context.Context) { keepTrust(ctx, until, l.ttl/3, l.ttl/20, renew) }
	return newLease(keep, release), nil
}

// Holder says who holds the lock, from the status stored in Redis; see spendflush.Locker.
func (l *Redis) Holder(ctx context.Context, name string) (spendflush.Holder, error) {
	type status struct {
		value   string
		expires time.Duration
	}
	found, err := abandon.Call(ctx, &l.calls, func() (status, error) {
		pipe := l.client.Pipeline()
		value, expires := pipe.Get(ctx, l.Key(name)), pipe.PTTL(ctx, l.Key(name))
		_, err := pipe.Exec(ctx)
		return status{value.Val(), expires.Val()}, err
	})
	switch {
	case errors.Is(err, redis.Nil):
		return spendflush.Holder{}, nil
	case err != nil:
		return spendflush.Holder{}, fmt.Errorf("look at lock %s: %w", name, err)
	}
	return spendflush.Holder{Owner: ownerOf(found.value), Expires: max(found.expires, 0)}, nil
}

func holderOf(reply []any) spendflush.Holder {
	var h spendflush.Holder
	if len(reply) == 2 {
		value, _ := reply[0].(string)
		ms, _ := reply[1].(int64)
		h.Owner, h.Expires = ownerOf(value), time.Duration(max(ms, 0))*time.Millisecond
	}
	return h
}

func ownerOf(value string) string {
	_, owner, found := strings.Cut(value, valueSeparator)
	if !found {
		return value // not written by us; better than nothing
	}
	return owner
}
