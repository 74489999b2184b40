package spendflush

import (
	"maps"
	"slices"
	"time"
)

// loseQueue is what FLUSHALL does.
func (s *simulator) loseQueue() {
	lost := slices.Concat(s.queue.entries[0], s.queue.kept[0])
	s.queue.lose()
	clear(s.queue.kept)
	s.lock = simLock{}
	s.note("queue loses everything, %d entries", len(lost))
	s.weaken(lost)
}

// weaken notes what is in danger after the queue has lost these entries.
func (s *simulator) weaken(lost []memoryEntry) {
	for _, e := range lost {
		b := s.sealed(e.Bytes)
		if b != nil && !s.isQueued(b) && !s.onDisk(b) && !s.isKnown(b) {
			b.frail = true
		}
	}
}

// isQueued says whether the queue has the batch, kept or not.
func (s *simulator) isQueued(b *simSealed) bool {
	return s.isIn(s.queue.entries[0], b) || s.isIn(s.queue.kept[0], b)
}

func (s *simulator) isIn(entries []memoryEntry, b *simSealed) bool {
	for _, e := range entries {
		if string(e.Bytes) == string(b.bytes) {
			return true
		}
	}
	return false
}

func (s *simulator) onDisk(b *simSealed) bool {
	return slices.Contains(s.disks[s.byID[b.Producer].slot].batches, b.Batch)
}

// harmQueue does what a queue may do to its entries.
func (s *simulator) harmQueue() {
	entries := s.queue.entries[0]
	harm := s.r.IntN(8)
	if harm == 0 {
		s.loseQueue()
	}
	if len(entries) == 0 {
		return
	}
	i := s.r.IntN(len(entries))
	e := entries[i]
	switch harm {
	case 1, 2: // as a replica promoted does that didn't have the last ones yet
		s.note("queue loses its last %d entries", len(entries)-i)
		s.queue.entries[0] = slices.Clone(entries[:i])
		s.weaken(entries[i:])
	case 3:
		s.note("queue loses entry %s", e.ID)
		s.queue.entries[0] = slices.Delete(slices.Clone(entries), i, i+1)
		s.weaken([]memoryEntry{e})
	case 4, 5:
		again := s.queue.insert(0, slices.Clone(e.Bytes))
		s.spoiled[again] = s.spoiled[e.ID]
		s.note("entry %s is there again as %s", e.ID, again)
	case 6:
		b := s.sealed(e.Bytes)
		if b == nil {
			return
		}
		s.note("a bit of entry %s is flipped", e.ID)
		s.spoiled[e.ID] = b
		whole := memoryEntry{Entry{e.ID, slices.Clone(e.Bytes)}, e.at}
		e.Bytes[s.r.IntN(len(e.Bytes))] ^= 1 << s.r.IntN(8)
		s.weaken([]memoryEntry{whole})
	case 7:
		s.note("queue forgets the marks of producers")
		maps.DeleteFunc(s.queue.marks, func(id ProducerID, _ map[int]uint64) bool { return id != booksMark })
	}
}

// simPast is what Postgres was at a time.
type simPast struct {
	state      memoryState
	quarantine map[string]BadBatch
	at         time.Time
}

func (s *simulator) snapshot() {
	s.note("Postgres is backed up")
	s.past = append(s.past[max(0, len(s.past)-2):], simPast{s.store.snapshot(), maps.Clone(s.store.quarantine), s.now})
}

