package spendflush

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/memstore"
)

// chained returns the first n batches of a producer.
func chained(t testing.TB, producer int, n uint64) (batches []*spend.Batch) {
	t.Helper()
	for sequence := uint64(1); sequence <= n; sequence++ {
		batches = append(batches, testBatch(t, producer, sequence))
	}
	return batches
}

func lostOf(f *spend.Flush) (sequences []uint64) {
	for _, l := range f.Lost {
		for s := l.First; s <= l.Last; s++ {
			sequences = append(sequences, s)
		}
	}
	return sequences
}

func TestSkippedGapIsPartOfTheClaimAndSaysHowMuchIsLost(t *testing.T) {
	b := chained(t, 1, 7)
	p := offered(t, map[int]uint64{1: 1}, b[1], b[4], b[6])
	p.marks[testProducer(1)] = testMark(t, 1, 1)
	p.applied(mustTake(t, p, "0001:2-2 $2"))
	mustTake(t, p, "") // 3 and 4 are waited for
	p.skipping[testProducer(1)] = "gone"
	f := mustTake(t, p, "0001:3-7 $12")
	if got := lostOf(f); !slices.Equal(got, []uint64{3, 4, 6}) {
		t.Fatalf("lost are %v, want 3, 4 and 6", got)
	}
	for i, want := range []string{"batches 3 to 4, with 2 updates of 7 dollars: gone", "batches 6 to 6, with 1 updates of 6 dollars: gone"} {
		if f.Lost[i].Reason != want {
			t.Errorf("reason is %q, want %q", f.Lost[i].Reason, want)
		}
	}
	if c := f.Claims[0]; c.SealedUpdates != 7 || c.SealedAmount != spend.Dollars(28) || c.Updates != 2 {
		t.Errorf("the claim %+v doesn't tell sealed from booked", c)
	}
	p.applied(f)
	if mark := p.marks[testProducer(1)]; mark.Contiguous() != 2 || mark.Sequence != 7 {
		t.Errorf("mark is %+v", mark)
	}
	if mark := p.ack().Marks[testProducer(1)]; mark.Contiguous() != 2 {
		t.Errorf("published is %+v: a producer that has 3 would drop it", mark)
	}
}

func TestLostBatchThatTurnsUpIsClaimedOnce(t *testing.T) {
	b := chained(t, 1, 5)
	p := offered(t, nil, b[2], b[2], b[1], b[3], b[4], b[0])
	p.marks[testProducer(1)] = testMark(t, 1, 4, 2, 3)
	f := mustTake(t, p, "0001:5-5 $5")
	if len(f.Found) != 2 || f.Found[0].Sequence != 2 || f.Found[1].Sequence != 3 || f.Found[1].Amount != spend.Dollars(3) {
		t.Fatalf("found are %+v", f.Found)
	}
	mustSettle(t, p, "e3", "e5") // the second copy of 3 only with the flush
	p.applied(f)
	mustSettle(t, p, "e0", "e1", "e2", "e4")
	if mark := p.marks[testProducer(1)]; mark.Contiguous() != 5 {
		t.Errorf("mark is %+v", mark)
	}
	p.addEntry(spend.Entry{ID: "again", Bytes: b[1].Bytes()})
	mustTake(t, p, "")
	mustSettle(t, p, "again")
}

