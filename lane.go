package spendflush

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
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
	unkept   bool      // the last try to write to the journal failed

	queueDenied, directDenied denial // of the last push and the last direct write; zero if it wasn't denied

	// Only the lane's goroutine uses these.
	failingSince time.Time // since when pushes fail, zero if they don't
	silent       bool      // the queue gave no answer when it was last asked whether it is back
	pause        backoff
	nextPush     time.Time
	nextDirect   time.Time
	nextJournal  time.Time
	nextLook     time.Time // when to look whether Postgres was turned back
	forgotten    uint64    // what the journal was told to forget
	missing      uint64    // batches that Postgres has lost and this process doesn't have, as last logged
	gaps         gapWatch
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
		window: newWindow(p.cfg.RewindWindow), fallback: p.cfg.Queue == nil, gaps: gapWatch{},
	}
}

func (l *lane) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// add takes freshly sealed batches, whose updates were accepted after since.
func (l *lane) add(batches []*Batch, since, now time.Time) {
	l.mu.Lock()
	if len(l.window.batches) == 0 {
		l.progress = now
	}
	l.window.add(batches)
	for _, b := range l.window.batches[len(l.window.batches)-len(batches):] {
		b.since = since
	}
	l.mu.Unlock()
	l.poke()
}

// confirm takes note of a mark of the producer that was published: all batches up to it are in Postgres.
func (l *lane) confirm(mark uint64) {
	l.mu.Lock()
	now := time.Now()
	n := l.window.confirm(mark, now)
	if n > 0 {
		l.progress = now
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
		if again := l.step(ctx); again > 0 {
			timer.Reset(again)
		} else {
			timer.Stop()
		}
	}
}

// step does what can be done now and says after what time there may be more to do, 0 if only a new batch brings more.
func (l *lane) step(ctx context.Context) (again time.Duration) {
	l.writeJournal()
	if l.p.cfg.Queue != nil {
		l.pushAll(ctx)
		l.readMark(ctx)
	}
	if l.isFallback() {
		l.direct(ctx)
	} else if l.isStalled() {
		l.recover(ctx)
	}
	l.lookBack(ctx)
	l.forgetJournal()
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case len(l.window.batches) > 0:
		return confirmInterval
	case len(l.window.kept) > 0:
		return rewindCheck
	default:
		return 0
	}
}

// writeJournal writes the batches to the journal, if there is one, before they go anywhere else. If that fails they go on
// without, and it is tried again.
func (l *lane) writeJournal() {
	if l.p.cfg.Journal == nil || time.Now().Before(l.nextJournal) {
		return
	}
	l.mu.Lock()
	fresh := l.window.toJournal()
	failed := l.unkept
	l.mu.Unlock()
	if len(fresh) == 0 {
		return
	}
	batches := make([]*Batch, len(fresh))
	for i, b := range fresh {
		batches[i] = b.Batch
	}
	err := l.p.cfg.Journal.Append(batches)
	l.mu.Lock()
	if l.unkept = err != nil; err == nil {
		l.window.inJournal(fresh)
	}
	l.mu.Unlock()
	switch {
	case err != nil:
		l.p.metrics.journalFailures.Inc()
		l.nextJournal = time.Now().Add(retryMost)
		if !failed {
			l.log.Error("the journal can't be written; batches go on without it and would be lost with this process and Redis together",
				"error", err)
		}
	case failed:
		l.log.Info("the journal can be written again")
		fallthrough
	default:
		l.p.advanced()
	}
}

// forgetJournal has the journal forget what isn't needed any more.
func (l *lane) forgetJournal() {
	if l.p.cfg.Journal == nil {
		return
	}
	l.mu.Lock()
	dropped := l.window.dropped()
	l.mu.Unlock()
	if dropped == l.forgotten {
		return
	}
	if err := l.p.cfg.Journal.Forget(l.shard, l.p.producer, dropped); err != nil {
		l.log.Warn("what the journal has no need of can't be deleted", "error", err)
	}
	l.forgotten = dropped // it is told of more later in any case
}

