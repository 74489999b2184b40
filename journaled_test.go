package spendflush

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// memoryJournal is a Journal that survives a pipeline, but not the test.
type memoryJournal struct {
	mu       sync.Mutex
	batches  []*spend.Batch
	appended int
	failing  bool
}

func (j *memoryJournal) Append(batches []*spend.Batch) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failing {
		return errors.New("no space left")
	}
	j.batches = append(j.batches, batches...)
	j.appended += len(batches)
	return nil
}

func (j *memoryJournal) Truncate(shard int, producer spend.ProducerID, mark uint64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.batches = slices.DeleteFunc(j.batches, func(b *spend.Batch) bool {
		return b.Shard == shard && b.Producer == producer && b.Sequence <= mark
	})
	return nil
}

func (j *memoryJournal) Recovered() ([]*spend.Batch, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.batches), nil
}

func (j *memoryJournal) len() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.batches)
}

func (j *memoryJournal) setFailing(on bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.failing = on
}

func TestJournaledBatchesOfADeadProcessAreBroughtToPostgresUnderTheirOldIdentity(t *testing.T) {
	for _, withQueue := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			j := &memoryJournal{}
			r := newRig(t, withQueue, 2, &faults{all: true})
			c := r.cfg
			c.Journal = j
			r.Pipeline = newTestPipeline(t, c)
			r.start(t)
			random := rand.New(rand.NewPCG(22, 22))
			for range 10 {
				receipt := r.record(t, randomUpdate(random))
				if stage, err := r.Wait(t.Context(), receipt, Queued); err != nil || stage != Queued {
					t.Fatalf("journaled is %s, %v", stage, err)
				}
			}
			r.cancel() // the process dies, and nothing of it has reached the queue
			<-r.ran
			if n := j.len(); n != 10 {
				t.Fatalf("%d batches in the journal, want 10", n)
			}
			r.faults.setAll(false)
			next := newRig(t, withQueue, 1, &faults{}) // with other shards
			c.Shards, c.Store, c.Queue, c.Locker = 1, r.store, nil, nil
			if withQueue {
				c.Queue, c.Locker = r.queue, r.locker
			}
			next.Pipeline, next.store, next.want = newTestPipeline(t, c), r.store, r.want
			next.start(t)
			eventually(t, "the journal is empty", func() bool { return j.len() == 0 })
			next.end(t)
		})
	}
}

func TestJournalThatCanNotBeWrittenHoldsNothingUpAndIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		j := &memoryJournal{failing: true}
		r := newRig(t, true, 1, &faults{})
		c := r.cfg
		c.Journal, c.Logger = j, logTo(&log)
		r.Pipeline = newTestPipeline(t, c)
		lease, _ := r.locker.Acquire(t.Context(), "flush/0") // nobody flushes
		r.start(t)
		receipt := r.record(t, key("a"))
		if _, err := r.Wait(t.Context(), receipt, Queued); err != nil {
			t.Fatal(err)
		}
		j.setFailing(false)
		eventually(t, "the batch is in the journal", func() bool { return j.len() == 1 })
		lease.Release(t.Context())
		r.end(t)
		if j.len() != 0 {
			t.Error("what is committed stays in the journal")
		}
		for _, want := range []string{"journal can't be written", "journal can be written again"} {
			if strings.Count(log.String(), want) != 1 {
				t.Errorf("the log says %q %d times", want, strings.Count(log.String(), want))
			}
		}
	})
}

// The journal comes first: what is acknowledged as queued survives the death of this process and
// the queue together.
func TestNothingIsPushedThatIsNotInTheJournalYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &memoryJournal{}
		r := newRig(t, true, 1, &faults{})
		c := r.cfg
		c.Journal = j
		c.Queue = journaledOnly{r.queue, j, t, func() {
			if _, err := r.RecordAll([]spend.Update{key("b")}); err == nil { // else it is the end
				r.seal(false)
			}
		}}
		r.Pipeline = newTestPipeline(t, c)
		r.start(t)
		for range 20 {
			if err := r.Record(new(key("a"))); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if err := r.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// journaledOnly is a queue that looks whether what it gets is in the journal. While it takes a
// batch, another one is sealed.
type journaledOnly struct {
	*testQueue
	j       *memoryJournal
	t       *testing.T
	another func()
}

func (q journaledOnly) Push(ctx context.Context, b *spend.Batch, previous spend.EntryID) (spend.EntryID, error) {
	left, _ := q.j.Recovered()
	if !slices.ContainsFunc(left, func(other *spend.Batch) bool { return other.Sequence == b.Sequence }) {
		q.t.Errorf("batch %d is pushed before it is in the journal", b.Sequence)
	}
	if b.Sequence%2 == 1 {
		q.another()
	}
	return q.testQueue.Push(ctx, b, previous)
}

func TestShutdownSaysWhatIsInTheJournalAndWhatIsLost(t *testing.T) {
	for name, journal := range map[string]*memoryJournal{"in the journal": {}, "they are lost": {failing: true}} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, true, 1, &faults{all: true})
			c := r.cfg
			c.Journal = journal
			r.Pipeline = newTestPipeline(t, c)
			r.start(t)
			r.record(t, key("a"))
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			err := r.Shutdown(ctx)
			left, ok := errors.AsType[*NotDrainedError](err)
			if !ok || left.Updates != 1 || left.Amount != spend.Dollars(1) || !strings.Contains(err.Error(), name) ||
				(left.Journaled == 1) != (journal.len() == 1) {
				t.Errorf("%s: %v", name, err)
			}
			<-r.ran
		})
	}
}

// The journal is of a process that had the same memory as another one, which is in the books: the
// batch that would be the next is another, and so are all behind it.
func TestJournalOfAnotherChainIsSetAsideOnce(t *testing.T) {
	b := chained(t, 1, 3)
	other := []*spend.Batch{}
	prior := spend.Digest{1}
	for _, b := range b[1:] {
		h, rows := b.Header, mustRows(t, b)
		h.PriorDigest = prior
		next := spend.NewBatch(h, rows.Totals, rows.Rollups)
		other, prior = append(other, next), next.Digest()
	}
	store, queue := newTestStore(), newTestQueue()
	j := &memoryJournal{batches: slices.Clone(other)}
	p := newTestPipeline(t, Config{Store: store, DirectLocker: newTestLocker(), Queue: queue, Locker: newTestLocker(), Journal: j})
	if err := p.committer(0).commit(t.Context(), offered(t, nil, b[0]), viaDirect); err != nil {
		t.Fatal(err)
	}
	shards := p.recoveries(other)
	if err := shards[0].step(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, b := range other {
		if !store.hasQuarantined(b.Bytes()) {
			t.Errorf("batch %d isn't in quarantine", b.Sequence)
		}
	}
	if len(shards[0].batches) != 0 || j.len() != 0 || queue.len(0) != 0 {
		t.Errorf("%d batches are left, %d in the journal, %d in the queue", len(shards[0].batches), j.len(), queue.len(0))
	}
}