// Its producer would push it again and again if the mark didn't say where it is.
func TestLostBatchThatTurnsUpAndIsRefusedIsSetAsideByTheFlushThatFindsIt(t *testing.T) {
	b := chained(t, 1, 6)
	p := testPlan()
	for _, i := range []int{1, 3} {
		p.addEntry(spend.Entry{ID: spend.EntryID(fmt.Sprint("e", i+1)), Bytes: b[i].Bytes()})
	}
	p.marks[testProducer(1)] = testMark(t, 1, 5, 1, 2, 4)
	p.single = true
	if f := mustTake(t, p, ""); len(f.Found) != 1 || f.Found[0].Sequence != 2 {
		t.Fatalf("found are %+v", f.Found)
	}
	p.refused(errors.New("too many"))

	f := mustTake(t, p, "")
	if f.Found[0] != (spend.FoundBatch{Producer: testProducer(1), Sequence: 2, Digest: b[1].Digest(), PriorDigest: b[0].Digest()}) || f.Control != (spend.Control{}) || f.Batches() != 0 {
		t.Errorf("the flush books something: %+v", f)
	}
	if len(f.Lost) != 1 || f.Lost[0].First != 2 || f.Lost[0].Last != 2 || !f.Lost[0].Quarantined || string(f.Quarantine[0].Bytes) != string(b[1].Bytes()) {
		t.Fatalf("lost %+v, quarantine %+v", f.Lost, f.Quarantine)
	}
	p.applied(f)
	mark := p.ack().Marks[testProducer(1)]
	if !slices.Equal(mark.Lost, []spend.SequenceRange{{First: 1, Last: 2}, {First: 4, Last: 4}}) || !slices.Equal(mark.Quarantined, []uint64{2}) {
		t.Errorf("published is %+v", mark)
	}

	p.applied(mustTake(t, p, "")) // the fourth is booked as ever
	mark = p.ack().Marks[testProducer(1)]
	if !slices.Equal(mark.Lost, []spend.SequenceRange{{First: 1, Last: 2}}) || !mark.Has(4) {
		t.Errorf("published is %+v", mark)
	}
	p.addEntry(spend.Entry{ID: "again", Bytes: b[1].Bytes()})
	mustTake(t, p, "")
	mustSettle(t, p, "again")
}

// twins returns the first n batches of producer 1, and those of a process that had its memory when
// it had sealed two.
func twins(t *testing.T, n uint64) (one, other []*spend.Batch) {
	t.Helper()
	one = chained(t, 1, n)
	other = slices.Clone(one)
	for i := 2; i < len(other); i++ {
		h, last, rows := one[i].Header, other[i-1], mustRows(t, one[i])
		h.SealedAt = h.SealedAt.Add(time.Second)
		h.PriorUpdates, h.PriorAmount, h.PriorDigest = last.PriorUpdates+last.Updates, last.PriorAmount.Add(last.Amount), last.Digest()
		other[i] = spend.NewBatch(h, rows.Totals, rows.Rollups)
	}
	return one, other
}

// A gap was passed to a batch of a clone. That one says which batch was lost just before it.
func TestWhatTurnsUpForAPassedGapMustBeTheBatchThatWasPassed(t *testing.T) {
	one, other := twins(t, 6)
	p := testPlan()
	mark := recentMark(t, 1, 3)
	p.addEntry(spend.Entry{ID: "sixth", Bytes: other[5].Bytes()})
	p.marks[testProducer(1)] = mark
	p.skipping[testProducer(1)] = "gone"
	p.applied(mustTake(t, p, "0001:4-6 $6"))
	clear(p.skipping)
	p.done = nil

	p.addEntry(spend.Entry{ID: "one", Bytes: one[4].Bytes()})
	mustTake(t, p, "")
	if len(p.bad) != 1 || !p.bad[0].Unclaimed {
		t.Fatalf("set aside: %+v", p.bad)
	}
	p.addEntry(spend.Entry{ID: "other", Bytes: other[4].Bytes()})
	f := mustTake(t, p, "")
	if len(f.Found) != 1 || f.Found[0].Digest != other[4].Digest() {
		t.Fatalf("found are %+v", f.Found)
	}
	p.applied(f)

	// And that one says which fourth batch it goes on from, and this one can't be, because the
	// third is another one.
	for i, b := range []*spend.Batch{one[3], other[3]} {
		p.addEntry(spend.Entry{ID: "fourth", Bytes: b.Bytes()})
		if mustTake(t, p, ""); len(p.bad) != 2+i || p.stats.duplicates != 0 {
			t.Errorf("%d set aside, %d taken for repetitions", len(p.bad), p.stats.duplicates)
		}
	}
	if mark := p.marks[testProducer(1)]; !slices.Equal(mark.Lost, []spend.SequenceRange{{First: 4, Last: 4}}) || len(mark.Recent) != 6*recentBytes {
		t.Errorf("the mark is %+v", mark)
	}
}

