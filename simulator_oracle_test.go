package spendflush

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/memstore"
)

// simRun is a process, living or dead, and all that it ever sealed.
type simRun struct {
	number     int
	id         spend.ProducerID
	slot       int
	deployment *simDeployment // nil: of none, a stranger
	shards     int
	skew       time.Duration
	of         *simRun      // the one that it is a clone of
	cloned     bool         // there is, or was, another process of the same identity
	in         *simInstance // nil once it has died
	seals      []simSeal
	seen       [simShards]spend.Digest // the newest batch of each shard, as the simulator knows

	identities int // that it has had

	pending []*simCall // recorded since the last seal
}

// simSeal is what a process has sealed at once.
type simSeal struct {
	at    time.Time
	calls []*simCall
}

// simUpdate is an update of a series of its own. So the books tell how often it is in them.
type simUpdate struct {
	spend.Update
	number     int
	deployment *simDeployment
	entity     spend.Entity
	accepted   bool
	poison     bool
	stage      Stage     // what was acknowledged
	runs       []*simRun // the processes that have it: one, and its clones, and with an id those that it was told to again
	hours      []spend.Hour
	named      bool // it has an id, or its call has a key
	claim      *simClaim
	batches    []*simSealed
}

// simSealed is a batch, and what the simulator knows of it.
type simSealed struct {
	*spend.Batch
	deployment *simDeployment
	updates    []*simUpdate
	runs       []*simRun // the processes that have sealed it: one, and its clones
	acked      bool      // with ids: a process has acknowledged it
	safe       bool      // it was in the queue or in a journal
	booked     bool      // it was in the books
	pruned     bool      // the mark of its producer was pruned in a Postgres that was turned back since

	// frail: it may be missing once its producer is dead, because the queue was made to lose it.
	// torn: so does a Postgres that was turned back while a flush was under way. Pushing it again
	// doesn't help. gone: it may be missing in any case, because Postgres was turned back beyond
	// what is kept.
	frail, torn, gone bool
}

// newUpdate makes an update that is like no other.
func (s *simulator) newUpdate(of *simDeployment) *simUpdate {
	n := len(s.updates)
	x := (s.seed+uint64(n)+1)*0x9e3779b97f4a7c15 + 1
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	x ^= x >> 31
	u := &simUpdate{number: n, deployment: of, poison: s.rules.poison && x>>50&15 == 0}
	u.Update = spend.Update{
		Cost:   spend.Cost{Spend: spend.Picodollars(1 + int64(x>>8&0xffffffff)), Status: spend.Status(x >> 40 & 1), PromptTokens: int64(x >> 44 & 7)},
		Series: spend.Series{APIKey: fmt.Sprint("key", n), TeamID: fmt.Sprint("team", x%3)},
	}
	if u.poison {
		u.AgentID = "poison"
	}
	u.entity = spend.Entity{Type: spend.APIKey, ID: u.APIKey}
	s.updates = append(s.updates, u)
	return u
}

// updateOf returns the update that a row is of.
func (s *simulator) updateOf(key string) *simUpdate {
	n := 0
	fmt.Sscanf(key, "key%d", &n)
	return s.updates[n]
}

// noteSealed takes note of batches that the instance has sealed.
func (in *simInstance) noteSealed() {
	for shard := range in.p.cfg.Shards {
		batches := in.p.sealedBatches(shard)
		if len(batches) == 0 || in.run.seen[shard] == batches[len(batches)-1].Digest() {
			continue
		}
		in.run.seen[shard] = batches[len(batches)-1].Digest()
		for _, b := range batches {
			if in.s.batches[b.Digest()] == nil {
				in.s.noteBatch(in.run, b)
			}
			in.s.batches[b.Digest()].sealedBy(in.run)
		}
	}
}

func (s *simulator) noteBatch(run *simRun, b *spend.Batch) {
	sealed := &simSealed{Batch: b, deployment: run.deployment}
	s.batches[b.Digest()] = sealed
	rows, err := b.Rows()
	if err != nil {
		s.fail("%s can't be read: %v", s.name(b), err)
		return
	}
	for i := range rows.Rollups {
		u := s.updateOf(rows.Rollups[i].Series().APIKey)
		u.batches, sealed.updates = append(u.batches, sealed), append(sealed.updates, u)
	}
	s.note("process %d: seals %s with %s", run.number, s.name(b), b.Amount)
}

