package spendflush

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// smallQuarantine has room for some batches that are Bounded.
type smallQuarantine struct {
	*testStore
	room  atomic.Int64
	calls atomic.Int64
}

func (s *smallQuarantine) Quarantine(ctx context.Context, bad []spend.BadBatch) error {
	s.calls.Add(1)
	bounded, held := 0, 0
	for _, b := range bad {
		if b.Bounded {
			bounded++
		}
	}
	for _, b := range s.quarantined() {
		if b.Bounded {
			held++
		}
	}
	if bounded > 0 && int64(held+bounded) > s.room.Load() {
		return fmt.Errorf("%w: %d are there", spend.ErrQuarantineFull, held)
	}
	return s.testStore.Quarantine(ctx, bad)
}

func TestWhoFillsTheQuarantineKeepsNothingOfOursOutAndNothingIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, 1, &faults{})
		store := &smallQuarantine{testStore: r.store}
		store.room.Store(2)
		c := r.cfg
		c.Store, c.BatchKeys = store, spend.BatchKeys{Key: testBatchKey(1)}
		r.Pipeline = newTestPipeline(t, c)
		r.start(t)
		r.commit(t, key("a"))
		id := r.relays[0].identity()
		chain := chainOf(t, 7, "stranger", 6) // of an instance with another key, or forged
		for _, b := range chain[:5] {
			r.queue.Insert(0, b.Bytes())
		}
		// Of a process with this one's memory: nobody else can have signed it, and it has to be
		// kept.
		clone := forge(t, id, spend.Mark{}, c.BatchKeys)
		r.queue.Insert(0, clone.Bytes())
		isKept := func(b *spend.Batch) bool {
			return slices.ContainsFunc(r.store.quarantined(), func(bad spend.BadBatch) bool { return bytes.Equal(bad.Bytes, b.Bytes()) })
		}
		eventually(t, "what is ours is in quarantine", func() bool { return isKept(clone) })
		r.commit(t, key("b"))
		time.Sleep(time.Minute)
		if kept, left := len(r.store.quarantined()), r.queue.len(0); kept != 3 || left != 3 {
			t.Errorf("%d batches are in quarantine and %d in the queue, want 3 and 3", kept, left)
		}
		store.room.Store(4) // an operator has dropped two
		eventually(t, "two more are in quarantine", func() bool { return r.queue.len(0) == 1 })
		store.room.Store(100)
		eventually(t, "the queue is empty", func() bool { return r.queue.len(0) == 0 })
		for _, b := range append(chain[:5], clone) {
			if !isKept(b) {
				t.Errorf("sequence %d is in neither queue nor quarantine", b.Sequence)
			}
		}
		r.end(t)
	})
}

// An entry that is too large for a batch comes with its beginning alone, which may be a batch.
func TestTheBeginningOfAnEntryThatIsTooLargeIsNeverTakenForABatchOfOurs(t *testing.T) {
	keys := spend.BatchKeys{Key: testBatchKey(1)}
	p := newPlan(0)
	p.keys = &keys
	p.addEntry(spend.Entry{ID: "1", Bytes: signedBatch(t, spend.BatchKeys{}, 1).Bytes(), Fault: "it has too many bytes"})
	if len(p.bad) != 1 || !p.bad[0].Foreign || !p.bad[0].Bounded || len(p.wait) != 0 {
		t.Errorf("set aside are %+v, and wait %v", p.bad, p.wait)
	}
}

// Our own batches wait meanwhile.
func TestAQuarantineThatIsAlmostFullIsNotTriedOnceForEachBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, 1, &faults{})
		store := &smallQuarantine{testStore: r.store}
		store.room.Store(700)
		c := r.cfg
		c.Store = store
		r.Pipeline = newTestPipeline(t, c)
		for i := range 2 * asideBatches {
			r.queue.Insert(0, fmt.Appendf(nil, "no batch %d", i))
		}
		if err := r.DrainQueue(t.Context()); err != nil {
			t.Error(err)
		}
		if kept, calls := len(r.store.quarantined()), store.calls.Load(); kept != 700 || calls > 50 {
			t.Errorf("%d batches are kept by %d calls, want 700 by a few", kept, calls)
		}
	})
}

// What a lost identity has only in memory dies with the process until it is in quarantine.
func TestWhatIsToBeSetAsideCountsAsQueuedOnceItIsInQuarantine(t *testing.T) {
	r, _, _, stored := hookedLane(t)
	seal := r.outbox.seal
	r.changeIdentity(r.identity(), spend.Mark{}, errPruned)
	if stage := r.outbox.reached(seal); stage != Accepted {
		t.Errorf("not in quarantine yet: %s", stage)
	}
	r.quarantineAside(t.Context())
	if stage := r.outbox.reached(seal); stage < Queued || len(stored.quarantined()) != 1 {
		t.Errorf("%d in quarantine: %s", len(stored.quarantined()), stage)
	}
}

