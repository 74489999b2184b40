package spendflush

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spendflush/spendflush/spend"
)

var otherTestBooks = spend.BooksID{0xff, 1}

func TestBooksIDIsAUUID(t *testing.T) {
	const text = "5f0c9a4e-1d7b-4c3a-9e21-8a6b0d2f7c15"
	id, err := spend.ParseBooksID(text)
	if err != nil || id.String() != text || id.IsZero() {
		t.Errorf("%s, %v", id, err)
	}
	for _, bad := range []string{"", "x", spend.BooksID{}.String(), strings.ReplaceAll(text, "-", ""), text + "0", "{" + text + "}"} {
		if id, err := spend.ParseBooksID(bad); err == nil {
			t.Errorf("%q is taken for %s", bad, id)
		}
	}
}

func TestABatchKeepsItsDigestWhenItLearnsItsBooks(t *testing.T) {
	b := testBatch(t, 1, 1)
	other := b.ForBooks(otherTestBooks, &spend.BatchKeys{})
	again, err := spend.ParseBatch(other.Bytes())
	if err != nil || again.Books != otherTestBooks || again.Digest() != b.Digest() {
		t.Errorf("%+v, %v", again, err)
	}
	if b.Books != testBooks || mustParse(t, b.Bytes()).Books != testBooks {
		t.Error("the batch itself is changed")
	}
}

func TestPlanSetsABatchOfOtherBooksAsideByName(t *testing.T) {
	foreign := testBatch(t, 1, 1).ForBooks(otherTestBooks, &spend.BatchKeys{})
	newer := []byte(testBatch(t, 3, 1).ForBooks(otherTestBooks, &spend.BatchKeys{}).Bytes())
	newer[2] = spend.BatchVersion + 1
	p := testPlan()
	p.addEntry(spend.Entry{ID: "foreign", Bytes: foreign.Bytes()})
	p.addEntry(spend.Entry{ID: "nameless", Bytes: testBatch(t, 2, 1).ForBooks(spend.BooksID{}, &spend.BatchKeys{}).Bytes()})
	p.addEntry(spend.Entry{ID: "newer", Bytes: reframe(newer)})
	p.addEntry(spend.Entry{ID: "own", Bytes: testBatch(t, 1, 1).Bytes()})
	p.learn(p.unknown(), spend.Marks{})
	f := p.next()
	if f == nil || len(f.Claims) != 1 || f.Batches() != 1 || f.Books != testBooks {
		t.Fatalf("flush %+v", f)
	}
	if len(p.bad) != 3 || p.stats.newer != 0 {
		t.Fatalf("%d are set aside, %d wait for a newer program", len(p.bad), p.stats.newer)
	}
	for _, b := range p.bad {
		if !strings.Contains(b.Reason, "other books") || !strings.Contains(b.Reason, testBooks.String()) {
			t.Errorf("%s: %s", b.entry, b.Reason)
		}
	}
}

func TestWhatWasPushedForOtherBooksIsNeitherLostNorBookedAstray(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, 1, &faults{})
		lease, err := r.locker.Acquire(t.Context(), "flush/0") // so that nothing is flushed
		if err != nil {
			t.Fatal(err)
		}
		r.start(t)
		receipt, err := r.RecordAll([]spend.Update{key("pushed before")})
		if err != nil {
			t.Fatal(err)
		}
		if stage, err := r.Wait(t.Context(), receipt, Queued); err != nil || stage != Queued {
			t.Fatalf("%s, %v", stage, err)
		}
		r.store.become(otherTestBooks)
		eventually(t, "it is noticed", func() bool { return r.Status().Books == otherTestBooks })
		eventually(t, "what was pushed is in quarantine", func() bool { return len(r.store.quarantined()) == 1 })
		if b := r.store.quarantined()[0]; mustParse(t, b.Bytes).Books != testBooks || !strings.Contains(b.Reason, "other books") {
			t.Errorf("%s: of books %s", b.Reason, mustParse(t, b.Bytes).Books)
		}
		if r.queue.len(0) == 0 {
			t.Error("it is taken out of the queue of its books")
		}
		if err := lease.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.record(t, key("after"))
		r.end(t) // which compares the books: they have the last update, and no other
	})
}

// notedQueue is a queue with a note.
type notedQueue struct {
	*testQueue
	faults *faults
}

