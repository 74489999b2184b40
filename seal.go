package spendflush

import (
	"cmp"
	"encoding/binary"
	"hash/maphash"
	"math/bits"
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

// laneWork is what a seal has for one lane before the rows are made.
type laneWork struct {
	cells           []*cell
	totals, rollups []place
}

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
	work := make([]laneWork, s.shards)
	for i, size := range s.sizes {
		work[i] = laneWork{make([]*cell, 0, size.rollups), make([]place, 0, size.totals), make([]place, 0, size.rollups)}
	}
	for _, list := range dirty {
		for _, c := range list {
			if c.generation != s.generation {
				s.meet(c)
			}
			lane := &work[c.id.shard(s.shards)]
			lane.rollups = append(lane.rollups, placeOf(&c.id, c.hour(), uint32(len(lane.cells))))
			lane.cells = append(lane.cells, c)
			for _, number := range c.entities {
				if e := s.entity(number); e.seal != seal {
					e.seal = seal
					work[e.lane].totals = append(work[e.lane].totals, placeOf(&e.key, 0, number))
				}
			}
		}
	}
	lanes := make([]laneRows, s.shards)
	for i := range lanes {
		lanes[i].totals = s.totals(work[i].totals)
	}
	for i := range lanes {
		lanes[i].rollups = s.rollups(seal, &work[i], lanes)
	}
	for i := range lanes {
		s.sizes[i] = laneSize{len(lanes[i].totals), len(lanes[i].rollups)}
		lanes[i].totals = addEqual(lanes[i].totals, totalRows)
		lanes[i].rollups = addEqual(lanes[i].rollups, rollupRows)
	}
	if int(s.count) > s.limit {
		s.forget()
	}
	return lanes
}

// totals makes the rows of these entities, without sums so far.
func (s *sealer) totals(places []place) []TotalRow {
	sortPlaces(places)
	rows := make([]TotalRow, len(places))
	for i := range places {
		e := s.entity(places[i].of)
		rows[i].Key, rows[i].Entity = e.key, e.of
		e.row = uint32(i)
	}
	return rows
}

// rollups makes the rows of the lane's cells and adds their sums to their entities' rows, in whatever lane these are.
func (s *sealer) rollups(seal uint64, work *laneWork, lanes []laneRows) []RollupRow {
	places := work.rollups
	sortPlaces(places)
	rows := make([]RollupRow, len(places))
	for i := range places {
		c := work.cells[places[i].of]
		sums := &c.sums[seal%2]
		rows[i] = RollupRow{Key: c.id, Hour: c.hour(), Counters: *sums, source: c.source()}
		for _, number := range c.entities {
			e := s.entity(number)
			lanes[e.lane].totals[e.row].Counters.Add(sums)
		}
		*sums = Counters{}
	}
	return rows
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
func (r *laneRows) batches(h Header, now time.Time) []*Batch {
	parts := max(1, (max(len(r.totals), len(r.rollups))+maxBatchRows-1)/maxBatchRows)
	batches := make([]*Batch, parts)
	for i := range batches {
		part := h
		part.Sequence += uint64(i)
		part.SealedAt = now
		batches[i] = NewBatch(part, slicePart(r.totals, i), slicePart(r.rollups, i))
		h.PriorDigest = batches[i].digest
		h.PriorUpdates += batches[i].Updates
		h.PriorAmount = h.PriorAmount.Add(batches[i].Amount)
	}
	return batches
}

func slicePart[T any](rows []T, part int) []T {
	from := min(part*maxBatchRows, len(rows))
	return rows[from:min(from+maxBatchRows, len(rows))]
}

// place is what a row is sorted by, before it is made.
type place struct {
	high, low uint64 // the key
	hour      Hour
	of        uint32 // the number of the entity, or the place of the cell among the lane's
}

func placeOf(key *Key, hour Hour, of uint32) place {
	return place{binary.BigEndian.Uint64(key[:8]), binary.BigEndian.Uint64(key[8:]), hour, of}
}

// sortPlaces sorts the places by hour and key. Keys are hashes and so evenly spread: dealt out to buckets by their leading
// bits, in place, only the few of a bucket are left to be compared (American flag sort: McIlroy, Bostic and McIlroy,
// Engineering Radix Sort, 1993). Somebody who makes ids whose hashes begin alike gets a sort that isn't slower than usual ones.
func sortPlaces(places []place) {
	const perBucket = 4
	width := bits.Len(uint(len(places) / perBucket))
	bucket := func(p *place) uint64 { return p.high >> (64 - width) }
	next := make([]uint32, 1<<width) // where the next place of the bucket goes
	hours := false
	for i := range places {
		next[bucket(&places[i])]++
		hours = hours || places[i].hour != places[0].hour
	}
	ends := make([]uint32, 1<<width)
	end := uint32(0)
	for b, n := range next {
		next[b] = end
		end += n
		ends[b] = end
	}
	from := uint32(0)
	for b := range next {
		for next[b] < ends[b] {
			p := &places[next[b]]
			if to := bucket(p); to != uint64(b) {
				*p, places[next[to]] = places[next[to]], *p
				next[to]++
				continue
			}
			next[b]++
		}
		slices.SortFunc(places[from:ends[b]], func(a, b place) int {
			if a.high != b.high {
				return cmp.Compare(a.high, b.high)
			}
			return cmp.Compare(a.low, b.low)
		})
		from = ends[b]
	}
	if hours {
		slices.SortStableFunc(places, func(a, b place) int { return cmp.Compare(a.hour, b.hour) })
	}
}