// Nothing is known of what was lost: the first one that turns up is counted.
func TestOfTwoBatchesForOneLostPlaceTheSecondIsNoRepetition(t *testing.T) {
	one, other := twins(t, 5)
	for _, together := range []bool{true, false} {
		p := testPlan()
		mark := testMark(t, 1, 5, 3, 4)
		mark.Recent = append(make(spend.Recent, 4*recentBytes), mark.Digest[:recentBytes]...)
		p.marks[testProducer(1)] = mark
		p.addEntry(spend.Entry{ID: "one", Bytes: one[2].Bytes()})
		if !together {
			p.applied(mustTake(t, p, ""))
		}
		p.addEntry(spend.Entry{ID: "other", Bytes: other[2].Bytes()})
		if f := mustTake(t, p, ""); together {
			p.applied(f)
		}
		if len(p.bad) != 1 || p.bad[0].entry != "other" || p.stats.duplicates != 0 {
			t.Errorf("together %t: set aside %+v, %d taken for repetitions", together, p.bad, p.stats.duplicates)
		}
	}
}

func TestAGapIsNotSkippedForABatchWhoseSumsCannotGoOnFromTheMark(t *testing.T) {
	b := testBatch(t, 1, 5)
	rows := mustRows(t, b)
	h := b.Header
	h.PriorUpdates = 3 // two at the mark, and two batches in between
	p := testPlan()
	p.addEntry(spend.Entry{ID: "a", Bytes: spend.NewBatch(h, rows.Totals, rows.Rollups).Bytes()})
	p.marks[testProducer(1)] = testMark(t, 1, 2)
	p.skipping[testProducer(1)] = "gone"
	if mustTake(t, p, ""); len(p.bad) != 1 || !p.bad[0].Unclaimed {
		t.Errorf("set aside: %+v", p.bad)
	}
}

func TestFoundBatchThatSomebodyElseClaimedIsNotCountedAgain(t *testing.T) {
	b := chained(t, 1, 3)
	store := newTestStore()
	p := newTestPipeline(t, Config{Store: store, DirectLocker: newTestLocker()})
	skipping := offered(t, nil, b[0], b[2])
	skipping.skipping[testProducer(1)] = "gone"
	if err := p.committer(0).commit(t.Context(), skipping, viaQueue); err != nil {
		t.Fatal(err)
	}
	stale := offered(t, nil, b[1])
	stale.marks[testProducer(1)] = testMark(t, 1, 3, 2)
	for range 2 { // the second with a mark that isn't so any more
		again := offered(t, nil, b[1])
		again.marks[testProducer(1)] = stale.marks[testProducer(1)]
		if err := p.committer(0).commit(t.Context(), again, viaQueue); err != nil {
			t.Fatal(err)
		}
		if ids := again.ack().Entries; !slices.Equal(ids, []spend.EntryID{"e0"}) {
			t.Errorf("settled are %v", ids)
		}
	}
	if store.Sum().Spend != spend.Dollars(6) || store.missing() != 0 {
		t.Errorf("books have %s dollars, %d batches are missing; want 6 and none", store.Sum().Spend, store.missing())
	}
}

func TestGapIsNotSkippedWhileANewerProgramMayHaveFilledIt(t *testing.T) {
	newer := bytes.Clone(testBatch(t, 1, 1).Bytes())
	newer[2] = spend.BatchVersion + 1
	p := testPlan()
	p.addEntry(spend.Entry{ID: "a", Bytes: reframe(newer)})
	p.addEntry(spend.Entry{ID: "b", Bytes: testBatch(t, 1, 2).Bytes()})
	p.addEntry(spend.Entry{ID: "c", Bytes: testBatch(t, 2, 2).Bytes()})
	learn(t, p, nil)
	mustTake(t, p, "")
	if gaps := p.gaps(); len(gaps) != 1 || gaps[testProducer(2)] != 0 {
		t.Errorf("gaps are %v, want only that of producer 2", gaps)
	}
}

