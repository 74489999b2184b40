package pgstore

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/spendflush/spendflush/spend"
)

const killBackend = "SELECT pg_terminate_backend(pg_backend_pid())"

// failNth makes the n-th statement of the Store, counted from 1, the given text, and says whether
// it came to that.
func failNth(s *Store, n int, text string) (reached func() bool) {
	calls := 0
	s.statement = func(name string) string {
		if calls++; calls == n {
			return text
		}
		return embedded.get(name)
	}
	return func() bool { return calls >= n }
}

func TestAConnectionKilledAtAnyStatementLosesNothingAndDoublesNothing(t *testing.T) {
	databaseURL := database(t)
	requests := traffic(rand.New(rand.NewPCG(1, 1)), 30, 20)
	flushes, unknown := 0, 0
	for n := 1; ; n++ {
		s := open(t, databaseURL, Options{}) // one that knows no key, so that all statements are run
		reached := failNth(s, n, killBackend)
		f := flushOf(newProducer(), 1, 1, requests...)
		err := s.Apply(t.Context(), f)
		if errors.Is(err, errUnknown) { // the statement was COMMIT
			unknown++
			err = s.Apply(t.Context(), f)
		} else if got := s.Stats(); reached() && got.Retries != 1 {
			t.Errorf("statement %d: %+v, want one repetition", n, got)
		}
		if err != nil {
			t.Fatalf("statement %d: %v", n, err)
		}
		flushes++
		if !reached() {
			break
		}
	}
	if flushes != 14 || unknown != 1 { // begin, settings, claim, by hand, books, two dictionaries, parts, totals, rollups, control, fingerprints, commit
		t.Fatalf("%d statements were killed, and %d times the outcome was unknown", flushes-1, unknown)
	}
	s := open(t, databaseURL, Options{})
	if got := query[int](t, s, "SELECT sum(successful_requests + failed_requests) FROM spendflush.rollup"); got != flushes*len(requests) {
		t.Errorf("%d requests are booked, want %d", got, flushes*len(requests))
	}
	wantAudit(t, s)
}

func wantAudit(t *testing.T, s *Store) {
	t.Helper()
	report, err := s.Audit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range report.Checks {
		if !c.OK {
			t.Errorf("%s: %s %+v %s", c.Name, c.Detail, c.Entities, c.Days)
		}
	}
	if !report.OK || len(report.Checks) < 15 {
		t.Errorf("audit: %+v", report)
	}
}

func TestALostReplyToCommitIsAnErrorAndTheNextTryIsFenced(t *testing.T) {
	s := open(t, database(t), Options{})
	f := flushOf(newProducer(), 1, 1, request{spend.Series{APIKey: "k"}, noon, one("1")})
	lost := false
	s.statement = func(name string) string {
		if name == "commit" && !lost {
			lost = true
			return "COMMIT; " + killBackend
		}
		return embedded.get(name)
	}
	err := s.Apply(t.Context(), f)
	if err == nil || errors.Is(err, spend.ErrFenced) {
		t.Fatalf("Apply returned %v, want an unknown outcome", err)
	}
	if err := s.Apply(t.Context(), f); !errors.Is(err, spend.ErrFenced) {
		t.Errorf("the second Apply returned %v", err)
	}
	wantAudit(t, s)
}

func TestACommitThatPostgresTurnsIntoARollbackIsNotTakenForOne(t *testing.T) {
	s := open(t, database(t), Options{})
	f := flushOf(newProducer(), 1, 1, request{spend.Series{APIKey: "k"}, noon, one("1")})
	turned := false
	s.statement = func(name string) string {
		if name == "commit" && !turned {
			turned = true
			return "ROLLBACK"
		}
		return embedded.get(name)
	}
	apply(t, s, f)
	if got := s.Stats(); got.Commits != 1 || got.Retries != 1 {
		t.Errorf("%+v, want a second try", got)
	}
	wantAudit(t, s)
}

func TestARolledBackTransactionLeavesNoKeyKnown(t *testing.T) {
	s := open(t, database(t), Options{})
	p := newProducer()
	requests := traffic(rand.New(rand.NewPCG(3, 1)), 50, 30)
	s.statement = func(name string) string {
		if name == "commit" { // after everything was written
			return killBackend
		}
		return embedded.get(name)
	}
	if err := s.Apply(t.Context(), flushOf(p, 1, 1, requests...)); !errors.Is(err, errUnknown) {
		t.Fatalf("Apply returned %v", err)
	}
	if n := s.Stats().KnownKeys; n != 0 {
		t.Errorf("%d keys are taken for known", n)
	}
	s.statement = embedded.get
	apply(t, s, flushOf(p, 1, 1, requests...))
	if got := s.Stats(); got.Relearned != 0 || got.KnownKeys == 0 {
		t.Errorf("%+v", got)
	}
	wantAudit(t, s)
}