func (s *simulator) name(b *spend.Batch) string {
	digest := b.Digest()
	return fmt.Sprintf("batch %d/%d/%d/%x", s.byID[b.Producer].number, b.Shard, b.Sequence, digest[:2])
}

// times says how often the update is in the books.
func (s *simulator) times(u *simUpdate) int64 {
	c := u.deployment.store.Total(u.entity)
	return c.APIRequests()
}

// has says whether a batch is in the books. Its updates are, all or none.
func (s *simulator) has(b *simSealed) bool {
	if is, known := s.isBooked(b); known {
		return is
	}
	for _, u := range b.updates {
		if s.times(u) == 0 && !s.isConflict(u) {
			return false
		}
	}
	return true
}

func (s *simulator) isQuarantined(b *simSealed) bool {
	bytes := b.ForBooks(b.deployment.id, &spend.BatchKeys{}).Bytes() // it may have been sealed before its books were known
	return b.deployment.ledger.quarantined[string(bytes)]
}

// isSetAside says whether what the process has sealed of the update is in quarantine, whole, or
// gone.
func (s *simulator) isSetAside(u *simUpdate, run *simRun) bool {
	return s.isConflict(u) || slices.ContainsFunc(s.batchesOf(u, run), func(b *simSealed) bool { return b.gone || s.isQuarantined(b) })
}

// isKnown says whether Postgres has a batch, in the books or in quarantine.
func (s *simulator) isKnown(b *simSealed) bool { return s.has(b) || s.isQuarantined(b) }

// sealed returns the batch that these bytes are, nil if they aren't one any more.
func (s *simulator) sealed(bytes []byte) *simSealed {
	b, err := spend.ParseBatch(bytes)
	if err != nil {
		return nil
	}
	return s.batches[b.Digest()]
}

// keptSafe notes that a batch is where it survives its process.
func (s *simulator) keptSafe(b *spend.Batch) *simSealed {
	sealed := s.batches[b.Digest()]
	if sealed == nil {
		s.fail("%s was never sealed", s.name(b))
		return &simSealed{Batch: b, deployment: s.byID[b.Producer].deployment}
	}
	sealed.safe = true
	return sealed
}

// quarantined notes which batches are in quarantine, whole. One that is set aside as of other books
// was in their queue.
func (s *simulator) quarantined(bad []spend.BadBatch) {
	for _, b := range bad {
		if sealed := s.sealed(b.Bytes); sealed != nil {
			sealed.safe = true
		}
	}
}

// pushed notes that an entry with the batch is in the queue.
func (s *simulator) pushed(b *spend.Batch) {
	if sealed := s.keptSafe(b); sealed.frail && s.isQueued(sealed) {
		sealed.frail = false
	}
}

// acknowledge sees that what a process says of its updates is true.
func (s *simulator) acknowledge(run *simRun, r *simReceipt, stage Stage) {
	s.note("process %d: %d updates from %d are %s", run.number, len(r.updates), r.updates[0].number, stage)
	for i, u := range r.updates {
		safe, booked := false, false
		batches := s.batchesOf(u, run)
		if u.named {
			from := min(r.from[i], len(batches))
			batches = batches[from:min(from+1, len(batches))]
			for _, b := range batches {
				b.acked = true
			}
		}
		for _, b := range batches {
			safe, booked = safe || b.safe || b.booked, booked || b.booked
		}
		switch {
		case stage == Committed && !booked:
			s.fail("process %d says that update %d is committed, and it never was", run.number, u.number)
		case stage == Queued && !safe:
			s.fail("process %d says that update %d is queued, and it never was", run.number, u.number)
		}
		u.stage = max(u.stage, stage)
	}
}

func (s *simulator) isPoisoned(f *spend.Flush) bool {
	return slices.ContainsFunc(f.Totals, func(t spend.TotalRow) bool { return t.Entity.ID == "poison" })
}

