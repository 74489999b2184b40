package pgstore

import (
	"context"
	"fmt"

	"github.com/spendflush/spendflush/spend"
)

// position is where a batch stands among those of its producer.
type position struct {
	producer spend.ProducerID
	sequence uint64
}

// foundPlaces returns where the batches stand that a flush has found.
func foundPlaces(f *spend.Flush) []position {
	places := make([]position, len(f.Found))
	for i := range f.Found {
		places[i] = position{f.Found[i].Producer, f.Found[i].Sequence}
	}
	return places
}

// badPlaces returns where batches stand that go to quarantine, as far as their headers are to be
// believed and they may have been skipped as lost.
func badPlaces(bad []spend.BadBatch) (places []position) {
	for i := range bad {
		if bad[i].Foreign || bad[i].Unclaimed {
			continue
		}
		if b, _ := spend.ParseBatch(bad[i].Bytes); b != nil {
			places = append(places, position{b.Producer, b.Sequence})
		}
	}
	return places
}

// encodeHeld encodes what hold_marks.sql asks for.
func encodeHeld(e *encoder, shard int, places []position) {
	e.int2(int16(shard))
	e.keys(len(places), func(i int) *[16]byte { return (*[16]byte)(&places[i].producer) })
}

// encodeSplit encodes what split.sql asks for.
func encodeSplit(e *encoder, shard int, places []position) {
	encodeHeld(e, shard, places)
	e.int8s(len(places), func(i int) int64 { return int64(places[i].sequence) })
}

// adopt books a batch that can't be claimed. The mark of its producer must be held. taken is what
// was taken out of it, nil if it has no facts.
func (t *transaction) adopt(ctx context.Context, b *spend.Batch, taken *spend.Decision) error {
	if taken == nil {
		taken = &spend.Decision{}
	}
	duplicates, conflicts := &taken.Duplicates, &taken.Conflicts
	var e encoder
	parts := e.parts(func() { encodeSplit(&e, b.Shard, []position{{b.Producer, b.Sequence}}) }, func() {
		e.int2(int16(b.Shard))
		e.int8(b.Updates - duplicates.APIRequests() - conflicts.APIRequests())
		e.amount(b.Amount.Sub(duplicates.Spend).Sub(conflicts.Spend))
		e.uuid(b.Producer)
		e.int8(int64(b.Sequence))
		e.int8(b.Updates)
		e.amount(b.Amount)
		for _, c := range []*spend.Counters{duplicates, conflicts} {
			e.int8(c.APIRequests())
			e.amount(c.Spend)
		}
	})
	var same int64
	err := t.run(ctx, call{name: "split", rows: -1, params: parts[0]}, call{name: "adopt", rows: 1, params: parts[1]},
		sameBooks(b.Books, &same))
	if err == nil && same != 1 {
		err = fmt.Errorf("%w: %w", ErrRefused, otherBooks(b.Books))
	}
	return err
}
