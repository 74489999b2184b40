package spendflush

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/spendflush/spendflush/internal/bounds"
	"github.com/spendflush/spendflush/spend"
)

// rewindDetector notices a database that was turned back: one restored from a backup, or a standby
// promoted that didn't have the last commits yet. It knows how many changes the books of a shard
// have had (Marks.Changes). Marks and sums rewind together, so the books are right for an earlier
// moment; what was committed since is brought back from where it is retained.
type rewindDetector struct {
	mu      sync.Mutex // no I/O under it
	changes int64      // a read that begins now must find at least as many
	requeue bool       // what the queue retains must be put back into it
	noticed time.Time  // when the books were last seen to be turned back; zero: never
}

// atLeast returns how many changes any read of the books that begins now must find.
func (d *rewindDetector) atLeast() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.changes
}

// observe notes that the books have had so many changes.
func (d *rewindDetector) observe(changes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.changes = max(d.changes, changes)
}

// compare takes what a read found that began when the books had had at least so many changes. It
// says whether the books were turned back since, once each time.
func (d *rewindDetector) compare(atLeast, changes int64, now time.Time) (turnedBack bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if changes >= atLeast {
		d.changes = max(d.changes, changes)
		return false
	}
	turnedBack = d.changes == atLeast // else another read has reported it already
	d.changes = changes
	d.requeue = true
	d.noticed = now
	return turnedBack
}

// noticedSince says whether the books were seen to be turned back at that time or later.
func (d *rewindDetector) noticedSince(t time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.noticed.IsZero() && !d.noticed.Before(t)
}

func (d *rewindDetector) mustRequeue() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.requeue
}

func (d *rewindDetector) requeued() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.requeue = false
}

// reset begins anew, for other books.
func (d *rewindDetector) reset() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.changes, d.requeue, d.noticed = 0, false, time.Time{}
}

// readMarks reads marks, and finds out by it whether Postgres was turned back.
func (c *committer) readMarks(ctx context.Context, ids []spend.ProducerID) (spend.Marks, error) {
	ctx, cancel := c.time.WithTimeout(ctx, marksTimeout)
	defer cancel()
	atLeast := c.rewind.atLeast() // before the reading, or a commit meanwhile would look like a rewind
	books := c.books.id()
	marks, err := c.cfg.Store.Marks(ctx, c.shard, ids)
	if err != nil {
		return spend.Marks{}, fmt.Errorf("read marks: %w", err)
	}
	c.books.learn(marks.Books, true)
	if !books.IsZero() && marks.Books != books {
		return spend.Marks{}, fmt.Errorf("read marks: %w: the database has the books %s, and %s were known", spend.ErrOtherBooks, marks.Books, books)
	}
	if c.rewind.compare(atLeast, marks.Changes, c.time.Now()) {
		c.metrics.rewinds.Inc()
		c.log.Error("Postgres was turned back: updates that were committed are gone from the books; what is retained of them is sent again",
			"changes_before", atLeast, "changes_now", marks.Changes, "rewind_window", c.cfg.RewindWindow)
	}
	c.mu.Lock()
	c.horizon = marks.Horizon
	c.mu.Unlock()
	c.requeue(ctx)
	return marks, nil
}

// pruned returns the time before which an identity looks like one whose mark was pruned, as last
// read.
func (c *committer) pruned() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.horizon
}

// retainer returns the queue if it retains what is acked, and there is a rewind window.
func (c *committer) retainer() (spend.Retainer, bool) {
	retainer, ok := c.books.current().queue.(spend.Retainer)
	return retainer, ok && c.cfg.RewindWindow > 0
}

// requeue has the queue put back what it retains, if Postgres was turned back and that wasn't done
// yet.
func (c *committer) requeue(ctx context.Context) {
	retainer, ok := c.retainer()
	if !ok || !c.rewind.mustRequeue() || c.books.mayUseQueue() != nil {
		return
	}
	entries, err := retainer.Requeue(ctx, c.shard)
	if err != nil {
		c.log.Warn("what the queue retains can't be put back yet; it is tried again", "error", err)
		c.mu.Lock()
		if c.stuckSince.IsZero() {
			c.stuckSince = c.time.Now()
		}
		c.mu.Unlock()
		return
	}
	c.mu.Lock()
	c.stuckSince = time.Time{}
	c.mu.Unlock()
	c.rewind.requeued()
	c.log.Info("what the queue retained is in it again", "batches", entries)
}

// errNotRequeued is why a flusher leaves a shard alone for now. What it would commit could make up
// for what is missing: were its process to end then, no other one would put back what is retained.
var errNotRequeued = errors.New("what the queue retains can't be put back yet, though Postgres was turned back")

// requeuePatience is how long a flusher waits for what the queue retains to be put back. A queue
// whose ids are used up takes nothing until it is empty.
const requeuePatience = time.Minute

