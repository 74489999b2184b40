package spendflush

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// lane is the producer's side of one shard: it brings the batches of its outbox to the queue and on to Postgres. One
// goroutine runs it; the outbox is shared with the sealer and the flusher under the mutex.
type lane struct {
	p       *Pipeline
	shard   int
	log     *slog.Logger
	commits *committer
	wake    chan struct{} // capacity 1: there is something to do

	mu             sync.Mutex // no I/O under it
	outbox         *outbox
	books          booksView // that it works for
	progress       time.Time // when a batch was last confirmed, or sealed into the empty outbox
	fallback       bool      // pushes fail, so batches are written directly
	journalFailing bool      // the last try to write to the journal failed
	diverged       bool      // a mark doesn't belong to the outbox; Postgres has to be asked
	aside          []aside   // what can't be booked under its identity, until Postgres keeps it in quarantine
	moved          []uint64  // batches whose entries are gone from the queue, until Postgres says whether it has them

	queueDenied, directDenied denial // of the last push and the last direct write; zero if it wasn't denied

	// Only the lane's goroutine uses these.
	failingSince time.Time // since when pushes fail, zero if they don't
	silent       bool      // the queue gave no answer when it was last asked whether it is back
	pushes       failureLog
	directs      failureLog
	pause        backoff
	nextPush     time.Time
	nextDirect   time.Time
	nextJournal  time.Time
	nextLook     time.Time // when to look whether Postgres was turned back
	truncated    uint64    // up to where the journal was told to forget
	missing      uint64    // batches that Postgres has lost and this process doesn't have, as last logged
	missingSince time.Time // since when there are any, and what comes behind them waits
	directUntil  time.Time // the queue has lost something: nothing is left to it alone until then
	gaps         gapWatch
	isBorn       bool // Postgres was asked whether the identity looks like one that was pruned
}

// aside is a batch that is to be quarantined, and why.
type aside struct {
	*Batch
	seal   uint64
	reason error
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
		p: p, shard: shard, log: p.log.With("shard", shard), commits: p.committer(shard), wake: make(chan struct{}, 1),
		outbox: newOutbox(p.producer, p.cfg.RewindWindow), gaps: gapWatch{},
	}
}

func (l *lane) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// identity returns the producer under which batches are sealed.
func (l *lane) identity() ProducerID {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.outbox.producer
}

// header returns what the next batch goes on from. The caller holds Pipeline.sealing, without which nothing changes it.
func (l *lane) header() Header {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := l.outbox
	return Header{
		Shard: l.shard, Producer: o.producer, Sequence: o.next, PriorUpdates: o.updates, PriorAmount: o.amount, PriorDigest: o.digest,
		Books: l.books.id,
	}
}

// add takes the freshly sealed batches of a seal, whose updates were accepted after since. There may be none.
func (l *lane) add(batches []*Batch, seal uint64, since, now time.Time) {
	l.mu.Lock()
	if len(l.outbox.batches) == 0 {
		l.progress = now
	}
	l.outbox.add(batches, seal, since)
	l.mu.Unlock()
	if len(batches) > 0 {
		l.poke()
	}
}

// confirm takes note of a mark of the producer: that of a commit, or one that was published.
func (l *lane) confirm(mark Mark) {
	l.mu.Lock()
	if !l.outbox.follows(mark) {
		l.diverged = true
		l.mu.Unlock()
		l.poke()
		return
	}
	now := l.p.time.Now()
	t := l.outbox.confirm(mark, now)
	if t.confirmed+len(t.quarantined) > 0 {
		l.progress = now
	}
	l.mu.Unlock()
	l.tell(t)
}

// tell says what a mark has brought.
func (l *lane) tell(t taken) {
	for _, b := range t.quarantined {
		l.log.Error("a batch of this instance can't be booked; it is in quarantine", "sequence", b.Sequence, "updates", b.Updates, "amount", b.Amount)
	}
	if t.confirmed+len(t.quarantined) > 0 {
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
	l.checkBirth(ctx)
	l.writeJournal()
	if !l.followBooks(ctx) {
		return confirmInterval
	}
	if l.p.cfg.Queue != nil {
		l.pushAll(ctx)
		l.pushRetained(ctx)
		l.readMark(ctx)
	}
	l.checkQueue(ctx)
	if l.writesDirectly() {
		l.direct(ctx)
	} else if l.isStalled() {
		l.redeliver(ctx)
	}
	l.lookBack(ctx)
	l.keepAside(ctx)
	l.truncateJournal()

	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case len(l.outbox.batches)+len(l.aside) > 0 || l.diverged:
		return confirmInterval
	case len(l.outbox.retained) > 0:
		return rewindCheck
	default:
		return 0
	}
}

