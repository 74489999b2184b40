package spendflush

import "testing"

// simSabotage switches one guard off, in the simulator's own actors or in its Postgres.
type simSabotage int

const (
	simHonest simSabotage = iota
	simUncheckedClaims
	simUncheckedFound
	simForgottenClaimed
	simTendingRevives
	simGapsIgnored
	simSettledFirst
	simNotQuarantined
	simLostPublished
	simDroppedWhenPushed
	simNewNameAfterFailure
	simUnkeptCounted
	simNeverRequeued
	simExpiredUnseen
	simFlushedUnseen
	simPublishedLower
)

// The simulator is worth nothing if it can't see what it is for.
func TestSimulatorSeesEveryGuardThatIsSwitchedOff(t *testing.T) {
	all := simRules{slots: 2, direct: true, crashes: true, harm: true, outages: true, lockless: true, waiting: 64 << 20}
	with := func(change func(*simRules)) simRules {
		rules := all
		change(&rules)
		return rules
	}
	long := with(func(r *simRules) { r.steps, r.waiting = 600, 700 })
	months := with(func(r *simRules) { r.months = true })
	journal := with(func(r *simRules) { r.journal = true })
	window := with(func(r *simRules) {
		r.window, r.restores, r.direct, r.harm = simWindow, simTurnedBackQuietly, false, false
	})
	alone := window
	alone.slots, alone.steps = 1, 300
	for name, test := range map[string]struct {
		rules    simRules
		sabotage simSabotage
		runs     uint64 // within how many schedules it must be seen
	}{
		"claims aren't checked":                          {all, simUncheckedClaims, 20},
		"batches found aren't checked":                   {long, simUncheckedFound, 4000},
		"a forgotten producer is claimed from the start": {months, simForgottenClaimed, 4000},
		"tending revives a mark that was cleaned up":     {months, simTendingRevives, 4000},
		"gaps are ignored":                               {all, simGapsIgnored, 50},
		"entries are settled before the commit":          {all, simSettledFirst, 20},
		"corrupt entries aren't quarantined":             {all, simNotQuarantined, 50},
		"marks are published over lost batches":          {all, simLostPublished, 4000},
		"the window drops what is pushed":                {all, simDroppedWhenPushed, 20},
		"after a failed push a batch gets a new name":    {all, simNewNameAfterFailure, 20},
		"a journal that can't be written counts":         {journal, simUnkeptCounted, 4000},
		"the queue never puts back what it keeps":        {window, simNeverRequeued, 4000},
		"a process flushes before it looks":              {alone, simFlushedUnseen, 4000},
		"a lower number is published over a higher one":  {alone, simPublishedLower, 20_000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if test.runs == 20_000 && *simRuns < 20_000 {
				t.Skip("it is seen in one of some thousand long schedules: only with -sim.runs=20000")
			}
			for seed := uint64(1); seed <= test.runs; seed++ {
				s := newSimulator(seed, test.rules)
				s.sabotage(test.sabotage)
				if fault := s.play(); fault != "" {
					t.Logf("seen with seed %d: %s", seed, fault)
					return
				}
			}
			t.Errorf("none of %d schedules shows it", test.runs)
		})
	}
}

func (s *simulator) sabotage(by simSabotage) {
	s.rules.sabotage = by
	s.store.unchecked = by == simUncheckedClaims
	s.store.uncheckedFound = by == simUncheckedFound
	s.store.claimsForgotten = by == simForgottenClaimed
	s.store.revives = by == simTendingRevives
}

func TestSimulatorSeesThatNearlyAllSchedulesDriftWithoutClaims(t *testing.T) {
	drifted := 0
	const runs = 100
	for seed := uint64(1); seed <= runs; seed++ {
		s := newSimulator(seed, simRules{slots: 2, direct: true, harm: true, lockless: true, waiting: 64 << 20, steps: 400})
		s.sabotage(simUncheckedClaims)
		if s.play() != "" {
			drifted++
		}
	}
	if drifted < runs/2 {
		t.Errorf("without the claim check only %d of %d schedules drift", drifted, runs)
	}
	t.Logf("%d of %d schedules drift", drifted, runs)
}

// What the queue keeps expires while Postgres is away, and nobody knows that it will come back turned back.
func TestSimulatorSeesThatWhatIsKeptExpiresUnseen(t *testing.T) {
	s := newSimulator(1, simScenarios["window"])
	s.faults = map[int]simFault{}
	s.sabotage(simExpiredUnseen)
	fault := s.scenario()
	if fault == "" {
		t.Error("the scenario doesn't show it")
	}
	t.Log(fault)
}
