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

	"github.com/spendflush/spendflush/spend"
)

// memoryStore is what a Store must do, in its plainest form: marks and sums, moved together or not at all.
type memoryStore struct {
	mu         sync.Mutex
	state      memoryState
	quarantine map[string]spend.BadBatch
	flushes    int
	now        func() time.Time
	id         spend.BooksID
	commits    time.Duration // how long a commit takes, on the bubble's clock

	// Stores that are wrong, to see that tests notice.
	unchecked      bool // claims and batches found are not checked
	digestsIgnored bool // claims are only checked by their sequence
	uncheckedFound bool // only batches found aren't checked
	claimsPruned   bool // a producer whose mark was pruned can be claimed from its first batch on
	anyBooks       bool // flushes of other books are applied
	revives        bool // a producer whose mark was pruned gets a new one by tending
}

// memoryState is what a database has that can be turned back.
type memoryState struct {
	marks   map[int]map[spend.ProducerID]memoryMark
	pruned  map[int]map[spend.ProducerID]memoryMark // a database only has their sums
	horizon map[int]time.Time                       // producers born before it may be pruned
	changes map[int]int64                           // of the books and the quarantine of the shard
	books   *books

	quarantine map[string]spend.BadBatch // of a snapshot alone
}

type memoryMark struct {
	spend.Mark
	booked       int64 // what is in the books of the batches up to the mark
	bookedAmount spend.Amount
	seen         time.Time
}

func (m memoryState) clone() memoryState {
	m.marks, m.pruned, m.books = cloneMarks(m.marks), cloneMarks(m.pruned), m.books.clone()
	m.horizon, m.changes = maps.Clone(m.horizon), maps.Clone(m.changes)
	return m
}

func cloneMarks(of map[int]map[spend.ProducerID]memoryMark) map[int]map[spend.ProducerID]memoryMark {
	c := make(map[int]map[spend.ProducerID]memoryMark, len(of))
	for shard, marks := range of {
		c[shard] = maps.Clone(marks)
	}
	return c
}

func newMemoryStore() *memoryStore {
	return &memoryStore{
		state: memoryState{
			marks: map[int]map[spend.ProducerID]memoryMark{}, pruned: map[int]map[spend.ProducerID]memoryMark{},
			horizon: map[int]time.Time{}, changes: map[int]int64{}, books: newBooks(),
		},
		quarantine: map[string]spend.BadBatch{},
		now:        time.Now,
		id:         testBooks,
	}
}

// testBooks are the books of stores in memory.
var testBooks = spend.BooksID{0xb0, 0x0c}

func (s *memoryStore) Books(context.Context) (spend.BooksID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.id, nil
}

func (s *memoryStore) Marks(_ context.Context, shard int, producers []spend.ProducerID) (spend.Marks, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := spend.Marks{Of: map[spend.ProducerID]spend.Mark{}, Horizon: s.state.horizon[shard], Changes: s.state.changes[shard], Books: s.id}
	for _, id := range producers {
		if mark, ok := s.state.marks[shard][id]; ok {
			found.Of[id] = mark.Mark
		}
	}
	return found, nil
}

func (s *memoryStore) Tend(_ context.Context, living []spend.ProducerID, now time.Time, idle time.Duration) (pruned int64, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	own := s.now()
	apart := now.Sub(own).Abs()
	if own.Before(now) {
		now = own
	}
	if apart <= time.Hour {
		pruned = s.prune(living, now.Add(-idle))
	}
	for shard, id := range living {
		mark, known := s.state.marks[shard][id]
		old := now.Add(-idle / 4)
		if !id.Born().Before(old) || !known && id.Born().Before(s.state.horizon[shard]) && !s.revives {
			continue
		}
		if !known || mark.seen.Before(old) {
			mark.saw(now)
			put(s.state.marks, shard, id, mark)
		}
	}
	return pruned, nil
}

