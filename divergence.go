package spendflush

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spendflush/spendflush/spend"
)

func diverged(b *spend.Batch) error {
	return fmt.Errorf("producer %s sequence %d: %w", b.Producer, b.Sequence, spend.ErrDiverged)
}

var (
	// errPruned is why a batch is set aside whose producer's mark was pruned.
	errPruned = errors.New("this instance was out of touch with Postgres for so long that its mark was pruned: it can't be told " +
		"whether this batch was booked")
	// errPerhapsBooked is why a batch is set aside that was under way when its process was cloned
	// or put back.
	errPerhapsBooked = errors.New("its process was cloned, or put back to an earlier state: it can't be told whether this batch was booked")
)

// changeIdentity goes on under a new identity, because Postgres has other batches under the present
// one than this process has sealed: another process has the same memory, or had it before this one
// was put back to it. What is known to be in the books is done; all else can't be booked under this
// identity any more and goes to quarantine, from where an operator can apply it. mark is what
// Postgres says of the producer. It does nothing if the identity is another one already.
func (r *relay) changeIdentity(of spend.ProducerID, mark spend.Mark, cause error) {
	r.p.sealing.Lock()
	defer r.p.sealing.Unlock()
	r.mu.Lock()
	if r.outbox.producer != of || cause == spend.ErrDiverged && r.outbox.follows(mark) {
		r.mu.Unlock()
		return
	}
	report := r.renewIdentity(mark, cause)
	r.mu.Unlock()
	report()
}

// renewIdentity is changeIdentity for a caller who holds Pipeline.sealing and mu, and calls report
// without mu.
func (r *relay) renewIdentity(mark spend.Mark, cause error) (report func()) {
	old := r.outbox
	fresh := newOutbox(r.p.cfg.newProducer(r.p.time.Now(), r.commits.pruned()), r.p.cfg.RewindWindow)
	fresh.seal, fresh.setAside, fresh.deciding = old.seal, old.setAside, old.deciding

	var updates int64
	var amount spend.Amount
	confirmed, batches := 0, 0
	var held []*heldPieces // of those set aside
	setAside := func(b *outgoing, reason error) {
		stage := Accepted
		if b.queued || b.journaled {
			stage = Queued
		}
		fresh.noteAside(b.seal, stage)
		held = append(held, b.held)
		r.aside = append(r.aside, aside{b.Batch, b.seal, fmt.Errorf("producer %s sequence %d: %w", b.Producer, b.Sequence, reason)})
		batches, updates, amount = batches+1, updates+b.Updates, amount.Add(b.Amount)
	}
	for _, b := range old.batches {
		if reason := reasonAside(mark, b.Batch, cause); reason != nil {
			setAside(b, reason)
		} else {
			confirmed++
			fresh.decide(b)
		}
	}
	// Postgres was turned back before another process went on, if it lacks what it was seen to
	// have. What it isn't known to lack is booked, unless nothing can be known of it since then.
	for _, b := range old.retained {
		switch {
		case cause == spend.ErrDiverged && reasonAside(mark, b.Batch, cause) == spend.ErrDiverged:
			setAside(b, spend.ErrDiverged)
		case cause == errPruned && r.commits.rewind.noticedSince(b.confirmedAt):
			setAside(b, errPruned)
		}
	}

	r.outbox, r.diverged, r.moved = fresh, false, nil
	r.missing, r.missingSince, r.gaps = 0, time.Time{}, gapWatch{}

	return func() {
		r.p.metrics.identities.Inc()
		r.log.Error("THIS PROCESS DOES NOT OWN ITS IDENTITY ANY MORE: it goes on under a new one; what it can't be sure of goes to quarantine",
			"reason", cause, "old_producer", old.producer.String(), "new_producer", fresh.producer.String(),
			"mark", mark.Sequence, "sealed", old.next-1, "batches", batches, "updates", updates, "amount", amount)
		for _, h := range held {
			r.p.open.facts.release(h)
		}
		if confirmed > 0 {
			r.p.advanced()
		}
		r.wake()
	}
}

// checkBirth looks, before anything is sealed under the identity, whether it looks like that of a
// producer whose mark was pruned, because this machine's clock is far behind. Then another one is
// made that doesn't. If Postgres can't be asked, it is tried again as long as nothing is sealed.
func (r *relay) checkBirth(ctx context.Context) {
	r.mu.Lock()
	unused, producer := r.outbox.next == 1, r.outbox.producer
	r.mu.Unlock()
	if !unused || r.toPostgres.isBorn {
		return
	}

	marks, err := r.commits.readMarks(ctx, []spend.ProducerID{producer})
	if err != nil {
		r.log.Debug("it can't be looked whether this clock is far behind", "error", err)
		return
	}

	r.toPostgres.isBorn = true
	if !marks.Pruned(producer) {
		return
	}
	r.p.sealing.Lock()
	defer r.p.sealing.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.outbox.next > 1 || r.outbox.producer != producer {
		return // what was sealed meanwhile is set aside when the mark is read
	}

	fresh := newOutbox(r.p.cfg.newProducer(r.p.time.Now(), marks.Horizon), r.p.cfg.RewindWindow)
	fresh.seal, fresh.setAside = r.outbox.seal, r.outbox.setAside
	r.outbox = fresh
	r.log.Warn("the clock of this machine is far behind: the identity gets a later time, or its batches would go to quarantine",
		"clock", r.p.time.Now().UTC(), "pruned_before", marks.Horizon.UTC(), "new_producer", fresh.producer.String())
}

