package spendflush

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// lane is the producer's side of one shard: it brings the batches of its window to the queue and on to Postgres. One
// goroutine runs it; the window is shared with the sealer and the flusher under the mutex.
type lane struct {
	p     *Pipeline
	shard int
	log   *slog.Logger
	wake  chan struct{} // capacity 1: there is something to do

	mu       sync.Mutex // no I/O under it
	window   *window
	progress time.Time // when a batch was last confirmed, or sealed into the empty window
	fallback bool      // the direct path is in use

	// Only the lane's goroutine uses these.
	failingSince time.Time // since when pushes fail, zero if they don't
	pause        backoff
	nextPush     time.Time
	nextDirect   time.Time
}

// backoff doubles from retryFirst to retryMost.
type backoff struct{ last time.Duration }

func (b *backoff) next() time.Duration {
	b.last = min(max(2*b.last, retryFirst), retryMost)
	return b.last
}

func (b *backoff) reset() { b.last = 0 }

func newLane(p *Pipeline, shard int) *lane {
	return &lane{
		p: p, shard: shard, log: p.log.With("shard", shard), wake: make(chan struct{}, 1),
		window: newWindow(), fallback: p.cfg.Queue == nil,
	}
}

func (l *lane) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// add takes freshly sealed batches.
func (l *lane) add(batches []*Batch, now time.Time) {
	l.mu.Lock()
	if len(l.window.batches) == 0 {
		l.progress = now
	}
	l.window.add(batches)
	l.mu.Unlock()
	l.poke()
}

// confirm takes note of the producer's mark in Postgres.
func (l *lane) confirm(mark uint64) {
	l.mu.Lock()
	n := l.window.confirm(mark)
	if n > 0 {
		l.progress = time.Now()
	}
	l.mu.Unlock()
	if n > 0 {
		l.p.advanced()
	}
}

// run works until ctx ends.
func (l *lane) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		case <-timer.C:
		}
		if l.step(ctx) {
			timer.Reset(confirmInterval)
		} else {
			timer.Stop()
		}
	}
}

// step does what can be done now and says whether batches are left in the window.
func (l *lane) step(ctx context.Context) (left bool) {
	if l.p.cfg.Queue != nil {
		l.pushAll(ctx)
		l.readMark(ctx)
	}
	if l.isFallback() {
		l.direct(ctx)
	} else if l.isStalled() {
		l.recover(ctx)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.window.batches) > 0
}

func (l *lane) isFallback() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fallback
}

func (l *lane) isStalled() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.window.batches) > 0 && l.window.pushed > 0 && time.Since(l.progress) > stallAfter
}

// pushAll pushes, in order, what isn't known to be in the queue.
func (l *lane) pushAll(ctx context.Context) {
	for time.Now().After(l.nextPush) {
		l.mu.Lock()
		b := l.window.toPush()
		l.mu.Unlock()
		if b == nil {
			return
		}
		callCtx, cancel := context.WithTimeout(ctx, queueTimeout)
		entry, err := l.p.cfg.Queue.Push(callCtx, b.Batch, b.entry)
		cancel()
		if err != nil {
			l.pushFailed(ctx, err)
			return
		}
		l.p.metrics.pushed.Inc()
		l.mu.Lock()
		l.window.atQueue(b.Sequence, entry)
		l.mu.Unlock()
		l.pushWorks()
		l.p.advanced()
	}
}

func (l *lane) pushFailed(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	l.p.metrics.pushFailures.Inc()
	now := time.Now()
	l.nextPush = now.Add(l.pause.next())
	if l.failingSince.IsZero() {
		l.failingSince = now
		l.log.Warn("push fails; batches are kept and tried again", "error", err)
	}
	if !l.isFallback() && now.Sub(l.failingSince) >= fallbackAfter {
		l.setFallback(true)
		l.log.Warn("fallback on: writing directly to Postgres", "failing_for", now.Sub(l.failingSince), "error", err)
	}
}

func (l *lane) pushWorks() {
	l.pause.reset()
	if l.failingSince.IsZero() {
		return
	}
	l.log.Info("push works again", "failed_for", time.Since(l.failingSince))
	l.failingSince = time.Time{}
	if l.isFallback() {
		l.setFallback(false)
		l.log.Info("fallback off: batches go through the queue")
	}
}

func (l *lane) setFallback(on bool) {
	l.mu.Lock()
	l.fallback = on
	l.mu.Unlock()
}

// readMark looks at the published mark, which is a hint.
func (l *lane) readMark(ctx context.Context) {
	l.mu.Lock()
	waiting := l.window.pushed > 0
	l.mu.Unlock()
	if !waiting {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, queueTimeout)
	defer cancel()
	mark, err := l.p.cfg.Queue.Mark(ctx, l.shard, l.p.producer)
	if err != nil {
		l.log.Debug("mark can't be read from the queue", "error", err)
		return
	}
	l.confirm(mark)
}

// recover is for batches that were pushed and yet aren't confirmed for long: perhaps the queue lost them, or only the
// published mark. It asks Postgres, and pushes again what isn't in the queue any more.
func (l *lane) recover(ctx context.Context) {
	if err := l.readStoredMark(ctx); err != nil {
		l.log.Debug("mark can't be read from Postgres", "error", err)
	} else {
		l.mu.Lock()
		l.window.doubt()
		l.mu.Unlock()
		l.p.metrics.doubts.Inc()
	}
	l.mu.Lock()
	l.progress = time.Now() // not before another stallAfter
	l.mu.Unlock()
}

func (l *lane) readStoredMark(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, marksTimeout)
	defer cancel()
	marks, err := l.p.cfg.Store.Marks(ctx, l.shard, []ProducerID{l.p.producer})
	if err != nil {
		return err
	}
	l.confirm(marks[l.p.producer])
	return nil
}

// direct writes the window to Postgres under the direct lock, by the same claims as a flush of the queue.
func (l *lane) direct(ctx context.Context) {
	l.mu.Lock()
	empty := len(l.window.batches) == 0
	l.mu.Unlock()
	if empty || time.Now().Before(l.nextDirect) {
		return
	}
	err := l.tryDirect(ctx)
	switch {
	case err == nil:
		l.nextDirect = time.Time{}
	case errors.Is(err, ErrHeld):
	case ctx.Err() == nil:
		l.nextDirect = time.Now().Add(retryMost)
		l.log.Warn("direct write failed; batches are kept and tried again", "error", err)
	}
}

func (l *lane) tryDirect(ctx context.Context) error {
	lockCtx, cancel := context.WithTimeout(ctx, queueTimeout)
	defer cancel()
	lease, err := l.p.cfg.DirectLocker.Acquire(lockCtx, fmt.Sprintf("direct/%d", l.shard))
	if err != nil {
		return fmt.Errorf("direct lock: %w", err)
	}
	defer l.p.release(ctx, lease)
	if err := l.readStoredMark(ctx); err != nil {
		return fmt.Errorf("read mark: %w", err)
	}
	plan := newPlan(l.shard)
	l.mu.Lock()
	plan.marks[l.p.producer] = l.window.confirmed
	for _, b := range l.window.batches {
		plan.wait[l.p.producer] = append(plan.wait[l.p.producer], entryBatch{b.Batch, b.entry})
	}
	l.mu.Unlock()
	return l.p.commitAll(ctx, plan, "direct")
}
