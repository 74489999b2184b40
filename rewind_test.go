package spendflush

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// rewindRig is a pipeline with a rewind window of a minute.
func rewindRig(t *testing.T, withQueue bool) (*rig, *testQueue) {
	t.Helper()
	r := newRig(t, withQueue, 1, &faults{})
	c := r.cfg
	c.RewindWindow = time.Minute
	var q *testQueue
	if withQueue {
		q = r.queue
		c.Queue = q
	}
	r.Pipeline = newTestPipeline(t, c)
	return r, q
}

// commitOfTheDead starts the pipeline with batches in the queue of a producer that is dead, and
// waits until they are committed and kept.
func (r *rig) commitOfTheDead(t *testing.T, q *testQueue, batches int) {
	t.Helper()
	for _, b := range chained(t, 1, uint64(batches)) {
		q.Insert(0, b.Bytes())
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
				past := r.store.Snapshot()
				traffic(200) // 40s
				if r.store.diff(r.want) == "" {
					t.Log("nothing is on its way") // as good as any moment
				}
				r.store.Restore(past)
				if !idle {
					traffic(50)
				}
				eventually(t, "the books are those of the twin", func() bool { return r.store.diff(r.want) == "" })
				r.end(t)
			})
		}
	}
}

// The instance whose batches were committed is gone when Postgres is turned back: only the queue
// has them.
func TestBatchesOfADeadProducerComeBackFromTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, q := rewindRig(t, true)
		past := r.store.Snapshot()
		r.commitOfTheDead(t, q, 5)
		time.Sleep(30 * time.Second)
		r.store.Restore(past)
		eventually(t, "they are committed again", func() bool { return r.store.diff(r.want) == "" })
		time.Sleep(90 * time.Second)
		if n := q.size(); n != 0 {
			t.Errorf("%d entries are kept for longer than the window", n)
		}
		r.end(t)
	})
}

