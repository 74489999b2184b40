package spendflush

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// These tests are about guards whose loss no other test noticed; see internal/lab/mutants.

func TestCorruptEntryStaysInTheQueueUntilItIsQuarantined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, 1, &faults{name: "Store.Quarantine", failing: 1})
		r.queue.Insert(0, []byte("no batch"))
		r.start(t)
		r.record(t, key("a"))
		eventually(t, "the queue is empty", func() bool { return r.queue.len(0) == 0 })
		r.end(t)
		if !r.store.hasQuarantined([]byte("no batch")) || !r.faults.injected {
			t.Errorf("the entry is gone and not in quarantine (a quarantine failed: %v)", r.faults.injected)
		}
	})
}

// losingQueue takes the lock away when it is read.
type losingQueue struct {
	*testQueue
	lease spend.Lease
	reads int
}

func (q *losingQueue) Read(ctx context.Context, shard int, after spend.EntryID, n, bytes int) ([]spend.Entry, error) {
	if q.reads++; q.reads == 1 {
		q.lease.Release(ctx)
	}
	return q.testQueue.Read(ctx, shard, after, n, bytes)
}

func TestFlusherWhoseLockIsLostReadsNoFurther(t *testing.T) {
	locker, store := newTestLocker(), newTestStore()
	lease, err := locker.Acquire(t.Context(), "flush/0")
	if err != nil {
		t.Fatal(err)
	}
	q := &losingQueue{testQueue: newTestQueue(), lease: lease}
	if _, err := q.Push(t.Context(), testBatch(t, 1, 1), ""); err != nil {
		t.Fatal(err)
	}
	p := newTestPipeline(t, Config{Store: store, DirectLocker: newTestLocker(), Queue: q, Locker: locker})
	f := newFlusher(p, 0)
	if err := f.learnBooks(t.Context()); err != nil {
		t.Fatal(err)
	}
	if flushed, err := f.drain(t.Context(), lease); !flushed || err != nil || store.flushes.Load() != 1 {
		t.Errorf("what was read before the loss: flushed %v, %v, %d flushes", flushed, err, store.flushes.Load())
	}
	if flushed, err := f.drain(t.Context(), lease); flushed || err != nil {
		t.Errorf("a walk without the lock: flushed %v, %v", flushed, err)
	}
	if q.reads != 1 {
		t.Errorf("the queue was read %d times; want once, before the loss", q.reads)
	}
}

// slowStore takes its time for a flush.
type slowStore struct {
	*testStore
	takes time.Duration
	begun []time.Time
}

func (s *slowStore) Apply(ctx context.Context, f *spend.Flush) error {
	s.begun = append(s.begun, time.Now())
	time.Sleep(s.takes)
	return s.testStore.Apply(ctx, f)
}

func TestALongFlushDoesNotAddToTheInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &slowStore{testStore: newTestStore(), takes: 300 * time.Millisecond}
		p := newTestPipeline(t, Config{
			Store: store, DirectLocker: newTestLocker(), Queue: newTestQueue(), Locker: newTestLocker(),
			SealInterval: 20 * time.Millisecond, FlushInterval: 500 * time.Millisecond,
		})
		ran := make(chan error, 1)
		go func() { ran <- p.Run(t.Context()) }()
		for range 500 {
			u := key("k")
			if err := p.Record(&u); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		if err := errors.Join(p.Shutdown(t.Context()), <-ran); err != nil {
			t.Fatal(err)
		}
		for i := 1; i < len(store.begun)-1; i++ { // the last one may follow a pause without anything in the queue
			if apart := store.begun[i].Sub(store.begun[i-1]); apart != p.cfg.FlushInterval {
				t.Errorf("flush %d begins %s after the one before it, want %s", i, apart, p.cfg.FlushInterval)
			}
		}
		if len(store.begun) < 8 {
			t.Errorf("only %d flushes in five seconds", len(store.begun))
		}
	})
}

func TestWhatManyReadsFindIsOneFlush(t *testing.T) {
	q, store := newTestQueue(), newTestStore()
	const batches = 2*readEntries + 10
	for i := range batches {
		if _, err := q.Push(t.Context(), testBatch(t, 1, uint64(i+1)), ""); err != nil {
			t.Fatal(err)
		}
	}
	p := newTestPipeline(t, Config{Store: store, DirectLocker: newTestLocker(), Queue: q, Locker: newTestLocker()})
	if err := p.DrainQueue(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := q.len(0); store.flushes.Load() != 1 || left != 0 {
		t.Errorf("%d small batches took %d flushes, and %d are left; want one flush", batches, store.flushes.Load(), left)
	}
}

func TestCommittingForOthersConfirmsNothingOfOnesOwn(t *testing.T) {
	p := newTestPipeline(t, Config{Store: newTestStore(), DirectLocker: newTestLocker()})
	for i := range 3 {
		u := key(fmt.Sprint(i))
		if err := p.Record(&u); err != nil {
			t.Fatal(err)
		}
		p.seal(false)
	}
	if err := p.committer(0).commit(t.Context(), offered(t, nil, testBatch(t, 1, 1), testBatch(t, 1, 2)), viaQueue); err != nil {
		t.Fatal(err)
	}
	if n := len(p.relays[0].outbox.batches); n != 3 {
		t.Errorf("%d of 3 batches are left, and none of them is committed", n)
	}
}

func TestSealsAtTheSameTimeAreOneAfterTheOther(t *testing.T) {
	const sealers, each = 4, 500
	p := newTestPipeline(t, Config{Store: newTestStore(), DirectLocker: newTestLocker()})
	var running sync.WaitGroup
	for w := range sealers {
		running.Go(func() {
			for i := range each {
				u := key(fmt.Sprint(w, i%10))
				if err := p.Record(&u); err != nil {
					t.Error(err)
				}
				p.seal(false)
			}
		})
	}
	running.Wait()
	var updates int64
	for _, b := range p.relays[0].outbox.batches {
		updates += b.Updates
	}
	if updates != sealers*each {
		t.Errorf("%d updates are sealed, want %d", updates, sealers*each)
	}
}

func TestNothingIsRecordedAfterAnIdleInstanceWasShutDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, 1, &faults{})
		r.start(t)
		r.end(t)
		u := key("late")
		if err := r.Record(&u); !errors.Is(err, ErrClosed) {
			t.Errorf("Record: %v; want ErrClosed", err)
		}
		if _, err := r.RecordAll([]spend.Update{u, u}); !errors.Is(err, ErrClosed) {
			t.Errorf("RecordAll: %v; want ErrClosed", err)
		}
	})
}

func TestAmountThatOnlyRoundingMakesTooLargeIsRefused(t *testing.T) {
	const most = "99999999999999999999999999.999999999999"
	if a, err := spend.ParseAmount(most + "4"); err != nil || a.String() != most {
		t.Errorf("%s, %v", a, err)
	}
	for _, tail := range []string{"5", "9", "50000000000000000000000001"} {
		if a, err := spend.ParseAmount("-" + most + tail); !errors.Is(err, spend.ErrAmount) {
			t.Errorf("%s%s became %s, which NUMERIC(38,12) doesn't hold", most, tail, a)
		}
	}
}

func TestProducersBornInTheSameMillisecondDiffer(t *testing.T) {
	seen := map[spend.ProducerID]bool{}
	for range 1000 {
		seen[spend.NewProducerID(testNow)] = true
	}
	if len(seen) != 1000 {
		t.Errorf("%d identities of 1000 are different", len(seen))
	}
}
