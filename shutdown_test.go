package spendflush

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spendflush/spendflush/spend"
)

func TestShutdownSaysExactlyWhatItCouldNotDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &faults{all: true}
		r := newRig(t, true, 2, f)
		r.start(t)
		random := rand.New(rand.NewPCG(2, 2))
		for range 30 {
			r.record(t, randomUpdate(random))
			time.Sleep(30 * time.Millisecond)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var left *NotDrainedError
		err := r.Shutdown(ctx)
		if !errors.As(err, &left) || !errors.Is(err, ErrNotDrained) || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("%v; want a *NotDrainedError because of the deadline", err)
		}
		if left.Updates != r.want.updates || left.Amount != r.want.amount {
			t.Fatalf("%v; want %d updates of %s dollars", err, r.want.updates, r.want.amount)
		}
		if err := r.Record(&spend.Update{Series: spend.Series{APIKey: "k"}}); !errors.Is(err, ErrClosed) {
			t.Fatalf("Record after Shutdown: %v; want ErrClosed", err)
		}
		if err := <-r.ran; err != nil {
			t.Fatal(err)
		}
	})
}

func TestShutdownDoesntWaitForPostgresOnceTheQueueHasEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, 1, &faults{})
		r.cfg.Queue = slowQueue{r.queue}         // so that pushing again, as the relay does every stallAfter, is seen
		r.locker.Acquire(t.Context(), "flush/0") // no instance flushes
		direct := newTestLocker()
		direct.Acquire(t.Context(), "direct/0") // nor is there a way round the queue
		r.cfg.DirectLocker = direct
		r.start(t)
		for range 3 {
			r.record(t, key("a"))
			time.Sleep(time.Second / 2)
		}
		start := time.Now()
		if err := r.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < commitGrace || took > 2*commitGrace {
			t.Errorf("Shutdown took %s; want about %s", took, commitGrace)
		}
		if n := r.queue.len(0); n != 3 {
			t.Errorf("%d batches are in the queue, want 3", n)
		}
		<-r.ran
	})
}

// The queue loses a batch while Shutdown waits for Postgres, and is away until after the grace.
func TestShutdownWaitsOnWhenAQueuedBatchMustBeSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		queueFaults := &faults{}
		r := newRig(t, true, 1, &faults{})
		direct := newTestLocker()
		r.cfg.Queue, r.cfg.DirectLocker = faultyQueue{r.queue, queueFaults}, direct
		flush, _ := r.locker.Acquire(t.Context(), "flush/0")
		direct.Acquire(t.Context(), "direct/0") // nor is there a way round the queue
		r.start(t)
		receipt := r.record(t, key("a"))
		if _, err := r.Wait(t.Context(), receipt, Queued); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Second, func() {
			r.queue.lose()
			queueFaults.setAll(true)
		})
		time.AfterFunc(commitGrace+5*time.Second, func() {
			queueFaults.setAll(false)
			flush.Release(context.Background())
		})
		r.end(t)
	})
}

// A relay doubts now and then whether the queue still has what waits there for long. It may begin
// so just as draining ends.
func TestShutdownTellsNothingAsLostForADoubtThatBeganAfterItHadLooked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, 1, &faults{})
		r.locker.Acquire(t.Context(), "flush/0") // no instance flushes
		direct := newTestLocker()
		direct.Acquire(t.Context(), "direct/0") // nor is there a way round the queue
		doubting := &doubtingQueue{testQueue: r.queue}
		c := r.cfg
		c.Queue, c.DirectLocker = doubting, direct
		r.Pipeline = newTestPipeline(t, c)
		doubting.relay.Store(r.relays[0])
		r.start(t)
		for range 3 {
			r.record(t, key("a"))
			time.Sleep(time.Second / 2)
		}
		doubting.from.Store(time.Now().Add(commitGrace).UnixNano())
		if err := r.Shutdown(t.Context()); err != nil || doubting.doubts.Load() == 0 {
			t.Errorf("%d doubts, %v", doubting.doubts.Load(), err)
		}
		if n := r.queue.len(0); n != 3 {
			t.Errorf("%d batches are in the queue, want 3", n)
		}
		<-r.ran
	})
}

