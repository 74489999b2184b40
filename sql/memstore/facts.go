package memstore

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// decide decides which facts of a flush that isn't fenced count, and keeps what it comes to. The
// caller must hold the lock.
func (s *Store) decide(f *spend.Flush) (*spend.Decision, error) {
	var known []spend.KnownFact
	for _, id := range f.FactIDs() {
		for _, fact := range s.state.Facts[id] {
			known = append(known, fact.KnownFact)
		}
	}
	d, err := f.Decide(known)
	if err != nil {
		return nil, err
	}
	now := s.now()
	for _, fact := range d.New {
		committed := spend.CommittedFact{KnownFact: fact, At: now}
		s.state.Facts[fact.ID] = append(slices.Clip(s.state.Facts[fact.ID]), committed)
	}
	for _, taken := range d.Taken {
		key := ProducerKey{f.Shard, taken.Producer}
		s.state.Taken[key] = append(slices.Clip(s.state.Taken[key]), taken)
	}
	s.state.Conflicts = append(s.state.Conflicts, d.Aside...)
	if f.Outcome != nil {
		*f.Outcome = d.Taken
	}
	return d, nil
}

// Fact returns what the books have of an id; see spend.FactStore. The error is ctx's.
func (s *Store) Fact(ctx context.Context, id spend.FactID) ([]spend.CommittedFact, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("look for an id: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.state.Facts[id]), nil
}

// Outcomes returns what was taken out of batches; see spend.FactStore. It is known for as long as
// there is the store. The error is ctx's.
func (s *Store) Outcomes(
	ctx context.Context, shard int, producer spend.ProducerID, sequences []uint64,
) (list []spend.TakenOut, err error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("read outcomes: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, taken := range s.state.Taken[ProducerKey{shard, producer}] {
		if slices.Contains(sequences, taken.Sequence) {
			list = append(list, taken)
		}
	}
	slices.SortFunc(list, func(a, b spend.TakenOut) int { return int(int64(a.Sequence) - int64(b.Sequence)) })
	return list, nil
}

// TendFacts forgets ids that are older than the window, by the store's clock; see spend.FactStore.
// The error is ctx's.
func (s *Store) TendFacts(ctx context.Context, window time.Duration) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("tend ids: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.now().Add(-window)
	for id, facts := range s.state.Facts {
		left := slices.DeleteFunc(slices.Clone(facts), func(f spend.CommittedFact) bool { return f.At.Before(before) })
		if s.state.Facts[id] = left; len(left) == 0 {
			delete(s.state.Facts, id)
		}
	}
	return nil
}
