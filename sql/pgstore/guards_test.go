package pgstore

import (
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/spendflush/spendflush/spend"
)

// These tests are about guards whose loss no other test noticed; see internal/lab/mutants.

// impatient returns a Store on a new database that looks for deadlocks often, and that sends rows
// in any order and as if none of them were known.
func impatient(t *testing.T) *Store {
	t.Helper()
	databaseURL := database(t)
	s := open(t, databaseURL, Options{})
	execute(t, s.pool, "ALTER DATABASE "+query[string](t, s, "SELECT current_database()")+" SET deadlock_timeout = '10ms'")
	s = open(t, databaseURL, Options{MaxConns: 8, KnownKeys: -1})
	s.anyOrder = true
	return s
}

// Sorted rows don't deadlock, and rows are sorted twice, before they are sent and in the
// statements. This is about the second time.
func TestStatementsLockRowsInOneOrderWhateverTheyAreSent(t *testing.T) {
	s := impatient(t)
	overlap(t, s, true)
	if got := s.Stats(); got.Deadlocks != 0 || got.Commits != 48 {
		t.Errorf("%+v", got)
	}
	wantAudit(t, s)
}

// Whoever writes the same rollups writes the same totals before, and waits there; unless the totals
// are of another shard.
func TestRollupsAloneAreLockedInOneOrderWhateverTheyAreSent(t *testing.T) {
	s := impatient(t)
	var group sync.WaitGroup
	for i := range 8 {
		r := rand.New(rand.NewPCG(20, uint64(i)))
		group.Go(func() {
			p := newProducer()
			for n := range uint64(6) {
				f := flushOf(p, n+1, n+1, traffic(r, 300, 200)...)
				f.Totals, f.Control, f.Shard = nil, spend.Control{Rollups: f.Control.Rollups}, i
				r.Shuffle(len(f.Rollups), func(i, j int) { f.Rollups[i], f.Rollups[j] = f.Rollups[j], f.Rollups[i] })
				if err := s.Apply(t.Context(), f); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if got := s.Stats(); got.Deadlocks != 0 || got.Commits != 48 || drift(t, s) != "0" {
		t.Errorf("%+v, the books are off by %s", got, drift(t, s))
	}
}

// In the hour in which it was booked, the rollup row is taken for known and isn't there; in the
// next one it is new, and Postgres has to notice.
func TestASeriesMissingFromTheDictionaryIsTakenUpAgain(t *testing.T) {
	for _, later := range []spend.Hour{0, 1} {
		s := open(t, database(t), Options{})
		p := newProducer()
		r := request{spend.Series{APIKey: "k", Tags: []string{"t"}}, noon, one("1")}
		apply(t, s, flushOf(p, 1, 1, r))
		execute(t, s.pool, "TRUNCATE spendflush.rollup, spendflush.series, spendflush.series_tag")
		r.hour += later
		apply(t, s, flushOf(p, 2, 2, r))
		if got := s.Stats(); got.Relearned != 1 {
			t.Errorf("%d hours later: %+v, want the series to be learned anew", later, got)
		}
		if got := query[int](t, s, "SELECT count(*) FROM spendflush.daily_spend WHERE entity_id = 'k'"); got != 1 {
			t.Errorf("%d hours later: %d rows name the key", later, got)
		}
	}
}

func TestATotalWithoutAnEntityIsRefused(t *testing.T) {
	s := open(t, database(t), Options{})
	_, err := s.pool.Exec(t.Context(), "INSERT INTO spendflush.total VALUES (gen_random_uuid(), 0, 0, 0, 1, 10, 5, now(), 1, 0)")
	if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.ConstraintName != "total_has_entity" {
		t.Errorf("Postgres says %v", err)
	}
}

func TestClaimsLockMarksInOneOrderWhateverTheyAreSent(t *testing.T) {
	s := impatient(t)
	producers := make([]spend.ProducerID, 1000)
	for i := range producers {
		producers[i] = newProducer()
	}
	const writers, rounds = 6, 6
	for n := range uint64(rounds) {
		var group sync.WaitGroup
		var errs [writers]error
		for i := range errs {
			f := flushOf(producers[0], n+1, n+1, request{spend.Series{APIKey: "k"}, noon, one("1")})
			for _, p := range producers[1:] {
				f.Claims = append(f.Claims, spend.Claim{Producer: p, First: n + 1, Last: n + 1, Prior: digestAt(n), Digest: digestAt(n + 1)})
			}
			r := rand.New(rand.NewPCG(n, uint64(i)))
			r.Shuffle(len(f.Claims), func(i, j int) { f.Claims[i], f.Claims[j] = f.Claims[j], f.Claims[i] })
			group.Go(func() { errs[i] = s.Apply(t.Context(), f) })
		}
		group.Wait()
		for _, err := range errs {
			if err != nil && !errors.Is(err, spend.ErrFenced) {
				t.Errorf("round %d: %v", n, err)
			}
		}
	}
	if got := s.Stats(); got.Deadlocks != 0 || got.Commits != rounds {
		t.Errorf("%+v", got)
	}
	wantAudit(t, s)
}

func TestRowsThatSomebodySwallowsUndoTheFlush(t *testing.T) {
	for _, table := range []string{"total", "rollup"} {
		s := open(t, database(t), Options{})
		execute(t, s.pool, `CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
			CREATE TRIGGER swallow BEFORE INSERT ON spendflush.`+table+` FOR EACH ROW EXECUTE FUNCTION swallow()`)
		f := flushOf(newProducer(), 1, 1, request{spend.Series{APIKey: "k"}, noon, one("1")})
		if err := s.Apply(t.Context(), f); !errors.Is(err, errShort) {
			t.Errorf("%s: Apply returned %v", table, err)
		}
		if n := query[int](t, s, "SELECT count(*) FROM spendflush.producers"); n != 0 {
			t.Errorf("%s: the mark moved", table)
		}
	}
}

func TestATransactionMayNotIdleNorWaitForLong(t *testing.T) {
	s := open(t, database(t), Options{})
	// A trigger sees what holds in the transaction.
	execute(t, s.pool, `CREATE TABLE seen (idle text, wait text);
		CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			INSERT INTO public.seen VALUES (current_setting('idle_in_transaction_session_timeout'), current_setting('lock_timeout'));
			RETURN NULL; END $$;
		CREATE TRIGGER see AFTER INSERT ON spendflush.producers FOR EACH ROW EXECUTE FUNCTION see()`)
	apply(t, s, flushOf(newProducer(), 1, 1, request{spend.Series{APIKey: "k"}, noon, one("1")}))
	for column, want := range map[string]time.Duration{"idle": idleTimeout, "wait": lockTimeout} {
		text := query[string](t, s, "SELECT "+column+" FROM seen")
		if got, err := time.ParseDuration(text); err != nil || got != want {
			t.Errorf("%s is bounded by %s, want %s", column, text, want)
		}
	}
}

// refuseOne has one row of a flush put into quarantine, and returns the way to make room for it.
func refuseOne(t *testing.T, s, aside *Store, p spend.ProducerID) (makeRoom func()) {
	t.Helper()
	r := request{spend.Series{APIKey: "k"}, noon, one("1")}
	apply(t, s, flushOf(p, 1, 1, r))
	execute(t, aside.pool, "BEGIN READ WRITE; SET LOCAL search_path = pg_catalog; UPDATE spendflush.total SET prompt_tokens = 9223372036854775807; COMMIT")
	apply(t, s, flushOf(p, 2, 2, r))
	return func() {
		execute(t, aside.pool, "BEGIN READ WRITE; SET LOCAL search_path = pg_catalog; UPDATE spendflush.total SET prompt_tokens = 10; COMMIT")
	}
}

func TestARefusedRowIsSetAsideOnceThoughItsFlushIsTriedTwice(t *testing.T) {
	s := open(t, database(t), Options{})
	commits := 0
	s.statement = func(name string) string {
		if name == "commit" {
			if commits++; commits == 2 { // that of the flush with the row
				return "ROLLBACK"
			}
		}
		return embedded.get(name)
	}
	makeRoom := refuseOne(t, s, s, newProducer())
	if commits != 3 {
		t.Fatalf("%d commits were tried, want 3", commits)
	}
	if n := query[int](t, s, "SELECT count(*) FROM spendflush.quarantine"); n != 1 {
		t.Errorf("%d rows are set aside, want 1", n)
	}
	makeRoom()
	if names, _ := failed(t, s); len(names) != 0 {
		t.Errorf("the checks that fail are %q", names)
	}
}

func TestAQuarantinedRowIsAppliedByOneOfManyThatComeAtOnce(t *testing.T) {
	s := open(t, database(t), Options{MaxConns: 8})
	refuseOne(t, s, s, newProducer())()
	id := query[int64](t, s, "SELECT id FROM spendflush.quarantine")
	// Until all have come, none gets to the row that it adds to.
	gate, err := s.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := gate.Exec(t.Context(), "LOCK TABLE spendflush.total IN EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	const appliers = 4
	var group sync.WaitGroup
	var errs [appliers]error
	for i := range errs {
		group.Go(func() { errs[i] = s.ApplyQuarantined(t.Context(), id, "a test") })
	}
	for waiting := 0; waiting < appliers; {
		waiting = query[int](t, s, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
	}
	if err := gate.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	group.Wait()
	applied := 0
	for _, err := range errs {
		if err == nil {
			applied++
		} else if !errors.Is(err, ErrNotQuarantined) {
			t.Error(err)
		}
	}
	if applied != 1 {
		t.Errorf("the row was applied %d times", applied)
	}
	if names, _ := failed(t, s); len(names) != 0 {
		t.Errorf("the checks that fail are %q", names)
	}
}
