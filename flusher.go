package spendflush

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// flusher is the consumer's side of one shard: while it holds the lock it walks over the queue and commits it. One
// goroutine runs it.
//
// A holder keeps the lock from one flush to the next for as long as there is something to flush, so that the pace is
// FlushInterval however many instances there are, and gives it up when it finds the queue empty.
type flusher struct {
	p     *Pipeline
	shard int
	name  string
	log   *slog.Logger
	lease atomic.Pointer[heldLease]

	pause     backoff
	failed    bool // the last try failed, and that was logged
	seenNewer bool // batches of a newer format were seen, and that was logged
}

type heldLease struct {
	Lease
	since time.Time
}

func newFlusher(p *Pipeline, shard int) *flusher {
	return &flusher{p: p, shard: shard, name: fmt.Sprintf("flush/%d", shard), log: p.log.With("shard", shard)}
}

// holds says since when this instance has the lock, and whether it can still be trusted.
func (f *flusher) holds() (since time.Time, ok bool) {
	held := f.lease.Load()
	if held == nil {
		return time.Time{}, false
	}
	select {
	case <-held.Lost():
		return time.Time{}, false
	default:
		return held.since, true
	}
}

// run works until ctx ends.
func (f *flusher) run(ctx context.Context) {
	for {
		// The jitter keeps instances from asking all at once.
		wait := f.p.cfg.FlushInterval/2 + rand.N(f.p.cfg.FlushInterval)
		if f.failed {
			wait = max(wait, f.pause.next())
		}
		if !sleep(ctx, wait, nil) {
			return
		}
		f.report(ctx, f.term(ctx))
	}
}

func (f *flusher) report(ctx context.Context, err error) {
	switch {
	case err == nil || errors.Is(err, ErrHeld):
		if f.failed && err == nil {
			f.log.Info("flushing works again")
		}
		f.failed = f.failed && err != nil
		f.pause.reset()
	case ctx.Err() != nil:
	case !f.failed:
		f.failed = true
		f.log.Warn("flush fails; batches stay in the queue and are tried again", "error", err)
	default:
		f.log.Debug("flush still fails", "error", err)
	}
}

// term acquires the lock if there is something to flush, and flushes until the queue is empty or the lock is lost.
func (f *flusher) term(ctx context.Context) error {
	if waiting, err := f.anyWaiting(ctx); err != nil || !waiting {
		return err
	}
	lease, err := f.acquire(ctx)
	if err != nil {
		return err
	}
	f.lease.Store(&heldLease{lease, time.Now()})
	f.log.Debug("lock won", "lock", f.name)
	defer func() {
		f.lease.Store(nil)
		f.p.release(ctx, lease)
		f.log.Debug("lock released", "lock", f.name)
	}()
	for {
		flushed, err := f.drain(ctx, lease)
		if err != nil || !flushed {
			return err
		}
		if !sleep(ctx, f.p.cfg.FlushInterval, lease.Lost()) {
			return nil
		}
	}
}

// DrainQueue flushes what is in the queue now, once, shard by shard (those above Config.Shards too), waiting for each
// lock until ctx ends. It may be called whether or not Run runs. Without a queue it does nothing. Batches that wait for
// an earlier one stay.
func (p *Pipeline) DrainQueue(ctx context.Context) error {
	if p.cfg.Queue == nil {
		return nil
	}
	for shard := range MaxShards {
		f := newFlusher(p, shard)
		for {
			err := f.once(ctx)
			if err == nil {
				break
			}
			if !errors.Is(err, ErrHeld) || !sleep(ctx, heldPause, nil) {
				return fmt.Errorf("shard %d: %w", shard, err)
			}
		}
	}
	return nil
}

const heldPause = 100 * time.Millisecond

// once flushes what is in the queue, if there is anything.
func (f *flusher) once(ctx context.Context) error {
	if waiting, err := f.anyWaiting(ctx); err != nil || !waiting {
		return err
	}
	lease, err := f.acquire(ctx)
	if err != nil {
		return err
	}
	defer f.p.release(ctx, lease)
	_, err = f.drain(ctx, lease)
	return err
}

func (f *flusher) acquire(ctx context.Context) (Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, queueTimeout)
	defer cancel()
	lease, err := f.p.cfg.Locker.Acquire(ctx, f.name)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", f.name, err)
	}
	f.p.metrics.locksWon.Inc()
	return lease, nil
}

func (f *flusher) anyWaiting(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, queueTimeout)
	defer cancel()
	stats, err := f.p.cfg.Queue.Stats(ctx, f.shard)
	if err != nil {
		return false, fmt.Errorf("look at the queue: %w", err)
	}
	return stats.Batches > 0, nil
}

