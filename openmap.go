package spendflush

import (
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// ErrBufferFull is wrapped by Record and RecordAll when as many distinct combinations are open as
// Config.MaxKeys allows, or as many ids wait to be committed as Config.MaxUnconfirmedBytes does.
// Nothing was recorded; the call may be repeated later.
var ErrBufferFull = errors.New("buffer full")

// ErrClosed is returned by Record and RecordAll after Shutdown began. Nothing was recorded.
var ErrClosed = errors.New("pipeline is shut down")

// openMap sums updates by combination and hour until they are sealed. It is striped by the hash of
// the combination, so that many goroutines can add at once.
//
// A cell stays in its stripe after a seal, so that a combination that keeps coming costs no
// allocation. It has two sums: updates go to the one that the number of the stripe's open seal
// selects, while the sealer reads and clears the other. Swapping is thus a matter of counting that
// number up.
type openMap struct {
	seed      maphash.Seed
	keep      spend.Dimensions
	maxKeys   int64
	stripes   [stripeCount]stripe
	newcomers *newcomers
	facts     *openFacts   // what has ids
	keys      atomic.Int64 // places of cells with updates in the open seal, and those reserved by groups being added

	// group is held shared while the updates of one call are added and exclusively while the
	// stripes are swapped, so that no seal tears a call apart.
	group sync.RWMutex
}

const stripeCount = 64

func newOpenMap(maxKeys int, keep spend.Dimensions, day int64) *openMap {
	m := &openMap{seed: maphash.MakeSeed(), keep: keep, maxKeys: int64(maxKeys), newcomers: newNewcomers(int64(maxKeys), day)}
	for i := range m.stripes {
		m.stripes[i].cells = map[uint64]*cell{}
		m.stripes[i].seal = 1
	}
	m.facts = newOpenFacts(m, 1, math.MaxInt64)
	return m
}

// add counts one request and returns the number of the seal that will hold it. It allocates only
// for a combination that it hasn't seen lately. It keeps nothing of series. A request whose series
// is refused isn't counted; of a combination that is known, the texts are known to be right.
func (m *openMap) add(caller string, series *spend.Series, one *spend.Cost, hour spend.Hour) (seal uint64, err error) {
	var array [keyRoom]byte
	key := appendCellKey(array[:0], hour, series, m.keep)
	hash := maphash.Bytes(m.seed, key)
	s := m.stripe(hash)
	s.mu.Lock()
	c := s.find(hash, key)
	if !m.skipsValidation(c, series) {
		s.mu.Unlock()
		if err := series.Check(0); err != nil {
			return 0, err
		}
		s.mu.Lock()
		c = s.find(hash, key)
	}
	defer s.mu.Unlock()
	if c == nil && !s.closed {
		if err := m.newcomers.admit(caller, m.keys.Load(), places(len(key)), series); err != nil {
			return 0, err
		}
	}
	return m.countOne(s, c, hash, key, one)
}

// keyRoom is how long a cell's key may be without an allocation.
const keyRoom = 384

// skipsValidation says whether the series needn't be checked because its cell is known. The cell
// tells nothing of dimensions that aren't kept, nor of a tag that stands there twice.
func (m *openMap) skipsValidation(c *cell, s *spend.Series) bool {
	return c != nil && m.keep == spend.AllDimensions && len(s.Tags) <= spend.MaxTags
}

// countOne counts one request in the cell, which it makes if c is nil. The caller holds the lock.
func (m *openMap) countOne(s *stripe, c *cell, hash uint64, key []byte, one *spend.Cost) (seal uint64, err error) {
	if s.closed {
		return 0, ErrClosed
	}
	if c != nil && s.isBrimful(c) {
		return 0, errBrimful
	}
	if c == nil || !s.isDirty(c) {
		size := len(key)
		if c != nil {
			size = len(c.key)
		}
		if n := places(size); m.keys.Add(n) > max(n, m.maxKeys) { // one alone always has room
			m.keys.Add(-n)
			return 0, m.full()
		}
	}
	if c == nil {
		c = s.make(hash, key, m.maxKeys)
	}
	s.count(c, one)
	return s.seal, nil
}

// slot is where an update of a group counts.
type slot struct {
	hour   spend.Hour
	stripe *stripe
	cell   *cell // nil: not made yet
}

// addGroup counts all the updates or, with an error, none; all are in one seal. The slots have
// their hours; the rest of them it fills in. Errors: an *UpdateError about a series, ErrBufferFull,
// ErrClosed.
func (m *openMap) addGroup(caller string, updates []spend.Update, slots []slot) (seal uint64, err error) {
	m.group.RLock()
	defer m.group.RUnlock()
	return m.addGroupHeld(caller, updates, slots)
}

// addGroupHeld is addGroup for a caller who holds group.
func (m *openMap) addGroupHeld(caller string, updates []spend.Update, slots []slot) (seal uint64, err error) {
	reserved, err := m.locate(updates, slots)
	if err != nil {
		return 0, err
	}

	if err := m.admitGroup(caller, updates, slots); err != nil {
		return 0, err
	}
	if m.keys.Add(reserved) > m.maxKeys {
		m.keys.Add(-reserved)
		// Perhaps they need fewer, because some are dirty or stand there twice. No seal can come in
		// between, so none of the keys found dirty now becomes clean.
		reserved = m.newKeys(updates, slots)
		if m.keys.Add(reserved) > m.maxKeys {
			m.keys.Add(-reserved)
			return 0, m.full()
		}
	}

	var array [keyRoom]byte
	for i := range updates {
		at := &slots[i]
		s := at.stripe
		s.mu.Lock()
		if s.closed { // closing excludes groups, so this is so for the first one or for none
			s.mu.Unlock()
			m.keys.Add(-reserved)
			return 0, ErrClosed
		}
		if at.cell == nil {
			key := appendCellKey(array[:0], at.hour, &updates[i].Series, m.keep)
			at.cell = s.findOrMake(maphash.Bytes(m.seed, key), key, m.maxKeys)
		}
		if !s.isDirty(at.cell) {
			reserved -= at.cell.places()
		}
		s.count(at.cell, &updates[i].Cost)
		seal = s.seal
		s.mu.Unlock()
	}

	m.keys.Add(-reserved)
	return seal, nil
}

// admitGroup has the newcomers take the combinations of the group that have no cell, each once.
func (m *openMap) admitGroup(caller string, updates []spend.Update, slots []slot) error {
	var series []*spend.Series
	var cells int64
	var seen map[uint64]struct{}
	var array [keyRoom]byte
	for i := range updates {
		if slots[i].cell != nil {
			continue
		}
		if seen == nil {
			seen = map[uint64]struct{}{}
		}
		key := appendCellKey(array[:0], slots[i].hour, &updates[i].Series, m.keep)
		hash := maphash.Bytes(m.seed, key)
		if _, ok := seen[hash]; !ok {
			seen[hash] = struct{}{}
			series = append(series, &updates[i].Series)
			cells += places(len(key))
		}
	}

	if len(series) == 0 {
		return nil
	}
	return m.newcomers.admit(caller, m.keys.Load(), cells, series...)
}

// locate finds the cells of the updates, and checks the series of those that have none. It returns
// the places that they need at most. A cell that is evicted before it is used has a second one
// beside it; see rotate.
func (m *openMap) locate(updates []spend.Update, slots []slot) (most int64, err error) {
	var array [keyRoom]byte
	for i := range updates {
		series := &updates[i].Series
		key := appendCellKey(array[:0], slots[i].hour, series, m.keep)
		hash := maphash.Bytes(m.seed, key)
		s := m.stripe(hash)
		s.mu.Lock()
		c := s.find(hash, key)
		brimful := c != nil && s.isBrimful(c)
		s.mu.Unlock()
		if brimful {
			return 0, errBrimful
		}
		most += places(len(key))
		slots[i].stripe, slots[i].cell = s, c
		if !m.skipsValidation(c, series) {
			if err := series.Check(i); err != nil {
				return 0, err
			}
		}
	}
	return most, nil
}

// newKeys returns the places of the cells that the updates would make dirty.
func (m *openMap) newKeys(updates []spend.Update, slots []slot) int64 {
	fresh, n := map[string]struct{}{}, int64(0)
	for i := range updates {
		key := appendCellKey(nil, slots[i].hour, &updates[i].Series, m.keep)
		s := slots[i].stripe
		s.mu.Lock()
		if c := s.find(maphash.Bytes(m.seed, key), key); c == nil || !s.isDirty(c) {
			if _, seen := fresh[string(key)]; !seen {
				fresh[string(key)] = struct{}{}
				n += places(len(key))
			}
		}
		s.mu.Unlock()
	}
	return n
}

// errBrimful keeps the sums of a batch from overflowing: a cell would have to go on for 70 million
// updates of the largest size without a seal.
var errBrimful = fmt.Errorf("%w: one combination has too many tokens that wait to be sealed", ErrBufferFull)

func (m *openMap) full() error {
	return fmt.Errorf("%w: %d distinct keys wait to be sealed; allowed are %d", ErrBufferFull, m.keys.Load(), m.maxKeys)
}

func (m *openMap) stripe(hash uint64) *stripe { return &m.stripes[hash%stripeCount] }

// evictIdle rotates all stripes.
func (m *openMap) evictIdle() {
	m.newcomers.evictIdle()
	m.facts.evictIdle()
	for i := range m.stripes {
		s := &m.stripes[i]
		s.mu.Lock()
		if len(s.cells)+len(s.older) > 0 {
			s.rotate()
		}
		s.mu.Unlock()
	}
}

// swap ends the open seal and begins the next. It returns the number of the ended one, the cells
// with updates in it, a list a stripe, and their sum; or 0 if there were none, and then the seal
// stays open. After it, the caller alone may touch the ended sums, and must clear them and give the
// lists back with recycle before it swaps again. With last, nothing can be added any more.
func (m *openMap) swap(last bool) (seal uint64, dirty [][]*cell, sum beingSealed) {
	m.group.Lock()
	defer m.group.Unlock()
	if m.keys.Load() == 0 && !last {
		return 0, nil, sum
	}

	dirty = make([][]*cell, stripeCount)
	for i := range m.stripes {
		s := &m.stripes[i]
		s.mu.Lock()
		seal = s.seal
		dirty[i], s.dirty, s.spare = s.dirty, s.spare, nil
		sum.places += s.open
		s.open = 0
		s.seal++
		sum.updates += s.updates
		sum.amount = sum.amount.Add(s.amount)
		s.updates, s.amount = 0, spend.Amount{}
		s.closed = s.closed || last
		s.mu.Unlock()
	}

	facts := m.facts.swap(last)
	sum.updates, sum.amount, sum.places = sum.updates+facts.updates, sum.amount.Add(facts.amount), sum.places+facts.places
	m.keys.Add(-sum.places)
	m.newcomers.sealed()
	return seal, dirty, sum
}

// recycle gives the lists of swap back, to be filled again.
func (m *openMap) recycle(dirty [][]*cell) {
	for i := range m.stripes {
		clear(dirty[i])
		s := &m.stripes[i]
		s.mu.Lock()
		s.spare = dirty[i][:0]
		s.mu.Unlock()
	}
}

// openSums says what the open seal holds and what was accepted in all.
type openSums struct {
	keys, accepted, updates int64
	amount                  spend.Amount
}

func (m *openMap) sums() openSums {
	total := openSums{keys: m.keys.Load()}
	for i := range m.stripes {
		s := &m.stripes[i]
		s.mu.Lock()
		total.accepted += s.accepted
		total.updates += s.updates
		total.amount = total.amount.Add(s.amount)
		s.mu.Unlock()
	}
	m.facts.total(&total)
	return total
}

// entity adds up what the open seal holds of the entity, by the shards that it is on its way to. It
// walks over all open cells.
func (m *openMap) entity(e spend.Entity, shards int) []spend.Counters {
	sums := make([]spend.Counters, shards)
	for i := range m.stripes {
		s := &m.stripes[i]
		s.mu.Lock()
		for _, c := range s.dirty {
			series := c.series().Series()
			series.EachEntity(func(other spend.Entity) {
				if other == e {
					sums[series.Key().Shard(shards)].Add(&c.sums[s.seal%2])
				}
			})
		}
		s.mu.Unlock()
	}
	m.facts.entity(e, sums)
	return sums
}

// idleAfter is how often cells not used in the meantime are evicted.
const idleAfter = 10 * time.Minute
