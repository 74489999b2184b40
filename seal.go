package spendflush

import (
	"hash/maphash"
	"slices"
	"time"
)

// maxBatchRows bounds the totals and the rollup rows of one batch; a seal with more becomes several batches.
const maxBatchRows = 20_000

// sealer turns the cells of an ended seal into sorted rows, a lane each. One goroutine uses it at a time.
//
// It remembers the entities that it has met for their keys, so that a cell that keeps coming costs no hash and no
// allocation. A cell has the numbers of its entities, which are good for one generation.
type sealer struct {
	shards     int
	limit      int // entities above this are forgotten
	seed       maphash.Seed
	index      map[uint64]uint32 // numbers by the hash of the entity; of two entities with the same hash the later one is found
	entities   [][]sealedEntity  // by number, in chunks so that they needn't move
	count      uint32
	generation uint32
	sizes      []laneSize // of the seal before
}

// sealedEntity is one entity that the sealer remembers.
type sealedEntity struct {
	key  Key
	of   Entity
	seal uint64 // the seal that it has a row in
	row  uint32 // and the place of the row in the totals of its lane
	lane uint16
}

const entityChunk = 1024

// laneRows are the rows of one seal for one lane.
type laneRows struct {
	totals  []TotalRow
	rollups []RollupRow
}

// laneSize is how many rows a lane has.
type laneSize struct{ totals, rollups int }

func newSealer(shards, maxKeys int) *sealer {
	s := &sealer{shards: shards, limit: maxKeys, seed: maphash.MakeSeed(), sizes: make([]laneSize, shards)}
	s.forget()
	return s
}

// forget forgets all entities. It makes the numbers that cells have worthless.
func (s *sealer) forget() {
	s.index, s.entities, s.count = map[uint64]uint32{}, nil, 0
	s.generation++
}

// rows fans the cells out and clears their sums.
func (s *sealer) rows(seal uint64, dirty [][]*cell) []laneRows {
	lanes := make([]laneRows, s.shards)
	for i := range lanes {
		lanes[i].totals = make([]TotalRow, 0, s.sizes[i].totals)
		lanes[i].rollups = make([]RollupRow, 0, s.sizes[i].rollups)
	}
	for _, list := range dirty {
		for _, c := range list {
			if c.generation != s.generation {
				s.meet(c)
			}
			sums := &c.sums[seal%2]
			lane := &lanes[c.id.shard(s.shards)]
			lane.rollups = append(lane.rollups, RollupRow{Key: c.id, Hour: c.hour(), Counters: *sums, source: c.source()})
			for _, number := range c.entities {
				e := s.entity(number)
				totals := &lanes[e.lane].totals
				if e.seal != seal {
					e.seal, e.row = seal, uint32(len(*totals))
					*totals = append(*totals, TotalRow{Key: e.key, Entity: e.of})
				}
				(*totals)[e.row].Counters.Add(sums)
			}
			*sums = Counters{}
		}
	}
	for i := range lanes {
		lane := &lanes[i]
		s.sizes[i] = laneSize{len(lane.totals), len(lane.rollups)}
		slices.SortFunc(lane.totals, func(a, b TotalRow) int { return a.Key.Compare(b.Key) })
		slices.SortFunc(lane.rollups, func(a, b RollupRow) int { return a.compare(&b) })
		lane.totals = addEqual(lane.totals, totalRows)
		lane.rollups = addEqual(lane.rollups, rollupRows)
	}
	if int(s.count) > s.limit {
		s.forget()
	}
	return lanes
}

func (s *sealer) entity(number uint32) *sealedEntity {
	return &s.entities[number/entityChunk][number%entityChunk]
}

// meet fills in what the sealer needs to know of a cell.
func (s *sealer) meet(c *cell) {
	c.id = hashKey(append([]byte{'s'}, c.key[cellHourBytes:]...))
	series := c.source().series()
	var array [16]uint32
	numbers := array[:0]
	series.entities(func(e Entity) { numbers = append(numbers, s.number(e)) })
	c.entities = slices.Clone(numbers)
	c.generation = s.generation
}

// number returns the number of the entity, which it gets now if it is new.
func (s *sealer) number(e Entity) uint32 {
	hash := maphash.Comparable(s.seed, e)
	if number, ok := s.index[hash]; ok && s.entity(number).of == e {
		return number
	}
	number := s.count
	if number%entityChunk == 0 {
		s.entities = append(s.entities, make([]sealedEntity, entityChunk))
	}
	key := e.Key()
	*s.entity(number) = sealedEntity{key: key, of: e, lane: uint16(key.shard(s.shards))}
	s.index[hash] = number
	s.count++
	return number
}

// batches cuts the rows of one seal and lane into batches of bounded size, at least one. h has all that they share;
// sequence numbers them from h.Sequence up, and the prior sums go on from h's.
func (r *laneRows) batches(h Header, seal uint64, now time.Time) []*Batch {
	parts := max(1, (max(len(r.totals), len(r.rollups))+maxBatchRows-1)/maxBatchRows)
	batches := make([]*Batch, parts)
	for i := range batches {
		part := h
		part.Sequence += uint64(i)
		part.SealedAt = now
		part.Seal = seal
		if i < parts-1 {
			part.Seal--
		}
		batches[i] = NewBatch(part, slicePart(r.totals, i), slicePart(r.rollups, i))
		h.PriorUpdates += batches[i].Updates
		h.PriorAmount = h.PriorAmount.Add(batches[i].Amount)
	}
	return batches
}

func slicePart[T any](rows []T, part int) []T {
	from := min(part*maxBatchRows, len(rows))
	return rows[from:min(from+maxBatchRows, len(rows))]
}
