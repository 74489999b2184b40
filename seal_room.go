package spendflush

import "github.com/spendflush/spendflush/spend"

// haveRoom says whether another seal may be made: with what is open now, as large as a key was in
// the last seal, what is unconfirmed stays within its bound, or there is nothing unconfirmed. While
// Redis is up and only Postgres is away, batches go on being made and queued, so that the death of
// this process costs no more than what was accepted since the last seal. Ids that are held take of
// the same bound.
func (p *Pipeline) haveRoom() bool {
	bytes := 0
	for _, r := range p.relays {
		r.mu.Lock()
		full := r.outbox.atRisk() >= maxAtRisk
		bytes += r.outbox.bytes()
		r.mu.Unlock()
		if full {
			return false
		}
	}
	ids := p.open.facts.sealing(int64(bytes))
	return bytes == 0 || int64(bytes)+ids+p.open.keys.Load()*p.keyBytes.Load() <= int64(p.cfg.MaxUnconfirmedBytes)
}

// bytesPerKey returns how many bytes of batches, rounded up, one of the places became whose cells
// were sealed into them.
func bytesPerKey(sealed [][]*spend.Batch, places int64) int64 {
	bytes := 0
	for _, list := range sealed {
		for _, b := range list {
			bytes += len(b.Bytes())
		}
	}
	return int64(bytes)/max(1, places) + 1
}
