package spendflush

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestWindowTakesKeptBatchesBackWhenPostgresIsTurnedBack(t *testing.T) {
	w := newWindow(time.Minute)
	w.add(chained(t, 1, 5))
	for n := uint64(1); n <= 5; n++ {
		w.atQueue(n, "e")
	}
	w.confirm(2, testNow)
	w.confirm(4, testNow.Add(10*time.Second))
	if len(w.kept) != 4 || len(w.batches) != 1 || w.dropped() != 0 {
		t.Fatalf("%d kept and %d waiting", len(w.kept), len(w.batches))
	}
	if _, restored, missing := w.confirmStored(Mark{Sequence: 1}, testNow); restored != 3 || missing != 0 {
		t.Fatalf("%d restored, %d missing; want 3 and none", restored, missing)
	}
	if w.confirmed != 1 || len(w.batches) != 4 || w.batches[0].Sequence != 2 || len(w.kept) != 1 {
		t.Fatalf("confirmed is %d, %d wait from %d, %d are kept", w.confirmed, len(w.batches), w.batches[0].Sequence, len(w.kept))
	}
	mustPush(t, w, 2) // again
	w.confirm(5, testNow.Add(20*time.Second))
	w.expire(testNow.Add(60 * time.Second))
	if len(w.kept) != 4 || w.dropped() != 1 {
		t.Fatalf("%d kept after the first minute, dropped up to %d", len(w.kept), w.dropped())
	}
	// Further back than what is kept.
	if _, restored, missing := w.confirmStored(Mark{}, testNow); restored != 4 || missing != 1 {
		t.Fatalf("%d restored, %d missing; want 4 and 1", restored, missing)
	}
	mustPush(t, w, 2)
	// What is missing was passed, or found elsewhere: it doesn't keep the others from being confirmed.
	if confirmed, _, _ := w.confirmStored(Mark{Sequence: 5, Lost: []uint64{1}}, testNow); confirmed != 4 {
		t.Fatalf("%d confirmed, want 4", confirmed)
	}
}

func TestWindowKeepsABatchThatWasPassedAsLost(t *testing.T) {
	w := newWindow(0)
	w.add(chained(t, 1, 4))
	if confirmed, _, _ := w.confirmStored(Mark{Sequence: 4, Lost: []uint64{3}}, testNow); confirmed != 2 {
		t.Fatalf("%d confirmed, want 2", confirmed)
	}
	mustPush(t, w, 3)
	if confirmed, _, _ := w.confirmStored(Mark{Sequence: 4}, testNow); confirmed != 2 || len(w.batches) != 0 {
		t.Fatalf("%d confirmed after it was found, %d wait", confirmed, len(w.batches))
	}
}

// Postgres may be turned back behind batches that were found again, or be passed over a gap by others before this producer
// looks. Its mark is no smaller then, and yet batches are missing that are kept here.
func TestWindowTakesABatchBackThatIsLostToAPostgresWhoseMarkIsNoSmaller(t *testing.T) {
	w := newWindow(time.Minute)
	w.add(chained(t, 1, 6))
	w.confirm(2, testNow)
	w.confirm(5, testNow.Add(time.Minute))
	w.expire(testNow.Add(time.Minute)) // 1 and 2
	if _, restored, missing := w.confirmStored(Mark{Sequence: 6, Lost: []uint64{1, 4}}, testNow); restored != 2 || missing != 0 {
		t.Fatalf("%d restored, %d missing; want 2 and none", restored, missing)
	}
	mustPush(t, w, 4)
	if confirmed, restored, _ := w.confirmStored(Mark{Sequence: 6, Lost: []uint64{1}}, testNow); confirmed != 3 || restored != 0 {
		t.Fatalf("%d confirmed and %d restored after it was found, want 3 and none", confirmed, restored)
	}
}

// keepingQueue keeps what was settled.
type keepingQueue struct {
	*memoryQueue
	keptMu sync.Mutex
	kept   map[int][]memoryEntry
}

