package spendflush

import (
	"context"
	"time"
)

// pushRetained pushes what was written directly to the queue as well, if there is a rewind window:
// a flusher drops it as a repetition, and then the queue retains it for a Postgres that is turned
// back after this process has ended.
func (r *relay) pushRetained(ctx context.Context) {
	if _, ok := r.commits.retainer(); !ok || r.p.time.Now().Before(r.toQueue.next) {
		return
	}
	for {
		r.mu.Lock()
		b, first := r.outbox.toRetain(), r.outbox.toPush()
		r.mu.Unlock()
		if b == nil || first != nil {
			return
		}
		if err := r.pushOnce(ctx, b); err != nil {
			r.toQueue.next = r.p.time.Now().Add(retryMost)
			r.log.Debug("what was written directly can't be pushed for the queue to retain it yet", "error", err)
			return
		}
	}
}

// checkRetained looks now and then whether Postgres still has the batches retained in case it is
// turned back.
func (r *relay) checkRetained(ctx context.Context) {
	r.mu.Lock()
	retained := len(r.outbox.retained)
	r.mu.Unlock()
	if retained == 0 || r.p.time.Now().Before(r.toPostgres.nextCheck) {
		return
	}
	r.toPostgres.nextCheck = r.p.time.Now().Add(rewindCheck)
	if err := r.readStoredMark(ctx); err != nil {
		r.log.Debug("mark can't be read from Postgres", "error", err)
	}
}

// finish is what is left to do once all tasks have stopped: the journal gets what came too late for
// them, and the queue what it is to retain. ctx bounds the latter.
func (r *relay) finish(ctx context.Context) {
	r.toJournal.next, r.toQueue.next = time.Time{}, time.Time{}
	r.writeJournal()
	r.truncateJournal()
	r.pushRetained(ctx)
}
