package spendflush

import (
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
)

// ErrBufferFull is wrapped by Record and RecordAll when as many distinct combinations are open as Config.MaxKeys
// allows. Nothing was recorded; the call may be repeated later.
var ErrBufferFull = errors.New("buffer full: too many distinct keys wait to be sealed")

// ErrClosed is returned by Record and RecordAll after Shutdown began. Nothing was recorded.
var ErrClosed = errors.New("pipeline is shut down")

// openMap sums updates by combination and hour until they are sealed. It is striped by the hash of the combination, so
// that many goroutines can add at once.
//
// A cell stays in its stripe after a seal, so that a combination that keeps coming costs no allocation. It has two
// sums: updates go to the one that the number of the stripe's open seal selects, while the sealer reads and clears
// the other. Swapping is thus a matter of counting that number up.
type openMap struct {
	seed    maphash.Seed
	keep    dimensions
	maxKeys int64
	stripes [stripeCount]stripe
	keys    atomic.Int64 // cells with updates in the open seal, and those reserved by groups being added

	// group is held shared while the updates of one call are added and exclusively while the stripes are swapped, so
	// that no seal tears a call apart.
	group sync.RWMutex
}

const stripeCount = 64

type stripe struct {
	mu     sync.Mutex // nothing slow runs under it
	cells  map[string]*cell
	older  map[string]*cell // the cells map before the last rotation: cells not used since are forgotten at the next
	dirty  []*cell          // cells with updates in the open seal, each once
	spare  []*cell          // the emptied dirty list of the seal before
	seal   uint64           // number of the open seal
	closed bool

	accepted int64 // updates added since the start
	updates  int64 // updates in the open seal
	amount   Amount

	_ [40]byte // keeps neighbours off this one's cache lines
}

// cell is one combination in one hour.
type cell struct {
	key  string // four bytes of hour and the canonical encoding of the series
	sums [2]Counters

	// The rest belongs to the sealer, which fills it in when it first meets the cell.
	id       Key
	entities []*entitySum
}

const cellHourBytes = 4

func appendCellKey(to []byte, hour Hour, s *Series, keep dimensions) []byte {
	to = append(to, byte(hour>>24), byte(hour>>16), byte(hour>>8), byte(hour))
	return s.appendCanonical(to, keep)
}

func (c *cell) hour() Hour {
	return Hour(c.key[0])<<24 | Hour(c.key[1])<<16 | Hour(c.key[2])<<8 | Hour(c.key[3])
}

func (c *cell) source() seriesSource { return seriesSource{encoded: c.key[cellHourBytes:]} }

func newOpenMap(maxKeys int, keep dimensions) *openMap {
	m := &openMap{seed: maphash.MakeSeed(), keep: keep, maxKeys: int64(maxKeys)}
	for i := range m.stripes {
		m.stripes[i].cells = map[string]*cell{}
		m.stripes[i].seal = 1
	}
	return m
}

// add counts the update and returns the number of the seal that will hold it. It allocates only for a combination
// that it hasn't met lately. It keeps nothing of u.
func (m *openMap) add(u *Update, hour Hour) (seal uint64, err error) {
	var array [512]byte
	key := appendCellKey(array[:0], hour, &u.Series, m.keep)
	s := m.stripe(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, ErrClosed
	}
	c := s.find(key)
	if c == nil || !s.isDirty(c) {
		if m.keys.Add(1) > m.maxKeys {
			m.keys.Add(-1)
			return 0, m.full()
		}
	}
	s.count(c, key, u, m.maxKeys)
	return s.seal, nil
}

// addGroup counts all the updates or, with an error, none; all are in one seal. hours go with updates.
func (m *openMap) addGroup(updates []Update, hours []Hour) (seal uint64, err error) {
	m.group.RLock()
	defer m.group.RUnlock()
	reserved := int64(len(updates))
	if m.keys.Add(reserved) > m.maxKeys {
		m.keys.Add(-reserved)
		// Perhaps they need fewer keys than there are updates. No seal can come in between, so none of the keys found
		// dirty now becomes clean.
		reserved = m.newKeys(updates, hours)
		if m.keys.Add(reserved) > m.maxKeys {
			m.keys.Add(-reserved)
			return 0, m.full()
		}
	}
	var array [512]byte
	for i := range updates {
		key := appendCellKey(array[:0], hours[i], &updates[i].Series, m.keep)
		s := m.stripe(key)
		s.mu.Lock()
		if s.closed { // closing excludes groups, so this is so for the first one or for none
			s.mu.Unlock()
			m.keys.Add(-reserved)
			return 0, ErrClosed
		}
		c := s.find(key)
		if c == nil || !s.isDirty(c) {
			reserved--
		}
		s.count(c, key, &updates[i], m.maxKeys)
		seal = s.seal
		s.mu.Unlock()
	}
	m.keys.Add(-reserved)
	return seal, nil
}

