package lockers_test

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush/internal/lab/faultproxy"
	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/lockers/lease"
	"github.com/spendflush/spendflush/lockers/pglock"
	"github.com/spendflush/spendflush/lockers/redislock"
	"github.com/spendflush/spendflush/spend"
)

const (
	lock    = "flush/0"
	lockKey = "{spendflush:0}:lock:flush"
)

func acquire(t testing.TB, l spend.Locker) spend.Lease {
	t.Helper()
	lease, err := l.Acquire(t.Context(), lock)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lease.Release(context.Background()) })
	return lease
}

// through returns the URL with another host, and the host that it had.
func through(t *testing.T, rawURL string) (proxied string, p *faultproxy.Proxy) {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	p = faultproxy.New(t, u.Host)
	u.Host = p.Addr()
	return u.String(), p
}

func TestALockOfAShardIsInTheSlotOfItsQueue(t *testing.T) {
	l := openRedis(t, dial(t, testserver.Redis(t)), "pod", ttl)
	for name, want := range map[string]string{
		"flush/0": "{spendflush:0}:lock:flush", "flush/63": "{spendflush:63}:lock:flush", "import": "{spendflush:lock:import}",
		"flush/": "{spendflush:lock:flush/}", "flush/x": "{spendflush:lock:flush/x}", "flush/-1": "{spendflush:lock:flush/-1}",
		"flush/007": "{spendflush:lock:flush/007}", "a/b/1": "{spendflush:lock:a/b/1}",
	} {
		if got := l.Key(name); got != want {
			t.Errorf("%s: the key is %s, want %s", name, got, want)
		}
	}
}

func TestWhoHoldsALockInRedisCanBeReadWithoutUs(t *testing.T) {
	client := dial(t, testserver.Redis(t))
	acquire(t, openRedis(t, client, "pod#7", ttl))
	value, err := client.Get(t.Context(), lockKey).Result()
	if err != nil || !strings.HasPrefix(value, "pod#7#") || len(value) != len("pod#7#")+32 {
		t.Errorf("the key holds %q, %v", value, err)
	}
	if left, err := client.PTTL(t.Context(), lockKey).Result(); left <= 0 || left > ttl || err != nil {
		t.Errorf("the key expires in %s, %v", left, err)
	}
}

