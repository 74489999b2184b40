package spendflush

import (
	"context"
	"time"
)

// stepQueue pushes what isn't in the queue, and looks at the mark published there.
func (r *relay) stepQueue(ctx context.Context) (again time.Duration) {
	if !r.followBooks() {
		return confirmInterval
	}
	r.pushAll(ctx)
	r.pushRetained(ctx)
	r.readMark(ctx)
	return r.again()
}

// pushAll pushes, in order, what isn't known to be in the queue.
func (r *relay) pushAll(ctx context.Context) {
	for r.p.time.Now().After(r.toQueue.next) {
		r.mu.Lock()
		b := r.outbox.toPush()
		wait := b != nil && r.p.cfg.Journal != nil && !b.journaled && !r.journalFailing
		r.mu.Unlock()
		if b == nil || wait {
			return // what was sealed in the meantime goes to the journal first
		}
		begun := r.p.time.Now()
		if err := r.pushOnce(ctx, b); err != nil {
			r.pushFailed(ctx, err, begun)
			return
		}
		r.p.advanced()
	}
}

// pushOnce pushes a batch, and notes where it is.
func (r *relay) pushOnce(ctx context.Context, b *outgoing) error {
	defer r.askQueue()()
	if err := r.awaitQueue(ctx); err != nil {
		return err
	}

	r.mu.Lock()
	if b.Producer != r.outbox.producer {
		r.mu.Unlock()
		return nil // the identity has changed meanwhile: it is set aside
	}

	b.tried = true // from now on it keeps its books
	batch, previous, queue := b.Batch, b.entry, r.books.queue
	r.mu.Unlock()
	ctx, cancel := r.p.time.WithTimeout(ctx, queueTimeout)
	defer cancel()
	begun := r.p.cfg.traceClock(r.p.time)
	entry, err := queue.Push(ctx, batch, previous)
	r.p.tracePush(batch, begun, err)
	if err != nil {
		return err
	}

	r.p.metrics.pushed.Inc()
	r.mu.Lock()
	if r.outbox.atQueue(b, entry) && b.Producer == r.outbox.producer {
		r.moved = append(r.moved, b.Sequence)
	}
	r.mu.Unlock()
	r.pushWorks()
	return nil
}

// askQueue notes that a call to the queue begins, and returns what notes its end. One that has no
// answer for long must not hold up direct writes.
func (r *relay) askQueue() (answered func()) {
	r.setAsked(r.p.time.Now())
	return func() { r.setAsked(time.Time{}) }
}

func (r *relay) setAsked(since time.Time) {
	r.mu.Lock()
	r.askedQueue = since
	r.mu.Unlock()
}

// leavesQueue says whether pushes fail, or a call to the queue has had no answer for as long. The
// caller must hold mu.
func (r *relay) leavesQueue() bool {
	return r.fallback || !r.askedQueue.IsZero() && r.p.time.Now().Sub(r.askedQueue) >= fallbackAfter
}

// awaitQueue asks a queue that has failed whether it answers at all, and gives it little time: one
// that hangs must not hold up direct writes for as long as a large batch may take.
func (r *relay) awaitQueue(ctx context.Context) error {
	if err := r.p.books.mayUseQueue(); err != nil {
		return err
	}
	if r.toQueue.failingSince.IsZero() {
		return nil
	}
	ctx, cancel := r.p.time.WithTimeout(ctx, probeTimeout)
	defer cancel()
	_, err := r.queue().Mark(ctx, r.shard, r.identity())
	r.toQueue.silent = err != nil
	return err
}

// pushFailed takes note of a push that was begun at that time.
func (r *relay) pushFailed(ctx context.Context, err error, begun time.Time) {
	if ctx.Err() != nil {
		return
	}
	r.p.metrics.pushFailures.Inc()
	r.noteDenied(&r.queueDenied, err)
	now := r.p.time.Now()
	r.toQueue.next = now.Add(r.toQueue.pause.next())
	if r.toQueue.failingSince.IsZero() {
		r.toQueue.failingSince = begun
	}
	r.toQueue.pushes.failed(r.log, now, "push fails; batches are kept and tried again", err)
	if now.Sub(r.toQueue.failingSince) >= fallbackAfter && r.setFallback(true) {
		r.log.Warn("fallback on: writing directly to Postgres", "failing_for", now.Sub(r.toQueue.failingSince).String(), "error", err)
	}
}

func (r *relay) pushWorks() {
	r.toQueue.pause.reset()
	r.toQueue.failingSince, r.toQueue.silent = time.Time{}, false
	r.toQueue.pushes.works(r.log, r.p.time.Now(), "push works again")
	r.noteDenied(&r.queueDenied, nil)
	if r.setFallback(false) {
		r.log.Info("fallback off: batches go through the queue")
	}
}

// setFallback says whether that is a change.
func (r *relay) setFallback(on bool) (changed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	changed = r.fallback != on
	r.fallback = on
	return changed
}

// readMark looks at the published mark, which is a hint.
func (r *relay) readMark(ctx context.Context) {
	r.mu.Lock()
	waiting, producer := r.outbox.anyQueued(), r.outbox.producer
	r.mu.Unlock()
	if !waiting || r.toQueue.silent || r.p.books.mayUseQueue() != nil {
		return
	}
	defer r.askQueue()()
	ctx, cancel := r.p.time.WithTimeout(ctx, queueTimeout)
	defer cancel()
	mark, err := r.queue().Mark(ctx, r.shard, producer)
	if err != nil {
		r.log.Debug("mark can't be read from the queue", "error", err)
		return
	}
	r.confirm(producer, mark)
}
