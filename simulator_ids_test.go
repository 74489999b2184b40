package spendflush

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/memstore"
)

// Callers that give ids, and repeat what has some: at the same process or at another one, whatever
// became of the first time.

// simFact is what the simulator knows of an id.
type simFact struct {
	updates int // that have it
	open    int // receipts of it that stand for new updates and aren't final
	told    int // updates that were said to be new
}

func (p simStore) Fact(ctx context.Context, id spend.FactID) (facts []spend.CommittedFact, err error) {
	err = p.call(simPostgres, "look for an id", func() error {
		got, err := p.deployment.store.Fact(simServers, id)
		facts = got
		return err
	})
	return facts, err
}

func (p simStore) Outcomes(ctx context.Context, shard int, producer spend.ProducerID, sequences []uint64) ([]spend.TakenOut, error) {
	sequences = slices.Clone(sequences)
	var taken []spend.TakenOut
	err := p.call(simPostgres, "ask for outcomes", func() error {
		got, err := p.deployment.store.Outcomes(simServers, shard, producer, sequences)
		taken = got
		return err
	})
	if err != nil {
		return nil, err
	}
	return taken, nil
}

// TendFacts forgets nothing: the store's clock may be off, and Postgres doesn't go by it.
func (p simStore) TendFacts(context.Context, time.Duration) error {
	return p.call(simPostgres, "tend ids", func() error { return nil })
}

// newCall makes a call of so many new updates. Of those without a key some have an id.
func (s *simulator) newCall(of *simDeployment, n int) *simCall {
	call := &simCall{at: s.now}
	for range n {
		call.updates = append(call.updates, s.newUpdate(of))
	}
	if !s.rules.ids {
		return call
	}
	again := &simCall{}
	if s.rules.rivals && s.r.IntN(4) == 0 && s.claimAgain(call) {
		return call
	}
	switch s.r.IntN(4) {
	case 0: // no ids
	case 1:
		call.key = fmt.Sprint("call", len(s.updates))
		again.key, again.updates = call.key, call.updates
	default:
		for _, u := range call.updates {
			if s.r.IntN(4) > 0 {
				u.ID = fmt.Sprint("id", u.number)
				again.updates = append(again.updates, u)
			}
		}
	}
	s.claim(again)
	return call
}

// drawRepeat returns a call that was made before, of what has ids in it, nil if there is to be a
// new one. A process that may be cloned gets none again that it had: whether that is sealed depends
// on more than what it was told.
func (s *simulator) drawRepeat(in *simInstance) *simCall {
	if !s.rules.ids || len(s.named) == 0 || s.r.IntN(3) > 0 {
		return nil
	}
	last := s.named[max(0, len(s.named)-12):]
	call := last[s.r.IntN(len(last))]
	if u := call.updates[0]; u.deployment != in.deployment || s.rules.clones && slices.Contains(u.runs, in.run) {
		return nil
	}
	s.tally.repeats++
	s.note("process %d: update %d and others come again", in.run.number, call.updates[0].number)
	return &simCall{key: call.key, updates: call.updates, at: s.now}
}

// noteTaken notes which ids a process has recorded.
func (s *simulator) noteTaken(r Receipt) {
	if r.facts == nil {
		return
	}
	for _, f := range r.facts.own {
		if s.facts[f.id] == nil {
			s.facts[f.id] = &simFact{updates: int(f.updates)}
		}
		s.facts[f.id].open++
	}
	for _, f := range r.facts.repeats {
		s.tally.held += int(f.updates)
	}
}

// checkCounts sees what a process says of the ids of a call.
func (in *simInstance) checkCounts(r *simReceipt, reached Stage) {
	if r.facts == nil || r.told || reached < Committed {
		return
	}
	r.told = true
	s, c := in.s, in.p.Counts(r.Receipt)
	if c.New+c.Duplicates+c.Conflicts != len(r.updates) || c.Conflicts > 0 && !s.rules.rivals || min(c.New, c.Duplicates, c.Conflicts) < 0 {
		s.fail("process %d: %d updates from %d came to %+v", in.run.number, len(r.updates), r.updates[0].number, c)
	}
	if !c.Final {
		return
	}
	for _, f := range r.facts.own {
		fact := s.facts[f.id]
		fact.open--
		fact.told += int(f.updates - f.duplicates - f.conflicts)
		if fact.told > fact.updates && s.tellsOnce() {
			s.fail("process %d: updates of an id are said to be new that another process said were", in.run.number)
		}
	}
}

// tellsOnce says whether each id is new at one process only: no Postgres forgets it, and no process
// has the memory of another one.
func (s *simulator) tellsOnce() bool { return s.tally.restores == 0 && !s.rules.clones }

// checkTold sees that of each id which is in the books some process was told that it is new, unless
// that has died.
func (s *simulator) checkTold() string {
	for id, fact := range s.facts {
		if fact.open == 0 && fact.told != fact.updates && s.tellsOnce() {
			return fmt.Sprintf("%d of %d updates of id %s are said to be new", fact.told, fact.updates, id)
		}
	}
	return ""
}

// recorded returns how many updates of a receipt its process has recorded for it.
func (r *simReceipt) recorded() (n int64) {
	if r.facts == nil {
		return int64(len(r.updates))
	}
	n = int64(len(r.updates))
	for _, f := range r.facts.repeats {
		n -= int64(f.updates)
	}
	return n
}

// sharesSeal says whether something of both is in one seal.
func (r *simReceipt) sharesSeal(other *simReceipt) bool {
	return slices.ContainsFunc(r.seals(), func(seal uint64) bool { return slices.Contains(other.seals(), seal) })
}

func (r *simReceipt) seals() []uint64 {
	if r.facts == nil {
		return []uint64{r.Seal()}
	}
	return r.facts.seals
}

