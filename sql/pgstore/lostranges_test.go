package pgstore

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/spendflush/spendflush/spend"
)

// batchAt returns the batch of a producer at that place, with so many before it that nobody has
// seen, of a dollar each.
func batchAt(p spend.ProducerID, sequence uint64) *spend.Batch {
	f := flushOf(p, sequence, sequence, costOne)
	prior := int64(sequence - 1)
	return spend.NewBatch(spend.Header{
		Books: testBooks, Producer: p, Sequence: sequence, PriorDigest: spend.Digest{9}, PriorUpdates: prior, PriorAmount: spend.Dollars(prior),
	}, f.Totals, f.Rollups)
}

// find books a batch that was skipped as lost.
func find(t testing.TB, s *Store, b *spend.Batch) {
	t.Helper()
	f, err := b.Flush(markOf(t, s, b.Producer))
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Found) != 1 {
		t.Fatalf("batch %d isn't taken for one that was lost", b.Sequence)
	}
	apply(t, s, f)
}

func setAside(t testing.TB, s *Store, b *spend.Batch) {
	t.Helper()
	if err := s.Quarantine(t.Context(), []spend.BadBatch{{Reason: "refused", Bytes: b.Bytes()}}); err != nil {
		t.Fatal(err)
	}
}

// wantRanges looks at the ranges of the mark, written as in "1-4,6-9", and at the rows of those
// that are missing.
func wantRanges(t testing.TB, s *Store, p spend.ProducerID, marked, missing string) {
	t.Helper()
	var ranges []string
	for _, r := range markOf(t, s, p).Lost {
		ranges = append(ranges, fmt.Sprintf("%d-%d", r.First, r.Last))
	}
	if got := strings.Join(ranges, ","); got != marked {
		t.Errorf("lost are by the mark %q, want %q", got, marked)
	}
	got := query[string](t, s, `SELECT coalesce(string_agg(first_sequence || '-' || last_sequence, ',' ORDER BY first_sequence), '')
		FROM spendflush.lost_batches WHERE producer = $1 AND found_at IS NULL AND NOT quarantined`, [16]byte(p))
	if got != missing {
		t.Errorf("missing are the rows %q, want %q", got, missing)
	}
}

