package spendflush

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// committer brings batches of one shard into Postgres, wherever they come from: from the queue,
// from an outbox, or from a journal. It reads marks, applies flushes, skips gaps and quarantines
// what can't be booked. It is safe for concurrent use.
type committer struct {
	shard     int
	cfg       *Config
	time      clock
	log       *slog.Logger
	metrics   *metrics
	recent    *recentFlushes
	confirmed func(marks map[spend.ProducerID]spend.Mark)  // called for each commit
	decided   func(f *spend.Flush, taken []spend.TakenOut) // and then for one with facts
	rewind    rewindDetector
	books     *booksHolder
	known     *spend.KnownKeys

	mu      sync.Mutex // no I/O under it
	size    flushSize
	horizon time.Time          // Marks.Horizon as last read
	trouble []spend.ProducerID // as in trouble.known, after the last flush

	stuckSince time.Time // since when what the queue retains can't be put back; zero if that isn't so
	conflicts  int64     // updates in conflict since they were logged last
	conflictAt time.Time // when that was
	nextBooked time.Time // before it, direct writes don't ask a queue that didn't answer what it knows of the books
}

// via is the way that batches have come.
type via string

const (
	viaQueue  via = "queue"
	viaDirect via = "direct"
)

// committer returns the committer of the shard.
func (p *Pipeline) committer(shard int) *committer {
	p.committersMu.Lock()
	defer p.committersMu.Unlock()
	c := p.committers[shard]
	if c == nil {
		c = &committer{
			shard: shard, cfg: &p.cfg, time: p.time, log: p.log.With("shard", shard), metrics: p.metrics, recent: &p.recent,
			confirmed: func(marks map[spend.ProducerID]spend.Mark) { p.confirmOwn(shard, marks) },
			decided:   func(f *spend.Flush, taken []spend.TakenOut) { p.decideOwn(shard, f, taken) },
			size:      newFlushSize(p.cfg.limits.flush), books: &p.books,
			known: spend.NewKnownKeys(p.cfg.limits.keys / p.cfg.Shards),
		}
		p.committers[shard] = c
	}
	return c
}

// confirmOwn spares this instance's own outbox the way over the queue.
func (p *Pipeline) confirmOwn(shard int, marks map[spend.ProducerID]spend.Mark) {
	if shard >= len(p.relays) {
		return
	}
	r := p.relays[shard]
	id := r.identity()
	if mark, ok := marks[id]; ok {
		r.confirm(id, mark)
	}
}

// newPlan returns an empty plan for one walk.
func (c *committer) newPlan() *plan {
	plan := newPlan(c.shard)
	plan.books, plan.begun = c.books.id(), c.cfg.traceClock(c.time)
	plan.keys, plan.known = &c.cfg.BatchKeys, c.known
	c.mu.Lock()
	defer c.mu.Unlock()
	plan.limit, plan.trouble = c.size.limit, newTrouble(c.trouble)
	return plan
}

// commit commits all that the plan can commit. Marks are read when they aren't known and again when
// a claim is lost. A batch that can't be committed by itself is no error: it is left, and
// plan.failure says why.
func (c *committer) commit(ctx context.Context, plan *plan, by via) error {
	for try := 0; ; {
		if err := c.learn(ctx, plan); err != nil {
			return err
		}
		if c.awaitsRequeue(by) {
			return errNotRequeued
		}
		f := plan.next()
		if f == nil {
			return nil
		}

		err := c.apply(ctx, plan, f, by)
		switch {
		case err == nil:
			try = 0

		case errors.Is(err, spend.ErrFenced):
			plan.fenced(f)
			c.metrics.fenced.Inc()
			if try++; try > maxFenced {
				return fmt.Errorf("commit: gave way %d times: %w", try, err)
			}

		case errors.Is(err, spend.ErrOtherBooks):
			plan.fenced(f)
			c.books.recheck()
			return fmt.Errorf("commit: %w", err)

		case errors.Is(err, spend.ErrRefused):
			c.log.Error("Postgres refuses a flush for what it is; its batches are tried one by one", "error", err)
			plan.refused(err)

		default:
			err = fmt.Errorf("commit: %w", err)
			b := plan.taken[0]
			alone := plan.failed(f)
			if alone {
				c.noteTrouble(plan)
			} else {
				c.shrink(plan, f)
			}
			if ctx.Err() != nil {
				return err
			}
			if !alone { // a Postgres that is away can't tell the marks either: that ends the walk
				c.log.Warn("a flush fails; a smaller one is tried at once", "rows", len(f.Totals)+len(f.Rollups), "error", err)
				continue
			}
			plan.failure = err
			c.log.Warn("a batch can't be committed by itself; other producers' go first",
				"of_producer", b.Producer.String(), "sequence", b.Sequence, "error", err)
		}
	}
}

// maxFenced is how often a flush reads the marks again before it leaves the field to whatever gets
// ahead of it.
const maxFenced = 10

// learn reads the marks that the plan lacks.
func (c *committer) learn(ctx context.Context, plan *plan) error {
	ids := plan.unknown()
	if len(ids) == 0 {
		return nil
	}
	marks, err := c.readMarks(ctx, ids)
	if err != nil {
		return err
	}
	plan.learn(ids, marks)
	return nil
}

