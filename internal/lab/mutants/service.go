package main

// serviceMutants are guards of how an instance is run by others.
var serviceMutants = []mutant{
	{
		name:  "durations as bare numbers",
		guard: "a duration in the log has a unit: in JSON it would be a number of nanoseconds that looks like any other",
		edits: []edit{{"cmd/spendflush/instance.go", ", ReplaceAttr: durationsWithUnits}", "}\n\t_ = durationsWithUnits"}},
		pkg:   "cmd/spendflush",
		tests: []string{"TestADurationInTheLogHasAUnitInEveryForm"},
		quick: true,
	},
}
