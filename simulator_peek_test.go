package spendflush

import (
	"context"

	"github.com/spendflush/spendflush/spend"
)

// All that the simulator needs of the inside of a Pipeline is here: what its goroutines do, and the
// batches that it has.

// sealedBatches returns the batches of a relay that wait for Postgres.
func (p *Pipeline) sealedBatches(shard int) []*spend.Batch {
	_, batches, _ := p.relays[shard].unconfirmed()
	return batches
}

// beginAll begins the goroutines of Run.
func (in *simInstance) beginAll() {
	p := in.p
	for _, r := range p.relays {
		for _, t := range r.tasks {
			in.begin("lane "+t.name, func(ctx context.Context) { t.step(ctx) })
		}
	}
	for _, f := range p.flushers {
		in.begin("flusher", func(ctx context.Context) { f.report(ctx, f.term(ctx)) })
	}
	if p.cfg.Queue != nil {
		in.begin("orphans", p.flushOrphans)
	}
	if p.cfg.Journal != nil {
		in.begin("replay", in.replay)
	}
	if p.cfg.RewindWindow > 0 {
		in.begin("watch", p.watchRewinds)
	}
	in.begin("touching marks", p.touchMarks)
	in.begin("tending ids", p.tendFacts)
}

// undecided returns how many batches of facts are in the books of which the process doesn't know
// what they came to, and how many ids it holds.
func (in *simInstance) undecided() (batches, ids int) {
	for _, r := range in.p.relays {
		batches += len(r.outbox.deciding)
	}
	return batches, len(in.p.open.facts.held)
}

func (in *simInstance) replay(ctx context.Context) {
	if !in.replayed {
		in.p.replay(ctx)
		in.replayed = true
	}
}
