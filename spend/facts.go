package spend

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// BatchFacts are the pieces of one batch whose rows a flush has.
type BatchFacts struct {
	Header Header // of the batch
	Pieces Pieces
}

// KnownFact is what the books have of an id: in which buckets it counts, with which content.
type KnownFact struct {
	ID      FactID
	Content Fingerprint
	Buckets uint64 // bit i for bucket i; AllBuckets for a single update
}

// CommittedFact is a KnownFact and when it was committed.
type CommittedFact struct {
	KnownFact
	At time.Time // by the clock of the books, to the minute
}

// FactSum is what pieces of facts count.
type FactSum struct {
	Updates int64
	Amount  Amount
}

// Plus returns the sum of both.
func (s FactSum) Plus(d FactSum) FactSum {
	return FactSum{s.Updates + d.Updates, s.Amount.Add(d.Amount)}
}

func (s *FactSum) add(c *Counters) {
	s.Updates, s.Amount = s.Updates+c.APIRequests(), s.Amount.Add(c.Spend)
}

// TakenOut says what a flush has taken out of a batch before it was booked.
type TakenOut struct {
	Producer ProducerID
	Sequence uint64
	Ranges   []TakenRange // in the order of the pieces
}

// TakenRange are pieces in a row that were taken out of a batch, as a whole, or one of which a part
// was.
type TakenRange struct {
	First, Last int  // places of the pieces in the batch, from 0
	Conflict    bool // they have another content than the books; else they are duplicates
	Updates     int64
}

// FactStore is the part of a Store that keeps ids. Stores are safe for concurrent use. The suite in
// package storetest says what an implementation must do.
type FactStore interface {
	// Fact returns what the books have of an id: nothing, one, or several where parts of a request
	// were committed at several times, or with several contents at the same moment.
	Fact(ctx context.Context, id FactID) ([]CommittedFact, error)

	// Outcomes returns what was taken out of those of a producer's batches that something was taken
	// out of, in the order of their sequences. It is known for an hour after the commit. A batch
	// that is in the books and has none was booked as it was.
	Outcomes(ctx context.Context, shard int, producer ProducerID, sequences []uint64) ([]TakenOut, error)

	// TendFacts forgets ids that were committed longer ago than the window, and outcomes of more
	// than an hour ago. It is to be called each minute, by one instance or by all: only the time
	// between two calls counts for the age of an id, and two minutes of that at most. So no clock
	// that jumps makes the store forget an id. An id is kept for a quarter of the window longer at
	// most, or for as long as nothing calls.
	TendFacts(ctx context.Context, window time.Duration) error
}

// ErrOutcome is wrapped by the errors of ParseTaken.
var ErrOutcome = errors.New("not an outcome")

// AppendTaken appends ranges in the form that ParseTaken reads: a few bytes for each.
func AppendTaken(to []byte, ranges []TakenRange) []byte {
	last := 0
	for _, r := range ranges {
		to = binary.AppendUvarint(to, uint64(r.First-last))
		kind := uint64(r.Last-r.First) << 1
		if r.Conflict {
			kind |= 1
		}
		to = binary.AppendUvarint(to, kind)
		to = binary.AppendUvarint(to, uint64(r.Updates))
		last = r.Last
	}
	return to
}

// ParseTaken reads what AppendTaken has written. The error wraps ErrOutcome.
func ParseTaken(b []byte) (ranges []TakenRange, err error) {
	d := decoder{rest: string(b)}
	last := 0
	for len(d.rest) > 0 {
		gap, kind, updates := d.count63(), d.count63(), d.count63()
		if d.bad || gap > MaxBatchPieces || kind>>1 > MaxBatchPieces {
			return nil, fmt.Errorf("%w: %d bytes, %d ranges of which can be read", ErrOutcome, len(b), len(ranges))
		}
		r := TakenRange{First: last + int(gap), Conflict: kind&1 == 1, Updates: updates}
		r.Last = r.First + int(kind>>1)
		ranges, last = append(ranges, r), r.Last
	}
	return ranges, nil
}
