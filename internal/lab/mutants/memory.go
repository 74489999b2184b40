package main

// memoryMutants take away guards of the store and the queue in memory, on which the simulator
// relies.
var memoryMutants = []mutant{
	{
		name: "a store in memory that books again", pkg: "sql/memstore", quick: true,
		guard: "A claim in memory must begin at the mark: else a service's tests book twice what Postgres books once.",
		edits: []edit{{"sql/memstore/apply.go", "p.Mark.Sequence != c.First-1 || p.Mark.Digest != c.Prior || pruned", "p.Updates < 0 || pruned"}},
		tests: []string{"TestMemoryIsAStore"},
	},
	{
		name: "a store in memory that believes the sums", pkg: "sql/memstore", quick: true,
		guard: "A flush whose rows, control sums and claims don't agree is refused: else a mistake of the engine's sums passes its tests.",
		edits: []edit{{"sql/memstore/check.go", "if sums != f.Control ||", "if"}},
		tests: []string{"TestAFlushThatContradictsItselfIsRefusedAndLeavesNothing"},
	},
	{
		name: "a queue in memory that retains by the clock it had", pkg: "queues/memqueue", quick: true,
		guard: "An entry that was acked while the clock was ahead is retained no longer than others.",
		edits: []edit{{"queues/memqueue/memory.go", "s.retained[i].acked = later", "_ = later"}},
		tests: []string{"TestAClockThatIsPutRightForgetsWhatIsRetainedInTime"},
	},
}
