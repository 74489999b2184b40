package spendflush

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// recovery is what earlier processes left in the journal for one shard. Its batches go the way of
// all batches, under their own producers, until Postgres has them.
type recovery struct {
	p            *Pipeline
	shard        int
	commits      *committer
	batches      []*outgoing
	failingSince time.Time // since when pushes fail, zero if they don't
	gaps         gapWatch
}

// replay brings what earlier processes left in the journal to Postgres. It works until that is done
// or ctx ends.
func (p *Pipeline) replay(ctx context.Context) {
	left, err := p.cfg.Journal.Recovered()
	for pause := (backoff{}); err != nil; left, err = p.cfg.Journal.Recovered() {
		p.log.Error("the journal can't be read; trying again", "error", err)
		if !p.time.Sleep(ctx, pause.next(), nil) {
			return
		}
	}

	shards := p.recoveries(left)
	if len(left) > 0 {
		p.log.Info("the journal has batches of earlier processes; bringing them to Postgres", "batches", len(left))
	}
	for pause := (backoff{}); len(shards) > 0; {
		n := 0
		for _, r := range shards {
			if err := r.step(ctx); err != nil && ctx.Err() == nil {
				p.log.Debug("what the journal has can't be brought to Postgres yet", "shard", r.shard, "error", err)
			}
			n += len(r.batches)
		}
		shards = slices.DeleteFunc(shards, func(r *recovery) bool { return len(r.batches) == 0 })
		p.metrics.recovering.Set(float64(n))
		if len(shards) == 0 {
			p.log.Info("all batches that the journal had are in Postgres")
		} else if !p.time.Sleep(ctx, pause.next(), nil) {
			return
		}
	}
}

// recoveries sorts what the journal has by shards.
func (p *Pipeline) recoveries(batches []*spend.Batch) (shards []*recovery) {
	for _, b := range batches {
		i := slices.IndexFunc(shards, func(r *recovery) bool { return r.shard == b.Shard })
		if i < 0 {
			i = len(shards)
			shards = append(shards, &recovery{p: p, shard: b.Shard, commits: p.committer(b.Shard), gaps: gapWatch{}})
		}
		shards[i].batches = append(shards[i].batches, &outgoing{Batch: b, journaled: true})
	}
	return shards
}

// step drops what Postgres has and brings on what it doesn't have.
func (r *recovery) step(ctx context.Context) error {
	if err := r.followBooks(ctx); err != nil || len(r.batches) == 0 {
		return err
	}
	r.commits.tryBooked(ctx)
	marks, err := r.commits.readMarks(ctx, r.producers())
	if err != nil {
		return err
	}
	divergent := r.divergent(marks)
	if err := r.setAside(ctx, marks, divergent); err != nil {
		return err
	}
	if err := r.truncate(marks, divergent); err != nil || len(r.batches) == 0 {
		return err
	}
	if r.p.cfg.Queue != nil && r.p.books.mayUseQueue() == nil {
		err := r.push(ctx)
		if err == nil || r.p.time.Now().Sub(r.failingSince) < fallbackAfter {
			return err
		}
	}
	return r.commits.writeDirectly(ctx, r.batches, r.gaps, spend.ProducerID{})
}

// followBooks has batches that name no books be of those that the database has: their process never
// learned which ones it was to have. Those of other books are left where they are, for an instance
// of these books.
func (r *recovery) followBooks(ctx context.Context) error {
	view, err := r.p.books.ask(ctx)
	if !view.fromPostgres && err == nil {
		err = spend.ErrBooksUnknown // another goroutine asks just now
	}

	if !view.fromPostgres {
		return fmt.Errorf("ask Postgres for its books: %w", err)
	}
	var others []*spend.Batch
	r.batches = slices.DeleteFunc(r.batches, func(b *outgoing) bool {
		if b.Books.IsZero() {
			keys := &r.p.cfg.BatchKeys
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
	r.p.books.leave(others, view.id)
	return nil
}

// divergent returns the batches of another chain than that in the books.
func (r *recovery) divergent(marks spend.Marks) map[spend.Digest]bool {
	divergent := map[spend.Digest]bool{}
	for _, b := range r.batches {
		mark := marks.Of[b.Producer]
		switch {
		case r.p.cfg.BatchKeys.Check(b.Bytes()) != nil:
		case divergent[b.PriorDigest],
			b.Sequence <= mark.Sequence && mark.IsAnother(b.Batch),
			b.Sequence == mark.Sequence+1 && b.PriorDigest != mark.Digest:
			divergent[b.Digest()] = true
		}
	}
	return divergent
}

// setAside quarantines the batches of which it can't be told whether they were applied, and those
// of another chain than that in the books, and those that no key of this deployment has signed.
func (r *recovery) setAside(ctx context.Context, marks spend.Marks, divergent map[spend.Digest]bool) error {
	plan := r.commits.newPlan()
	for _, b := range r.batches {
		foreign := plan.keys.Check(b.Bytes())
		switch {
		case foreign != nil:
			plan.reject("", b.Bytes(), foreign)
		case marks.Pruned(b.Producer):
			plan.add(entryBatch{Batch: b.Batch})
		case divergent[b.Digest()]:
			plan.reject("", b.Bytes(), diverged(b.Batch))
		}
	}
	plan.learn(plan.unknown(), marks)
	return r.commits.quarantine(ctx, plan, viaDirect)
}

func (r *recovery) producers() (ids []spend.ProducerID) {
	for _, b := range r.batches {
		ids = append(ids, b.Producer)
	}
	slices.SortFunc(ids, spend.ProducerID.Compare)
	return slices.Compact(ids)
}

// truncate drops the batches that Postgres has, in the books or in quarantine, and truncates the
// journal up to them.
func (r *recovery) truncate(marks spend.Marks, divergent map[spend.Digest]bool) error {
	var needed []*outgoing
	first := map[spend.ProducerID]uint64{} // of the batches that are still needed
	for _, b := range r.batches {
		mark := marks.Of[b.Producer]
		if r.p.cfg.BatchKeys.Check(b.Bytes()) != nil || marks.Pruned(b.Producer) || divergent[b.Digest()] || mark.Has(b.Sequence) || mark.HasQuarantined(b.Sequence) {
			continue
		}
		needed = append(needed, b)
		if at, ok := first[b.Producer]; !ok || b.Sequence < at {
			first[b.Producer] = b.Sequence
		}
	}
	for _, b := range r.batches {
		if at, ok := first[b.Producer]; ok && b.Sequence >= at {
			continue
		}
		if err := r.p.cfg.Journal.Truncate(r.shard, b.Producer, b.Sequence); err != nil {
			return err
		}
	}
	r.batches = needed
	return nil
}

// push pushes what isn't in the queue, each producer's batches in order.
func (r *recovery) push(ctx context.Context) error {
	for _, b := range r.batches {
		callCtx, cancel := r.p.time.WithTimeout(ctx, queueTimeout)
		entry, err := r.p.books.current().queue.Push(callCtx, b.Batch, b.entry)
		cancel()
		if err != nil {
			if r.failingSince.IsZero() {
				r.failingSince = r.p.time.Now()
			}
			return err
		}
		b.entry, r.failingSince = entry, time.Time{}
	}
	return nil
}