// doubtingQueue has a relay doubt all that it has pushed as Shutdown, after its grace, pushes the
// last one of three once more, and hangs from then on.
type doubtingQueue struct {
	*testQueue
	relay  atomic.Pointer[relay]
	from   atomic.Int64 // Unix nanoseconds; 0: not yet
	doubts atomic.Int64
}

func (q *doubtingQueue) Push(ctx context.Context, b *spend.Batch, previous spend.EntryID) (spend.EntryID, error) {
	if q.doubts.Load() > 0 {
		<-ctx.Done()
		return "", ctx.Err()
	}
	if from := q.from.Load(); from > 0 && time.Now().UnixNano() >= from && b.Sequence == 3 {
		r := q.relay.Load()
		r.mu.Lock()
		r.outbox.resetPushed()
		r.mu.Unlock()
		q.doubts.Add(1)
	}
	return q.testQueue.Push(ctx, b, previous)
}

// slowQueue takes its time for a push.
type slowQueue struct{ *testQueue }

func (q slowQueue) Push(ctx context.Context, b *spend.Batch, previous spend.EntryID) (spend.EntryID, error) {
	time.Sleep(10 * time.Millisecond)
	return q.testQueue.Push(ctx, b, previous)
}

func TestDrainQueueFlushesWhatOthersLeftWithoutRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, 2, &faults{})
		leases := []spend.Lease{}
		for _, name := range []string{"flush/0", "flush/1"} {
			lease, _ := r.locker.Acquire(t.Context(), name)
			leases = append(leases, lease)
		}
		r.start(t)
		for i := range 10 {
			r.record(t, key(fmt.Sprint(i)))
		}
		if err := r.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, lease := range leases {
			time.AfterFunc(testTTL, func() { lease.Release(context.Background()) })
		}
		another := newTestPipeline(t, r.cfg)
		start := time.Now()
		if err := another.DrainQueue(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < testTTL {
			t.Errorf("drained after %s, while the lock was held", took)
		}
		if diff := r.store.diff(r.want); diff != "" || r.queue.len(0)+r.queue.len(1) > 0 {
			t.Errorf("%d and %d batches are left: %s", r.queue.len(0), r.queue.len(1), diff)
		}
		<-r.ran
	})
}

func TestShutdownWithoutRunReturnsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, 1, &faults{})
		r.record(t, key("a"))
		var left *NotDrainedError
		if err := r.Shutdown(t.Context()); !errors.As(err, &left) || left.Updates != 1 {
			t.Fatalf("%v; want one update not drained", err)
		}
		if err := r.Run(t.Context()); err == nil {
			t.Fatal("Run after Shutdown works")
		}
	})
}

func TestRunWhoseContextEndsDrainsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, 1, &faults{})
		r.start(t)
		r.record(t, key("a"))
		r.cancel()
		if err := <-r.ran; !errors.Is(err, context.Canceled) || errors.Is(err, ErrNotDrained) {
			t.Fatalf("Run: %v", err)
		}
		if diff := r.store.diff(r.want); diff != "" {
			t.Error(diff)
		}
		if err := r.Record(new(key("b"))); !errors.Is(err, ErrClosed) {
			t.Errorf("Record: %v; want ErrClosed", err)
		}
		if err := r.Shutdown(t.Context()); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
}

func TestRunWhoseContextEndsSaysWhatItCouldNotDrainInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, 1, &faults{all: true})
		c := r.cfg
		c.DrainTimeout = 3 * time.Second
		r.Pipeline = newTestPipeline(t, c)
		r.start(t)
		r.record(t, key("a"))
		start := time.Now()
		r.cancel()
		var left *NotDrainedError
		err := <-r.ran
		if !errors.Is(err, context.Canceled) || !errors.As(err, &left) || left.Updates != 1 || left.Amount != spend.Dollars(1) {
			t.Fatalf("Run: %v; want one update of 1 dollar not drained", err)
		}
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("it took %s, want the DrainTimeout", took)
		}
		if err := r.Shutdown(t.Context()); !errors.As(err, &left) || left.Updates != 1 {
			t.Errorf("Shutdown: %v", err)
		}
	})
}
