package spendflush

import (
	"slices"
	"time"

	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/memstore"
)

// loseQueue is what FLUSHALL does.
func (s *simulator) loseQueue() {
	again := s.faults == nil && s.r.IntN(2) == 0
	for name, lock := range s.locks {
		if name.server == simRedis {
			*lock = simLock{}
		}
	}
	for _, d := range s.deployments {
		var lost []spend.Entry
		for shard := range simShards {
			lost = slices.Concat(lost, d.queue.entries(shard), d.queue.retained(shard))
		}
		if again { // ids come again
			d.queue.Clear()
		} else {
			d.queue.lose()
		}
		s.note("queue loses everything of deployment %d, %d entries", d.number, len(lost))
		s.weaken(d, lost)
	}
}

// weaken notes what is in danger after the queue has lost these entries of a deployment.
func (s *simulator) weaken(d *simDeployment, lost []spend.Entry) {
	for _, e := range lost {
		b := s.sealed(e.Bytes)
		if b != nil && b.deployment == d && !s.isQueued(b) && !s.onDisk(b) && !s.isKnown(b) {
			b.frail = true
		}
	}
}

// isQueued says whether the queue has the batch, kept or not.
func (s *simulator) isQueued(b *simSealed) bool {
	entries, retained := b.deployment.queue.Contents(b.Shard)
	return s.isIn(entries, b) || s.isIn(retained, b)
}

func (s *simulator) isIn(entries []spend.Entry, b *simSealed) bool {
	for _, e := range entries {
		if s.is(b, e.Bytes) {
			return true
		}
	}
	return false
}

// is says whether these are the bytes of the batch, whether or not it knew its books when it was
// sealed.
func (s *simulator) is(b *simSealed, bytes []byte) bool {
	return string(bytes) == string(b.Bytes()) || b.Books.IsZero() && string(bytes) == string(b.ForBooks(b.deployment.id, &spend.BatchKeys{}).Bytes())
}

func (s *simulator) onDisk(b *simSealed) bool {
	for _, disk := range s.disks {
		if slices.ContainsFunc(disk.batches, func(other *spend.Batch) bool { return other.Digest() == b.Digest() }) {
			return true
		}
	}
	return false
}

// harmQueue does what a queue may do to its entries.
func (s *simulator) harmQueue(d *simDeployment) {
	shard := 0
	if s.rules.shards > 1 {
		shard = s.r.IntN(s.rules.shards)
	}
	entries := d.queue.entries(shard)
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
		d.lose(shard, entries[i:])
		s.weaken(d, entries[i:])
	case 3:
		s.note("queue loses entry %s", e.ID)
		d.lose(shard, entries[i:i+1])
		s.weaken(d, entries[i:i+1])
	case 4, 5:
		again := d.queue.Insert(shard, e.Bytes)
		d.spoiled[again] = d.spoiled[e.ID]
		s.note("entry %s is there again as %s", e.ID, again)
	case 6:
		b := s.sealed(e.Bytes)
		if b == nil || b.deployment != d {
			return
		}
		s.note("a bit of entry %s is flipped", e.ID)
		d.spoiled[e.ID] = b
		whole := spend.Entry{ID: e.ID, Bytes: slices.Clone(e.Bytes)}
		e.Bytes[s.r.IntN(len(e.Bytes))] ^= 1 << s.r.IntN(8)
		s.weaken(d, []spend.Entry{whole})
	case 7:
		s.note("queue forgets the marks of producers")
		d.queue.DropMarks()
	}
}

// lose has the queue lose entries.
func (d *simDeployment) lose(shard int, entries []spend.Entry) {
	for _, e := range entries {
		d.queue.Lose(shard, e.ID)
	}
}

// simPast is what Postgres was at a time.
type simPast struct {
	state  memstore.Snapshot
	ledger simLedger
	at     time.Time
}

func (s *simulator) snapshot(d *simDeployment) {
	s.note("Postgres of deployment %d is backed up", d.number)
	d.past = append(d.past[max(0, len(d.past)-2):], simPast{d.store.Snapshot(), d.ledger.clone(), s.now})
}