func (q notedQueue) Push(ctx context.Context, b *spend.Batch, previous spend.EntryID) (id spend.EntryID, err error) {
	err = q.faults.call("Queue.Push", func() error { id, err = q.testQueue.Push(ctx, b, previous); return err })
	return id, err
}

func (notedQueue) NotedBooks(context.Context, string) (spend.BooksID, error) {
	return otherTestBooks, nil
}
func (notedQueue) NoteBooks(context.Context, string, spend.BooksID) error { return nil }

// placedStore is a store that says where it is.
type placedStore struct{ faultyStore }

func (placedStore) BooksPlace() string { return "here" }

func TestWithANoteAnInstancePushesBeforePostgresAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storeFaults := &faults{all: true}
		r := newRig(t, true, 1, &faults{})
		queue := notedQueue{r.queue, &faults{}}
		r.cfg.Store, r.cfg.Queue = placedStore{faultyStore{r.store, storeFaults}}, queue
		r.store.become(otherTestBooks)
		r.start(t)
		receipt := r.record(t, key("a"))
		if stage, err := r.Wait(t.Context(), receipt, Queued); err != nil || stage != Queued {
			t.Fatalf("%s, %v", stage, err)
		}
		storeFaults.setAll(false)
		r.end(t)
		if len(r.store.quarantined()) != 0 {
			t.Error("something is in quarantine")
		}
	})
}

func TestWithoutANoteNothingIsPushedBeforePostgresAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storeFaults := &faults{all: true}
		r := newRig(t, true, 1, &faults{})
		r.cfg.Store = faultyStore{r.store, storeFaults}
		r.start(t)
		r.record(t, key("a"))
		time.Sleep(10 * time.Second)
		if r.queue.len(0) > 0 {
			t.Error("a batch that names no books is pushed")
		}
		if err := r.DrainQueue(t.Context()); !errors.Is(err, spend.ErrBooksUnknown) {
			t.Errorf("DrainQueue: %v", err)
		}
		storeFaults.setAll(false)
		r.end(t)
	})
}

// What never left the process goes to the books that Postgres tells, in spite of a note.
func TestAWrongNoteCostsNothingWhereNothingWasPushed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storeFaults, queueFaults := &faults{all: true}, &faults{all: true}
		r := newRig(t, true, 1, &faults{})
		queue := notedQueue{r.queue, queueFaults}
		r.cfg.Store, r.cfg.Queue = placedStore{faultyStore{r.store, storeFaults}}, queue
		r.cfg.SealInterval = time.Minute
		r.start(t)
		eventually(t, "the note is read", func() bool { return r.Status().Books == otherTestBooks })
		storeFaults.setAll(false)
		eventually(t, "Postgres tells", func() bool { return r.Status().Books == testBooks })
		queueFaults.setAll(false)
		r.record(t, key("a"))
		r.end(t)
		if len(r.store.quarantined()) != 0 {
			t.Error("something is in quarantine")
		}
	})
}

// copiedQueue is a queue that another database may use under the same id.
type copiedQueue struct {
	*testQueue
	taken *atomic.Bool
}

func (q copiedQueue) ShowWitnesses(_ context.Context, own []spend.Witness) ([]spend.Witness, error) {
	if q.taken.Load() {
		return nil, nil
	}
	return own, nil
}

// copiedStore is a store that has witnesses.
type copiedStore struct{ *testStore }

func (copiedStore) Witnesses(context.Context, spend.BooksID, bool) ([]spend.Witness, error) {
	return []spend.Witness{{1}}, nil
}

func TestAQueueThatAnotherDatabaseUsesUnderTheSameIDIsLeftToIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, 1, &faults{})
		queue := copiedQueue{r.queue, new(atomic.Bool)}
		queue.taken.Store(true)
		r.store.commits = time.Millisecond // longer than a push, which ends the fallback
		r.cfg.Store, r.cfg.Queue = copiedStore{r.store}, queue
		r.queue.Insert(0, testBatch(t, 1, 1).Bytes()) // the other one's
		r.start(t)
		if _, err := r.Wait(t.Context(), r.record(t, key("a")), Committed); err != nil {
			t.Fatal(err)
		}
		time.Sleep(conflictLasts + booksCheck)
		if s := r.Status(); !s.TwoDatabases || !strings.Contains(s.BooksTrouble, "new-id") {
			t.Errorf("status: %t %q", s.TwoDatabases, s.BooksTrouble)
		}
		if r.queue.len(0) != 1 {
			t.Errorf("%d batches are in the queue, where one of the other database is", r.queue.len(0))
		}
		r.queue.lose()
		queue.taken.Store(false)
		eventually(t, "it is over", func() bool { s := r.Status(); return !s.TwoDatabases })
		before := r.queue.pushes.Load()
		eventually(t, "what is recorded goes through the queue again", func() bool {
			r.record(t, key("b")) // the first may still be written directly
			return r.queue.pushes.Load() > before
		})
		r.end(t)
	})
}

