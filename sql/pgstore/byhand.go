package pgstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush/spend"
)

// ErrByHand is wrapped where a batch was applied by hand before, out of the same or another entry
// of the quarantine.
var ErrByHand = errors.New("this batch was applied by hand")

// ApplyQuarantined tries an open entry again and settles it in the same transaction: a row is
// added, a batch is claimed like any other and loses the facts that are booked by now, and a
// conflict is booked beside what has its ids. A batch whose producer is too old to be known is
// taken not to be in the books: that is for the caller to know. However often a batch lies in
// quarantine, it is applied by hand once. The error wraps ErrNotQuarantined; ErrByHand if another
// entry with the same batch was applied; ErrRefused if the entry can't be applied now either;
// spend.ErrApplied if the batch is in the books by now; spend.ErrGap if an earlier one of its
// producer isn't; spend.ErrFenced if its producer's mark moved meanwhile. After any other error the
// outcome may be unknown: the same call again is safe. by, who does it, is kept with the entry.
func (s *Store) ApplyQuarantined(ctx context.Context, id int64, by string) error {
	for try := 1; ; try++ {
		err := s.on(ctx, func(conn *pgx.Conn) error { return s.applyQuarantined(ctx, conn, id, by) })
		if err == nil {
			return nil
		}
		final := errors.Is(err, ErrNotQuarantined) || errors.Is(err, ErrRefused) || errors.Is(err, ErrByHand) || errors.Is(err, spend.ErrFenced) ||
			errors.Is(err, spend.ErrApplied) || errors.Is(err, spend.ErrGap) || errors.Is(err, errUnknown) ||
			classify(ctx, err) != retry
		if final || try == maxTries || !pause(ctx, try) {
			return fmt.Errorf("apply quarantine %d: %w", id, err)
		}
	}
}

func (s *Store) applyQuarantined(ctx context.Context, conn *pgx.Conn, id int64, by string) error {
	tx := &transaction{store: s, conn: conn.PgConn()}
	defer tx.end(ctx)
	if err := tx.begin(ctx); err != nil {
		return err
	}
	entry, err := s.lockQuarantined(ctx, s.querier(conn), id)
	if err != nil {
		return err
	}
	switch entry.kind {
	case "batch":
		err = tx.applyBatch(ctx, s.querier(conn), id, entry)
	case "conflict":
		err = tx.applyConflict(ctx, entry)
	default:
		err = tx.applyRow(ctx, entry)
	}
	if classify(ctx, err) == isolate {
		err = fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if err != nil {
		return err
	}
	if _, err := s.querier(conn).Exec(ctx, s.statement("quarantine_settle"), id, "applied", plainText(by)); err != nil {
		return fmt.Errorf("settle: %w", err)
	}
	return tx.commit(ctx)
}

// quarantinedEntry is what is needed to apply one.
type quarantinedEntry struct {
	kind      string
	unclaimed bool // of a batch
	shard     int
	bytes     []byte
	book      string
	key       *[16]byte
	names     string
	hour      int32
	counters  spend.Counters
}

func (s *Store) lockQuarantined(ctx context.Context, from querier, id int64) (q quarantinedEntry, err error) {
	into := []any{&q.kind, &q.unclaimed, &q.shard, &q.bytes, &q.book, &q.key, &q.names, &q.hour, (*anyAmount)(&q.counters.Spend)}
	err = from.QueryRow(ctx, s.statement("quarantine_open"), id).Scan(append(into, countsOf(&q.counters)...)...)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNotQuarantined
	}
	return q, err
}

// applyBatch books a batch: by the claim of its producer, or beside all claims where it has no
// place among them. Who applies such a one says that it isn't in the books.
func (t *transaction) applyBatch(ctx context.Context, from querier, entry int64, q quarantinedEntry) error {
	b, err := t.store.batchKeys.ParseBatch(q.bytes)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if b.Shard != q.shard {
		return fmt.Errorf("%w: it is of shard %d and was found in shard %d", ErrRefused, b.Shard, q.shard)
	}
	if _, err := from.Exec(ctx, t.store.statement("hold_marks"), b.Shard, [][16]byte{b.Producer}); err != nil {
		return fmt.Errorf("hold the mark: %w", err)
	}
	marks, err := t.store.readMarks(ctx, from, b.Shard, []spend.ProducerID{b.Producer})
	if err != nil {
		return err
	}
	if b.Books != marks.Books {
		return fmt.Errorf("%w: %w", ErrRefused, otherBooks(b.Books))
	}
	f, beside, err := flushByHand(b, marks, q.unclaimed)
	if err != nil && !errors.Is(err, spend.ErrApplied) {
		if errors.Is(err, spend.ErrCorruptBatch) {
			err = fmt.Errorf("%w: %w", ErrRefused, err)
		}
		return err
	}
	if noted := t.noteByHand(ctx, from, entry, b, beside); noted != nil {
		return noted // it says more than that the batch is in the books
	}
	if err != nil {
		return err
	}
	return t.bookByHand(ctx, b, f, beside)
}

