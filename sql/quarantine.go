package sql

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/spendflush/spendflush"
)

// ErrNotQuarantined is wrapped where no open entry of the quarantine has the id.
var ErrNotQuarantined = errors.New("no open entry of the quarantine has this id")

// Quarantined is an entry of the quarantine: a queue entry that can't be applied, or a row that Postgres refused.
type Quarantined struct {
	ID        int64
	Kind      string // batch or row
	State     string // open, applied or dropped
	Reason    string
	CreatedAt time.Time
	SettledAt time.Time // when it was applied or dropped; zero while it is open
	SettledBy string    // who did that, as far as was known
	Shard     int

	// Of a batch.
	Size      int                   // bytes
	Producer  spendflush.ProducerID // zero, like Sequence, where its header can't be read
	Sequence  uint64
	Unclaimed bool // its producer doesn't own this place any more, so it can't be claimed; see spendflush.BadBatch
	Counted   bool // Updates and Counters.Spend are known, from its header
	Updates   int64

	// Of a row.
	Book   string             // rollup or the entity type
	Entity *spendflush.Entity // whose total it is; nil of a rollup row
	Series *spendflush.Series // of a rollup row
	Hour   time.Time          // of a rollup row

	// What a row counts; of a batch only Spend is set.
	Counters spendflush.Counters
}

// Quarantine implements spendflush.Store.
func (s *Store) Quarantine(ctx context.Context, bad []spendflush.BadBatch) error {
	for len(bad) > 0 {
		n := 1
		for n < len(bad) && bad[n].Shard == bad[0].Shard {
			n++
		}
		if err := s.quarantine(ctx, bad[:n]); err != nil {
			return fmt.Errorf("quarantine %d batches: %w", len(bad), err)
		}
		bad = bad[n:]
	}
	return nil
}

// quarantine keeps batches of one shard, in a transaction with the settings of a flush: their only other copy is given up
// after it.
func (s *Store) quarantine(ctx context.Context, bad []spendflush.BadBatch) error {
	var e encoder
	shard, places := bad[0].Shard, badPlaces(bad)
	parts := e.parts(func() { encodeHeld(&e, shard, places) }, func() { encodeSplit(&e, shard, places) },
		func() { encodeBad(&e, shard, bad) }, func() { e.int2(int16(shard)) })
	calls := []call{{name: "hold_marks", rows: -1, params: parts[0]}, {name: "split", rows: -1, params: parts[1]},
		{name: "quarantine_batch", rows: -1, params: parts[2]}, {name: "count_change", rows: -1, params: parts[3]}}
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Release()
	tx := &transaction{store: s, conn: conn.Conn().PgConn()}
	defer tx.end(ctx)
	if err := tx.run(ctx, append(tx.beginCalls(), calls...)...); err != nil {
		return err
	}
	return tx.commit(ctx)
}

// encodeBad encodes batches for the quarantine. The header is worth keeping even where the rows can't be read, unless somebody
// else has written it: that a lost batch is in quarantine has its producer forget it.
func encodeBad(e *encoder, shard int, bad []spendflush.BadBatch) {
	parsed := make([]*spendflush.Batch, len(bad))
	for i, b := range bad {
		if !b.Foreign {
			parsed[i], _ = spendflush.ParseBatch(b.Bytes)
		}
	}
	e.int2(int16(shard))
	e.texts(len(bad), func(i int) string { return plainText(bad[i].Reason) })
	e.byteas(len(bad), func(i int) []byte { return bad[i].Bytes })
	is := func(i int) bool { return parsed[i] != nil }
	e.nullable(pgtype.UUIDOID, pgtype.UUIDArrayOID, len(bad), is, func(i int) { e.buf = append(e.buf, parsed[i].Producer[:]...) })
	e.nullable(pgtype.Int8OID, pgtype.Int8ArrayOID, len(bad), is, func(i int) {
		e.buf = binary.BigEndian.AppendUint64(e.buf, parsed[i].Sequence)
	})
	e.nullable(pgtype.Int8OID, pgtype.Int8ArrayOID, len(bad), is, func(i int) {
		e.buf = binary.BigEndian.AppendUint64(e.buf, uint64(parsed[i].Updates))
	})
	e.nullable(pgtype.NumericOID, pgtype.NumericArrayOID, len(bad), is, func(i int) { e.buf = appendNumeric(e.buf, parsed[i].Amount) })
	e.bools(len(bad), func(i int) bool { return bad[i].Unclaimed })
}

// plainText makes a text that Postgres takes out of one that may quote anything.
func plainText(text string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
}

// Quarantined returns at most limit entries in the order of their ids, from the first one after the given id: the open
// ones, or all.
func (s *Store) Quarantined(ctx context.Context, all bool, after int64, limit int) ([]Quarantined, error) {
	state := "open"
	if all {
		state = ""
	}
	return s.QuarantinedIn(ctx, state, after, limit)
}

