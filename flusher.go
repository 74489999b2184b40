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

	denied atomic.Pointer[denial]

	gaps       gapWatch
	pause      backoff
	failed     bool // the last try failed, and that was logged
	seenNewer  bool // batches of a newer format were seen, and that was logged
	overBudget bool // too many batches waited behind gaps, and that was logged
}

type heldLease struct {
	Lease
	since time.Time
}

func newFlusher(p *Pipeline, shard int) *flusher {
	return &flusher{
		p: p, shard: shard, name: fmt.Sprintf("flush/%d", shard), log: p.log.With("shard", shard), gaps: gapWatch{},
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

func isLost(lease Lease) bool {
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
		wait := f.p.cfg.FlushInterval/2 + rand.N(f.p.cfg.FlushInterval)
		if f.failed {
			wait = max(wait, f.pause.next())
		}
		if f.seenNewer {
			wait *= 4 // an instance that knows the newer format should win the lock
		}
		if !sleep(ctx, wait, nil) {
			return
		}
		f.report(ctx, f.term(ctx))
	}
}

// denial is how a server has refused a push, a flush or a direct write.
type denial struct {
	text string
	at   time.Time
}

// denialLasts is how long one is told of after it can't be seen whether it goes on: another instance has the lock, or
// nothing is left to push.
const denialLasts = 10 * time.Second

// noteDenied takes note of whether the server has denied a flush, for people.
func (f *flusher) noteDenied(ctx context.Context, err error) {
	switch last := f.denied.Load(); {
	case errors.Is(err, ErrDenied):
		f.denied.Store(&denial{err.Error(), time.Now()})
	case last == nil || ctx.Err() != nil || errors.Is(err, ErrHeld) && time.Since(last.at) < denialLasts:
	default:
		f.denied.Store(nil)
	}
}

func (f *flusher) report(ctx context.Context, err error) {
	f.noteDenied(ctx, err)
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
		begun := time.Now()
		flushed, err := f.drain(ctx, lease)
		f.noteDenied(ctx, err)
		if err != nil || !flushed || f.seenNewer {
			return err
		}
		// What came while the last flush committed has gathered already.
		if !sleep(ctx, f.p.cfg.FlushInterval-time.Since(begun), lease.Lost()) {
			if ctx.Err() == nil {
				f.tellLockLost()
			}
			return nil
		}
	}
}

func (f *flusher) tellLockLost() {
	f.p.metrics.locksLost.WithLabelValues(fmt.Sprint(f.shard)).Inc()
	f.log.Warn("lock lost; another instance goes on", "lock", f.name)
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
	f.p.metrics.locksWon.WithLabelValues(fmt.Sprint(f.shard)).Inc()
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

// drain walks over the queue once, from its head to its end, and commits what it finds, as much at once as it may: sums
// over many batches are hardly more rows than those of one. It says whether it took anything out.
func (f *flusher) drain(ctx context.Context, lease Lease) (flushed bool, err error) {
	plan := newPlan(f.shard)
	defer func() { f.note(plan) }()
	var after EntryID
	for more := true; more; {
		if after, more, err = f.gather(ctx, lease, plan, after); err != nil {
			return flushed, err
		}
		if err := f.p.commitAll(ctx, plan, "queue"); err != nil {
			return flushed, err
		}
		settled, err := f.settle(ctx, plan)
		if err != nil {
			return flushed, err
		}
		flushed = flushed || settled
		// The walk goes on in any case: what fills the gaps may be at the end of the queue.
		left := plan.trim(waitingBudget)
		if left > 0 && !f.overBudget {
			f.log.Warn("many batches wait behind gaps; some are left for a later walk", "bytes", left)
		}
		f.overBudget = left > 0
	}
	if isLost(lease) {
		f.tellLockLost()
		return flushed, nil
	}
	settled, err := f.finish(ctx, plan)
	return flushed || settled, err
}

// gather offers entries behind that one to the plan until they are as many bytes as one flush may have, the queue is at
// its end or the lock is lost. It returns the last one, and whether the walk may go on.
func (f *flusher) gather(ctx context.Context, lease Lease, plan *plan, after EntryID) (last EntryID, more bool, err error) {
	for bytes := 0; bytes < flushBytes; {
		if isLost(lease) {
			return after, false, nil
		}
		readCtx, cancel := context.WithTimeout(ctx, queueTimeout)
		entries, err := f.p.cfg.Queue.Read(readCtx, f.shard, after, readEntries, readBytes)
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
			plan.offer(e)
		}
	}
	return after, true, nil
}

// finish ends a walk over the whole queue: what has waited for too long for an earlier batch is committed without it.
func (f *flusher) finish(ctx context.Context, plan *plan) (settled bool, err error) {
	f.p.metrics.gaps.WithLabelValues(fmt.Sprint(f.shard)).Set(float64(len(plan.gaps())))
	if err := f.p.passGaps(ctx, plan, f.gaps, "queue"); err != nil {
		return false, err
	}
	return f.settle(ctx, plan)
}

