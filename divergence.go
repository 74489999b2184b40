package spendflush

import (
	"context"
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
	// errForgotten is why a batch is set aside whose producer's mark was pruned.
	errForgotten = errors.New("this instance was out of touch with Postgres for so long that its mark was pruned: it can't be told " +
		"whether this batch was booked")
	// errPerhapsBooked is why a batch is set aside that was under way when its process was cloned or put back.
	errPerhapsBooked = errors.New("its process was cloned, or put back to an earlier state: it can't be told whether this batch was booked")
)

// changeIdentity goes on under a new identity, because Postgres has other batches under the present one than this process
// has sealed: another process has the same memory, or had it before this one was put back to it. What is known to be in
// the books is done; all else can't be booked under this identity any more and goes to quarantine, from where an operator
// can apply it. mark is what Postgres says of the producer. It does nothing if the identity is another one already.
func (l *lane) changeIdentity(of spend.ProducerID, mark spend.Mark, cause error) {
	l.p.sealing.Lock()
	defer l.p.sealing.Unlock()
	l.mu.Lock()
	if l.outbox.producer != of || cause == spend.ErrDiverged && l.outbox.follows(mark) {
		l.mu.Unlock()
		return
	}
	tell := l.renewIdentity(mark, cause)
	l.mu.Unlock()
	tell()
}

// renewIdentity is changeIdentity for a caller who holds Pipeline.sealing and mu, and calls tell without mu.
func (l *lane) renewIdentity(mark spend.Mark, cause error) (tell func()) {
	old := l.outbox
	fresh := newOutbox(l.p.cfg.newProducer(l.p.time.Now(), l.commits.pruned()), l.p.cfg.RewindWindow)
	fresh.seal, fresh.setAside = old.seal, old.setAside

	var updates int64
	var amount spend.Amount
	confirmed, batches := 0, 0
	for _, b := range old.batches {
		reason := reasonAside(mark, b.Batch, cause)
		if reason == nil {
			confirmed++
			continue
		}
		stage := Accepted
		if b.queued || b.journaled {
			stage = Queued
		}
		fresh.noteAside(b.seal, stage)
		l.aside = append(l.aside, aside{b.Batch, b.seal, fmt.Errorf("producer %s sequence %d: %w", b.Producer, b.Sequence, reason)})
		batches, updates, amount = batches+1, updates+b.Updates, amount.Add(b.Amount)
	}
	l.outbox, l.diverged, l.moved = fresh, false, nil
	l.missing, l.missingSince, l.gaps = 0, time.Time{}, gapWatch{}

	return func() {
		l.p.metrics.identities.Inc()
		l.log.Error("THIS PROCESS DOES NOT OWN ITS IDENTITY ANY MORE: it goes on under a new one; what it can't be sure of goes to quarantine",
			"reason", cause, "old_producer", old.producer.String(), "new_producer", fresh.producer.String(),
			"mark", mark.Sequence, "sealed", old.next-1, "batches", batches, "updates", updates, "amount", amount)
		if confirmed > 0 {
			l.p.advanced()
		}
		l.poke()
	}
}

// checkBirth looks, before anything is sealed under the identity, whether it looks like that of a producer whose mark was
// pruned, because this machine's clock is far behind. Then another one is made that doesn't. If Postgres can't be asked,
// it is tried again as long as nothing is sealed.
func (l *lane) checkBirth(ctx context.Context) {
	l.mu.Lock()
	unused, producer := l.outbox.next == 1, l.outbox.producer
	l.mu.Unlock()
	if !unused || l.toPostgres.isBorn {
		return
	}
	marks, err := l.commits.readMarks(ctx, []spend.ProducerID{producer})
	if err != nil {
		l.log.Debug("it can't be looked whether this clock is far behind", "error", err)
		return
	}
	l.toPostgres.isBorn = true
	if !marks.Forgotten(producer) {
		return
	}
	l.p.sealing.Lock()
	defer l.p.sealing.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.outbox.next > 1 || l.outbox.producer != producer {
		return // what was sealed meanwhile is set aside when the mark is read
	}
	fresh := newOutbox(l.p.cfg.newProducer(l.p.time.Now(), marks.Horizon), l.p.cfg.RewindWindow)
	fresh.seal, fresh.setAside = l.outbox.seal, l.outbox.setAside
	l.outbox = fresh
	l.log.Warn("the clock of this machine is far behind: the identity gets a later time, or its batches would go to quarantine",
		"clock", l.p.time.Now().UTC(), "pruned_before", marks.Horizon.UTC(), "new_producer", fresh.producer.String())
}

// reasonAside says why a batch can't be booked under its identity any more, nil if it is in the books.
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

// keepAside brings what was set aside into quarantine.
func (l *lane) keepAside(ctx context.Context) {
	l.mu.Lock()
	list := l.aside
	l.mu.Unlock()
	if len(list) == 0 {
		return
	}
	bad := make([]spend.BadBatch, len(list))
	for i, b := range list {
		bad[i] = spend.BadBatch{Shard: l.shard, Reason: b.reason.Error(), Bytes: b.Bytes(), Unclaimed: true}
	}
	kept, err := l.commits.keepBad(ctx, bad)
	if err != nil {
		l.log.Debug("batches can't be quarantined yet", "error", err)
	}
	if kept == 0 {
		return
	}

	l.mu.Lock()
	l.aside = l.aside[kept:]
	if l.p.cfg.Journal != nil {
		l.kept = append(l.kept, list[:kept]...)
	}
	for _, b := range list[:kept] {
		if !slices.ContainsFunc(l.aside, func(a aside) bool { return a.seal == b.seal }) {
			l.outbox.setAside[b.seal] = Queued
		}
	}
	l.mu.Unlock()
	l.poke() // the journal has no need of it any more
	l.p.advanced()
}
