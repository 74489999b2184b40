package spendflush

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrNotDrained is wrapped by every *NotDrainedError.
var ErrNotDrained = errors.New("not drained")

// NotDrainedError says what Shutdown couldn't bring to the queue or to Postgres.
type NotDrainedError struct {
	Updates int64
	Amount  Amount
	Cause   error // why the wait ended

	// Journaled are those of the updates that are in the journal, from where the next process brings them on. The others
	// end with this process.
	Journaled       int64
	JournaledAmount Amount
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

// commitGrace is how long Shutdown waits for Postgres once everything is in the queue, where it is safe.
const commitGrace = 5 * time.Second

// Shutdown ends the pipeline: from its first moment on nothing more is recorded (ErrClosed). It seals what is open and
// blocks until Postgres has everything, or until everything is in the queue and Postgres didn't get it within five
// seconds, or until ctx ends. Then it stops Run and waits for it. It returns nil if nothing was left in this process,
// else a *NotDrainedError. It needs Run; without it, it returns at once. Later calls wait for the first.
func (p *Pipeline) Shutdown(ctx context.Context) error {
	var cause error
	p.ending.Do(func() {
		p.seal(true)
		if p.running.Load() {
			cause = p.drained(ctx)
		} else {
			cause = errors.New("Run was never called")
			if p.running.CompareAndSwap(false, true) {
				close(p.stopped)
			}
		}
		close(p.stop)
		<-p.stopped
		for _, l := range p.lanes {
			l.nextJournal = time.Time{}
			l.writeJournal() // the last try, of what came too late for the lane's own
			l.forgetJournal()
		}
	})
	<-p.stopped
	left := p.undrained()
	if left.Updates == 0 {
		return nil
	}
	left.Cause = cause
	if cause == nil {
		left.Cause = errors.New("the pipeline was stopped")
	}
	return left
}

// drained waits until there is nothing more to wait for, and returns why it ended if that isn't success.
func (p *Pipeline) drained(ctx context.Context) error {
	var grace <-chan time.Time
	for {
		change := *p.change.Load()
		committed, queued := p.stages()
		if committed {
			return nil
		}
		if queued && grace == nil {
			timer := time.NewTimer(commitGrace)
			defer timer.Stop()
			grace = timer.C
		}
		select {
		case <-change:
		case <-grace:
			// Batches in doubt are pushed again now and then. That must not begin the grace anew, only put its end off.
			if _, queued := p.stages(); queued {
				return nil
			}
			grace = nil
		case <-ctx.Done():
			return ctx.Err()
		case <-p.stopped:
			return errors.New("Run ended before Shutdown")
		}
	}
}

// stages says whether every batch is committed, and whether every batch is at least in the queue.
func (p *Pipeline) stages() (committed, queued bool) {
	committed, queued = true, true
	for _, l := range p.lanes {
		l.mu.Lock()
		committed = committed && len(l.window.batches) == 0
		queued = queued && l.window.toPush() == nil
		l.mu.Unlock()
	}
	return committed, queued
}

// undrained returns what is neither in the queue nor in Postgres, as far as known.
func (p *Pipeline) undrained() *NotDrainedError {
	left := &NotDrainedError{}
	for _, l := range p.lanes {
		l.mu.Lock()
		for _, b := range l.window.batches[l.window.pushed:] {
			left.Updates += b.Updates
			left.Amount = left.Amount.Add(b.Amount)
			if b.journaled {
				left.Journaled += b.Updates
				left.JournaledAmount = left.JournaledAmount.Add(b.Amount)
			}
		}
		l.mu.Unlock()
	}
	return left
}
