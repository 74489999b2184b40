package spendflush

import (
	"context"
	"slices"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// stepPostgres makes all calls to Postgres that a lane makes: it looks how far Postgres is where that is in doubt, writes
// directly, and has it keep what was set aside.
func (l *lane) stepPostgres(ctx context.Context) (again time.Duration) {
	l.checkBirth(ctx)
	if !l.p.books.current().told {
		l.p.books.ask(ctx) // a note does for the lane
	}
	if !l.followBooks() {
		return confirmInterval
	}
	l.checkQueue(ctx)
	if l.writesDirectly() {
		l.direct(ctx)
	} else if l.isStalled() {
		l.redeliver(ctx)
	}
	l.lookBack(ctx)
	l.keepAside(ctx)
	return l.again()
}

// writesDirectly says whether the batches go to Postgres by the direct way now.
func (l *lane) writesDirectly() bool {
	if l.p.cfg.Queue == nil || l.p.hurrying.Load() || l.p.time.Now().Before(l.toPostgres.directUntil) {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mustAbandon() || l.leavesQueue()
}

func (l *lane) isStalled() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.outbox.anyQueued() && l.p.time.Now().Sub(l.progress) > stallAfter
}

// redeliver is for batches that were pushed and yet aren't confirmed for long: perhaps the queue lost them, or only the
// published mark. It asks Postgres, and has those pushed again that aren't in the queue any more.
func (l *lane) redeliver(ctx context.Context) {
	if err := l.readStoredMark(ctx); err != nil {
		l.log.Debug("mark can't be read from Postgres", "error", err)
	}
	l.mu.Lock()
	l.outbox.doubt()
	l.progress = l.p.time.Now() // not before another stallAfter
	l.mu.Unlock()
	l.poke()
	l.p.metrics.doubts.Inc()
}

// checkQueue looks whether batches whose entries are gone are committed. If they aren't, the queue forgets, whatever the
// reason: what this instance holds is written directly, and for a while nothing is left to that queue alone. As long as
// Postgres doesn't say, nothing is assumed but that the queue isn't to be relied on; see Pipeline.trustsQueue.
func (l *lane) checkQueue(ctx context.Context) {
	l.mu.Lock()
	producer, moved, diverged := l.outbox.producer, l.moved, l.diverged
	l.mu.Unlock()
	if len(moved) == 0 && !diverged {
		return
	}
	if err := l.readStoredMark(ctx); err != nil {
		l.log.Debug("mark can't be read from Postgres", "error", err)
		return
	}
	l.mu.Lock()
	lost := 0
	if l.outbox.producer == producer {
		for _, b := range l.outbox.batches {
			if slices.Contains(moved, b.Sequence) {
				lost++
			}
		}
		l.moved = slices.Clone(l.moved[len(moved):]) // what has moved since, Postgres wasn't asked about
	}
	l.mu.Unlock()
	if lost > 0 {
		l.queueForgot(lost)
	}
}

func (l *lane) queueForgot(batches int) {
	now := l.p.time.Now()
	if !now.Before(l.toPostgres.directUntil) {
		l.log.Warn("the queue has lost batches that it had taken; they are written directly to Postgres", "batches", batches)
	}
	l.p.metrics.forgotten.Add(float64(batches))
	l.p.queueForgotAt.Store(now.UnixNano())
	l.toPostgres.directUntil = now.Add(distrust)
}

// readStoredMark asks Postgres how far it is, and takes what follows from that.
func (l *lane) readStoredMark(ctx context.Context) error {
	l.mu.Lock()
	producer, view := l.outbox.producer, l.outbox.view()
	l.mu.Unlock()
	began := l.p.time.Now()
	marks, err := l.commits.readMarks(ctx, []spend.ProducerID{producer})
	if err != nil {
		return err
	}
	if marks.Forgotten(producer) {
		l.changeIdentity(producer, spend.Mark{}, errForgotten)
		return nil
	}

	mark := marks.Of[producer]
	l.mu.Lock()
	if l.outbox.producer != producer {
		l.mu.Unlock()
		return nil // the identity has changed meanwhile, and Postgres has nothing of the new one
	}
	l.diverged = false
	if !l.outbox.follows(mark) {
		l.mu.Unlock()
		l.changeIdentity(producer, mark, spend.ErrDiverged)
		return nil
	}
	t := l.outbox.confirmStored(mark, view, began)
	if t.restored == 0 && t.missing == 0 {
		l.outbox.expire(began)
	}
	if t.confirmed+t.restored > 0 {
		l.progress = l.p.time.Now()
	}
	switch {
	case t.missing == 0 || !l.outbox.gapAfter(mark):
		l.missingSince = time.Time{}
	case l.missingSince.IsZero():
		l.missingSince = began
	}
	isNews := t.missing > 0 && t.missing != l.missing
	l.missing = t.missing
	l.mu.Unlock()

	l.tell(t)
	if t.restored > 0 {
		l.p.metrics.restored.Add(float64(t.restored))
		l.log.Warn("Postgres was turned back: batches that were committed are sent again", "batches", t.restored)
		l.poke()
	}
	if isNews {
		l.log.Error("Postgres was turned back by more than this process retains: batches that were committed are gone", "batches", t.missing)
	}
	return nil
}

// mustAbandon says whether what comes behind batches that are gone is to be committed without them. Where the queue
// retains batches, it is given the time to bring them. The caller must hold mu.
func (l *lane) mustAbandon() bool {
	return !l.missingSince.IsZero() && (l.p.cfg.RewindWindow == 0 || l.p.time.Now().Sub(l.missingSince) >= 2*rewindCheck)
}

// direct writes the outbox to Postgres under the direct lock, by the same claims as a flush of the queue.
func (l *lane) direct(ctx context.Context) {
	l.mu.Lock()
	empty := len(l.outbox.batches) == 0
	l.mu.Unlock()
	if empty || l.p.time.Now().Before(l.toPostgres.nextDirect) {
		return
	}
	err := l.tryDirect(ctx)
	l.noteDenied(&l.directDenied, err)
	now := l.p.time.Now()
	switch {
	case err == nil:
		l.toPostgres.nextDirect = time.Time{}
		l.toPostgres.directs.works(l.log, now, "direct writes work again")
	case isHeldByInstance(err):
		l.toPostgres.nextDirect = now.Add(heldPause)
	case ctx.Err() == nil:
		l.toPostgres.nextDirect = now.Add(retryMost)
		l.toPostgres.directs.failed(l.log, now, "direct write failed; batches are kept and tried again", err)
	}
}

func (l *lane) tryDirect(ctx context.Context) error {
	if err := l.readStoredMark(ctx); err != nil {
		return err
	}
	l.mu.Lock()
	producer, batches := l.outbox.producer, slices.Clone(l.outbox.batches)
	for _, b := range batches {
		b.tried = true
	}
	gaps := l.gaps
	if !l.mustAbandon() {
		producer = spend.ProducerID{}
	}
	l.mu.Unlock()
	if len(batches) == 0 {
		return nil
	}
	return l.commits.writeDirectly(ctx, batches, gaps, producer)
}
