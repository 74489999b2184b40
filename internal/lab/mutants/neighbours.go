package main

// neighbourMutants take away guards against clients that are slow, greedy or not who they seem.
var neighbourMutants = []mutant{
	{
		name: "a request of anybody keeps its connection", pkg: "internal/gate",
		guard: "A connection is kept for a request once its caller is known: else requests that need no token keep all others out.",
		edits: []edit{{"internal/gate/conn.go", "c.mark(c.gate.now())\n\tc.inHeader, c.begun", "c.mark(atWork)\n\tc.inHeader, c.begun"}},
		tests: []string{"TestARequestKeepsItsPlaceOnceItsCallerIsKnown"},
	},
	{
		name: "no request keeps its connection", pkg: "internal/httpapi",
		guard: "A connection is not closed for another one while a request of a known caller is answered: else the caller doesn't learn what was recorded.",
		edits: []edit{{"internal/httpapi/api.go", "\t\t\twork(r)\n", ""}},
		tests: []string{"TestWithAllConnectionsAtWorkHealthChecksAreAnsweredAndOthersRefusedAtOnce"},
	},
	{
		name: "a connection that was given up works on", pkg: "internal/gate",
		guard: "What comes on a connection that was closed for another one has no effect: else an update is recorded whose caller learns of a failure.",
		edits: []edit{{"internal/gate/conn.go", "if was == given {", "if false {"}},
		tests: []string{"TestARequestOnAConnectionThatMadeRoomHasNoEffect"},
	},
	{
		name: "a full list of ended sessions is whole", pkg: "internal/httpapi",
		guard: "Of a list of ended sessions that is full, sessions before it are over: else whoever ends thousands of their own revives those of others.",
		edits: []edit{{"internal/httpapi/signedout.go", "o.cut = cutOf(ended)", "_ = cutOf"}},
		tests: []string{"TestWhoEndsSessionsByTheThousandRevivesNone"},
	},
	{
		name: "scrapes by anybody", pkg: "internal/httpapi",
		guard: "One caller has half of the scrapes at once: else one that takes nothing of its answers blinds the monitoring.",
		edits: []edit{{"internal/httpapi/metricsserver.go", "who := a.partyOf(w, r)", "who := party{name: newUUID()}"}},
		tests: []string{"TestOneCallerDoesNotKeepOthersFromTheMetrics"},
	},
	{
		name: "any number of bodies decoded at once", pkg: "internal/httpapi",
		guard: "Few bodies are decoded at once: else those of one client, which take fifty times as much memory as updates, take all there is.",
		edits: []edit{{"internal/httpapi/body.go", "if n > freeDecodeBytes {", "if false {"}},
		tests: []string{"TestFewBodiesAreDecodedAtOnceAndHalfOfThemOfOneCaller"},
	},
	{
		name: "all faults kept", pkg: "internal/httpapi",
		guard: "No more faults of a body are kept than are told: else ten thousand wrong updates take as much memory as they like.",
		edits: []edit{{"internal/httpapi/updates.go", "if len(d.faults)-known == maxFaults {", "if len(d.faults)-known < 0 {"}},
		tests: []string{"TestFaultsThatAreNotToldTakeNoMemory"},
	},
	{
		name: "right tokens push each other out", pkg: "internal/httpapi",
		guard: "Tokens that were right stay known beside others: else who guesses from an address that many share keeps some of them out.",
		edits: []edit{{"internal/httpapi/guesses.go", "if s[i].CompareAndSwap(0, hash) {", "if i == 0 {\n\t\t\ts[i].Store(hash)"}},
		tests: []string{"TestWhoGuessesBehindAProxyKeepsNoneOfManyTokensOut"},
	},
	{
		name: "each address of a customer waits with its body", pkg: "internal/httpapi",
		guard: "An IPv6 network counts as one address where refusals wait for bodies: else one customer has all the places.",
		edits: []edit{{"internal/httpapi/answer.go", "gate.NetworkOf(a.clientOf(r))", "a.clientOf(r)"}},
		tests: []string{"TestTheAddressesOfOneCustomerShareThePlacesOfRefusedBodies"},
	},
	{
		name: "no files for connections that ask for metrics", pkg: "cmd/spendflush",
		guard: "Open files are kept for the listener of the metrics: else its clients take those of Postgres and Redis.",
		edits: []edit{{"cmd/spendflush/files.go", "n += httpapi.MetricsConnections", "n += 0"}},
		tests: []string{"TestConnectionsForMetricsTakeNoFilesFromPostgresAndRedis"},
	},
}
