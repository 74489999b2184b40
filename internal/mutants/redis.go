package main

// redisMutants are about the queue and the locks. A lock only spares work, so its guards keep flushers out of each
// other's way and not the books exact; but a lock that two hold, or nobody can get, is noticed at once.
//
// Left out: a lease that has ended isn't trusted anew by a late renewal. Lost is closed by then and can't be opened.
var redisMutants = []mutant{
	{
		name:  "queue trimmed instead of settled",
		guard: "exactly the entries that were committed leave the queue: a late holder would take out what nobody applied",
		edits: []edit{{"queues/settle.lua", "'XDEL', queue, unpack(ARGV, 3, 2 + ids))", "'XTRIM', queue, 'MAXLEN', math.max(0, redis.call('XLEN', queue) - ids))"}},
		pkg:   "queues",
		tests: []string{"TestRedisIsAQueue/ALateSettleTakesNobodyElsesEntryOut", "TestRedisIsAQueue/SettleTakesExactlyTheGivenEntriesOut"},
	},
	{
		name:  "entry of another producer taken for ours",
		guard: "an entry counts as this batch's only if the producer is the same: ids come again after a loss",
		edits: []edit{{"queues/present.lua", "found.p == ARGV[2] and ", ""}},
		pkg:   "queues",
		tests: []string{"TestRedisIsAQueue/AnEntryOfAnotherBatchIsNotTakenForThisOne"},
	},
	{
		name:  "entry of another sequence taken for ours",
		guard: "an entry counts as this batch's only if the sequence is the same",
		edits: []edit{{"queues/present.lua", " and found.s == ARGV[3]", ""}},
		pkg:   "queues",
		tests: []string{"TestRedisIsAQueue/AnEntryOfAnotherBatchIsNotTakenForThisOne"},
	},
	{
		name:  "one producer's mark published as another's",
		guard: "marks are published each under its own producer: who believes another's drops batches",
		edits: []edit{{"queues/settle.lua", "ARGV[ids + i - 1]", "ARGV[ids + 3]"}},
		pkg:   "queues",
		tests: []string{"TestRedisIsAQueue/MarksAreKeptByShardAndProducer"},
	},
	{
		name:  "full queue takes more",
		guard: "a queue at its bound refuses: Redis would run out of memory, and may evict",
		edits: []edit{{"queues/push.lua", "local full = most > 0 and", "local full = false and"}},
		pkg:   "queues",
		tests: []string{"TestRedisIsAQueue/AFullQueueRefusesAndAddsNothing"},
	},
	{
		name:  "Redis out of memory taken for a push",
		guard: "a push that a Redis out of memory refuses is an error",
		edits: []edit{{"queues/push.lua", "return redis.error_reply('OOM the batch was not added')", "return '0-1'"}},
		pkg:   "queues",
		tests: []string{"TestAServerOutOfMemoryCountsAsFullAndCanStillBeEmptied"},
	},
	{
		name:  "lock taken from its holder",
		guard: "a lock that another holds isn't taken",
		edits: []edit{{"lockers/acquire.lua", "if held and held ~= ARGV[1] then", "if false then"}},
		pkg:   "lockers",
		tests: []string{"TestRedisIsALocker/ALockHasOneHolder"},
	},
	{
		name:  "lost reply locks its owner out",
		guard: "who won a lock and didn't hear of it gets it when asking again",
		edits: []edit{{"lockers/acquire.lua", "if held and held ~= ARGV[1] then", "if held then"}},
		pkg:   "lockers",
		tests: []string{"TestALostReplyLocksNobodyOut"},
	},
	{
		name:  "lock of a dead holder stays",
		guard: "a lock has an end from the moment it is taken",
		edits: []edit{{"lockers/acquire.lua", "ARGV[1], 'PX', ARGV[2])", "ARGV[1])"}},
		pkg:   "lockers",
		tests: []string{"TestWhoHoldsALockInRedisCanBeReadWithoutUs"},
	},
	{
		name:  "release of the successor's lock",
		guard: "a release compares the owner before it deletes",
		edits: []edit{{"lockers/release.lua", "if redis.call('GET', KEYS[1]) ~= ARGV[1] then", "if false then"}},
		pkg:   "lockers",
		tests: []string{"TestRedisIsALocker/ALateReleaseLeavesTheSuccessorsLockAlone"},
	},
	{
		name:  "renewal of the successor's lock",
		guard: "a renewal compares the owner before it makes the lock last",
		edits: []edit{{"lockers/renew.lua", "if redis.call('GET', KEYS[1]) ~= ARGV[1] then", "if false then"}},
		pkg:   "lockers",
		tests: []string{"TestARenewalLeavesAnothersLockAsItIs"},
	},
	{
		name:  "lease trusted to its end",
		guard: "a lease is trusted for less than its TTL: the next holder may begin at its end",
		edits: []edit{{"lockers/lease.go", "return ttl / 10", "return 0"}},
		pkg:   "lockers",
		tests: []string{"TestTrustEndsBeforeTheTTLWhenNoRenewalSucceeds"},
	},
	{
		name:  "lease trusted from the reply",
		guard: "trust counts from before the call that renewed: Redis counts from some moment in between",
		edits: []edit{{"lockers/lease.go", "l.trustFrom(start)", "l.trustFrom(start.Add(time.Since(start)))"}},
		pkg:   "lockers",
		tests: []string{"TestRenewalExtendsTrustFromItsStartNotFromItsEnd"},
	},
	{
		name:  "new lease trusted from the reply",
		guard: "trust counts from before the call that won the lock",
		edits: []edit{{"lockers/lease.go", "left := time.Until(start.Add(ttl - margin(ttl)))", "left := ttl - margin(ttl)"}},
		pkg:   "lockers",
		tests: []string{"TestAnAnswerThatComesTooLateMakesNoLease"},
	},
	{
		name:  "lost lock still trusted",
		guard: "a renewal that finds another's lock ends the lease at once",
		edits: []edit{{"lockers/lease.go", "if errors.Is(err, errGone) {", "if false {"}},
		pkg:   "lockers",
		tests: []string{"TestAnotherHolderEndsTheLeaseAtOnce"},
	},
	{
		name:  "silent holder keeps its advisory lock",
		guard: "Postgres ends the transaction that holds a lock when its holder falls silent, by the lock's own setting",
		edits: []edit{{"lockers/acquire.sql", "set_config('idle_in_transaction_session_timeout', $3::text, true)", "$3::text"}},
		pkg:   "lockers",
		tests: []string{"TestTheDatabasesOwnIdleTimeoutDoesNotEndALock"},
	},
	{
		name:  "advisory lock of the session",
		guard: "an advisory lock is the transaction's: a session's would stay behind in a pooler",
		edits: []edit{{"lockers/acquire.sql", "pg_try_advisory_xact_lock(", "pg_try_advisory_lock("}},
		pkg:   "lockers",
		tests: []string{"TestNothingOfALockStaysInThePoolersSession"},
	},
}
