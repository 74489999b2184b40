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
	{
		name:  "paths in the access log",
		guard: "the access log has the pattern of a route: a path may hold an API key",
		edits: []edit{{"internal/httpapi/access.go", "route = w.route.path", "route = r.URL.Path"}},
		pkg:   "internal/httpapi",
		tests: []string{"TestTheAccessLogHasALineForEachRequestAndNothingOfItsSecrets"},
	},
	{
		name:  "request ids of any form",
		guard: "a request id that is taken up is short and of visible characters: it goes into the log and the answer",
		edits: []edit{{"internal/httpapi/access.go", "if c <= ' ' || c >= 0x7f {", "if false && c == 0 {"}},
		pkg:   "internal/httpapi",
		tests: []string{"TestARequestIdIsTakenUpIfItIsSaneElseMadeAndIsInTheAnswerTheProblemAndTheLog"},
	},
	{
		name:  "request ids of any length",
		guard: "a request id that is taken up is short: a client could write the log full",
		edits: []edit{{"internal/httpapi/access.go", "len(given) != 1 || len(given[0]) > maxRequestID", "len(given) != 1"}},
		pkg:   "internal/httpapi",
		tests: []string{"TestARequestIdIsTakenUpIfItIsSaneElseMadeAndIsInTheAnswerTheProblemAndTheLog"},
	},
}
