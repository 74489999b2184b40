package spendflush

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spendflush/spendflush/lockers/memlock"
	"github.com/spendflush/spendflush/queues/memqueue"
	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/memstore"
)

// testBooks are the books of stores in memory.
var testBooks = spend.BooksID{0xb0, 0x0c}

// testStore is a store in memory, and what only tests of the engine need of one.
type testStore struct {
	*memstore.Store
	now     func() time.Time
	flushes atomic.Int64
	commits time.Duration // how long a commit takes, on the bubble's clock
	wrong   wrongStore    // guards that are switched off
}

func newTestStore() *testStore { return newClockedStore(testBooks, time.Now) }

func newClockedStore(id spend.BooksID, now func() time.Time) *testStore {
	return &testStore{Store: memstore.New(memstore.Options{Books: id, Now: now}), now: now}
}

// Apply panics at a flush that contradicts itself: the engine makes none.
func (s *testStore) Apply(ctx context.Context, f *spend.Flush) error {
	if s.commits > 0 {
		time.Sleep(s.commits)
	}
	err := s.Store.Apply(ctx, f)
	if errors.Is(err, memstore.ErrBadFlush) {
		panic(err)
	}
	if errors.Is(err, spend.ErrFenced) && s.wrong != (wrongStore{}) {
		err = s.wrong.apply(ctx, s, f)
	}
	if err == nil {
		s.flushes.Add(1)
	}
	return err
}

func (s *testStore) TouchMarks(ctx context.Context, living []spend.ProducerID, now time.Time, idle time.Duration) (int64, error) {
	pruned, err := s.Store.TouchMarks(ctx, living, now, idle)
	if err == nil && s.wrong.revives {
		s.wrong.revive(s, living, now, idle)
	}
	return pruned, err
}

// edit changes what the store has. Nothing else may change it meanwhile.
func (s *testStore) edit(change func(*memstore.Snapshot)) {
	all := s.Snapshot()
	change(&all)
	s.Restore(all)
}

// setHorizon makes producers born before it look as if their marks could have been pruned.
func (s *testStore) setHorizon(shard int, horizon time.Time) {
	s.edit(func(all *memstore.Snapshot) { all.Horizons[shard] = horizon })
}

// become has the store be another database, as when an address leads elsewhere.
func (s *testStore) become(id spend.BooksID) { s.Restore(memstore.Snapshot{Books: id}) }

func (s *testStore) mark(shard int, id spend.ProducerID) spend.Mark {
	return s.marks(shard, id).Of[id]
}

func (s *testStore) changes(shard int) int64 { return s.marks(shard).Changes }

func (s *testStore) marks(shard int, ids ...spend.ProducerID) spend.Marks {
	marks, err := s.Marks(context.Background(), shard, ids)
	must(err)
	return marks
}

// missing returns how many batches are skipped as lost.
func (s *testStore) missing() uint64 {
	all := s.Snapshot()
	return all.Missing()
}

func (s *testStore) quarantined() []spend.BadBatch { return s.Snapshot().Quarantine }

func (s *testStore) hasQuarantined(bytes []byte) bool {
	return slices.ContainsFunc(s.quarantined(), func(b spend.BadBatch) bool { return string(b.Bytes) == string(bytes) })
}

func (s *testStore) diff(want *books) string {
	all := s.Snapshot()
	got := &books{totals: all.Totals, rollups: map[rollupName]spend.Counters{}}
	for key, r := range all.Rollups {
		name := nameOf(key.Hour, &r.Series)
		sum := got.rollups[name]
		sum.Add(&r.Counters)
		got.rollups[name] = sum
		got.updates, got.amount = got.updates+r.Counters.APIRequests(), got.amount.Add(r.Counters.Spend)
	}
	return got.diff(want)
}

// wrongStore is the guards of a store that are switched off, to see that tests notice.
type wrongStore struct {
	unchecked      bool // claims and batches found are not checked
	uncheckedFound bool // only batches found aren't checked
	claimsPruned   bool // a producer whose mark was pruned can be claimed from its first batch on
	revives        bool // a producer whose mark was pruned gets a new one by touching it
}

