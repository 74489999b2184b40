package spendflush

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// flusher is the consumer's side of one shard: while it holds the lock it walks over the queue and
// commits it. One goroutine runs it.
//
// A holder keeps the lock from one flush to the next for as long as there is something to flush, so
// that the pace is FlushInterval however many instances there are, and gives it up when it finds
// the queue empty.
type flusher struct {
	p       *Pipeline
	shard   int
	name    string
	log     *slog.Logger
	commits *committer
	books   booksView // of this term
	lease   atomic.Pointer[heldLease]
	denied  atomic.Pointer[denial] // of the last term

	heldFor    time.Duration // how long the lock was another's at least, as the last term saw it; 0 if that isn't known
	gaps       gapWatch
	pause      backoff
	failures   failureLog // of terms
	acks       failureLog
	ackErr     error     // of the last ack of this term
	seenNewer  bool      // batches of a newer format were seen, and that was logged
	overBudget bool      // too many batches waited behind gaps, and that was logged
	loggedLeft time.Time // when it was last logged that entries are left; zero while there are none
}

type heldLease struct {
	spend.Lease
	since time.Time
}

func newFlusher(p *Pipeline, shard int) *flusher {
	return &flusher{
		p: p, shard: shard, name: fmt.Sprintf("flush/%d", shard), log: p.log.With("shard", shard),
		commits: p.committer(shard), gaps: gapWatch{},
	}
}

// holds says since when this instance has the lock, and whether it can still be trusted.
func (f *flusher) holds() (since time.Time, ok bool) {
	held := f.lease.Load()
	if held == nil {
		return time.Time{}, false
	}
	if isLost(held) {
		return time.Time{}, false
	}
	return held.since, true
}

func isLost(lease spend.Lease) bool {
	select {
	case <-lease.Lost():
		return true
	default:
		return false
	}
}

// run works until ctx ends.
func (f *flusher) run(ctx context.Context) {
	for {
		// The jitter keeps instances from asking all at once.
		wait := f.p.cfg.FlushInterval/2 + f.p.time.Jitter(f.p.cfg.FlushInterval)
		if f.failures.isFailing() {
			wait = max(wait, f.pause.next())
		}
		if f.heldFor > 0 && f.heldFor < wait {
			wait = f.heldFor + f.p.time.Jitter(expirySpread)
		}
		if f.seenNewer {
			wait *= 4 // an instance that knows the newer format should win the lock
		}
		if !f.p.time.Sleep(ctx, wait, nil) {
			return
		}
		f.report(ctx, f.term(ctx))
	}
}

// expirySpread keeps instances from asking all at once for a lock that has just expired.
const expirySpread = 50 * time.Millisecond

func (f *flusher) report(ctx context.Context, err error) {
	f.noteDenied(ctx, err)
	f.heldFor = 0
	if held, ok := errors.AsType[*spend.HeldError](err); ok {
		f.heldFor = held.Holder.Expires
	}
	switch {
	case err == nil:
		f.failures.works(f.log, f.p.time.Now(), "flushing works again")
		f.pause.reset()
	case isHeldByInstance(err):
		f.pause.reset()
	case errors.Is(err, spend.ErrBooksUnknown): // Postgres may be away, or not migrated yet: both are logged elsewhere
		f.log.Debug("nothing can be flushed yet", "error", err)
	case ctx.Err() == nil:
		f.failures.failed(f.log, f.p.time.Now(), "flush fails; batches stay in the queue and are tried again", err)
	}
}

// term acquires the lock if there is something to flush, and flushes until the queue is empty or
// the lock is lost.
func (f *flusher) term(ctx context.Context) error {
	f.ackErr = nil
	if err := f.learnBooks(ctx); err != nil {
		return err
	}

	if waiting, err := f.anyWaiting(ctx); err != nil || !waiting {
		return err
	}
	lease, err := f.acquire(ctx)
	if err != nil {
		return err
	}

	f.lease.Store(&heldLease{lease, f.p.time.Now()})
	f.log.Debug("lock won", "lock", f.name)
	defer func() {
		f.lease.Store(nil)
		release(ctx, f.p.time, lease, f.log)
		f.log.Debug("lock released", "lock", f.name)
	}()
	for {
		begun := f.p.time.Now()
		flushed, err := f.drain(ctx, lease)
		f.noteDenied(ctx, err)
		if err != nil || !flushed || f.seenNewer {
			return err
		}
		// What came while the last flush committed has gathered already.
		if !f.p.time.Sleep(ctx, f.p.cfg.FlushInterval-f.p.time.Now().Sub(begun), lease.Lost()) {
			if ctx.Err() == nil {
				f.logLockLost()
			}
			return nil
		}
	}
}