// prune prunes the marks of producers that were born before the time and not seen since. The caller holds the lock.
func (s *memoryStore) prune(living []spend.ProducerID, before time.Time) (pruned int64) {
	for shard, marks := range s.state.marks {
		for id, mark := range marks {
			if slices.Contains(living, id) || !mark.seen.Before(before) || !id.Born().Before(before) {
				continue
			}
			put(s.state.pruned, shard, id, mark)
			delete(marks, id)
			pruned++
			if born := id.Born().Add(time.Millisecond); s.state.horizon[shard].Before(born) {
				s.state.horizon[shard] = born
			}
		}
	}
	return pruned
}

// saw notes that the mark was moved or tended. A clock that was put back doesn't make it look older.
func (m *memoryMark) saw(now time.Time) {
	if m.seen.Before(now) {
		m.seen = now
	}
}

func put(in map[int]map[spend.ProducerID]memoryMark, shard int, id spend.ProducerID, mark memoryMark) {
	if in[shard] == nil {
		in[shard] = map[spend.ProducerID]memoryMark{}
	}
	in[shard][id] = mark
}

func (s *memoryStore) Apply(_ context.Context, f *spend.Flush) error {
	if err := checkFlush(f); err != nil {
		panic(err)
	}
	if s.commits > 0 {
		time.Sleep(s.commits)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.Books != s.id && !s.anyBooks {
		return spend.ErrOtherBooks
	}
	if s.fences(f) {
		return spend.ErrFenced
	}
	now := s.now()
	for _, c := range f.Claims {
		mark := s.state.marks[f.Shard][c.Producer]
		mark.Sequence, mark.Digest, mark.Recent = c.Last, c.Digest, c.Recent
		mark.Updates, mark.Amount = c.SealedUpdates, c.SealedAmount
		mark.booked, mark.bookedAmount = mark.booked+c.Updates, mark.bookedAmount.Add(c.Amount)
		mark.saw(now)
		put(s.state.marks, f.Shard, c.Producer, mark)
	}
	marks := s.state.marks[f.Shard]
	for _, b := range f.Found {
		mark := marks[b.Producer]
		mark.Lost = withoutSequence(mark.Lost, b.Sequence)
		mark.Quarantined = without(mark.Quarantined, b.Sequence)
		mark.Recent = mark.Recent.Found(mark.Sequence, &b)
		mark.booked, mark.bookedAmount = mark.booked+b.Updates, mark.bookedAmount.Add(b.Amount)
		mark.saw(now)
		put(s.state.marks, f.Shard, b.Producer, mark)
	}
	for _, l := range f.Lost {
		mark := marks[l.Producer]
		mark.Lost = withRange(mark.Lost, spend.SequenceRange{First: l.First, Last: l.Last})
		if l.Quarantined {
			mark.Quarantined = with(mark.Quarantined, l.First)
		}
		marks[l.Producer] = mark
	}
	for _, b := range f.Quarantine {
		s.quarantine[string(b.Bytes)] = b
	}
	s.state.books.apply(f.Totals, f.Rollups)
	s.state.changes[f.Shard]++
	s.flushes++
	return nil
}

// fences says whether a claim of the flush doesn't fit, or a batch found isn't missing.
func (s *memoryStore) fences(f *spend.Flush) bool {
	if s.unchecked {
		return false
	}
	marks := s.state.marks[f.Shard]
	for _, c := range f.Claims {
		mark, known := marks[c.Producer]
		pruned := !known && c.Producer.Born().Before(s.state.horizon[f.Shard]) && !s.claimsPruned
		if mark.Sequence != c.First-1 || mark.Digest != c.Prior && !s.digestsIgnored || pruned {
			return true
		}
	}
	for _, b := range f.Found {
		if !marks[b.Producer].Lacks(b.Sequence) && !s.uncheckedFound {
			return true
		}
	}
	return false
}

// snapshot returns the state as it is now, and rewind turns the store back to one.
func (s *memoryStore) snapshot() memoryState {
	s.mu.Lock()
	defer s.mu.Unlock()
	state := s.state.clone()
	state.quarantine = maps.Clone(s.quarantine)
	return state
}

func (s *memoryStore) rewind(to memoryState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = to.clone()
	s.quarantine = maps.Clone(to.quarantine)
}

// missing returns how many batches are passed as lost.
func (s *memoryStore) missing() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, marks := range s.state.marks {
		for _, mark := range marks {
			for _, r := range mark.Lost {
				n += int(r.Len())
			}
		}
	}
	return n
}

