package spendflush

import (
	"cmp"
	"encoding/binary"
	"hash/maphash"
	"math/bits"
	"slices"
	"strings"

	"github.com/spendflush/spendflush/spend"
)

// maxBatchCount bounds the sums of one batch, unless one series alone has more; see brimful.
const maxBatchCount = 1 << 61

// sealer turns the cells of an ended seal into batches' worth of sorted rows. The shard of a cell
// is that of its series, and all rows that an update counts in are in one part, so that they are
// committed together. One goroutine uses it at a time.
//
// It remembers the entities that it has seen for their keys, so that a cell that keeps coming costs
// no hash and no allocation. A cell has the numbers of its entities, which are good for one
// generation.
type sealer struct {
	shards     int
	limit      int // entities above this are evicted
	seed       maphash.Seed
	index      map[uint64]uint32 // numbers by the hash of the entity; of two entities with the same hash the later one is found
	entities   [][]sealedEntity  // by number, in chunks so that they needn't move
	count      uint32
	generation uint32
	part       uint64    // number of the last part
	order      []sortKey // of the totals of a part, to be used again
	sizes      []int     // cells of each shard in the seal before
}

// sealedEntity is one entity that the sealer remembers.
type sealedEntity struct {
	key  spend.Key
	of   spend.Entity
	part uint64 // the last part that it has a row in
	row  uint32 // and the place of the row among the totals
}

const entityChunk = 1024

// rowsPart are the rows of one batch.
type rowsPart struct {
	totals  []spend.TotalRow
	rollups []spend.RollupRow
}

// shardCells is what a seal has for one shard before the rows are made.
type shardCells struct {
	cells []*cell
	order []sortKey
}

func newSealer(shards, maxKeys int) *sealer {
	s := &sealer{shards: shards, limit: maxKeys, seed: maphash.MakeSeed(), sizes: make([]int, shards)}
	s.evictAll()
	return s
}

// evictAll evicts all entities. It makes the numbers that cells have worthless.
func (s *sealer) evictAll() {
	s.index, s.entities, s.count = map[uint64]uint32{}, nil, 0
	s.generation++
}

// parts fans the cells out and clears their sums. It returns the parts of each shard.
func (s *sealer) parts(seal uint64, dirty [][]*cell) [][]rowsPart {
	work := make([]shardCells, s.shards)
	for i, size := range s.sizes {
		work[i] = shardCells{make([]*cell, 0, size), make([]sortKey, 0, size)}
	}

	for _, list := range dirty {
		for _, c := range list {
			if c.generation != s.generation {
				s.numberEntities(c)
			}
			w := &work[c.id.Shard(s.shards)]
			w.order = append(w.order, sortKeyOf(&c.id, c.hour(), uint32(len(w.cells))))
			w.cells = append(w.cells, c)
		}
	}

	shards := make([][]rowsPart, s.shards)
	for i := range work {
		s.sizes[i] = len(work[i].cells)
		sortByKey(work[i].order)
		for from := 0; from < len(work[i].order); {
			to := s.cut(seal, &work[i], from)
			shards[i] = append(shards[i], s.rows(seal, &work[i], from, to))
			from = to
		}
	}

	if int(s.count) > s.limit {
		s.evictAll()
	}
	return shards
}

// cut begins a part with the cell at this place, and returns the place where the next one begins.
// It leaves the places of the part's totals in s.places.
func (s *sealer) cut(seal uint64, work *shardCells, from int) (to int) {
	s.part++
	s.order = s.order[:0]
	texts, most := 0, uint64(0)
	for to = from; to < len(work.order); to++ {
		c := work.cells[work.order[to].of]
		texts += len(c.key)
		most += c.sums[seal%2].Bound() * uint64(max(1, len(c.entities)))
		full := to-from == spend.MaxBatchRows || len(s.order) >= spend.MaxBatchRows || texts > spend.MaxBatchTexts || most > maxBatchCount
		if full && to > from {
			break
		}
		for _, number := range c.entities {
			if e := s.entity(number); e.part != s.part {
				e.part = s.part
				s.order = append(s.order, sortKeyOf(&e.key, 0, number))
			}
		}
	}
	return to
}