func (f *flusher) logLockLost() {
	f.p.metrics.locksLost.WithLabelValues(fmt.Sprint(f.shard)).Inc()
	f.log.Warn("lock lost; another instance goes on", "lock", f.name)
}

// DrainQueue flushes what is in the queue now, once, shard by shard (those above Config.Shards
// too), waiting for each lock until ctx ends. It may be called whether or not Run runs. Without a
// queue it does nothing. Batches that wait for an earlier one stay. A shard that fails keeps none
// of the others from being flushed; the error has all that failed.
func (p *Pipeline) DrainQueue(ctx context.Context) error {
	if p.cfg.Queue == nil {
		return nil
	}
	var failed []error
	for shard := range spend.MaxShards {
		f := newFlusher(p, shard)
		waiting, err := f.anythingToFlush(ctx)
		if err != nil {
			return errors.Join(append(failed, fmt.Errorf("shard %d: %w", shard, err))...)
		}
		if !waiting {
			continue
		}
		err = f.flush(ctx)
		for errors.Is(err, spend.ErrHeld) && p.time.Sleep(ctx, heldPause, nil) {
			err = f.once(ctx)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("shard %d: %w", shard, err))
		}
	}
	return errors.Join(failed...)
}

// isHeldByInstance says that the lock is held as it is meant to be. What is no instance isn't known
// to give it up: that is a failure.
func isHeldByInstance(err error) bool {
	held, ok := errors.AsType[*spend.HeldError](err)
	return errors.Is(err, spend.ErrHeld) && !(ok && held.Holder.Foreign != "")
}

const heldPause = 100 * time.Millisecond

// learnBooks finds out whose queue is to be flushed. Only Postgres can tell: a note won't do.
func (f *flusher) learnBooks(ctx context.Context) error {
	view := f.p.books.current()
	if !view.fromPostgres {
		var err error
		if view, err = f.p.books.ask(ctx); !view.fromPostgres && err == nil {
			err = spend.ErrBooksUnknown // another goroutine asks just now
		}
		if !view.fromPostgres {
			return fmt.Errorf("ask Postgres for its books: %w", err)
		}
	}
	f.books = view
	return f.p.books.mayUseQueue()
}

// anythingToFlush says whether there is anything in the queue of the books.
func (f *flusher) anythingToFlush(ctx context.Context) (waiting bool, err error) {
	if err := f.learnBooks(ctx); err != nil {
		return false, err
	}
	return f.anyWaiting(ctx)
}

// once flushes what is in the queue, if there is anything.
func (f *flusher) once(ctx context.Context) error {
	if waiting, err := f.anythingToFlush(ctx); err != nil || !waiting {
		return err
	}
	return f.flush(ctx)
}

// flush takes the lock and flushes what is in the queue.
func (f *flusher) flush(ctx context.Context) error {
	lease, err := f.acquire(ctx)
	if err != nil {
		return err
	}
	defer release(ctx, f.p.time, lease, f.log)
	_, err = f.drain(ctx, lease)
	return err
}

func (f *flusher) acquire(ctx context.Context) (spend.Lease, error) {
	ctx, cancel := f.p.time.WithTimeout(ctx, queueTimeout)
	defer cancel()
	lease, err := f.books.locker.Acquire(ctx, f.name)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", f.name, err)
	}
	f.p.metrics.locksWon.WithLabelValues(fmt.Sprint(f.shard)).Inc()
	return lease, nil
}

func (f *flusher) anyWaiting(ctx context.Context) (bool, error) {
	ctx, cancel := f.p.time.WithTimeout(ctx, queueTimeout)
	defer cancel()
	stats, err := f.books.queue.Stats(ctx, f.shard)
	if err != nil {
		return false, fmt.Errorf("look at the queue: %w", err)
	}
	return stats.Batches > 0, nil
}

// drain walks over the queue once, from its head to its end, and commits what it finds, as much at
// once as it may: sums over many batches are hardly more rows than those of one. It says whether it
// took anything out.
func (f *flusher) drain(ctx context.Context, lease spend.Lease) (flushed bool, err error) {
	// At every walk: other processes have published since, and what they committed may be gone from
	// Postgres.
	if err := f.commits.readBooked(ctx); err != nil {
		return false, err
	}

	plan := f.commits.newPlan()
	plan.books = f.books.id
	defer func() { f.note(plan) }()
	var after spend.EntryID
	for more := true; more; {
		if after, more, err = f.gather(ctx, lease, plan, after); err != nil {
			return flushed, err
		}
		if err := f.commits.commit(ctx, plan, viaQueue); err != nil {
			// What was committed before is acked all the same.
			f.ack(ctx, plan)
			return flushed, errors.Join(err, plan.failure)
		}
		flushed = f.ack(ctx, plan) || flushed
		// The walk goes on in any case: what fills the gaps may be at the end of the queue.
		left := plan.evict(f.p.cfg.limits.waiting)
		if left > 0 && !f.overBudget {
			f.log.Warn("many batches wait behind gaps; some are left for a later walk", "bytes", left)
		}
		f.overBudget = left > 0
	}

	if isLost(lease) {
		f.logLockLost()
		return flushed, nil
	}
	err = f.finish(ctx, plan)
	flushed = f.ack(ctx, plan) || flushed
	return flushed, errors.Join(err, plan.failure)
}

