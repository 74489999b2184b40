package spendflush

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// hangs has calls block until their caller gives up, as those to a server that is frozen do.
type hangs struct{ on atomic.Bool }

func (h *hangs) wait(ctx context.Context) error {
	if !h.on.Load() {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

type hangingStore struct {
	spend.Store
	*hangs
}

func (s hangingStore) Books(ctx context.Context) (spend.BooksID, error) {
	if err := s.wait(ctx); err != nil {
		return spend.BooksID{}, err
	}
	return s.Store.Books(ctx)
}

func (s hangingStore) Marks(ctx context.Context, shard int, ids []spend.ProducerID) (spend.Marks, error) {
	if err := s.wait(ctx); err != nil {
		return spend.Marks{}, err
	}
	return s.Store.Marks(ctx, shard, ids)
}

func (s hangingStore) Apply(ctx context.Context, f *spend.Flush) error {
	if err := s.wait(ctx); err != nil {
		return err
	}
	return s.Store.Apply(ctx, f)
}

type hangingQueue struct {
	spend.Queue
	*hangs
}

func (q hangingQueue) Push(ctx context.Context, b *spend.Batch, previous spend.EntryID) (spend.EntryID, error) {
	if err := q.wait(ctx); err != nil {
		return "", err
	}
	return q.Queue.Push(ctx, b, previous)
}

func (q hangingQueue) Mark(ctx context.Context, shard int, id spend.ProducerID) (spend.Mark, error) {
	if err := q.wait(ctx); err != nil {
		return spend.Mark{}, err
	}
	return q.Queue.Mark(ctx, shard, id)
}

// hangingRig is a rig whose servers can hang.
func hangingRig(t *testing.T, journal spend.Journal) (r *rig, store, queue *hangs) {
	r = newRig(t, true, 2, &faults{})
	store, queue = &hangs{}, &hangs{}
	c := r.cfg
	c.Store, c.Queue, c.Journal = hangingStore{r.store, store}, hangingQueue{c.Queue, queue}, journal
	c.DirectLocker = newTestLocker()
	r.Pipeline = newTestPipeline(t, c)
	r.start(t)
	first := r.record(t, key("first"))
	if _, err := r.Wait(t.Context(), first, Committed); err != nil {
		t.Fatal(err)
	}
	return r, store, queue
}

// reaches sees that what is recorded for some time reaches the stage within this time of the
// bubble. It returns how much that was.
func (r *rig) reaches(t *testing.T, want Stage, within time.Duration) (updates int) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); updates++ {
		receipt := r.record(t, key("more"))
		ctx, cancel := context.WithTimeout(t.Context(), within)
		if stage, err := r.Wait(ctx, receipt, want); err != nil {
			t.Fatalf("update %d is %s after %s; want %s", updates, stage, within, want)
		}
		cancel()
	}
	return updates
}

// soon is the next seal and a look of the relay. One seal is left out where more than eight batches
// are just being pushed again.
const soon = 2*200*time.Millisecond + confirmInterval

func TestAPostgresThatHangsHoldsUpNoPush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, store, _ := hangingRig(t, nil)
		store.on.Store(true)
		n := r.reaches(t, Queued, soon)
		if queued := r.queue.len(0) + r.queue.len(1); queued < n {
			t.Errorf("%d batches are in the queue, of %d updates", queued, n)
		}
		store.on.Store(false)
		r.end(t)
	})
}

// The queue fails, so that the relay writes directly; that hangs, and meanwhile the queue is back.
func TestADirectWriteThatHangsHoldsUpNoPush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, store, _ := hangingRig(t, nil)
		store.on.Store(true)
		r.faults.setAll(true)
		receipt := r.record(t, key("more"))
		time.Sleep(5 * time.Second)
		r.faults.setAll(false)
		ctx, cancel := context.WithTimeout(t.Context(), retryMost)
		defer cancel()
		if stage, err := r.Wait(ctx, receipt, Queued); err != nil {
			t.Fatalf("it is %s", stage)
		}
		r.reaches(t, Queued, soon)
		store.on.Store(false)
		r.end(t)
	})
}

func TestServersThatHangHoldUpNoJournal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, store, queue := hangingRig(t, &memoryJournal{})
		store.on.Store(true)
		queue.on.Store(true)
		r.reaches(t, Queued, soon)
		store.on.Store(false)
		queue.on.Store(false)
		r.end(t)
	})
}

func TestAQueueThatHangsIsGoneRoundAfterASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, queue := hangingRig(t, nil)
		queue.on.Store(true)
		r.reaches(t, Committed, r.cfg.SealInterval+fallbackAfter+2*confirmInterval)
		queue.on.Store(false)
		r.end(t)
	})
}

// hookedStore has something happen while marks are read.
type hookedStore struct {
	spend.Store
	during func()
}

func (s *hookedStore) Marks(ctx context.Context, shard int, ids []spend.ProducerID) (spend.Marks, error) {
	marks, err := s.Store.Marks(ctx, shard, ids)
	s.during()
	return marks, err
}

type hookedQueue struct {
	spend.Queue
	during func()
}

func (q *hookedQueue) Push(ctx context.Context, b *spend.Batch, previous spend.EntryID) (spend.EntryID, error) {
	q.during()
	entry, err := q.Queue.Push(ctx, b, previous)
	return entry, err
}

func (q *hookedQueue) Mark(ctx context.Context, shard int, id spend.ProducerID) (spend.Mark, error) {
	q.during()
	return q.Queue.Mark(ctx, shard, id)
}