// apply commits one flush of the plan, and reports it.
func (c *committer) apply(ctx context.Context, plan *plan, f *spend.Flush, by via) error {
	before := c.rewind.atLeast()
	var taken []spend.TakenOut
	if len(f.Facts) > 0 {
		f.Outcome = &taken
	}
	start := c.time.Now()
	applyCtx, cancel := c.time.WithTimeout(ctx, applyTimeout)
	defer cancel()
	err := c.cfg.Store.Apply(applyCtx, f)
	end := c.time.Now()
	traceID := c.traceFlush(plan, f, by, start, end, err)
	if err != nil {
		return err
	}

	c.rewind.observe(before + 1)
	c.metrics.flushed(f, taken, string(by), end.Sub(start), traceID)
	c.recent.add(flushStatus(f, plan.taken, string(by), start, end))
	c.logFlush(f)
	c.logConflicts(taken)
	plan.applied(f)
	c.grow(plan)
	c.confirmed(plan.marks)
	if len(f.Facts) > 0 {
		c.decided(f, taken)
	}
	c.log.Debug("flushed", "path", string(by), "producers", len(f.Claims), "totals", len(f.Totals), "rollups", len(f.Rollups),
		"updates", f.Control.Rollups.APIRequests(), "amount", f.Control.Rollups.Spend, "took", end.Sub(start))
	return nil
}

// logFlush says loudly what a committed flush has skipped as lost or set aside, and what was found
// again.
func (c *committer) logFlush(f *spend.Flush) {
	for _, l := range f.Lost {
		if l.Quarantined {
			c.log.Error("batch quarantined", "of_producer", l.Producer.String(), "sequence", l.First, "reason", l.Reason)
			continue
		}
		c.log.Error("BATCHES ARE LOST: they were passed, and are in spendflush.lost_batches",
			"of_producer", l.Producer.String(), "reason", l.Reason)
	}
	for _, b := range f.Found {
		if b.Updates == 0 {
			continue // it is set aside
		}
		c.log.Warn("a batch that was passed as lost has turned up and is counted",
			"of_producer", b.Producer.String(), "sequence", b.Sequence, "updates", b.Updates, "amount", b.Amount)
	}
}

// logConflicts says once a minute how many updates are set aside because others have their ids.
func (c *committer) logConflicts(taken []spend.TakenOut) {
	_, n := takenUpdates(taken)
	if n == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conflicts += n
	if now := c.time.Now(); now.Sub(c.conflictAt) >= failureInterval {
		c.log.Warn("updates are in quarantine: the books have another content under their ids", "updates", c.conflicts)
		c.conflicts, c.conflictAt = 0, now
	}
}

// shrink makes the next flush half as large as the one that failed.
func (c *committer) shrink(plan *plan, f *spend.Flush) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.size.failed(f)
	plan.limit = c.size.limit
}

// grow notes a success: in time flushes get larger again.
func (c *committer) grow(plan *plan) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.size.succeeded()
	c.trouble = slices.Clone(plan.trouble.known)
	plan.limit = c.size.limit
}

// noteTrouble has the next walk know whose batch failed by itself. A flush of it can't get smaller.
func (c *committer) noteTrouble(plan *plan) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trouble = slices.Clone(plan.trouble.known)
}

// skipGaps commits the batches that have waited for an earlier one of their producer for
// Config.GapGrace, and with them that the earlier one is lost. The plan has seen the whole queue.
func (c *committer) skipGaps(ctx context.Context, plan *plan, watch gapWatch, by via) error {
	overdue := watch.overdue(plan.gaps(), c.time.Now(), c.cfg.GapGrace)
	if len(overdue) == 0 {
		return nil
	}
	for _, id := range overdue {
		plan.skipping[id] = fmt.Sprintf("missing for %s", c.cfg.GapGrace)
	}
	defer clear(plan.skipping)
	return c.commit(ctx, plan, by)
}

// writeDirectly commits batches under the direct lock without the queue. Gaps between the batches
// of abandoned are skipped at once, because its producer has nothing more to fill them with.
func (c *committer) writeDirectly(ctx context.Context, batches []*outgoing, gaps gapWatch, abandoned spend.ProducerID) error {
	lockCtx, cancel := c.time.WithTimeout(ctx, queueTimeout)
	lease, err := c.cfg.DirectLocker.Acquire(lockCtx, fmt.Sprintf("direct/%d", c.shard))
	cancel()
	if err != nil {
		return fmt.Errorf("direct lock: %w", err)
	}
	defer release(ctx, c.time, lease, c.log)

	c.tryBooked(ctx)
	plan := c.newPlan()
	for _, b := range batches {
		plan.addEntry(spend.Entry{Bytes: b.Bytes()}) // nothing of the queue is acked by it
	}

	if abandoned != (spend.ProducerID{}) {
		plan.skipping[abandoned] = "Postgres was turned back, and the producer has them no more"
	}
	if err := c.commit(ctx, plan, viaDirect); err != nil {
		return err
	}

	clear(plan.skipping)
	if err := c.skipGaps(ctx, plan, gaps, viaDirect); err != nil {
		return err
	}
	return errors.Join(c.quarantine(ctx, plan, viaDirect), plan.failure)
}

// release gives a lease up even while the pipeline is stopping.
func release(ctx context.Context, time clock, lease spend.Lease, log *slog.Logger) {
	ctx, cancel := time.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	if err := lease.Release(ctx); err != nil {
		log.Debug("lock can't be released; it will expire", "error", err)
	}
}

const releaseTimeout = 2 * time.Second
