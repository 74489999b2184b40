package main

// serviceMutants are guards of how an instance is run by others.
var serviceMutants = []mutant{
	{
		name:  "Redis that is a replica not asked",
		guard: "a Redis that answers READONLY is named as the cause, though it can be read",
		edits: []edit{{"internal/overview/collect.go", "r.Queue.Replica = err == nil && server.IsReplica()", "_, _ = err, server"}},
		pkg:   "internal/overview",
		tests: []string{"TestARedisThatBecomesAReplicaIsNamedAsTheCause"},
	},
	{
		name:  "READONLY not told at /readyz",
		guard: "what Redis answers to what is written is told in its words, also at /readyz",
		edits: []edit{{"internal/overview/live.go", "refused := refusal(err)", "refused := \"\""}},
		pkg:   "internal/overview",
		tests: []string{"TestARedisThatBecomesAReplicaIsNamedAsTheCause"},
	},
	{
		name:  "clocks compared at the start only",
		guard: "an instance compares its clock with that of Redis as long as it runs",
		edits: []edit{{"internal/overview/live.go", "err == nil {\n\t\t\tanswered(now)", "err == nil {\n\t\t\t_, _ = answered, now"}},
		pkg:   "internal/overview",
		tests: []string{"TestAClockOfRedisThatIsWrongForAWhileIsToldAsLongAsItIs"},
	},
	{
		name:  "clocks that are wrong told for ever",
		guard: "it is told once that clocks differ, and once that they agree again",
		edits: []edit{{"internal/clocks/clocks.go", "(d.logged == 0 || (ahead-d.logged).Abs() > Bound)", "true"}},
		pkg:   "internal/clocks",
		tests: []string{"TestAServersClockIsToldOnceAndOnceMoreWhenItIsRight"},
		quick: true,
	},
	{
		name:  "own clock not looked at",
		guard: "a clock of the machine that is set is told also while no server answers",
		edits: []edit{{"internal/clocks/clocks.go", "- (now.ran - w.last.ran); by.Abs() > Bound", "- (now.ran - w.last.ran); by.Abs() < 0"}},
		pkg:   "internal/clocks",
		tests: []string{"TestTheMachinesOwnClockIsToldWhenItIsSet"},
		quick: true,
	},
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
	{
		name: "settings without an end", pkg: "cmd/spendflush",
		guard: "A setting that is a number or a duration has the bounds that are told of it.",
		edits: []edit{{"internal/bounds/bounds.go", "n >= b.Least && n <= b.Most", "n >= b.Least"}},
		tests: []string{"TestNumbersAndDurationsHaveTheBoundsThatAreTold"},
	},
	{
		name: "a configuration whose numbers are not checked", pkg: ".",
		guard: "A Config is held to the bounds that the settings of the program have.",
		edits: []edit{{"config.go", "if !of.bound.Has(of.value) {", "if false {"}},
		tests: []string{"TestEveryNumberOfAConfigHasItsBounds"},
	},
}
