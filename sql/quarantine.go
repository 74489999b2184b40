package sql

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush"
)

// ErrNotQuarantined is wrapped where no open entry of the quarantine has the id.
var ErrNotQuarantined = errors.New("no open entry of the quarantine has this id")

// Quarantined is an entry of the quarantine: a queue entry that can't be applied, or a row that Postgres refused.
type Quarantined struct {
	ID        int64     `json:"id"`
	Kind      string    `json:"kind"`  // batch or row
	State     string    `json:"state"` // open, applied or dropped
	Reason    string    `json:"reason"`
	CreatedAt time.Time `json:"created_at"`
	Shard     int       `json:"shard"`

	Producer string `json:"producer,omitempty"` // of a batch, where its header can be read
	Sequence uint64 `json:"sequence,omitempty"`
	Size     int    `json:"size,omitempty"` // bytes of a batch

	Book     string              `json:"book,omitempty"`  // of a row: rollup or the entity type
	Names    json.RawMessage     `json:"names,omitempty"` // of a row: its entity or series
	Hour     time.Time           `json:"hour,omitzero"`   // of a rollup row
	Counters spendflush.Counters `json:"counters,omitzero"`
}

// Quarantine implements spendflush.Store.
func (s *Store) Quarantine(ctx context.Context, bad []spendflush.BadBatch) error {
	err := s.inTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite}, func(tx pgx.Tx) error {
		for _, b := range bad {
			// The header is worth keeping even where the rows can't be read.
			var producer, sequence any
			if parsed, _ := spendflush.ParseBatch(b.Bytes); parsed != nil {
				producer, sequence = [16]byte(parsed.Producer), int64(parsed.Sequence)
			}
			bytes := b.Bytes
			if bytes == nil {
				bytes = []byte{}
			}
			_, err := tx.Exec(ctx, s.statement("quarantine_batch"), b.Shard, plainText(b.Reason), bytes, producer, sequence)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("quarantine %d batches: %w", len(bad), err)
	}
	return nil
}

// inTx calls do in a transaction, which is committed if do returns nil.
func (s *Store) inTx(ctx context.Context, o pgx.TxOptions, do func(pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, s.pool, o, do)
}

// plainText makes a text that Postgres takes out of one that may quote anything.
func plainText(text string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
}

// Quarantined returns at most limit entries in the order of their ids, from the first one after the given id: the open
// ones, or all.
func (s *Store) Quarantined(ctx context.Context, all bool, after int64, limit int) ([]Quarantined, error) {
	rows, err := s.pool.Query(ctx, s.statement("quarantine_list"), all, after, limit)
	if err != nil {
		return nil, fmt.Errorf("list quarantine: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (q Quarantined, err error) {
		var producer *[16]byte
		var sequence *int64
		var names string
		var day *time.Time
		var hour *int16
		c := &q.Counters
		err = row.Scan(&q.ID, &q.Kind, &q.State, &q.Reason, &q.CreatedAt, &q.Shard, &producer, &sequence, &q.Size, &q.Book,
			&names, &day, &hour, &c.Spend, &c.SuccessfulRequests, &c.FailedRequests, &c.PromptTokens, &c.CompletionTokens,
			&c.CacheReadInputTokens, &c.CacheCreationInputTokens)
		if producer != nil && sequence != nil {
			q.Producer, q.Sequence = spendflush.ProducerID(*producer).String(), uint64(*sequence)
		}
		if names != "" {
			q.Names = json.RawMessage(names)
		}
		if day != nil && hour != nil {
			q.Hour = day.Add(time.Duration(*hour) * time.Hour)
		}
		return q, err
	})
	if err != nil {
		return nil, fmt.Errorf("list quarantine: %w", err)
	}
	return list, nil
}

// QuarantinedBytes returns the bytes of a batch in quarantine, settled or not. The error wraps ErrNotQuarantined if
// there is none of this id.
func (s *Store) QuarantinedBytes(ctx context.Context, id int64) (bytes []byte, err error) {
	err = s.pool.QueryRow(ctx, s.statement("quarantine_bytes"), id).Scan(&bytes)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNotQuarantined
	}
	if err != nil {
		return nil, fmt.Errorf("read quarantine %d: %w", id, err)
	}
	return bytes, nil
}

