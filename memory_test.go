package spendflush

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"
)

// memoryStore is what a Store must do, in its plainest form: marks and sums, moved together or not at all.
type memoryStore struct {
	mu         sync.Mutex
	state      memoryState
	quarantine map[string]BadBatch
	flushes    int
	now        func() time.Time

	// Stores that are wrong, to see that tests notice.
	unchecked       bool // claims and batches found are not checked
	uncheckedFound  bool // only batches found aren't
	claimsForgotten bool // a producer whose mark was cleaned up can be claimed from its first batch on
	revives         bool // a producer whose mark was cleaned up gets a new one by tending
}

// memoryState is what a database has that can be turned back.
type memoryState struct {
	marks   map[int]map[ProducerID]memoryMark
	folded  map[int]map[ProducerID]memoryMark // marks cleaned up. A database only has their sums
	horizon time.Time
	books   *books
}

type memoryMark struct {
	Mark
	booked       int64 // what is in the books of the batches up to the mark
	bookedAmount Amount
	seen         time.Time
}

func (m memoryState) clone() memoryState {
	m.marks, m.folded, m.books = cloneMarks(m.marks), cloneMarks(m.folded), m.books.clone()
	return m
}

func cloneMarks(of map[int]map[ProducerID]memoryMark) map[int]map[ProducerID]memoryMark {
	c := make(map[int]map[ProducerID]memoryMark, len(of))
	for shard, marks := range of {
		c[shard] = maps.Clone(marks)
	}
	return c
}

func newMemoryStore() *memoryStore {
	return &memoryStore{
		state: memoryState{
			marks: map[int]map[ProducerID]memoryMark{}, folded: map[int]map[ProducerID]memoryMark{}, books: newBooks(),
		},
		quarantine: map[string]BadBatch{},
		now:        time.Now,
	}
}

func (s *memoryStore) Marks(_ context.Context, shard int, producers []ProducerID) (Marks, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// With one shard its books are all books. With more, only that they never shrink matters.
	found := Marks{Of: map[ProducerID]Mark{}, Horizon: s.state.horizon, Updates: s.state.books.updates}
	for _, id := range producers {
		if mark, ok := s.state.marks[shard][id]; ok {
			found.Of[id] = mark.Mark
		}
	}
	return found, nil
}

func (s *memoryStore) Tend(_ context.Context, producer ProducerID, shards int, idle time.Duration) (cleaned int64, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	horizon := now.Add(-idle)
	for shard, marks := range s.state.marks {
		for id, mark := range marks {
			if id == producer || !mark.seen.Before(horizon) || !id.Born().Before(horizon) {
				continue
			}
			put(s.state.folded, shard, id, mark)
			delete(marks, id)
			cleaned++
		}
	}
	if cleaned > 0 && s.state.horizon.Before(horizon) {
		s.state.horizon = horizon
	}
	if old := now.Add(-idle / 4); producer.Born().Before(old) {
		for shard := range shards {
			mark, known := s.state.marks[shard][producer]
			forgotten := !known && producer.Born().Before(s.state.horizon) && !s.revives
			if !forgotten && (!known || mark.seen.Before(old)) {
				mark.seen = now
				put(s.state.marks, shard, producer, mark)
			}
		}
	}
	return cleaned, nil
}

func put(in map[int]map[ProducerID]memoryMark, shard int, id ProducerID, mark memoryMark) {
	if in[shard] == nil {
		in[shard] = map[ProducerID]memoryMark{}
	}
	in[shard][id] = mark
}

