package spendflush

import (
	"slices"
	"time"
)

// loseQueue is what FLUSHALL does.
func (s *simulator) loseQueue() {
	var lost []memoryEntry
	for shard := range simShards {
		lost = slices.Concat(lost, s.queue.entries[shard], s.queue.kept[shard])
	}
	s.queue.lose()
	for name, lock := range s.locks {
		if name[:5] == "flush" {
			*lock = simLock{}
		}
	}
	s.note("queue loses everything, %d entries", len(lost))
	s.weaken(lost)
	if s.r.IntN(2) == 0 && s.faults == nil {
		s.queue.next = 0 // ids come again
	}
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
	return s.isIn(s.queue.entries[b.Shard], b) || s.isIn(s.queue.kept[b.Shard], b)
}

func (s *simulator) isIn(entries []memoryEntry, b *simSealed) bool {
	for _, e := range entries {
		if s.is(b, e.Bytes) {
			return true
		}
	}
	return false
}

// is says whether these are the bytes of the batch, whether or not it knew its books when it was sealed.
func (s *simulator) is(b *simSealed, bytes []byte) bool {
	return string(bytes) == string(b.bytes) || b.Books.IsZero() && string(bytes) == string(b.forBooks(s.store.id, &BatchKeys{}).bytes)
}

func (s *simulator) onDisk(b *simSealed) bool {
	for _, disk := range s.disks {
		if slices.ContainsFunc(disk.batches, func(other *Batch) bool { return other.Digest() == b.Digest() }) {
			return true
		}
	}
	return false
}

// harmQueue does what a queue may do to its entries.
func (s *simulator) harmQueue() {
	shard := 0
	if s.rules.shards > 1 {
		shard = s.r.IntN(s.rules.shards)
	}
	entries := s.queue.entries[shard]
	harm := s.r.IntN(8)
	if harm == 0 {
		s.loseQueue()
	}
	if len(entries) == 0 || harm == 0 {
		return
	}
	i := s.r.IntN(len(entries))
	e := entries[i]
	switch harm {
	case 1, 2: // as a replica promoted does that didn't have the last ones yet
		s.note("queue loses its last %d entries", len(entries)-i)
		s.queue.entries[shard] = slices.Clone(entries[:i])
		s.weaken(entries[i:])
	case 3:
		s.note("queue loses entry %s", e.ID)
		s.queue.entries[shard] = slices.Delete(slices.Clone(entries), i, i+1)
		s.weaken([]memoryEntry{e})
	case 4, 5:
		again := s.queue.insert(shard, slices.Clone(e.Bytes))
		s.spoiled[again] = s.spoiled[e.ID]
		s.note("entry %s is there again as %s", e.ID, again)
	case 6:
		b := s.sealed(e.Bytes)
		if b == nil {
			return
		}
		s.note("a bit of entry %s is flipped", e.ID)
		s.spoiled[e.ID] = b
		whole := memoryEntry{Entry{e.ID, slices.Clone(e.Bytes), ""}, e.at}
		e.Bytes[s.r.IntN(len(e.Bytes))] ^= 1 << s.r.IntN(8)
		s.weaken([]memoryEntry{whole})
	case 7:
		s.note("queue forgets the marks of producers")
		clear(s.queue.marks)
	}
}

// simPast is what Postgres was at a time.
type simPast struct {
	state memoryState
	at    time.Time
}

func (s *simulator) snapshot() {
	s.note("Postgres is backed up")
	s.past = append(s.past[max(0, len(s.past)-2):], simPast{s.store.snapshot(), s.now})
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
	for _, b := range s.inOrder() {
		if s.isKnown(b) {
			known = append(known, b)
		}
	}
	updates := s.store.state.books.updates
	s.store.rewind(to.state)
	s.past = slices.DeleteFunc(s.past, func(p simPast) bool { return p.at.After(to.at) })
	s.note("Postgres is turned back by %s, from %d updates to %d", s.now.Sub(to.at), updates, s.store.state.books.updates)
	for _, b := range known {
		if !s.isKnown(b) {
			s.expose(b, quiet, quiet && s.willBeNoticed(b.Shard))
		}
	}
}

// turnBackBehind lets a process commit all that it has, end, and Postgres be turned back behind that, before any other
// process has looked.
func (s *simulator) turnBackBehind(in *simInstance) {
	s.snapshot()
	for range 5 {
		for i := 0; i < len(in.actors) && !in.dead; i++ {
			s.run(in.actors[i], simRound)
		}
	}
	if !in.dead && len(in.receipts) == 0 && in.isRetained() {
		s.kill(in)
		s.turnBack()
	}
}

// inOrder returns the batches in the order in which their updates were recorded.
func (s *simulator) inOrder() (batches []*simSealed) {
	for _, u := range s.updates {
		for _, b := range u.batches {
			if b.updates[0] == u {
				batches = append(batches, b)
			}
		}
	}
	return batches
}