// DropQuarantined settles an open entry without applying it. It stays in the table. The amount of a row that is
// dropped goes on counting as set aside: it was accepted and isn't in the books.
func (s *Store) DropQuarantined(ctx context.Context, id int64) error {
	tag, err := s.pool.Exec(ctx, s.statement("quarantine_settle"), id, "dropped")
	if err == nil && tag.RowsAffected() == 0 {
		err = ErrNotQuarantined
	}
	if err != nil {
		return fmt.Errorf("drop quarantine %d: %w", id, err)
	}
	return nil
}

// ApplyQuarantined tries an open entry again and settles it in the same transaction: a row is added, a batch is claimed
// like any other. A batch whose producer is too old to be known is taken not to be in the books: that is for the caller to
// know. The error wraps ErrNotQuarantined; ErrRefused if the entry can't be applied now either; spendflush.ErrApplied if
// the batch is in the books by now; spendflush.ErrGap if an earlier one of its producer isn't; spendflush.ErrFenced if
// its producer's mark moved meanwhile.
func (s *Store) ApplyQuarantined(ctx context.Context, id int64) error {
	if err := s.applyQuarantined(ctx, id); err != nil {
		return fmt.Errorf("apply quarantine %d: %w", id, err)
	}
	return nil
}

func (s *Store) applyQuarantined(ctx context.Context, id int64) error {
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
	if _, err := conn.Conn().Exec(ctx, s.statement("quarantine_settle"), id, "applied"); err != nil {
		return fmt.Errorf("settle: %w", err)
	}
	return tx.commit(ctx)
}

// quarantinedEntry is what is needed to apply one.
type quarantinedEntry struct {
	kind     string
	shard    int
	bytes    []byte
	book     string
	key      *[16]byte
	names    string
	hour     int32
	counters spendflush.Counters
}

func (s *Store) lockQuarantined(ctx context.Context, conn *pgx.Conn, id int64) (q quarantinedEntry, err error) {
	c := &q.counters
	err = conn.QueryRow(ctx, s.statement("quarantine_open"), id).Scan(&q.kind, &q.shard, &q.bytes, &q.book, &q.key, &q.names,
		&q.hour, &c.Spend, &c.SuccessfulRequests, &c.FailedRequests, &c.PromptTokens, &c.CompletionTokens,
		&c.CacheReadInputTokens, &c.CacheCreationInputTokens)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNotQuarantined
	}
	return q, err
}

func (t *transaction) applyBatch(ctx context.Context, conn *pgx.Conn, q quarantinedEntry) error {
	b, err := spendflush.ParseBatch(q.bytes)
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
	mark := marks.Of[b.Producer]
	forgotten := marks.Forgotten(b.Producer)
	if forgotten {
		mark.Sequence = b.Sequence - 1
	}
	f, err := b.Flush(mark)
	if err != nil {
		if errors.Is(err, spendflush.ErrCorruptBatch) {
			err = fmt.Errorf("%w: %w", ErrRefused, err)
		}
		return err
	}
	var e encoder
	encoded := encodeFlush(&e, f)
	if forgotten {
		// Nobody can tell whether it was applied: whoever applies it now says that it wasn't. That it is done once is up to
		// the entry's state.
		var adopted encoder
		adopted.int2(int16(b.Shard))
		adopted.int8(b.Updates)
		adopted.amount(b.Amount)
		adopted.uuid(b.Producer)
		adopted.int8(int64(b.Sequence))
		err = t.run(ctx, call{name: "adopt", rows: 1, params: adopted.params()})
	} else {
		err = t.claim(ctx, f, encoded)
	}
	if err != nil {
		return fmt.Errorf("producer %s sequence %d: %w", b.Producer, b.Sequence, err)
	}
	t.store.known.forget() // a statement more, and nothing to think about
	if err := t.add(ctx, f, encoded); err != nil {
		return err
	}
	return t.run(ctx, call{name: "add_control", params: encoded.control, rows: -1})
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
	return t.run(ctx, t.totalCalls([]spendflush.TotalRow{{Key: entity.Key(), Entity: entity, Counters: q.counters}})...)
}