// QuarantinedIn is like Quarantined for the entries in one state: open, applied or dropped, or "" for all.
func (s *Store) QuarantinedIn(ctx context.Context, state string, after int64, limit int) ([]Quarantined, error) {
	list, err := readAll(ctx, s, "quarantine_list", []any{state, after, limit}, scanQuarantined)
	if err != nil {
		return nil, fmt.Errorf("list quarantine: %w", err)
	}
	return list, nil
}

// QuarantinedEntry returns the entry with the id, settled or not. The error wraps ErrNotQuarantined if there is none.
func (s *Store) QuarantinedEntry(ctx context.Context, id int64) (Quarantined, error) {
	list, err := s.Quarantined(ctx, true, id-1, 1)
	if err == nil && (len(list) == 0 || list[0].ID != id) {
		err = fmt.Errorf("read quarantine %d: %w", id, ErrNotQuarantined)
	}
	if err != nil {
		return Quarantined{}, err
	}
	return list[0], nil
}

func scanQuarantined(row pgx.CollectableRow) (q Quarantined, err error) {
	var settled, day *time.Time
	var producer *[16]byte
	var sequence, updates *int64
	var names string
	var hour *int16
	c := &q.Counters
	err = row.Scan(&q.ID, &q.Kind, &q.State, &q.Reason, &q.CreatedAt, &settled, &q.SettledBy, &q.Shard, &producer, &sequence, &q.Unclaimed, &q.Size,
		&updates, &q.Book, &names, &day, &hour, (*anyAmount)(&c.Spend), &c.SuccessfulRequests, &c.FailedRequests,
		&c.PromptTokens, &c.CompletionTokens, &c.CacheReadInputTokens, &c.CacheCreationInputTokens)
	if err != nil {
		return q, err
	}
	if settled != nil {
		q.SettledAt = *settled
	}
	if producer != nil && sequence != nil {
		q.Producer, q.Sequence = *producer, uint64(*sequence)
	}
	if updates != nil {
		q.Counted, q.Updates = true, *updates
	}
	switch {
	case names == "":
	case q.Book == bookName(0):
		err = json.Unmarshal([]byte(names), &q.Series)
	default:
		err = json.Unmarshal([]byte(names), &q.Entity)
	}
	if err != nil {
		return q, fmt.Errorf("names of entry %d: %w", q.ID, err)
	}
	if day != nil && hour != nil {
		q.Hour = day.Add(time.Duration(*hour) * time.Hour)
	}
	return q, nil
}

// anyAmount reads every 128-bit amount. ParseAmount reads those that NUMERIC(38,12) holds, and one that it doesn't
// hold is why a row may be in quarantine.
type anyAmount spendflush.Amount

func (a *anyAmount) Scan(source any) error {
	err := (*spendflush.Amount)(a).Scan(source)
	if err == nil {
		return nil
	}
	text, _ := source.(string)
	r, ok := new(big.Rat).SetString(text)
	if !ok {
		return err
	}
	units := r.Mul(r, new(big.Rat).SetInt64(1e12)).Num()
	if units.BitLen() > 127 && units.Cmp(new(big.Int).Lsh(big.NewInt(-1), 127)) != 0 {
		return err
	}
	hi := new(big.Int).Rsh(units, 64) // rounds down, as two's complement does
	lo := new(big.Int).Sub(units, new(big.Int).Lsh(hi, 64))
	*a = anyAmount(spendflush.AmountFromUnits(hi.Int64(), lo.Uint64()))
	return nil
}

// QuarantinedBytes returns the bytes of a batch in quarantine, settled or not. The error wraps ErrNotQuarantined if
// there is none of this id.
func (s *Store) QuarantinedBytes(ctx context.Context, id int64) (bytes []byte, err error) {
	err = s.readRow(ctx, "quarantine_bytes", []any{id}, &bytes)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNotQuarantined
	}
	if err != nil {
		return nil, fmt.Errorf("read quarantine %d: %w", id, err)
	}
	return bytes, nil
}

// DropQuarantined settles an open entry without applying it. It stays in the table. The amount of a row that is
// dropped goes on counting as set aside: it was accepted and isn't in the books. by, who does it, is kept with the entry.
func (s *Store) DropQuarantined(ctx context.Context, id int64, by string) error {
	err := s.write(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, s.statement("quarantine_settle"), id, "dropped", plainText(by))
		if err == nil && tag.RowsAffected() == 0 {
			err = ErrNotQuarantined
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("drop quarantine %d: %w", id, err)
	}
	return nil
}

