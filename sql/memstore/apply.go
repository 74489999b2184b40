package memstore

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/spendflush/spendflush/spend"
)

// Apply commits all of the flush or nothing; see spend.Store. The error is spend.ErrFenced or
// spend.ErrOtherBooks, wraps ErrBadFlush or spend.ErrRefused, or is ctx's. Nothing was written
// then, so that the outcome is always known. Apply doesn't keep the flush.
func (s *Store) Apply(ctx context.Context, f *spend.Flush) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("apply a flush of shard %d: %w", f.Shard, err)
	}
	if err := check(f); err != nil {
		return fmt.Errorf("apply a flush of shard %d: %w: %w", f.Shard, ErrBadFlush, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.Books != s.state.Books {
		return spend.ErrOtherBooks
	}
	if s.fences(f) {
		return spend.ErrFenced
	}
	if len(f.Facts) > 0 {
		d, err := s.decide(f)
		if err != nil {
			return fmt.Errorf("apply a flush of shard %d: %w", f.Shard, err)
		}
		f = d.Flush
	}
	s.moveMarks(f)
	s.addRows(f)
	for _, b := range f.Quarantine {
		s.setAside(b)
	}
	s.state.Changes[f.Shard]++
	return nil
}

// fences says whether a claim of the flush doesn't fit, or a batch found isn't missing. Nothing can
// be booked by hand here, so that no flush covers such a batch. The caller must hold the lock.
func (s *Store) fences(f *spend.Flush) bool {
	for _, c := range f.Claims {
		p, known := s.state.Producers[ProducerKey{f.Shard, c.Producer}]
		pruned := !known && c.Producer.Born().Before(s.state.Horizons[f.Shard])
		if p.Mark.Sequence != c.First-1 || p.Mark.Digest != c.Prior || pruned {
			return true
		}
	}
	for _, b := range f.Found {
		if !s.state.Producers[ProducerKey{f.Shard, b.Producer}].Mark.Lacks(b.Sequence) {
			return true
		}
	}
	return len(f.ByHand) > 0
}

// moveMarks moves the marks of the producers. The caller must hold the lock.
func (s *Store) moveMarks(f *spend.Flush) {
	now := s.now()
	for _, c := range f.Claims {
		key := ProducerKey{f.Shard, c.Producer}
		p := s.state.Producers[key]
		p.Mark.Sequence, p.Mark.Digest, p.Mark.Recent = c.Last, c.Digest, slices.Clone(c.Recent)
		p.Mark.Updates, p.Mark.Amount = c.SealedUpdates, c.SealedAmount
		p.Updates, p.Amount = p.Updates+c.Updates, p.Amount.Add(c.Amount)
		p.Duplicates, p.Conflicts = p.Duplicates.Plus(c.Duplicates), p.Conflicts.Plus(c.Conflicts)
		p.saw(now)
		s.state.Producers[key] = p
	}
	for _, b := range f.Found {
		key := ProducerKey{f.Shard, b.Producer}
		p := s.state.Producers[key]
		p.Mark.Lost = withoutLost(p.Mark.Lost, b.Sequence)
		p.Mark.Quarantined = withoutSequence(p.Mark.Quarantined, b.Sequence)
		p.Mark.Recent = p.Mark.Recent.Found(p.Mark.Sequence, &b)
		p.Updates, p.Amount = p.Updates+b.Updates, p.Amount.Add(b.Amount)
		p.Duplicates, p.Conflicts = p.Duplicates.Plus(b.Duplicates), p.Conflicts.Plus(b.Conflicts)
		p.saw(now)
		s.state.Producers[key] = p
	}
	for _, l := range f.Lost {
		key := ProducerKey{f.Shard, l.Producer}
		p := s.state.Producers[key]
		p.Mark.Lost = withLost(p.Mark.Lost, spend.SequenceRange{First: l.First, Last: l.Last})
		if l.Quarantined {
			p.Mark.Quarantined = withSequence(p.Mark.Quarantined, l.First)
		}
		s.state.Producers[key] = p
	}
}

// addRows adds the rows of the flush to those that there are. The caller must hold the lock.
func (s *Store) addRows(f *spend.Flush) {
	for i := range f.Totals {
		row := &f.Totals[i]
		sum := s.state.Totals[row.Entity]
		sum.Add(&row.Counters)
		s.state.Totals[row.Entity] = sum
	}
	for i := range f.Rollups {
		row := &f.Rollups[i]
		key := RollupKey{row.Hour, row.Key}
		rollup, known := s.state.Rollups[key]
		if !known {
			rollup.Series = row.Series()
		}
		rollup.Counters.Add(&row.Counters)
		s.state.Rollups[key] = rollup
		s.sum.Add(&row.Counters)
	}
}

// These return new slices: snapshots share those before.

// withLost returns the ranges with one more, in order. Ranges that meet become one.
func withLost(ranges []spend.SequenceRange, add spend.SequenceRange) (all []spend.SequenceRange) {
	sorted := append(slices.Clone(ranges), add)
	slices.SortFunc(sorted, func(a, b spend.SequenceRange) int { return cmp.Compare(a.First, b.First) })
	for _, r := range sorted {
		if n := len(all); n > 0 && r.First <= all[n-1].Last+1 {
			all[n-1].Last = max(all[n-1].Last, r.Last)
		} else {
			all = append(all, r)
		}
	}
	return all
}

// withoutLost returns the ranges without one sequence.
func withoutLost(ranges []spend.SequenceRange, sequence uint64) (left []spend.SequenceRange) {
	for _, r := range ranges {
		if sequence < r.First || r.Last < sequence {
			left = append(left, r)
			continue
		}
		for _, part := range []spend.SequenceRange{{First: r.First, Last: sequence - 1}, {First: sequence + 1, Last: r.Last}} {
			if part.First <= part.Last {
				left = append(left, part)
			}
		}
	}
	return left
}

func withSequence(sequences []uint64, add uint64) []uint64 {
	all := append(slices.Clone(sequences), add)
	slices.Sort(all)
	return slices.Compact(all)
}

func withoutSequence(sequences []uint64, gone uint64) []uint64 {
	return slices.DeleteFunc(slices.Clone(sequences), func(s uint64) bool { return s == gone })
}
