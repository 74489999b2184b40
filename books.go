package spendflush

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// shardBooks is what this process knows of the books of a shard, so as to notice a database that was turned back: one
// restored from a backup, or a standby promoted that didn't have the last commits yet. Marks and sums rewind together, so
// the books are right for an earlier moment; what was committed since is brought back from where it is kept.
type shardBooks struct {
	mu      sync.Mutex // no I/O under it
	updates int64      // the books had at least as many when a read that begins now
	requeue bool       // what the queue keeps must be put back into it
	looked  bool       // what others have published was looked at
}

func (b *shardBooks) atLeast() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.updates
}

// grown notes that the books have so many updates, or had them once.
func (b *shardBooks) grown(updates int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.updates = max(b.updates, updates)
}

// compare takes a reading that began when the books had at least that many updates. It says whether the books were turned
// back since, once each time.
func (b *shardBooks) compare(atLeast, updates int64) (turnedBack bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if updates >= atLeast {
		b.updates = max(b.updates, updates)
		return false
	}
	turnedBack = b.updates == atLeast // else another reading has told already
	b.updates = updates
	b.requeue = true
	return turnedBack
}

func (b *shardBooks) mustRequeue() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.requeue
}

func (b *shardBooks) hasLooked() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.looked
}

// published takes the number that others have published.
func (b *shardBooks) published(updates int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.updates, b.looked = max(b.updates, updates), true
}

func (b *shardBooks) requeued() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.requeue = false
}

// readMarks reads marks from Postgres. If it finds the books turned back, it has the queue put back what it keeps.
func (p *Pipeline) readMarks(ctx context.Context, shard int, ids []ProducerID) (Marks, error) {
	ctx, cancel := context.WithTimeout(ctx, marksTimeout)
	defer cancel()
	books := &p.books[shard]
	atLeast := books.atLeast() // before the reading, or a commit meanwhile would look like a rewind
	marks, err := p.cfg.Store.Marks(ctx, shard, ids)
	if err != nil {
		return Marks{}, fmt.Errorf("read marks: %w", err)
	}
	if books.compare(atLeast, marks.Updates) {
		p.metrics.rewinds.Inc()
		p.log.Error("Postgres was turned back: updates that were committed are gone from the books; what is kept of them is sent again",
			"shard", shard, "updates_before", atLeast, "updates_now", marks.Updates, "rewind_window", p.cfg.RewindWindow)
	}
	p.requeue(ctx, shard)
	return marks, nil
}

// requeue has the queue put back what it keeps, if Postgres was turned back and that wasn't done yet.
func (p *Pipeline) requeue(ctx context.Context, shard int) {
	books := &p.books[shard]
	keeper, ok := p.cfg.Queue.(Keeper)
	if !books.mustRequeue() || !ok || p.cfg.RewindWindow == 0 {
		return
	}
	entries, err := keeper.Requeue(ctx, shard)
	if err != nil {
		p.log.Warn("what the queue keeps can't be put back yet; it is tried again", "shard", shard, "error", err)
		return
	}
	books.requeued()
	p.log.Info("what the queue kept is in it again", "shard", shard, "batches", entries)
}

// watchBooks looks whether Postgres was turned back, also while nothing is flushed, and has the queue forget what it has
// kept for long enough. It works until ctx ends.
func (p *Pipeline) watchBooks(ctx context.Context) {
	for p.time.Sleep(ctx, rewindCheck, nil) {
		for shard := range p.cfg.Shards {
			if err := p.lookAtBooks(ctx, shard); err != nil {
				p.log.Debug("it can't be looked whether Postgres was turned back", "shard", shard, "error", err)
			}
		}
	}
}

// readPublished looks at how many updates the books had as others have seen them, for the case that none of them is alive.
// Without a rewind window, or a queue that keeps anything, there is no such number.
func (p *Pipeline) readPublished(ctx context.Context, shard int) error {
	keeper, ok := p.cfg.Queue.(Keeper)
	if !ok || p.cfg.RewindWindow == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, queueTimeout)
	defer cancel()
	published, err := keeper.Booked(ctx, shard)
	if err != nil {
		return fmt.Errorf("read what the books had: %w", err)
	}
	p.books[shard].published(published)
	return nil
}

func (p *Pipeline) lookAtBooks(ctx context.Context, shard int) error {
	if err := p.readPublished(ctx, shard); err != nil {
		return err
	}
	keeper, isKeeper := p.cfg.Queue.(Keeper)
	if _, err := p.readMarks(ctx, shard, nil); err != nil {
		return err
	}
	if !isKeeper || p.books[shard].mustRequeue() {
		return nil
	}
	// Postgres was just seen to have everything, so what was committed a window ago can go.
	ctx, cancel := context.WithTimeout(ctx, queueTimeout)
	defer cancel()
	return keeper.Expire(ctx, shard, p.cfg.RewindWindow, p.time.Now())
}

// tendMarks keeps this producer's marks from being cleaned up, and cleans up those that nobody uses any more, and what the
// queue has kept from a time when there was a rewind window. It works until ctx ends.
func (p *Pipeline) tendMarks(ctx context.Context) {
	for wait := time.Minute; p.time.Sleep(ctx, wait, nil); {
		callCtx, cancel := context.WithTimeout(ctx, marksTimeout)
		cleaned, err := p.cfg.Store.Tend(callCtx, p.identities(), p.time.Now(), markRetention)
		cancel()
		wait = tendInterval
		if err != nil {
			p.log.Debug("marks can't be tended", "error", err)
			wait = time.Minute
		}
		if cleaned > 0 {
			p.log.Info("marks of producers that are gone were cleaned up", "marks", cleaned)
		}
		if keeper, ok := p.cfg.Queue.(Keeper); ok && p.cfg.RewindWindow == 0 {
			for shard := range p.cfg.Shards {
				callCtx, cancel := context.WithTimeout(ctx, queueTimeout)
				// Other instances may have a window still.
				if err := keeper.Expire(callCtx, shard, maxRewindWindow, p.time.Now()); err != nil {
					p.log.Debug("what the queue has kept can't be looked at", "shard", shard, "error", err)
				}
				cancel()
			}
		}
	}
}