// turnBack turns Postgres back to one of the last snapshots, within the window if there is one.
func (s *simulator) turnBack(d *simDeployment) {
	if len(d.past) == 0 {
		return
	}
	to := d.past[s.r.IntN(len(d.past))]
	if s.rules.window > 0 && s.now.Sub(to.at) > s.rules.window/2 {
		return
	}
	quiet := s.rules.restores == simTurnedBackQuietly
	if quiet {
		s.quieten(d)
	}
	s.tally.restores++
	var known []*simSealed
	for _, b := range s.inOrder(d) {
		if s.isKnown(b) {
			known = append(known, b)
		}
		b.pruned = s.isPruned(b) // a process may have seen it
	}
	updates := d.ledger.updates
	d.store.Restore(to.state)
	d.ledger = to.ledger.clone()
	d.past = slices.DeleteFunc(d.past, func(p simPast) bool { return p.at.After(to.at) })
	s.note("Postgres of deployment %d is turned back by %s, from %d updates to %d", d.number, s.now.Sub(to.at), updates, d.ledger.updates)
	for _, b := range known {
		if !s.isKnown(b) {
			s.expose(b, quiet, quiet && s.willBeNoticed(d, b.Shard))
		}
	}
}

// turnBackBehind lets a process commit all that it has, end, and Postgres be turned back behind
// that, before any other process has looked.
func (s *simulator) turnBackBehind(in *simInstance) {
	s.snapshot(in.deployment)
	for range 5 {
		for i := 0; i < len(in.actors) && !in.dead; i++ {
			s.run(in.actors[i], simRound)
		}
	}
	if !in.dead && len(in.receipts) == 0 && in.isRetained() {
		s.kill(in)
		s.turnBack(in.deployment)
	}
}

// inOrder returns the batches of a deployment in the order in which their updates were recorded.
func (s *simulator) inOrder(d *simDeployment) (batches []*simSealed) {
	for _, u := range s.updates {
		for _, b := range u.batches {
			if b.updates[0] == u && b.deployment == d {
				batches = append(batches, b)
			}
		}
	}
	return batches
}

// willBeNoticed says whether all processes of the deployment are about to notice that the shard was
// turned back: they look at what is published before they add anything, but for those without a
// queue.
func (s *simulator) willBeNoticed(d *simDeployment, shard int) bool {
	changes := d.store.changes(shard)
	for _, in := range s.livingOf(d) {
		if in.knows[shard] <= changes && in.p.cfg.Queue == nil {
			return false
		}
	}
	return s.rules.window > 0 && d.queue.booked(shard) > changes && !s.rules.queueless
}

// expose notes in what danger a batch is that Postgres had before it was turned back. Without a
// window it may be gone for good. With one its producer brings it back while it lives. After its
// death that is up to the queue and the journal, which only have it for sure if no flusher acks,
// and no journal forgets, what it believes to be committed by what it read before; and the queue
// puts it back only if all are about to notice. If some don't know how many updates there were, the
// books can grow again before the others look.
func (s *simulator) expose(b *simSealed, quiet, noticed bool) {
	run := s.byID[b.Producer]
	living := s.rules.window > 0 && run.in != nil
	waits := quiet && s.rules.window > 0 && (s.isIn(b.deployment.queue.entries(b.Shard), b) || s.onDisk(b))
	kept := noticed && s.isIn(b.deployment.queue.retained(b.Shard), b)
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

// hide notes that a process which perhaps can't know how many changes there were, or can't have the
// queue put back what it retains, is about to add some. If Postgres was turned back and no process
// is left that knows, that can make up for what is missing before it is noticed, and then the queue
// isn't made to put back what it keeps.
func (s *simulator) hide(d *simDeployment, shard int) {
	if d.queue.booked(shard) <= d.store.changes(shard) {
		return
	}
	for _, e := range d.queue.retained(shard) {
		if b := s.sealed(e.Bytes); b != nil && b.deployment == d && !s.isKnown(b) {
			b.torn = true
		}
	}
}

// quieten is the time that the Postgres of a deployment is away before it is there again in an
// earlier state: every call that is under way ends, every walk and every reading with it. Some have
// read the number of changes that was published since, and some not.
func (s *simulator) quieten(d *simDeployment) {
	calm, back := s.calm, d.postgresBack
	s.calm, d.postgresBack = true, s.steps+1
	s.runLate()
	all := s.livingOf(d)
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
	s.calm, d.postgresBack = calm, back
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

// passMonth lets time pass in which marks are pruned. A process that lives and isn't cut off keeps
// its own.
func (s *simulator) passMonth() {
	s.note("a month passes")
	s.tally.months++
	for range 4 {
		s.now = s.now.Add(8 * 24 * time.Hour)
		for _, in := range s.living() {
			if s.steps >= in.frozen {
				s.round(in, "touching marks")
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
