package spendflush

import (
	"fmt"
	"maps"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// goesOn says whether a batch can go on, perhaps with others between, from the place in the books
// that has this sequence, digest and number of updates sealed up to it. updates may be 0 if it
// isn't known.
func goesOn(b *spend.Batch, sequence uint64, digest spend.Digest, updates int64) bool {
	missing := b.Sequence - sequence - 1
	if missing == 0 {
		return b.PriorDigest == digest
	}
	// A batch has an update at least. Where those between can't have had any, it goes on from
	// others.
	return b.PriorUpdates >= updates && uint64(b.PriorUpdates-updates) >= missing
}

// skipGap adds to the flush, as lost, what is missing between the claim and the batch: one range,
// however long.
func (p *plan) skipGap(b *spend.Batch, claim *spend.Claim, f *spend.Flush) {
	reason := fmt.Sprintf("batches %d to %d, with %d updates of %s dollars: %s", claim.Last+1, b.Sequence-1,
		b.PriorUpdates-claim.SealedUpdates, b.PriorAmount.Sub(claim.SealedAmount), p.skipping[b.Producer])
	f.Lost = append(f.Lost, spend.LostRange{Producer: b.Producer, First: claim.Last + 1, Last: b.Sequence - 1, Reason: reason})
}

// claimFound takes a batch that was skipped as lost. One that can't be booked is set aside by the
// same flush.
func (p *plan) claimFound(b entryBatch, f *spend.Flush, sums *sums) {
	found := spend.FoundBatch{Producer: b.Producer, Sequence: b.Sequence, Digest: b.Digest(), PriorDigest: b.PriorDigest}
	if p.addRows(b.Batch, f, sums) {
		found.Updates, found.Amount = b.Updates, b.Amount
	}
	p.taken = append(p.taken, b)
	f.Found = append(f.Found, found)
}

// addRows adds the rows of a batch that the flush claims. It says whether the batch counts by that
// claim: one that can't be booked is set aside instead. One that an operator has booked by hand
// beside all claims counts by this one from now on, and its rows are there.
func (p *plan) addRows(b *spend.Batch, f *spend.Flush, sums *sums) (counts bool) {
	if p.marks[b.Producer].IsByHand(b) {
		f.ByHand = append(f.ByHand, spend.ByHandBatch{Producer: b.Producer, Sequence: b.Sequence, Digest: b.Digest()})
		sums.batches++
		return true
	}
	rows, err := p.rowsOf(b)
	if err != nil {
		setAside(f, b, err)
		sums.batches++
		return false
	}
	sums.add(rows)
	if rows.Pieces.Len() > 0 {
		f.Facts = append(f.Facts, spend.BatchFacts{Header: b.Header, Pieces: rows.Pieces})
	}
	return true
}

// gaps returns the producers whose batches wait for an earlier one, and the last sequence before
// the gap of each. Those that are known to have a newer program are left out: what is missing may
// be in its format. So are those whose next batch isn't missing, but can't be committed.
func (p *plan) gaps() map[spend.ProducerID]uint64 {
	gaps := map[spend.ProducerID]uint64{}
	for id, batches := range p.wait {
		if mark, known := p.marks[id]; known && len(batches) > 0 && !p.newer[id] && !p.trouble.rests(id) {
			gaps[id] = mark.Sequence
		}
	}
	return gaps
}

// waiting returns how many batches wait for an earlier one, and the size of their bytes.
func (p *plan) waiting() (batches, bytes int) {
	for _, list := range p.wait {
		for _, b := range list {
			batches++
			bytes += len(b.Bytes())
		}
	}
	return batches, bytes
}

// gapWatch remembers since when gaps have been there, over the walks of one flusher.
type gapWatch map[spend.ProducerID]gap

type gap struct {
	after uint64 // the mark before it
	since time.Time
}

// overdue takes the gaps at the end of a walk over the whole queue, and returns the producers whose
// gap has been there for the grace. Marks only move forward, so a gap behind the same mark has been
// there all the while.
func (w gapWatch) overdue(gaps map[spend.ProducerID]uint64, now time.Time, grace time.Duration) (ids []spend.ProducerID) {
	maps.DeleteFunc(w, func(id spend.ProducerID, g gap) bool {
		after, there := gaps[id]
		return !there || after != g.after
	})
	for id, after := range gaps {
		if _, seen := w[id]; !seen {
			w[id] = gap{after, now}
		}
		if now.Sub(w[id].since) >= grace {
			ids = append(ids, id)
		}
	}
	return ids
}

// setAside adds to the flush that the batch, which it claims, is in quarantine instead of the
// books.
func setAside(f *spend.Flush, b *spend.Batch, reason error) {
	f.Lost = append(f.Lost, spend.LostRange{Producer: b.Producer, First: b.Sequence, Last: b.Sequence, Reason: reason.Error(), Quarantined: true})
	f.Quarantine = append(f.Quarantine, spend.BadBatch{Shard: f.Shard, Reason: reason.Error(), Bytes: b.Bytes()})
}
