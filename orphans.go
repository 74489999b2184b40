package spendflush

import (
	"context"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// orphanInterval is how often shards above Config.Shards are looked at.
const orphanInterval = 30 * time.Second

// flushOrphans flushes what instances with more shards left in shards that this one doesn't have,
// so that lowering the number of shards leaves nothing behind. It works until ctx ends.
func (p *Pipeline) flushOrphans(ctx context.Context) {
	flushers := map[int]*flusher{}
	for p.time.Sleep(ctx, orphanInterval, nil) {
		for shard := p.cfg.Shards; shard < spend.MaxShards; shard++ {
			if flushers[shard] == nil {
				flushers[shard] = newFlusher(p, shard)
			}
			f := flushers[shard]
			waiting, err := f.anythingToFlush(ctx)
			if err != nil {
				p.log.Debug("shards of instances with more of them can't be looked at", "shard", shard, "error", err)
				break // the queue is away
			}
			if waiting {
				f.report(ctx, f.flush(ctx))
			}
		}
	}
}
