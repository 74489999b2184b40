package spendflush

import (
	"context"
	"slices"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// stepPostgres makes all calls to Postgres that a relay makes: it looks how far Postgres is where
// that is in doubt, writes directly, and has it keep what was set aside.
func (r *relay) stepPostgres(ctx context.Context) (again time.Duration) {
	r.checkBirth(ctx)
	if !r.p.books.current().fromPostgres {
		r.p.books.ask(ctx) // a note does for the relay
	}
	if !r.followBooks() {
		return confirmInterval
	}
	r.checkQueue(ctx)
	if r.writesDirectly() {
		r.direct(ctx)
	} else if r.isStalled() {
		r.redeliver(ctx)
	}
	r.askOutcomes(ctx)
	r.checkRetained(ctx)
	r.checkAside(ctx)
	r.quarantineAside(ctx)
	return r.again()
}

// writesDirectly says whether the batches go to Postgres by the direct way now.
func (r *relay) writesDirectly() bool {
	if r.p.cfg.Queue == nil || r.p.hurrying.Load() || r.p.time.Now().Before(r.toPostgres.directUntil) {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mustAbandon() || r.leavesQueue()
}

func (r *relay) isStalled() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.outbox.anyQueued() && r.p.time.Now().Sub(r.progress) > stallAfter
}

// redeliver is for batches that were pushed and yet aren't confirmed for long: perhaps the queue
// lost them, or only the published mark. It asks Postgres, and has those pushed again that aren't
// in the queue any more.
func (r *relay) redeliver(ctx context.Context) {
	if err := r.readStoredMark(ctx); err != nil {
		r.log.Debug("mark can't be read from Postgres", "error", err)
	}
	r.mu.Lock()
	r.outbox.resetPushed()
	r.progress = r.p.time.Now() // not before another stallAfter
	r.mu.Unlock()
	r.wake()
	r.p.metrics.redeliveries.Inc()
}

// checkQueue looks whether batches whose entries are gone are committed. If they aren't, the queue
// has lost them, whatever the reason: what this instance holds is written directly, and for a while
// nothing is left to that queue alone. As long as Postgres doesn't say, nothing is assumed but that
// the queue isn't to be relied on; see Pipeline.trustsQueue.
func (r *relay) checkQueue(ctx context.Context) {
	r.mu.Lock()
	producer, moved, diverged := r.outbox.producer, r.moved, r.diverged
	r.mu.Unlock()
	if len(moved) == 0 && !diverged {
		return
	}

	if err := r.readStoredMark(ctx); err != nil {
		r.log.Debug("mark can't be read from Postgres", "error", err)
		return
	}
	r.mu.Lock()
	lost := 0
	if r.outbox.producer == producer {
		for _, b := range r.outbox.batches {
			if slices.Contains(moved, b.Sequence) {
				lost++
			}
		}
		r.moved = slices.Clone(r.moved[len(moved):]) // what has moved since, Postgres wasn't asked about
	}
	r.mu.Unlock()
	if lost > 0 {
		r.queueLost(lost)
	}
}

func (r *relay) queueLost(batches int) {
	now := r.p.time.Now()
	if !now.Before(r.toPostgres.directUntil) {
		r.log.Warn("the queue has lost batches that it had taken; they are written directly to Postgres", "batches", batches)
	}
	r.p.metrics.queueLost.Add(float64(batches))
	r.p.queueLostAt.Store(now.UnixNano())
	r.toPostgres.directUntil = now.Add(distrust)
}

// readStoredMark asks Postgres how far it is, and takes what follows from that.
func (r *relay) readStoredMark(ctx context.Context) error {
	r.mu.Lock()
	producer, view := r.outbox.producer, r.outbox.view()
	r.mu.Unlock()
	began := r.p.time.Now()
	marks, err := r.commits.readMarks(ctx, []spend.ProducerID{producer})
	if err != nil {
		return err
	}

	if marks.Pruned(producer) {
		r.changeIdentity(producer, spend.Mark{}, errPruned)
		return nil
	}

	mark := marks.Of[producer]
	r.mu.Lock()
	if r.outbox.producer != producer {
		r.mu.Unlock()
		return nil // the identity has changed meanwhile, and Postgres has nothing of the new one
	}

	r.diverged = false
	if !r.outbox.follows(mark) {
		r.mu.Unlock()
		r.changeIdentity(producer, mark, spend.ErrDiverged)
		return nil
	}

	t := r.outbox.confirmStored(mark, view, began)
	if t.restored == 0 && t.missing == 0 {
		r.outbox.expire(began)
	}
	if t.confirmed+t.restored > 0 {
		r.progress = r.p.time.Now()
	}

	switch {
	case t.missing == 0 || !r.outbox.gapAfter(mark):
		r.missingSince = time.Time{}
	case r.missingSince.IsZero():
		r.missingSince = began
	}

	isNews := t.missing > 0 && t.missing != r.missing
	r.missing = t.missing
	r.mu.Unlock()

	r.report(t)
	if t.restored > 0 {
		r.p.metrics.restored.Add(float64(t.restored))
		r.log.Warn("Postgres was turned back: batches that were committed are sent again", "batches", t.restored)
		r.wake()
	}

	if isNews {
		r.log.Error("Postgres was turned back by more than this process retains: batches that were committed are gone", "batches", t.missing)
	}
	return nil
}

// mustAbandon says whether what comes behind batches that are gone is to be committed without them.
// Where the queue retains batches, it is given the time to bring them. The caller must hold mu.
func (r *relay) mustAbandon() bool {
	return !r.missingSince.IsZero() && (r.p.cfg.RewindWindow == 0 || r.p.time.Now().Sub(r.missingSince) >= 2*rewindCheck)
}

// direct writes the outbox to Postgres under the direct lock, by the same claims as a flush of the
// queue.
func (r *relay) direct(ctx context.Context) {
	r.mu.Lock()
	empty := len(r.outbox.batches) == 0
	r.mu.Unlock()
	if empty || r.p.time.Now().Before(r.toPostgres.nextDirect) {
		return
	}
	err := r.tryDirect(ctx)
	r.noteDenied(&r.directDenied, err)
	now := r.p.time.Now()
	switch {
	case err == nil:
		r.toPostgres.nextDirect = time.Time{}
		r.toPostgres.directs.works(r.log, now, "direct writes work again")
	case isHeldByInstance(err):
		r.toPostgres.nextDirect = now.Add(heldPause)
	case ctx.Err() == nil:
		r.toPostgres.nextDirect = now.Add(retryMost)
		r.toPostgres.directs.failed(r.log, now, "direct write failed; batches are kept and tried again", err)
	}
}

func (r *relay) tryDirect(ctx context.Context) error {
	if err := r.readStoredMark(ctx); err != nil {
		return err
	}
	r.mu.Lock()
	producer, batches := r.outbox.producer, slices.Clone(r.outbox.batches)
	for _, b := range batches {
		b.tried = true
	}
	gaps := r.gaps
	if !r.mustAbandon() {
		producer = spend.ProducerID{}
	}
	r.mu.Unlock()
	if len(batches) == 0 {
		return nil
	}
	return r.commits.writeDirectly(ctx, batches, gaps, producer)
}