// farBatch is a batch of the producer with so many before it that nobody has seen, of one update
// and one dollar each.
func farBatch(t testing.TB, sequence uint64) *spend.Batch {
	t.Helper()
	b := testBatch(t, 1, 2)
	rows, h := mustRows(t, b), b.Header
	h.Sequence, h.PriorUpdates, h.PriorAmount = sequence, int64(sequence-1), spend.Dollars(int64(sequence-1))
	return spend.NewBatch(h, rows.Totals, rows.Rollups)
}

// Postgres was turned back by that much, and the producer goes on. Its batches would wait for ever.
func TestAGapIsSkippedAsOneRangeHoweverLongItIs(t *testing.T) {
	for _, last := range []uint64{1_000_002, 3_000_000_002, math.MaxInt64} {
		p := offered(t, nil, farBatch(t, last))
		p.skipping[testProducer(1)] = "gone"
		f := mustTake(t, p, fmt.Sprintf("0001:1-%d $2", last))
		if len(f.Lost) != 1 || f.Lost[0].First != 1 || f.Lost[0].Last != last-1 || f.Batches() != 1 || len(p.bad) > 0 {
			t.Fatalf("up to %d: %+v, set aside %+v", last, f, p.bad)
		}
		p.applied(f)
		mark := p.marks[testProducer(1)]
		if !slices.Equal(mark.Lost, []spend.SequenceRange{{First: 1, Last: last - 1}}) || mark.Has(last-1) || mark.Has(1) || !mark.Has(last) || mark.Contiguous() != 0 {
			t.Errorf("up to %d the mark is %+v", last, mark)
		}
		var read spend.Mark
		if text, err := mark.AppendText(nil); err != nil || read.UnmarshalText(text) != nil || !slices.Equal(read.Lost, mark.Lost) {
			t.Errorf("published is %q, %v", text, err)
		}
		if last == math.MaxInt64 {
			continue
		}
		p.addEntry(spend.Entry{ID: "found", Bytes: farBatch(t, 1_000_000).Bytes()})
		p.applied(mustTake(t, p, ""))
		if mark := p.marks[testProducer(1)]; !slices.Equal(mark.Lost, []spend.SequenceRange{{First: 1, Last: 999_999}, {First: 1_000_001, Last: last - 1}}) || !mark.Has(1_000_000) {
			t.Errorf("after one was found, the mark is %+v", mark)
		}
	}
}

// A batch has an update at least: by its sums, a sequence can't have been reached.
func TestASequenceThatTheSumsDoNotReachIsNotSkippedToHoweverFarItIs(t *testing.T) {
	for _, sequence := range []uint64{12, 3_000_000_000, math.MaxInt64} {
		for _, prior := range []int64{0, 1, 10} {
			b := testBatch(t, 1, 2)
			rows, h := mustRows(t, b), b.Header
			h.Sequence, h.PriorUpdates = sequence, prior
			p := testPlan()
			p.addEntry(spend.Entry{ID: "a", Bytes: spend.NewBatch(h, rows.Totals, rows.Rollups).Bytes()})
			p.marks[testProducer(1)] = testMark(t, 1, 2)
			p.skipping[testProducer(1)] = "gone"
			if mustTake(t, p, ""); len(p.bad) != 1 || !p.bad[0].Unclaimed {
				t.Errorf("sequence %d after %d updates: set aside %+v", sequence, prior, p.bad)
			}
		}
	}
}