// sharedQueue is a queue that shows witnesses by the rule.
type sharedQueue struct {
	*testQueue
	mu    sync.Mutex
	shown []spend.Witness
}

func (q *sharedQueue) ShowWitnesses(_ context.Context, own []spend.Witness) ([]spend.Witness, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case len(q.shown) == 0, slices.Contains(own, q.shown[0]):
		q.shown = slices.Clone(own[:min(len(own), 64)])
	case !slices.Contains(q.shown, own[0]):
		return nil, nil
	}
	return slices.Clone(q.shown), nil
}

// writingStore is a store that writes down a witness at each reading, until it is away.
type writingStore struct {
	*testStore
	last atomic.Int64
	away atomic.Bool
}

func (s *writingStore) Witnesses(context.Context, spend.BooksID, bool) ([]spend.Witness, error) {
	if s.away.Load() {
		return nil, errInjected
	}
	return witnessesUpTo(s.last.Add(1)), nil
}

// witnessesUpTo returns the last witnesses of a database, the newest first.
func witnessesUpTo(last int64) (list []spend.Witness) {
	for n := last; n > max(0, last-64); n-- {
		list = append(list, spend.Witness(binary.BigEndian.AppendUint64(make([]byte, 8, 16), uint64(n))))
	}
	return list
}

// An instance that can't reach Postgres, though others do, follows what they show: the queue is all
// that it has.
func TestAnInstanceWithoutPostgresGoesOnWithTheQueueThatOthersUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, 1, &faults{})
		queue, store := &sharedQueue{testQueue: r.queue}, &writingStore{testStore: r.store}
		r.cfg.Store, r.cfg.Queue = store, queue
		r.start(t)
		r.commit(t, key("a"))
		store.away.Store(true)
		for range 100 { // others have their database write 100 more, which are more than it keeps
			if shown, err := queue.ShowWitnesses(t.Context(), witnessesUpTo(store.last.Add(1))); err != nil || len(shown) == 0 {
				t.Fatalf("the others: %v, %v", shown, err)
			}
			time.Sleep(booksCheck)
			if err := r.books.mayUseQueue(); err != nil {
				t.Fatal(err)
			}
		}
		copied := append(witnessesUpTo(store.last.Load() + 1000)[:1:1], witnessesUpTo(store.last.Load())...)
		if shown, err := queue.ShowWitnesses(t.Context(), witnessesUpTo(store.last.Add(1))); err != nil || len(shown) == 0 {
			t.Fatalf("the others: %v, %v", shown, err)
		}
		if shown, err := queue.ShowWitnesses(t.Context(), copied); err != nil || len(shown) != 0 {
			t.Errorf("a copy is shown %v, %v", shown, err)
		}
		store.away.Store(false)
		r.end(t)
	})
}

func TestAFlushOfOtherBooksIsRefusedByTheStore(t *testing.T) {
	p := newTestPipeline(t, Config{Store: newTestStore(), DirectLocker: newTestLocker()})
	plan := newPlan(0)
	plan.books = otherTestBooks
	plan.addEntry(spend.Entry{ID: "e", Bytes: testBatch(t, 1, 1).ForBooks(otherTestBooks, &spend.BatchKeys{}).Bytes()})
	if err := p.committer(0).commit(t.Context(), plan, viaQueue); !errors.Is(err, spend.ErrOtherBooks) {
		t.Errorf("commit: %v", err)
	}
	if n, _ := plan.waiting(); n != 1 || len(plan.done)+len(plan.bad) != 0 {
		t.Errorf("%d batches wait, %d are done, %d set aside", n, len(plan.done), len(plan.bad))
	}
}