// hookedLane is the only relay of a pipeline that doesn't run, with a batch in its outbox.
func hookedLane(t *testing.T) (r *relay, store *hookedStore, queue *hookedQueue, stored *testStore) {
	stored = newTestStore()
	store, queue = &hookedStore{stored, func() {}}, &hookedQueue{newTestQueue(), func() {}}
	p := newTestPipeline(t, Config{Store: store, DirectLocker: newTestLocker(), Queue: queue, Locker: newTestLocker(), Journal: &memoryJournal{}})
	r = p.relays[0]
	sealOne(t, p)
	p.books.learn(testBooks, true)
	r.followBooks()
	return r, store, queue, stored
}

func sealOne(t *testing.T, p *Pipeline) {
	t.Helper()
	if err := p.Record(&spend.Update{Cost: spend.Cost{Spend: spend.Dollars(1)}, Series: spend.Series{APIKey: "a"}}); err != nil {
		t.Fatal(err)
	}
	p.seal(false)
}

// replace has the relay go on under a new identity, and seals a batch under that.
func replace(t *testing.T, r *relay) {
	t.Helper()
	before := r.identity()
	r.changeIdentity(before, spend.Mark{}, errPruned)
	sealOne(t, r.p)
	if r.identity() == before || len(r.outbox.batches) != 1 {
		t.Fatal("the identity isn't changed")
	}
}

// Postgres is asked about an identity, and meanwhile the task of the queue goes on under another
// one.
func TestAMarkOfTheIdentityBeforeSaysNothingOfTheNewOne(t *testing.T) {
	for name, prune := range map[string]bool{"it has a mark": false, "it looks pruned": true} {
		t.Run(name, func(t *testing.T) {
			r, store, _, stored := hookedLane(t)
			if prune {
				stored.setHorizon(0, time.Now().Add(time.Hour))
			}
			var changed spend.ProducerID
			store.during = func() {
				store.during = func() {}
				replace(t, r)
				changed = r.identity()
			}
			if err := r.readStoredMark(t.Context()); err != nil {
				t.Fatal(err)
			}
			if r.identity() != changed || len(r.outbox.batches) != 1 || len(r.aside) != 1 || r.diverged {
				t.Errorf("%d batches are on their way, %d are set aside; diverged: %t", len(r.outbox.batches), len(r.aside), r.diverged)
			}
			r.confirm(spend.ProducerID{1}, spend.Mark{Sequence: 1})
			if r.diverged || len(r.outbox.batches) != 1 {
				t.Error("a mark of another producer is taken for its own")
			}
		})
	}
}

// A batch is pushed while Postgres tells of other books, or of another process with the same
// memory.
func TestAPushThatAnIdentityDoesNotOutliveSaysNothingOfTheNextOne(t *testing.T) {
	r, _, queue, _ := hookedLane(t)
	r.outbox.batches[0].entry = "0-1" // so that it moves
	queue.during = func() {
		queue.during = func() {}
		replace(t, r)
	}
	b := r.outbox.batches[0]
	if err := r.pushOnce(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if len(r.moved) != 0 || r.outbox.batches[0].queued {
		t.Errorf("the new identity has %v moved; its batch is queued: %t", r.moved, r.outbox.batches[0].queued)
	}

	r.outbox.batches[0].tried = false
	r.toQueue.failingSince = r.p.time.Now() // the queue is asked first whether it answers
	b = r.outbox.batches[0]
	queue.during = func() {
		queue.during = func() { t.Error("what is set aside is pushed") }
		replace(t, r)
	}
	if err := r.pushOnce(t.Context(), b); err != nil || b.tried {
		t.Errorf("%v; tried: %t", err, b.tried)
	}
}

// Between the two reads of Postgres another entry turns out to be gone.
func TestAnEntryThatGoesWhilePostgresIsAskedIsAskedAboutAgain(t *testing.T) {
	r, store, _, _ := hookedLane(t)
	sealOne(t, r.p)
	r.moved = []uint64{1}
	store.during = func() {
		store.during = func() {}
		r.moved = append(r.moved, 2)
	}
	r.checkQueue(t.Context())
	if !slices.Equal(r.moved, []uint64{2}) || r.p.trustsQueue() {
		t.Errorf("moved: %v, trusted: %t", r.moved, r.p.trustsQueue())
	}
}

// slowJournal has something happen while it writes.
type slowJournal struct {
	*memoryJournal
	during func()
}

func (j *slowJournal) Append(batches []*spend.Batch) error {
	j.during()
	return j.memoryJournal.Append(batches)
}

// Postgres tells of other books while the journal writes a batch that isn't pushed yet. The copy
// that it gets names the books before, and their instance would be needed to bring it on.
func TestAJournalHasNoBatchOfWhichItHasACopyForOtherBooks(t *testing.T) {
	r, _, _, _ := hookedLane(t)
	j := &slowJournal{&memoryJournal{}, func() {}}
	r.p.cfg.Journal = j
	j.during = func() {
		j.during = func() {}
		r.p.books.learn(spend.BooksID{7}, true)
		r.followBooks()
	}
	if r.writeJournal(); r.outbox.batches[0].journaled {
		t.Error("it is said to have the batch")
	}
	if r.writeJournal(); !r.outbox.batches[0].journaled || j.batches[1].Books != (spend.BooksID{7}) {
		t.Error("it doesn't have the batch under its books")
	}
}
