package spendflush

import (
	"context"
	"fmt"
	"slices"

	"github.com/spendflush/spendflush/spend"
)

// Receipt stands for updates recorded in one call, to be waited for. It is small, but for 16 bytes
// for each update with an id.
type Receipt struct {
	seal    uint64
	updates int
	facts   *factReceipt // nil: there are no ids
}

// factReceipt is what a receipt has of updates with ids.
type factReceipt struct {
	own     []*fact // recorded by the call
	repeats []*fact // of each update that repeats another one, or of the request if that does
	seals   []uint64
}

// note notes what a call that is recorded repeats, and the seals that its updates are in. The
// caller holds the lock.
func (c *factCall) note() {
	seen := func(seal uint64) {
		if !slices.Contains(c.seals, seal) {
			c.seals = append(c.seals, seal)
		}
	}
	owned := 0
	for i, f := range c.of {
		switch {
		case f == nil && c.isRequest:
		case f == nil:
			seen(c.seal)
		case c.isNew(i, owned):
			owned++
			seen(f.seal)
		default:
			c.repeats = append(c.repeats, f)
			seen(f.seal)
		}
	}
}

// receipt returns the receipt of a call that is recorded.
func (c *factCall) receipt() Receipt {
	return Receipt{
		seal: slices.Max(c.seals), updates: len(c.updates),
		facts: &factReceipt{own: slices.Clone(c.own), repeats: slices.Clone(c.repeats), seals: slices.Clone(c.seals)},
	}
}

// Counts says what became of the updates of a call.
type Counts struct {
	Updates    int // of the call
	New        int // those that this call has counted
	Duplicates int // those that were counted before, under the same ids with the same content

	// Conflicts are those whose ids the books have with another content. They are in quarantine, as
	// entries of the kind "conflict".
	Conflicts int

	// Final says that the call has reached Committed, and that this won't change. Before it, New
	// has whatever isn't known to be something else. At Committed it is false only of a call that
	// took most of an hour to be committed, and so may stay.
	Final bool
}

// Counts returns what is known of the updates of the receipt. It does no I/O.
func (p *Pipeline) Counts(r Receipt) Counts {
	c := Counts{Updates: r.updates, New: r.updates, Final: p.reached(r) == Committed}
	if r.facts == nil {
		return c
	}
	o := p.open.facts
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, f := range r.facts.own {
		c.Duplicates += int(f.duplicates)
		c.Conflicts += int(f.conflicts)
		c.Final = c.Final && !f.uncertain
	}
	for _, f := range r.facts.repeats {
		// What is set aside of the first one is so of the repeat.
		conflicts := int(f.conflicts)
		c.Conflicts += conflicts
		c.Duplicates += int(f.updates) - conflicts
		c.Final = c.Final && !f.uncertain
	}
	c.New -= c.Duplicates + c.Conflicts
	return c
}

// Stage is how far an update has come.
type Stage uint8

// The stages, each including those before it.
const (
	// Accepted is in the memory of this process.
	Accepted Stage = iota + 1
	// Queued is outside this process: in the queue, in the journal or, where there is neither, in
	// Postgres.
	Queued
	// Committed is in Postgres. Of updates with ids it is also known which of them were new; see
	// Pipeline.Counts.
	Committed
)

func (s Stage) String() string {
	switch s {
	case Accepted:
		return "accepted"
	case Queued:
		return "queued"
	case Committed:
		return "committed"
	}
	return fmt.Sprintf("stage(%d)", uint8(s))
}

// Wait blocks until the updates of the receipt have reached the stage, or ctx ends, or the pipeline
// has stopped. It returns the stage that they have reached and nil, ctx's error or ErrClosed. The
// updates stay recorded in any case. A repeat of an id that is held has come as far as the update
// that it repeats.
func (p *Pipeline) Wait(ctx context.Context, r Receipt, want Stage) (Stage, error) {
	for {
		change := *p.change.Load()
		reached := p.reached(r)
		if reached >= want {
			return reached, nil
		}
		select {
		case <-change:
		case <-ctx.Done():
			return reached, ctx.Err()
		case <-p.stopped:
			if reached = p.reached(r); reached >= want {
				return reached, nil
			}
			return reached, ErrClosed
		}
	}
}

func (p *Pipeline) reached(r Receipt) Stage {
	reached := Committed
	for _, relay := range p.relays {
		relay.mu.Lock()
		if r.facts == nil {
			reached = min(reached, relay.outbox.reached(r.seal))
		} else {
			reached = min(reached, relay.outbox.reachedOfFacts(r.facts.seals))
		}
		relay.mu.Unlock()
	}
	return reached
}

// advanced wakes those who wait for a stage.
func (p *Pipeline) advanced() {
	next := make(chan struct{})
	close(*p.change.Swap(&next))
}

// anyID says whether an update has an id.
func anyID(updates []spend.Update) bool {
	for i := range updates { // an update is large to be copied
		if updates[i].ID != "" {
			return true
		}
	}
	return false
}
