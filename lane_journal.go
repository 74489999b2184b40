package spendflush

import (
	"context"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// stepJournal writes to the journal what was sealed, and has it forget what isn't needed any more. Nothing else tells the
// journal anything while the lane runs: it must not be told to forget a batch that is just being appended.
func (l *lane) stepJournal(context.Context) (again time.Duration) {
	l.writeJournal()
	l.truncateJournal()
	l.mu.Lock()
	_, left := l.toForget()
	l.mu.Unlock()
	if left { // it was confirmed meanwhile
		return confirmInterval
	}
	return l.again()
}

// writeJournal writes the batches to the journal before they are pushed. If that fails they go on without, and it is tried
// again.
func (l *lane) writeJournal() {
	if l.p.cfg.Journal == nil || l.p.time.Now().Before(l.toJournal.next) {
		return
	}
	l.mu.Lock()
	fresh := l.outbox.toJournal()
	failed := l.journalFailing
	batches := make([]*spend.Batch, len(fresh))
	for i, b := range fresh {
		batches[i] = b.Batch
	}
	l.mu.Unlock()
	if len(fresh) == 0 {
		return
	}

	err := l.p.cfg.Journal.Append(batches)
	l.mu.Lock()
	l.journalFailing = err != nil
	for i, b := range fresh {
		isCopy := b.Batch == batches[i] || batches[i].Books.IsZero() // and not of books that it is no batch of any more
		b.journaled = b.journaled || err == nil && isCopy
	}
	l.mu.Unlock()
	l.poke() // pushes wait for it
	if err != nil {
		l.p.metrics.journalFailures.Inc()
		l.toJournal.next = l.p.time.Now().Add(retryMost)
		if !failed {
			l.log.Error("the journal can't be written; batches go on without it and would be lost with this process and Redis together",
				"error", err)
		}
		return
	}
	if failed {
		l.log.Info("the journal can be written again")
	}
	l.p.advanced()
}

// truncateJournal has the journal forget what isn't needed any more, because it is in the books or in quarantine.
func (l *lane) truncateJournal() {
	if l.p.cfg.Journal == nil {
		return
	}
	l.mu.Lock()
	last := map[spend.ProducerID]uint64{}
	if dropped, isNews := l.toForget(); isNews {
		last[l.outbox.producer] = dropped
		l.toJournal.of, l.toJournal.truncated = l.outbox.producer, dropped // it is told of more later in any case
	}
	for _, b := range l.kept { // there may have been several changes of identity
		last[b.Producer] = b.Sequence
	}
	l.kept = nil
	l.mu.Unlock()
	for producer, sequence := range last {
		if err := l.p.cfg.Journal.Forget(l.shard, producer, sequence); err != nil {
			l.log.Warn("what the journal has no need of can't be deleted", "error", err)
		}
	}
}

// toForget returns up to where the outbox has no need of its batches, and whether the journal wasn't told yet. The caller
// must hold mu.
func (l *lane) toForget() (dropped uint64, isNews bool) {
	dropped = l.outbox.dropped()
	if l.toJournal.of != l.outbox.producer {
		return dropped, dropped > 0
	}
	return dropped, dropped != l.toJournal.truncated
}
