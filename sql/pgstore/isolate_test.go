package pgstore

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/spendflush/spendflush/spend"
)

func TestRowsThatPostgresRefusesAreSetAsideAndTheRestCommits(t *testing.T) {
	s := open(t, database(t), Options{})
	p := newProducer()
	apply(t, s, flushOf(p, 1, 1, traffic(rand.New(rand.NewPCG(14, 1)), 100, 50)...))
	// One total and one rollup row are so full that nothing can be added, whatever filled them.
	execute(t, s.pool, `UPDATE spendflush.total SET spend = 99999999999999999999999999
		WHERE entity = (SELECT key FROM spendflush.entity WHERE entity_type = 'team' AND entity_id = 'team-3')`)
	full := request{spend.Series{APIKey: "full"}, noon, one("1")}
	apply(t, s, flushOf(newProducer(), 1, 1, full))
	execute(t, s.pool, `UPDATE spendflush.rollup SET prompt_tokens = 9223372036854775807
		WHERE series = (SELECT key FROM spendflush.series WHERE api_key = 'full')`)
	before := query[int](t, s, "SELECT sum(updates) FROM spendflush.producers")

	requests := append(traffic(rand.New(rand.NewPCG(15, 1)), 100, 50), full)
	requests = append(requests, request{spend.Series{TeamID: "team-3"}, noon, one("2")})
	// And two that no column takes.
	broken := request{spend.Series{APIKey: "\xff\xfe", UserID: "fine", Tags: []string{"nul\x00"}}, noon, one("3")}
	requests = append(requests, broken)
	apply(t, s, flushOf(p, 2, 2, requests...))

	if got := query[int](t, s, "SELECT sum(updates) FROM spendflush.producers") - before; got != len(requests) {
		t.Errorf("%d updates are claimed, want %d", got, len(requests))
	}
	rows, err := s.pool.Query(t.Context(), "SELECT book || ' ' || names::text || ' ' || reason FROM spendflush.quarantine ORDER BY book")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			t.Fatal(err)
		}
		got = append(got, line)
	}
	want := []string{"api_key ", "rollup ", "rollup ", "tag ", "team "}
	if !slices.EqualFunc(got, want, strings.HasPrefix) {
		t.Errorf("set aside are\n%s", strings.Join(got, "\n"))
	}
	if n := s.Stats().Refused; n != int64(len(want)) {
		t.Errorf("%d rows are counted as refused", n)
	}
	// Undo what filled them: then the books add up with the rows set aside.
	execute(t, s.pool, `UPDATE spendflush.total t SET spend = c.spend - (SELECT sum(spend) FROM spendflush.spend
			WHERE entity_type = 'team' AND entity_id <> 'team-3') - (SELECT spend FROM spendflush.quarantine WHERE book = 'team')
		FROM spendflush.control c WHERE c.book = 'team'
			AND entity = (SELECT key FROM spendflush.entity WHERE entity_type = 'team' AND entity_id = 'team-3')`)
	execute(t, s.pool, `UPDATE spendflush.rollup SET prompt_tokens = 10
		WHERE series = (SELECT key FROM spendflush.series WHERE api_key = 'full')`)
	if names, _ := failed(t, s); len(names) != 0 {
		t.Errorf("the checks that fail are %q", names)
	}
	apply(t, s, flushOf(p, 3, 3, requests[:50]...))
}

func TestAFlushWhoseSumsCanNotBeClaimedIsRefused(t *testing.T) {
	s := open(t, database(t), Options{})
	p := newProducer()
	f := flushOf(p, 1, 1, request{spend.Series{APIKey: "k"}, noon, one("1")})
	f.Claims[0].Amount = dollars("99999999999999999999999999")
	apply(t, s, f)
	next := flushOf(p, 2, 2, request{spend.Series{APIKey: "k"}, noon, one("1")})
	if err := s.Apply(t.Context(), next); !errors.Is(err, ErrRefused) {
		t.Errorf("Apply returned %v", err)
	}
	if n := query[int](t, s, "SELECT sequence FROM spendflush.producers"); n != 1 {
		t.Errorf("the mark is %d", n)
	}
}

