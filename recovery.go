package spendflush

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// leftover is what earlier processes left in the journal for one shard. Its batches go the way of all batches, under
// their own producers, until Postgres has them.
type leftover struct {
	p            *Pipeline
	shard        int
	commits      *committer
	batches      []*outgoing
	failingSince time.Time // since when pushes fail, zero if they don't
	gaps         gapWatch
}

// replay brings what earlier processes left in the journal to Postgres. It works until that is done or ctx ends.
func (p *Pipeline) replay(ctx context.Context) {
	left, err := p.cfg.Journal.Left()
	for pause := (backoff{}); err != nil; left, err = p.cfg.Journal.Left() {
		p.log.Error("the journal can't be read; trying again", "error", err)
		if !p.time.Sleep(ctx, pause.next(), nil) {
			return
		}
	}
	shards := p.leftovers(left)
	if len(left) > 0 {
		p.log.Info("the journal has batches of earlier processes; bringing them to Postgres", "batches", len(left))
	}
	for pause := (backoff{}); len(shards) > 0; {
		n := 0
		for _, l := range shards {
			if err := l.step(ctx); err != nil && ctx.Err() == nil {
				p.log.Debug("what the journal has can't be brought to Postgres yet", "shard", l.shard, "error", err)
			}
			n += len(l.batches)
		}
		shards = slices.DeleteFunc(shards, func(l *leftover) bool { return len(l.batches) == 0 })
		p.metrics.leftover.Set(float64(n))
		if len(shards) == 0 {
			p.log.Info("all batches that the journal had are in Postgres")
		} else if !p.time.Sleep(ctx, pause.next(), nil) {
			return
		}
	}
}

// leftovers sorts what the journal has by shards.
func (p *Pipeline) leftovers(batches []*spend.Batch) (shards []*leftover) {
	for _, b := range batches {
		i := slices.IndexFunc(shards, func(l *leftover) bool { return l.shard == b.Shard })
		if i < 0 {
			i = len(shards)
			shards = append(shards, &leftover{p: p, shard: b.Shard, commits: p.committer(b.Shard), gaps: gapWatch{}})
		}
		shards[i].batches = append(shards[i].batches, &outgoing{Batch: b, journaled: true})
	}
	return shards
}

// step forgets what Postgres has and brings on what it doesn't have.
func (l *leftover) step(ctx context.Context) error {
	if err := l.followBooks(ctx); err != nil || len(l.batches) == 0 {
		return err
	}
	l.commits.tryBooked(ctx)
	marks, err := l.commits.readMarks(ctx, l.producers())
	if err != nil {
		return err
	}
	astray := l.astray(marks)
	if err := l.setAside(ctx, marks, astray); err != nil {
		return err
	}
	if err := l.forget(marks, astray); err != nil || len(l.batches) == 0 {
		return err
	}
	if l.p.cfg.Queue != nil && l.p.books.mayUseQueue() == nil {
		err := l.push(ctx)
		if err == nil || l.p.time.Now().Sub(l.failingSince) < fallbackAfter {
			return err
		}
	}
	return l.commits.writeDirectly(ctx, l.batches, l.gaps, spend.ProducerID{})
}

// followBooks has batches that name no books be of those that the database has: their process never learned which ones it
// was to have. Those of other books are left where they are, for an instance of these books.
func (l *leftover) followBooks(ctx context.Context) error {
	view, err := l.p.books.ask(ctx)
	if !view.told && err == nil {
		err = spend.ErrBooksUnknown // another goroutine asks just now
	}
	if !view.told {
		return fmt.Errorf("ask Postgres for its books: %w", err)
	}
	var others []*spend.Batch
	l.batches = slices.DeleteFunc(l.batches, func(b *outgoing) bool {
		if b.Books.IsZero() {
			keys := &l.p.cfg.BatchKeys
			if keys.Check(b.Bytes()) != nil {
				keys = &spend.BatchKeys{} // it isn't the deployment's own, and must not become so
			}
			b.Batch = b.ForBooks(view.id, keys)
		}
		if b.Books == view.id {
			return false
		}
		others = append(others, b.Batch)
		return true
	})
	l.p.books.leave(others, view.id)
	return nil
}

// astray returns the batches of another chain than that in the books.
func (l *leftover) astray(marks spend.Marks) map[spend.Digest]bool {
	astray := map[spend.Digest]bool{}
	for _, b := range l.batches {
		mark := marks.Of[b.Producer]
		switch {
		case l.p.cfg.BatchKeys.Check(b.Bytes()) != nil:
		case astray[b.PriorDigest],
			b.Sequence <= mark.Sequence && mark.IsAnother(b.Batch),
			b.Sequence == mark.Sequence+1 && b.PriorDigest != mark.Digest:
			astray[b.Digest()] = true
		}
	}
	return astray
}

// setAside quarantines the batches of which it can't be told whether they were applied, and those of another chain than
// that in the books, and those that no key of this deployment has signed.
func (l *leftover) setAside(ctx context.Context, marks spend.Marks, astray map[spend.Digest]bool) error {
	plan := l.commits.newPlan()
	for _, b := range l.batches {
		foreign := plan.keys.Check(b.Bytes())
		switch {
		case foreign != nil:
			plan.reject("", b.Bytes(), foreign)
		case marks.Forgotten(b.Producer):
			plan.add(entryBatch{Batch: b.Batch})
		case astray[b.Digest()]:
			plan.reject("", b.Bytes(), diverged(b.Batch))
		}
	}
	plan.learn(plan.unknown(), marks)
	return l.commits.quarantine(ctx, plan, viaDirect)
}

func (l *leftover) producers() (ids []spend.ProducerID) {
	for _, b := range l.batches {
		ids = append(ids, b.Producer)
	}
	slices.SortFunc(ids, spend.ProducerID.Compare)
	return slices.Compact(ids)
}

// forget drops the batches that Postgres has, in the books or in quarantine, and has the journal forget them.
func (l *leftover) forget(marks spend.Marks, astray map[spend.Digest]bool) error {
	var needed []*outgoing
	first := map[spend.ProducerID]uint64{} // of the batches that are still needed
	for _, b := range l.batches {
		mark := marks.Of[b.Producer]
		if l.p.cfg.BatchKeys.Check(b.Bytes()) != nil || marks.Forgotten(b.Producer) || astray[b.Digest()] || mark.Has(b.Sequence) || mark.HasQuarantined(b.Sequence) {
			continue
		}
		needed = append(needed, b)
		if at, ok := first[b.Producer]; !ok || b.Sequence < at {
			first[b.Producer] = b.Sequence
		}
	}
	for _, b := range l.batches {
		if at, ok := first[b.Producer]; ok && b.Sequence >= at {
			continue
		}
		if err := l.p.cfg.Journal.Forget(l.shard, b.Producer, b.Sequence); err != nil {
			return err
		}
	}
	l.batches = needed
	return nil
}

// push pushes what isn't in the queue, each producer's batches in order.
func (l *leftover) push(ctx context.Context) error {
	for _, b := range l.batches {
		callCtx, cancel := l.p.time.WithTimeout(ctx, queueTimeout)
		entry, err := l.p.books.current().queue.Push(callCtx, b.Batch, b.entry)
		cancel()
		if err != nil {
			if l.failingSince.IsZero() {
				l.failingSince = l.p.time.Now()
			}
			return err
		}
		b.entry, l.failingSince = entry, time.Time{}
	}
	return nil
}
