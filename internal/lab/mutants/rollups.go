package main

// rollupMutants are about the parts in which rollups lie, and the figures that reports read.
var rollupMutants = []mutant{
	{
		name:  "figures of rows that are wrong",
		guard: "figures of a day whose rows aren't what flushes added never hold, so that every audit reads it",
		edits: []edit{{"sql/pgstore/keepfigures.go", "if !sealed {", "if !sealed && fingerprint == neverHolds {"}},
		pkg:   "sql/pgstore",
		tests: []string{"TestAnAuditOfWhatHasChangedReadsFiguresOfTheOtherDays"},
	},
	{
		name:  "days with figures left out of the totals",
		guard: "an audit of changes adds the figures of days that it doesn't read to the rows of the others",
		edits: []edit{{"sql/pgstore/audit_entities.sql", "WHERE f.day = ANY ($14::date[]) AND f.name <> ''", "WHERE f.day = ANY ($14::date[]) AND f.name = ''"}},
		pkg:   "sql/pgstore",
		tests: []string{"TestAnAuditOfWhatHasChangedReadsFiguresOfTheOtherDays"},
	},
	{
		name:  "figures that aren't compared",
		guard: "the audit compares figures that hold with their rows",
		edits: []edit{{"sql/pgstore/auditfigures.go", "wrong == 0", "wrong >= 0"}},
		pkg:   "sql/pgstore",
		tests: []string{"TestTheAuditFindsFiguresThatAreNotTheirRows"},
	},
	{
		name:  "figures of rows that have changed",
		guard: "figures count while the fingerprint of their day is the one that they were made of",
		edits: []edit{{"sql/pgstore/counters.go", "WHERE d.fingerprint = (SELECT sum(f.fingerprint) FROM spendflush.day_fingerprint f WHERE f.day = d.day)", "WHERE true"}},
		pkg:   "sql/pgstore",
		tests: []string{"TestReportsSayTheSameWithFiguresAndWithout"},
	},
	{
		name:  "figures of whole days for a part",
		guard: "the figures of a day are read only where one bucket has all of it",
		edits: []edit{{"sql/pgstore/usagefigures.go", "thresholds[at+1] >= hour+24", "thresholds[at+1] > hour"}},
		pkg:   "sql/pgstore",
		tests: []string{"TestReportsSayTheSameWithFiguresAndWithout"},
	},
	{
		name:  "figures for a query of two dimensions",
		guard: "figures know one dimension: a report of a team by model is of rows",
		edits: []edit{{"sql/pgstore/usagefigures.go", "slices.ContainsFunc(q.GroupBy, func(group string) bool { return !has(group) })", "slices.ContainsFunc(q.GroupBy, func(group string) bool { return !has(group) && group != \"model\" })"}},
		pkg:   "sql/pgstore",
		tests: []string{"TestReportsSayTheSameWithFiguresAndWithout"},
	},
	{
		name:  "figures without a row applied by hand",
		guard: "a row that was set aside and is applied has the figures of its day made anew: its fingerprint was there before it",
		edits: []edit{{"sql/pgstore/byhand.go", "append(staleFigures(row.Hour), t.rollupCalls([]spend.RollupRow{row})...)...)", "t.rollupCalls([]spend.RollupRow{row})...)"}},
		pkg:   "sql/pgstore",
		tests: []string{"TestARowAppliedByHandIsInTheReports"},
	},
	{
		name:  "all parts looked into",
		guard: "an update of known rollups plans and locks the parts of its days alone, however many there are",
		edits: []edit{{"sql/pgstore/add_known_rollups.sql", "\n    AND t.day BETWEEN ($1::date[])[1] AND ($1::date[])[cardinality($1::date[])]", ""}},
		pkg:   "sql/pgstore",
		tests: []string{"TestKnownRowsAreLookedUpByIndexInTablesThatWereNeverAnalyzed"},
	},
	{
		name:  "a row without a part is at fault",
		guard: "a row whose part is gone, because Postgres was turned back, gets one and doesn't go to quarantine",
		edits: []edit{{"sql/pgstore/errors.go", ", lacksPart(err):", ":"}},
		pkg:   "sql/pgstore",
		tests: []string{"TestAFlushMakesPartsAgainThatAreGone"},
	},
	{
		name:  "parts that are gone are remembered",
		guard: "which days have a part is asked again once a row had none",
		edits: []edit{{"sql/pgstore/apply.go", "\t\t\ts.days.evictAll()\n", ""}},
		pkg:   "sql/pgstore",
		tests: []string{"TestAFlushMakesPartsAgainThatAreGone"},
	},
	{
		name:  "corrections without a part",
		guard: "a correction makes the part of its day",
		edits: []edit{{"migrations/00016_rollup_parts.sql", "        E'\\n    PERFORM spendflush.make_rollup_part(correct.day);\\n    INSERT", "        E'\\n    INSERT"}},
		pkg:   "sql/pgstore",
		tests: []string{"TestACorrectionMakesThePartOfItsDay"},
	},
}