func (q *keepingQueue) Settle(ctx context.Context, shard int, ids []EntryID, marks map[ProducerID]uint64) error {
	q.keptMu.Lock()
	defer q.keptMu.Unlock()
	q.mu.Lock()
	for _, e := range q.entries[shard] {
		if slices.Contains(ids, e.ID) {
			q.kept[shard] = append(q.kept[shard], memoryEntry{e.Entry, q.now()})
		}
	}
	behind := q.marks[booksMark][shard] > marks[booksMark]
	q.mu.Unlock()
	if behind {
		marks = maps.Clone(marks)
		delete(marks, booksMark)
	}
	return q.memoryQueue.Settle(ctx, shard, ids, marks)
}

func (q *keepingQueue) Requeue(_ context.Context, shard int) (int, error) {
	q.keptMu.Lock()
	defer q.keptMu.Unlock()
	q.mu.Lock()
	defer q.mu.Unlock()
	n := len(q.kept[shard])
	for _, e := range q.kept[shard] {
		q.insert(shard, slices.Clone(e.Bytes))
	}
	q.kept[shard] = nil
	delete(q.marks[booksMark], shard)
	return n, nil
}

func (q *keepingQueue) Expire(_ context.Context, shard int, age time.Duration) error {
	q.keptMu.Lock()
	defer q.keptMu.Unlock()
	q.kept[shard] = slices.DeleteFunc(q.kept[shard], func(e memoryEntry) bool { return q.now().Sub(e.at) >= age })
	return nil
}

func (q *keepingQueue) size() int {
	q.keptMu.Lock()
	defer q.keptMu.Unlock()
	return len(q.kept[0])
}

// rewindRig is a pipeline with a rewind window of a minute.
func rewindRig(t *testing.T, withQueue bool) (*rig, *keepingQueue) {
	t.Helper()
	r := newRig(t, withQueue, 1, &faults{})
	c := r.cfg
	c.RewindWindow = time.Minute
	var q *keepingQueue
	if withQueue {
		q = &keepingQueue{memoryQueue: r.queue, kept: map[int][]memoryEntry{}}
		c.Queue = q
	}
	r.Pipeline = newTestPipeline(t, c)
	return r, q
}

// commitOfTheDead starts the pipeline with batches in the queue of a producer that is dead, and waits until they are
// committed and kept.
func (r *rig) commitOfTheDead(t *testing.T, q *keepingQueue, batches int) {
	t.Helper()
	for _, b := range chained(t, 1, uint64(batches)) {
		q.insert(0, b.Bytes())
		rows := mustRows(t, b)
		r.want.apply(rows.Totals, rows.Rollups)
	}
	r.start(t)
	eventually(t, "they are committed", func() bool { return r.store.diff(r.want) == "" && q.size() == batches })
}

// The twin is what the books would be without the restore: every update is in r.want.
func TestPostgresTurnedBackWithinTheWindowEndsLikeItsUndisturbedTwin(t *testing.T) {
	for _, withQueue := range []bool{true, false} {
		for _, idle := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				r, _ := rewindRig(t, withQueue)
				r.start(t)
				random := rand.New(rand.NewPCG(21, 21))
				traffic := func(n int) {
					for range n {
						r.record(t, randomUpdate(random))
						time.Sleep(200 * time.Millisecond)
					}
				}
				traffic(100)
				past := r.store.snapshot()
				traffic(200) // 40s
				if r.store.diff(r.want) == "" {
					t.Log("nothing is on its way") // as good as any moment
				}
				r.store.rewind(past)
				if !idle {
					traffic(50)
				}
				eventually(t, "the books are those of the twin", func() bool { return r.store.diff(r.want) == "" })
				r.end(t)
			})
		}
	}
}

// The instance whose batches were committed is gone when Postgres is turned back: only the queue has them.
func TestBatchesOfADeadProducerComeBackFromTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, q := rewindRig(t, true)
		past := r.store.snapshot()
		r.commitOfTheDead(t, q, 5)
		time.Sleep(30 * time.Second)
		r.store.rewind(past)
		eventually(t, "they are committed again", func() bool { return r.store.diff(r.want) == "" })
		time.Sleep(90 * time.Second)
		if n := q.size(); n != 0 {
			t.Errorf("%d entries are kept for longer than the window", n)
		}
		r.end(t)
	})
}

