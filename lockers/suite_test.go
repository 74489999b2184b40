package lockers_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/lockers/lockertest"
	"github.com/spendflush/spendflush/lockers/memlock"
	"github.com/spendflush/spendflush/lockers/pglock"
	"github.com/spendflush/spendflush/lockers/redislock"
)

// ttl is long enough for a busy machine. Where a test waits for its end, it uses a shorter one.
const ttl = 3 * time.Second

func dial(t testing.TB, url string) *redis.Client {
	t.Helper()
	o, err := redis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	o.ContextTimeoutEnabled = true
	client := redis.NewClient(o)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// openRedis returns a locker that has no abandoned call left when the test ends.
func openRedis(t testing.TB, client *redis.Client, owner string, ttl time.Duration) *redislock.Locker {
	l := testserver.Must(redislock.New(client, owner, redislock.Options{TTL: ttl}))
	t.Cleanup(func() {
		_ = client.Close()
		l.Wait()
	})
	return l
}

func openPool(t testing.TB, url string) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 10
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func TestMemoryIsALocker(t *testing.T) {
	lockertest.Run(t, func(t *testing.T) lockertest.Opened {
		a := memlock.New(lockertest.OwnerA)
		return lockertest.Opened{
			A: a, B: a.Peer(lockertest.OwnerB),
			Lose: func(_ *testing.T, name string) { a.Revoke(name) },
		}
	})
}

func TestRedisIsALocker(t *testing.T) {
	lockertest.Run(t, func(t *testing.T) lockertest.Opened {
		client := dial(t, testserver.Redis(t))
		a := openRedis(t, client, lockertest.OwnerA, ttl)
		return lockertest.Opened{
			A: a,
			B: openRedis(t, client, lockertest.OwnerB, ttl),
			Lose: func(t *testing.T, name string) {
				if n, err := client.Del(t.Context(), a.Key(name)).Result(); n != 1 || err != nil {
					t.Fatalf("%d keys deleted, %v", n, err)
				}
			},
		}
	})
}

func TestPostgresIsALocker(t *testing.T) {
	url := database(t)
	runOnPostgres(t, url, url)
}

func TestPostgresBehindPgBouncerIsALocker(t *testing.T) {
	url := database(t)
	runOnPostgres(t, url, testserver.PgBouncer(t, url, nil))
}

// runOnPostgres runs the suite on lockers that use the second URL.
func runOnPostgres(t *testing.T, direct, url string) {
	admin, a, b := openPool(t, direct), openPool(t, url), openPool(t, url)
	lockertest.Run(t, func(*testing.T) lockertest.Opened {
		return lockertest.Opened{
			A:    pglock.New(a, lockertest.OwnerA).WithTTL(ttl),
			B:    pglock.New(b, lockertest.OwnerB).WithTTL(ttl),
			Lose: func(t *testing.T, _ string) { terminateHolders(t, admin) },
		}
	})
}

// terminateHolders ends all sessions of the database that hold an advisory lock, and returns when
// the locks are free.
func terminateHolders(t testing.TB, admin *pgxpool.Pool) {
	t.Helper()
	const inDatabase = " FROM pg_locks WHERE locktype = 'advisory' AND granted" +
		" AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
	var n int
	if err := admin.QueryRow(t.Context(), "SELECT count(pg_terminate_backend(pid))"+inDatabase).Scan(&n); err != nil || n == 0 {
		t.Fatalf("%d sessions ended, %v", n, err)
	}
	for n > 0 {
		if err := admin.QueryRow(t.Context(), "SELECT count(*)"+inDatabase).Scan(&n); err != nil {
			t.Fatal(err)
		}
	}
}
