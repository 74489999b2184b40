package pgstore

import (
	"context"
	"fmt"

	"github.com/spendflush/spendflush/spend"
)

// applyConflict books what was taken out of a batch because the books had another content under its
// ids. The ids stay with that. The store has written the bytes itself, so that nobody has signed
// them.
func (t *transaction) applyConflict(ctx context.Context, q quarantinedEntry) error {
	b, err := spend.ParseBatch(q.bytes)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	f, err := b.Alone()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if b.Shard != q.shard {
		return fmt.Errorf("%w: it is of shard %d and was found in shard %d", ErrRefused, b.Shard, q.shard)
	}

	var e encoder
	parts := e.parts(func() { encodeHeld(&e, b.Shard, []position{{b.Producer, b.Sequence}}) }, func() {
		e.int2(int16(b.Shard))
		e.uuid(b.Producer)
		e.int8(b.Updates)
		e.amount(b.Amount)
	})
	var same, moved int64
	err = t.run(ctx, call{name: "hold_marks", rows: -1, params: parts[0]},
		call{name: "fact_settle", rows: 1, params: parts[1], answer: &moved}, sameBooks(b.Books, &same))
	if err == nil && same != 1 {
		err = fmt.Errorf("%w: %w", ErrRefused, otherBooks(b.Books))
	}
	if err == nil && moved != 1 {
		err = fmt.Errorf("%w: its producer has no mark, and none was pruned", ErrRefused)
	}
	if err != nil {
		return err
	}

	var sums encoder
	encoded := encodeFlush(&sums, f, &spend.Decision{Conflicts: f.Control.Rollups.Negative()}, 0)
	return t.addByHand(ctx, f, encoded)
}