func (s *memoryStore) Apply(_ context.Context, f *Flush) error {
	if err := checkFlush(f); err != nil {
		panic(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	marks := s.state.marks[f.Shard]
	if s.fences(f) {
		return ErrFenced
	}
	now := s.now()
	for _, c := range f.Claims {
		mark := marks[c.Producer]
		mark.Sequence, mark.Updates, mark.Amount = c.Last, c.SealedUpdates, c.SealedAmount
		mark.booked, mark.bookedAmount, mark.seen = mark.booked+c.Updates, mark.bookedAmount.Add(c.Amount), now
		put(s.state.marks, f.Shard, c.Producer, mark)
	}
	marks = s.state.marks[f.Shard]
	for _, l := range f.Lost {
		mark := marks[l.Producer]
		mark.Lost = append(slices.Clip(mark.Lost), l.Sequence)
		marks[l.Producer] = mark
	}
	for _, b := range f.Found {
		mark := marks[b.Producer]
		if i, missing := slices.BinarySearch(mark.Lost, b.Sequence); missing {
			mark.Lost = slices.Delete(slices.Clone(mark.Lost), i, i+1) // a copy: marks that were read have this slice
		}
		mark.booked, mark.bookedAmount, mark.seen = mark.booked+b.Updates, mark.bookedAmount.Add(b.Amount), now
		put(s.state.marks, f.Shard, b.Producer, mark)
	}
	s.state.books.apply(f.Totals, f.Rollups)
	s.flushes++
	return nil
}

// fences says whether a claim of the flush doesn't fit, or a batch found isn't missing.
func (s *memoryStore) fences(f *Flush) bool {
	if s.unchecked {
		return false
	}
	marks := s.state.marks[f.Shard]
	for _, c := range f.Claims {
		mark, known := marks[c.Producer]
		forgotten := !known && c.Producer.Born().Before(s.state.horizon) && !s.claimsForgotten
		if mark.Sequence != c.First-1 || forgotten {
			return true
		}
	}
	for _, b := range f.Found {
		_, missing := slices.BinarySearch(marks[b.Producer].Lost, b.Sequence)
		if !missing && !s.uncheckedFound {
			return true
		}
	}
	return false
}

// snapshot returns the state as it is now, and rewind turns the store back to one.
func (s *memoryStore) snapshot() memoryState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.clone()
}

func (s *memoryStore) rewind(to memoryState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = to.clone()
}

// missing returns how many batches are passed as lost.
func (s *memoryStore) missing() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, marks := range s.state.marks {
		for _, mark := range marks {
			n += len(mark.Lost)
		}
	}
	return n
}

func (s *memoryStore) Quarantine(_ context.Context, bad []BadBatch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range bad {
		s.quarantine[string(b.Bytes)] = b
	}
	return nil
}

func (s *memoryStore) diff(want *books) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.books.diff(want)
}

// checkFlush says how a flush breaks what its comment promises.
func checkFlush(f *Flush) error {
	var updates int64
	var amount Amount
	for i, c := range f.Claims {
		if i > 0 && f.Claims[i-1].Producer.Compare(c.Producer) >= 0 || c.First == 0 || c.Last < c.First {
			return fmt.Errorf("claim %d of %+v is out of order", i, f.Claims)
		}
		updates += c.Updates
		amount = amount.Add(c.Amount)
	}
	var sums Control
	for i := range f.Totals {
		if i > 0 && f.Totals[i-1].Key.Compare(f.Totals[i].Key) >= 0 {
			return fmt.Errorf("total %d is out of order", i)
		}
		sums[f.Totals[i].Entity.Type].Add(&f.Totals[i].Counters)
	}
	for i := range f.Rollups {
		if i > 0 && f.Rollups[i-1].compare(&f.Rollups[i]) >= 0 {
			return fmt.Errorf("rollup row %d is out of order", i)
		}
		sums[0].Add(&f.Rollups[i].Counters)
	}
	for _, b := range f.Found {
		updates += b.Updates
		amount = amount.Add(b.Amount)
	}
	for i, l := range f.Lost {
		in := func(c Claim) bool { return c.Producer == l.Producer && c.First <= l.Sequence && l.Sequence <= c.Last }
		if !slices.ContainsFunc(f.Claims, in) || i > 0 && f.Lost[i-1] == l {
			return fmt.Errorf("lost batch %+v is in no claim, or twice", l)
		}
	}
	if sums != f.Control || sums[0].APIRequests() != updates || sums[0].Spend != amount {
		return errors.New("rows, control sums and claims don't agree")
	}
	return nil
}

