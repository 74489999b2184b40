package pgstore

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/spendflush/spendflush/spend"
)

// ErrNotQuarantined is wrapped where no open entry of the quarantine has the id.
var ErrNotQuarantined = errors.New("no open entry of the quarantine has this id")

// Quarantined is an entry of the quarantine: a queue entry that can't be applied, a row that
// Postgres refused, or facts that were taken out of a batch because the books have another content
// under their ids: a conflict.
type Quarantined struct {
	ID        int64
	Kind      string // batch, row or conflict
	State     string // open, applied or dropped
	Reason    string
	CreatedAt time.Time
	SettledAt time.Time // when it was applied or dropped; zero while it is open
	SettledBy string    // who did that, as far as was known
	Shard     int

	// Of a batch, or of the batch that a conflict is of.
	Size      int              // bytes
	Producer  spend.ProducerID // zero, like Sequence, where its header can't be read
	Sequence  uint64
	Unclaimed bool // its producer doesn't own this place any more, so it can't be claimed; see spend.BadBatch
	Counted   bool // Updates and Counters.Spend are known, from its header
	Updates   int64

	// Of a row.
	Book   string        // rollup or the entity type
	Entity *spend.Entity // whose total it is; nil of a rollup row
	Series *spend.Series // of a rollup row
	Hour   time.Time     // of a rollup row

	// What a row or a conflict counts; of a batch only Spend is set.
	Counters spend.Counters
}

// What may be open in quarantine for a batch to be kept that is Bounded.
const (
	MaxQuarantined      = 10_000  // batches
	MaxQuarantinedBytes = 1 << 30 // bytes of batches
)

// quarantineRoom is what may be open in quarantine.
type quarantineRoom struct{ batches, bytes int64 }

// check returns an error if there is no room for those of the batches that are Bounded.
// Transactions that look at the same time don't see each other's: the bound may be passed by what
// they keep, a batch or 4 MiB for each shard.
func (r quarantineRoom) check(ctx context.Context, t *transaction, bad []spend.BadBatch) error {
	var n, bytes int64
	for _, b := range bad {
		if b.Bounded {
			n, bytes = n+1, bytes+int64(len(b.Bytes))
		}
	}
	if n == 0 {
		return nil
	}
	var e encoder
	for _, v := range []int64{n, r.batches, bytes, r.bytes} {
		e.int8(v)
	}
	var fits int64
	if err := t.run(ctx, call{name: "quarantine_room", rows: 1, params: e.params(), answer: &fits}); err != nil {
		return err
	}
	if fits == 0 {
		return fmt.Errorf("%w: %d batches or %d bytes are open", spend.ErrQuarantineFull, r.batches, r.bytes)
	}
	return nil
}

// Quarantine implements spend.Store.
func (s *Store) Quarantine(ctx context.Context, bad []spend.BadBatch) error {
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

// quarantine keeps batches of one shard, in a transaction with the settings of a flush: their only
// other copy is given up after it.
func (s *Store) quarantine(ctx context.Context, bad []spend.BadBatch) error {
	var e encoder
	shard, places := bad[0].Shard, badPlaces(bad)
	parts := e.parts(func() { encodeHeld(&e, shard, places) }, func() { encodeSplit(&e, shard, places) },
		func() { encodeBad(&e, shard, bad) }, func() { e.int2(int16(shard)) })
	calls := []call{{name: "hold_marks", rows: -1, params: parts[0]}, {name: "split", rows: -1, params: parts[1]},
		{name: "quarantine_batch", rows: -1, params: parts[2]}, {name: "count_change", rows: -1, params: parts[3]}}
	return s.on(ctx, func(conn *pgx.Conn) error {
		tx := &transaction{store: s, conn: conn.PgConn()}
		defer tx.end(ctx)
		if err := tx.run(ctx, tx.beginCalls()...); err != nil {
			return err
		}
		if err := s.room.check(ctx, tx, bad); err != nil {
			return err
		}
		if err := tx.run(ctx, calls...); err != nil {
			return err
		}
		return tx.commit(ctx)
	})
}

// InQuarantine says which batches are in quarantine; see spend.Store.
func (s *Store) InQuarantine(ctx context.Context, shard int, sums [][sha256.Size]byte) ([]bool, error) {
	digests := make([][]byte, len(sums))
	for i := range sums {
		digests[i] = sums[i][:]
	}
	found, err := readAll(ctx, s, "quarantine_has", []any{int16(shard), digests}, pgx.RowTo[bool])
	if err != nil {
		return nil, fmt.Errorf("look for %d batches of shard %d in quarantine: %w", len(sums), shard, err)
	}
	return found, nil
}

// encodeBad encodes batches for the quarantine. The header is worth keeping even where the rows
// can't be read, unless somebody else has written it: that a lost batch is in quarantine has its
// producer forget it.
func encodeBad(e *encoder, shard int, bad []spend.BadBatch) {
	parsed := make([]*spend.Batch, len(bad))
	for i, b := range bad {
		if !b.Foreign {
			parsed[i], _ = spend.ParseBatch(b.Bytes)
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

// Quarantined returns at most limit entries in the order of their ids, from the first one after the
// given id: the open ones, or all.
func (s *Store) Quarantined(ctx context.Context, all bool, after int64, limit int) ([]Quarantined, error) {
	state := "open"
	if all {
		state = ""
	}
	return s.QuarantinedIn(ctx, state, after, limit)
}

// QuarantinedIn is like Quarantined for the entries in one state: open, applied or dropped, or ""
// for all.
func (s *Store) QuarantinedIn(ctx context.Context, state string, after int64, limit int) ([]Quarantined, error) {
	list, err := readAll(ctx, s, "quarantine_list", []any{state, after, limit}, scanQuarantined)
	if err != nil {
		return nil, fmt.Errorf("list quarantine: %w", err)
	}
	return list, nil
}

// QuarantinedEntry returns the entry with the id, settled or not. The error wraps ErrNotQuarantined
// if there is none.
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
	into := []any{
		&q.ID, &q.Kind, &q.State, &q.Reason, &q.CreatedAt, &settled, &q.SettledBy, &q.Shard, &producer, &sequence, &q.Unclaimed, &q.Size,
		&updates, &q.Book, &names, &day, &hour, (*anyAmount)(&q.Counters.Spend),
	}
	err = row.Scan(append(into, countsOf(&q.Counters)...)...)
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
	case q.Book == rollupBook:
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

// anyAmount reads every 128-bit amount. ParseAmount reads those that NUMERIC(38,12) holds, and one
// that it doesn't hold is why a row may be in quarantine.
type anyAmount spend.Amount

func (a *anyAmount) Scan(source any) error {
	err := (*spend.Amount)(a).Scan(source)
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
	*a = anyAmount(spend.AmountFromUnits(hi.Int64(), lo.Uint64()))
	return nil
}

// QuarantinedBytes returns the bytes of a batch in quarantine, settled or not. The error wraps
// ErrNotQuarantined if there is none of this id.
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

// DropQuarantined settles an open entry without applying it. It stays in the table. The amount of a
// row that is dropped goes on counting as set aside: it was accepted and isn't in the books. by,
// who does it, is kept with the entry.
func (s *Store) DropQuarantined(ctx context.Context, id int64, by string) error {
	err := s.write(ctx, func(tx querier) error {
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
