package spendflush

import (
	"context"
	"slices"
	"time"
)

// leftover is what earlier processes left in the journal for one shard. Its batches go the way of all batches, under
// their own producers, until Postgres has them.
type leftover struct {
	p            *Pipeline
	shard        int
	batches      []*windowBatch
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
	shards := map[int]*leftover{}
	for _, b := range left {
		if shards[b.Shard] == nil {
			shards[b.Shard] = &leftover{p: p, shard: b.Shard, gaps: gapWatch{}}
		}
		shards[b.Shard].batches = append(shards[b.Shard].batches, &windowBatch{Batch: b, journaled: true})
	}
	if len(left) > 0 {
		p.log.Info("the journal has batches of earlier processes; bringing them to Postgres", "batches", len(left))
	}
	for pause := (backoff{}); len(shards) > 0; {
		n := 0
		for shard, l := range shards {
			if err := l.step(ctx); err != nil && ctx.Err() == nil {
				p.log.Debug("what the journal has can't be brought to Postgres yet", "shard", shard, "error", err)
			}
			if n += len(l.batches); len(l.batches) == 0 {
				delete(shards, shard)
			}
		}
		p.metrics.leftover.Set(float64(n))
		if len(shards) == 0 {
			p.log.Info("all batches that the journal had are in Postgres")
		} else if !p.time.Sleep(ctx, pause.next(), nil) {
			return
		}
	}
}

// step forgets what Postgres has and brings on what it doesn't have.
func (l *leftover) step(ctx context.Context) error {
	marks, err := l.p.readMarks(ctx, l.shard, l.producers())
	if err != nil {
		return err
	}
	if err := l.setAside(ctx, marks); err != nil {
		return err
	}
	if err := l.forget(marks); err != nil || len(l.batches) == 0 {
		return err
	}
	if l.p.cfg.Queue != nil {
		err := l.push(ctx)
		if err == nil || l.p.time.Now().Sub(l.failingSince) < fallbackAfter {
			return err
		}
	}
	return l.p.writeDirectly(ctx, l.shard, l.batches, l.gaps)
}

// setAside quarantines the batches of which it can't be told whether they were applied.
func (l *leftover) setAside(ctx context.Context, marks Marks) error {
	plan := newPlan(l.shard)
	for _, b := range l.batches {
		if marks.Forgotten(b.Producer) {
			plan.add(entryBatch{Batch: b.Batch})
		}
	}
	plan.learn(plan.unknown(), marks)
	return l.p.quarantine(ctx, plan)
}

func (l *leftover) producers() (ids []ProducerID) {
	for _, b := range l.batches {
		ids = append(ids, b.Producer)
	}
	slices.SortFunc(ids, ProducerID.Compare)
	return slices.Compact(ids)
}

// forget drops the batches that Postgres has, in the books or in quarantine, and has the journal forget them.
func (l *leftover) forget(marks Marks) error {
	var needed []*windowBatch
	first := map[ProducerID]uint64{} // of the batches that are still needed
	for _, b := range l.batches {
		if marks.Forgotten(b.Producer) || marks.Of[b.Producer].Has(b.Sequence) {
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
		callCtx, cancel := context.WithTimeout(ctx, queueTimeout)
		entry, err := l.p.cfg.Queue.Push(callCtx, b.Batch, b.entry)
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
