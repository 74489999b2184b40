package spendflush

import (
	"context"
	"time"
)

// pushRetained pushes what was written directly to the queue as well, if there is a rewind window: a flusher drops it as a
// repetition, and then the queue retains it for a Postgres that is turned back after this process has ended.
func (l *lane) pushRetained(ctx context.Context) {
	if _, ok := l.commits.keeper(); !ok || l.p.time.Now().Before(l.toQueue.next) {
		return
	}
	for {
		l.mu.Lock()
		b, first := l.outbox.toRetain(), l.outbox.toPush()
		l.mu.Unlock()
		if b == nil || first != nil {
			return
		}
		if err := l.pushOnce(ctx, b); err != nil {
			l.toQueue.next = l.p.time.Now().Add(retryMost)
			l.log.Debug("what was written directly can't be pushed for the queue to retain it yet", "error", err)
			return
		}
	}
}

// lookBack looks now and then whether Postgres still has the batches retained in case it is turned back.
func (l *lane) lookBack(ctx context.Context) {
	l.mu.Lock()
	retained := len(l.outbox.retained)
	l.mu.Unlock()
	if retained == 0 || l.p.time.Now().Before(l.toPostgres.nextLook) {
		return
	}
	l.toPostgres.nextLook = l.p.time.Now().Add(rewindCheck)
	if err := l.readStoredMark(ctx); err != nil {
		l.log.Debug("mark can't be read from Postgres", "error", err)
	}
}

// finish is what is left to do once all tasks have stopped: the journal gets what came too late for them, and the
// queue what it is to retain. ctx bounds the latter.
func (l *lane) finish(ctx context.Context) {
	l.toJournal.next, l.toQueue.next = time.Time{}, time.Time{}
	l.writeJournal()
	l.truncateJournal()
	l.pushRetained(ctx)
}