// A Postgres that was turned back and has had as many changes since looks as if it never was.
func TestWhatAProcessHasSetAsideComesToQuarantineAgainIfPostgresIsTurnedBackUnseen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &faults{}
		r := newRig(t, false, 1, f)
		c, j := r.cfg, &memoryJournal{}
		c.RewindWindow, c.Journal = 30*time.Second, j
		r.Pipeline = newTestPipeline(t, c)
		r.start(t)
		f.setAll(true) // what is recorded stays in memory
		r.record(t, key("a"))
		lane := r.relays[0]
		kept := func() int { lane.mu.Lock(); defer lane.mu.Unlock(); return len(lane.asideKept) }
		eventually(t, "it is sealed", func() bool { lane.mu.Lock(); defer lane.mu.Unlock(); return len(lane.outbox.batches) == 1 })
		past := r.store.Snapshot()
		lane.changeIdentity(lane.identity(), spend.Mark{}, errPruned)
		f.setAll(false)
		eventually(t, "it is in quarantine", func() bool { return len(r.store.quarantined()) == 1 && kept() == 1 })

		before := r.changes(t)
		r.store.Restore(past)
		for r.changes(t) < before {
			if err := r.store.Quarantine(t.Context(), []spend.BadBatch{{Bytes: []byte("of another process"), Foreign: true}}); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "it is in quarantine again", func() bool { return len(r.store.quarantined()) == 2 })

		if j.len() != 1 {
			t.Errorf("the journal has %d batches", j.len())
		}
		eventually(t, "it is given up after the window", func() bool { return kept() == 0 && j.len() == 0 })
		r.cancel()
		<-r.stopped
	})
}

// What is brought to quarantine again could make up for what a Postgres that was turned back lacks.
func TestItIsLookedWhetherPostgresWasTurnedBackBeforeAnythingComesToQuarantineAgain(t *testing.T) {
	r, _ := rewindRig(t, false)
	lane, past := r.relays[0], r.store.Snapshot()
	lane.followBooks()
	b := chained(t, 1, 1)[0]
	lane.aside = []aside{{b, 0, errPruned}}
	lane.quarantineAside(t.Context())
	lane.checkAside(t.Context())
	if lane.commits.rewind.mustRequeue() || len(lane.aside) != 0 || len(lane.asideKept) != 1 {
		t.Fatalf("%d to be set aside, %d kept", len(lane.aside), len(lane.asideKept))
	}

	r.store.Restore(past)
	lane.toPostgres.nextAside = time.Time{}
	lane.checkAside(t.Context())
	if !lane.commits.rewind.mustRequeue() || len(lane.aside) != 1 || len(lane.asideKept) != 0 {
		t.Errorf("noticed: %t; %d to be set aside, %d kept", lane.commits.rewind.mustRequeue(), len(lane.aside), len(lane.asideKept))
	}
}

// It is in quarantine there.
func TestWhatIsSetAsideWithOtherBooksIsLeftToThem(t *testing.T) {
	r, _ := rewindRig(t, false)
	lane := r.relays[0]
	r.Pipeline.books.ask(t.Context())
	lane.books.id, lane.asideKept = spend.BooksID{9}, make([]asideKept, 1)
	if !lane.followBooks() || len(lane.asideKept) != 0 {
		t.Errorf("%d are kept", len(lane.asideKept))
	}
}

// The clone of a process goes on from what a Postgres that was turned back has. What the process
// itself had committed until then has no place in the books any more.
func TestWhatWasCommittedBeforePostgresWasTurnedBackIsSetAsideIfACloneHasItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := rewindRig(t, false)
		past := r.store.Snapshot()
		r.start(t)
		r.record(t, key("a"))
		lane := r.relays[0]
		retained := func() []*outgoing { lane.mu.Lock(); defer lane.mu.Unlock(); return slices.Clone(lane.outbox.retained) }
		eventually(t, "it is committed and retained", func() bool { return len(retained()) == 1 })
		own := retained()[0]

		r.store.Restore(past)
		rows := sealUpdates(t, []spend.Update{key("b")}, 0)
		header := testHeader(own.Producer, 1)
		header.Books = own.Books
		f, err := spend.NewBatch(header, rows.totals, rows.rollups).Flush(spend.Mark{})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.store.Apply(t.Context(), f); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it is in quarantine", func() bool {
			q := r.store.quarantined()
			return len(q) == 1 && bytes.Equal(q[0].Bytes, own.Bytes())
		})
		r.cancel()
		<-r.stopped
	})
}

// Of a process that was out of touch for a month nothing says what the books have of it.
func TestWhatWasCommittedBeforePostgresWasTurnedBackIsSetAsideIfItsMarkWasPruned(t *testing.T) {
	for _, turnedBack := range []bool{false, true} {
		r, _ := rewindRig(t, false)
		lane := r.relays[0]
		lane.followBooks()
		b := chained(t, 1, 1)[0]
		confirmed := lane.p.time.Now()
		lane.outbox.retained = []*outgoing{{Batch: b, confirmedAt: confirmed}}
		if turnedBack {
			lane.commits.rewind.observe(5)
			lane.commits.rewind.compare(5, 0, confirmed.Add(time.Minute))
		}
		lane.changeIdentity(lane.identity(), spend.Mark{}, errPruned)
		if got := len(lane.aside) == 1; got != turnedBack {
			t.Errorf("turned back: %t, set aside: %d", turnedBack, len(lane.aside))
		}
	}
}