func TestGapIsOverdueOnlyAfterTheGraceBehindTheSameMark(t *testing.T) {
	w, now := gapWatch{}, testNow
	at := func(after time.Duration, marks map[int]uint64, want ...int) {
		t.Helper()
		gaps := map[spend.ProducerID]uint64{}
		for n, mark := range marks {
			gaps[testProducer(n)] = mark
		}
		got := w.overdue(gaps, now.Add(after), time.Minute)
		if len(got) != len(want) || len(want) > 0 && got[0] != testProducer(want[0]) {
			t.Errorf("after %s overdue are %v, want %v", after, got, want)
		}
	}
	at(0, map[int]uint64{1: 4, 2: 0})
	at(59*time.Second, map[int]uint64{1: 4, 2: 0})
	at(60*time.Second, map[int]uint64{1: 5, 2: 0}, 2) // 1 has moved on: its gap is another
	at(61*time.Second, map[int]uint64{1: 5})
	at(62*time.Second, map[int]uint64{1: 5, 2: 0}) // 2's was filled and came again
	at(120*time.Second, map[int]uint64{1: 5, 2: 0}, 1)
}

func TestBatchesBehindGapsAreKeptFromTheOldestProducerNearestToItsMark(t *testing.T) {
	p := offered(t, nil, testBatch(t, 2, 2), testBatch(t, 1, 5), testBatch(t, 1, 3), testBatch(t, 1, 4))
	_, all := p.waiting()
	kept := len(testBatch(t, 1, 3).Bytes()) + len(testBatch(t, 1, 4).Bytes())
	if left := p.evict(kept + 1); left != all-kept {
		t.Errorf("%d bytes are left for later, want %d", left, all-kept)
	}
	if kept := p.wait[testProducer(1)]; len(kept) != 2 || kept[0].Sequence != 3 || kept[1].Sequence != 4 || len(p.wait[testProducer(2)]) != 0 {
		t.Errorf("kept are %d of producer 1 and %d of producer 2", len(kept), len(p.wait[testProducer(2)]))
	}
}

func TestBatchOfAProducerWhoseMarkMayBeCleanedUpIsSetAside(t *testing.T) {
	old := spend.NewProducerID(testNow.Add(-time.Hour))
	young := spend.NewProducerID(testNow.Add(time.Hour))
	known := spend.NewProducerID(testNow.Add(-2 * time.Hour))
	p := testPlan()
	for _, id := range []spend.ProducerID{old, young, known} {
		p.addEntry(spend.Entry{ID: spend.EntryID(id.String()), Bytes: spend.NewBatch(testHeader(id, 1), nil, nil).Bytes()})
	}
	p.learn(p.unknown(), spend.Marks{Of: map[spend.ProducerID]spend.Mark{known: {}}, Horizon: testNow})
	if f := p.next(); len(f.Claims) != 2 {
		t.Errorf("claims are %+v", f.Claims)
	}
	if len(p.bad) != 1 || !strings.Contains(p.bad[0].Reason, old.String()) || !strings.Contains(p.bad[0].Reason, "cleaned up") {
		t.Errorf("set aside: %+v", p.bad)
	}
}

// Nothing of such an instance's would ever be booked.
func TestAnInstanceWhoseClockIsFarBehindGetsAnIdentityThatDoesNotLookPruned(t *testing.T) {
	for _, withQueue := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, withQueue, 2, &faults{})
			youngest := time.Now().Add(40 * 24 * time.Hour) // birth of the youngest one pruned, by the clocks that are right
			for shard := range 2 {
				r.store.setHorizon(shard, youngest)
			}
			r.start(t)
			for i := range 20 {
				r.record(t, key(fmt.Sprint("key", i)))
			}
			eventually(t, "all is in the books", func() bool { return r.store.diff(r.want) == "" })
			r.end(t)
			if n := len(r.store.quarantined()); n > 0 {
				t.Errorf("%d batches are in quarantine", n)
			}
			for producer := range r.store.Snapshot().Producers {
				if born := producer.ID.Born(); born.Before(youngest) {
					t.Errorf("producer %s is born at %s", producer.ID, born)
				}
			}
		})
	}
}

