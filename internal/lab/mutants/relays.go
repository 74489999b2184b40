package main

// laneMutants are about the goroutines of a relay: that none waits for the server of another one,
// and what each may take from a call during which another one went on.
//
// Left out: a mark that was read for an identity which is changed by then. It doesn't follow the
// chain of the new one either.
var laneMutants = []mutant{
	{
		name:  "Postgres asked where pushes are made",
		guard: "no call to Postgres stands between a seal and its push: a Postgres that hangs would hold up all",
		edits: []edit{{"relay_queue.go", "\tr.readMark(ctx)\n\treturn", "\tr.readMark(ctx)\n\tif r.isStalled() {\n\t\tr.redeliver(ctx)\n\t}\n\treturn"}},
		pkg:   ".",
		tests: []string{"TestAPostgresThatHangsHoldsUpNoPush"},
	},
	{
		name:  "direct writes made where pushes are made",
		guard: "a direct write that hangs holds up no push once the queue is back",
		edits: []edit{{"relay_queue.go", "\tr.readMark(ctx)\n\treturn", "\tr.readMark(ctx)\n\tif r.writesDirectly() {\n\t\tr.direct(ctx)\n\t}\n\treturn"}},
		pkg:   ".",
		tests: []string{"TestADirectWriteThatHangsHoldsUpNoPush"},
	},
	{
		name:  "journal written where pushes are made",
		guard: "no call to the queue stands between a seal and the journal",
		edits: []edit{
			{"relay.go", "add(\"journal\", r.stepJournal)", "add(\"journal\", func(context.Context) time.Duration { return 0 })"},
			{"relay_queue.go", "\tr.pushAll(ctx)\n", "\tr.stepJournal(ctx)\n\tr.pushAll(ctx)\n"},
		},
		pkg:   ".",
		tests: []string{"TestServersThatHangHoldUpNoJournal"},
	},
	{
		name:  "queue that hangs waited for",
		guard: "direct writes begin once a call to the queue has had no answer for a second, not when it has timed out",
		edits: []edit{{"relay_queue.go", "return r.fallback || !r.askedQueue.IsZero() &&", "return r.fallback || false &&"}},
		pkg:   ".",
		tests: []string{"TestAQueueThatHangsIsGoneRoundAfterASecond"},
	},
	{
		name:  "identity changed for what was said of the one before",
		guard: "what Postgres says of an identity that was changed meanwhile doesn't set aside the batches of the new one",
		edits: []edit{{"divergence.go", "r.outbox.producer != of || cause", "cause"}},
		pkg:   ".",
		tests: []string{"TestAMarkOfTheIdentityBeforeSaysNothingOfTheNewOne"},
	},
	{
		name:  "any producer's mark confirmed",
		guard: "a mark of the identity before is none of the new one",
		edits: []edit{{"relay.go", "if r.outbox.producer != of {", "if false {"}},
		pkg:   ".",
		tests: []string{"TestAMarkOfTheIdentityBeforeSaysNothingOfTheNewOne"},
	},
	{
		name:  "pushed although it is set aside",
		guard: "a batch that is set aside while the queue is asked whether it answers isn't pushed any more: the queue may be that of other books by then",
		edits: []edit{{"relay_queue.go", "if b.Producer != r.outbox.producer {", "if false {"}},
		pkg:   ".",
		tests: []string{"TestAPushThatAnIdentityDoesNotOutliveSaysNothingOfTheNextOne"},
	},
	{
		name:  "entry of the identity before taken for a lost one",
		guard: "that an entry is gone is noted for the identity that it was of: the queue would be said to have lost a batch of the new one",
		edits: []edit{{"relay_queue.go", "r.outbox.atQueue(b, entry) && b.Producer == r.outbox.producer", "r.outbox.atQueue(b, entry)"}},
		pkg:   ".",
		tests: []string{"TestAPushThatAnIdentityDoesNotOutliveSaysNothingOfTheNextOne"},
	},
	{
		name:  "entry forgotten that goes meanwhile",
		guard: "an entry that is found gone while Postgres is asked about others is asked about again: the queue would be trusted although it has lost one",
		edits: []edit{{"relay_postgres.go", "slices.Clone(r.moved[len(moved):])", "nil"}},
		pkg:   ".",
		tests: []string{"TestAnEntryThatGoesWhilePostgresIsAskedIsAskedAboutAgain"},
	},
	{
		name:  "copy for other books taken for the batch",
		guard: "a batch that gets other books while the journal writes it isn't in the journal: another deployment's instance would have to bring it on",
		edits: []edit{{"relay_journal.go", "isCopy := b.Batch == batches[i] ||", "isCopy := b != nil ||"}},
		pkg:   ".",
		tests: []string{"TestAJournalHasNoBatchOfWhichItHasACopyForOtherBooks"},
	},
	{
		name:  "gap that nobody fills waited for",
		guard: "who has dropped batches that a Postgres turned back has lost passes them at once: its acknowledgements would wait for the grace",
		edits: []edit{{"relay_postgres.go", "return !r.missingSince.IsZero() && (", "return false && ("}},
		pkg:   ".",
		tests: []string{"TestABatchThatPostgresLostHoldsUpNoAcknowledgement"},
	},
	{
		name:  "nothing confirmed behind a lost batch",
		guard: "each batch is confirmed by itself: one that is lost would keep all later ones in memory, and their acknowledgements back",
		edits: []edit{{"outbox.go", "case mark.Has(b.Sequence):\n\t\t\tb.confirmedAt", "case mark.Has(b.Sequence) && len(left) == 0:\n\t\t\tb.confirmedAt"}},
		pkg:   ".",
		tests: []string{"TestOutboxConfirmsEachBatchByItself"},
	},
	{
		name:  "quarantine trusted with what was set aside",
		guard: "a process sees to it for the rewind window that the quarantine has what it has set aside: a Postgres turned back unseen lacks it",
		edits: []edit{{"relay_postgres.go", "\tr.checkAside(ctx)\n", ""}},
		pkg:   ".",
		tests: []string{"TestWhatAProcessHasSetAsideComesToQuarantineAgainIfPostgresIsTurnedBackUnseen"},
	},
	{
		name:  "set aside again before Postgres is seen to be turned back",
		guard: "what comes to quarantine again is no change that hides a turned-back Postgres",
		edits: []edit{{"divergence.go", "if err == nil && slices.Contains(has, false) {", "if false {"}},
		pkg:   ".",
		tests: []string{"TestItIsLookedWhetherPostgresWasTurnedBackBeforeAnythingComesToQuarantineAgain"},
	},
	{
		name:  "what was set aside with other books",
		guard: "what is in quarantine with the books before isn't brought to those of now",
		edits: []edit{{"relay_books.go", "r.books, r.asideKept = view, nil", "r.books = view"}},
		pkg:   ".",
		tests: []string{"TestWhatIsSetAsideWithOtherBooksIsLeftToThem"},
	},
	{
		name:  "retained batches forgotten with the identity",
		guard: "what a process had committed before Postgres was turned back goes to quarantine if its clone has the place: nothing else brings it back",
		edits: []edit{{"divergence.go", "if cause == spend.ErrDiverged && reasonAside(mark, b.Batch, cause) == spend.ErrDiverged {", "if false {"}},
		pkg:   ".",
		tests: []string{"TestWhatWasCommittedBeforePostgresWasTurnedBackIsSetAsideIfACloneHasItsPlace"},
	},
	{
		name:  "journal truncated once a batch is in quarantine",
		guard: "the journal keeps what was set aside for the rewind window, too",
		edits: []edit{{"divergence.go", "\t\tcase r.p.cfg.Journal != nil:\n", "\t\t}\n\t\tif r.p.cfg.Journal != nil {\n"}},
		pkg:   ".",
		tests: []string{"TestWhatAProcessHasSetAsideComesToQuarantineAgainIfPostgresIsTurnedBackUnseen"},
	},
	{
		name:  "mark of another chain whose batch is gone",
		guard: "a process whose next batch can't go on from the mark gives up its identity: flushers set the batch aside again and again, and it would send it for ever",
		edits: []edit{{"outbox.go", "if next < len(list) && !goesOn(", "if false && !goesOn("}},
		pkg:   ".",
		tests: []string{"TestOutboxKnowsAMarkThatItsNextBatchDoesNotGoOnFrom"},
	},
}
