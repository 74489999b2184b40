package main

// rangeMutants are about ranges of lost batches, and what is cut out of them.
var rangeMutants = []mutant{
	{
		name:  "gap passed to sums that go back",
		guard: "a batch that says less than the mark has was never sealed behind it",
		edits: []edit{{"gaps.go", "b.PriorUpdates >= updates && ", ""}},
		pkg:   ".",
		tests: []string{"TestASequenceThatTheSumsDoNotReachIsNotSkippedToHoweverFarItIs"},
	},
	{
		name:  "batch of a range found twice by one flush",
		guard: "a second copy of a batch that is found with this flush is a repetition, though its place is still in the range",
		edits: []edit{{"plan.go", " && b.Sequence != last", " && b.Sequence+last > 0"}},
		pkg:   ".",
		tests: []string{"TestLostBatchThatTurnsUpIsClaimedOnce"},
	},
	{
		name:  "rest of a range forgotten",
		guard: "what is behind a batch that was found stays lost: its producer would drop it",
		edits: []edit{{"sql/pgstore/split.sql", ", (w.sequence + 1, CASE WHEN w.next IS NULL THEN w.last_sequence END)", ""}},
		pkg:   "sql/pgstore",
		tests: []string{"TestABatchThatIsFoundLeavesTheRestOfItsRangeLost", "TestABatchThatIsSetAsideLeavesTheRestOfItsRangeLost"},
	},
	{
		name:  "range of a found batch left whole",
		guard: "a batch in the middle of a range that was passed is found: it is cut out of the range first",
		edits: []edit{{"sql/pgstore/apply.go", ", call{name: \"split\", rows: -1, params: encoded.split},", ","}},
		pkg:   "sql/pgstore",
		tests: []string{"TestABatchThatIsFoundLeavesTheRestOfItsRangeLost", "TestAGapOfThreeBillionBatchesIsSkippedByOneClaimAsOneRow"},
	},
	{
		name:  "range of a batch set aside left whole",
		guard: "a batch in the middle of a range that goes to quarantine is noted there: its producer would push it for ever",
		edits: []edit{{"sql/pgstore/quarantine.go", "{name: \"split\", rows: -1, params: parts[1]},\n\t\t{name: \"quarantine_batch\"", "{name: \"quarantine_batch\""}},
		pkg:   "sql/pgstore",
		tests: []string{"TestABatchThatIsSetAsideLeavesTheRestOfItsRangeLost"},
	},
	{
		name:  "two batches cut out of one range at once",
		guard: "marks are held before their ranges are cut: the second one would look for a row that the first has replaced",
		edits: []edit{{"sql/pgstore/hold_marks.sql", "ORDER BY producer FOR NO KEY UPDATE", "ORDER BY producer"}},
		pkg:   "sql/pgstore",
		tests: []string{"TestBatchesOfOneRangeThatTurnUpAtOnceAllCount"},
	},
	{
		name:  "two batches of a forgotten producer cut out at once",
		guard: "where a producer has no mark, what was pruned is held before its ranges are cut",
		edits: []edit{{"sql/pgstore/hold_marks.sql", "    FOR NO KEY UPDATE\n", ""}},
		pkg:   "sql/pgstore",
		tests: []string{"TestBatchesOfARangeOfAPrunedProducerAreAppliedAtOnceAndAreNotLostAnyMore"},
	},
	{
		name:  "range counted as one batch",
		guard: "the audit holds a range of lost batches against as many updates at least",
		edits: []edit{{"sql/pgstore/audit_producers.sql", "sum(l.last_sequence - l.first_sequence + 1) FILTER", "count(*) FILTER"}},
		pkg:   "sql/pgstore",
		tests: []string{"TestAGapOfThreeBillionBatchesIsSkippedByOneClaimAsOneRow"},
	},
}