// What was set aside under the identity before isn't committed by that.
func TestAnIdentityThatIsChangedBeforeItIsUsedForgetsNothingThatWasSetAside(t *testing.T) {
	store := newTestStore()
	store.setHorizon(0, time.Now().Add(time.Hour))
	p := newTestPipeline(t, Config{Store: store, DirectLocker: newTestLocker()})
	r := p.relays[0]
	before := r.identity()
	r.outbox.seal = 3
	r.outbox.noteAside(2, Queued)
	if r.checkBirth(t.Context()); r.identity() == before {
		t.Fatal("the identity looks pruned, and isn't changed")
	}
	if aside, next := r.outbox.reached(2), r.outbox.reached(3); aside != Queued || next != Committed {
		t.Errorf("the seals are %s and %s", aside, next)
	}
}

// Postgres is away when it begins, so that the first batches are lost to quarantine. The new
// identity is right then.
func TestAnIdentityThatLooksPrunedIsChangedForOneThatDoesNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &faults{all: true}
		r := newRig(t, true, 1, f)
		r.store.setHorizon(0, time.Now().Add(40*24*time.Hour))
		r.start(t)
		lost := key("a")
		if err := r.Record(&lost); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		f.setAll(false)
		eventually(t, "the first batch is in quarantine", func() bool { return len(r.store.quarantined()) == 1 })
		for range 5 {
			r.record(t, key("b"))
			time.Sleep(time.Second)
		}
		eventually(t, "all others are in the books", func() bool { return r.store.diff(r.want) == "" })
		r.end(t)
		if n := len(r.store.quarantined()); n != 1 {
			t.Errorf("%d batches are in quarantine", n)
		}
	})
}

// The mark is pruned, and with it those of producers that are born much later, while the instance
// runs.
func TestAnIdentityThatLooksPrunedLaterIsChangedForOneThatDoesNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, 1, &faults{})
		r.start(t)
		r.commit(t, key("a"))
		horizon := time.Now().Truncate(time.Millisecond).Add(40 * 24 * time.Hour)
		synctest.Wait()
		r.store.edit(func(all *memstore.Snapshot) {
			all.Producers, all.Pruned = nil, all.Producers
			all.Horizons[0] = horizon
		})

		lost := key("a") // it goes to quarantine
		if err := r.Record(&lost); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the identity is one that can't have been pruned", func() bool { return !r.relays[0].identity().Born().Before(horizon) })
		for range 5 {
			r.record(t, key("b"))
			time.Sleep(time.Second)
		}
		eventually(t, "all that is recorded from then on is in the books", func() bool { return r.store.diff(r.want) == "" })
		r.end(t)
	})
}

func TestBatchFlushedAloneSaysWhyItCant(t *testing.T) {
	b := chained(t, 1, 3)[1]
	for _, c := range []struct {
		mark spend.Mark
		want error
	}{
		{testMark(t, 1, 1), nil},
		{testMark(t, 1, 3, 2), nil},
		{testMark(t, 1, 2), spend.ErrApplied},
		{testMark(t, 1, 3, 1), spend.ErrApplied},
		{spend.Mark{}, spend.ErrGap},
	} {
		f, err := b.Flush(c.mark)
		if !errors.Is(err, c.want) || (f != nil) != (c.want == nil) {
			t.Errorf("at %+v: %v, %v; want %v", c.mark, f, err, c.want)
		}
	}
	undecodable := bytes.Clone(b.Bytes())
	undecodable[headerSize] ^= 1 << 2 // that a counter follows
	if _, err := mustParse(t, reframe(undecodable)).Flush(testMark(t, 1, 1)); !errors.Is(err, spend.ErrCorruptBatch) {
		t.Errorf("a corrupt one: %v", err)
	}
}