// ApplyQuarantined tries an open entry again and settles it in the same transaction: a row is added, a batch is claimed
// like any other. A batch whose producer is too old to be known is taken not to be in the books: that is for the caller to
// know. The error wraps ErrNotQuarantined; ErrRefused if the entry can't be applied now either; spendflush.ErrApplied if
// the batch is in the books by now; spendflush.ErrGap if an earlier one of its producer isn't; spendflush.ErrFenced if
// its producer's mark moved meanwhile. After any other
// error the outcome may be unknown: the same call again is safe. by, who does it, is kept with the entry.
func (s *Store) ApplyQuarantined(ctx context.Context, id int64, by string) error {
	for try := 1; ; try++ {
		err := s.applyQuarantined(ctx, id, by)
		if err == nil {
			return nil
		}
		final := errors.Is(err, ErrNotQuarantined) || errors.Is(err, ErrRefused) || errors.Is(err, spendflush.ErrFenced) ||
			errors.Is(err, spendflush.ErrApplied) || errors.Is(err, spendflush.ErrGap) || errors.Is(err, errUnknown) ||
			cure(ctx, err) != retry
		if final || try == maxTries || !pause(ctx, try) {
			return fmt.Errorf("apply quarantine %d: %w", id, err)
		}
	}
}

func (s *Store) applyQuarantined(ctx context.Context, id int64, by string) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Release()
	tx := &transaction{store: s, conn: conn.Conn().PgConn()}
	defer tx.end(ctx)
	if err := tx.begin(ctx); err != nil {
		return err
	}
	entry, err := s.lockQuarantined(ctx, conn.Conn(), id)
	if err != nil {
		return err
	}
	if entry.kind == "batch" {
		err = tx.applyBatch(ctx, conn.Conn(), entry)
	} else {
		err = tx.applyRow(ctx, entry)
	}
	if cure(ctx, err) == isolate {
		err = fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if err != nil {
		return err
	}
	if _, err := conn.Conn().Exec(ctx, s.statement("quarantine_settle"), id, "applied", plainText(by)); err != nil {
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
	counters  spendflush.Counters
}

func (s *Store) lockQuarantined(ctx context.Context, conn *pgx.Conn, id int64) (q quarantinedEntry, err error) {
	c := &q.counters
	err = conn.QueryRow(ctx, s.statement("quarantine_open"), id).Scan(&q.kind, &q.unclaimed, &q.shard, &q.bytes, &q.book, &q.key, &q.names,
		&q.hour, (*anyAmount)(&c.Spend), &c.SuccessfulRequests, &c.FailedRequests, &c.PromptTokens, &c.CompletionTokens,
		&c.CacheReadInputTokens, &c.CacheCreationInputTokens)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNotQuarantined
	}
	return q, err
}

func (t *transaction) applyBatch(ctx context.Context, conn *pgx.Conn, q quarantinedEntry) error {
	b, err := t.store.batchKeys.ParseBatch(q.bytes)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if b.Shard != q.shard {
		return fmt.Errorf("%w: it is of shard %d and was found in shard %d", ErrRefused, b.Shard, q.shard)
	}
	// The mark is read without the row locked: should it move meanwhile, the claim is lost.
	marks, err := t.store.readMarks(ctx, conn, b.Shard, []spendflush.ProducerID{b.Producer})
	if err != nil {
		return err
	}
	if b.Books != marks.Books {
		return fmt.Errorf("%w: %w", ErrRefused, otherBooks(b.Books))
	}
	f, err := b.Flush(marks.Of[b.Producer])
	// A batch that has no place in its producer's chain, or whose producer is too old to be known, can't be claimed. Who
	// applies it says that it isn't in the books. That it is done once is up to the entry's state.
	adopted := q.unclaimed || marks.Forgotten(b.Producer) || errors.Is(err, spendflush.ErrDiverged)
	if adopted {
		f, err = b.Alone()
	}
	if err != nil {
		if errors.Is(err, spendflush.ErrCorruptBatch) {
			err = fmt.Errorf("%w: %w", ErrRefused, err)
		}
		return err
	}
	var e encoder
	encoded := encodeFlush(&e, f)
	if adopted {
		err = t.adopt(ctx, b)
	} else {
		err = t.claim(ctx, f, encoded)
	}
	if err != nil {
		return fmt.Errorf("producer %s sequence %d: %w", b.Producer, b.Sequence, err)
	}
	t.store.known.forget() // a statement more, and nothing to think about
	var rows encoder
	return t.addAll(ctx, f, encoded, t.prepare(&rows, f))
}

func (t *transaction) applyRow(ctx context.Context, q quarantinedEntry) error {
	changed := fmt.Errorf("%w: its texts aren't valid, so they could not be kept as they were", ErrRefused)
	if q.book == bookName(0) {
		var series spendflush.Series
		if err := json.Unmarshal([]byte(q.names), &series); err != nil {
			return fmt.Errorf("%w: %w", ErrRefused, err)
		}
		row := spendflush.NewRollupRow(&series, spendflush.Hour(q.hour), q.counters)
		if row.Key != *q.key {
			return changed
		}
		return t.run(ctx, t.rollupCalls([]spendflush.RollupRow{row})...)
	}
	var entity spendflush.Entity
	if err := json.Unmarshal([]byte(q.names), &entity); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if entity.Key() != *q.key {
		return changed
	}
	return t.run(ctx, t.totalCalls(q.shard, []spendflush.TotalRow{{Key: entity.Key(), Entity: entity, Counters: q.counters}})...)
}