// turnBack turns Postgres back to one of the last snapshots, within the window if there is one.
func (s *simulator) turnBack() {
	if len(s.past) == 0 {
		return
	}
	to := s.past[s.r.IntN(len(s.past))]
	if s.rules.window > 0 && s.now.Sub(to.at) > s.rules.window/2 {
		return
	}
	quiet := s.rules.restores == simTurnedBackQuietly
	if quiet {
		s.quieten()
	}
	s.tally.restores++
	var known []*simSealed
	for _, run := range s.runs {
		for _, b := range run.batches {
			if s.isKnown(b) {
				known = append(known, b)
			}
		}
	}
	updates := s.store.state.books.updates
	s.store.rewind(to.state)
	s.store.quarantine = maps.Clone(to.quarantine)
	noticed := quiet && s.rules.window > 0
	for _, in := range s.instances {
		noticed = noticed && (in == nil || in.books.atLeast() > s.store.state.books.updates)
	}
	s.past = slices.DeleteFunc(s.past, func(p simPast) bool { return p.at.After(to.at) })
	s.note("Postgres is turned back by %s, from %d updates to %d", s.now.Sub(to.at), updates, s.store.state.books.updates)
	for _, run := range s.runs {
		run.mark = max(s.store.state.marks[0][run.id].Sequence, s.store.state.folded[0][run.id].Sequence)
	}
	for _, b := range known {
		if !s.isKnown(b) {
			s.expose(b, quiet, noticed)
		}
	}
}

// expose notes in what danger a batch is that Postgres had before it was turned back. Without a window it may be gone for
// good. With one its producer brings it back while it lives. After its death that is up to the queue and the journal,
// which only have it for sure if no flusher settles, and nobody has the journal forget, what it believes to be committed
// by what it read before; and the queue puts it back only if everybody is about to notice. If some don't know how many
// updates there were, the books can grow again before the others look.
func (s *simulator) expose(b *simSealed, quiet, noticed bool) {
	run := s.byID[b.Producer]
	inWindow := s.rules.window > 0 && run.in != nil && b.Sequence > run.in.window.dropped()
	waits := quiet && s.rules.window > 0 && (s.isIn(s.queue.entries[0], b) || s.onDisk(b))
	kept := noticed && s.isIn(s.queue.kept[0], b)
	switch {
	case !inWindow && !waits && !kept:
		b.gone = true
		s.note("batch %d of producer %d may be gone", b.Sequence, run.number)
	case !quiet:
		b.torn = true
	case !waits && !kept:
		b.frail = true
	}
}

// hide notes that a process which can't know how many updates there were is about to add some. If Postgres was turned back
// and nobody else is left who knows, that can make up for what is missing before anybody notices, and then nobody has the
// queue put back what it keeps.
func (s *simulator) hide() {
	if published, _ := s.queue.Mark(simCtx, 0, booksMark); int64(published) <= s.store.state.books.updates {
		return
	}
	for _, e := range s.queue.kept[0] {
		if b := s.sealed(e.Bytes); b != nil && !s.isKnown(b) {
			b.torn = true
		}
	}
}

// quieten is the time that Postgres is away before it is there again in an earlier state: every call that is under way
// ends, every walk and every reading with it, and everybody has read the number of updates that was published.
func (s *simulator) quieten() {
	calm, back := s.calm, s.postgresBack
	s.calm, s.postgresBack = true, s.steps+1
	s.runLate()
	all := slices.DeleteFunc(slices.Clone(s.instances), func(in *simInstance) bool { return in == nil })
	for _, in := range all {
		in.frozen = 0
		for i := 0; i < len(in.actors) && !in.doomed; i++ {
			if !in.actors[i].idling {
				s.run(in.actors[i], simRound)
			}
		}
	}
	s.runLate() // of those that had just given up
	for _, in := range all {
		if s.rules.window > 0 {
			s.run(in.actors[len(in.actors)-1], simRound) // its watch
		}
	}
	s.runLate()
	s.calm, s.postgresBack = calm, back
}

func (s *simulator) runLate() {
	for _, do := range s.late {
		do()
	}
	s.late = nil
}

// passMonth lets time pass in which marks are cleaned up. Whoever lives and isn't cut off keeps its own.
func (s *simulator) passMonth() {
	s.note("a month passes")
	s.tally.months++
	for range 4 {
		s.now = s.now.Add(8 * 24 * time.Hour)
		for _, in := range s.instances {
			if in != nil && s.steps >= in.frozen && !s.isDown(simPostgres) {
				s.store.Tend(simCtx, in.run.id, 1, markRetention)
			}
		}
	}
}