// All instances are new after the restore: only what was published in the queue tells that there
// was more. What they add at once, before they have looked at it, would make up for what Postgres
// lacks.
func TestTurnedBackPostgresIsNoticedByInstancesThatDidNotSeeItBefore(t *testing.T) {
	for _, updates := range []int{0, 1, 5, 50} {
		synctest.Test(t, func(t *testing.T) {
			r, q := rewindRig(t, true)
			past := r.store.Snapshot()
			r.commitOfTheDead(t, q, 5)
			r.end(t)
			r.store.Restore(past)
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

// A standing instance takes over from one that has committed since the standing one last looked,
// right after Postgres was turned back behind that. What it adds must not make up for what is
// missing before it has looked.
func TestTurnedBackPostgresIsNoticedByAnInstanceThatHasNotLookedSince(t *testing.T) {
	for _, updates := range []int{0, 1, 50} {
		for _, direct := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				r, q := rewindRig(t, true)
				r.cfg.FlushInterval = 20 * time.Millisecond
				r.start(t)
				r.record(t, key("a")) // so that there is something to know
				eventually(t, "it is committed", func() bool { return r.store.diff(r.want) == "" && q.size() == 1 })
				refused := &atomic.Bool{}
				refused.Store(direct)
				c := r.cfg
				c.SealInterval, c.FlushInterval, c.Instance = 10*time.Millisecond, time.Second, "standing"
				c.Queue = refusingRetainer{q, refused}
				next, _ := rewindRig(t, true)
				next.Pipeline, next.store, next.want = newTestPipeline(t, c), r.store, r.want
				next.start(t)
				if direct && updates > 0 {
					next.record(t, key("b")) // so that it writes directly from now on
				}
				time.Sleep(10*time.Second + 100*time.Millisecond) // both have looked
				past := r.store.Snapshot()
				r.record(t, key("a"))
				eventually(t, "it is committed", func() bool { return r.store.diff(r.want) == "" && q.size() == 2 })
				r.cancel() // a stop as any other
				<-r.stopped
				r.store.Restore(past)
				for range updates {
					next.record(t, key("b"))
					time.Sleep(time.Millisecond)
				}
				time.Sleep(5 * time.Minute)
				if diff := r.store.diff(r.want); diff != "" {
					t.Errorf("%d updates, directly: %t: %s; %d are retained", updates, direct, diff, q.size())
				}
				next.end(t)
			})
		}
	}
}

// refusingRetainer is a Retainer that refuses pushes while it is told to.
type refusingRetainer struct {
	*testQueue
	refused *atomic.Bool
}

func (q refusingRetainer) Push(ctx context.Context, b *spend.Batch, previous spend.EntryID) (spend.EntryID, error) {
	if q.refused.Load() {
		return "", errInjected
	}
	return q.testQueue.Push(ctx, b, previous)
}

// What is only set aside books no update.
func TestPostgresTurnedBackByQuarantineAloneIsNoticed(t *testing.T) {
	for i, name := range []string{"by its claim", "without a claim", "by its claim, restarted", "without a claim, restarted"} {
		bytes := []func(*spend.Batch) []byte{(*spend.Batch).Bytes, func(*spend.Batch) []byte { return []byte("no batch") }}[i%2]
		restarted := i >= 2
		synctest.Test(t, func(t *testing.T) {
			r, q := rewindRig(t, true)
			rows := sealUpdates(t, []spend.Update{{Cost: spend.Cost{Spend: spend.Dollars(77)}, Series: spend.Series{APIKey: "poison"}}}, 0)
			b := spend.NewBatch(testHeader(testProducer(1), 1), rows.totals, rows.rollups)
			c := r.cfg
			c.Store = refusingStore{r.store, spend.Dollars(77)}
			r.Pipeline = newTestPipeline(t, c)
			past := r.store.Snapshot()
			q.Insert(0, bytes(b))
			r.start(t)
			inQuarantine := func() bool { return len(r.store.quarantined()) == 1 }
			eventually(t, name+": it is in quarantine and retained", func() bool { return inQuarantine() && q.size() == 1 })
			if !restarted {
				time.Sleep(5 * time.Second) // of a window of a minute
				r.store.Restore(past)
			} else {
				r.cancel()
				<-r.stopped
				r.store.Restore(past)
				next, _ := rewindRig(t, true)
				c.Queue = q
				next.Pipeline, next.store = newTestPipeline(t, c), r.store
				next.start(t)
			}
			eventually(t, name+": it is in quarantine again", inQuarantine)
		})
	}
}

// What a flusher would commit, or set aside, meanwhile could make up for what is missing, and then
// only its process would know of that.
func TestNothingOfTheQueueIsCommittedBeforeWhatItRetainsIsPutBack(t *testing.T) {
	for _, patience := range []bool{false, true} {
		for _, setAside := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				r, q := rewindRig(t, true)
				past := r.store.Snapshot()
				r.commitOfTheDead(t, q, 2)
				r.end(t)
				r.store.Restore(past)
				next, _ := rewindRig(t, true)
				c, stuck := next.cfg, &atomic.Bool{}
				c.Store, c.Queue = r.store, stuckRetainer{q, stuck}
				next.Pipeline, next.store, next.want = newTestPipeline(t, c), r.store, r.want
				stuck.Store(true)
				if setAside {
					q.Insert(0, []byte("no batch"))
				}
				next.start(t)
				if !setAside {
					next.record(t, key("b"))
				}
				time.Sleep(requeuePatience / 2)
				if n := r.changes(t); n != 0 {
					t.Errorf("%d changes were committed before", n)
				}
				if patience {
					eventually(t, "it goes on without what is stuck", func() bool { return r.changes(t) == 1 })
				}
				stuck.Store(false)
				eventually(t, "all is there", func() bool { return r.store.diff(r.want) == "" })
				next.end(t)
			})
		}
	}
}

