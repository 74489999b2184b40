package memstore

import (
	"maps"
	"slices"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// Snapshot is all that a store has at one moment. Its maps and Quarantine are the caller's. The
// slices in their values may be shared with the store: put others in their place, and don't change
// them.
type Snapshot struct {
	Books   spend.BooksID
	Totals  map[spend.Entity]spend.Counters
	Rollups map[RollupKey]Rollup

	Producers map[ProducerKey]Producer // those that have a mark
	Pruned    map[ProducerKey]Producer // those whose mark TouchMarks has pruned, as it was then

	Quarantine []spend.BadBatch  // in the order in which they came
	Horizons   map[int]time.Time // by shard; see spend.Marks
	Changes    map[int]int64     // by shard; see spend.Marks

	Facts     map[spend.FactID][]spend.CommittedFact // what counts once
	Taken     map[ProducerKey][]spend.TakenOut       // what was taken out of batches, in the order of the commits
	Conflicts []spend.ConflictBatch                  // set aside, in that order
}

// RollupKey names a rollup row: Key is that of its series.
type RollupKey struct {
	Hour spend.Hour
	Key  spend.Key
}

// Rollup is what one series has in one hour.
type Rollup struct {
	Series   spend.Series
	Counters spend.Counters
}

// ProducerKey names a producer in a shard.
type ProducerKey struct {
	Shard int
	ID    spend.ProducerID
}

// Producer is how far a producer is in the books, and what is in them of its batches.
type Producer struct {
	Mark spend.Mark

	// Updates and Amount are what is booked of its batches. What Mark has above them, and above
	// what was taken out, is lost or in quarantine.
	Updates int64
	Amount  spend.Amount

	Duplicates, Conflicts spend.FactSum // what was taken out of its batches

	Seen time.Time // when the mark was moved or touched last
}

// Missing returns how many batches of all producers were skipped without being booked, and haven't
// been found since. They are lost, or in quarantine.
func (s *Snapshot) Missing() (batches uint64) {
	for _, p := range s.Producers {
		for _, r := range p.Mark.Lost {
			batches += r.Len()
		}
	}
	return batches
}

func (s *Snapshot) clone() Snapshot {
	return Snapshot{
		Books: s.Books, Totals: copyMap(s.Totals), Rollups: copyMap(s.Rollups), Producers: copyMap(s.Producers), Pruned: copyMap(s.Pruned),
		Quarantine: slices.Clone(s.Quarantine), Horizons: copyMap(s.Horizons), Changes: copyMap(s.Changes),
		Facts: copyMap(s.Facts), Taken: copyMap(s.Taken), Conflicts: slices.Clone(s.Conflicts),
	}
}

// copyMap returns a copy that can be written to, also of a nil map.
func copyMap[K comparable, V any](m map[K]V) map[K]V {
	if m == nil {
		return map[K]V{}
	}
	return maps.Clone(m)
}

// Snapshot returns a copy of all that the store has. It takes as long as there are rows.
func (s *Store) Snapshot() Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.clone()
}

// Restore puts the store back to what it was at a snapshot, as a database is that is restored from
// a backup. A snapshot may be restored any number of times, changed before, or come from another
// store. The store doesn't keep it.
func (s *Store) Restore(to Snapshot) {
	state := to.clone()
	var sum spend.Counters
	for _, r := range state.Rollups {
		sum.Add(&r.Counters)
	}
	aside := make(map[string]int, len(state.Quarantine))
	for i, b := range state.Quarantine {
		aside[string(b.Bytes)] = i
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state, s.sum, s.aside = state, sum, aside
}

// Total returns what is booked on the entity, zeros if nothing is.
func (s *Store) Total(of spend.Entity) spend.Counters {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.Totals[of]
}

// Sum returns what is booked in all: the sum of all rollup rows.
func (s *Store) Sum() spend.Counters {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sum
}
