package spendflush

import (
	"slices"
	"time"
)

// maxBatchRows bounds the totals and the rollup rows of one batch; a seal with more becomes several batches.
const maxBatchRows = 20_000

// sealer turns the cells of an ended seal into sorted rows, a lane each. One goroutine uses it at a time.
type sealer struct {
	shards   int
	entities map[Entity]*entitySum // remembered over seals for their keys
	limit    int                   // entities above this are forgotten
}

// entitySum sums what a seal adds to one entity.
type entitySum struct {
	row  TotalRow
	seal uint64 // the seal that the sums are of
}

// laneRows are the rows of one seal for one lane.
type laneRows struct {
	totals  []TotalRow
	rollups []RollupRow
}

func newSealer(shards, maxKeys int) *sealer {
	return &sealer{shards: shards, entities: map[Entity]*entitySum{}, limit: maxKeys}
}

// rows fans the cells out and clears their sums.
func (s *sealer) rows(seal uint64, dirty [][]*cell) []laneRows {
	lanes := make([]laneRows, s.shards)
	var touched []*entitySum
	for _, list := range dirty {
		for _, c := range list {
			s.meet(c)
			sums := &c.sums[seal%2]
			lane := &lanes[c.id.shard(s.shards)]
			lane.rollups = append(lane.rollups, RollupRow{Key: c.id, Hour: c.hour(), Counters: *sums, source: c.source()})
			for _, e := range c.entities {
				if e.seal != seal {
					e.seal, e.row.Counters = seal, Counters{}
					touched = append(touched, e)
				}
				e.row.Counters.Add(sums)
			}
			*sums = Counters{}
		}
	}
	for _, e := range touched {
		lane := &lanes[e.row.Key.shard(s.shards)]
		lane.totals = append(lane.totals, e.row)
	}
	for i := range lanes {
		lane := &lanes[i]
		slices.SortFunc(lane.totals, func(a, b TotalRow) int { return a.Key.Compare(b.Key) })
		slices.SortFunc(lane.rollups, func(a, b RollupRow) int { return a.compare(&b) })
		lane.totals = addEqual(lane.totals, totalRows)
		lane.rollups = addEqual(lane.rollups, rollupRows)
	}
	if len(s.entities) > s.limit {
		clear(s.entities)
	}
	return lanes
}

// meet fills in what the sealer needs to know of a cell.
func (s *sealer) meet(c *cell) {
	if c.entities != nil {
		return
	}
	c.id = hashKey(append([]byte{'s'}, c.key[cellHourBytes:]...))
	series := c.source().series()
	series.entities(func(e Entity) {
		sum := s.entities[e]
		if sum == nil {
			sum = &entitySum{row: TotalRow{Key: e.Key(), Entity: e}}
			s.entities[e] = sum
		}
		c.entities = append(c.entities, sum)
	})
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
