package main

// accessMutants take away guards of who may use the HTTP API.
var accessMutants = []mutant{
	{
		name: "a role is not asked for", pkg: "internal/httpapi",
		guard: "A route needs its role: else each token may do everything.",
		edits: []edit{{"internal/httpapi/auth.go", "if has&found.role != 0 {", "if has != 0 {"}},
		tests: []string{"TestEveryRouteAsksForItsRoleAndNoOtherOpensIt"},
	},
	{
		name: "a route without a role is open", pkg: "internal/httpapi",
		guard: "A route that names no role is nobody's: else a new one would be open to every token.",
		edits: []edit{{"internal/httpapi/auth.go", "if has&found.role != 0 {", "if found.role == 0 || has&found.role != 0 {"}},
		tests: []string{"TestARouteThatNamesNoRoleIsNobodys"},
	},
	{
		name: "a stream outlives its token", pkg: "internal/httpapi",
		guard: "A stream ends once its token is removed or has other roles: else it goes on for a quarter of an hour.",
		edits: []edit{{"internal/httpapi/pipeline.go", "if !keys.Has(callerOf(w).token) {", "if false {"}},
		tests: []string{"TestATokenThatIsTakenOutOrHasOtherRolesLosesItsSessionsAndStreamsAndOthersDoNot"},
	},
	{
		name: "an empty file of tokens counts", pkg: "internal/access",
		guard: "A file without a token changes nothing: else it would open the API to everybody.",
		edits: []edit{{"internal/access/file.go", "if len(entries) == 0 {", "if false {"}},
		tests: []string{"TestAFileThatCannotBeTakenChangesNothingAndIsTold", "TestAnEmptyFileOpensNothingAtTheStart"},
	},
	{
		name: "half a file of tokens counts", pkg: "internal/access",
		guard: "A file counts once two looks found the same: else a token is missing while the file is written.",
		edits: []edit{{"internal/reread/reread.go", "isSettled := found == s.seen", "isSettled := true"}},
		tests: []string{"TestAFileThatChangesIsTakenOnceItIsWhole"},
	},
	{
		name: "a wrong file of tokens is silent", pkg: "internal/access",
		guard: "A file that can't be taken is told by a metric and in the log: else a token that was taken out goes on opening the API unseen.",
		edits: []edit{{"internal/reread/reread.go", "s.stale.Store(true)", "_ = err"}},
		tests: []string{"TestAFileThatCannotBeTakenChangesNothingAndIsTold"},
	},
	{
		name: "every reading ends sessions", pkg: "internal/access",
		guard: "A token that is unchanged stays the same through a reading: else each change of the file ends all streams and makes all session keys again.",
		edits: []edit{{"internal/access/token.go", "case same.Name == t.Name && same.Roles == t.Roles:", "case false:"}},
		tests: []string{"TestAFileThatChangesIsTakenOnceItIsWhole"},
	},
	{
		name: "other roles change nothing", pkg: "internal/access",
		guard: "A token whose roles change is another one: else it keeps what it had.",
		edits: []edit{{"internal/access/token.go", "case same.Name == t.Name && same.Roles == t.Roles:", "case same.Name == t.Name:"}},
		tests: []string{"TestAFileThatChangesIsTakenOnceItIsWhole"},
	},
	{
		name: "one token twice", pkg: "internal/access",
		guard: "A token stands in one line: else it has the name and roles of another one.",
		edits: []edit{{"internal/access/token.go", "if first, ok := places[hash]; ok {", "if first, ok := places[hash]; ok && first == \"\" {"}},
		tests: []string{"TestALineThatIsWrongIsNamedAndItsTokenIsNot"},
	},
	{
		name: "the file of tokens does not count for listening", pkg: "cmd/spendflush",
		guard: "A file of tokens counts for the addresses that may be listened on, as the variable does.",
		edits: []edit{{"cmd/spendflush/settings.go", "len(s.Tokens) > 0 || s.keys.Any() ||", "len(s.Tokens) > 0 ||"}},
		tests: []string{"TestAFileOfTokensCountsForWhatMayBeListenedOn"},
	},
	{
		name: "both forms of a secret", pkg: "cmd/spendflush",
		guard: "A secret and its file can't both be set: else one is ignored in silence.",
		edits: []edit{{"cmd/spendflush/settingsfiles.go", "if _, both := values[t.name]; both {", "if _, both := values[t.name]; both && path == \"\" {"}},
		tests: []string{"TestEverySecretSettingMayStandInAFile"},
	},
	{
		name: "misspelt settings are ignored", pkg: "cmd/spendflush",
		guard: "A setting that doesn't exist ends the start: else a misspelt one leaves the API open or a window off.",
		edits: []edit{{"cmd/spendflush/settings.go", "problems: unknownSettings(values)", "problems: unknownSettings(nil)"}},
		tests: []string{"TestAVariableThatLooksLikeOursEndsTheStartWithTheNearestName"},
	},
	{
		name: "service links end the start", pkg: "cmd/spendflush",
		guard: "What Kubernetes sets for a Service named spendflush is let through: else no pod beside it starts.",
		edits: []edit{{"cmd/spendflush/settingsunknown.go", "|| kubernetesLinks.MatchString(name) {", "{"}},
		tests: []string{"TestWhatKubernetesSetsForAServiceOfThatNameIsLetThrough"},
	},
	{
		name: "half of a pair is served", pkg: "internal/keypair",
		guard: "A certificate and a key count once two looks found the same: else half a file is served, or told as a fault, while it is written.",
		edits: []edit{{"internal/reread/reread.go", "isSettled := found == s.seen", "isSettled := true"}},
		tests: []string{"TestANewPairIsServedOnceItIsWholeAndHalfOfOneNever"},
	},
	{
		name: "an expired certificate replaces a good one", pkg: "internal/keypair",
		guard: "A certificate that has expired isn't taken up: else clients that verify it can't come any more.",
		edits: []edit{{"internal/keypair/keypair.go", "time.Now().After(ends)", "false && ends.IsZero()"}},
		tests: []string{"TestAPairThatCannotBeReadOrHasExpiredChangesNothingAndIsTold"},
	},
	{
		name: "a connection over TLS is not known", pkg: "internal/gate",
		guard: "The gate finds its connection within one of TLS: else one at work is closed for a new one, and no header has an end.",
		edits: []edit{{"internal/gate/gate.go", "c = is.NetConn()", "return nil"}},
		tests: []string{"TestAtTheLimitAConnectionOverTLSWithoutARequestMakesRoomAndOneAtWorkDoesNot", "TestAHeaderOverTLSHasTheTimeOfAHeaderAndAConnectionDialledAheadThatOfAnIdleOne"},
	},
	{
		name: "a handshake begins a header", pkg: "internal/gate",
		guard: "The time of a header begins after the handshake: else a connection that is opened ahead is closed in the face of its request.",
		edits: []edit{{"internal/gate/conn.go", "if c.inHandshake && t.IsZero() {", "if false {"}},
		tests: []string{"TestAHeaderOverTLSHasTheTimeOfAHeaderAndAConnectionDialledAheadThatOfAnIdleOne"},
	},
	{
		name: "a handshake has no end", pkg: "internal/gate",
		guard: "A handshake must end in the time of a header: else a client that sends it byte by byte holds a connection.",
		edits: []edit{{"internal/gate/conn.go", "if !c.inHeader {\n", "if !c.inHeader || c.inHandshake {\n"}},
		tests: []string{"TestAHandshakeThatIsBegunMustEndInTime"},
	},
	{
		name: "all is served without the base path", pkg: "internal/httpapi",
		guard: "Without the base path only probes and metrics are served: else what a proxy keeps to itself by path can be reached beside it.",
		edits: []edit{{"internal/httpapi/routes.go", "&& !isBelow && !found.probe {", "&& !isBelow && !found.probe && false {"}},
		tests: []string{"TestBelowABasePathAllIsServedAndOnlyProbesAndMetricsAreWithoutIt"},
	},
	{
		name: "the cookie goes to all paths", pkg: "internal/httpapi",
		guard: "Below a base path the cookie goes to that path alone: else every other service of the host gets it.",
		edits: []edit{{"internal/httpapi/session.go", "Path: a.cfg.BasePath + \"/\",", "Path: \"/\","}},
		tests: []string{"TestBelowABasePathTheCookieGoesThereAlone"},
	},
	{
		name: "a base path leads to another host", pkg: "internal/httpapi",
		guard: "A base path has no empty segments: else //host leads whoever comes without a slash to another host.",
		edits: []edit{{"internal/httpapi/basepath.go", "[A-Za-z0-9._~-]+)+$", "[A-Za-z0-9._~-]*)+$"}},
		tests: []string{"TestABasePathIsTakenAsItIsWrittenOrRefused"},
	},
}