// Postgres was turned back by more batches than there could be a row for each.
func TestAGapOfThreeBillionBatchesIsSkippedByOneClaimAsOneRow(t *testing.T) {
	const far = 3_000_000_001
	s := open(t, database(t), Options{})
	p := newProducer()
	apply(t, s, skippingGap(batchAt(p, far), 1))
	wantRanges(t, s, p, "1-3000000000", "1-3000000000")
	wantLost(t, s, far-1, "3000000000")
	if n := query[int](t, s, "SELECT count(*) FROM spendflush.lost_batches"); n != 1 {
		t.Errorf("%d rows", n)
	}
	if g := summary(t, s); g.LostBatches != far-1 {
		t.Errorf("at a glance: %+v", g)
	}
	if c, err := s.Counts(t.Context()); err != nil || c.LostBatches != far-1 {
		t.Errorf("counts: %+v, %v", c, err)
	}

	find(t, s, batchAt(p, 2_000_000_000))
	wantRanges(t, s, p, "1-1999999999,2000000001-3000000000", "1-1999999999,2000000001-3000000000")
	wantLost(t, s, far-2, "2999999999")
	if report, err := s.Spend(t.Context(), spend.Entity{Type: spend.Team, ID: "t"}, []spend.ProducerID{p}); err != nil ||
		report.Marks[0].Has(1_999_999_999) || !report.Marks[0].Has(2_000_000_000) || report.Marks[0].Has(2_000_000_001) {
		t.Errorf("spend: %+v, %v", report, err)
	}
	list, err := s.LostBatches(t.Context(), LostMissing, nil, 10)
	if err != nil || len(list) != 2 || list[1].First != 1 || list[1].Last != 1_999_999_999 || list[0].Batches != far-2 || list[0].Amount != dollars("2999999999") {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestABatchThatIsFoundLeavesTheRestOfItsRangeLost(t *testing.T) {
	s := open(t, database(t), Options{})
	for name, c := range map[string]struct {
		lost            uint64
		found           []uint64
		marked, missing string
	}{
		"the first":   {5, []uint64{1}, "2-5", "2-5"},
		"the last":    {5, []uint64{5}, "1-4", "1-4"},
		"the middle":  {5, []uint64{3}, "1-2,4-5", "1-2,4-5"},
		"the only":    {1, []uint64{1}, "", ""},
		"of two":      {2, []uint64{2}, "1-1", "1-1"},
		"one by one":  {7, []uint64{2, 6, 4, 5, 7}, "1-1,3-3", "1-1,3-3"},
		"all of them": {3, []uint64{2, 3, 1}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProducer()
			apply(t, s, skippingGap(batchAt(p, c.lost+1), 1))
			stale := markOf(t, s, p)
			for _, sequence := range c.found {
				find(t, s, batchAt(p, sequence))
				again, err := batchAt(p, sequence).Flush(stale)
				if err != nil {
					t.Fatal(err)
				}
				wantFenced(t, s, again)
			}
			wantRanges(t, s, p, c.marked, c.missing)
			wantAudit(t, s)
		})
	}
}

func TestBatchesOfOneRangeAreFoundByOneFlush(t *testing.T) {
	s := open(t, database(t), Options{})
	p := newProducer()
	apply(t, s, skippingGap(batchAt(p, 10), 1))
	apply(t, s, skippingGap(batchAt(p, 20), 11))
	found := func(sequences ...uint64) *spend.Flush {
		requests := make([]request, len(sequences))
		for i := range requests {
			requests[i] = costOne
		}
		f := flushOf(p, 1, 1, requests...)
		f.Claims = nil
		for _, sequence := range sequences {
			f.Found = append(f.Found, spend.FoundBatch{Producer: p, Sequence: sequence, Updates: 1, Amount: dollars("1")})
		}
		return f
	}
	wantFenced(t, s, found(3, 10)) // the tenth isn't lost
	wantFenced(t, s, found(3, 3))
	wantRanges(t, s, p, "1-9,11-19", "1-9,11-19")
	apply(t, s, found(1, 3, 4, 9, 15))
	wantRanges(t, s, p, "2-2,5-8,11-14,16-19", "2-2,5-8,11-14,16-19")
	wantFenced(t, s, found(5, 9))
	wantRanges(t, s, p, "2-2,5-8,11-14,16-19", "2-2,5-8,11-14,16-19")
	wantLost(t, s, 13, "13")
}

// Its producer lets go of it, and of no other one.
func TestABatchThatIsSetAsideLeavesTheRestOfItsRangeLost(t *testing.T) {
	s := open(t, database(t), Options{})
	for sequence, missing := range map[uint64]string{1: "2-5", 3: "1-2,4-5", 5: "1-4"} {
		p := newProducer()
		apply(t, s, skippingGap(batchAt(p, 6), 1))
		for range 2 {
			setAside(t, s, batchAt(p, sequence))
			wantRanges(t, s, p, "1-5", missing)
			if mark := markOf(t, s, p); !slices.Equal(mark.Quarantined, []uint64{sequence}) {
				t.Errorf("batch %d: the mark is %+v", sequence, mark)
			}
		}
		wantAudit(t, s)
	}
	p := newProducer()
	apply(t, s, skippingGap(batchAt(p, 6), 1))
	err := s.Quarantine(t.Context(), []spend.BadBatch{
		{Reason: "another", Bytes: batchAt(p, 2).Bytes(), Unclaimed: true}, {Reason: "somebody's", Bytes: batchAt(p, 3).Bytes(), Foreign: true},
		{Reason: "not lost", Bytes: batchAt(p, 6).Bytes()}, {Reason: "refused", Bytes: batchAt(p, 5).Bytes()}, {Reason: "refused", Bytes: batchAt(p, 4).Bytes()},
	})
	if err != nil {
		t.Fatal(err)
	}
	wantRanges(t, s, p, "1-5", "1-3")
	if mark := markOf(t, s, p); !slices.Equal(mark.Quarantined, []uint64{4, 5}) {
		t.Errorf("the mark is %+v", mark)
	}
}

func TestABatchOfARangeThatWasSetAsideIsFoundByHandAndOneThatWasFoundIsNotSetAside(t *testing.T) {
	s := open(t, database(t), Options{})
	p := newProducer()
	apply(t, s, skippingGap(batchAt(p, 9), 1))
	setAside(t, s, batchAt(p, 4))
	find(t, s, batchAt(p, 7))
	setAside(t, s, batchAt(p, 7)) // a copy of it that came late
	wantRanges(t, s, p, "1-6,8-8", "1-3,5-6,8-8")
	open, err := s.Quarantined(t.Context(), false, 0, 10)
	if err != nil || len(open) != 2 {
		t.Fatalf("%+v, %v", open, err)
	}
	if err := s.ApplyQuarantined(t.Context(), open[1].ID, "a test"); !errors.Is(err, spend.ErrApplied) {
		t.Errorf("the one that was found: %v", err)
	}
	if err := s.ApplyQuarantined(t.Context(), open[0].ID, "a test"); err != nil {
		t.Fatal(err)
	}
	wantRanges(t, s, p, "1-3,5-6,8-8", "1-3,5-6,8-8")
	if got := query[string](t, s, "SELECT spend::text FROM spendflush.spend WHERE entity_type = 'team'"); got != "3.000000000000" {
		t.Errorf("spend is %s", got)
	}
}

// Each of them cuts the range that the others have in mind, too.
func TestBatchesOfOneRangeThatTurnUpAtOnceAllCount(t *testing.T) {
	s := open(t, database(t), Options{MaxConns: 8})
	p := newProducer()
	apply(t, s, skippingGap(batchAt(p, 13), 1))
	stale := markOf(t, s, p)
	var group errgroup.Group
	for sequence := uint64(1); sequence <= 12; sequence++ {
		group.Go(func() error {
			b := batchAt(p, sequence)
			if sequence%3 == 0 {
				return s.Quarantine(t.Context(), []spend.BadBatch{{Reason: "refused", Bytes: b.Bytes()}})
			}
			f, err := b.Flush(stale)
			if err != nil {
				return err
			}
			return s.Apply(t.Context(), f)
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	wantRanges(t, s, p, "3-3,6-6,9-9,12-12", "")
	if mark := markOf(t, s, p); !slices.Equal(mark.Quarantined, []uint64{3, 6, 9, 12}) {
		t.Errorf("the mark is %+v", mark)
	}
	wantAudit(t, s)
}

// The producer's mark was pruned: nothing but the row of what was pruned stands for it.
func TestBatchesOfARangeOfAPrunedProducerAreAppliedAtOnceAndAreNotLostAnyMore(t *testing.T) {
	s := open(t, database(t), Options{MaxConns: 8})
	p := bornAgo(40 * 24 * time.Hour)
	apply(t, s, skippingGap(batchAt(p, 9), 1))
	age(t, s, 31*24*time.Hour)
	touch(t, s, newProducer(), 1)
	for sequence := uint64(2); sequence <= 7; sequence++ {
		setAside(t, s, batchAt(p, sequence))
	}
	open, err := s.Quarantined(t.Context(), false, 0, 10)
	if err != nil || len(open) != 6 {
		t.Fatalf("%+v, %v", open, err)
	}
	// As if none of them had a row by itself yet.
	execute(t, s.pool, "DELETE FROM spendflush.lost_batches")
	execute(t, s.pool, "INSERT INTO spendflush.lost_batches (producer, shard, first_sequence, last_sequence, reason) VALUES ($1, 0, 1, 8, 'missing')", [16]byte(p))
	var group errgroup.Group
	for _, q := range open {
		group.Go(func() error { return s.ApplyQuarantined(t.Context(), q.ID, "a test") })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	wantLost(t, s, 2, "2")
}

// Sequences are forged at most as far as 63 bits go. Nothing that only counts them may fail for it.
func TestRangesOfAnyLengthAreCounted(t *testing.T) {
	s := open(t, database(t), Options{})
	for range 3 {
		execute(t, s.pool, `INSERT INTO spendflush.lost_batches (producer, shard, first_sequence, last_sequence, reason)
			VALUES (gen_random_uuid(), 0, 1, 9223372036854775807, 'r')`)
	}
	if g := summary(t, s); g.LostBatches != math.MaxInt64 {
		t.Errorf("%+v", g)
	}
	if c, err := s.Counts(t.Context()); err != nil || c.LostBatches != math.MaxInt64 {
		t.Errorf("%+v, %v", c, err)
	}
	if report, err := s.Audit(t.Context()); err != nil || report.OK || report.LostBatches != math.MaxInt64 {
		t.Errorf("%+v, %v", report, err)
	}
	if list, err := s.LostBatches(t.Context(), "", nil, 10); err != nil || len(list) != 3 || list[0].Batches != math.MaxInt64 {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestALostRangeThatIsNoneIsRefused(t *testing.T) {
	s := open(t, database(t), Options{})
	p := newProducer()
	for name, l := range map[string]spend.LostRange{
		"from zero": {Last: 3}, "backwards": {First: 3, Last: 2}, "beyond 63 bits": {First: 1, Last: 1 << 63}, "several in quarantine": {First: 1, Last: 2, Quarantined: true},
	} {
		l.Producer = p
		f := skippingGap(batchAt(p, 4), 1)
		f.Lost = []spend.LostRange{l}
		if err := s.Apply(t.Context(), f); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