func TestAQuarantinedRowIsAppliedOnceAndADroppedOneStaysCounted(t *testing.T) {
	s := open(t, database(t), Options{})
	p := newProducer()
	r := request{spend.Series{APIKey: "k", Tags: []string{"t"}}, noon, one("1")}
	apply(t, s, flushOf(p, 1, 1, r))
	execute(t, s.pool, "UPDATE spendflush.rollup SET prompt_tokens = 9223372036854775807")
	execute(t, s.pool, "UPDATE spendflush.total SET prompt_tokens = 9223372036854775807")
	apply(t, s, flushOf(p, 2, 2, r))
	open, err := s.Quarantined(t.Context(), false, 0, 10)
	if err != nil || len(open) != 3 {
		t.Fatalf("%+v, %v", open, err)
	}
	for _, q := range open {
		if err := s.ApplyQuarantined(t.Context(), q.ID, "a test"); !errors.Is(err, ErrRefused) {
			t.Errorf("applied while the row is full: %v", err)
		}
		if q.Counters != r.counters || (q.Book == "rollup") != q.Hour.Equal(noon.Time()) || (q.Book == "rollup") != (q.Series != nil) ||
			(q.Book == "rollup") != (q.Entity == nil) {
			t.Errorf("%+v", q)
		}
	}
	execute(t, s.pool, "UPDATE spendflush.rollup SET prompt_tokens = 10")
	execute(t, s.pool, "UPDATE spendflush.total SET prompt_tokens = 10")
	for i, q := range open {
		settle := s.ApplyQuarantined
		if i == 2 {
			settle = s.DropQuarantined
		}
		if err := settle(t.Context(), q.ID, "a test"); err != nil {
			t.Fatal(err)
		}
		if err := settle(t.Context(), q.ID, "a test"); !errors.Is(err, ErrNotQuarantined) {
			t.Errorf("settled twice: %v", err)
		}
	}
	if names, _ := failed(t, s); len(names) != 0 {
		t.Errorf("the checks that fail are %q", names)
	}
	left, err := s.Quarantined(t.Context(), false, 0, 10)
	all, err2 := s.Quarantined(t.Context(), true, open[0].ID, 10)
	if err != nil || err2 != nil || len(left) != 0 || len(all) != 2 {
		t.Errorf("%+v, %+v, %v, %v", left, all, err, err2)
	}
}

func TestAQuarantinedBatchIsAppliedOnlyAsTheNextOfItsProducer(t *testing.T) {
	s := open(t, database(t), Options{})
	p := newProducer()
	r := request{spend.Series{APIKey: "k", TeamID: "t"}, noon, one("1")}
	var bad []spend.BadBatch
	for n := range uint64(2) {
		f := flushOf(p, n+1, n+1, r)
		b := spend.NewBatch(spend.Header{Books: testBooks, Producer: p, Sequence: n + 1,
			PriorUpdates: f.Claims[0].SealedUpdates - 1, PriorAmount: f.Claims[0].SealedAmount.Sub(dollars("1"))}, f.Totals, f.Rollups)
		bad = append(bad, spend.BadBatch{Reason: "was refused by an older program", Bytes: b.Bytes()})
	}
	bad = append(bad, spend.BadBatch{Reason: "corrupt", Bytes: []byte("corrupt")})
	if err := s.Quarantine(t.Context(), bad); err != nil {
		t.Fatal(err)
	}
	open, err := s.Quarantined(t.Context(), false, 0, 10)
	if err != nil || len(open) != 3 || open[1].Sequence != 2 || open[1].Producer != p {
		t.Fatalf("%+v, %v", open, err)
	}
	if bytes, err := s.QuarantinedBytes(t.Context(), open[2].ID); err != nil || string(bytes) != "corrupt" {
		t.Errorf("%q, %v", bytes, err)
	}
	if err := s.ApplyQuarantined(t.Context(), open[1].ID, "a test"); !errors.Is(err, spend.ErrGap) {
		t.Errorf("the second before the first: %v", err)
	}
	if err := s.ApplyQuarantined(t.Context(), open[2].ID, "a test"); !errors.Is(err, ErrRefused) {
		t.Errorf("the corrupt one: %v", err)
	}
	for _, q := range open[:2] {
		if err := s.ApplyQuarantined(t.Context(), q.ID, "a test"); err != nil {
			t.Fatal(err)
		}
	}
	wantFenced(t, s, flushOf(p, 2, 2, r))
	wantAudit(t, s)
}