// passGaps commits the batches that have waited for an earlier one of their producer for Config.GapGrace, and with them
// that the earlier one is lost. The plan has seen the whole queue.
func (p *Pipeline) passGaps(ctx context.Context, plan *plan, watch gapWatch, path string) error {
	overdue := watch.overdue(plan.gaps(), time.Now(), p.cfg.GapGrace)
	if len(overdue) == 0 {
		return nil
	}
	for _, id := range overdue {
		plan.passing[id] = fmt.Sprintf("missing for %s", p.cfg.GapGrace)
	}
	defer clear(plan.passing)
	return p.commitAll(ctx, plan, path)
}

// settle quarantines what can't be applied and takes what Postgres has out of the queue.
func (f *flusher) settle(ctx context.Context, plan *plan) (any bool, err error) {
	if err := f.p.quarantine(ctx, plan); err != nil {
		return false, err
	}
	ids, marks := plan.settle()
	if len(ids) == 0 {
		return false, nil
	}
	if f.p.cfg.RewindWindow > 0 {
		marks[booksMark] = uint64(f.p.books[f.shard].atLeast())
	}
	// Also while the pipeline is stopping: what Shutdown waited for is committed then, but not out of the queue yet.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), queueTimeout)
	defer cancel()
	if err := f.p.cfg.Queue.Settle(ctx, f.shard, ids, marks); err != nil {
		return false, fmt.Errorf("settle: %w", err)
	}
	return true, nil
}

// quarantine keeps in Postgres what the plan has set aside.
func (p *Pipeline) quarantine(ctx context.Context, plan *plan) error {
	if len(plan.bad) == 0 {
		return nil
	}
	bad := make([]BadBatch, len(plan.bad))
	for i, b := range plan.bad {
		bad[i] = b.BadBatch
	}
	ctx, cancel := context.WithTimeout(ctx, marksTimeout)
	defer cancel()
	if err := p.cfg.Store.Quarantine(ctx, bad); err != nil {
		return fmt.Errorf("quarantine: %w", err)
	}
	for _, b := range plan.bad {
		p.log.Error("batch quarantined", "shard", plan.shard, "entry", string(b.entry), "bytes", len(b.Bytes), "reason", b.Reason)
		plan.done = append(plan.done, b.entry)
	}
	p.metrics.quarantined.Add(float64(len(bad)))
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
	if !p.books[plan.shard].hasLooked() {
		// Before this process adds anything: that could make up for what a turned-back Postgres lacks, and nobody would
		// notice any more. A direct write has to go on without Redis.
		if err := p.readPublished(ctx, plan.shard); err != nil && path != "direct" {
			return err
		}
	}
	for try := 0; ; {
		if ids := plan.unknown(); len(ids) > 0 {
			marks, err := p.readMarks(ctx, plan.shard, ids)
			if err != nil {
				return err
			}
			plan.learn(ids, marks)
		}
		f := plan.take()
		if f == nil {
			return nil
		}
		books := &p.books[plan.shard]
		before := books.atLeast()
		start := time.Now()
		err := p.apply(ctx, f, path)
		switch {
		case err == nil:
			books.grown(before + f.Control[0].APIRequests())
			p.recent.add(flushStatus(f, plan.taken, path, start, time.Now()))
			plan.applied(f)
			p.confirmOwn(plan)
			try = 0
		case errors.Is(err, ErrFenced):
			plan.fenced(f)
			p.metrics.fenced.Inc()
			if try++; try > maxFenced {
				return fmt.Errorf("commit: gave way %d times: %w", try, err)
			}
		case errors.Is(err, ErrRefused):
			p.log.Error("Postgres refuses a flush for what it is; its batches are tried one by one", "shard", plan.shard, "error", err)
			plan.refused(err)
		default:
			return fmt.Errorf("commit: %w", err)
		}
	}
}

// maxFenced is how often a flush reads the marks again before it leaves the field to whoever gets ahead of it.
const maxFenced = 10

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
	p.tellLost(f)
	p.log.Debug("flushed", "path", path, "shard", f.Shard, "producers", len(f.Claims), "totals", len(f.Totals),
		"rollups", len(f.Rollups), "updates", f.Control[0].APIRequests(), "amount", f.Control[0].Spend, "took", took)
	return nil
}

// tellLost says loudly what a committed flush has passed as lost, and what was found again.
func (p *Pipeline) tellLost(f *Flush) {
	var last string
	for _, l := range f.Lost {
		if l.Reason != last {
			p.log.Error("BATCHES ARE LOST: they were passed, and are in spendflush.lost_batches", "shard", f.Shard,
				"of_producer", l.Producer.String(), "reason", l.Reason)
		}
		last = l.Reason
	}
	for _, b := range f.Found {
		p.log.Warn("a batch that was passed as lost has turned up and is counted", "shard", f.Shard,
			"of_producer", b.Producer.String(), "sequence", b.Sequence, "updates", b.Updates, "amount", b.Amount)
	}
}

// confirmOwn spares this instance's own lane the way over the queue.
func (p *Pipeline) confirmOwn(plan *plan) {
	if mark, ok := plan.marks[p.producer]; ok && plan.shard < len(p.lanes) {
		p.lanes[plan.shard].confirm(mark.Whole())
	}
}