// A producer has died; the queue lost its second batch.
func TestGapOfADeadProducerIsReportedAndTheRestCommitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, 1, &faults{})
		r.cfg.GapGrace = time.Minute
		b := chained(t, 1, 4)
		for _, i := range []int{0, 2, 3} {
			r.queue.Insert(0, b[i].Bytes())
			r.want.apply(mustRows(t, b[i]).Totals, mustRows(t, b[i]).Rollups)
		}
		r.start(t)
		time.Sleep(50 * time.Second)
		if r.store.missing() != 0 || r.queue.len(0) != 2 {
			t.Fatalf("before the grace is over %d are given up, %d wait", r.store.missing(), r.queue.len(0))
		}
		eventually(t, "the rest is committed", func() bool { return r.queue.len(0) == 0 })
		if r.store.missing() != 1 {
			t.Errorf("%d batches are lost, want 1", r.store.missing())
		}
		if diff := r.store.diff(r.want); diff != "" {
			t.Error(diff)
		}
		// It turns up after all.
		r.queue.Insert(0, b[1].Bytes())
		r.queue.Insert(0, b[1].Bytes())
		r.want.apply(mustRows(t, b[1]).Totals, mustRows(t, b[1]).Rollups)
		eventually(t, "it is counted", func() bool { return r.queue.len(0) == 0 })
		if r.store.missing() != 0 {
			t.Error("it is still missing")
		}
		r.end(t)
	})
}

// An instance was cut off for so long that its gap was passed. It still has the batch.
func TestInstanceThatComesBackSendsWhatWasSkippedAsLost(t *testing.T) {
	for _, withQueue := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, withQueue, 1, &faults{all: true})
			r.start(t)
			for range 5 {
				r.record(t, key("a"))
				time.Sleep(300 * time.Millisecond)
			}
			_, batches, _ := r.relays[0].unconfirmed()
			if len(batches) < 3 {
				t.Fatalf("%d batches are sealed", len(batches))
			}
			// What another flusher has made of it meanwhile.
			p := testPlan()
			for i, b := range batches[:len(batches)-1] {
				if i != 1 {
					p.addEntry(spend.Entry{ID: "e", Bytes: b.ForBooks(testBooks, &spend.BatchKeys{}).Bytes()})
				}
			}
			p.learn(p.unknown(), spend.Marks{})
			p.skipping[r.Producer()] = "not heard of"
			if err := r.store.Apply(t.Context(), p.next()); err != nil || r.store.missing() != 1 {
				t.Fatalf("%d missing, %v", r.store.missing(), err)
			}
			r.faults.setAll(false)
			r.end(t)
			if r.store.missing() != 0 {
				t.Error("a batch is still missing")
			}
		})
	}
}

// refusingStore refuses every flush with a certain amount in it.
type refusingStore struct {
	*testStore
	poison spend.Amount
}

func (s refusingStore) Apply(ctx context.Context, f *spend.Flush) error {
	for i := range f.Rollups {
		if f.Rollups[i].Counters.Spend == s.poison {
			return fmt.Errorf("numeric field overflow: %w", spend.ErrRefused)
		}
	}
	return s.testStore.Apply(ctx, f)
}

