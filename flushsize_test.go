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

// narrowStore takes no flush of more rows than there is room for, as a Postgres does that ends what
// takes too long.
type narrowStore struct {
	*testStore
	mu            sync.Mutex
	room, largest int // rows; 0 is any number
	failed        int
	committed     int
}

func (s *narrowStore) Apply(ctx context.Context, f *spend.Flush) error {
	s.mu.Lock()
	rows := len(f.Totals) + len(f.Rollups)
	refuses := s.room > 0 && rows > s.room
	if refuses {
		s.failed++
	} else {
		s.largest = max(s.largest, rows)
		s.committed++
	}
	s.mu.Unlock()
	if refuses {
		return errors.New("terminating connection due to idle-in-transaction timeout (SQLSTATE 25P03)")
	}
	return s.testStore.Apply(ctx, f)
}

func (s *narrowStore) widen(room int) (largest int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	largest, s.room, s.largest = s.largest, room, 0
	return largest
}

// What can't be written in one go is written in several; once that works, flushes are as large as
// before.
func TestAFlushThatFailsGetsSmallerAndAfterSuccessesLargeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const producers = 128 // one batch each, with two rows of its own
		r := newRig(t, true, 1, &faults{})
		store := &narrowStore{testStore: r.store, room: 4}
		c := r.cfg
		c.Store = store
		r.Pipeline = newTestPipeline(t, c)
		backlog := func(first int) {
			for i := range producers {
				r.queue.Insert(0, chainOf(t, first+i, fmt.Sprint("key ", first+i), 1)[0].Bytes())
			}
		}
		committed := func(n int) func() bool {
			return func() bool {
				booked, err := r.store.Marks(t.Context(), 0, testProducers(n))
				return err == nil && len(booked.Of) == n
			}
		}
		backlog(1)
		r.start(t)
		time.Sleep(10 * time.Minute)
		if !committed(producers)() {
			t.Fatal("a Postgres with little room hasn't got all")
		}
		store.mu.Lock()
		failed := store.failed
		store.mu.Unlock()
		if largest := store.widen(0); largest > 4 || failed == 0 {
			t.Fatalf("the largest flush has %d rows, %d failed; it shows nothing", largest, failed)
		}

		for range 500 { // successes, each doubling after maxKeep of them at most
			r.record(t, spend.Update{Cost: spend.Cost{Spend: spend.Dollars(1)}, Series: spend.Series{APIKey: "a"}})
			time.Sleep(5 * time.Second)
		}
		backlog(producers + 1)
		eventually(t, "all of the second backlog is there", committed(2*producers))
		if largest := store.widen(0); largest < 2*producers {
			t.Errorf("the largest flush afterwards has %d rows, want the whole backlog of %d in one", largest, 2*producers)
		}
	})
}

// narrowRig returns a pipeline that doesn't run, on a store that takes room rows at a time, and a
// queue with a batch of two rows of each of so many producers.
func narrowRig(t *testing.T, room, producers int) (*rig, *narrowStore, *Pipeline) {
	t.Helper()
	r := newRig(t, true, 1, &faults{})
	store := &narrowStore{testStore: r.store, room: room}
	c := r.cfg
	c.Store = store
	for i := range producers {
		r.queue.Insert(0, chainOf(t, 1+i, fmt.Sprint("key ", i), 1)[0].Bytes())
	}
	return r, store, newTestPipeline(t, c)
}

// A Postgres that takes only small flushes gets them one after the other: one walk over the queue
// commits all, and few flushes fail, since the size that works is remembered.
func TestAPostgresThatTakesOnlySmallFlushesGetsAllInOneWalk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, store, p := narrowRig(t, 4, 512)
		if err := p.DrainQueue(t.Context()); err != nil {
			t.Error(err)
		}
		if left := r.queue.len(0); left > 0 {
			t.Errorf("%d batches are left in the queue", left)
		}
		if store.failed < 1 || store.failed > store.committed/8 {
			t.Errorf("%d flushes failed and %d were committed, want a failure for every eight at most", store.failed, store.committed)
		}
	})
}

// A Postgres that can be read and not written is asked at once for each smaller size, and for each
// producer's batch, and then no more until the next walk.
func TestAPostgresThatTakesNothingEndsTheWalk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const producers = 64
		_, store, p := narrowRig(t, 1, producers)
		if err := p.DrainQueue(t.Context()); err == nil {
			t.Error("nothing could be written, and no error says so")
		}
		if halves := 6; store.failed > halves+producers {
			t.Errorf("%d flushes failed in the first walk, want %d at most", store.failed, halves+producers)
		}
		first := store.failed
		if err := p.DrainQueue(t.Context()); err == nil || store.failed != first+1 {
			t.Errorf("%d flushes failed in the second walk, %v; want one", store.failed-first, err)
		}
	})
}

// One failure among flushes that work, as of a Postgres that was away, leaves no trace.
func TestFlushesAreLargeAgainSoonAfterAPostgresThatWasAway(t *testing.T) {
	s := newFlushSize(flushLimit{rows: 1024, texts: 1024})
	flush := &spend.Flush{Rollups: make([]spend.RollupRow, 1000)}
	for s.limit.rows > 1 {
		s.failed(flush)
	}
	for range 10 {
		s.succeeded()
	}
	if s.limit.rows != 1024 {
		t.Errorf("a flush may have %d rows after ten successes, want 1024", s.limit.rows)
	}
}

func testProducers(n int) (list []spend.ProducerID) {
	for i := range n {
		list = append(list, testProducer(i+1))
	}
	return list
}
