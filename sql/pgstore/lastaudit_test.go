package pgstore

import (
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spendflush/spendflush/spend"
)

func summary(t *testing.T, s *Store) Summary {
	t.Helper()
	g, err := s.Summary(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestTheLastAuditIsKnownToWhoeverLooks(t *testing.T) {
	databaseURL := database(t)
	auditor, other := open(t, databaseURL, Options{}), open(t, databaseURL, Options{})
	if g := summary(t, other); g.Quarantined != 0 || g.LostBatches != 0 || g.LastAudit != nil {
		t.Errorf("empty books stand like this: %+v", g)
	}
	apply(t, auditor, flushOf(newProducer(), 1, 1, request{spend.Series{APIKey: "a"}, noon, one("1")}))
	wantAudit(t, auditor)
	first := summary(t, other).LastAudit
	if first == nil || !first.OK || first.Failed != "" || first.Took <= 0 || time.Since(first.AsOf).Abs() > time.Hour {
		t.Fatalf("after an audit of books in order: %+v", first)
	}
	execute(t, auditor.pool, "UPDATE spendflush.total SET spend = spend + 1")
	if _, err := auditor.Audit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if last := summary(t, other).LastAudit; last.OK || last.Failed != "totals of api_key, each total = its rollups" || !last.AsOf.After(first.AsOf) {
		t.Errorf("after an audit of books that are wrong: %+v", last)
	}
	// One that began earlier and ended later.
	if err := auditor.noteAudit(t.Context(), AuditReport{OK: true, AsOf: first.AsOf}, time.Second); err != nil {
		t.Fatal(err)
	}
	if last := summary(t, other).LastAudit; last.OK {
		t.Error("an older audit has replaced a later one")
	}
}

func TestWhatIsSetAsideOrLostIsSeen(t *testing.T) {
	s := open(t, database(t), Options{})
	if err := s.Quarantine(t.Context(), []spend.BadBatch{{Reason: "r", Bytes: []byte("x")}}); err != nil {
		t.Fatal(err)
	}
	execute(t, s.pool, `INSERT INTO spendflush.lost_batches (producer, shard, first_sequence, last_sequence, reason, found_at)
		VALUES (gen_random_uuid(), 0, 1, 7, 'r', NULL), (gen_random_uuid(), 0, 2, 2, 'r', now())`)
	if st := summary(t, s); st.Quarantined != 1 || st.LostBatches != 7 {
		t.Errorf("%+v", st)
	}
}

func TestBooksThatMayOnlyBeReadAreAuditedAllTheSame(t *testing.T) {
	databaseURL := database(t)
	s := open(t, databaseURL, Options{})
	execute(t, s.pool, `CREATE ROLE reads_only LOGIN PASSWORD 'reads';
		GRANT USAGE ON SCHEMA spendflush TO reads_only; GRANT SELECT ON ALL TABLES IN SCHEMA spendflush TO reads_only`)
	defer execute(t, s.pool, "DROP OWNED BY reads_only; DROP ROLE reads_only")
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("reads_only", "reads")
	reader := open(t, u.String(), Options{})
	wantAudit(t, reader)
	if last := summary(t, reader).LastAudit; last != nil {
		t.Errorf("the audit was noted: %+v", last)
	}
}

func TestOfAllWhoAskWhetherAnAuditIsDueOneIsTold(t *testing.T) {
	s := open(t, database(t), Options{MaxConns: 8})
	for round := range 3 {
		var told atomic.Int64
		var work sync.WaitGroup
		for range 16 {
			work.Go(func() {
				due, err := s.ClaimAudit(t.Context(), time.Hour)
				if err != nil {
					t.Error(err)
				}
				if due {
					told.Add(1)
				}
			})
		}
		work.Wait()
		if told.Load() != 1 {
			t.Errorf("round %d: %d were told", round, told.Load())
		}
		execute(t, s.pool, "UPDATE spendflush.last_audit SET claimed_at = claimed_at - interval '61 minutes'")
	}
	wantAudit(t, s) // one made by hand puts the next off too
	if due, err := s.ClaimAudit(t.Context(), time.Hour); due || err != nil {
		t.Errorf("right after an audit the next is due: %t, %v", due, err)
	}
}
