package spendflush

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// simRound is a budget that lasts for every round.
const simRound = 1 << 30

// simRulesOf draws rules for a seed. Everything that may happen is in some schedules and not in
// others, so that nothing hides behind something else.
func simRulesOf(seed uint64) simRules {
	bit := func(i int) bool { return seed>>i&1 == 1 }
	rules := simRules{
		slots: 1 + int(seed%3), shards: 1, journal: bit(1) && bit(2), lockless: bit(3) && bit(0), queueless: bit(4) && bit(6),
		crashes: bit(5) || bit(0), harm: !bit(6) || bit(1), outages: bit(7), months: bit(8) && bit(3),
		restores: simRestores(seed / 3 % 3), poison: bit(5) && bit(8),
	}
	if bit(4) != bit(7) {
		rules.shards = simShards
	}
	if bit(2) != bit(5) {
		rules.window = simWindow
	}
	if bit(9) {
		rules.room = 3
	}
	if bit(9) && bit(1) {
		rules.full = 6
	}
	rules.narrow = bit(10)
	if bit(6) {
		rules.grace = 2 * time.Second
	}
	rules.ids = bit(3) != bit(8)
	rules.clocks = seed%5 == 0
	rules.clones = seed%7 == 0
	rules.rivals = rules.ids && !rules.clones && seed%5 > 2
	if seed%4 == 3 {
		rules.slots, rules.two, rules.strange = max(rules.slots, 2), true, bit(3)
	}
	return rules
}

// play runs the schedule of a seed, heals everything and returns what is wrong then, "" if nothing
// is.
func (s *simulator) play() (fault string) {
	defer s.end(&fault)
	for slot := range s.instances {
		s.start(slot)
	}
	n := 30 + s.r.IntN(1+s.r.IntN(220)) // many short ones, and some long ones
	for n = max(n, s.rules.steps); s.steps < n && s.wrong == ""; s.steps++ {
		s.step()
	}
	return s.heal()
}

// end ends all processes, and takes a panic for a fault.
func (s *simulator) end(fault *string) {
	if r := recover(); r != nil {
		*fault = fmt.Sprintf("panic: %v", r)
	}
	for _, in := range s.living() {
		in.stopped = true // it is no crash
		s.kill(in)
	}
}

// step lets one thing happen.
func (s *simulator) step() {
	slot := s.r.IntN(len(s.instances))
	in := s.instances[slot]
	n := s.r.IntN(100)
	s.now = s.now.Add(time.Duration(s.r.IntN(300)) * time.Millisecond)
	if in == nil {
		if n < 20 {
			s.begin(slot)
		}
		return
	}
	if s.steps < in.frozen {
		n = 80 + n/5
	}
	switch {
	case n < 65:
		s.run(in.actors[s.r.IntN(len(in.actors))], s.r.IntN(8))
	case n < 80:
		in.work()
	case n < 84:
		s.now = s.now.Add([]time.Duration{100 * time.Millisecond, time.Second, 5 * time.Second, simGrace + time.Second}[s.r.IntN(4)])
	case n < 87:
		if len(s.late) > 0 {
			i := s.r.IntN(len(s.late))
			do := s.late[i]
			s.late = slices.Concat(s.late[:i:i], s.late[i+1:])
			do()
		}
	default:
		s.disturb(in)
	}
}

// begin starts a process in a slot that is down: a new one, or one that is an earlier one as it
// once was.
func (s *simulator) begin(slot int) {
	if s.rules.clones && s.r.IntN(2) == 0 {
		// On another disk: a journal can't tell two chains of one producer apart.
		of := s.runs[s.r.IntN(len(s.runs))]
		isOf := func(b *spend.Batch) bool { return b.Producer == of.id }
		if of.deployment == s.deploymentAt(slot) && len(of.seals) > 0 && of.identities == 1 && !slices.ContainsFunc(s.disks[slot].batches, isOf) {
			s.clone(of, slot, s.r.IntN(len(of.seals)))
			return
		}
	}
	s.start(slot)
}

