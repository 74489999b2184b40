package spendflush

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// ErrNotDrained is wrapped by every *NotDrainedError.
var ErrNotDrained = errors.New("not drained")

// NotDrainedError says what Shutdown couldn't bring to the queue or to Postgres.
type NotDrainedError struct {
	Updates int64
	Amount  spend.Amount
	Cause   error // why the wait ended

	// Journaled are those of the updates that are in the journal, from where the next process
	// brings them on. The others end with this process.
	Journaled       int64
	JournaledAmount spend.Amount
}

func (e *NotDrainedError) Error() string {
	text := fmt.Sprintf("%d updates of %s dollars could not be drained: %v", e.Updates, e.Amount, e.Cause)
	switch {
	case e.Journaled == 0:
		return text + "; they are lost"
	case e.Journaled == e.Updates:
		return text + "; they are in the journal, and the next start brings them on"
	default:
		return fmt.Sprintf("%s; %d updates of %s dollars are in the journal, and the next start brings them on; the others are lost",
			text, e.Journaled, e.JournaledAmount)
	}
}

// Unwrap returns ErrNotDrained and the cause.
func (e *NotDrainedError) Unwrap() []error { return []error{ErrNotDrained, e.Cause} }

const (
	// queueGrace is how long draining leaves batches to the queue, before they are written directly
	// as well.
	queueGrace = time.Second
	// commitGrace is how long draining waits for Postgres once everything is in the queue, where it
	// is safe.
	commitGrace = 5 * time.Second
	// distrust is how long a queue that has lost something isn't relied on.
	distrust = time.Minute
)

// Shutdown ends the pipeline: from its first moment on nothing more is recorded (ErrClosed). It
// seals what is open and blocks until Postgres has everything, or until everything is in a queue
// that has lost nothing and Postgres didn't get it within five seconds, or until ctx ends. Then it
// stops Run and waits for it. It returns nil if nothing was left in this process, else a
// *NotDrainedError. It needs Run; without it, it returns at once. Later calls wait for the first.
func (p *Pipeline) Shutdown(ctx context.Context) error {
	if p.ending.CompareAndSwap(false, true) {
		p.drain(ctx)
	}
	<-p.stopped
	if left := p.notDrained(); left != nil {
		return left
	}
	return nil
}

// drain closes the pipeline, waits until it is drained or ctx ends, and has Run return.
func (p *Pipeline) drain(ctx context.Context) {
	p.seal(true)
	if p.running.CompareAndSwap(false, true) {
		p.ended = errors.New("Run was never called")
		close(p.stopped)
	} else {
		p.ended = p.drained(ctx)
	}
	close(p.stop)
}

// drained waits until there is nothing more to wait for, and returns why it ended if that isn't
// success.
func (p *Pipeline) drained(ctx context.Context) error {
	const never = time.Hour
	var grace time.Time // when it ends
	hurry := p.time.Now().Add(queueGrace)
	for {
		change := *p.change.Load()
		committed, queued := p.stages()
		if committed {
			return nil
		}

		now := p.time.Now()
		wait := never
		if !p.hurrying.Load() {
			if wait = hurry.Sub(now); wait <= 0 {
				p.hurry()
				continue
			}
		}
		if queued && grace.IsZero() {
			grace = now.Add(commitGrace)
		}
		if !grace.IsZero() {
			wait = min(wait, grace.Sub(now))
		}
		if wait <= 0 {
			// Batches in doubt are pushed again now and then. That must not begin the grace anew,
			// only put its end off.
			if p.queueHasAll(ctx) {
				return nil
			}
			grace = time.Time{}
			continue
		}

		p.time.Sleep(ctx, wait, change)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-p.stopped:
			return errors.New("Run ended before Shutdown")
		default:
		}
	}
}

// hurry has the relays leave nothing to the queue alone any more.
func (p *Pipeline) hurry() {
	p.hurrying.Store(true)
	for _, r := range p.relays {
		r.wake()
	}
}

// queueHasAll says whether the queue still has every batch that isn't committed, and has lost none
// lately.
func (p *Pipeline) queueHasAll(ctx context.Context) bool {
	for _, r := range p.relays {
		if !r.queueHasAll(ctx) {
			return false
		}
	}
	return p.trustsQueue()
}

// trustsQueue says whether the queue hasn't lost anything lately, and no entry is gone of which it
// isn't known why.
func (p *Pipeline) trustsQueue() bool {
	for _, r := range p.relays {
		r.mu.Lock()
		unknown := len(r.moved) > 0
		r.mu.Unlock()
		if unknown {
			return false
		}
	}
	at := p.queueLostAt.Load()
	return at == 0 || p.time.Now().Sub(time.Unix(0, at)) >= distrust
}

// queueHasAll looks whether the queue still has every batch that isn't committed, by pushing each
// once more: one that is there stays where it is.
func (r *relay) queueHasAll(ctx context.Context) bool {
	if r.p.books.mayUseQueue() != nil {
		return false
	}
	r.mu.Lock()
	list := slices.Clone(r.outbox.batches)
	safe := len(r.aside) == 0
	r.mu.Unlock()
	for _, b := range list {
		r.mu.Lock()
		queued, entry := b.queued && !b.inDoubt, b.entry
		r.mu.Unlock()
		if !queued {
			return false
		}
		callCtx, cancel := r.p.time.WithTimeout(ctx, queueTimeout)
		now, err := r.queue().Push(callCtx, b.Batch, entry)
		cancel()
		if err != nil {
			return false
		}
		r.mu.Lock()
		moved := r.outbox.atQueue(b, now)
		r.mu.Unlock()
		if moved {
			r.p.queueLostAt.Store(r.p.time.Now().UnixNano())
		}
	}

	return safe
}

// stages says whether every batch is committed, and whether every batch is at least in the queue.
func (p *Pipeline) stages() (committed, queued bool) {
	committed, queued = true, true
	for _, r := range p.relays {
		r.mu.Lock()
		committed = committed && len(r.outbox.batches)+len(r.outbox.deciding)+len(r.aside) == 0
		queued = queued && len(r.aside) == 0 && r.outbox.toPush() == nil
		r.mu.Unlock()
	}
	return committed, queued
}

// notDrained returns what is neither in Postgres nor in a queue that can be relied on, as far as
// known, and nil if that is nothing. It may be called once draining has ended. If that ended well,
// each batch was just seen in the queue: doubts that a relay began since, and can't settle any
// more, say nothing.
func (p *Pipeline) notDrained() *NotDrainedError {
	left := &NotDrainedError{Cause: p.ended}
	if left.Cause == nil {
		left.Cause = errors.New("the pipeline was stopped")
	}

	trusted := p.trustsQueue()
	seen := p.ended == nil
	add := func(b *spend.Batch, journaled bool) {
		left.Updates += b.Updates
		left.Amount = left.Amount.Add(b.Amount)
		if journaled {
			left.Journaled += b.Updates
			left.JournaledAmount = left.JournaledAmount.Add(b.Amount)
		}
	}

	for _, r := range p.relays {
		r.mu.Lock()
		for _, b := range r.outbox.batches {
			if !b.queued || !seen && (!trusted || b.inDoubt) {
				add(b.Batch, b.journaled)
			}
		}
		for _, b := range r.aside {
			add(b.Batch, false)
		}
		r.mu.Unlock()
	}

	if left.Updates == 0 {
		return nil
	}
	return left
}
