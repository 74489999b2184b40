package memstore_test

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/memstore"
)

var sealedAt = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// chain returns batches of a new producer, each of one update of so many dollars.
func chain(s *memstore.Store, born time.Time, dollars ...int64) (batches []*spend.Batch) {
	h := spend.Header{Producer: spend.NewProducerID(born), SealedAt: sealedAt, Books: s.Snapshot().Books}
	series := spend.Series{APIKey: "key", Model: "model", Tags: []string{"tag"}}
	for _, n := range dollars {
		c := spend.Counters{Spend: spend.Dollars(n), SuccessfulRequests: 1}
		h.Sequence++
		var totals []spend.TotalRow
		series.EachEntity(func(e spend.Entity) {
			totals = append(totals, spend.TotalRow{Key: e.Key(), Entity: e, Counters: c})
		})
		slices.SortFunc(totals, func(a, b spend.TotalRow) int { return a.Key.Compare(b.Key) })
		b := spend.NewBatch(h, totals, []spend.RollupRow{spend.NewRollupRow(&series, spend.HourOf(sealedAt), c)})
		h.PriorDigest, h.PriorUpdates, h.PriorAmount = b.Digest(), h.PriorUpdates+1, h.PriorAmount.Add(c.Spend)
		batches = append(batches, b)
	}
	return batches
}