// lookBack looks now and then whether Postgres still has the batches kept in case it is turned back.
func (l *lane) lookBack(ctx context.Context) {
	l.mu.Lock()
	kept := len(l.window.kept)
	l.mu.Unlock()
	if kept == 0 || time.Now().Before(l.nextLook) {
		return
	}
	l.nextLook = time.Now().Add(rewindCheck)
	if err := l.readStoredMark(ctx); err != nil {
		l.log.Debug("mark can't be read from Postgres", "error", err)
	}
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
		unkept := l.unkept
		l.mu.Unlock()
		if b == nil || l.p.cfg.Journal != nil && !b.journaled && !unkept {
			return // what was sealed in the meantime goes to the journal first
		}
		begun := time.Now()
		if err := l.awaitQueue(ctx); err != nil {
			l.pushFailed(ctx, err, begun)
			return
		}
		callCtx, cancel := context.WithTimeout(ctx, queueTimeout)
		entry, err := l.p.cfg.Queue.Push(callCtx, b.Batch, b.entry)
		cancel()
		if err != nil {
			l.pushFailed(ctx, err, begun)
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

// awaitQueue asks a queue that has failed whether it answers at all, and gives it little time: one that hangs must not
// hold up direct writes for as long as a large batch may take.
func (l *lane) awaitQueue(ctx context.Context) error {
	if l.failingSince.IsZero() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	_, err := l.p.cfg.Queue.Mark(ctx, l.shard, l.p.producer)
	l.silent = err != nil
	return err
}

// pushFailed takes note of a push that was begun at that time.
func (l *lane) pushFailed(ctx context.Context, err error, begun time.Time) {
	if ctx.Err() != nil {
		return
	}
	l.p.metrics.pushFailures.Inc()
	l.noteDenied(&l.queueDenied, err)
	now := time.Now()
	l.nextPush = now.Add(l.pause.next())
	if l.failingSince.IsZero() {
		l.failingSince = begun
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
	l.failingSince, l.silent = time.Time{}, false
	l.noteDenied(&l.queueDenied, nil)
	if l.isFallback() {
		l.setFallback(false)
		l.log.Info("fallback off: batches go through the queue")
	}
}

// noteDenied takes note of whether the server has denied a call, for people.
func (l *lane) noteDenied(last *denial, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	*last = denial{}
	if errors.Is(err, ErrDenied) {
		*last = denial{err.Error(), time.Now()}
	}
}

// denied tells of the last denial. Where nothing is left to be tried again it is soon old news. The caller must hold mu.
func (l *lane) denied() string {
	last := l.queueDenied
	if l.directDenied.text != "" {
		last = l.directDenied
	}
	if len(l.window.batches) == 0 && time.Since(last.at) > denialLasts {
		return ""
	}
	return last.text
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
	if !waiting || l.silent {
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
	}
	l.mu.Lock()
	l.window.doubt()
	l.progress = time.Now() // not before another stallAfter
	l.mu.Unlock()
	l.p.metrics.doubts.Inc()
}

func (l *lane) readStoredMark(ctx context.Context) error {
	began := time.Now()
	marks, err := l.p.readMarks(ctx, l.shard, []ProducerID{l.p.producer})
	if err != nil {
		return err
	}
	if marks.Forgotten(l.p.producer) {
		l.log.Error("this instance was out of touch with Postgres for so long that its mark was cleaned up; what it holds goes to " +
			"quarantine: restart it")
		return nil
	}
	l.mu.Lock()
	confirmed, restored, missing := l.window.confirmStored(marks.Of[l.p.producer], began)
	if restored == 0 && missing == 0 {
		l.window.expire(began)
	}
	if confirmed+restored > 0 {
		l.progress = time.Now()
	}
	l.mu.Unlock()
	if confirmed > 0 {
		l.p.advanced()
	}
	if restored > 0 {
		l.p.metrics.restored.Add(float64(restored))
		l.log.Warn("Postgres was turned back: batches that were committed are sent again", "batches", restored)
		l.poke()
	}
	if missing > 0 && missing != l.missing {
		l.log.Error("Postgres was turned back by more than the rewind window: batches that were committed are gone", "batches", missing)
	}
	l.missing = missing
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
	l.noteDenied(&l.directDenied, err)
	switch {
	case err == nil:
		l.nextDirect = time.Time{}
	case errors.Is(err, ErrHeld):
		l.nextDirect = time.Now().Add(heldPause)
	case ctx.Err() == nil:
		l.nextDirect = time.Now().Add(retryMost)
		l.log.Warn("direct write failed; batches are kept and tried again", "error", err)
	}
}

func (l *lane) tryDirect(ctx context.Context) error {
	if err := l.readStoredMark(ctx); err != nil {
		return err
	}
	l.mu.Lock()
	batches := slices.Clone(l.window.batches)
	l.mu.Unlock()
	return l.p.writeDirectly(ctx, l.shard, batches, l.gaps)
}

// writeDirectly commits batches under the direct lock without the queue. What can't be applied is quarantined.
func (p *Pipeline) writeDirectly(ctx context.Context, shard int, batches []*windowBatch, gaps gapWatch) error {
	lockCtx, cancel := context.WithTimeout(ctx, queueTimeout)
	defer cancel()
	lease, err := p.cfg.DirectLocker.Acquire(lockCtx, fmt.Sprintf("direct/%d", shard))
	if err != nil {
		return fmt.Errorf("direct lock: %w", err)
	}
	defer p.release(ctx, lease)
	plan := newPlan(shard)
	for _, b := range batches {
		plan.offer(Entry{ID: b.entry, Bytes: b.bytes})
	}
	if err := p.commitAll(ctx, plan, "direct"); err != nil {
		return err
	}
	if err := p.passGaps(ctx, plan, gaps, "direct"); err != nil {
		return err
	}
	return p.quarantine(ctx, plan)
}