func TestAnyOwnerComesBackAsItWas(t *testing.T) {
	client := dial(t, testserver.Redis(t))
	for _, owner := range []string{"", "a#b", "#", "Müller & Söhne\n", strings.Repeat("x", 300)} {
		l := openRedis(t, client, owner, ttl)
		lease, err := l.Acquire(t.Context(), lock)
		if err != nil {
			t.Fatal(err)
		}
		holder, err := l.Holder(t.Context(), lock)
		if err != nil || holder.Owner != owner || holder.Expires <= 0 || holder.Expires > ttl {
			t.Errorf("holder of %q's lock is %+v, %v", owner, holder, err)
		}
		if err := lease.Release(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestAKeyThatSomebodySetByHandIsALockToo(t *testing.T) {
	client := dial(t, testserver.Redis(t))
	if err := client.Set(t.Context(), lockKey, "maintenance", 0).Err(); err != nil {
		t.Fatal(err)
	}
	_, err := openRedis(t, client, "a", ttl).Acquire(t.Context(), lock)
	held, ok := errors.AsType[*spend.HeldError](err)
	if !ok || held.Holder != (spend.Holder{Owner: "maintenance"}) {
		t.Errorf("acquire returned %v", err)
	}
}

func TestATooShortTTLIsRefused(t *testing.T) {
	client := dial(t, testserver.Redis(t))
	if _, err := openRedis(t, client, "a", lease.MinTTL-1).Acquire(t.Context(), lock); !errors.Is(err, lease.ErrTTL) {
		t.Errorf("Redis: %v", err)
	}
	pool := openPool(t, database(t))
	if _, err := pglock.New(pool, "a").WithTTL(-1).Acquire(t.Context(), lock); !errors.Is(err, lease.ErrTTL) {
		t.Errorf("Postgres: %v", err)
	}
}

func TestLocksOfTwoPrefixesDontMix(t *testing.T) {
	client := dial(t, testserver.Redis(t))
	acquire(t, openRedis(t, client, "a", ttl))
	acquire(t, testserver.Must(redislock.New(client, "b", redislock.Options{Prefix: "other"})))
}

func TestALostReplyLocksNobodyOut(t *testing.T) {
	server := testserver.Redis(t)
	proxied, proxy := through(t, server)
	once := dial(t, proxied)
	if err := once.Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	noRetry := dial(t, proxied+"?max_retries=-1")
	other := openRedis(t, dial(t, server), "other", ttl)

	// Scripts must be known, or the reply that is cut is only the one that says they aren't.
	warm, err := other.Acquire(t.Context(), lock)
	if err != nil {
		t.Fatal(err)
	}
	if err := warm.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := noRetry.Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	l := openRedis(t, noRetry, "a", ttl)
	proxy.CutNextReply()
	if _, err := l.Acquire(t.Context(), lock); err == nil || errors.Is(err, spend.ErrHeld) {
		t.Fatalf("acquire whose reply was cut returned %v", err)
	}
	if _, err := other.Acquire(t.Context(), lock); !errors.Is(err, spend.ErrHeld) {
		t.Errorf("the server didn't get the request: %v", err)
	}
	lease := acquire(t, l)
	if err := lease.Release(t.Context()); err != nil {
		t.Error(err)
	}

	// go-redis asks again by itself, and is told that the lock is its own.
	proxy.CutNextReply()
	lease = acquire(t, openRedis(t, once, "b", ttl))
	proxy.CutNextReply()
	if err := lease.Release(t.Context()); err != nil {
		t.Error(err)
	}
	acquire(t, other)
}

func TestATokenWhoseOutcomeIsUnknownIsUsedForItsOwnLockOnly(t *testing.T) {
	server := testserver.NewRedis(t)
	l := openRedis(t, dial(t, server.URL()), "a", ttl)
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := l.Acquire(ctx, lock); err == nil {
		t.Fatal("a server that hangs gave a lock")
	}
	if err := server.Resume(); err != nil {
		t.Fatal(err)
	}
	first := acquire(t, l)
	if _, err := l.Acquire(t.Context(), lock); !errors.Is(err, spend.ErrHeld) {
		t.Errorf("the token was used twice: %v", err)
	}
	if err := first.Release(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestARenewedLockOutlivesItsTTL(t *testing.T) {
	const ttl = 2 * time.Second
	client := dial(t, testserver.Redis(t))
	lease := acquire(t, openRedis(t, client, "a", ttl))
	for renewals, before := 0, ttl+1; renewals < 4; {
		left, err := client.PTTL(t.Context(), lockKey).Result()
		if err != nil || left < 0 {
			t.Fatalf("the key expires in %s, %v", left, err)
		}
		if left > before {
			renewals++
		}
		before = left
	}
	select {
	case <-lease.Lost():
		t.Error("the lease is lost")
	default:
	}
}

func TestWhatHappensToTheKeyEndsTheLease(t *testing.T) {
	const ttl = time.Second
	for name, harm := range map[string]func(ctx context.Context, c *redis.Client) error{
		"Deleted":  func(ctx context.Context, c *redis.Client) error { return c.Del(ctx, lockKey).Err() },
		"Replaced": func(ctx context.Context, c *redis.Client) error { return c.Set(ctx, lockKey, "another", 0).Err() },
		"FlushAll": func(ctx context.Context, c *redis.Client) error { return c.FlushAll(ctx).Err() },
		"WrongType": func(ctx context.Context, c *redis.Client) error {
			return errors.Join(c.Del(ctx, lockKey).Err(), c.RPush(ctx, lockKey, "x").Err())
		},
		"Killed":   nil,
		"Silenced": nil,
	} {
		t.Run(name, func(t *testing.T) {
			server := testserver.NewRedis(t)
			proxied, proxy := through(t, server.URL())
			lease := acquire(t, openRedis(t, dial(t, proxied), "a", ttl))
			var err error
			switch name {
			case "Killed":
				err = server.Kill()
			case "Silenced":
				proxy.Silence(true)
			default:
				err = harm(t.Context(), dial(t, server.URL()))
			}
			if err != nil {
				t.Fatal(err)
			}
			<-lease.Lost()
			_ = lease.Release(t.Context())
			if name == "Replaced" {
				if value, err := dial(t, server.URL()).Get(t.Context(), lockKey).Result(); value != "another" || err != nil {
					t.Errorf("the key holds %q, %v", value, err)
				}
			}
		})
	}
}

func TestAHangingServerEndsTheLeaseWhileItStillHangs(t *testing.T) {
	const ttl = time.Second
	server := testserver.NewRedis(t)
	l := openRedis(t, dial(t, server.URL()), "a", ttl)
	lease := acquire(t, l)
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Resume(); err != nil {
			t.Error(err)
		}
	})
	<-lease.Lost()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := lease.Release(ctx); err == nil {
		t.Error("a server that hangs let a lock be released")
	}
	if _, err := l.Acquire(t.Context(), lock); err == nil || errors.Is(err, spend.ErrHeld) {
		t.Errorf("acquire on a server that hangs returned %v", err)
	}
}

func TestAStoppedHolderSeesItsLossWhenItWakesAndHarmsNobody(t *testing.T) {
	const ttl = time.Second
	server := testserver.Redis(t)
	client := dial(t, server)
	holder := startChild(t, server, ttl, lock)
	holder.signal(t, syscall.SIGSTOP)
	successor := acquireSoon(t, openRedis(t, client, "successor", 10*time.Second), lock)
	holder.signal(t, syscall.SIGCONT)
	holder.expect(t, "lost")
	if err := holder.cmd.Wait(); err != nil {
		t.Errorf("the holder's release: %v", err)
	}
	value, err := client.Get(t.Context(), lockKey).Result()
	if err != nil || !strings.HasPrefix(value, "successor#") {
		t.Errorf("the key holds %q, %v", value, err)
	}
	select {
	case <-successor.Lost():
		t.Error("the successor's lease is lost")
	default:
	}
}

func TestAUserWithFewRightsCanLock(t *testing.T) {
	server := testserver.NewRedis(t)
	err := dial(t, server.URL()).Do(t.Context(), "ACL", "SETUSER", "few", "on", ">secret", "~{spendflush:*", "-@all",
		"+evalsha", "+eval", "+get", "+set", "+del", "+pttl", "+pexpire").Err()
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("few", "secret")
	l := openRedis(t, dial(t, u.String()), "a", ttl)
	lease := acquire(t, l)
	if holder, err := l.Holder(t.Context(), lock); err != nil || holder.Owner != "a" {
		t.Errorf("holder is %+v, %v", holder, err)
	}
	if err := lease.Release(t.Context()); err != nil {
		t.Error(err)
	}
}

// Whoever may write to Redis can put half a GiB there.
func TestOfALockThatAnotherProgramHasMadeLongNoMoreIsReadThanOneOfOursHas(t *testing.T) {
	client := dial(t, testserver.Redis(t))
	l := openRedis(t, client, "pod", ttl)
	if err := client.Set(t.Context(), l.Key("flush/0"), strings.Repeat("x", 8<<20), 0).Err(); err != nil {
		t.Fatal(err)
	}
	if h, err := l.Holder(t.Context(), "flush/0"); err != nil || len(h.Owner) != 4096 {
		t.Errorf("the owner has %d bytes, %v", len(h.Owner), err)
	}
	_, err := l.Acquire(t.Context(), "flush/0")
	if held, ok := errors.AsType[*spend.HeldError](err); !ok || len(held.Holder.Owner) != 4096 {
		t.Errorf("to acquire it returned %.60v", err)
	}
}
