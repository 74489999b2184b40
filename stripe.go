package spendflush

import (
	"encoding/binary"
	"sync"

	"github.com/spendflush/spendflush/spend"
)

// stripe is a part of the open map, with a lock of its own.
type stripe struct {
	mu     sync.Mutex       // nothing slow runs under it
	cells  map[uint64]*cell // by the hash of the key; of two keys with the same hash the later one is found
	older  map[uint64]*cell // the cells map before the last rotation: cells not used since are evicted at the next
	dirty  []*cell          // cells with updates in the open seal, each once
	spare  []*cell          // the emptied dirty list of the seal before
	open   int64            // places of the cells in dirty
	kept   int64            // places of the cells in cells
	seal   uint64           // number of the open seal
	closed bool

	accepted int64 // updates added since the start
	updates  int64 // updates in the open seal
	amount   spend.Amount

	_ [24]byte // keeps neighbours off this one's cache lines
}

// cell is one combination in one hour.
type cell struct {
	key  string // four bytes of hour and the canonical encoding of the series
	sums [2]spend.Counters

	// The rest belongs to the sealer, which fills it in when it first sees the cell.
	id         spend.Key
	entities   []uint32
	generation uint32
}

const cellHourBytes = 4

// placeBytes is how many bytes of a cell's key take one place of Config.MaxKeys. The bound is thus
// one of memory: a combination of 64 tags of the largest size has a key of 16 KB.
const placeBytes = 500

// places returns how many of Config.MaxKeys a cell takes whose key has so many bytes.
func places(keyBytes int) int64 { return 1 + int64(keyBytes/placeBytes) }

func (c *cell) places() int64 { return places(len(c.key)) }

func appendCellKey(to []byte, hour spend.Hour, s *spend.Series, keep spend.Dimensions) []byte {
	to = append(to, 0, 0, 0, 0)
	putHour(to[len(to)-cellHourBytes:], hour)
	return s.AppendCanonical(to, keep)
}

func putHour(key []byte, hour spend.Hour) { binary.BigEndian.PutUint32(key, uint32(hour)) }

func (c *cell) hour() spend.Hour {
	return spend.Hour(c.key[0])<<24 | spend.Hour(c.key[1])<<16 | spend.Hour(c.key[2])<<8 | spend.Hour(c.key[3])
}

func (c *cell) series() spend.CanonicalSeries { return spend.CanonicalSeries(c.key[cellHourBytes:]) }

// find returns the cell of the key with that hash, or nil. The caller holds the lock.
func (s *stripe) find(hash uint64, key []byte) *cell {
	if c := s.cells[hash]; c != nil && c.key == string(key) {
		return c
	}
	if c := s.older[hash]; c != nil && c.key == string(key) {
		s.cells[hash] = c
		s.kept += c.places()
		return c
	}
	return nil
}

// isDirty says whether the cell has updates in the open seal. The caller holds the lock.
func (s *stripe) isDirty(c *cell) bool {
	return c.sums[s.seal%2].APIRequests() > 0
}

// isBrimful says whether the cell's sums have grown so large that nothing more may be added before
// a seal. The caller holds the lock.
func (s *stripe) isBrimful(c *cell) bool {
	return c.sums[s.seal%2].Bound()>>56 != 0
}

// make returns a new cell for the key with that hash. The caller holds the lock.
func (s *stripe) make(hash uint64, key []byte, maxKeys int64) *cell {
	if s.kept > maxKeys/stripeCount {
		s.rotate()
	}
	c := &cell{key: string(key)}
	s.cells[hash] = c
	s.kept += c.places()
	return c
}

// findOrMake returns the cell of the key with that hash. The caller holds the lock.
func (s *stripe) findOrMake(hash uint64, key []byte, maxKeys int64) *cell {
	if c := s.find(hash, key); c != nil {
		return c
	}
	return s.make(hash, key, maxKeys)
}

// count adds what one request counts to the cell. The caller holds the lock and has counted the key
// if the cell isn't dirty.
func (s *stripe) count(c *cell, one *spend.Cost) {
	if !s.isDirty(c) {
		s.dirty = append(s.dirty, c)
		s.open += c.places()
	}
	c.sums[s.seal%2].AddCost(one)
	s.accepted++
	s.updates++
	s.amount = s.amount.Add(one.Spend)
}

// rotate evicts the cells not used since the rotation before. Those with updates stay in the dirty
// list; should their key come again before the seal, it gets a second cell, and the sealer adds the
// two up. So it is with a cell whose place another key of the same hash has taken.
func (s *stripe) rotate() {
	s.older, s.cells = s.cells, make(map[uint64]*cell, len(s.cells)/2)
	s.kept = 0
}
