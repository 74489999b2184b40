package spendflush

import (
	"context"
	"slices"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// hold attaches what is held to the batches added last.
func (o *outbox) hold(held []*heldPieces) {
	for i, h := range held {
		o.batches[len(o.batches)-len(held)+i].held = h
	}
}

// decide notes that a batch is in the books: if it is one of facts, it isn't known yet what it came
// to.
func (o *outbox) decide(b *outgoing) {
	if b.held != nil {
		o.deciding = append(o.deciding, b)
	}
}

// undecide notes that a batch is in the books no more.
func (o *outbox) undecide(b *outgoing) {
	o.deciding = slices.DeleteFunc(o.deciding, func(other *outgoing) bool { return other == b })
}

// decided notes that what the batches came to is known.
func (o *outbox) decided(batches []*outgoing) {
	o.deciding = slices.DeleteFunc(o.deciding, func(b *outgoing) bool { return slices.Contains(batches, b) })
	for _, b := range batches {
		b.held = nil
	}
}

// reachedOfFacts returns how far updates with ids have come that are in these seals.
func (o *outbox) reachedOfFacts(seals []uint64) Stage {
	stage := Committed
	for _, seal := range seals {
		stage = min(stage, o.reached(seal))
	}
	for _, b := range o.deciding {
		if slices.Contains(seals, b.seal) {
			return min(stage, Queued)
		}
	}
	return stage
}

// decideOwn takes what a flush of this process came to, so that its own batches needn't be asked
// for.
func (p *Pipeline) decideOwn(shard int, f *spend.Flush, taken []spend.TakenOut) {
	if shard < len(p.relays) {
		p.relays[shard].settle(taken, func(b *outgoing) bool {
			return slices.ContainsFunc(f.Facts, func(of spend.BatchFacts) bool {
				return of.Header.Producer == b.Producer && of.Header.Sequence == b.Sequence
			})
		})
	}
}

// settle takes what was taken out of those batches that are to be decided and of which it is known.
func (r *relay) settle(taken []spend.TakenOut, isKnown func(*outgoing) bool) {
	r.mu.Lock()
	var known []*outgoing
	var held []*heldPieces // another goroutine may settle the same ones, too
	for _, b := range r.outbox.deciding {
		if isKnown(b) {
			known, held = append(known, b), append(held, b.held)
		}
	}
	r.mu.Unlock()
	if len(known) == 0 {
		return
	}

	for i, b := range known {
		var ranges []spend.TakenRange
		for _, out := range taken {
			if out.Producer == b.Producer && out.Sequence == b.Sequence {
				ranges = out.Ranges
			}
		}
		r.p.open.facts.settle(held[i], ranges)
	}
	r.mu.Lock()
	r.outbox.decided(known)
	r.mu.Unlock()
	r.p.advanced()
}

const (
	// outcomesAtOnce is of how many batches it is asked at once what they came to.
	outcomesAtOnce = 1000

	// outcomeKnown is for how long after a batch was sealed it is relied on that the books still
	// know what it came to. They do for an hour after the commit.
	outcomeKnown = 50 * time.Minute
)

// askOutcomes asks what batches of facts came to that others have committed.
func (r *relay) askOutcomes(ctx context.Context) {
	now := r.p.time.Now()
	if now.Before(r.toPostgres.nextOutcome) {
		return
	}
	producer, sequences, late := r.toAsk(now)
	if len(sequences) == 0 {
		return
	}
	callCtx, cancel := r.p.time.WithTimeout(ctx, marksTimeout)
	defer cancel()
	taken, err := r.p.facts.Outcomes(callCtx, r.shard, producer, sequences)
	if err != nil {
		r.toPostgres.nextOutcome = now.Add(retryMost)
		r.log.Debug("it can't be asked yet what batches of ids came to", "error", err)
		return
	}

	for _, held := range late {
		r.p.open.facts.doubt(held)
	}
	r.settle(taken, func(b *outgoing) bool { return b.Producer == producer && slices.Contains(sequences, b.Sequence) })
}

// toAsk returns of which batches it is to be asked what they came to, all of one producer, and what
// is held of those that were sealed so long ago that the books may have forgotten it.
func (r *relay) toAsk(now time.Time) (producer spend.ProducerID, sequences []uint64, late []*heldPieces) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range r.outbox.deciding {
		if len(sequences) == 0 {
			producer = b.Producer
		}
		if b.Producer != producer || len(sequences) == outcomesAtOnce { // another one only after a change of identity
			continue
		}
		sequences = append(sequences, b.Sequence)
		if now.Sub(b.SealedAt) > outcomeKnown {
			late = append(late, b.held)
		}
	}
	return producer, sequences, late
}
