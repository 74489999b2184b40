package spendflush

import (
	"testing"
	"time"
)

// The simulator is worth nothing if it can't see what it is for. That it sees the guards of the
// engine is in internal/lab/mutants; these are those of the servers.
func TestSimulatorSeesEveryGuardOfTheServersThatIsSwitchedOff(t *testing.T) {
	withoutRace(t)
	all := simRules{slots: 2, shards: 1, crashes: true, harm: true, outages: true, lockless: true}
	with := func(change func(*simRules)) simRules {
		rules := all
		change(&rules)
		return rules
	}
	months := with(func(r *simRules) { r.months = true })
	alone := with(func(r *simRules) {
		r.window, r.restores, r.harm, r.lockless, r.slots, r.steps = simWindow, simTurnedBackQuietly, false, false, 1, 300
	})
	for name, test := range map[string]struct {
		rules    simRules
		sabotage func(*simulator)
		runs     uint64 // within how many schedules it must be seen
	}{
		"claims aren't checked":                         {all, func(s *simulator) { s.deployments[0].store.wrong.unchecked = true }, 200},
		"batches found aren't checked":                  {with(func(r *simRules) { r.steps, r.grace = 600, time.Second }), func(s *simulator) { s.deployments[0].store.wrong.uncheckedFound = true }, 4000},
		"a pruned producer is claimed from the start":   {months, func(s *simulator) { s.deployments[0].store.wrong.claimsPruned = true }, 12000},
		"touching revives a mark that was pruned":       {months, func(s *simulator) { s.deployments[0].store.wrong.revives = true }, 4000},
		"a lower number is published over a higher one": {alone, func(s *simulator) { s.deployments[0].queue.published = map[int]int64{} }, 200_000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if test.runs == 200_000 && *simRuns < 1_000_000 {
				t.Skip("it is seen in one of some ten thousand long schedules: only with -sim.runs=1000000")
			}
			for seed := uint64(1); seed <= test.runs; seed++ {
				s := newSimulator(seed, test.rules)
				test.sabotage(s)
				if fault := s.play(); fault != "" {
					t.Logf("seen with seed %d: %s", seed, fault)
					return
				}
			}
			t.Errorf("none of %d schedules shows it", test.runs)
		})
	}
}

func TestSimulatorSeesThatSchedulesOftenDriftWithoutClaims(t *testing.T) {
	withoutRace(t)
	drifted := 0
	const runs = 100
	for seed := uint64(1); seed <= runs; seed++ {
		s := newSimulator(seed, simRules{slots: 3, shards: 1, harm: true, outages: true, lockless: true, steps: 600})
		s.deployments[0].store.wrong.unchecked = true
		if s.play() != "" {
			drifted++
		}
	}
	if drifted < runs/10 {
		t.Errorf("without the claim check only %d of %d schedules drift", drifted, runs)
	}
	t.Logf("%d of %d schedules drift", drifted, runs)
}
