package spendflush

import "github.com/spendflush/spendflush/spend"

// Callers that give an id to two things: the books have one of them, whatever goes wrong, and the
// other one is refused at once or goes to quarantine.

// simClaim is one content under an id.
type simClaim struct {
	id      spend.FactID
	updates []*simUpdate
}

// claim notes what a call says under its key, or under the ids of its updates.
func (s *simulator) claim(call *simCall) {
	if len(call.updates) == 0 {
		return
	}
	s.named = append(s.named, call)
	note := func(id spend.FactID, updates []*simUpdate) {
		claim := &simClaim{id, updates}
		s.claims[id] = append(s.claims[id], claim)
		for _, u := range updates {
			u.named, u.claim = true, claim
		}
	}
	if call.key != "" {
		note(spend.NewFactID(spend.RequestFact, call.key), call.updates)
		return
	}
	for i, u := range call.updates {
		note(spend.NewFactID(spend.UpdateFact, u.ID), call.updates[i:i+1])
	}
}

// claimAgain gives a call the key, or the ids, of one that was made before. It says whether there
// was one like it.
func (s *simulator) claimAgain(call *simCall) bool {
	last := s.named[max(0, len(s.named)-12):]
	if len(last) == 0 {
		return false
	}
	before := last[s.r.IntN(len(last))]
	if len(before.updates) != len(call.updates) || before.updates[0].deployment != call.updates[0].deployment {
		return false
	}
	call.key = before.key
	for i, u := range call.updates {
		u.ID = before.updates[i].ID
	}
	s.note("update %d and others have the ids of update %d and others", call.updates[0].number, before.updates[0].number)
	s.claim(&simCall{key: call.key, updates: call.updates})
	return true
}

// rival returns an update in the books that another content than that of u has under its id, nil if
// there is none.
func (s *simulator) rival(u *simUpdate) *simUpdate {
	if u.claim == nil {
		return nil
	}
	for _, other := range s.claims[u.claim.id] {
		for _, rival := range other.updates {
			if other != u.claim && s.times(rival) > 0 {
				return rival
			}
		}
	}
	return nil
}

// isConflict says whether the update is in quarantine, because another one has its id.
func (s *simulator) isConflict(u *simUpdate) bool {
	if u.claim == nil || len(s.claims[u.claim.id]) < 2 {
		return false
	}
	for _, conflict := range u.deployment.store.Snapshot().Conflicts {
		rows, err := conflict.Batch.Rows()
		if err != nil {
			s.fail("a conflict can't be read: %v", err)
			return false
		}
		for i := range rows.Rollups {
			if rows.Rollups[i].Series().APIKey == u.APIKey {
				return true
			}
		}
	}
	return false
}
