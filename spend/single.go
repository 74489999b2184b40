package spend

import (
	"errors"
	"fmt"
)

var (
	// ErrApplied is wrapped by Batch.Flush where the batch is in the books already.
	ErrApplied = errors.New("batch is in the books already")
	// ErrGap is wrapped by Batch.Flush where an earlier batch of the producer isn't in the books
	// yet.
	ErrGap = errors.New("an earlier batch of the producer isn't in the books")
	// ErrDiverged is wrapped by Batch.Flush, and by the reason for which a batch is set aside,
	// where it goes on from another batch than Postgres has under the same producer and sequence:
	// two processes have had the same memory.
	ErrDiverged = errors.New("another batch has this place in the books; its process was cloned, or put back to an earlier state")
)

// Alone returns a flush of this batch without a claim, for a store that has a claim of another
// kind. The error wraps ErrCorruptBatch.
func (b *Batch) Alone() (*Flush, error) {
	rows, err := b.Rows()
	if err != nil {
		return nil, err
	}
	f := &Flush{Shard: b.Shard, Books: b.Books, Totals: rows.Totals, Rollups: rows.Rollups, Control: rows.Control}
	if rows.Pieces.Len() > 0 {
		f.Facts = []BatchFacts{{b.Header, rows.Pieces}}
	}
	return f, nil
}

// Places says whether the mark tells of this very batch what it is to it: the next one, one that is
// in the books, or one that was skipped as lost. It doesn't for one that may be of another chain.
func (m Mark) Places(b *Batch) bool {
	if b.Sequence == m.Sequence+1 {
		return b.PriorDigest == m.Digest
	}
	is, known := m.Recent.Is(m.Sequence, b.Sequence, b.digest)
	return is && known && !m.IsAnother(b)
}

// Flush returns the flush that commits this batch alone, given the mark of its producer in its
// shard: by a claim if it is the next one, or as found if it was skipped as lost or set aside. The
// error wraps ErrApplied, ErrGap, ErrDiverged or ErrCorruptBatch.
func (b *Batch) Flush(mark Mark) (*Flush, error) {
	f, err := b.Alone()
	if err != nil {
		return nil, err
	}
	switch {
	case mark.Lacks(b.Sequence) && !mark.IsAnother(b):
		f.Found = []FoundBatch{{
			Producer: b.Producer, Sequence: b.Sequence, Digest: b.digest, PriorDigest: b.PriorDigest, Updates: b.Updates, Amount: b.Amount,
		}}
	case b.Sequence <= mark.Sequence && mark.IsAnother(b) || b.Sequence == mark.Sequence+1 && b.PriorDigest != mark.Digest:
		return nil, fmt.Errorf("producer %s sequence %d: %w", b.Producer, b.Sequence, ErrDiverged)
	case b.Sequence <= mark.Sequence:
		return nil, fmt.Errorf("producer %s sequence %d: %w", b.Producer, b.Sequence, ErrApplied)
	case b.Sequence > mark.Sequence+1:
		return nil, fmt.Errorf("producer %s sequence %d: %w: it is at %d", b.Producer, b.Sequence, ErrGap, mark.Sequence)
	default:
		claim := ClaimAfter(b.Producer, mark)
		claim.MoveTo(b)
		claim.Updates, claim.Amount = b.Updates, b.Amount
		f.Claims = []Claim{claim}
	}
	return f, nil
}