// willBeNoticed says whether all processes are about to notice that the shard was turned back: they look at what is
// published before they add anything, but for those without a queue.
func (s *simulator) willBeNoticed(shard int) bool {
	changes := s.store.state.changes[shard]
	for _, in := range s.instances {
		if in != nil && in.knows[shard] <= changes && in.p.cfg.Queue == nil {
			return false
		}
	}
	return s.rules.window > 0 && s.queue.booked[shard] > changes && !s.rules.queueless
}

// expose notes in what danger a batch is that Postgres had before it was turned back. Without a window it may be gone for
// good. With one its producer brings it back while it lives. After its death that is up to the queue and the journal,
// which only have it for sure if no flusher acks, and no journal forgets, what it believes to be committed by what it
// read before; and the queue puts it back only if all are about to notice. If some don't know how many updates there
// were, the books can grow again before the others look.
func (s *simulator) expose(b *simSealed, quiet, noticed bool) {
	run := s.byID[b.Producer]
	living := s.rules.window > 0 && run.in != nil
	waits := quiet && s.rules.window > 0 && (s.isIn(s.queue.entries[b.Shard], b) || s.onDisk(b))
	kept := noticed && s.isIn(s.queue.kept[b.Shard], b)
	switch {
	case !living && !waits && !kept:
		b.gone = true
		s.note("%s may be gone", s.name(b.Batch))
	case !quiet:
		b.torn = true
	case !waits && !kept:
		b.frail = true
	}
}

// hide notes that a process which perhaps can't know how many changes there were, or can't have the queue put back what it
// retains, is about to add some. If Postgres was turned back and no process is left that knows, that can make up for what is
// missing before it is noticed, and then the queue isn't made to put back what it keeps.
func (s *simulator) hide(shard int) {
	if s.queue.booked[shard] <= s.store.state.changes[shard] {
		return
	}
	for _, e := range s.queue.kept[shard] {
		if b := s.sealed(e.Bytes); b != nil && !s.isKnown(b) {
			b.torn = true
		}
	}
}

// quieten is the time that Postgres is away before it is there again in an earlier state: every call that is under way
// ends, every walk and every reading with it. Some have read the number of changes that was published since, and some not.
func (s *simulator) quieten() {
	calm, back := s.calm, s.postgresBack
	s.calm, s.postgresBack = true, s.steps+1
	s.runLate()
	all := s.living()
	for _, in := range all {
		in.frozen = 0
		for i := 0; i < len(in.actors) && !in.dead; i++ {
			if a := in.actors[i]; !a.atRest() {
				s.run(a, simRound)
			}
		}
	}
	s.runLate() // of those that had just given up
	if s.r.IntN(2) == 0 {
		s.now = s.now.Add(rewindCheck)
		for _, in := range all {
			s.round(in, "watch")
		}
		s.runLate()
	}
	s.calm, s.postgresBack = calm, back
}

func (s *simulator) living() []*simInstance {
	return slices.DeleteFunc(slices.Clone(s.instances), func(in *simInstance) bool { return in == nil })
}

// round lets one actor of the process do all that it does in one round.
func (s *simulator) round(in *simInstance, name string) {
	for i := 0; i < len(in.actors) && !in.dead; i++ {
		if a := in.actors[i]; a.is(name) {
			if !a.atRest() {
				s.run(a, simRound)
			}
			s.run(a, simRound)
		}
	}
}

func (s *simulator) runLate() {
	for _, do := range s.late {
		do()
	}
	s.late = nil
}

// passMonth lets time pass in which marks are pruned. A process that lives and isn't cut off keeps its own.
func (s *simulator) passMonth() {
	s.note("a month passes")
	s.tally.months++
	for range 4 {
		s.now = s.now.Add(8 * 24 * time.Hour)
		for _, in := range s.living() {
			if s.steps >= in.frozen {
				s.round(in, "tending")
			}
		}
	}
}

func (s *simulator) drawSkew() time.Duration {
	return []time.Duration{-simYear, -2 * time.Hour, 2 * time.Hour, simYear}[s.r.IntN(4)]
}

// setClock puts a clock off the right time, or right again.
func (s *simulator) setClock(in *simInstance) {
	skew := time.Duration(0)
	if s.r.IntN(2) == 0 {
		skew = s.drawSkew()
	}
	switch s.r.IntN(3) {
	case 0:
		in.skew = skew
		s.note("the clock of process %d is %s ahead", in.run.number, skew)
	case 1:
		s.queueSkew = skew
		s.note("the clock of the queue is %s ahead", skew)
	case 2:
		s.storeSkew = skew
		s.note("the clock of Postgres is %s ahead", skew)
	}
}
