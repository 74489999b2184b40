package spendflush

import (
	"context"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// stepJournal writes to the journal what was sealed, and truncates it where that isn't needed any
// more. Nothing else calls the journal while the relay runs: a batch that is just being appended
// must not be truncated.
func (r *relay) stepJournal(context.Context) (again time.Duration) {
	r.writeJournal()
	r.truncateJournal()
	r.mu.Lock()
	_, left := r.toTruncate()
	r.mu.Unlock()
	if left { // it was confirmed meanwhile
		return confirmInterval
	}
	return r.again()
}

// writeJournal writes the batches to the journal before they are pushed. If that fails they go on
// without, and it is tried again.
func (r *relay) writeJournal() {
	if r.p.cfg.Journal == nil || r.p.time.Now().Before(r.toJournal.next) {
		return
	}
	r.mu.Lock()
	fresh := r.outbox.toJournal()
	failed := r.journalFailing
	batches := make([]*spend.Batch, len(fresh))
	for i, b := range fresh {
		batches[i] = b.Batch
	}
	r.mu.Unlock()
	if len(fresh) == 0 {
		return
	}

	err := r.p.cfg.Journal.Append(batches)
	r.mu.Lock()
	r.journalFailing = err != nil
	for i, b := range fresh {
		isCopy := b.Batch == batches[i] || batches[i].Books.IsZero() // and not of books that it is no batch of any more
		b.journaled = b.journaled || err == nil && isCopy
	}
	r.mu.Unlock()
	r.wake() // pushes wait for it
	if err != nil {
		r.p.metrics.journalFailures.Inc()
		r.toJournal.next = r.p.time.Now().Add(retryMost)
		if !failed {
			r.log.Error("the journal can't be written; batches go on without it and would be lost with this process and Redis together",
				"error", err)
		}
		return
	}

	if failed {
		r.log.Info("the journal can be written again")
	}
	r.p.advanced()
}

// truncateJournal truncates the journal where its batches aren't needed any more, because it is in
// the books or in quarantine.
func (r *relay) truncateJournal() {
	if r.p.cfg.Journal == nil {
		return
	}
	r.mu.Lock()
	last := map[spend.ProducerID]uint64{}
	if dropped, isNews := r.toTruncate(); isNews {
		last[r.outbox.producer] = dropped
		r.toJournal.of, r.toJournal.truncated = r.outbox.producer, dropped // it is told of more later in any case
	}
	for _, b := range r.quarantined { // there may have been several changes of identity
		last[b.Producer] = b.Sequence
	}
	r.quarantined = nil
	r.mu.Unlock()
	for producer, sequence := range last {
		if err := r.p.cfg.Journal.Truncate(r.shard, producer, sequence); err != nil {
			r.log.Warn("what the journal has no need of can't be deleted", "error", err)
		}
	}
}

// toTruncate returns up to where the outbox has no need of its batches, and whether the journal
// wasn't told yet. The caller must hold mu.
func (r *relay) toTruncate() (dropped uint64, isNews bool) {
	dropped = r.outbox.dropped()
	if r.toJournal.of != r.outbox.producer {
		return dropped, dropped > 0
	}
	return dropped, dropped != r.toJournal.truncated
}