// applied sees that a flush which a deployment has committed claims what was sealed there, and that
// its books are what the marks say. booked is what was left of it once repeats were taken out.
func (s *simulator) applied(d *simDeployment, f, booked *spend.Flush) {
	d.ledger.apply(booked)
	for i := range f.Lost {
		s.tally.skipped += int(f.Lost[i].Len())
	}
	s.tally.found += len(f.Found)
	for _, c := range f.Claims {
		s.checkClaim(d, f, c)
	}
	for i := range f.Rollups {
		if key := f.Rollups[i].Series().APIKey; isStrange(key) {
			s.fail("%s is booked, which is of other books", key)
			return
		}
		u := s.updateOf(f.Rollups[i].Series().APIKey)
		if u.deployment != d {
			s.fail("update %d of deployment %d is booked in the books of deployment %d", u.number, u.deployment.number, d.number)
			return
		}
		for _, b := range u.batches {
			b.booked = b.booked || !u.named || hasFacts(f, b)
		}
		if n := s.times(u); n != 1 && !(n == 0 && s.isConflict(u)) {
			s.fail("update %d is in the books %d times", u.number, n)
		}
	}
	s.quarantined(f.Quarantine)
	s.checkSums(d)
}

// checkClaim follows the digests of a claim from its last batch back to the mark.
func (s *simulator) checkClaim(d *simDeployment, f *spend.Flush, c spend.Claim) {
	last := s.batches[c.Digest]
	if last == nil || last.deployment != d || last.Producer != c.Producer || last.Shard != f.Shard || last.Sequence != c.Last {
		s.fail("claim %+v: there is no such last batch", c)
		return
	}
	if c.SealedUpdates != last.PriorUpdates+last.Updates || c.SealedAmount != last.PriorAmount.Add(last.Amount) {
		s.fail("claim %+v: up to the last batch are sealed %d updates of %s", c, last.PriorUpdates+last.Updates, last.PriorAmount.Add(last.Amount))
	}
	var updates int64
	var amount spend.Amount
	digest := c.Digest
	for sequence := c.Last; sequence >= c.First; sequence-- {
		b := s.batches[digest]
		if b == nil {
			s.fail("claim %+v: batch %d was never sealed", c, sequence)
			return
		}
		if !slices.ContainsFunc(f.Lost, func(l spend.LostRange) bool {
			return l.Producer == c.Producer && l.First <= sequence && sequence <= l.Last
		}) {
			updates, amount = updates+b.Updates, amount.Add(b.Amount)
		}
		digest = b.PriorDigest
	}
	if digest != c.Prior && !s.byID[c.Producer].cloned {
		s.fail("claim %+v: its batches don't go on from the mark", c)
	}
	if c.Updates != updates || c.Amount != amount {
		s.fail("claim %+v: these batches have %d updates of %s", c, updates, amount)
	}
}

// checkSums sees that the books are the sum of what was claimed and found.
func (s *simulator) checkSums(d *simDeployment) {
	sum := d.store.Sum()
	if l := &d.ledger; sum.APIRequests() != l.updates || sum.Spend != l.amount {
		s.fail("books have %d updates of %s, claimed and found are %d of %s", sum.APIRequests(), sum.Spend, l.updates, l.amount)
	}
}

// checkAcked sees that nothing is taken out of the queue that is neither in the books nor in
// quarantine.
func (s *simulator) checkAcked(q simQueue, shard int, ids []spend.EntryID) {
	d := q.deployment
	for _, e := range q.keys.entries(shard) {
		if !slices.Contains(ids, e.ID) {
			continue
		}
		quarantined := d.ledger.quarantined[string(e.Bytes)]
		b := s.sealed(e.Bytes)
		if other := s.isOfStrangers(e.Bytes) || b != nil && b.deployment != d; other {
			if !quarantined && s.tally.restores == 0 { // it may have been read before, and Postgres forgets what is in quarantine too
				s.fail("a batch of other books is destroyed by deployment %d: entry %s", d.number, e.ID)
				return
			}
			continue
		}
		if b == nil {
			b = d.spoiled[e.ID]
			if s.tally.restores > 0 {
				continue
			}
		}
		if b != nil && d.spoiled[e.ID] == b && s.is(b, e.Bytes) {
			b.frail = true // its damaged copy was in the same place before a loss, and this one goes for it
			continue
		}
		if quarantined || b != nil && (b.torn || b.gone || s.isKnown(b)) {
			continue
		}
		s.fail("entry %s is acked, and is neither in the books nor in quarantine", e.ID)
	}
}

