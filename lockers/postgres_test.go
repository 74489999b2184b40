package lockers_test

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/lockers/pglock"
	"github.com/spendflush/spendflush/migrations"
	"github.com/spendflush/spendflush/spend"
)

// session is what Postgres says of the one session that holds a lock.
type session struct {
	application, state, query string
	snapshot, transaction     bool
	idle                      time.Duration
}

// findHolder returns the session that holds an advisory lock, and whether there is one.
func findHolder(t testing.TB, admin *pgxpool.Pool) (s session, found bool) {
	t.Helper()
	rows, err := admin.Query(t.Context(), `
		SELECT application_name, state, query, backend_xmin IS NOT NULL, backend_xid IS NOT NULL, clock_timestamp() - state_change
		FROM pg_stat_activity
		WHERE datname = current_database()
		  AND pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted)`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		if found {
			t.Error("two sessions hold locks")
		}
		found = true
		if err := rows.Scan(&s.application, &s.state, &s.query, &s.snapshot, &s.transaction, &s.idle); err != nil {
			t.Fatal(err)
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return s, found
}

// awaitHolder asks for the holder's session until it is as wanted.
func awaitHolder(t testing.TB, admin *pgxpool.Pool, wanted func(s session, found bool) bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); ; <-tick.C {
		s, found := findHolder(t, admin)
		if wanted(s, found) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the holder stays %+v, %t", s, found)
		}
	}
}

func isFree(_ session, found bool) bool { return !found }

func run(t testing.TB, pool *pgxpool.Pool, statement string) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}

func TestAHeldLockDoesNotHoldBackVacuumWhateverTheDefaults(t *testing.T) {
	url := database(t)
	admin := openPool(t, url)
	run(t, admin, `DO $$ BEGIN
		EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = serializable', current_database());
		EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); END $$`)
	acquire(t, pglock.New(openPool(t, url), "a"))
	awaitHolder(t, admin, func(s session, found bool) bool {
		if !found || s.snapshot || s.transaction {
			t.Fatalf("the holder's session is %+v, %t", s, found)
		}
		return s.state == "idle in transaction"
	})
	if s, _ := findHolder(t, admin); s.application != "spendflush/a" {
		t.Errorf("the application is %q", s.application)
	}
}

func TestTheDatabasesOwnIdleTimeoutDoesNotEndALock(t *testing.T) {
	url := database(t)
	admin := openPool(t, url)
	run(t, admin, `DO $$ BEGIN
		EXECUTE format('ALTER DATABASE %I SET idle_in_transaction_session_timeout = 50', current_database()); END $$`)
	lease := acquire(t, pglock.New(openPool(t, url), "a").WithTTL(ttl))
	awaitHolder(t, admin, func(s session, found bool) bool {
		if !found {
			t.Fatal("the lock is gone")
		}
		return s.idle > 200*time.Millisecond
	})
	// And it is renewed.
	awaitHolder(t, admin, func(s session, found bool) bool { return strings.Contains(s.query, "ping") })
	select {
	case <-lease.Lost():
		t.Error("the lease is lost")
	default:
	}
}

func TestNothingOfALockStaysInThePoolersSession(t *testing.T) {
	direct := database(t)
	admin := openPool(t, direct)
	pooled := testserver.PgBouncer(t, direct, map[string]string{"default_pool_size": "1"})
	pool := openPool(t, pooled)
	show := func() (application, timeout string) {
		err := pool.QueryRow(t.Context(), "SELECT current_setting('application_name'), "+
			"current_setting('idle_in_transaction_session_timeout')").Scan(&application, &timeout)
		if err != nil {
			t.Fatal(err)
		}
		return application, timeout
	}
	application, timeout := show()
	for range 3 {
		lease := acquire(t, pglock.New(pool, "a"))
		if err := lease.Release(t.Context()); err != nil {
			t.Error(err)
		}
		if _, found := findHolder(t, admin); found {
			t.Error("the lock stayed behind")
		}
		if a, to := show(); a != application || to != timeout {
			t.Errorf("the session is left with %q, %q instead of %q, %q", a, to, application, timeout)
		}
	}
}

