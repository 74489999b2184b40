package spendflush

import (
	"flag"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	simSeed = flag.Uint64("sim.seed", 0, "run the simulator with this seed only, and say every step")
	simRuns = flag.Uint64("sim.runs", simDefaultRuns, "number of schedules that the simulator runs")
	simLeft = flag.Uint64("sim.done", 0, "leave out the schedules up to this seed, which were run before")
)

// simulate runs do for the seeds 1 to runs, or for the one that is asked for, on all cores. do
// returns what is wrong, "" if nothing is. Its trace is nil, or is told every step.
func simulate(t *testing.T, runs uint64, do func(seed uint64, trace func(string, ...any)) (string, simTally)) (tally simTally) {
	t.Helper()
	if *simSeed != 0 {
		if fault, _ := do(*simSeed, t.Logf); fault != "" {
			t.Fatal(fault)
		}
		return tally
	}
	defer debug.SetGCPercent(debug.SetGCPercent(800)) // little lives, and that not for long
	start := time.Now()
	var next, failed atomic.Uint64
	next.Store(*simLeft)
	var mu sync.Mutex // guards tally
	var work sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		work.Go(func() {
			var mine simTally
			for seed := next.Add(1); seed <= runs && failed.Load() == 0; seed = next.Add(1) {
				fault, one := do(seed, nil)
				if fault != "" {
					failed.CompareAndSwap(0, seed)
				}
				mine.add(one)
			}
			mu.Lock()
			defer mu.Unlock()
			tally.add(mine)
		})
	}
	work.Wait()
	if seed := failed.Load(); seed != 0 {
		fault, _ := do(seed, t.Logf) // the same again, step by step
		t.Fatalf("seed %d: %s\nrun it again with: go test -run '^%s$' . -sim.seed=%d", seed, fault, t.Name(), seed)
	}
	took := time.Since(start)
	done := runs - min(runs, *simLeft)
	t.Logf("%d schedules in %s, %.0f a second: %+v", done, took.Round(time.Millisecond), float64(done)/took.Seconds(), tally)
	return tally
}

func TestSimulatorBooksAreExactWhateverTheScheduleAndTheFaults(t *testing.T) {
	tally := simulate(t, *simRuns, func(seed uint64, trace func(string, ...any)) (string, simTally) {
		s := newSimulator(seed, simRulesOf(seed))
		s.trace = trace
		return s.play(), s.tally
	})
	if *simSeed == 0 && *simLeft == 0 && *simRuns >= 1000 {
		tally.mustHaveSeenEverything(t)
	}
}

// simExactRules are rules under which nothing can be missing in the end, although Postgres is
// turned back: within the window, and no process dies that has something which isn't committed.
// Those whose batches are all committed may end; theirs must then be brought back by the queue.
func simExactRules(seed uint64) simRules {
	bit := func(i int) bool { return seed>>i&1 == 1 }
	rules := simRules{
		exact: true, slots: 1 + int(seed%3), shards: 1 + int(seed>>1%simShards), journal: bit(0), window: simWindow, lockless: bit(1),
		seals: 2 + int(seed%11),
	}
	if bit(2) {
		rules.retires, rules.restores, rules.outages = true, simTurnedBackQuietly, bit(3)
		return rules
	}
	rules.restores, rules.queueless, rules.harm, rules.outages = simTurnedBackAtOnce, bit(3), bit(4), bit(5)
	return rules
}

func TestSimulatorPostgresTurnedBackWithinTheWindowLosesNothing(t *testing.T) {
	tally := simulate(t, max(*simRuns/4, 1), func(seed uint64, trace func(string, ...any)) (string, simTally) {
		s := newSimulator(seed, simExactRules(seed))
		s.trace = trace
		return s.play(), s.tally
	})
	if *simSeed == 0 && *simRuns >= 1000 && tally.requeued == 0 {
		t.Error("in no schedule was there a batch put back by the queue")
	}
}

// simFocuses are rules under which one thing goes wrong again and again, and little else.
var simFocuses = map[string]func(bit func(int) bool) simRules{
	"cloned processes": func(bit func(int) bool) simRules {
		return simRules{slots: 3, shards: 1, clones: true, crashes: bit(0), journal: bit(1), outages: bit(2), harm: bit(3)}
	},
	"cloned processes and a Postgres turned back": func(bit func(int) bool) simRules {
		rules := simRules{
			slots: 3, shards: 1, clones: true, window: simWindow, restores: simTurnedBackAtOnce, crashes: bit(0), journal: bit(1), outages: bit(2),
			queueless: bit(3),
		}
		if bit(5) {
			rules.restores = simTurnedBackQuietly
		}
		return rules
	},
	"a queue that harms": func(bit func(int) bool) simRules {
		return simRules{slots: 2, shards: 1, harm: true, lockless: bit(0), crashes: bit(1), outages: bit(2), journal: bit(3)}
	},
	"a Postgres that takes little": func(bit func(int) bool) simRules {
		return simRules{slots: 3, shards: 1, room: 3, poison: bit(0), narrow: bit(1), full: 4, outages: bit(2)}
	},
	"fewer shards and a Postgres turned back": func(bit func(int) bool) simRules {
		return simRules{
			exact: true, slots: 1 + map[bool]int{true: 1}[bit(0)], shards: simShards, window: simWindow, restores: simTurnedBackQuietly,
			retires: true, seals: 3, steps: 250, journal: bit(1), outages: bit(2),
		}
	},
	"months": func(bit func(int) bool) simRules {
		return simRules{slots: 2, shards: 2, months: true, crashes: true, harm: bit(0), clocks: bit(1)}
	},
}

func TestSimulatorOneThingThatGoesWrongAgainAndAgain(t *testing.T) {
	for name, rulesOf := range simFocuses {
		t.Run(name, func(t *testing.T) {
			simulate(t, max(min(*simRuns, 1000), *simRuns/4), func(seed uint64, trace func(string, ...any)) (string, simTally) {
				rules := rulesOf(func(i int) bool { return seed>>i&1 == 1 })
				if seed>>4&1 == 1 {
					rules.grace = 2 * time.Second
				}
				s := newSimulator(seed, rules)
				s.trace = trace
				return s.play(), s.tally
			})
		})
	}
}