// rows makes the rows of the part that was cut last.
func (s *sealer) rows(seal uint64, work *shardCells, from, to int) rowsPart {
	sortByKey(s.order)
	totals := make([]spend.TotalRow, len(s.order))
	for i := range s.order {
		e := s.entity(s.order[i].of)
		totals[i].Key, totals[i].Entity = e.key, e.of
		e.row = uint32(i)
	}

	rollups := make([]spend.RollupRow, to-from)
	for i := range rollups {
		c := work.cells[work.order[from+i].of]
		sums := &c.sums[seal%2]
		rollups[i] = c.series().Row(c.id, c.hour(), sums)
		for _, number := range c.entities {
			totals[s.entity(number).row].Counters.Add(sums)
		}
		*sums = spend.Counters{}
	}
	// Two cells, and two numbers, may stand for the same row.
	return rowsPart{addEqual(totals, totalRows), addEqual(rollups, rollupRows)}
}

func (s *sealer) entity(number uint32) *sealedEntity {
	return &s.entities[number/entityChunk][number%entityChunk]
}

// numberEntities fills in what the sealer needs to know of a cell.
func (s *sealer) numberEntities(c *cell) {
	c.id = c.series().Key()
	series := c.series().Series()
	var array [16]uint32
	numbers := array[:0]
	series.EachEntity(func(e spend.Entity) { numbers = append(numbers, s.number(e)) })
	c.entities = slices.Clone(numbers)
	c.generation = s.generation
}

// number returns the number of the entity, which it gets now if it is new.
func (s *sealer) number(e spend.Entity) uint32 {
	hash := maphash.Comparable(s.seed, e)
	if number, ok := s.index[hash]; ok && s.entity(number).of == e {
		return number
	}
	number := s.count
	if number%entityChunk == 0 {
		s.entities = append(s.entities, make([]sealedEntity, entityChunk))
	}
	key := e.Key()
	e.ID, e.TeamID = strings.Clone(e.ID), strings.Clone(e.TeamID) // a part of a cell's key would keep all of the key
	*s.entity(number) = sealedEntity{key: key, of: e}
	s.index[hash] = number
	s.count++
	return number
}

// batches makes the batches of a seal for one shard. h has all that they share; they are numbered
// from h.Sequence up, and the prior sums and digest go on from h's.
func batches(parts []rowsPart, h spend.Header, keys *spend.BatchKeys) []*spend.Batch {
	list := make([]*spend.Batch, len(parts))
	for i, part := range parts {
		list[i] = keys.NewBatch(h, part.totals, part.rollups)
		h = after(h, list[i])
	}
	return list
}

// after returns the header of the batch that goes on from b, which has the header h.
func after(h spend.Header, b *spend.Batch) spend.Header {
	h.Sequence++
	h.PriorDigest = b.Digest()
	h.PriorUpdates += b.Updates
	h.PriorAmount = h.PriorAmount.Add(b.Amount)
	return h
}

// sortKey is what a row is sorted by, before it is made.
type sortKey struct {
	high, low uint64 // the key
	hour      spend.Hour
	of        uint32 // the number of the entity, or the place of the cell among the relay's
}

func sortKeyOf(key *spend.Key, hour spend.Hour, of uint32) sortKey {
	return sortKey{binary.BigEndian.Uint64(key[:8]), binary.BigEndian.Uint64(key[8:]), hour, of}
}

// sortByKey sorts the places by hour and key. Keys are hashes and so evenly spread: dealt out to
// buckets by their leading bits, in place, only the few of a bucket are left to be compared
// (American flag sort: McIlroy, Bostic and McIlroy, Engineering Radix Sort, 1993). Ids made so that
// their hashes begin alike get a sort that is no slower than usual ones.
func sortByKey(order []sortKey) {
	const perBucket = 4
	width := bits.Len(uint(len(order) / perBucket))
	bucket := func(p *sortKey) uint64 { return p.high >> (64 - width) }
	next := make([]uint32, 1<<width) // where the next place of the bucket goes
	hours := false
	for i := range order {
		next[bucket(&order[i])]++
		hours = hours || order[i].hour != order[0].hour
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
			p := &order[next[b]]
			if to := bucket(p); to != uint64(b) {
				*p, order[next[to]] = order[next[to]], *p
				next[to]++
				continue
			}
			next[b]++
		}
		slices.SortFunc(order[from:ends[b]], func(a, b sortKey) int {
			if a.high != b.high {
				return cmp.Compare(a.high, b.high)
			}
			return cmp.Compare(a.low, b.low)
		})
		from = ends[b]
	}

	if hours {
		slices.SortStableFunc(order, func(a, b sortKey) int { return cmp.Compare(a.hour, b.hour) })
	}
}