// awaitsRequeue says whether Postgres is known to be turned back, and the queue still retains what
// it lacks. A direct write doesn't wait for the queue.
func (c *committer) awaitsRequeue(by via) bool {
	if _, ok := c.retainer(); !ok || by != viaQueue || !c.rewind.mustRequeue() {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stuckSince.IsZero() || c.time.Now().Sub(c.stuckSince) < requeuePatience
}

// readBooked learns how many changes the books had as other processes have seen them. It comes
// before the marks are read that this process commits by: what it adds could make up for what a
// turned-back Postgres lacks, and then that would go unnoticed. Without a rewind window, or a queue
// that retains anything, there is no such number.
func (c *committer) readBooked(ctx context.Context) error {
	retainer, ok := c.retainer()
	if !ok {
		return nil
	}
	ctx, cancel := c.time.WithTimeout(ctx, queueTimeout)
	defer cancel()
	booked, err := retainer.Booked(ctx, c.shard)
	if err != nil {
		return fmt.Errorf("read how many changes the books had: %w", err)
	}
	c.rewind.observe(booked)
	return nil
}

// tryBooked is readBooked for a direct write, which has to go on without the queue. One that hangs
// is given little time, and not at every write.
func (c *committer) tryBooked(ctx context.Context) {
	c.mu.Lock()
	skip := c.time.Now().Before(c.nextBooked)
	c.mu.Unlock()
	if skip {
		return
	}
	bookedCtx, cancel := c.time.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if err := c.readBooked(bookedCtx); err != nil {
		c.log.Debug("a direct write goes on without what the queue knows of the books", "error", err)
		c.mu.Lock()
		c.nextBooked = c.time.Now().Add(rewindCheck)
		c.mu.Unlock()
	}
}

// checkRewind looks whether Postgres was turned back, and expires what the queue has retained for
// long enough.
func (c *committer) checkRewind(ctx context.Context) error {
	books := c.books.id()
	if err := c.readBooked(ctx); err != nil {
		return err
	}
	if _, err := c.readMarks(ctx, nil); err != nil {
		return err
	}
	retainer, ok := c.retainer()
	if !ok || c.rewind.mustRequeue() || c.books.mayUseQueue() != nil {
		return nil
	}
	if books.IsZero() || c.books.id() != books {
		return nil // what was published of these books wasn't read, so it can't be told whether Postgres has everything
	}
	// Postgres was just seen to have everything, so what was committed a window ago can go.
	ctx, cancel := c.time.WithTimeout(ctx, queueTimeout)
	defer cancel()
	return retainer.Expire(ctx, c.shard, c.cfg.RewindWindow, c.time.Now())
}

// watchRewinds looks whether Postgres was turned back, also while nothing is flushed. It works
// until ctx ends.
func (p *Pipeline) watchRewinds(ctx context.Context) {
	var nextOrphans time.Time
	for p.time.Sleep(ctx, rewindCheck, nil) {
		shards := p.ownShards()
		if now := p.time.Now(); !now.Before(nextOrphans) {
			nextOrphans = now.Add(orphanInterval)
			shards = append(shards, p.retainedOrphans(ctx)...)
		}
		for _, shard := range shards {
			if err := p.checkRewind(ctx, shard); err != nil {
				p.log.Debug("it can't be looked whether Postgres was turned back", "shard", shard, "error", err)
			}
		}
	}
}

func (p *Pipeline) checkRewind(ctx context.Context, shard int) error {
	return p.committer(shard).checkRewind(ctx)
}

func (p *Pipeline) ownShards() (shards []int) {
	for shard := range p.cfg.Shards {
		shards = append(shards, shard)
	}
	return shards
}

// retainedOrphans returns the shards above Config.Shards of which the queue retains something.
func (p *Pipeline) retainedOrphans(ctx context.Context) []int {
	return slices.DeleteFunc(p.retained(ctx), func(shard int) bool { return shard < p.cfg.Shards })
}

// retained returns the shards of which the queue retains something, none if it doesn't say.
func (p *Pipeline) retained(ctx context.Context) []int {
	view := p.books.current()
	retainer, ok := view.queue.(spend.Retainer)
	if !ok || view.id.IsZero() {
		return nil
	}
	ctx, cancel := p.time.WithTimeout(ctx, queueTimeout)
	defer cancel()
	shards, err := retainer.Retained(ctx)
	if err != nil {
		p.log.Debug("what the queue retains can't be looked at", "error", err)
		return nil
	}
	return shards
}

// touchMarks touches and prunes marks now and then. It works until ctx ends.
func (p *Pipeline) touchMarks(ctx context.Context) {
	for wait := time.Minute; p.time.Sleep(ctx, wait, nil); {
		wait = touchInterval
		if err := p.touchOnce(ctx); err != nil {
			p.log.Debug("marks can't be touched", "error", err)
			wait = time.Minute
		}
	}
}

// touchOnce keeps this instance's marks from being pruned, prunes those that no process needs any
// more, and expires what the queue has retained from a time when there was a rewind window.
func (p *Pipeline) touchOnce(ctx context.Context) error {
	callCtx, cancel := p.time.WithTimeout(ctx, marksTimeout)
	pruned, err := p.cfg.Store.TouchMarks(callCtx, p.identities(), p.time.Now(), markRetention)
	cancel()
	if pruned > 0 {
		p.log.Info("marks of producers that are gone were pruned", "marks", pruned)
	}
	if p.cfg.RewindWindow > 0 {
		return err
	}
	for _, shard := range p.retained(ctx) {
		callCtx, cancel := p.time.WithTimeout(ctx, queueTimeout)
		// Other instances may have a window still.
		if err := p.books.current().queue.(spend.Retainer).Expire(callCtx, shard, time.Duration(bounds.RewindWindow.Most), p.time.Now()); err != nil {
			p.log.Debug("what the queue has retained can't be looked at", "shard", shard, "error", err)
		}
		cancel()
	}
	return err
}