// newKeys returns how many cells the updates would make dirty.
func (m *openMap) newKeys(updates []Update, hours []Hour) int64 {
	fresh := map[string]struct{}{}
	for i := range updates {
		key := appendCellKey(nil, hours[i], &updates[i].Series, m.keep)
		s := m.stripe(key)
		s.mu.Lock()
		if c := s.find(key); c == nil || !s.isDirty(c) {
			fresh[string(key)] = struct{}{}
		}
		s.mu.Unlock()
	}
	return int64(len(fresh))
}

func (m *openMap) full() error {
	return fmt.Errorf("%w: %d are open; allowed are %d", ErrBufferFull, m.keys.Load(), m.maxKeys)
}

func (m *openMap) stripe(key []byte) *stripe {
	return &m.stripes[maphash.Bytes(m.seed, key)%stripeCount]
}

// find returns the cell of the key or nil. The caller holds the lock.
func (s *stripe) find(key []byte) *cell {
	c := s.cells[string(key)]
	if c == nil {
		if c = s.older[string(key)]; c != nil {
			s.cells[c.key] = c
		}
	}
	return c
}

// isDirty says whether the cell has updates in the open seal. The caller holds the lock.
func (s *stripe) isDirty(c *cell) bool {
	sums := &c.sums[s.seal%2]
	return sums.SuccessfulRequests|sums.FailedRequests != 0
}

// count adds the update to the cell, which it makes if c is nil. The caller holds the lock and has counted the key.
func (s *stripe) count(c *cell, key []byte, u *Update, maxKeys int64) {
	if c == nil {
		if int64(len(s.cells)) > maxKeys/stripeCount {
			s.rotate()
		}
		c = &cell{key: string(key)}
		s.cells[c.key] = c
	}
	if !s.isDirty(c) {
		s.dirty = append(s.dirty, c)
	}
	c.sums[s.seal%2].addUpdate(u)
	s.accepted++
	s.updates++
	s.amount = s.amount.Add(u.Spend)
}

// rotate forgets the cells not used since the rotation before. Those with updates stay in the dirty list; should
// their key come again before the seal, it gets a second cell, and the sealer adds the two up.
func (s *stripe) rotate() {
	s.older, s.cells = s.cells, make(map[string]*cell, len(s.cells)/2)
}

// forgetIdle rotates all stripes.
func (m *openMap) forgetIdle() {
	for i := range m.stripes {
		s := &m.stripes[i]
		s.mu.Lock()
		if len(s.cells)+len(s.older) > 0 {
			s.rotate()
		}
		s.mu.Unlock()
	}
}

// swap ends the open seal and begins the next. It returns the number of the ended one and the cells with updates in
// it, a list a stripe; or 0 if there were none, and then the seal stays open. After it, the caller alone may touch the
// ended sums, and must clear them and give the lists back with recycle before it swaps again. With last, nothing can
// be added any more.
func (m *openMap) swap(last bool) (seal uint64, dirty [][]*cell) {
	m.group.Lock()
	defer m.group.Unlock()
	if m.keys.Load() == 0 && !last {
		return 0, nil
	}
	dirty = make([][]*cell, stripeCount)
	n := 0
	for i := range m.stripes {
		s := &m.stripes[i]
		s.mu.Lock()
		seal = s.seal
		dirty[i], s.dirty, s.spare = s.dirty, s.spare, nil
		n += len(dirty[i])
		s.seal++
		s.updates, s.amount = 0, Amount{}
		s.closed = s.closed || last
		s.mu.Unlock()
	}
	m.keys.Add(-int64(n))
	return seal, dirty
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
	amount                  Amount
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
	return total
}

// entity adds up what the open seal holds of the entity. It walks over all open cells.
func (m *openMap) entity(e Entity) (sum Counters) {
	for i := range m.stripes {
		s := &m.stripes[i]
		s.mu.Lock()
		for _, c := range s.dirty {
			series := c.source().series()
			series.entities(func(other Entity) {
				if other == e {
					sum.Add(&c.sums[s.seal%2])
				}
			})
		}
		s.mu.Unlock()
	}
	return sum
}

// idleAfter is how often cells not used in the meantime are forgotten.
const idleAfter = 10 * time.Minute