// writeJournal writes the batches to the journal, if there is one, before they go anywhere else. If that fails they go on
// without, and it is tried again.
func (l *lane) writeJournal() {
	if l.p.cfg.Journal == nil || l.p.time.Now().Before(l.nextJournal) {
		return
	}
	l.mu.Lock()
	fresh := l.outbox.toJournal()
	failed := l.journalFailing
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
	l.journalFailing = err != nil
	for _, b := range fresh {
		b.journaled = b.journaled || err == nil
	}
	l.mu.Unlock()
	if err != nil {
		l.p.metrics.journalFailures.Inc()
		l.nextJournal = l.p.time.Now().Add(retryMost)
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

// truncateJournal has the journal forget what isn't needed any more.
func (l *lane) truncateJournal() {
	if l.p.cfg.Journal == nil {
		return
	}
	l.mu.Lock()
	producer, dropped := l.outbox.producer, l.outbox.dropped()
	l.mu.Unlock()
	if dropped == l.truncated {
		return
	}
	if err := l.p.cfg.Journal.Forget(l.shard, producer, dropped); err != nil {
		l.log.Warn("what the journal has no need of can't be deleted", "error", err)
	}
	l.truncated = dropped // it is told of more later in any case
}

// writesDirectly says whether the batches go to Postgres by the direct way now.
func (l *lane) writesDirectly() bool {
	if l.p.cfg.Queue == nil || l.p.hurrying.Load() || l.p.time.Now().Before(l.directUntil) || l.mustAbandon() {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fallback
}

func (l *lane) isStalled() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.outbox.anyQueued() && l.p.time.Now().Sub(l.progress) > stallAfter
}

// pushAll pushes, in order, what isn't known to be in the queue.
func (l *lane) pushAll(ctx context.Context) {
	for l.p.time.Now().After(l.nextPush) {
		l.mu.Lock()
		b := l.outbox.toPush()
		wait := b != nil && l.p.cfg.Journal != nil && !b.journaled && !l.journalFailing
		l.mu.Unlock()
		if b == nil || wait {
			return // what was sealed in the meantime goes to the journal first
		}
		begun := l.p.time.Now()
		if err := l.awaitQueue(ctx); err != nil {
			l.pushFailed(ctx, err, begun)
			return
		}
		b.tried = true
		if err := l.pushOnce(ctx, b); err != nil {
			l.pushFailed(ctx, err, begun)
			return
		}
		l.p.advanced()
	}
}

// pushOnce pushes a batch, and notes where it is.
func (l *lane) pushOnce(ctx context.Context, b *outgoing) error {
	l.mu.Lock()
	previous := b.entry // a mark may change it
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, queueTimeout)
	defer cancel()
	entry, err := l.queue().Push(ctx, b.Batch, previous)
	if err != nil {
		return err
	}
	l.p.metrics.pushed.Inc()
	l.mu.Lock()
	if l.outbox.atQueue(b, entry) {
		l.moved = append(l.moved, b.Sequence)
	}
	l.mu.Unlock()
	l.pushWorks()
	return nil
}

// awaitQueue asks a queue that has failed whether it answers at all, and gives it little time: one that hangs must not
// hold up direct writes for as long as a large batch may take.
func (l *lane) awaitQueue(ctx context.Context) error {
	if err := l.p.books.mayUseQueue(); err != nil {
		return err
	}
	if l.failingSince.IsZero() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	_, err := l.queue().Mark(ctx, l.shard, l.identity())
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
	now := l.p.time.Now()
	l.nextPush = now.Add(l.pause.next())
	if l.failingSince.IsZero() {
		l.failingSince = begun
	}
	l.pushes.failed(l.log, now, "push fails; batches are kept and tried again", err)
	if now.Sub(l.failingSince) >= fallbackAfter && l.setFallback(true) {
		l.log.Warn("fallback on: writing directly to Postgres", "failing_for", now.Sub(l.failingSince).String(), "error", err)
	}
}

func (l *lane) pushWorks() {
	l.pause.reset()
	l.failingSince, l.silent = time.Time{}, false
	l.pushes.works(l.log, l.p.time.Now(), "push works again")
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
	if !waiting || l.silent || l.p.books.mayUseQueue() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, queueTimeout)
	defer cancel()
	mark, err := l.queue().Mark(ctx, l.shard, producer)
	if err != nil {
		l.log.Debug("mark can't be read from the queue", "error", err)
		return
	}
	l.confirm(mark)
}