// apply moves the marks to where the guards that are switched off would have let the flush pass,
// and applies it then.
func (w wrongStore) apply(ctx context.Context, s *testStore, f *spend.Flush) error {
	before := s.Snapshot()
	all := s.Snapshot()
	for _, c := range f.Claims {
		key := memstore.ProducerKey{Shard: f.Shard, ID: c.Producer}
		p, known := all.Producers[key]
		if w.unchecked {
			p.Mark.Sequence, p.Mark.Digest = c.First-1, c.Prior
		}
		if w.unchecked || w.claimsPruned && !known {
			all.Producers[key] = p
		}
	}
	for _, b := range f.Found {
		key := memstore.ProducerKey{Shard: f.Shard, ID: b.Producer}
		if p := all.Producers[key]; w.unchecked || w.uncheckedFound {
			p.Mark.Lost = withRange(p.Mark.Lost, spend.SequenceRange{First: b.Sequence, Last: b.Sequence})
			all.Producers[key] = p
		}
	}
	s.Restore(all)
	err := s.Store.Apply(ctx, f)
	if err != nil {
		s.Restore(before)
	}
	return err
}

// revive gives living producers that have no mark one, in spite of the horizon.
func (w wrongStore) revive(s *testStore, living []spend.ProducerID, now time.Time, idle time.Duration) {
	if own := s.now(); own.Before(now) {
		now = own
	}
	s.edit(func(all *memstore.Snapshot) {
		for shard, id := range living {
			key := memstore.ProducerKey{Shard: shard, ID: id}
			if _, known := all.Producers[key]; !known && id.Born().Before(now.Add(-idle/4)) {
				all.Producers[key] = memstore.Producer{Seen: now}
			}
		}
	})
}

// checkFlush says how a flush breaks what its comment promises.
func checkFlush(f *spend.Flush) error {
	err := memstore.New(memstore.Options{Books: f.Books}).Apply(context.Background(), f)
	if errors.Is(err, memstore.ErrBadFlush) {
		return err
	}
	return nil
}

// testQueue is a queue in memory, and what only tests of the engine need of one. It retains what is
// acked.
type testQueue struct {
	*memqueue.Queue
	pushes atomic.Int64

	// published has the numbers of changes as they were published, in a queue that is wrong: it
	// publishes a lower number over a higher one, to see that tests notice. nil in one that isn't.
	published map[int]int64
}

func newTestQueue() *testQueue { return newClockedQueue(time.Now) }

func newClockedQueue(now func() time.Time) *testQueue {
	return &testQueue{Queue: memqueue.New(memqueue.Options{Retain: true, Now: now})}
}

func (q *testQueue) Push(ctx context.Context, b *spend.Batch, previous spend.EntryID) (spend.EntryID, error) {
	q.pushes.Add(1)
	return q.Queue.Push(ctx, b, previous)
}

func (q *testQueue) Ack(ctx context.Context, shard int, a spend.Ack) error {
	if q.published != nil && a.Booked > 0 {
		q.published[shard] = a.Booked
	}
	return q.Queue.Ack(ctx, shard, a)
}

func (q *testQueue) Booked(ctx context.Context, shard int) (int64, error) {
	if q.published != nil {
		return q.published[shard], nil
	}
	return q.Queue.Booked(ctx, shard)
}

func (q *testQueue) Requeue(ctx context.Context, shard int) (int, error) {
	delete(q.published, shard)
	return q.Queue.Requeue(ctx, shard)
}

func (q *testQueue) booked(shard int) int64 {
	n, err := q.Booked(context.Background(), shard)
	must(err)
	return n
}

// entries returns what waits in a shard, and retained what is retained of it.
func (q *testQueue) entries(shard int) []spend.Entry {
	entries, _ := q.Contents(shard)
	return entries
}

func (q *testQueue) retained(shard int) []spend.Entry {
	_, retained := q.Contents(shard)
	return retained
}

func (q *testQueue) len(shard int) int {
	stats, err := q.Stats(context.Background(), shard)
	must(err)
	return int(stats.Batches)
}

// size returns how many entries are retained.
func (q *testQueue) size() (n int) {
	for shard := range simShards {
		n += len(q.retained(shard))
	}
	return n
}

// lose makes the queue lose everything. Unlike after Clear, places don't come again.
func (q *testQueue) lose() {
	ctx := context.Background()
	for shard := range simShards {
		for _, e := range q.entries(shard) {
			q.Lose(shard, e.ID)
		}
		must(q.Expire(ctx, shard, 0, time.Now()))
		_, err := q.Requeue(ctx, shard) // which forgets the number of changes
		must(err)
	}
	q.DropMarks()
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// newTestLocker returns locks of one process.
func newTestLocker() *memlock.Locker { return memlock.New("another") }

// testTTL is how long a lock stays whose holder doesn't know that it has it.
const testTTL = 3 * time.Second

var errInjected = errors.New("injected fault")

// newTestPipeline returns a pipeline that doesn't run yet.
func newTestPipeline(t testing.TB, c Config) *Pipeline {
	t.Helper()
	c.Instance = cmp.Or(c.Instance, "test")
	p, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