// A process sets aside at its start what it can't take from its journal.
func TestTurnedBackPostgresIsNoticedBeforeAnythingOfAJournalIsSetAside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, q := rewindRig(t, true)
		past := r.store.Snapshot()
		r.commitOfTheDead(t, q, 2)
		r.end(t)
		r.store.Restore(past)
		foreign := spend.BatchKeys{Key: testBatchKey(1)}
		rows := sealUpdates(t, []spend.Update{key("foreign")}, 0)
		j := &memoryJournal{batches: []*spend.Batch{foreign.NewBatch(testHeader(testProducer(2), 1), rows.totals, rows.rollups)}}
		next, _ := rewindRig(t, true)
		c := next.cfg
		c.Store, c.Queue, c.Journal, c.BatchKeys = r.store, q, j, spend.BatchKeys{Key: testBatchKey(2), Unsigned: true}
		next.Pipeline, next.store, next.want = newTestPipeline(t, c), r.store, r.want
		next.start(t)
		eventually(t, "the journal is empty", func() bool { return j.len() == 0 })
		eventually(t, "all is there", func() bool { return r.store.diff(r.want) == "" })
		next.end(t)
	})
}

// changes returns how many changes the books have had.
func (r *rig) changes(t *testing.T) int64 {
	t.Helper()
	marks, err := r.store.Marks(t.Context(), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	return marks.Changes
}

// stuckRetainer is a Retainer that puts nothing back while it is told to.
type stuckRetainer struct {
	*testQueue
	stuck *atomic.Bool
}

func (q stuckRetainer) Requeue(ctx context.Context, shard int) (int, error) {
	if q.stuck.Load() {
		return 0, errInjected
	}
	return q.testQueue.Requeue(ctx, shard)
}

// While Postgres is away nobody knows whether it will come back turned back.
func TestNothingKeptExpiresWhilePostgresIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, q := rewindRig(t, true)
		c := r.cfg
		storeFaults := &faults{}
		c.Store = faultyStore{r.store, storeFaults}
		r.Pipeline = newTestPipeline(t, c)
		past := r.store.Snapshot()
		r.start(t)
		r.record(t, key("a"))
		eventually(t, "it is committed", func() bool { return r.store.diff(r.want) == "" && q.size() == 1 })
		storeFaults.setAll(true)
		time.Sleep(time.Hour)
		if q.size() != 1 || len(r.relays[0].outbox.retained) != 1 {
			t.Fatalf("%d in the queue and %d in memory are kept", q.size(), len(r.relays[0].outbox.retained))
		}
		r.store.Restore(past)
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
		past := r.store.Snapshot()
		gone := r.want
		r.want = newBooks()
		r.record(t, key("b")) // will be gone
		eventually(t, "it is committed", func() bool { sum := r.store.Sum(); return sum.APIRequests() == 2 })
		time.Sleep(5 * time.Second)
		r.store.Restore(past)
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
	var d rewindDetector
	slow := d.atLeast() // a reading begins
	d.observe(10)
	if d.compare(slow, 0, testNow) {
		t.Error("a reading that began before the commit is taken for a rewind")
	}
	before := d.atLeast()
	if !d.compare(before, 9, testNow) || d.compare(before, 9, testNow) {
		t.Error("a rewind is told once")
	}
	if !d.mustRequeue() {
		t.Error("it isn't remembered that the queue has to put back what it keeps")
	}
}

// pushlessQueue takes no pushes while it is away.
type pushlessQueue struct {
	*testQueue
	away atomic.Bool
}

func (q *pushlessQueue) Push(ctx context.Context, b *spend.Batch, previous spend.EntryID) (spend.EntryID, error) {
	if q.away.Load() {
		return "", errInjected
	}
	return q.testQueue.Push(ctx, b, previous)
}

// Postgres is turned back after the process has ended that wrote directly: only the queue can have
// what it wrote.
func TestWhatWasWrittenDirectlyOutlivesItsProcessInTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, kept := rewindRig(t, true)
		q := &pushlessQueue{testQueue: kept}
		c := r.cfg
		c.Queue = q
		r.Pipeline = newTestPipeline(t, c)
		past := r.store.Snapshot()
		q.away.Store(true)
		r.start(t)
		for range 3 {
			r.record(t, key("a"))
			time.Sleep(time.Second)
		}
		eventually(t, "all is written directly", func() bool { return r.store.diff(r.want) == "" })
		if n := q.size() + q.len(0); n > 0 {
			t.Fatalf("the queue has %d entries already", n)
		}
		q.away.Store(false)
		eventually(t, "the queue retains it", func() bool { return q.size() == 3 && q.len(0) == 0 })
		r.end(t)

		r.store.Restore(past)
		next, _ := rewindRig(t, true)
		c = next.cfg
		c.Store, c.Queue = r.store, kept
		next.Pipeline, next.store, next.want = newTestPipeline(t, c), r.store, r.want
		next.start(t)
		eventually(t, "it is committed again", func() bool { return r.store.diff(r.want) == "" })
		next.end(t)
	})
}