// gather offers entries behind that one to the plan until they are as many bytes as one flush may
// have, the queue is at its end or the lock is lost. It returns the last one, and whether the walk
// may go on.
func (f *flusher) gather(ctx context.Context, lease spend.Lease, plan *plan, after spend.EntryID) (last spend.EntryID, more bool, err error) {
	for bytes := 0; bytes < f.p.cfg.limits.bytes; {
		if isLost(lease) {
			return after, false, nil
		}
		readCtx, cancel := f.p.time.WithTimeout(ctx, queueTimeout)
		entries, err := f.books.queue.Read(readCtx, f.shard, after, readEntries, readBytes)
		cancel()
		if err != nil {
			return after, false, fmt.Errorf("read the queue: %w", err)
		}
		if len(entries) == 0 {
			return after, false, nil
		}
		after = entries[len(entries)-1].ID
		for _, e := range entries {
			bytes += len(e.Bytes)
			plan.addEntry(e)
		}
	}
	return after, true, nil
}

// finish ends a walk over the whole queue: what has waited for too long for an earlier batch is
// committed without it.
func (f *flusher) finish(ctx context.Context, plan *plan) error {
	f.p.metrics.gaps.WithLabelValues(fmt.Sprint(f.shard)).Set(float64(len(plan.gaps())))
	return f.commits.skipGaps(ctx, plan, f.gaps, viaQueue)
}

// ack quarantines what can't be applied and takes what Postgres has out of the queue. That the
// queue doesn't take an ack is no failure of the flush: the batches are committed, and their
// entries are dropped as duplicates when they are read again. Nor does it end the walk that what
// can't be applied isn't taken into quarantine: it stays in the queue, and plan.failure says why.
func (f *flusher) ack(ctx context.Context, plan *plan) (any bool) {
	if err := f.commits.quarantine(ctx, plan, viaQueue); err != nil {
		plan.failure = errors.Join(plan.failure, err)
		plan.bad = nil // it is read again in the next walk
	}

	ack := plan.ack()
	if len(ack.Entries) == 0 {
		return false
	}
	if f.p.cfg.RewindWindow > 0 {
		ack.Booked = f.commits.rewind.atLeast()
	}

	timeout := queueTimeout
	if f.acks.isFailing() {
		timeout = ackAgainTimeout
	}
	// Also while the pipeline is stopping: what Shutdown waited for is committed then, but not out
	// of the queue yet.
	ctx, cancel := f.p.time.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	if f.ackErr = f.books.queue.Ack(ctx, f.shard, ack); f.ackErr != nil {
		f.acks.failed(f.log, f.p.time.Now(), "batches are committed, but the queue can't be told; they are dropped when they come again", f.ackErr)
		return false
	}

	f.acks.works(f.log, f.p.time.Now(), "the queue takes acks again")
	return true
}

func (f *flusher) note(plan *plan) {
	f.p.metrics.duplicates.Add(float64(plan.stats.duplicates))
	f.p.metrics.unsigned.Add(float64(plan.stats.unsigned))
	f.p.metrics.newer.WithLabelValues(fmt.Sprint(f.shard)).Set(float64(plan.stats.newer))
	f.p.metrics.left.WithLabelValues(fmt.Sprint(f.shard)).Set(float64(plan.stats.left))
	f.noteLeft(plan.stats)
	if plan.stats.newer > 0 && !f.seenNewer {
		f.log.Warn("batches of a newer format wait for an instance that knows it", "batches", plan.stats.newer)
	}
	f.seenNewer = plan.stats.newer > 0
}

// leftEvery is how often it is logged that entries are left.
const leftEvery = time.Minute

// noteLeft logs entries that quarantine has no room for.
func (f *flusher) noteLeft(s planStats) {
	now := f.p.time.Now()
	switch {
	case s.left == 0:
		f.loggedLeft = time.Time{}
	case f.loggedLeft.IsZero() || now.Sub(f.loggedLeft) >= leftEvery:
		f.loggedLeft = now
		f.log.Error("THE QUARANTINE IS FULL of batches that no instance of these books is known to have made: more of them are left in the "+
			"queue, where they take its room. Another program writes to the queue, or an instance has another key",
			"batches", s.left, "bytes", s.leftBytes)
	}
}
