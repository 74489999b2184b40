package main

// reportMutants are those of what is read of the books.
var reportMutants = []mutant{
	{
		name: "hours behind their day", pkg: "sql/pgstore",
		guard: "An hour counts on the day in which it starts: else the first of a day counts on the day before.",
		edits: []edit{{"sql/pgstore/usage.go", "t.Add(time.Hour - time.Nanosecond).Truncate(time.Hour)", "t.Add(time.Hour).Truncate(time.Hour)"}},
		tests: []string{"TestEveryHourBelongsToOneDayAndOneMonthInEveryZone"},
	},
	{
		name: "days that are shifted in silence", pkg: "sql/pgstore",
		guard: "A report says by how much its days are shifted, of each day that it has: else half an hour of a zone is missing, and nobody knows.",
		edits: []edit{{"sql/pgstore/usage.go", "if q.By == Day || q.By == Month {", "if q.By == Hour {"}},
		tests: []string{"TestMonthsOfUsageAreThoseOfTheZone"},
	},
}
