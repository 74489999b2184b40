package spendflush

import (
	"fmt"
	"slices"
	"strings"
)

// checkAll says what is wrong with an update in the end.
func (s *simulator) checkAll(u *simUpdate) string {
	if n := s.times(u); n > 0 {
		if n > 1 {
			return fmt.Sprintf("it is in the books %d times", n)
		}
		if rival := s.rival(u); rival != nil {
			return fmt.Sprintf("it is in the books, and so is update %d of another content under its id", rival.number)
		}
		return ""
	}
	if s.isConflict(u) {
		if s.rival(u) == nil {
			return "it is in conflict with nothing"
		}
		return ""
	}
	if u.named {
		return s.checkNamed(u)
	}
	living := slices.ContainsFunc(u.runs, func(run *simRun) bool { return run.in != nil })
	var why []string
	for _, b := range u.batches {
		missing := s.whyNot(u, b, living)
		if missing == "" {
			return ""
		}
		why = append(why, missing)
	}
	if !living && u.stage < Queued && !s.rules.exact {
		return ""
	}
	return fmt.Sprintf("it is missing (living: %t, acknowledged: %s): %s", living, u.stage, strings.Join(why, "; "))
}

// whyNot says what is wrong with a batch that isn't in the books, "" if it may be missing.
func (s *simulator) whyNot(u *simUpdate, b *simSealed, living bool) string {
	run := s.byID[b.Producer]
	quarantined := s.isQuarantined(b)
	switch {
	case s.rules.exact:
	case b.gone:
		s.tally.gone++
		return ""
	case quarantined && (u.poison || s.sharesPoison(b) || !living || s.isPruned(b) || run.cloned):
		return ""
	case !living && (b.frail || b.torn):
		s.tally.frail++
		return ""
	}
	mark := b.deployment.store.mark(b.Shard, b.Producer)
	return fmt.Sprintf("%s of process %d, quarantined: %t, mark: %+v", s.name(b.Batch), run.number, quarantined, mark)
}

func (s *simulator) sharesPoison(b *simSealed) bool {
	return slices.ContainsFunc(b.updates, func(u *simUpdate) bool { return u.poison })
}

// isPruned says whether the mark of the producer was pruned, so that it can't be told what was
// applied of it. A Postgres that is turned back knows nothing of that any more.
func (s *simulator) isPruned(b *simSealed) bool {
	return b.pruned || b.deployment.store.marks(b.Shard, b.Producer).Pruned(b.Producer)
}
