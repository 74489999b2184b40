package pgstore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/spend"
)

// pooled returns the way to the database through PgBouncer with few server connections.
func pooled(t *testing.T, databaseURL string) string {
	t.Helper()
	return testserver.PgBouncer(t, databaseURL, map[string]string{"default_pool_size": "3"})
}

func TestEverythingWorksThroughAPoolerInTransactionMode(t *testing.T) {
	direct := database(t)
	// More clients than server connections, so that they do share them.
	s := open(t, pooled(t, direct), Options{MaxConns: 8})
	server, err := s.Probe(t.Context())
	if err != nil || server.Pooler != PoolerTransaction {
		t.Errorf("Probe: %+v, %v", server, err)
	}
	fight(t, s)
	if got := drift(t, s); got != "0" {
		t.Errorf("the books are off by %s", got)
	}
	if err := s.Quarantine(t.Context(), []spend.BadBatch{{Reason: "r", Bytes: []byte("b")}}); err != nil {
		t.Error(err)
	}
	for range 3 {
		if got := usage(t, s, UsageQuery{From: at("2026-11-01T00:00Z"), To: at("2026-12-01T00:00Z"), By: Total}); len(got) != 1 {
			t.Errorf("usage: %q", got)
		}
		if _, err := s.Spend(t.Context(), spend.Entity{Type: spend.Team, ID: "team-1"}, []spend.ProducerID{newProducer()}); err != nil {
			t.Error(err)
		}
	}
	wantAudit(t, s)
	left := open(t, direct, Options{})
	if n := query[int](t, left, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"); n != 0 {
		t.Errorf("%d advisory locks are left", n)
	}
	for _, name := range []string{"idle_in_transaction_session_timeout", "lock_timeout"} {
		if got := query[string](t, s, "SELECT current_setting($1)", name); got != "0" {
			t.Errorf("%s is left at %s in a server connection", name, got)
		}
	}
}

func TestARoleThatDefaultsToSerializableIsServed(t *testing.T) {
	databaseURL := database(t)
	s := open(t, databaseURL, Options{})
	name := query[string](t, s, "SELECT current_database()")
	execute(t, s.pool, fmt.Sprintf("ALTER DATABASE %s SET default_transaction_isolation = 'serializable'", name))
	execute(t, s.pool, fmt.Sprintf("ALTER DATABASE %s SET default_transaction_read_only = on", name))
	s = open(t, databaseURL, Options{MaxConns: 6})
	if got := query[string](t, s, "SHOW transaction_isolation"); got != "serializable" {
		t.Fatal("the database isn't set up for the test")
	}
	fight(t, s)
	if got := drift(t, s); got != "0" {
		t.Errorf("the books are off by %s", got)
	}
	if n := s.Stats().Retries; n != 0 {
		t.Errorf("%d tries failed", n)
	}
}

func TestProbeTellsADirectConnection(t *testing.T) {
	s := open(t, database(t), Options{})
	server, err := s.Probe(t.Context())
	if err != nil || server.Pooler != "" || server.Version == "" || server.InRecovery || server.MaxConnections == 0 ||
		server.SynchronousCommit == "" {
		t.Errorf("%+v, %v", server, err)
	}
}

func TestAStoppedFlusherDoesNotKeepTheOthersFromItsRows(t *testing.T) {
	databaseURL := database(t)
	s := open(t, databaseURL, Options{})
	p := newProducer()
	r := request{spend.Series{APIKey: "k"}, noon, one("1")}
	apply(t, s, flushOf(p, 1, 1, r))
	// A flusher that has claimed and is heard of no more, its connection left open.
	conn, err := s.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	f := flushOf(p, 2, 2, r)
	var e encoder
	stopped := &transaction{store: s, conn: conn.Conn().PgConn()}
	if err := stopped.beginAndClaim(t.Context(), f, encodeFlush(&e, f, nil, 1)); err != nil {
		t.Fatal(err)
	}
	apply(t, s, f) // would wait for ever
	if err := stopped.commit(t.Context()); err == nil {
		t.Error("the stopped flusher could commit")
	}
	wantAudit(t, s)
}

func TestADropOfEveryConnectionBetweenFlushesIsGotOver(t *testing.T) {
	s := open(t, database(t), Options{})
	p := newProducer()
	r := rand.New(rand.NewPCG(16, 1))
	for n := range uint64(5) {
		apply(t, s, flushOf(p, n+1, n+1, traffic(r, 10, 10)...))
		other, err := pgx.Connect(t.Context(), s.pool.Config().ConnString())
		if err != nil {
			t.Fatal(err)
		}
		_, err = other.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE datname = current_database() AND pid <> pg_backend_pid()`)
		if err != nil {
			t.Fatal(err)
		}
		other.Close(context.WithoutCancel(t.Context()))
	}
	wantAudit(t, open(t, s.pool.Config().ConnString(), Options{}))
}

func TestAServerKilledAndRestartedUnderAFlusherKeepsExactBooks(t *testing.T) {
	server := testserver.NewPostgres(t)
	databaseURL := server.URL("postgres")
	migrate(t, databaseURL)
	s := open(t, databaseURL, Options{})
	p := newProducer()
	r := rand.New(rand.NewPCG(17, 1))
	killed := make(chan error, 1)
	for n := uint64(1); n <= 60; n++ {
		if n == 20 {
			go func() {
				ctx := context.WithoutCancel(t.Context())
				if err := server.Kill(); err != nil {
					killed <- err
					return
				}
				killed <- server.Restart(ctx)
			}()
		}
		f := flushOf(p, n, n, traffic(r, 50, 40)...)
		for {
			err := s.Apply(t.Context(), f)
			if err == nil {
				break
			}
			marks, err := s.Marks(t.Context(), 0, []spend.ProducerID{p})
			if err == nil && marks.Of[p].Sequence == n {
				break // it was committed after all
			}
			if t.Context().Err() != nil {
				t.Fatal(err)
			}
		}
	}
	if err := <-killed; err != nil {
		t.Fatal(err)
	}
	wantAudit(t, s)
}

func TestTheURLMayNameAnApplication(t *testing.T) {
	databaseURL := database(t)
	s := open(t, databaseURL, Options{ApplicationName: "given"})
	if got := query[string](t, s, "SHOW application_name"); got != "given" {
		t.Errorf("application_name is %s", got)
	}
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	values := u.Query()
	values.Set("application_name", "from-url")
	u.RawQuery = values.Encode()
	s = open(t, u.String(), Options{ApplicationName: "given"})
	if got := query[string](t, s, "SHOW application_name"); got != "from-url" {
		t.Errorf("application_name is %s", got)
	}
}
