package main

// booksMutants are about books that share servers with others.
var booksMutants = []mutant{
	{
		name:  "batches of other books taken",
		guard: "a batch names its books, and one of other books is set aside: it would be booked in a database that it isn't for",
		edits: []edit{{"plan.go", "case b != nil && b.Books != p.books:", "case false:"}},
		pkg:   ".",
		tests: []string{"TestPlanSetsABatchOfOtherBooksAsideByName", "TestSimulatorBatchesOfOtherBooksAreNeverBookedNorDestroyed", "TestSimulatorTwoDeploymentsOnOneQueueBookOnlyTheirOwn"},
	},
	{
		name:  "a pipeline uses the queue of all books",
		guard: "a pipeline uses the keys of its own books alone: it would take what another deployment has queued out of its reach",
		edits: []edit{{"booksholder.go", "if q, ok := v.queue.(spend.BooksQueue); ok {", "if q, ok := v.queue.(spend.BooksQueue); ok && id.IsZero() {"}},
		pkg:   ".",
		tests: []string{"TestSimulatorTwoDeploymentsOnOneQueueBookOnlyTheirOwn"},
	},
	{
		name:  "flushes of other books applied",
		guard: "the transaction of a flush asks whether the database has its books: the address may lead to another one by now",
		edits: []edit{{"sql/pgstore/apply.go", "if same != 1 {", "if false {"}},
		pkg:   "sql/pgstore",
		tests: []string{"TestAFlushOfOtherBooksLeavesNoTrace", "TestANewIDWaitsForFlushesUnderWay"},
	},
	{
		name:  "a new id doesn't wait",
		guard: "an id is changed only once flushes that have claimed are over: they would be booked under the new one",
		edits: []edit{{"sql/pgstore/statements.go", "IN SHARE ROW EXCLUSIVE MODE", "IN ACCESS SHARE MODE"}},
		pkg:   "sql/pgstore",
		tests: []string{"TestANewIDWaitsForFlushesUnderWay"},
	},
	{
		name:  "quarantine of other books applied",
		guard: "a batch in quarantine that is of other books is never applied",
		edits: []edit{{"sql/pgstore/byhand.go", "if b.Books != marks.Books {", "if false {"}},
		pkg:   "sql/pgstore",
		tests: []string{"TestAQuarantinedBatchOfOtherBooksIsNotApplied"},
	},
	{
		name:  "pushed batches renamed",
		guard: "a batch that may have been pushed for some books stays theirs: under another name it could be booked in both",
		edits: []edit{{"relay_books.go", "if !b.tried {", "if true {"}},
		pkg:   ".",
		tests: []string{"TestWhatWasPushedForOtherBooksIsNeitherLostNorBookedAstray"},
	},
	{
		name:  "pushes before the books are known",
		guard: "nothing is pushed before Postgres, or a note, has told the books: it would lie under keys of none",
		edits: []edit{{"relay_books.go", "return !view.id.IsZero()", "return true"}},
		pkg:   ".",
		tests: []string{"TestWithoutANoteNothingIsPushedBeforePostgresAnswers"},
	},
	{
		name:  "a copy goes on with the queue",
		guard: "a queue that another database uses under the same id is left to it: it would flush these batches, and these instances its own",
		edits: []edit{{"booksholder.go", "case !h.conflict.IsZero():", "case false:"}},
		pkg:   ".",
		tests: []string{"TestAQueueThatAnotherDatabaseUsesUnderTheSameIDIsLeftToIt"},
	},
	{
		name:  "any witness shown",
		guard: "a queue goes on showing the witness of the database that uses it: a copy lacks it",
		edits: []edit{{"queues/redisqueue/witness.lua", "local own = not is\n", "local own = true\n"}},
		pkg:   "queues/redisqueue",
		tests: []string{"TestAQueueShowsTheWitnessOfOneDatabaseOnly"},
	},
	{
		name:  "a stale witness is a copy's",
		guard: "an instance that can't ask Postgres at the moment knows that others have read the same database later, and goes on with the queue",
		edits: []edit{{"queues/redisqueue/witness.lua", "if ARGV[2] == string.sub(is, i, i + SIZE - 1) then", "if false then"}},
		pkg:   "queues/redisqueue",
		tests: []string{"TestAQueueShowsTheWitnessOfOneDatabaseOnly"},
	},
	{
		name:  "witnesses of others forgotten",
		guard: "an instance remembers the witnesses that others show: while Postgres is away it would not know them next time",
		edits: []edit{{"booksholder.go", "own = append(slices.Clip(shown), except(own, shown)...)", "own = slices.Clip(own)"}},
		pkg:   ".",
		tests: []string{"TestAnInstanceWithoutPostgresGoesOnWithTheQueueThatOthersUse"},
	},
	{
		name:  "one queue for all books",
		guard: "what belongs to books lies under their keys: the queues of other books are never touched",
		edits: []edit{{"queues/redisqueue/books.go", "other.opts.Prefix = prefixOf(q.root, id)", "_ = prefixOf(q.root, id)"}},
		pkg:   "queues/redisqueue",
		tests: []string{"TestQueuesOfTwoBooksHaveNothingToDoWithEachOther"},
	},
}