// simDisturbances are what can happen besides, and whether the rules allow it.
var simDisturbances = []struct {
	allowed func(*simRules) bool
	do      func(*simulator, *simInstance)
}{
	{func(r *simRules) bool { return r.harm }, func(s *simulator, in *simInstance) { s.harmQueue(in.deployment) }},
	{func(r *simRules) bool { return r.harm }, func(s *simulator, in *simInstance) { s.harmQueue(in.deployment) }},
	{func(r *simRules) bool { return r.strange }, func(s *simulator, in *simInstance) { s.strange(in.deployment) }},
	{func(r *simRules) bool { return r.crashes || r.clones }, (*simulator).kill},
	{func(*simRules) bool { return true }, func(s *simulator, in *simInstance) {
		in.frozen = s.steps + s.r.IntN(60)
		s.note("process %d stands still for %d steps", in.run.number, in.frozen-s.steps)
	}},
	{func(r *simRules) bool { return r.outages }, func(s *simulator, _ *simInstance) {
		s.redisBack = s.steps + s.r.IntN(60)
		s.note("Redis is away for %d steps", s.redisBack-s.steps)
	}},
	{func(r *simRules) bool { return r.outages }, func(s *simulator, in *simInstance) {
		d := in.deployment
		d.postgresBack = s.steps + s.r.IntN(40)
		s.note("Postgres of deployment %d is away for %d steps", d.number, d.postgresBack-s.steps)
	}},
	{func(r *simRules) bool { return r.restores != simNeverTurnedBack }, func(s *simulator, in *simInstance) { s.snapshot(in.deployment) }},
	{func(r *simRules) bool { return r.restores != simNeverTurnedBack }, func(s *simulator, in *simInstance) { s.turnBack(in.deployment) }},
	{func(r *simRules) bool { return r.months }, func(s *simulator, _ *simInstance) { s.passMonth() }},
	{func(r *simRules) bool { return r.clocks }, (*simulator).setClock},
	{func(r *simRules) bool { return r.seals == 0 }, func(s *simulator, in *simInstance) {
		if !in.stopping {
			s.note("process %d is told to stop", in.run.number)
			in.stop()
		}
	}},
	{func(r *simRules) bool { return r.retires }, func(s *simulator, in *simInstance) {
		if len(in.run.seals) == s.rules.seals && len(in.receipts) == 0 && in.isRetained() {
			s.kill(in)
		}
	}},
	{func(r *simRules) bool { return r.retires && r.restores == simTurnedBackQuietly && !r.outages }, (*simulator).turnBackBehind},
}

// isRetained says whether the queue has all that the process holds or retains, so that nothing ends
// with it.
func (in *simInstance) isRetained() bool {
	for _, r := range in.p.relays {
		for _, b := range slices.Concat(r.outbox.batches, r.outbox.retained) {
			if !in.s.isQueued(in.s.batches[b.Digest()]) {
				return false
			}
		}
	}
	return true
}

// mustRetain says whether the process has written something directly that its queue, which is
// there, should have by now.
func (in *simInstance) mustRetain() bool {
	for _, r := range in.p.relays {
		if _, ok := r.commits.retainer(); ok && r.outbox.toRetain() != nil {
			return true
		}
	}
	return false
}

// disturb does something that the rules allow.
func (s *simulator) disturb(in *simInstance) {
	first := s.r.IntN(len(simDisturbances))
	for i := range simDisturbances {
		if d := &simDisturbances[(first+i)%len(simDisturbances)]; d.allowed(&s.rules) {
			if s.r.IntN(2) == 0 {
				d.do(s, in)
			}
			return
		}
	}
}

func (a *simActor) is(name string) bool { return strings.HasPrefix(a.name, name+" ") }

// isDirect says whether the actor writes to Postgres without the queue.
func (a *simActor) isDirect() bool {
	return a != nil && !a.is("flusher") && !a.is("orphans") && !a.is("watch")
}

// simRounds is within how many rounds everything must be at rest once nothing goes wrong any more.
// A gap takes five, and they are passed one after another if there is little room for batches that
// wait.
const simRounds = 60

// heal lets everything go well and returns what is wrong at rest.
func (s *simulator) heal() string {
	s.note("nothing goes wrong any more")
	s.calm, s.redisBack = true, 0
	s.queueSkew, s.storeSkew = 0, 0
	for _, d := range s.deployments {
		d.postgresBack = 0
	}
	rested := 0
	for range simRounds {
		s.runLate()
		s.healAll()
		if s.wrong != "" {
			return s.wrong
		}
		if s.unrest() == "" {
			if rested++; rested == 3 { // shards that no process has are looked at every 30 seconds
				if fault := s.verdict(); fault != "" {
					return fault
				}
				return s.checkRetained()
			}
		} else {
			rested = 0
		}
		s.now = s.now.Add(simGrace / 4)
	}
	return fmt.Sprintf("after healing it never comes to rest: %s", s.unrest())
}

// checkRetained sees that nothing is retained for much longer than the window.
func (s *simulator) checkRetained() string {
	if s.rules.window == 0 {
		return ""
	}
	s.now = s.now.Add(s.rules.window)
	for range 4 {
		s.healAll()
		s.now = s.now.Add(simGrace / 4)
	}
	for _, d := range s.deployments {
		if n := d.queue.size(); n > 0 {
			return fmt.Sprintf("%d entries of deployment %d are retained for longer than the window", n, d.number)
		}
	}
	return ""
}

