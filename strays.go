package spendflush

import (
	"context"
	"errors"
	"time"
)

// strayInterval is how often lanes above Config.Shards are looked at.
const strayInterval = 30 * time.Second

// flushStrays flushes what instances with more shards left in lanes that this one doesn't have, so that lowering the
// number of shards leaves nothing behind. It works until ctx ends.
func (p *Pipeline) flushStrays(ctx context.Context) {
	flushers := map[int]*flusher{}
	for p.time.Sleep(ctx, strayInterval, nil) {
		for shard := p.cfg.Shards; shard < MaxShards; shard++ {
			if flushers[shard] == nil {
				flushers[shard] = newFlusher(p, shard)
			}
			err := flushers[shard].once(ctx)
			if err != nil && !errors.Is(err, ErrHeld) {
				p.log.Debug("lanes of instances with more shards can't be looked at", "shard", shard, "error", err)
				break
			}
		}
	}
}
