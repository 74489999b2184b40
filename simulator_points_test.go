package spendflush

import (
	"flag"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var simPairs = flag.Int("sim.pairs", 0, "let the simulator fail one out of so many pairs of calls of its scenario; 1: every pair, 0: none")

// simScenarios are the rules that the scenario is played by. With a window Postgres is turned back
// in it.
var simScenarios = map[string]simRules{
	"plain":              {slots: 2},
	"journal":            {slots: 2, journal: true},
	"window":             {slots: 2, window: simWindow, restores: simTurnedBackQuietly},
	"journal and window": {slots: 2, journal: true, window: simWindow, restores: simTurnedBackQuietly},
	"shards and window":  {slots: 2, shards: simShards, window: simWindow, restores: simTurnedBackQuietly},
}

// scenario plays a fixed sequence: two producers, two flushers of which one is overtaken in the
// middle of a flush, a direct write, a batch sent again, and the end of a process. A process that
// has died is begun anew when it is next.
func (s *simulator) scenario() (fault string) {
	defer s.end(&fault)
	only := s.deployments[0]
	s.snapshot(only)
	s.works(0, 2)
	s.goOn(0, "lane", simRound)
	s.works(1, 2)
	s.goOn(1, "lane", simRound)
	s.goOn(0, "flusher", 8) // it stands still with its marks read
	s.now = s.now.Add(stallAfter + time.Second)
	for range 2 { // it asks Postgres, and sends all again
		s.goOn(1, "lane", simRound)
	}
	s.now = s.now.Add(simLockTTL)
	s.goOn(1, "flusher", simRound)
	s.goOn(0, "flusher", simRound) // it wakes up
	s.now = s.now.Add(rewindCheck)
	s.goOn(0, "lane", simRound)
	s.works(0, 1)
	s.redisBack = s.steps + 1
	for range 2 {
		s.goOn(0, "lane", simRound)
		s.now = s.now.Add(fallbackAfter)
	}
	s.goOn(0, "lane", simRound) // it doesn't end before Postgres has it
	s.redisBack = 0
	s.works(1, 1)
	s.goOn(1, "lane", simRound)
	s.goOn(0, "flusher", simRound)
	s.goOn(1, "lane", simRound)
	s.kill(s.at(1))
	if s.rules.window > 0 {
		s.turnBack(only)
		only.postgresBack = s.steps + 1
		s.now = s.now.Add(2 * simWindow)
		s.goOn(0, "watch", simRound)
		only.postgresBack = 0
	}
	return s.heal()
}

// at returns the process in the slot.
func (s *simulator) at(slot int) *simInstance {
	if s.instances[slot] == nil {
		s.start(slot)
	}
	return s.instances[slot]
}

// works has the process in the slot record and seal n times.
func (s *simulator) works(slot, n int) {
	for range n {
		s.at(slot).record(2)
		s.at(slot).seal()
	}
}

// goOn lets the actors of that name go on, each for some calls and replies.
func (s *simulator) goOn(slot int, name string, budget int) {
	in := s.at(slot)
	for i := 0; i < len(in.actors) && !in.dead; i++ {
		if a := in.actors[i]; a.is(name) {
			s.run(a, budget)
		}
	}
}

// simPoint is a call of the scenario, by its number, and what becomes of it.
type simPoint struct {
	call  int
	fault simFault
}

func (p simPoint) String() string { return fmt.Sprintf("call %d: %s", p.call, p.fault) }

var simPointFaults = []simFault{simNotDone, simReplyLost, simCrashBefore, simCrashAfter, simQueueGone, simLate}

// playPoints plays the scenario with these faults, and returns how many calls were made.
func playPoints(rules simRules, trace func(string, ...any), points ...simPoint) (calls int, fault string) {
	s := newSimulator(1, rules)
	s.trace = trace
	s.faults = make(map[int]simFault, len(points))
	for _, p := range points {
		s.faults[p.call] = p.fault
	}
	fault = s.scenario()
	return s.calls, fault
}

// Calls are numbered as they come, those of the healing included, and the n-th of them fails until
// a run has fewer.
func TestSimulatorScenarioEndsExactlyWhereverItIsBrokenOff(t *testing.T) {
	withoutRace(t)
	percent := debug.SetGCPercent(800) // little lives, and that not for long
	t.Cleanup(func() { debug.SetGCPercent(percent) })
	for name, rules := range simScenarios {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			start := time.Now()
			var firsts []simPoint
			calls, _ := playPoints(rules, nil)
			for n := 1; n <= calls; n++ {
				for _, f := range simPointFaults {
					firsts = append(firsts, simPoint{n, f})
				}
			}
			var next, runs atomic.Int64
			var failed atomic.Pointer[[]simPoint]
			var work sync.WaitGroup
			for range runtime.GOMAXPROCS(0) {
				work.Go(func() {
					for i := next.Add(1) - 1; int(i) < len(firsts) && failed.Load() == nil; i = next.Add(1) - 1 {
						if bad := failPairs(rules, firsts[i], &runs); bad != nil {
							failed.Store(&bad)
						}
					}
				})
			}
			work.Wait()
			if bad := failed.Load(); bad != nil {
				_, fault := playPoints(rules, t.Logf, *bad...)
				t.Fatalf("%v: %s\nrun it again with: go test -run '^%s$' . -sim.pairs=%d", *bad, fault, t.Name(), *simPairs)
			}
			t.Logf("%d calls, %d single faults, with pairs %d runs in %s", calls, len(firsts), runs.Load(), time.Since(start).Round(time.Millisecond))
		})
	}
}

// failPairs plays the scenario with one fault, and then with this and each later one, or some of
// those. It returns the faults after which something is wrong.
func failPairs(rules simRules, first simPoint, runs *atomic.Int64) []simPoint {
	runs.Add(1)
	calls, fault := playPoints(rules, nil, first)
	if fault != "" {
		return []simPoint{first}
	}
	for n := first.call + 1; n <= calls && *simPairs > 0; n++ {
		for i, f := range simPointFaults {
			if (n*len(simPointFaults)+i+int(first.fault))%*simPairs != 0 {
				continue
			}
			runs.Add(1)
			if _, fault := playPoints(rules, nil, first, simPoint{n, f}); fault != "" {
				return []simPoint{first, {n, f}}
			}
		}
	}
	return nil
}