func TestBatchThatPostgresRefusesIsSetAsideAndTheRestCommitted(t *testing.T) {
	store := refusingStore{newTestStore(), spend.Dollars(77)}
	p := newTestPipeline(t, Config{Store: store, DirectLocker: newTestLocker()})
	var all []*spend.Batch
	for producer := range 3 {
		all = append(all, chained(t, producer+1, 3)...)
	}
	rows := sealUpdates(t, []spend.Update{{Cost: spend.Cost{Spend: spend.Dollars(77)}, Series: spend.Series{APIKey: "poison"}}}, 0)
	all[4] = spend.NewBatch(all[4].Header, rows.totals, rows.rollups)
	next := mustRows(t, all[5])
	h := all[5].Header
	h.PriorDigest, h.PriorAmount = all[4].Digest(), h.PriorAmount.Add(spend.Dollars(75))
	all[5] = spend.NewBatch(h, next.Totals, next.Rollups)
	plan := offered(t, nil, append(all, all[4])...)
	if err := p.committer(0).commit(t.Context(), plan, viaQueue); err != nil {
		t.Fatal(err)
	}
	if bad := store.quarantined(); len(bad) != 1 || !bytes.Equal(bad[0].Bytes, all[4].Bytes()) || !strings.Contains(bad[0].Reason, "overflow") {
		t.Fatalf("in quarantine: %+v", bad)
	}
	if got := store.Sum().Spend; got != spend.Dollars(6+1+3+6) {
		t.Errorf("%s dollars are booked; want 16", got)
	}
	mark := store.mark(0, testProducer(2))
	if mark.Sequence != 3 || !mark.HasQuarantined(2) || mark.Has(2) || !mark.Has(3) {
		t.Errorf("the mark is %+v", mark)
	}
	if n, _ := plan.waiting(); n != 0 || len(plan.bad) != 0 || len(plan.ack().Entries) != len(all)+1 {
		t.Errorf("%d batches wait, %d are set aside outside of the claim", n, len(plan.bad))
	}
}

// Work goes on coming, so that without giving way the lock would be kept for ever.
func TestInstanceThatMeetsANewerFormatGivesTheLockUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, 1, &faults{})
		newer := bytes.Clone(testBatch(t, 1, 1).Bytes())
		newer[2] = spend.BatchVersion + 1
		r.queue.Insert(0, reframe(newer))
		r.start(t)
		free := 0
		for range 300 {
			r.record(t, key("a"))
			time.Sleep(100 * time.Millisecond)
			if holder, _ := r.locker.Holder(t.Context(), "flush/0"); holder.Owner == "" {
				free++
			}
		}
		if free < 150 {
			t.Errorf("the lock was free at %d of 300 moments", free)
		}
		if r.queue.len(0) == 0 {
			t.Error("the newer batch is gone")
		}
		r.end(t)
	})
}

func TestABatchThatWasBookedByHandIsClaimedWithoutItsRows(t *testing.T) {
	b := []*spend.Batch{testBatch(t, 1, 1), testBatch(t, 1, 2), testBatch(t, 1, 3)}
	byHand := func(b *spend.Batch) spend.ByHandBatch {
		return spend.ByHandBatch{Producer: b.Producer, Sequence: b.Sequence, Digest: b.Digest()}
	}
	p := newPlan(0)
	p.books = testBooks
	for _, b := range b[:2] {
		p.addEntry(spend.Entry{ID: spend.EntryID(fmt.Sprint(b.Sequence)), Bytes: b.Bytes()})
	}
	p.learn(p.unknown(), spend.Marks{Of: map[spend.ProducerID]spend.Mark{testProducer(1): {ByHand: []spend.ByHandBatch{byHand(b[1])}}}})
	f := p.next()
	if f == nil || !slices.Equal(f.ByHand, []spend.ByHandBatch{byHand(b[1])}) || f.Claims[0].Last != 2 ||
		f.Claims[0].Updates != b[0].Updates+b[1].Updates || f.Control.Rollups.APIRequests() != b[0].Updates {
		t.Errorf("%+v", f)
	}

	lost := newPlan(0)
	lost.books = testBooks
	lost.addEntry(spend.Entry{ID: "2", Bytes: b[1].Bytes()})
	mark := spend.Mark{Sequence: 3, Digest: b[2].Digest(), Lost: []spend.SequenceRange{{First: 1, Last: 2}}, ByHand: []spend.ByHandBatch{byHand(b[1])}}
	lost.learn(lost.unknown(), spend.Marks{Of: map[spend.ProducerID]spend.Mark{testProducer(1): mark}})
	f = lost.next()
	if f == nil || !slices.Equal(f.ByHand, []spend.ByHandBatch{byHand(b[1])}) || len(f.Found) != 1 || f.Found[0].Updates != b[1].Updates ||
		f.Control != (spend.Control{}) {
		t.Errorf("%+v", f)
	}
}
