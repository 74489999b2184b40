package spendflush

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// lockedStore fails flushes that touch an entity whose row another session keeps locked
// (lock_timeout): neither refused nor fenced.
type lockedStore struct {
	*testStore
	locked *sync.Map // the ids of entities
}

func newLockedStore(s *testStore, ids ...string) lockedStore {
	locked := lockedStore{s, &sync.Map{}}
	for _, id := range ids {
		locked.locked.Store(id, true)
	}
	return locked
}

func (s lockedStore) Apply(ctx context.Context, f *spend.Flush) error {
	for i := range f.Totals {
		if _, locked := s.locked.Load(f.Totals[i].Entity.ID); locked {
			return errors.New("canceling statement due to lock timeout (SQLSTATE 55P03)")
		}
	}
	return s.testStore.Apply(ctx, f)
}

func chainOf(t *testing.T, producer int, id string, n int) (list []*spend.Batch) {
	h := testHeader(testProducer(producer), 1)
	for i := range n {
		h.Sequence = uint64(i + 1)
		rows := sealUpdates(t, []spend.Update{{Cost: spend.Cost{Spend: spend.Dollars(1)}, Series: spend.Series{APIKey: id}}}, 0)
		b := spend.NewBatch(h, rows.totals, rows.rollups)
		h.PriorDigest, h.PriorUpdates, h.PriorAmount = b.Digest(), h.PriorUpdates+b.Updates, h.PriorAmount.Add(b.Amount)
		list = append(list, b)
	}
	return list
}

// design.md: "A batch that fails by itself is tried last, so it holds up no other producer's for
// longer than one try".
func TestProducersWithABatchThatFailsHoldUpNoOther(t *testing.T) {
	for _, poisoned := range []int{1, 2} {
		t.Run(fmt.Sprint(poisoned), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, true, 1, &faults{})
				c := r.cfg
				c.Store = newLockedStore(r.store, "locked")
				r.Pipeline = newTestPipeline(t, c)
				for producer := 1; producer <= 4; producer++ {
					id := "good"
					if producer <= poisoned {
						id = "locked"
					}
					for _, b := range chainOf(t, producer, id, 3) {
						r.queue.Insert(0, b.Bytes())
					}
				}
				r.start(t)
				time.Sleep(time.Hour)
				marks, err := r.store.Marks(t.Context(), 0, []spend.ProducerID{testProducer(3), testProducer(4)})
				if err != nil || len(marks.Of) != 2 {
					t.Errorf("with %d producers whose batch fails, after an hour %d of the 2 others have anything in the books", poisoned, len(marks.Of))
				}
			})
		})
	}
}

// A batch that was skipped as lost, turned up, and can't be committed for now.
func TestFoundBatchThatFailsHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, 1, &faults{})
		c := r.cfg
		c.GapGrace = time.Second
		store := newLockedStore(r.store)
		c.Store = store
		r.Pipeline = newTestPipeline(t, c)
		b := chainOf(t, 1, "locked", 3)
		r.queue.Insert(0, b[0].Bytes())
		r.queue.Insert(0, b[2].Bytes())
		r.start(t)
		eventually(t, "the gap is passed", func() bool { return r.store.missing() == 1 })
		store.locked.Store("locked", true)
		for _, b := range append(b[1:2], chainOf(t, 2, "good", 3)...) {
			if _, err := r.queue.Push(t.Context(), b, ""); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Hour)
		marks, _ := r.store.Marks(t.Context(), 0, []spend.ProducerID{testProducer(2)})
		if got := marks.Of[testProducer(2)].Sequence; got != 3 {
			t.Errorf("an hour later the other producer's mark is %d; want 3", got)
		}
	})
}

// Batches of one producer that fail fill what one flush reads: nobody else's are reached.
func TestBatchesThatFailAtTheHeadOfTheQueueHideNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, 1, &faults{})
		c := r.cfg
		c.Store = newLockedStore(r.store, "locked")
		r.Pipeline = newTestPipeline(t, c)
		r.cfg.limits.bytes = 2000 // flushBytes is 32 MiB; an instance holds 64 MiB unconfirmed
		for _, b := range chainOf(t, 1, "locked", 200) {
			r.queue.Insert(0, b.Bytes())
		}
		for _, b := range chainOf(t, 2, "good", 3) {
			r.queue.Insert(0, b.Bytes())
		}
		r.start(t)
		time.Sleep(time.Hour)
		marks, _ := r.store.Marks(t.Context(), 0, []spend.ProducerID{testProducer(2)})
		if got := marks.Of[testProducer(2)].Sequence; got != 3 {
			t.Errorf("an hour later the other producer's mark is %d; want 3", got)
		}
	})
}

// Two orphaned shards: what fails in the first keeps the second from being looked at.
func TestOrphanedShardThatFailsHidesNoLaterOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, 1, &faults{})
		c := r.cfg
		c.Store = newLockedStore(r.store, "locked")
		r.Pipeline = newTestPipeline(t, c)
		for shard, id := range []string{"", "locked", "good"} {
			if shard == 0 {
				continue
			}
			h := testHeader(testProducer(shard), 1)
			h.Shard = shard
			rows := sealUpdates(t, []spend.Update{{Cost: spend.Cost{Spend: spend.Dollars(1)}, Series: spend.Series{APIKey: id}}}, 0)
			r.queue.Insert(shard, spend.NewBatch(h, rows.totals, rows.rollups).Bytes())
		}
		r.start(t)
		time.Sleep(time.Hour)
		if n := r.queue.len(2); n != 0 {
			t.Errorf("an hour later %d batch of shard 2 still waits, for one in shard 1 that can't be committed", n)
		}
	})
}

// narrowQuarantine can't keep batches of more than so many bytes in one call within the time given.
type narrowQuarantine struct {
	*testStore
	most int
}