// The queue is there again only when its process ends.
func TestAStopHasTheQueueRetainWhatWasWrittenDirectly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, kept := rewindRig(t, true)
		q := &pushlessQueue{testQueue: kept}
		c := r.cfg
		c.Queue, c.Locker = q, memoryHeld{} // so that no flusher of this process takes it up
		r.Pipeline = newTestPipeline(t, c)
		q.away.Store(true)
		r.start(t)
		r.record(t, key("a"))
		eventually(t, "it is written directly", func() bool { return r.store.diff(r.want) == "" })
		q.away.Store(false)
		r.end(t)
		if n := q.len(0); n != 1 {
			t.Errorf("the queue has %d entries", n)
		}
	})
}

// memoryHeld is a Locker whose locks another process holds.
type memoryHeld struct{}

func (memoryHeld) Acquire(_ context.Context, name string) (spend.Lease, error) {
	return nil, &spend.HeldError{Name: name}
}

func (memoryHeld) Holder(context.Context, string) (spend.Holder, error) { return spend.Holder{}, nil }

// An entry may be gone because its batch is committed. As long as Postgres doesn't say, neither
// that nor a loss is assumed.
func TestAnEntryThatIsGoneIsNoLossAsLongAsPostgresDoesNotSay(t *testing.T) {
	store := newTestStore()
	f := &faults{name: "Store.Marks", failing: 1}
	p := newTestPipeline(t, Config{
		Store: faultyStore{store, f}, DirectLocker: newTestLocker(), Queue: newTestQueue(), Locker: newTestLocker(),
	})
	r := p.relays[0]
	if err := p.Record(&spend.Update{Cost: spend.Cost{Spend: spend.Dollars(1)}, Series: spend.Series{APIKey: "a"}}); err != nil {
		t.Fatal(err)
	}
	p.seal(false)
	batch := r.outbox.batches[0].ForBooks(testBooks, &spend.BatchKeys{}) // which the relay would have asked for
	r.moved = []uint64{1}
	if r.checkQueue(t.Context()); p.queueLostAt.Load() != 0 || r.writesDirectly() {
		t.Error("the queue is said to have lost it")
	}
	if p.trustsQueue() {
		t.Error("the queue is trusted all the same")
	}
	flush, err := batch.Flush(spend.Mark{})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Apply(t.Context(), flush); err != nil {
		t.Fatal(err)
	}
	if r.checkQueue(t.Context()); p.queueLostAt.Load() != 0 || !p.trustsQueue() || len(r.outbox.batches) != 0 {
		t.Error("it was committed, and the queue isn't trusted")
	}
}

// perBooks is a queue whose entries lie under the keys of their books. Without an id it has
// nothing.
type perBooks struct {
	*testQueue
	of *testQueue
}

func (q perBooks) ForBooks(spend.BooksID) spend.Queue { return q.of }

// All instances are away for longer than the window, and Postgres is turned back meanwhile. What
// was published is read once it is known of which books.
func TestTheFirstLookAtTheBooksForgetsNothingOfThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, q := rewindRig(t, true)
		past := r.store.Snapshot()
		r.commitOfTheDead(t, q, 3)
		r.end(t)
		r.store.Restore(past)
		time.Sleep(2 * time.Minute)

		c := r.cfg
		c.Queue = perBooks{newTestQueue(), q}
		r.Pipeline = newTestPipeline(t, c)
		if err := r.checkRewind(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		if n := q.size(); n != 3 {
			t.Errorf("%d batches are retained after the first look; want 3", n)
		}
		r.start(t)
		eventually(t, "what Postgres lacks is in the books again", func() bool { return r.store.diff(r.want) == "" })
		r.end(t)
	})
}