// isUndecided says what the process still has to learn or holds, "" if that is nothing.
func (in *simInstance) isUndecided() string {
	batches, ids := in.undecided()
	if batches+ids == 0 {
		return ""
	}
	return fmt.Sprintf("process %d holds %d ids, and has %d batches of which it doesn't know what they came to", in.run.number, ids, batches)
}

// batchesOf returns the batches of an update that a process has sealed, or of an update without an
// id all.
func (s *simulator) batchesOf(u *simUpdate, run *simRun) []*simSealed {
	if !u.named {
		return u.batches
	}
	var list []*simSealed
	for _, b := range u.batches {
		if slices.Contains(b.runs, run) {
			list = append(list, b)
		}
	}
	return list
}

func (b *simSealed) sealedBy(run *simRun) {
	if !slices.Contains(b.runs, run) {
		b.runs = append(b.runs, run)
	}
}

// placeOf returns which of the batches that a process has sealed of an update has what a receipt
// stands for, or will have: the next one, or that of what it repeats.
func (s *simulator) placeOf(u *simUpdate, call *simCall, r Receipt, run *simRun) int {
	n := len(s.batchesOf(u, run))
	if !u.named {
		return n
	}
	id := spend.NewFactID(spend.RequestFact, call.key)
	if call.key == "" {
		id = spend.NewFactID(spend.UpdateFact, u.ID)
	}
	isOpen := func(f *fact) bool { return f.id == id && f.seal == run.in.p.open.facts.seal }
	if slices.ContainsFunc(r.facts.own, isOpen) || slices.ContainsFunc(r.facts.repeats, isOpen) {
		return n
	}
	return n - 1
}

// checkNamed says what is wrong with an update with an id that isn't in the books: each process
// that it was told to must have lost it.
func (s *simulator) checkNamed(u *simUpdate) string {
	for _, run := range u.runs {
		living := run.in != nil
		batches := s.batchesOf(u, run)
		if len(batches) == 0 && (living || s.rules.exact) {
			return fmt.Sprintf("it is missing, and process %d has never sealed it (living: %t)", run.number, living)
		}
		for _, b := range batches {
			if why := s.whyNot(u, b, living); why != "" && (living || b.acked || b.safe || s.rules.exact) {
				return fmt.Sprintf("it is missing (living: %t, acknowledged: %t): %s", living, b.acked, why)
			}
		}
	}
	return ""
}

// isBooked says whether a batch of facts is in the books by the mark of its producer: others may
// have booked its updates. It isn't known of other batches, nor where the mark was pruned.
func (s *simulator) isBooked(b *simSealed) (is, known bool) {
	if b.Version < 2 {
		return false, false
	}
	mark := b.deployment.store.mark(b.Shard, b.Producer)
	if mark.Sequence == 0 && s.isPruned(b) {
		return false, false
	}
	same, told := mark.Recent.Is(mark.Sequence, b.Sequence, b.Digest())
	return mark.Has(b.Sequence) && (same || !told), true
}

// hasFacts says whether the flush has the pieces of a batch.
func hasFacts(f *spend.Flush, b *simSealed) bool {
	return slices.ContainsFunc(f.Facts, func(of spend.BatchFacts) bool {
		return of.Header.Producer == b.Producer && of.Header.Sequence == b.Sequence
	})
}

// decide returns what is left of a flush once what the books of the deployment have is taken out.
func (s *simulator) decide(d *simDeployment, f *spend.Flush) *spend.Flush {
	if len(f.Facts) == 0 {
		return f
	}
	var known []spend.KnownFact
	for _, id := range f.FactIDs() {
		facts, err := d.store.Fact(simServers, id)
		if err != nil {
			panic(err)
		}
		for _, fact := range facts {
			known = append(known, fact.KnownFact)
		}
	}
	decision, err := f.Decide(known)
	if err != nil {
		s.fail("a flush contradicts itself: %v", err)
		return f
	}
	s.tally.taken += int(decision.Duplicates.APIRequests())
	n := decision.Conflicts.APIRequests()
	s.tally.conflicts += int(n)
	if n > 0 && !s.rules.rivals {
		s.fail("%d updates are in conflict with others", n)
	}
	return decision.Flush
}

// hourOf returns the hour that an update counts in: of those in which it was recorded, one that the
// books have.
func (d *simDeployment) hourOf(u *simUpdate) spend.Hour {
	if slices.Min(u.hours) == slices.Max(u.hours) {
		return u.hours[0]
	}
	state := d.store.Snapshot()
	for _, hour := range u.hours {
		if _, there := state.Rollups[memstore.RollupKey{Hour: hour, Key: u.Series.Key()}]; there {
			return hour
		}
	}
	return u.hours[0]
}

// Callers repeat what has ids, whatever goes wrong: it is in the books once, and at one process at
// most it is said to be new.
func TestSimulatorWhatHasAnIDCountsOnceHoweverOftenItIsRepeated(t *testing.T) {
	tally := simulate(t, max(*simRuns/2, 300), func(seed uint64, trace func(string, ...any)) (string, simTally) {
		rules := simRulesOf(seed)
		if seed%4 == 0 {
			rules = simExactRules(seed / 4)
		}
		rules.ids, rules.slots = true, max(rules.slots, 2)
		rules.rivals = seed%3 == 0 && !rules.clones
		s := newSimulator(seed, rules)
		s.trace = trace
		return s.play(), s.tally
	})
	if *simSeed == 0 && *simLeft == 0 && (tally.repeats == 0 || tally.held == 0 || tally.taken == 0 || tally.refused == 0 || tally.conflicts == 0) {
		t.Errorf("something never happened: %+v", tally)
	}
}