func (s narrowQuarantine) Quarantine(ctx context.Context, bad []spend.BadBatch) error {
	n := 0
	for _, b := range bad {
		n += len(b.Bytes)
	}
	if n > s.most {
		return errors.New("timeout: context deadline exceeded")
	}
	return s.testStore.Quarantine(ctx, bad)
}

// Entries that can't be set aside in one call are tried together for ever; meanwhile nothing that
// was committed is taken out of the queue, so that the walk never gets behind what one flush reads.
func TestEntriesThatCannotBeSetAsideTogetherStopNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, 1, &faults{})
		c := r.cfg
		c.Store = narrowQuarantine{r.store, 5 << 20}
		r.Pipeline = newTestPipeline(t, c)
		r.cfg.limits.bytes = 5 << 20
		for range 4 {
			r.queue.Insert(0, make([]byte, 3<<20)) // no batches
		}
		for _, b := range chainOf(t, 2, "good", 30) {
			r.queue.Insert(0, b.Bytes())
		}
		r.start(t)
		time.Sleep(time.Hour)
		marks, _ := r.store.Marks(t.Context(), 0, []spend.ProducerID{testProducer(2)})
		if got := marks.Of[testProducer(2)].Sequence; got != 30 || r.queue.len(0) != 0 {
			t.Errorf("an hour later the other producer's mark is %d; want 30; %d entries wait, want none", got, r.queue.len(0))
		}
	})
}

// triedStore notes whose batches were tried.
type triedStore struct {
	lockedStore
	tried *[]spend.ProducerID
}

func (s triedStore) Apply(ctx context.Context, f *spend.Flush) error {
	for _, c := range f.Claims {
		*s.tried = append(*s.tried, c.Producer)
	}
	if !slices.IsSortedFunc(f.Claims, func(a, b spend.Claim) int { return a.Producer.Compare(b.Producer) }) {
		return errors.New("claims are out of order")
	}
	return s.lockedStore.Apply(ctx, f)
}

// Three producers in trouble are each tried when they are found, and then take turns, behind the
// one that is well.
func TestKnownTroubleIsTriedOnceAWalk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, 1, &faults{})
		var tried []spend.ProducerID
		store := newLockedStore(r.store, "locked")
		c := r.cfg
		c.Store = triedStore{store, &tried}
		r.Pipeline = newTestPipeline(t, c)
		if _, err := r.books.ask(t.Context()); err != nil {
			t.Fatal(err)
		}
		commits := r.Pipeline.committer(0)
		walk := func(batches ...*spend.Batch) error {
			tried = nil
			plan := commits.newPlan()
			for _, b := range batches {
				plan.addEntry(spend.Entry{ID: "1", Bytes: b.Bytes()})
			}
			if err := commits.commit(t.Context(), plan, viaQueue); err != nil {
				return err
			}
			return plan.failure
		}
		var bad []*spend.Batch
		for producer := range 3 {
			b := chainOf(t, producer+1, "locked", 1)
			bad = append(bad, b...)
			if walk(b...) == nil {
				t.Fatal("a batch that fails is told as committed")
			}
		}
		good := chainOf(t, 4, "good", 3)
		for i, want := range []int{1, 2, 3} {
			if walk(append(bad, good[i])...) == nil || len(tried) != 2 || tried[0] != testProducer(4) || tried[1] != testProducer(want) {
				t.Errorf("walk %d tried %v; want producer 4, then %d alone", i+1, tried, want)
			}
			marks, err := r.store.Marks(t.Context(), 0, []spend.ProducerID{testProducer(4)})
			if got := marks.Of[testProducer(4)].Sequence; err != nil || got != uint64(i+1) {
				t.Errorf("walk %d: the mark of the one that is well is %d", i+1, got)
			}
		}
		store.locked.Delete("locked")
		if err := walk(bad...); err != nil || len(tried) != 3 {
			t.Errorf("after the lock is gone, %v is tried, with %v; want all three", tried, err)
		}
	})
}

// The right to insert into quarantine is missing: what is well is committed and leaves the queue.
func TestQuarantineThatIsDeniedStopsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, 1, &faults{})
		c := r.cfg
		c.Store = narrowQuarantine{r.store, 0}
		r.Pipeline = newTestPipeline(t, c)
		r.queue.Insert(0, []byte("no batch"))
		for _, b := range chainOf(t, 2, "good", 30) {
			r.queue.Insert(0, b.Bytes())
		}
		r.start(t)
		time.Sleep(time.Minute)
		marks, err := r.store.Marks(t.Context(), 0, []spend.ProducerID{testProducer(2)})
		if got := marks.Of[testProducer(2)].Sequence; err != nil || got != 30 || r.queue.len(0) != 1 {
			t.Errorf("a minute later the mark is %d and %d entries wait; want 30 and the one that is no batch", got, r.queue.len(0))
		}
	})
}

// Each of many producers has a batch that fails. They fail in one walk, one after the other, and
// not one a walk.
func TestManyBatchesThatFailHoldUpOthersForOneWalk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const failing = 40
		r := newRig(t, true, 1, &faults{})
		c := r.cfg
		c.Store = newLockedStore(r.store, "locked")
		r.Pipeline = newTestPipeline(t, c)
		for producer := range failing {
			r.queue.Insert(0, chainOf(t, producer+1, "locked", 1)[0].Bytes())
		}
		good := testProducer(failing + 1)
		r.queue.Insert(0, chainOf(t, failing+1, "good", 1)[0].Bytes())
		r.start(t)
		eventually(t, "the other producer's batch is committed", func() bool {
			marks, _ := r.store.Marks(t.Context(), 0, []spend.ProducerID{good})
			return marks.Of[good].Sequence == 1
		})
	})
}
