package spendflush

import (
	"context"
	"time"
)

// stepQueue pushes what isn't in the queue, and looks at the mark published there.
func (l *lane) stepQueue(ctx context.Context) (again time.Duration) {
	if !l.followBooks() {
		return confirmInterval
	}
	l.pushAll(ctx)
	l.pushRetained(ctx)
	l.readMark(ctx)
	return l.again()
}

// pushAll pushes, in order, what isn't known to be in the queue.
func (l *lane) pushAll(ctx context.Context) {
	for l.p.time.Now().After(l.toQueue.next) {
		l.mu.Lock()
		b := l.outbox.toPush()
		wait := b != nil && l.p.cfg.Journal != nil && !b.journaled && !l.journalFailing
		l.mu.Unlock()
		if b == nil || wait {
			return // what was sealed in the meantime goes to the journal first
		}
		begun := l.p.time.Now()
		if err := l.pushOnce(ctx, b); err != nil {
			l.pushFailed(ctx, err, begun)
			return
		}
		l.p.advanced()
	}
}

// pushOnce pushes a batch, and notes where it is.
func (l *lane) pushOnce(ctx context.Context, b *outgoing) error {
	defer l.askQueue()()
	if err := l.awaitQueue(ctx); err != nil {
		return err
	}
	l.mu.Lock()
	if b.Producer != l.outbox.producer {
		l.mu.Unlock()
		return nil // the identity has changed meanwhile: it is set aside
	}
	b.tried = true // from now on it keeps its books
	batch, previous, queue := b.Batch, b.entry, l.books.queue
	l.mu.Unlock()
	ctx, cancel := l.p.time.WithTimeout(ctx, queueTimeout)
	defer cancel()
	entry, err := queue.Push(ctx, batch, previous)
	if err != nil {
		return err
	}
	l.p.metrics.pushed.Inc()
	l.mu.Lock()
	if l.outbox.atQueue(b, entry) && b.Producer == l.outbox.producer {
		l.moved = append(l.moved, b.Sequence)
	}
	l.mu.Unlock()
	l.pushWorks()
	return nil
}

// askQueue notes that a call to the queue begins, and returns what notes its end. One that has no answer for long must not
// hold up direct writes.
func (l *lane) askQueue() (answered func()) {
	l.setAsked(l.p.time.Now())
	return func() { l.setAsked(time.Time{}) }
}

func (l *lane) setAsked(since time.Time) {
	l.mu.Lock()
	l.askedQueue = since
	l.mu.Unlock()
}

// leavesQueue says whether pushes fail, or a call to the queue has had no answer for as long. The caller must hold mu.
func (l *lane) leavesQueue() bool {
	return l.fallback || !l.askedQueue.IsZero() && l.p.time.Now().Sub(l.askedQueue) >= fallbackAfter
}

// awaitQueue asks a queue that has failed whether it answers at all, and gives it little time: one that hangs must not
// hold up direct writes for as long as a large batch may take.
func (l *lane) awaitQueue(ctx context.Context) error {
	if err := l.p.books.mayUseQueue(); err != nil {
		return err
	}
	if l.toQueue.failingSince.IsZero() {
		return nil
	}
	ctx, cancel := l.p.time.WithTimeout(ctx, probeTimeout)
	defer cancel()
	_, err := l.queue().Mark(ctx, l.shard, l.identity())
	l.toQueue.silent = err != nil
	return err
}

// pushFailed takes note of a push that was begun at that time.
func (l *lane) pushFailed(ctx context.Context, err error, begun time.Time) {
	if ctx.Err() != nil {
		return
	}
	l.p.metrics.pushFailures.Inc()
	l.noteDenied(&l.queueDenied, err)
	now := l.p.time.Now()
	l.toQueue.next = now.Add(l.toQueue.pause.next())
	if l.toQueue.failingSince.IsZero() {
		l.toQueue.failingSince = begun
	}
	l.toQueue.pushes.failed(l.log, now, "push fails; batches are kept and tried again", err)
	if now.Sub(l.toQueue.failingSince) >= fallbackAfter && l.setFallback(true) {
		l.log.Warn("fallback on: writing directly to Postgres", "failing_for", now.Sub(l.toQueue.failingSince).String(), "error", err)
	}
}

func (l *lane) pushWorks() {
	l.toQueue.pause.reset()
	l.toQueue.failingSince, l.toQueue.silent = time.Time{}, false
	l.toQueue.pushes.works(l.log, l.p.time.Now(), "push works again")
	l.noteDenied(&l.queueDenied, nil)
	if l.setFallback(false) {
		l.log.Info("fallback off: batches go through the queue")
	}
}

// setFallback says whether that is a change.
func (l *lane) setFallback(on bool) (changed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	changed = l.fallback != on
	l.fallback = on
	return changed
}

// readMark looks at the published mark, which is a hint.
func (l *lane) readMark(ctx context.Context) {
	l.mu.Lock()
	waiting, producer := l.outbox.anyQueued(), l.outbox.producer
	l.mu.Unlock()
	if !waiting || l.toQueue.silent || l.p.books.mayUseQueue() != nil {
		return
	}
	defer l.askQueue()()
	ctx, cancel := l.p.time.WithTimeout(ctx, queueTimeout)
	defer cancel()
	mark, err := l.queue().Mark(ctx, l.shard, producer)
	if err != nil {
		l.log.Debug("mark can't be read from the queue", "error", err)
		return
	}
	l.confirm(producer, mark)
}
