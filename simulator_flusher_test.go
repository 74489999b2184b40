package spendflush

import (
	"errors"
	"maps"
)

// term is one term of a flusher: it acquires the lock if there is something to flush, and flushes until the queue is
// empty or the lock is lost.
func (a *simActor) term() {
	s := a.s
	var stats QueueStats
	err := a.call(simRedis, "look at the queue", func() (err error) {
		stats, err = s.queue.Stats(simCtx, 0)
		return err
	})
	if err != nil || stats.Batches == 0 {
		return
	}
	lease, err := a.acquire()
	if err != nil {
		return
	}
	for {
		flushed, err := a.drain(lease)
		if err != nil || !flushed {
			break
		}
		a.pause()
	}
	a.release(lease)
}

// drain walks over the queue once.
func (a *simActor) drain(lease *simLease) (flushed bool, err error) {
	s, plan := a.s, newPlan(0)
	if a.run.number%2 == 1 {
		plan.rows = 1 // every flush is one batch
	}
	var after EntryID
	if err := a.firstLook(); err != nil {
		return false, err
	}
	for !a.lost(lease) {
		entries, err := a.read(after)
		if err != nil {
			return flushed, err
		}
		if len(entries) == 0 {
			if err := a.passGaps(plan, a.flushGaps); err != nil {
				return flushed, err
			}
			settled, err := a.settle(plan)
			return flushed || settled, err
		}
		after = entries[len(entries)-1].ID
		for _, e := range entries {
			plan.offer(e)
			if s.rules.sabotage == simSettledFirst {
				s.queue.Settle(simCtx, 0, []EntryID{e.ID}, nil)
			}
		}
		if err := a.commitAll(plan); err != nil {
			return flushed, err
		}
		settled, err := a.settle(plan)
		if err != nil {
			return flushed, err
		}
		flushed = flushed || settled
		plan.trim(s.rules.waiting)
	}
	return flushed, nil
}

// firstLook learns how many updates the books had before this process flushes anything: if Postgres was turned back while
// no process was alive, the flush might make up for what is missing before anybody notices.
func (a *simActor) firstLook() error {
	s := a.s
	if s.rules.window == 0 || a.looked || s.rules.sabotage == simFlushedUnseen {
		return nil
	}
	return a.readPublished()
}

func (a *simActor) readPublished() error {
	var published uint64
	err := a.call(simRedis, "read the published number of updates", func() (err error) {
		published, err = a.s.queue.Mark(simCtx, 0, booksMark)
		return err
	})
	if err != nil {
		return err
	}
	a.books.grown(int64(published))
	a.looked = true
	return nil
}

func (a *simActor) read(after EntryID) (entries []Entry, err error) {
	n := 2 + len(a.name)%3 // few enough for a walk to take several
	err = a.call(simRedis, "read the queue", func() error {
		got, err := a.s.queue.Read(simCtx, 0, after, n, 1<<20)
		entries = got
		return err
	})
	if err != nil {
		return nil, err
	}
	return entries, nil
}

// commitAll commits all that the plan can commit.
func (a *simActor) commitAll(plan *plan) error {
	for try := 0; ; {
		if ids := plan.unknown(); len(ids) > 0 {
			marks, err := a.readMarks(ids)
			if err != nil {
				return err
			}
			plan.learn(ids, marks)
		}
		if a.s.rules.sabotage == simGapsIgnored {
			for id := range plan.wait {
				plan.passing[id] = "sabotage"
			}
		}
		f := plan.take()
		if f == nil {
			return nil
		}
		if a.s.rules.sabotage == simGapsIgnored {
			f.Lost = nil
		}
		before := a.books.atLeast()
		err := a.apply(f)
		switch {
		case err == nil:
			a.books.grown(before + f.Control[0].APIRequests())
			plan.applied(f)
			if mark, ok := plan.marks[a.run.id]; ok {
				a.confirm(mark.Whole())
			}
			try = 0
		case errors.Is(err, ErrFenced):
			a.s.tally.fenced++
			plan.fenced(f)
			if try++; try > maxFenced {
				return err
			}
		default:
			return err
		}
	}
}

func (a *simActor) apply(f *Flush) error {
	return a.call(simPostgres, "apply", func() error {
		err := a.s.store.Apply(simCtx, f)
		if a.s.trace != nil {
			a.s.note("%s: applies %s: %v", a.name, a.s.describe(f), err)
		}
		if err == nil {
			a.s.applied(f)
		}
		return err
	})
}

func (a *simActor) passGaps(plan *plan, watch gapWatch) error {
	overdue := watch.overdue(plan.gaps(), a.s.now, simGrace)
	if len(overdue) == 0 {
		return nil
	}
	for _, id := range overdue {
		plan.passing[id] = "missing"
	}
	defer clear(plan.passing)
	return a.commitAll(plan)
}

// settle quarantines what can't be applied and takes what Postgres has out of the queue.
func (a *simActor) settle(plan *plan) (any bool, err error) {
	s := a.s
	if err := a.quarantine(plan); err != nil {
		return false, err
	}
	known := plan.marks
	ids, marks := plan.settle()
	if len(ids) == 0 {
		return false, nil
	}
	if s.rules.sabotage == simLostPublished {
		for id, mark := range known {
			marks[id] = mark.Sequence
		}
	}
	if s.rules.window > 0 {
		marks[booksMark] = uint64(a.books.atLeast())
	}
	marks = maps.Clone(marks)
	err = a.call(simRedis, "settle", func() error {
		s.note("settles %v, publishes %d updates", ids, marks[booksMark])
		// The number only grows, until what is kept is put back: a flusher that is behind, one that has noticed but dies
		// before it can have anything put back, or a call that comes late, must not hide from others how many there were.
		if published, _ := s.queue.Mark(simCtx, 0, booksMark); published > marks[booksMark] && s.rules.sabotage != simPublishedLower {
			delete(marks, booksMark)
		}
		s.lookAtSettled(ids)
		return s.queue.Settle(simCtx, 0, ids, marks)
	})
	return err == nil, err
}

func (a *simActor) quarantine(plan *plan) error {
	if len(plan.bad) == 0 {
		return nil
	}
	bad := make([]BadBatch, len(plan.bad))
	for i, b := range plan.bad {
		bad[i] = b.BadBatch
	}
	err := a.call(simPostgres, "quarantine", func() error {
		if a.s.rules.sabotage == simNotQuarantined {
			return nil
		}
		return a.s.store.Quarantine(simCtx, bad)
	})
	if err != nil {
		return err
	}
	for _, b := range plan.bad {
		a.s.note("%s: entry %s is quarantined: %s", a.name, b.entry, b.Reason)
		plan.done = append(plan.done, b.entry)
	}
	plan.bad = nil
	return nil
}