// All instances are new after the restore: only what was published in the queue tells that there was more. What they add at
// once, before they have looked at it, would make up for what Postgres lacks.
func TestTurnedBackPostgresIsNoticedByInstancesThatDidNotSeeItBefore(t *testing.T) {
	for _, updates := range []int{0, 1, 5, 50} {
		synctest.Test(t, func(t *testing.T) {
			r, q := rewindRig(t, true)
			past := r.store.snapshot()
			r.commitOfTheDead(t, q, 5)
			r.end(t)
			r.store.rewind(past)
			next, _ := rewindRig(t, true)
			c := next.cfg
			c.Store, c.Queue, c.SealInterval, c.FlushInterval = r.store, q, time.Millisecond, time.Millisecond
			next.Pipeline, next.store, next.want = newTestPipeline(t, c), r.store, r.want
			next.start(t)
			for range updates {
				next.record(t, key("b"))
				time.Sleep(time.Millisecond)
			}
			eventually(t, "they are committed again", func() bool { return r.store.diff(r.want) == "" })
			next.end(t)
		})
	}
}

// While Postgres is away nobody knows whether it will come back turned back.
func TestNothingKeptExpiresWhilePostgresIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, q := rewindRig(t, true)
		c := r.cfg
		storeFaults := &faults{}
		c.Store = faultyStore{r.store, storeFaults}
		r.Pipeline = newTestPipeline(t, c)
		past := r.store.snapshot()
		r.start(t)
		r.record(t, key("a"))
		eventually(t, "it is committed", func() bool { return r.store.diff(r.want) == "" && q.size() == 1 })
		storeFaults.setAll(true)
		time.Sleep(time.Hour)
		if q.size() != 1 || len(r.lanes[0].window.kept) != 1 {
			t.Fatalf("%d in the queue and %d in memory are kept", q.size(), len(r.lanes[0].window.kept))
		}
		r.store.rewind(past)
		storeFaults.setAll(false)
		eventually(t, "it is committed again", func() bool { return r.store.diff(r.want) == "" })
		r.end(t)
	})
}

func TestPostgresTurnedBackWithoutAWindowIsToldAndLosesOnlyThat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		r := newRig(t, true, 1, &faults{})
		c := r.cfg
		c.GapGrace, c.Logger = 10*time.Second, logTo(&log)
		r.Pipeline = newTestPipeline(t, c)
		r.start(t)
		r.record(t, key("a"))
		eventually(t, "it is committed", func() bool { return r.store.diff(r.want) == "" })
		past := r.store.snapshot()
		gone := r.want
		r.want = newBooks()
		r.record(t, key("b")) // will be gone
		eventually(t, "it is committed", func() bool { return r.store.snapshot().books.updates == 2 })
		time.Sleep(5 * time.Second)
		r.store.rewind(past)
		r.want = gone
		for range 10 {
			r.record(t, key("c"))
			time.Sleep(time.Second)
		}
		eventually(t, "what came after is committed", func() bool { return r.store.diff(r.want) == "" })
		if r.store.missing() != 1 {
			t.Errorf("%d batches are reported as lost, want 1", r.store.missing())
		}
		r.end(t)
		for _, want := range []string{"turned back", "BATCHES ARE LOST", "with 1 updates of 1 dollars"} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("the log doesn't say %q:\n%s", want, log.String())
			}
		}
	})
}

func TestReadingMarksBesideACommitIsNotTakenForARewind(t *testing.T) {
	var b shardBooks
	slow := b.atLeast() // a reading begins
	b.grown(10)
	if b.compare(slow, 0) {
		t.Error("a reading that began before the commit is taken for a rewind")
	}
	before := b.atLeast()
	if !b.compare(before, 9) || b.compare(before, 9) {
		t.Error("a rewind is told once")
	}
	if !b.mustRequeue() {
		t.Error("it isn't remembered that the queue has to put back what it keeps")
	}
}
