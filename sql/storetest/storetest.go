// Package storetest says in tests what a spend.Store must do.
package storetest

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// Run runs the suite. open returns a store with empty books, and is called for each test. It may be
// one whose books were just made empty; no test runs beside another.
func Run(t *testing.T, open func(t *testing.T) spend.Store) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, s spend.Store)
	}{
		{"BooksHaveOneIDThatStays", testBooks},
		{"EmptyBooksHaveNoMarks", testEmpty},
		{"AClaimMovesTheMark", testClaim},
		{"ABatchCountsOnce", testTwice},
		{"AClaimOnAnotherDigestIsFenced", testDigest},
		{"AClaimBehindAGapIsFenced", testGap},
		{"AFencedFlushLeavesNothing", testAllOrNothing},
		{"AFlushOfOtherBooksIsRefused", testOtherBooks},
		{"WhatAClaimPassesIsLost", testLost},
		{"ALostBatchThatIsFoundIsMissingNoMore", testFound},
		{"AFoundBatchThatIsNotMissingIsFenced", testFoundTwice},
		{"ABatchSetAsideByItsClaimIsInQuarantine", testSetAside},
		{"QuarantineCountsAsAChangeEachTime", testQuarantine},
		{"ShardsHaveNothingToDoWithEachOther", testShards},
		{"OfFlushesAtOnceOneWins", testConcurrent},
		{"ALivingProducerKeepsItsMark", testTouchMarks},
		{"AContextThatHasEndedEndsACall", testContext},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

// chain returns batches of a new producer, each of one update of so many dollars, the first one's
// sequence being 1.
func chain(t *testing.T, s spend.Store, shard int, dollars ...int64) []*spend.Batch {
	t.Helper()
	books, err := s.Books(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	h := spend.Header{Shard: shard, Producer: spend.NewProducerID(now), SealedAt: now, Books: books}
	series := spend.Series{APIKey: "storetest"}
	entity := spend.Entity{Type: spend.APIKey, ID: series.APIKey}
	var batches []*spend.Batch
	for _, n := range dollars {
		c := spend.Counters{Spend: spend.Dollars(n), SuccessfulRequests: 1}
		h.Sequence++
		b := spend.NewBatch(h, []spend.TotalRow{{Key: entity.Key(), Entity: entity, Counters: c}},
			[]spend.RollupRow{spend.NewRollupRow(&series, spend.HourOf(now), c)})
		h.PriorDigest, h.PriorUpdates, h.PriorAmount = b.Digest(), h.PriorUpdates+1, h.PriorAmount.Add(c.Spend)
		batches = append(batches, b)
	}
	return batches
}

func marks(t *testing.T, s spend.Store, shard int, producers ...spend.ProducerID) spend.Marks {
	t.Helper()
	m, err := s.Marks(t.Context(), shard, producers)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func markOf(t *testing.T, s spend.Store, b *spend.Batch) spend.Mark {
	t.Helper()
	return marks(t, s, b.Shard, b.Producer).Of[b.Producer]
}

// flushOf returns the flush that commits the batch alone.
func flushOf(t *testing.T, b *spend.Batch, mark spend.Mark) *spend.Flush {
	t.Helper()
	f, err := b.Flush(mark)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func apply(t *testing.T, s spend.Store, f *spend.Flush) {
	t.Helper()
	if err := s.Apply(t.Context(), f); err != nil {
		t.Fatal(err)
	}
}

func mustFence(t *testing.T, s spend.Store, f *spend.Flush) {
	t.Helper()
	if err := s.Apply(t.Context(), f); !errors.Is(err, spend.ErrFenced) {
		t.Errorf("%v; want ErrFenced", err)
	}
}

// commit commits batches one by one.
func commit(t *testing.T, s spend.Store, batches ...*spend.Batch) {
	t.Helper()
	for _, b := range batches {
		apply(t, s, flushOf(t, b, markOf(t, s, b)))
	}
}

// skippingGap returns the flush that commits the batch and skips all that lies between the mark and
// it.
func skippingGap(t *testing.T, b *spend.Batch, mark spend.Mark) *spend.Flush {
	t.Helper()
	f, err := b.Alone()
	if err != nil {
		t.Fatal(err)
	}
	claim := spend.ClaimAfter(b.Producer, mark)
	f.Lost = []spend.LostRange{{Producer: b.Producer, First: mark.Sequence + 1, Last: b.Sequence - 1, Reason: "storetest"}}
	claim.MoveTo(b)
	claim.Updates, claim.Amount = b.Updates, b.Amount
	f.Claims = []spend.Claim{claim}
	return f
}

func testBooks(t *testing.T, s spend.Store) {
	first, err := s.Books(t.Context())
	if err != nil || first.IsZero() {
		t.Fatalf("%s, %v", first, err)
	}
	commit(t, s, chain(t, s, 0, 1)...)
	if again, err := s.Books(t.Context()); err != nil || again != first || marks(t, s, 0).Books != first {
		t.Errorf("%s, %v; before %s", again, err, first)
	}
}

func testEmpty(t *testing.T, s spend.Store) {
	id := spend.NewProducerID(time.Now())
	if m := marks(t, s, 0, id); len(m.Of) != 0 || m.Pruned(id) {
		t.Errorf("%+v", m)
	}
}

func testClaim(t *testing.T, s spend.Store) {
	b := chain(t, s, 0, 1, 2, 3)
	before := marks(t, s, 0).Changes
	commit(t, s, b...)
	mark, last := markOf(t, s, b[0]), b[2]
	if mark.Sequence != 3 || mark.Digest != last.Digest() || mark.Updates != 3 || mark.Amount != spend.Dollars(6) ||
		len(mark.Lost)+len(mark.Quarantined) != 0 {
		t.Errorf("%+v", mark)
	}
	for _, b := range b {
		if is, known := mark.Recent.Is(mark.Sequence, b.Sequence, b.Digest()); !is || !known {
			t.Errorf("the mark doesn't know batch %d", b.Sequence)
		}
	}
	if after := marks(t, s, 0).Changes; after != before+3 {
		t.Errorf("%d changes, before %d", after, before)
	}
}

func testTwice(t *testing.T, s spend.Store) {
	b := chain(t, s, 0, 1)[0]
	f := flushOf(t, b, spend.Mark{})
	apply(t, s, f)
	mustFence(t, s, f)
	if mark := markOf(t, s, b); mark.Updates != 1 {
		t.Errorf("%+v", mark)
	}
}

func testDigest(t *testing.T, s spend.Store) {
	b := chain(t, s, 0, 1, 2)
	commit(t, s, b[0])
	f := flushOf(t, b[1], markOf(t, s, b[0]))
	f.Claims[0].Prior[0]++
	mustFence(t, s, f)
}

func testGap(t *testing.T, s spend.Store) {
	b := chain(t, s, 0, 1, 2)
	f := flushOf(t, b[1], spend.Mark{Sequence: 1, Digest: b[0].Digest(), Updates: 1, Amount: spend.Dollars(1)})
	mustFence(t, s, f)
}

func testAllOrNothing(t *testing.T, s spend.Store) {
	one, two := chain(t, s, 0, 1)[0], chain(t, s, 0, 2)[0]
	commit(t, s, two)
	f, g := flushOf(t, one, spend.Mark{}), flushOf(t, two, spend.Mark{})
	f.Claims = append(f.Claims, g.Claims...)
	slices.SortFunc(f.Claims, func(a, b spend.Claim) int { return a.Producer.Compare(b.Producer) })
	f.Totals[0].Counters.Add(&g.Totals[0].Counters)
	f.Rollups[0].Counters.Add(&g.Rollups[0].Counters)
	f.Control.Add(&g.Control)
	before := marks(t, s, 0).Changes
	mustFence(t, s, f)
	if m := marks(t, s, 0, one.Producer); len(m.Of) != 0 || m.Changes != before {
		t.Errorf("%+v; want %d changes and no mark of the first producer", m, before)
	}
}

func testOtherBooks(t *testing.T, s spend.Store) {
	b := chain(t, s, 0, 1)[0]
	f := flushOf(t, b, spend.Mark{})
	f.Books[15]++
	if err := s.Apply(t.Context(), f); !errors.Is(err, spend.ErrOtherBooks) {
		t.Errorf("%v; want ErrOtherBooks", err)
	}
	if m := marks(t, s, 0, b.Producer); len(m.Of) != 0 {
		t.Errorf("%+v", m)
	}
}

func testLost(t *testing.T, s spend.Store) {
	b := chain(t, s, 0, 1, 2, 3, 4)
	apply(t, s, skippingGap(t, b[3], spend.Mark{}))
	mark := markOf(t, s, b[0])
	if !slices.Equal(mark.Lost, []spend.SequenceRange{{First: 1, Last: 3}}) || mark.Has(2) || !mark.Has(4) || mark.Updates != 4 {
		t.Errorf("%+v", mark)
	}
}

func testFound(t *testing.T, s spend.Store) {
	b := chain(t, s, 0, 1, 2, 3, 4)
	apply(t, s, skippingGap(t, b[3], spend.Mark{}))
	commit(t, s, b[1])
	mark := markOf(t, s, b[0])
	if !slices.Equal(mark.Lost, []spend.SequenceRange{{First: 1, Last: 1}, {First: 3, Last: 3}}) || !mark.Has(2) || mark.Sequence != 4 {
		t.Errorf("%+v", mark)
	}
}

func testFoundTwice(t *testing.T, s spend.Store) {
	b := chain(t, s, 0, 1, 2)
	apply(t, s, skippingGap(t, b[1], spend.Mark{}))
	f := flushOf(t, b[0], markOf(t, s, b[0]))
	apply(t, s, f)
	mustFence(t, s, f)
}

func testSetAside(t *testing.T, s spend.Store) {
	b := chain(t, s, 0, 1)[0]
	claim := spend.ClaimAfter(b.Producer, spend.Mark{})
	claim.MoveTo(b)
	apply(t, s, &spend.Flush{
		Books: b.Books, Claims: []spend.Claim{claim},
		Lost:       []spend.LostRange{{Producer: b.Producer, First: 1, Last: 1, Reason: "storetest", Quarantined: true}},
		Quarantine: []spend.BadBatch{{Reason: "storetest", Bytes: b.Bytes()}},
	})
	if mark := markOf(t, s, b); !mark.HasQuarantined(1) || mark.Has(1) || mark.Sequence != 1 {
		t.Errorf("%+v", mark)
	}
}

func testQuarantine(t *testing.T, s spend.Store) {
	before := marks(t, s, 0).Changes
	bad := []spend.BadBatch{{Reason: "storetest", Bytes: []byte("no batch")}}
	for n := int64(1); n <= 2; n++ {
		if err := s.Quarantine(t.Context(), bad); err != nil {
			t.Fatal(err)
		}
		if after := marks(t, s, 0).Changes; after != before+n {
			t.Errorf("%d changes after %d times, before %d", after, n, before)
		}
	}

	sums := [][sha256.Size]byte{sha256.Sum256([]byte("another")), sha256.Sum256(bad[0].Bytes)}
	for shard, want := range [][]bool{{false, true}, {false, false}} {
		has, err := s.InQuarantine(t.Context(), shard, sums)
		if err != nil || !slices.Equal(has, want) {
			t.Errorf("shard %d: %t, %v", shard, has, err)
		}
	}
}

func testShards(t *testing.T, s spend.Store) {
	before := marks(t, s, 1).Changes
	b := chain(t, s, 0, 1)[0]
	commit(t, s, b)
	if m := marks(t, s, 1, b.Producer); len(m.Of) != 0 || m.Changes != before {
		t.Errorf("%+v", m)
	}
}

func testConcurrent(t *testing.T, s spend.Store) {
	b := chain(t, s, 0, 1)[0]
	errs := make([]error, 4)
	var all sync.WaitGroup
	for i := range errs {
		f := flushOf(t, b, spend.Mark{})
		all.Go(func() { errs[i] = s.Apply(t.Context(), f) })
	}
	all.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else if !errors.Is(err, spend.ErrFenced) {
			t.Error(err)
		}
	}
	if mark := markOf(t, s, b); won != 1 || mark.Updates != 1 {
		t.Errorf("%d won; %+v", won, mark)
	}
}

func testTouchMarks(t *testing.T, s spend.Store) {
	b := chain(t, s, 0, 1)[0]
	commit(t, s, b)
	if pruned, err := s.TouchMarks(t.Context(), []spend.ProducerID{b.Producer}, time.Now(), 30*24*time.Hour); err != nil || pruned != 0 {
		t.Fatalf("%d pruned, %v", pruned, err)
	}
	if m := marks(t, s, 0, b.Producer); m.Of[b.Producer].Sequence != 1 || m.Pruned(b.Producer) {
		t.Errorf("%+v", m)
	}
}

func testContext(t *testing.T, s spend.Store) {
	b := chain(t, s, 0, 1)[0]
	f := flushOf(t, b, spend.Mark{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Marks(ctx, 0, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Marks: %v", err)
	}
	if err := s.Apply(ctx, f); !errors.Is(err, context.Canceled) {
		t.Errorf("Apply: %v", err)
	}
	if m := marks(t, s, 0, b.Producer); len(m.Of) != 0 {
		t.Errorf("%+v", m)
	}
}