// reasonAside says why a batch can't be booked under its identity any more, nil if it is in the
// books.
func reasonAside(mark spend.Mark, b *spend.Batch, cause error) error {
	if cause != spend.ErrDiverged {
		return cause
	}
	if b.Sequence > mark.Sequence {
		return spend.ErrDiverged
	}
	is, known := mark.Recent.Is(mark.Sequence, b.Sequence, b.Digest())
	switch {
	case b.Sequence == mark.Sequence && b.Digest() != mark.Digest || known && !is:
		return spend.ErrDiverged
	case b.Sequence == mark.Sequence || known && mark.Has(b.Sequence):
		return nil
	}
	return errPerhapsBooked
}

// asideKept is a batch that this process has brought into quarantine, for as long as Postgres might
// be turned back to a moment before that. Nothing else has it then.
type asideKept struct {
	aside
	sum [sha256.Size]byte // of its bytes
	at  time.Time         // before it was brought there
}

// checkAside looks now and then whether the quarantine still has what was brought there, and has
// what it lacks brought again.
func (r *relay) checkAside(ctx context.Context) {
	now := r.p.time.Now()
	r.mu.Lock()
	list, books := r.asideKept, r.books.id
	r.mu.Unlock()
	if len(list) == 0 || now.Before(r.toPostgres.nextAside) {
		return
	}

	r.toPostgres.nextAside = now.Add(rewindCheck)
	has, err := r.commits.inQuarantine(ctx, list)
	if err != nil {
		r.log.Debug("it can't be looked whether the quarantine still has what was set aside", "error", err)
		return
	}

	var left []asideKept
	var gone, expired []aside
	for i, b := range list {
		switch {
		case !has[i]:
			gone = append(gone, b.aside)
		case len(gone)+len(left) == 0 && now.Sub(b.at) >= r.p.cfg.RewindWindow: // in their order, as the journal is truncated
			expired = append(expired, b.aside)
		default:
			left = append(left, b)
		}
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	if r.books.id != books {
		return
	}
	r.asideKept, r.aside = left, append(gone, r.aside...)
	if r.p.cfg.Journal != nil && len(expired) > 0 {
		r.quarantined = append(r.quarantined, expired...)
		defer r.wake() // the journal has no need of them any more
	}
	if len(gone) > 0 {
		r.log.Warn("Postgres was turned back: batches that were in quarantine are brought there again", "batches", len(gone))
	}
}

// inQuarantine says which of the batches the quarantine has. Where it lacks one, it first finds out
// whether Postgres is seen to be turned back: what is brought there could make up for what is
// missing.
func (c *committer) inQuarantine(ctx context.Context, list []asideKept) ([]bool, error) {
	sums := make([][sha256.Size]byte, len(list))
	for i, b := range list {
		sums[i] = b.sum
	}
	callCtx, cancel := c.time.WithTimeout(ctx, marksTimeout)
	defer cancel()
	has, err := c.cfg.Store.InQuarantine(callCtx, c.shard, sums)
	if err == nil && slices.Contains(has, false) {
		_, err = c.readMarks(ctx, nil)
	}
	return has, err
}

// quarantineAside brings what was set aside into quarantine.
func (r *relay) quarantineAside(ctx context.Context) {
	r.mu.Lock()
	list := r.aside
	r.mu.Unlock()
	if len(list) == 0 {
		return
	}

	bad := make([]spend.BadBatch, len(list))
	for i, b := range list {
		bad[i] = spend.BadBatch{Shard: r.shard, Reason: b.reason.Error(), Bytes: b.Bytes(), Unclaimed: true}
	}
	began := r.p.time.Now()
	kept, err := r.commits.quarantineBad(ctx, bad)
	if err != nil {
		r.log.Debug("batches can't be quarantined yet", "error", err)
	}

	if kept == 0 {
		return
	}

	r.mu.Lock()
	r.aside = r.aside[kept:]
	for _, b := range list[:kept] {
		switch {
		case r.p.cfg.RewindWindow > 0:
			r.asideKept = append(r.asideKept, asideKept{b, sha256.Sum256(b.Bytes()), began})
		case r.p.cfg.Journal != nil:
			r.quarantined = append(r.quarantined, b)
		}
		if !slices.ContainsFunc(r.aside, func(a aside) bool { return a.seal == b.seal }) {
			r.outbox.setAside[b.seal] = Queued
		}
	}
	r.mu.Unlock()
	r.wake() // without a window the journal has no need of it any more
	r.p.advanced()
}
