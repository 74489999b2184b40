package spendflush

import (
	"fmt"
	"time"
)

// simRound is a budget that lasts for every round.
const simRound = 1 << 30

// simRulesOf draws rules for a seed. Everything that may happen is in some schedules and not in others, so that nothing hides
// behind something else.
func simRulesOf(seed uint64) simRules {
	bit := func(i int) bool { return seed>>i&1 == 1 }
	rules := simRules{
		slots: 1 + int(seed%3), journal: bit(1) && bit(2), lockless: bit(3) && bit(0), direct: bit(4), crashes: bit(5) || bit(0),
		harm: !bit(6) || bit(1), outages: bit(7), months: bit(8) && bit(3), waiting: 64 << 20,
		restores: simRestores(seed / 3 % 3),
	}
	if bit(2) != bit(5) {
		rules.window = simWindow
	}
	if bit(9) {
		rules.waiting = 700 // two or three batches
	}
	return rules
}

// play runs the schedule of a seed, heals everything and returns what is wrong then, "" if nothing is.
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
	for _, in := range s.instances {
		if in != nil {
			s.kill(in)
		}
	}
}

// step lets one thing happen.
func (s *simulator) step() {
	slot := s.r.IntN(len(s.instances))
	in := s.instances[slot]
	n := s.r.IntN(100)
	if in == nil {
		if n < 20 {
			s.start(slot)
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
		in.seal()
	case n < 84:
		s.now = s.now.Add([]time.Duration{100 * time.Millisecond, time.Second, 5 * time.Second, simGrace + time.Second}[s.r.IntN(4)])
	case n < 87:
		if len(s.late) > 0 {
			i := s.r.IntN(len(s.late))
			do := s.late[i]
			s.late = append(s.late[:i:i], s.late[i+1:]...)
			do()
		}
	default:
		s.disturb(in, n)
	}
}

// disturb does something that the rules allow, or nothing.
func (s *simulator) disturb(in *simInstance, n int) {
	switch rules := &s.rules; {
	case n < 90 && rules.harm:
		s.harmQueue()
	case n == 90 && rules.crashes:
		s.kill(in)
	case n == 91:
		in.frozen = s.steps + s.r.IntN(60)
		s.note("producer %d stands still for %d steps", in.run.number, in.frozen-s.steps)
	case n == 92 && rules.outages:
		s.redisBack = s.steps + s.r.IntN(40)
		s.note("Redis is away for %d steps", s.redisBack-s.steps)
	case n == 93 && rules.outages:
		s.postgresBack = s.steps + s.r.IntN(40)
		s.note("Postgres is away for %d steps", s.postgresBack-s.steps)
	case n == 94 && rules.restores != simNeverTurnedBack:
		s.snapshot()
	case n == 95 && rules.restores != simNeverTurnedBack:
		s.turnBack()
	case n == 96 && rules.months && s.r.IntN(2) == 0:
		s.passMonth()
	case n > 96 && rules.retires && len(in.run.batches) == rules.seals && len(in.window.batches) == 0:
		s.kill(in)
	}
}

func (s *simulator) drawMood(now simMood) simMood {
	switch {
	case s.faults != nil && !s.calm:
		return now
	case s.calm:
		return simMood{stalled: true, look: true}
	}
	n := s.r.IntN(12)
	return simMood{direct: n == 0 && s.rules.direct || n < 4 && s.isDown(simRedis) && s.rules.direct, stalled: n > 9, look: n%2 == 0}
}

// simRounds is within how many rounds everything must be at rest once nothing goes wrong any more. A gap takes five, and
// they are passed one after another if there is little room for batches that wait.
const simRounds = 60

// heal lets everything go well and returns what is wrong at rest.
func (s *simulator) heal() string {
	s.note("nothing goes wrong any more")
	s.calm, s.redisBack, s.postgresBack = true, 0, 0
	rested := 0
	for range simRounds {
		s.runLate()
		for slot, in := range s.instances {
			if in == nil {
				in = s.start(slot)
			}
			for i := 0; i < len(in.actors) && s.instances[slot] == in; i++ {
				s.run(in.actors[i], simRound)
			}
			for s.rules.seals > len(in.run.batches) && len(in.window.exposed()) < maxExposed && in.run.number < s.rules.slots {
				in.seal()
			}
			if s.isOutOfTouch(in) {
				s.kill(in) // as the log tells its operator to
			}
		}
		if s.wrong != "" {
			return s.wrong
		}
		if s.atRest() {
			if rested++; rested == 2 {
				return s.verdict()
			}
		} else {
			rested = 0
		}
		s.now = s.now.Add(simGrace / 4)
	}
	return fmt.Sprintf("after healing it never comes to rest: %s", s.unrest())
}

func (s *simulator) isForgotten(run *simRun) bool {
	_, known := s.store.state.marks[0][run.id]
	return !known && run.id.Born().Before(s.store.state.horizon)
}

// isOutOfTouch says whether the mark of a living producer was cleaned up, and all that it holds is in quarantine.
func (s *simulator) isOutOfTouch(in *simInstance) bool {
	for _, b := range in.window.batches {
		if !s.isQuarantined(b.Batch) {
			return false
		}
	}
	return s.isForgotten(in.run) && in.window.next > 1
}

func (s *simulator) atRest() bool { return s.unrest() == "" }

func (s *simulator) unrest() string {
	if n := s.queue.len(0); n > 0 {
		return fmt.Sprintf("%d entries in the queue", n)
	}
	for _, in := range s.instances {
		switch {
		case in == nil:
			return "an instance is down"
		case len(in.window.batches) > 0:
			return fmt.Sprintf("producer %d has %d batches from %d, pushed %d", in.run.number, len(in.window.batches), in.window.batches[0].Sequence, in.window.pushed)
		case len(in.left) > 0:
			return fmt.Sprintf("producer %d has %d batches from the journal", in.run.number, len(in.left))
		case in.run.number < s.rules.slots && len(in.run.batches) < s.rules.seals:
			return "not all is sealed"
		}
	}
	return ""
}