// healAll lets the process of each slot have its turn. One that is dead begins anew.
func (s *simulator) healAll() {
	for slot, in := range s.instances {
		if in == nil {
			in = s.start(slot)
		}
		in.skew = 0
		s.healOne(in)
	}
}

// healOne lets all of a process have its turn.
func (s *simulator) healOne(in *simInstance) {
	for i := 0; i < len(in.actors) && !in.dead; i++ {
		s.run(in.actors[i], simRound)
	}
	switch {
	case in.dead:
	case in.stopped:
		s.finish(in)
	case in.stopping:
	default:
		for s.rules.seals > len(in.run.seals) && in.p.haveRoom() && in.run.number < s.rules.slots {
			in.work()
		}
		in.seal()
		if s.isOutOfTouch(in) {
			s.kill(in) // as the log tells its operator to
		}
	}
}

// finish ends a process that has drained, as Shutdown does.
func (s *simulator) finish(in *simInstance) {
	in.cancel()
	for i := 0; i < len(in.actors) && !in.dead; i++ {
		if a := in.actors[i]; !a.idling {
			a.wake = time.Time{}
			s.run(a, simRound)
		}
	}
	in.check()
	left := in.p.notDrained()
	if left == nil {
		left = &NotDrainedError{}
	}
	s.note("process %d has stopped: %d updates are left", in.run.number, left.Updates)
	var unsafe int64
	for _, r := range in.receipts {
		if r.stage < Queued {
			unsafe += r.recorded()
		}
	}
	if unsafe > left.Updates {
		s.fail("process %d has stopped and says that %d updates are left, but %d are not queued", in.run.number, left.Updates, unsafe)
	}
	s.tally.stops++
	s.kill(in)
}

// isOutOfTouch says whether the mark of a living producer was pruned, and all that it holds is in
// quarantine.
func (s *simulator) isOutOfTouch(in *simInstance) bool {
	pruned := false
	for _, r := range in.receipts {
		for _, u := range r.updates {
			for _, b := range s.batchesOf(u, in.run) {
				if !s.isQuarantined(b) {
					return false
				}
				pruned = pruned || s.isPruned(b)
			}
		}
	}
	return pruned
}

// holds returns a batch that the process has on its way, nil if there is none.
func (in *simInstance) holds() *spend.Batch {
	for shard := range in.p.cfg.Shards {
		for _, b := range in.p.sealedBatches(shard) {
			return b
		}
	}
	return nil
}

// waitsFor returns a receipt that isn't committed, and should be: nothing that was sealed with it
// is in quarantine.
func (in *simInstance) waitsFor() *simReceipt {
	for _, r := range in.receipts {
		quarantined := false
		for _, other := range in.receipts {
			for _, u := range other.updates {
				if !r.sharesSeal(other) {
					continue
				}
				aside := in.s.isSetAside(u, in.run)
				if in.s.times(u) == 0 && !aside {
					return r
				}
				quarantined = quarantined || aside && (u.named || in.s.times(u) == 0)
			}
		}
		if !quarantined && in.run.identities == 1 {
			return r
		}
	}
	return nil
}

// unrest says what is still under way.
func (s *simulator) unrest() string {
	for _, d := range s.deployments {
		for shard := range simShards {
			if n := d.queue.len(shard); n > 0 {
				return fmt.Sprintf("%d entries of deployment %d in the queue of shard %d", n, d.number, shard)
			}
		}
	}
	for shard := range simShards {
		if n := s.noBooks.len(shard); n > 0 {
			return fmt.Sprintf("%d entries under the keys of no books in the queue of shard %d", n, shard)
		}
	}
	for _, in := range s.instances {
		switch {
		case in == nil:
			return "an instance is down"
		case in.stopping:
			return fmt.Sprintf("process %d is stopping", in.run.number)
		case in.waitsFor() != nil:
			u := in.waitsFor().updates[0]
			return fmt.Sprintf("process %d has %d receipts, and waits for that of update %d", in.run.number, len(in.receipts), u.number)
		case in.holds() != nil:
			return fmt.Sprintf("process %d has %s on its way", in.run.number, s.name(in.holds()))
		case in.isUndecided() != "":
			return in.isUndecided()
		case in.mustRetain():
			return fmt.Sprintf("process %d has written batches directly that the queue is to retain", in.run.number)
		case s.rules.journal && !in.replayed:
			return fmt.Sprintf("process %d has batches from the journal", in.run.number)
		case in.run.number < s.rules.slots && len(in.run.seals) < s.rules.seals:
			return "not all is sealed"
		}
	}
	return ""
}
