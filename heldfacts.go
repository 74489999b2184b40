package spendflush

import "github.com/spendflush/spendflush/spend"

// heldPieces are those of a sealed batch, by their places in it, until it is known what they came
// to. The lock of openFacts guards them.
type heldPieces struct{ pieces []heldPiece }

// batches seals what is open of a shard, as batches that go on from those already sealed, of which
// h is the header of the first one. It returns all, and what is held of each, nil for those already
// sealed.
func (o *openFacts) batches(shard int, sealed []*spend.Batch, h spend.Header, keys *spend.BatchKeys) ([]*spend.Batch, []*heldPieces) {
	for _, b := range sealed {
		h = after(h, b)
	}
	held := make([]*heldPieces, len(sealed))
	for _, open := range o.ended[shard] {
		b := open.Seal(keys, h)
		h = after(h, b)
		sealed, held = append(sealed, b), append(held, &heldPieces{open.pieces})
	}
	return sealed, held
}

// settle takes what was taken out of a batch that is in the books: once for each.
func (o *openFacts) settle(held *heldPieces, taken []spend.TakenRange) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, r := range taken {
		for place := r.First; place <= r.Last && place < len(held.pieces); place++ {
			p := held.pieces[place]
			updates := p.updates
			if r.First == r.Last {
				updates = uint32(r.Updates) // perhaps a part of the piece
			}
			if r.Conflict {
				p.fact.conflicts += updates
			} else {
				p.fact.duplicates += updates
			}
		}
	}
	o.letGo(held)
}

// release lets go of the ids of a batch of which nothing more will be known here: it is set aside.
// What repeats one of them is recorded, and the books decide.
func (o *openFacts) release(held *heldPieces) {
	if held == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, p := range held.pieces {
		p.fact.uncertain = true
	}
	o.letGo(held)
}

// letGo lets go of the ids that have no other piece. The caller holds the lock.
func (o *openFacts) letGo(held *heldPieces) {
	for _, p := range held.pieces {
		if p.fact.left--; p.fact.left == 0 && o.held[p.fact.id] == p.fact {
			delete(o.held, p.fact.id)
		}
	}
	held.pieces = nil
}

// size returns how many ids are held, and the bytes that they take.
func (o *openFacts) size() (ids int, bytes int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.held), o.heldBytes()
}

// sealing notes how many bytes the batches have that wait for Postgres, and returns those of the
// ids that are held.
func (o *openFacts) sealing(batches int64) (ids int64) {
	o.sealed.Store(batches)
	_, ids = o.size()
	return ids
}

// doubt notes that what a batch came to can't be told for certain any more.
func (o *openFacts) doubt(held *heldPieces) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, p := range held.pieces {
		p.fact.uncertain = true
	}
}

// takenUpdates returns how many updates were taken out.
func takenUpdates(taken []spend.TakenOut) (duplicates, conflicts int64) {
	for i := range taken {
		for _, r := range taken[i].Ranges {
			if r.Conflict {
				conflicts += r.Updates
			} else {
				duplicates += r.Updates
			}
		}
	}
	return duplicates, conflicts
}