func flushOf(t *testing.T, s *memstore.Store, b *spend.Batch) *spend.Flush {
	t.Helper()
	marks, err := s.Marks(t.Context(), b.Shard, []spend.ProducerID{b.Producer})
	if err != nil {
		t.Fatal(err)
	}
	f, err := b.Flush(marks.Of[b.Producer])
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func commit(t *testing.T, s *memstore.Store, batches ...*spend.Batch) {
	t.Helper()
	for _, b := range batches {
		if err := s.Apply(t.Context(), flushOf(t, s, b)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWhatIsBookedCanBeRead(t *testing.T) {
	s := memstore.New(memstore.Options{})
	batches := chain(s, sealedAt, 1, 2)
	commit(t, s, batches...)
	want := spend.Counters{Spend: spend.Dollars(3), SuccessfulRequests: 2}
	if got := s.Total(spend.Entity{Type: spend.APIKey, ID: "key"}); got != want {
		t.Errorf("the key has %+v", got)
	}
	if got := s.Total(spend.Entity{Type: spend.APIKey, ID: "tag"}); got != (spend.Counters{}) {
		t.Errorf("a key that was never used has %+v", got)
	}
	all := s.Snapshot()
	if len(all.Totals) != 2 || all.Totals[spend.Entity{Type: spend.Tag, ID: "tag"}] != want || s.Sum() != want {
		t.Errorf("%+v, in all %+v", all.Totals, s.Sum())
	}
	for key, rollup := range all.Rollups {
		if len(all.Rollups) != 1 || key.Hour != spend.HourOf(sealedAt) || key.Key != rollup.Series.Key() || rollup.Series.Model != "model" || rollup.Counters != want {
			t.Errorf("%+v: %+v", key, rollup)
		}
	}
	p := all.Producers[memstore.ProducerKey{Shard: 0, ID: batches[0].Producer}]
	if p.Mark.Sequence != 2 || p.Updates != 2 || p.Amount != spend.Dollars(3) || all.Missing() != 0 {
		t.Errorf("%+v, %d missing", p, all.Missing())
	}
}

func TestASnapshotStaysAsItWasAndCanBeRestoredTwice(t *testing.T) {
	s := memstore.New(memstore.Options{})
	batches := chain(s, sealedAt, 1, 2, 4, 8)
	commit(t, s, batches[0])
	late, err := batches[3].Alone() // the two in between are lost
	if err != nil {
		t.Fatal(err)
	}
	mark := s.Snapshot().Producers[memstore.ProducerKey{ID: batches[0].Producer}].Mark
	claim := spend.ClaimAfter(batches[0].Producer, mark)
	claim.MoveTo(batches[3])
	claim.Updates, claim.Amount = 1, spend.Dollars(8)
	late.Claims = []spend.Claim{claim}
	late.Lost = []spend.LostRange{{Producer: batches[0].Producer, First: 2, Last: 3, Reason: "test"}}
	if err := s.Apply(t.Context(), late); err != nil {
		t.Fatal(err)
	}

	past, again := s.Snapshot(), s.Snapshot()
	for range 2 {
		commit(t, s, batches[1:3]...)
		if err := s.Quarantine(t.Context(), []spend.BadBatch{{Reason: "test", Bytes: []byte("no batch")}}); err != nil {
			t.Fatal(err)
		}
		if now := s.Snapshot(); s.Sum().Spend != spend.Dollars(15) || now.Missing() != 0 || len(now.Quarantine) != 1 {
			t.Errorf("%+v", now)
		}
		if past.Missing() != 2 || !reflect.DeepEqual(past, again) {
			t.Fatal("the snapshot has changed")
		}
		s.Restore(past)
		if s.Sum().Spend != spend.Dollars(9) || !reflect.DeepEqual(s.Snapshot(), again) {
			t.Fatal("the store isn't as it was")
		}
	}
}

func TestAnEntryIsInQuarantineOnce(t *testing.T) {
	s := memstore.New(memstore.Options{})
	bytes := []byte("no batch")
	for _, reason := range []string{"first", "second"} {
		if err := s.Quarantine(t.Context(), []spend.BadBatch{{Reason: reason, Bytes: bytes}, {Reason: "other", Bytes: []byte(reason)}}); err != nil {
			t.Fatal(err)
		}
	}
	bytes[0] = 'x' // the caller's
	q := s.Snapshot().Quarantine
	if len(q) != 3 || string(q[0].Bytes) != "no batch" || q[0].Reason != "second" || string(q[2].Bytes) != "second" {
		t.Errorf("%+v", q)
	}
}

// What is in quarantine under a name that nobody has signed says nothing of that producer.
func TestAForeignEntryLeavesTheMarkAlone(t *testing.T) {
	for _, foreign := range []bool{false, true} {
		s := memstore.New(memstore.Options{})
		b := chain(s, sealedAt, 1, 2)
		f := flushOf(t, s, b[0])
		f.Claims[0].MoveTo(b[1])
		f.Claims[0].Updates, f.Claims[0].Amount = 1, spend.Dollars(1)
		f.Lost = []spend.LostRange{{Producer: b[0].Producer, First: 2, Last: 2, Reason: "test"}}
		if err := s.Apply(t.Context(), f); err != nil {
			t.Fatal(err)
		}
		if err := s.Quarantine(t.Context(), []spend.BadBatch{{Reason: "test", Bytes: b[1].Bytes(), Foreign: foreign}}); err != nil {
			t.Fatal(err)
		}
		if p := s.Snapshot().Producers[memstore.ProducerKey{ID: b[0].Producer}]; p.Mark.HasQuarantined(2) == foreign {
			t.Errorf("foreign: %t: %+v", foreign, p.Mark)
		}
	}
}

func TestTheClockDecidesWhatIsPruned(t *testing.T) {
	const month = 30 * 24 * time.Hour
	now := sealedAt
	s := memstore.New(memstore.Options{Now: func() time.Time { return now }})
	living, dead := chain(s, now, 1), chain(s, now, 2)
	commit(t, s, living[0], dead[0])
	touch := func(callers time.Time) int64 {
		t.Helper()
		n, err := s.TouchMarks(t.Context(), []spend.ProducerID{living[0].Producer}, callers, month)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := touch(now.Add(2 * month)); n != 0 {
		t.Errorf("%d pruned by a caller whose clock is ahead", n)
	}
	now = now.Add(2 * month)
	if n := touch(now.Add(-2 * time.Hour)); n != 0 {
		t.Errorf("%d pruned by clocks that are two hours apart", n)
	}
	if n := touch(now); n != 1 {
		t.Errorf("%d pruned", n)
	}
	marks, err := s.Marks(t.Context(), 0, []spend.ProducerID{living[0].Producer, dead[0].Producer})
	if err != nil || !marks.Pruned(dead[0].Producer) || marks.Of[living[0].Producer].Sequence != 1 {
		t.Errorf("%+v, %v", marks, err)
	}
	f, err := dead[0].Flush(spend.Mark{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Apply(t.Context(), f); !errors.Is(err, spend.ErrFenced) {
		t.Errorf("a claim of a producer that was pruned: %v", err)
	}
	if all := s.Snapshot(); len(all.Pruned) != 1 || s.Sum().Spend != spend.Dollars(3) {
		t.Errorf("%+v", all)
	}
}

func TestAFlushThatContradictsItselfIsRefusedAndLeavesNothing(t *testing.T) {
	for name, spoil := range map[string]func(*spend.Flush){
		"no claim":                       func(f *spend.Flush) { f.Claims = nil },
		"a claim from zero":              func(f *spend.Flush) { f.Claims[0].First = 0 },
		"a claim backwards":              func(f *spend.Flush) { f.Claims[0].First = 2 },
		"claims twice":                   func(f *spend.Flush) { f.Claims = append(f.Claims, f.Claims[0]) },
		"totals out of order":            func(f *spend.Flush) { slices.Reverse(f.Totals) },
		"a total of no entity type":      func(f *spend.Flush) { f.Totals[0].Entity.Type = 0 },
		"a total of a type that isn't":   func(f *spend.Flush) { f.Totals[0].Entity.Type = 200 },
		"rollups twice":                  func(f *spend.Flush) { f.Rollups = append(f.Rollups, f.Rollups[0]) },
		"a total that is too small":      func(f *spend.Flush) { f.Totals[1].Counters.PromptTokens-- },
		"a rollup that is too large":     func(f *spend.Flush) { f.Rollups[0].Counters.FailedRequests++ },
		"a control sum of nothing":       func(f *spend.Flush) { f.Control.Of(spend.EndUser).PromptTokens++ },
		"more claimed than in the rows":  func(f *spend.Flush) { f.Claims[0].Updates++ },
		"a batch found without its rows": func(f *spend.Flush) { f.Found = []spend.FoundBatch{{Sequence: 1, Updates: 1}} },
		"found out of order":             func(f *spend.Flush) { f.Found = []spend.FoundBatch{{Sequence: 2}, {Sequence: 1}} },
		"lost, and not claimed":          func(f *spend.Flush) { f.Lost = []spend.LostRange{{First: 1, Last: 1}} },
		"lost twice": func(f *spend.Flush) {
			lost := spend.LostRange{Producer: f.Claims[0].Producer, First: 1, Last: 1}
			f.Lost = []spend.LostRange{lost, lost}
		},
		"lost backwards": func(f *spend.Flush) { f.Lost = []spend.LostRange{{Producer: f.Claims[0].Producer, First: 1}} },
		"quarantined without its bytes": func(f *spend.Flush) {
			f.Lost = []spend.LostRange{{Producer: f.Claims[0].Producer, First: 1, Last: 1, Quarantined: true}}
		},
		"bytes in quarantine that aren't lost": func(f *spend.Flush) { f.Quarantine = []spend.BadBatch{{}} },
	} {
		s := memstore.New(memstore.Options{})
		f := flushOf(t, s, chain(s, sealedAt, 1)[0])
		spoil(f)
		before := s.Snapshot()
		if err := s.Apply(t.Context(), f); !errors.Is(err, memstore.ErrBadFlush) {
			t.Errorf("%s: %v", name, err)
		}
		if !reflect.DeepEqual(s.Snapshot(), before) {
			t.Errorf("%s: something is left", name)
		}
	}
}

func TestNewBooksAreOthers(t *testing.T) {
	a, _ := memstore.New(memstore.Options{}).Books(context.Background())
	b, _ := memstore.New(memstore.Options{}).Books(context.Background())
	if parsed, err := spend.ParseBooksID(a.String()); err != nil || parsed != a || a == b {
		t.Errorf("%s, %s, %v", a, b, err)
	}
	given := spend.BooksID{7}
	if id, _ := memstore.New(memstore.Options{Books: given}).Books(context.Background()); id != given {
		t.Errorf("%s", id)
	}
}

// A database that is put back loses ids with the sums that they were counted in.
func TestIDsGoBackWithTheBooks(t *testing.T) {
	s := memstore.New(memstore.Options{})
	var facts spend.FactBatch
	series := spend.Series{APIKey: "k"}
	canonical := spend.CanonicalSeries(series.AppendCanonical(nil, spend.AllDimensions))
	id := spend.NewFactID(spend.UpdateFact, "1")
	facts.Add(id, 1, true, spend.FactPart{Series: canonical, Key: canonical.Key(), Counters: spend.Counters{SuccessfulRequests: 1}})
	books, err := s.Books(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b := facts.Seal(&spend.BatchKeys{}, spend.Header{Producer: spend.NewProducerID(time.Now()), Sequence: 1, Books: books})
	f, err := b.Flush(spend.Mark{})
	if err != nil {
		t.Fatal(err)
	}
	before := s.Snapshot()
	for range 2 {
		if err := s.Apply(t.Context(), f); err != nil {
			t.Fatal(err)
		}
		if n := s.Sum().SuccessfulRequests; n != 1 {
			t.Errorf("%d updates are booked", n)
		}
		s.Restore(before)
	}
	if known, err := s.Fact(t.Context(), id); err != nil || len(known) != 0 {
		t.Errorf("%+v, %v", known, err)
	}
}

func TestMemoryForgetsIDsThatAreOlderThanTheWindow(t *testing.T) {
	now := time.Now()
	s := memstore.New(memstore.Options{Now: func() time.Time { return now }})
	id := spend.NewFactID(spend.UpdateFact, "1")
	state := s.Snapshot()
	state.Facts[id] = []spend.CommittedFact{{KnownFact: spend.KnownFact{ID: id}, At: now.Add(-time.Hour)}}
	s.Restore(state)
	for _, c := range []struct {
		window time.Duration
		want   int
	}{{2 * time.Hour, 1}, {time.Minute, 0}} {
		if err := s.TendFacts(t.Context(), c.window); err != nil {
			t.Fatal(err)
		}
		if known, err := s.Fact(t.Context(), id); err != nil || len(known) != c.want {
			t.Errorf("%s: %+v, %v", c.window, known, err)
		}
	}
}