func TestALeaseHoldsOneConnectionAndGivesItBackSound(t *testing.T) {
	url := database(t)
	pool := openPool(t, url)
	l := pglock.New(pool, "a")
	for range 20 {
		lease := acquire(t, l)
		if _, err := l.Acquire(t.Context(), lock); !errors.Is(err, spend.ErrHeld) {
			t.Fatal(err)
		}
		if n := pool.Stat().AcquiredConns(); n != 1 {
			t.Errorf("a lease holds %d connections", n)
		}
		if err := lease.Release(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if n := pool.Stat().AcquiredConns(); n != 0 {
		t.Errorf("%d connections are held for nothing", n)
	}
	if n := pool.Stat().NewConnsCount(); n > 2 {
		t.Errorf("%d connections were made", n)
	}
}

func TestABusyPoolHoldsAcquireNoLongerThanItsContext(t *testing.T) {
	config, err := pgxpool.ParseConfig(database(t))
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 1
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	l := pglock.New(pool, "a").WithMaxLeases(2)
	acquire(t, l)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := l.Acquire(ctx, lock); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("acquire returned %v", err)
	}
}

func TestAKilledHoldersLockIsFree(t *testing.T) {
	direct := database(t)
	admin := openPool(t, direct)
	for name, url := range map[string]string{"Direct": direct, "PgBouncer": testserver.PgBouncer(t, direct, nil)} {
		t.Run(name, func(t *testing.T) {
			// The TTL is so long that only the end of the connection can free the lock in time.
			holder := startChild(t, url, time.Hour, lock)
			l := pglock.New(openPool(t, url), "successor")
			_, err := l.Acquire(t.Context(), lock)
			if held, ok := errors.AsType[*spend.HeldError](err); !ok || held.Holder.Owner != childOwner {
				t.Fatalf("acquire returned %v", err)
			}
			holder.signal(t, syscall.SIGKILL)
			lease := acquireSoon(t, l, lock)
			if err := lease.Release(t.Context()); err != nil {
				t.Error(err)
			}
			if s, found := findHolder(t, admin); found {
				t.Errorf("a lock stayed behind: %+v", s)
			}
		})
	}
}

func TestASilentHoldersLockIsFreeAfterItsTTL(t *testing.T) {
	const ttl = time.Second
	direct := database(t)
	admin := openPool(t, direct)
	for name, url := range map[string]string{"Direct": direct, "PgBouncer": testserver.PgBouncer(t, direct, nil)} {
		t.Run(name, func(t *testing.T) {
			proxied, proxy := through(t, url)
			lease := acquire(t, pglock.New(openPool(t, proxied), "a").WithTTL(ttl))
			proxy.Silence(true)
			<-lease.Lost()
			awaitHolder(t, admin, isFree)
			acquire(t, pglock.New(openPool(t, url), "successor").WithTTL(ttl))
			// What was held back reaches nobody.
			proxy.Silence(false)
			if err := lease.Release(t.Context()); err != nil {
				t.Logf("release of the lost lease: %v", err)
			}
			if s, found := findHolder(t, admin); !found || s.application != "spendflush/successor" {
				t.Errorf("the holder is %+v, %t", s, found)
			}
		})
	}
}

func TestAStoppedHolderOfAPostgresLockSeesItsLossWhenItWakes(t *testing.T) {
	const ttl = time.Second
	url := database(t)
	holder := startChild(t, url, ttl, lock)
	holder.signal(t, syscall.SIGSTOP)
	successor := acquireSoon(t, pglock.New(openPool(t, url), "successor"), lock)
	holder.signal(t, syscall.SIGCONT)
	holder.expect(t, "lost")
	select {
	case <-successor.Lost():
		t.Error("the successor's lease is lost")
	default:
	}
}

func TestAKilledPostgresEndsTheLeaseAndGivesLocksAgain(t *testing.T) {
	server := testserver.NewPostgres(t)
	if _, err := migrations.Up(t.Context(), server.URL("postgres")); err != nil {
		t.Fatal(err)
	}
	l := pglock.New(openPool(t, server.URL("postgres")), "a").WithTTL(time.Hour)
	lease := acquire(t, l)
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	<-lease.Lost() // at once: the TTL is an hour
	_ = lease.Release(t.Context())
	if _, err := l.Acquire(t.Context(), lock); err == nil || errors.Is(err, spend.ErrHeld) {
		t.Errorf("a dead server answered %v", err)
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	acquireSoon(t, l, lock)
}

func TestBeyondItsLeasesALockerAnswersAtOnceAndTheirEndMakesRoom(t *testing.T) {
	url := database(t)
	pool := openPool(t, url)
	l := pglock.New(pool, "a").WithMaxLeases(2)
	acquireAs := func(name string) spend.Lease {
		t.Helper()
		lease, err := l.Acquire(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = lease.Release(context.Background()) })
		return lease
	}
	wantNoRoom := func() {
		t.Helper()
		for range 3 { // a try that is refused takes no room
			var held *spend.HeldError
			if _, err := l.WithTTL(pglock.DefaultPostgresTTL).Acquire(t.Context(), "third"); !errors.As(err, &held) || held.Holder.Owner != "" {
				t.Errorf("with two leases of two: %v", err)
			}
		}
	}
	first, second := acquireAs("first"), acquireAs("second")
	wantNoRoom()
	if busy := pool.Stat().AcquiredConns(); busy != 2 {
		t.Errorf("%d connections are in use", busy)
	}
	for range 2 { // again it does nothing
		if err := first.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	third := acquireAs("third")
	wantNoRoom()

	// Whether a try fails or a lease is lost, its room is free again.
	if err := third.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	other := acquire(t, pglock.New(openPool(t, url), "b"))
	for range 3 {
		if _, err := l.Acquire(t.Context(), lock); !errors.Is(err, spend.ErrHeld) {
			t.Fatal(err)
		}
	}
	if err := other.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	run(t, openPool(t, url), `SELECT pg_terminate_backend(pid) FROM pg_locks
		WHERE locktype = 'advisory' AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`)
	<-second.Lost()
	if err := second.Release(t.Context()); err != nil {
		t.Logf("the lost lease: %v", err)
	}
	admin := openPool(t, url)
	for free := false; !free; { // a backend that is ended says so before it lets go of its locks
		err := admin.QueryRow(t.Context(), `SELECT NOT EXISTS (SELECT FROM pg_locks
			WHERE locktype = 'advisory' AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))`).Scan(&free)
		if err != nil {
			t.Fatal(err)
		}
	}
	acquireAs("second")
	acquireAs("third")
	wantNoRoom()
}

func TestALockerOnASharedPoolLeavesAConnectionToAFlush(t *testing.T) {
	config, err := pgxpool.ParseConfig(database(t))
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 2
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	l := pglock.New(pool, "a")
	lease, err := l.Acquire(t.Context(), "direct/0")
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Release(context.WithoutCancel(t.Context()))
	if _, err := l.Acquire(t.Context(), "direct/1"); !errors.Is(err, spend.ErrHeld) {
		t.Errorf("a second lease: %v, want that it isn't given", err)
	}
	if err := pool.Ping(t.Context()); err != nil {
		t.Errorf("no connection is left: %v", err)
	}
}