// checkPruned sees that the journal forgets nothing that Postgres doesn't have.
func (s *simulator) checkPruned(disk *memoryJournal, shard int, producer spend.ProducerID, mark uint64) {
	for _, b := range disk.batches {
		if b.Shard != shard || b.Producer != producer || b.Sequence > mark {
			continue
		}
		if sealed := s.batches[b.Digest()]; !sealed.torn && !sealed.gone && !s.isKnown(sealed) {
			s.fail("the journal forgets %s, which Postgres doesn't have", s.name(b))
		}
	}
}

// checkExpired sees that the queue forgets nothing that Postgres lacks.
func (s *simulator) checkExpired(int, time.Duration) {}

// verdict compares the books with everything that the simulator knows, to the last update.
// Everything is at rest.
func (s *simulator) verdict() string {
	for _, d := range s.deployments {
		if fault := s.verdictOn(d); fault != "" {
			return fault
		}
		s.tally.flushes += int(d.store.flushes.Load())
		s.tally.quarantined += len(d.ledger.quarantined)
	}
	s.tally.schedules++
	s.tally.calls += s.calls
	return ""
}

func (s *simulator) verdictOn(d *simDeployment) string {
	if s.checkSums(d); s.wrong != "" {
		return s.wrong
	}
	if n := len(d.store.quarantined()); n != len(d.ledger.quarantined) {
		return fmt.Sprintf("%d batches are in quarantine, %d were set aside", n, len(d.ledger.quarantined))
	}
	want := newBooks()
	for _, u := range s.updates {
		if !u.accepted || u.deployment != d {
			continue
		}
		if fault := s.checkAll(u); fault != "" {
			return fmt.Sprintf("update %d: %s", u.number, fault)
		}
		if s.times(u) > 0 {
			want.book(&u.Update, d.hourOf(u))
		}
	}
	if fault := s.checkTold(); fault != "" {
		return fault
	}
	if diff := d.store.diff(want); diff != "" {
		return fmt.Sprintf("%s by the updates of deployment %d", diff, d.number)
	}
	return s.checkMarks(d)
}

// checkMarks sees that the books are the sum of what the marks say, and that what these say is lost
// is what is missing of the batches up to them.
func (s *simulator) checkMarks(d *simDeployment) string {
	all := d.store.Snapshot()
	var updates int64
	var amount spend.Amount
	for _, producers := range []map[memstore.ProducerKey]memstore.Producer{all.Producers, all.Pruned} {
		for key, p := range producers {
			updates, amount = updates+p.Updates, amount.Add(p.Amount)
			run := s.byID[key.ID]
			if run.cloned {
				continue // behind a gap, the other one's batches may go on
			}
			lost, lostAmount := p.Mark.Updates-p.Updates-p.Duplicates.Updates-p.Conflicts.Updates,
				p.Mark.Amount.Sub(p.Amount).Sub(p.Duplicates.Amount).Sub(p.Conflicts.Amount)
			for digest := p.Mark.Digest; digest != (spend.Digest{}); digest = s.batches[digest].PriorDigest {
				if b := s.batches[digest]; !p.Mark.Has(b.Sequence) {
					lost, lostAmount = lost-b.Updates, lostAmount.Sub(b.Amount)
				}
			}
			if lost != 0 || lostAmount != (spend.Amount{}) {
				return fmt.Sprintf("the mark of process %d says that %d updates of %s more are lost than are missing", run.number, lost, lostAmount)
			}
		}
	}
	if sum := d.store.Sum(); sum.APIRequests() != updates || sum.Spend != amount {
		return fmt.Sprintf("books have %d updates of %s, the marks say %d of %s", sum.APIRequests(), sum.Spend, updates, amount)
	}
	return ""
}

// describe says in short what a flush does.
func (s *simulator) describe(f *spend.Flush) string {
	var all []string
	for _, c := range f.Claims {
		all = append(all, fmt.Sprintf("%d:%d-%d", s.byID[c.Producer].number, c.First, c.Last))
	}
	for _, l := range f.Lost {
		all = append(all, fmt.Sprintf("%d:%d-%d lost (quarantined: %t)", s.byID[l.Producer].number, l.First, l.Last, l.Quarantined))
	}
	for _, b := range f.Found {
		all = append(all, fmt.Sprintf("%d:%d found", s.byID[b.Producer].number, b.Sequence))
	}
	return fmt.Sprintf("shard %d, %s", f.Shard, strings.Join(all, ", "))
}