func (s *memoryStore) Quarantine(_ context.Context, bad []spend.BadBatch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, b := range bad {
		s.quarantine[string(b.Bytes)] = b
		if i == 0 || b.Shard != bad[i-1].Shard {
			s.state.changes[b.Shard]++
		}
		parsed, err := spend.ParseBatch(b.Bytes)
		if err != nil || b.Unclaimed {
			continue
		}
		if mark, known := s.state.marks[b.Shard][parsed.Producer]; known && mark.Lacks(parsed.Sequence) {
			mark.Quarantined = with(mark.Quarantined, parsed.Sequence)
			put(s.state.marks, b.Shard, parsed.Producer, mark)
		}
	}
	return nil
}

func (s *memoryStore) diff(want *books) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.books.diff(want)
}

// checkFlush says how a flush breaks what its comment promises.
func checkFlush(f *spend.Flush) error {
	var updates int64
	var amount spend.Amount
	for i, c := range f.Claims {
		if i > 0 && f.Claims[i-1].Producer.Compare(c.Producer) >= 0 || c.First == 0 || c.Last < c.First {
			return fmt.Errorf("claim %d of %+v is out of order", i, f.Claims)
		}
		updates += c.Updates
		amount = amount.Add(c.Amount)
	}
	var sums spend.Control
	for i := range f.Totals {
		if i > 0 && f.Totals[i-1].Key.Compare(f.Totals[i].Key) >= 0 {
			return fmt.Errorf("total %d is out of order", i)
		}
		sums[f.Totals[i].Entity.Type].Add(&f.Totals[i].Counters)
	}
	for i := range f.Rollups {
		if i > 0 && f.Rollups[i-1].Compare(&f.Rollups[i]) >= 0 {
			return fmt.Errorf("rollup row %d is out of order", i)
		}
		sums[0].Add(&f.Rollups[i].Counters)
	}
	for _, b := range f.Found {
		updates += b.Updates
		amount = amount.Add(b.Amount)
	}
	quarantined := 0
	for i, l := range f.Lost {
		if l.Quarantined {
			quarantined++
		}
		in := func(c spend.Claim) bool { return c.Producer == l.Producer && c.First <= l.First && l.Last <= c.Last }
		found := func(b spend.FoundBatch) bool {
			return b.Producer == l.Producer && b.Sequence == l.First && b.Updates == 0
		} // it was passed before, and nothing of it is booked
		if !slices.ContainsFunc(f.Claims, in) && !(l.Quarantined && slices.ContainsFunc(f.Found, found)) {
			return fmt.Errorf("lost range %+v is in no claim", l)
		}
		if l.First < 1 || l.Last < l.First || l.Quarantined && l.First < l.Last {
			return fmt.Errorf("lost range %+v is none", l)
		}
		if i > 0 {
			before := &f.Lost[i-1]
			if order := before.Producer.Compare(l.Producer); order > 0 || order == 0 && before.Last >= l.First {
				return fmt.Errorf("lost range %+v is out of order, or twice", l)
			}
		}
	}
	if quarantined != len(f.Quarantine) {
		return fmt.Errorf("%d lost batches are quarantined, and %d are in quarantine", quarantined, len(f.Quarantine))
	}
	if sums != f.Control || sums[0].APIRequests() != updates || sums[0].Spend != amount {
		return errors.New("rows, control sums and claims don't agree")
	}
	return nil
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

func (l *memoryLocker) Acquire(_ context.Context, name string) (spend.Lease, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[name] != nil {
		return nil, &spend.HeldError{Name: name, Holder: spend.Holder{Owner: "another"}}
	}
	lease := &memoryLease{l, name, make(chan struct{})}
	l.held[name] = lease
	return lease, nil
}

func (l *memoryLocker) Holder(_ context.Context, name string) (spend.Holder, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[name] == nil {
		return spend.Holder{}, nil
	}
	return spend.Holder{Owner: "instance", Expires: memoryTTL}, nil
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