// drain walks over the queue once, from its head to its end, and commits what it finds. It says whether it took
// anything out.
func (f *flusher) drain(ctx context.Context, lease Lease) (flushed bool, err error) {
	plan := newPlan(f.shard)
	defer func() { f.note(plan) }()
	var after EntryID
	for {
		select {
		case <-lease.Lost():
			f.p.metrics.locksLost.Inc()
			f.log.Warn("lock lost; another instance goes on", "lock", f.name)
			return flushed, nil
		default:
		}
		readCtx, cancel := context.WithTimeout(ctx, queueTimeout)
		entries, err := f.p.cfg.Queue.Read(readCtx, f.shard, after, readEntries, readBytes)
		cancel()
		if err != nil {
			return flushed, fmt.Errorf("read the queue: %w", err)
		}
		if len(entries) == 0 {
			return flushed, nil
		}
		after = entries[len(entries)-1].ID
		for _, e := range entries {
			plan.offer(e)
		}
		if err := f.p.commitAll(ctx, plan, "queue"); err != nil {
			return flushed, err
		}
		settled, err := f.settle(ctx, plan)
		if err != nil {
			return flushed, err
		}
		flushed = flushed || settled
		if _, bytes := plan.waiting(); bytes > waitingBudget {
			// The walk goes on: what fills the gaps may be at the end of the queue.
			f.log.Warn("too many batches wait behind gaps; they are left for a later walk", "bytes", bytes)
			plan.forgetWaiting()
		}
	}
}

// settle quarantines what can't be applied and takes what Postgres has out of the queue.
func (f *flusher) settle(ctx context.Context, plan *plan) (any bool, err error) {
	if err := f.quarantine(ctx, plan); err != nil {
		return false, err
	}
	ids, marks := plan.settle()
	if len(ids) == 0 {
		return false, nil
	}
	// Also while the pipeline is stopping: what Shutdown waited for is committed then, but not out of the queue yet.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), queueTimeout)
	defer cancel()
	if err := f.p.cfg.Queue.Settle(ctx, f.shard, ids, marks); err != nil {
		return false, fmt.Errorf("settle: %w", err)
	}
	return true, nil
}

func (f *flusher) quarantine(ctx context.Context, plan *plan) error {
	if len(plan.bad) == 0 {
		return nil
	}
	bad := make([]BadBatch, len(plan.bad))
	for i, b := range plan.bad {
		bad[i] = b.BadBatch
	}
	ctx, cancel := context.WithTimeout(ctx, marksTimeout)
	defer cancel()
	if err := f.p.cfg.Store.Quarantine(ctx, bad); err != nil {
		return fmt.Errorf("quarantine: %w", err)
	}
	for _, b := range plan.bad {
		f.log.Error("batch quarantined", "entry", string(b.entry), "bytes", len(b.Bytes), "reason", b.Reason)
		plan.done = append(plan.done, b.entry)
	}
	f.p.metrics.quarantined.Add(float64(len(bad)))
	plan.bad = nil
	return nil
}

func (f *flusher) note(plan *plan) {
	f.p.metrics.duplicates.Add(float64(plan.stats.duplicates))
	f.p.metrics.newer.WithLabelValues(fmt.Sprint(f.shard)).Set(float64(plan.stats.newer))
	if plan.stats.newer > 0 && !f.seenNewer {
		f.log.Warn("batches of a newer format wait for an instance that knows it", "batches", plan.stats.newer)
	}
	f.seenNewer = plan.stats.newer > 0
}

// commitAll commits all that the plan can commit. Marks are read when they aren't known and again when a claim is
// lost.
func (p *Pipeline) commitAll(ctx context.Context, plan *plan, path string) error {
	for try := 0; ; {
		if err := p.readMarks(ctx, plan); err != nil {
			return err
		}
		f := plan.take()
		if f == nil {
			return nil
		}
		err := p.apply(ctx, f, path)
		switch {
		case err == nil:
			plan.applied(f)
			p.confirmOwn(f)
			try = 0
		case errors.Is(err, ErrFenced):
			plan.fenced(f)
			p.metrics.fenced.Inc()
			if try++; try > maxFenced {
				return fmt.Errorf("commit: gave way %d times: %w", try, err)
			}
		default:
			return fmt.Errorf("commit: %w", err)
		}
	}
}

// maxFenced is how often a flush reads the marks again before it leaves the field to whoever gets ahead of it.
const maxFenced = 10

func (p *Pipeline) readMarks(ctx context.Context, plan *plan) error {
	ids := plan.unknown()
	if len(ids) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, marksTimeout)
	defer cancel()
	marks, err := p.cfg.Store.Marks(ctx, plan.shard, ids)
	if err != nil {
		return fmt.Errorf("read marks: %w", err)
	}
	plan.learn(ids, marks)
	return nil
}

func (p *Pipeline) apply(ctx context.Context, f *Flush, path string) error {
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	start := time.Now()
	err := p.cfg.Store.Apply(ctx, f)
	took := time.Since(start)
	if err != nil {
		return err
	}
	p.metrics.flushed(f, path, took)
	p.log.Debug("flushed", "path", path, "shard", f.Shard, "producers", len(f.Claims), "totals", len(f.Totals),
		"rollups", len(f.Rollups), "updates", f.Control[0].APIRequests(), "amount", f.Control[0].Spend, "took", took)
	return nil
}

// confirmOwn spares this instance's own lane the way over the queue.
func (p *Pipeline) confirmOwn(f *Flush) {
	for _, c := range f.Claims {
		if c.Producer == p.producer && f.Shard < len(p.lanes) {
			p.lanes[f.Shard].confirm(c.Last)
		}
	}
}