// flushByHand returns the flush of the batch, and whether it is to be booked beside all claims.
func flushByHand(b *spend.Batch, marks spend.Marks, unclaimed bool) (f *spend.Flush, beside bool, err error) {
	switch mark := marks.Of[b.Producer]; {
	case marks.Pruned(b.Producer):
		beside = true
	case unclaimed:
		f, err = b.Flush(mark)
		beside = !mark.Places(b)
	default:
		f, err = b.Flush(mark)
		beside = errors.Is(err, spend.ErrDiverged)
	}
	if beside {
		f, err = b.Alone()
	}
	return f, beside, err
}

// noteByHand notes that the batch is applied by hand. The error wraps ErrByHand if it was before.
func (t *transaction) noteByHand(ctx context.Context, from querier, entry int64, b *spend.Batch, beside bool) error {
	name := []any{b.Shard, [16]byte(b.Producer), int64(b.Sequence), [16]byte(b.Digest())}
	tag, err := from.Exec(ctx, t.store.statement("by_hand_note"), append(name, entry, beside, b.Updates, b.Amount.String())...)
	if err != nil {
		return fmt.Errorf("note what is applied by hand: %w", err)
	}
	if tag.RowsAffected() == 1 {
		return nil
	}
	var before int64
	var at time.Time
	if err := from.QueryRow(ctx, t.store.statement("by_hand_entry"), name...).Scan(&before, &at); err != nil {
		return fmt.Errorf("read what was applied by hand: %w", err)
	}
	return fmt.Errorf("%w as entry %d, at %s", ErrByHand, before, at.UTC().Format(time.RFC3339))
}

func (t *transaction) bookByHand(ctx context.Context, b *spend.Batch, f *spend.Flush, beside bool) error {
	var e encoder
	// It is no change that instances count: after a restore it could make up for one that is
	// missing before any has looked. If it is turned back itself, its entry is open again.
	f, taken, facts, err := t.decideByHand(ctx, f)
	if err != nil {
		return err
	}
	encoded := encodeFlush(&e, f, taken, 0)
	encoded.facts = facts
	if beside {
		err = t.adopt(ctx, b, taken)
	} else {
		err = t.claim(ctx, f, encoded)
	}
	if err != nil {
		return fmt.Errorf("producer %s sequence %d: %w", b.Producer, b.Sequence, err)
	}
	return t.addByHand(ctx, f, encoded)
}

// addByHand adds the rows of a flush that instances know nothing of.
func (t *transaction) addByHand(ctx context.Context, f *spend.Flush, encoded encodedFlush) error {
	t.store.known.evictAll() // a statement more, and nothing to think about
	var rows encoder
	return t.addAll(ctx, f, encoded, t.prepare(&rows, f))
}

// decideByHand decides which facts of a batch count by now. Without facts it returns the flush as
// it is.
func (t *transaction) decideByHand(ctx context.Context, f *spend.Flush) (*spend.Flush, *spend.Decision, []call, error) {
	if len(f.Facts) == 0 {
		return f, nil, nil, nil
	}
	look := &factLook{flush: f, ids: f.FactIDs()}
	if err := t.decideInside(ctx, look); err != nil {
		return nil, nil, nil, err
	}
	return look.decision.Flush, look.decision, look.writeCalls(), nil
}

func (t *transaction) applyRow(ctx context.Context, q quarantinedEntry) error {
	changed := fmt.Errorf("%w: its texts aren't valid, so they could not be kept as they were", ErrRefused)
	if q.book == rollupBook {
		var series spend.Series
		if err := json.Unmarshal([]byte(q.names), &series); err != nil {
			return fmt.Errorf("%w: %w", ErrRefused, err)
		}
		row := spend.NewRollupRow(&series, spend.Hour(q.hour), q.counters)
		if row.Key != *q.key {
			return changed
		}
		return t.run(ctx, append(staleFigures(row.Hour), t.rollupCalls([]spend.RollupRow{row})...)...)
	}
	var entity spend.Entity
	if err := json.Unmarshal([]byte(q.names), &entity); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if entity.Key() != *q.key {
		return changed
	}
	return t.run(ctx, t.totalCalls(q.shard, []spend.TotalRow{{Key: entity.Key(), Entity: entity, Counters: q.counters}})...)
}
