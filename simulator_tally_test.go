package spendflush

import "testing"

// simTally counts what happened, to see that it happens at all.
type simTally struct {
	schedules, calls, flushes, fenced, skipped, found, quarantined, crashes, stops, restores, requeued, months, pruned, frail, gone, clones, identities int

	repeats, held, taken int // calls with ids made again; updates of them known at once; those that the books took out
	refused, conflicts   int // calls with ids that are held with another content; updates that the books took out as such

	strange, misplaced, shared int // batches of other books, those of the other deployment, schedules with two deployments
}

func (t *simTally) add(o simTally) {
	for to, n := range map[*int]int{
		&t.schedules: o.schedules, &t.calls: o.calls, &t.flushes: o.flushes, &t.fenced: o.fenced, &t.skipped: o.skipped,
		&t.found: o.found, &t.quarantined: o.quarantined, &t.crashes: o.crashes, &t.stops: o.stops, &t.restores: o.restores,
		&t.requeued: o.requeued, &t.months: o.months, &t.pruned: o.pruned, &t.frail: o.frail, &t.gone: o.gone, &t.clones: o.clones, &t.identities: o.identities,
		&t.repeats: o.repeats, &t.held: o.held, &t.taken: o.taken, &t.refused: o.refused, &t.conflicts: o.conflicts,
		&t.strange: o.strange, &t.misplaced: o.misplaced, &t.shared: o.shared,
	} {
		*to += n
	}
}

// mustHaveSeenEverything fails the test if something that the simulator is there for never
// happened.
func (t *simTally) mustHaveSeenEverything(tb testing.TB) {
	tb.Helper()
	for what, n := range map[string]int{
		"a claim lost": t.fenced, "a gap passed": t.skipped, "a batch found": t.found, "a batch quarantined": t.quarantined,
		"a process that died": t.crashes, "a process that was stopped": t.stops, "Postgres turned back": t.restores,
		"marks pruned": t.pruned, "a process cloned": t.clones,
		"a repeat known at once": t.held, "a repeat that the books took out": t.taken,
		"an id refused that is held with another content": t.refused, "a conflict that the books took out": t.conflicts,
		"two deployments on one queue": t.shared, "a batch among the keys of the other deployment": t.misplaced,
	} {
		if n == 0 {
			tb.Errorf("in no schedule was there %s", what)
		}
	}
}