// memoryQueue is a Queue that keeps everything in memory.
type memoryQueue struct {
	mu      sync.Mutex
	entries map[int][]memoryEntry
	marks   map[ProducerID]map[int]uint64
	next    int
	now     func() time.Time
}

type memoryEntry struct {
	Entry
	at time.Time
}

func newMemoryQueue() *memoryQueue {
	return &memoryQueue{entries: map[int][]memoryEntry{}, marks: map[ProducerID]map[int]uint64{}, now: time.Now}
}

func (q *memoryQueue) Push(_ context.Context, b *Batch, previous EntryID) (EntryID, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if previous != "" && slices.ContainsFunc(q.entries[b.Shard], func(e memoryEntry) bool { return e.ID == previous }) {
		return previous, nil
	}
	return q.insert(b.Shard, slices.Clone(b.Bytes())), nil
}

// insert adds bytes at the end. The caller holds the lock.
func (q *memoryQueue) insert(shard int, b []byte) EntryID {
	q.next++
	id := EntryID(fmt.Sprintf("%09d", q.next))
	q.entries[shard] = append(q.entries[shard], memoryEntry{Entry{id, b}, q.now()})
	return id
}

func (q *memoryQueue) Read(_ context.Context, shard int, after EntryID, maxEntries, maxBytes int) (got []Entry, _ error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	bytes := 0
	for _, e := range q.entries[shard] {
		if e.ID > after && len(got) < maxEntries && (bytes < maxBytes || len(got) == 0) {
			got = append(got, Entry{e.ID, slices.Clone(e.Bytes)})
			bytes += len(e.Bytes)
		}
	}
	return got, nil
}

func (q *memoryQueue) Settle(_ context.Context, shard int, ids []EntryID, marks map[ProducerID]uint64) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.entries[shard] = slices.DeleteFunc(q.entries[shard], func(e memoryEntry) bool { return slices.Contains(ids, e.ID) })
	for id, mark := range marks {
		if q.marks[id] == nil {
			q.marks[id] = map[int]uint64{}
		}
		q.marks[id][shard] = mark
	}
	return nil
}

func (q *memoryQueue) Mark(_ context.Context, shard int, producer ProducerID) (uint64, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.marks[producer][shard], nil
}

func (q *memoryQueue) Stats(_ context.Context, shard int) (stats QueueStats, _ error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, e := range q.entries[shard] {
		if i == 0 {
			stats.Oldest = e.at
		}
		stats.Batches++
		stats.Bytes += int64(len(e.Bytes))
	}
	return stats, nil
}

// lose empties the queue and forgets all marks.
func (q *memoryQueue) lose() {
	q.mu.Lock()
	defer q.mu.Unlock()
	clear(q.entries)
	clear(q.marks)
}

func (q *memoryQueue) len(shard int) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.entries[shard])
}

// memoryLocker is a Locker for one process. A lock that isn't released ends with memoryTTL.
type memoryLocker struct {
	mu   sync.Mutex
	held map[string]*memoryLease
}

const memoryTTL = 3 * time.Second

type memoryLease struct {
	locker *memoryLocker
	name   string
	lost   chan struct{}
}

func newMemoryLocker() *memoryLocker { return &memoryLocker{held: map[string]*memoryLease{}} }

func (l *memoryLocker) Acquire(_ context.Context, name string) (Lease, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[name] != nil {
		return nil, &HeldError{Name: name, Holder: Holder{Owner: "another"}}
	}
	lease := &memoryLease{l, name, make(chan struct{})}
	l.held[name] = lease
	return lease, nil
}

func (l *memoryLocker) Holder(_ context.Context, name string) (Holder, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[name] == nil {
		return Holder{}, nil
	}
	return Holder{Owner: "instance", Expires: memoryTTL}, nil
}

func (l *memoryLease) Lost() <-chan struct{} { return l.lost }

func (l *memoryLease) Release(context.Context) error {
	l.locker.mu.Lock()
	defer l.locker.mu.Unlock()
	if l.locker.held[l.name] == l {
		delete(l.locker.held, l.name)
		close(l.lost)
	}
	return nil
}

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
