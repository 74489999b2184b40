package spendflush

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spendflush/spendflush/spend"
)

// quarantine keeps in Postgres what the plan has set aside. What it doesn't take stays in plan.bad.
// Entries that quarantine has no room for are left in the queue, and that is no failure.
func (c *committer) quarantine(ctx context.Context, plan *plan, by via) error {
	if len(plan.bad) == 0 {
		return nil
	}
	if !plan.compared { // nothing was committed: what is set aside could make up for what a turned-back Postgres lacks
		if _, err := c.readMarks(ctx, nil); err != nil {
			return err
		}
		plan.compared = true
	}

	if c.awaitsRequeue(by) {
		return errNotRequeued
	}
	slices.SortStableFunc(plan.bad, func(a, b badEntry) int { return rank(a.Bounded) - rank(b.Bounded) }) // our own first
	bad := make([]spend.BadBatch, len(plan.bad))
	for i, b := range plan.bad {
		bad[i] = b.BadBatch
	}

	kept, err := c.quarantineBad(ctx, bad)
	for _, b := range plan.bad[:kept] {
		plan.done = append(plan.done, b.entry)
	}
	plan.bad = plan.bad[kept:]
	if errors.Is(err, spend.ErrQuarantineFull) {
		for _, b := range plan.bad {
			plan.stats.left++
			plan.stats.leftBytes += len(b.Bytes)
		}
		plan.bad = nil
		return nil
	}

	return err
}

func rank(bounded bool) int {
	if bounded {
		return 1
	}
	return 0
}

// What is brought into quarantine at once: so many bytes of batches, if that are more than one, and
// so many batches.
const (
	asideBytes   = 4 << 20
	asideBatches = 1000
)

// quarantineBad keeps batches that can't be booked in Postgres, some MiB at once, and one by one
// where that fails. It says how many it has kept, from the first on.
func (c *committer) quarantineBad(ctx context.Context, bad []spend.BadBatch) (kept int, err error) {
	for most := asideBatches; kept < len(bad); {
		n := someBad(bad[kept:], most)
		if err = c.quarantineSome(ctx, bad[kept:kept+n]); err != nil && n > 1 {
			most = 1
			if errors.Is(err, spend.ErrQuarantineFull) { // perhaps some of them have room: a try each would take as long as they are many
				most = n / 2
			}
			continue
		}
		if err != nil {
			return kept, err
		}
		kept += n
	}
	return kept, nil
}

// someBad returns how many of the batches to keep at once, at least one and at most so many.
func someBad(bad []spend.BadBatch, most int) (n int) {
	for bytes := 0; n < len(bad); n++ {
		if bytes += len(bad[n].Bytes); bytes > asideBytes || n == most || bad[n].Bounded != bad[0].Bounded {
			break
		}
	}
	return max(n, 1)
}

func (c *committer) quarantineSome(ctx context.Context, bad []spend.BadBatch) error {
	ctx, cancel := c.time.WithTimeout(ctx, marksTimeout)
	defer cancel()
	before := c.rewind.atLeast()
	if err := c.cfg.Store.Quarantine(ctx, bad); err != nil {
		return fmt.Errorf("quarantine: %w", err)
	}
	c.rewind.observe(before + 1)
	foreign := 0
	for _, b := range bad {
		if b.Foreign {
			foreign++
			continue
		}
		c.log.Error("batch quarantined", "bytes", len(b.Bytes), "reason", b.Reason)
	}
	if foreign > 0 {
		c.metrics.foreign.Add(float64(foreign))
		c.log.Error("BATCHES THAT ARE NOT SIGNED BY A KEY OF THIS DEPLOYMENT were found and quarantined: another program writes to the queue, "+
			"or an instance has another key", "batches", foreign)
	}
	c.metrics.quarantined.Add(float64(len(bad)))
	return nil
}