func TestADatabaseTurnedBackToAnEarlierStateIsNeverBookedOnWrongSeries(t *testing.T) {
	s := open(t, database(t), Options{})
	p := newProducer()
	requests := traffic(rand.New(rand.NewPCG(4, 1)), 200, 60)
	apply(t, s, flushOf(p, 1, 1, requests...))
	known := s.Stats().KnownKeys
	// The state before the first flush, under a Store that remembers the one after it; other series
	// come first now.
	execute(t, s.pool, `TRUNCATE spendflush.producers, spendflush.control, spendflush.entity, spendflush.total,
		spendflush.series, spendflush.series_tag, spendflush.rollup, spendflush.day_fingerprint`)
	other := open(t, s.pool.Config().ConnString(), Options{})
	apply(t, other, flushOf(newProducer(), 1, 1, traffic(rand.New(rand.NewPCG(5, 1)), 200, 40)...))
	apply(t, s, flushOf(p, 1, 1, requests...))
	got := s.Stats()
	if got.Relearned == 0 || got.KnownKeys < known {
		t.Errorf("%+v, want the keys to be learned anew", got)
	}
	wantAudit(t, s)
}

func TestAnEntityMissingFromTheDictionaryIsTakenUpAgain(t *testing.T) {
	s := open(t, database(t), Options{})
	p := newProducer()
	r := request{spend.Series{APIKey: "k", TeamID: "t"}, noon, one("1")}
	apply(t, s, flushOf(p, 1, 1, r))
	execute(t, s.pool, "DELETE FROM spendflush.total; ")
	execute(t, s.pool, "DELETE FROM spendflush.entity")
	apply(t, s, flushOf(p, 2, 2, r))
	if got := query[int](t, s, "SELECT count(*) FROM spendflush.spend"); got != 2 {
		t.Errorf("%d entities have a total", got)
	}
}

func TestThePasswordIsInNoError(t *testing.T) {
	for _, databaseURL := range []string{
		"postgres://u:s3cret@127.0.0.1:1/db?connect_timeout=1", "postgres://u:s3cret@127.0.0.1:notaport/db", "host=x password=s3cret port=x",
	} {
		s, err := Open(t.Context(), databaseURL, Options{})
		if err == nil {
			t.Cleanup(s.Close)
			err = s.Ping(t.Context())
			if applied := s.Apply(t.Context(), flushOf(newProducer(), 1, 1)); applied == nil || strings.Contains(applied.Error(), "s3cret") {
				t.Errorf("Apply: %v", applied)
			}
		}
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%v", err)
		}
	}
}

func TestAFlushThatIsNoFlushIsRefusedAndNotSent(t *testing.T) {
	s := open(t, database(t), Options{})
	f := func(change func(*spend.Flush)) *spend.Flush {
		f := flushOf(newProducer(), 1, 1, traffic(rand.New(rand.NewPCG(6, 1)), 20, 20)...)
		change(f)
		return f
	}
	for name, f := range map[string]*spend.Flush{
		"shard":         f(func(f *spend.Flush) { f.Shard = spend.MaxShards }),
		"no claims":     f(func(f *spend.Flush) { f.Claims = nil }),
		"claims none":   f(func(f *spend.Flush) { f.Claims[0].Last = 0 }),
		"claims twice":  f(func(f *spend.Flush) { f.Claims = append(f.Claims, f.Claims[0]) }),
		"totals swap":   f(func(f *spend.Flush) { f.Totals[0], f.Totals[1] = f.Totals[1], f.Totals[0] }),
		"totals twice":  f(func(f *spend.Flush) { f.Totals[1] = f.Totals[0] }),
		"rollups twice": f(func(f *spend.Flush) { f.Rollups[1] = f.Rollups[0] }),
	} {
		if err := s.Apply(t.Context(), f); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := query[int](t, s, "SELECT count(*) FROM spendflush.producers"); got != 0 {
		t.Errorf("%d producers are known", got)
	}
}

func TestACommitIsOnDiskEvenWhereTheRoleDoesWithoutThat(t *testing.T) {
	databaseURL := database(t)
	s := open(t, databaseURL, Options{})
	execute(t, s.pool, fmt.Sprintf("ALTER DATABASE %s SET synchronous_commit = off", query[string](t, s, "SELECT current_database()")))
	s = open(t, databaseURL, Options{})
	if got := query[string](t, s, "SHOW synchronous_commit"); got != "off" {
		t.Fatal("the database isn't set up for the test")
	}
	// A deferred trigger sees what holds when the transaction commits.
	execute(t, s.pool, `CREATE TABLE seen (synchronous_commit text);
		CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			INSERT INTO public.seen VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$;
		CREATE CONSTRAINT TRIGGER see AFTER INSERT ON spendflush.producers DEFERRABLE INITIALLY DEFERRED
			FOR EACH ROW EXECUTE FUNCTION see()`)
	apply(t, s, flushOf(newProducer(), 1, 1, request{spend.Series{APIKey: "k"}, noon, one("1")}))
	if got := query[string](t, s, "SELECT synchronous_commit FROM seen"); got != "on" {
		t.Errorf("synchronous_commit is %s at COMMIT", got)
	}
}
