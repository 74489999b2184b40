package pgstore

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush/spend"
)

// Fact implements spend.FactStore.
func (s *Store) Fact(ctx context.Context, id spend.FactID) (facts []spend.CommittedFact, err error) {
	err = s.read(ctx, func(tx querier) error {
		if _, err := tx.Exec(ctx, s.statement("fact_by_index")); err != nil {
			return err
		}
		var opened []time.Time
		if err := tx.QueryRow(ctx, s.statement("fact_opened")).Scan(&opened); err != nil {
			return err
		}
		high, low := halves(id)
		rows, err := tx.Query(ctx, s.statement("fact_find"), []int64{high}, []int64{low})
		if err != nil {
			return err
		}
		facts, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (f spend.CommittedFact, err error) {
			var place, said, buckets int64
			var part int
			err = row.Scan(&place, &said, &buckets, &part)
			if err == nil && part >= len(opened) {
				err = fmt.Errorf("part %d of %d", part, len(opened))
			}
			if err != nil {
				return f, err
			}
			f.KnownFact = spend.KnownFact{ID: id, Content: spend.Fingerprint(uint64(said) >> minuteBits), Buckets: uint64(buckets)}
			f.At = opened[part].UTC().Truncate(time.Minute).Add(time.Duration(said&(1<<minuteBits-1)) * time.Minute)
			return f, nil
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for an id: %w", denied(err))
	}
	return facts, nil
}

// Outcomes implements spend.FactStore.
func (s *Store) Outcomes(
	ctx context.Context, shard int, producer spend.ProducerID, sequences []uint64,
) ([]spend.TakenOut, error) {
	asked := make([]int64, len(sequences))
	for i, sequence := range sequences {
		asked[i] = int64(sequence)
	}
	scan := func(row pgx.CollectableRow) (out spend.TakenOut, err error) {
		var sequence int64
		var taken []byte
		if err := row.Scan(&sequence, &taken); err != nil {
			return out, err
		}
		out.Producer, out.Sequence = producer, uint64(sequence)
		out.Ranges, err = spend.ParseTaken(taken)
		return out, err
	}
	list, err := readAll(ctx, s, "fact_outcomes", []any{shard, [16]byte(producer), asked}, scan)
	if err != nil {
		return nil, fmt.Errorf("read outcomes: %w", denied(err))
	}
	return list, nil
}

// emptyTimeout is how long a part that is made empty waits for those who read. All others wait
// behind it.
const emptyTimeout = 200 * time.Millisecond

// TendFacts implements spend.FactStore. A part that can't be made empty at once, because somebody
// reads, is so at a later call.
func (s *Store) TendFacts(ctx context.Context, window time.Duration) error {
	err := s.write(ctx, func(tx querier) error {
		if _, err := tx.Exec(ctx, s.statement("fact_tick")); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, s.statement("fact_forget")); err != nil {
			return err
		}
		var changed int64
		if err := tx.QueryRow(ctx, s.statement("fact_rotate"), window).Scan(&changed); err != nil || changed == 0 {
			return err
		}
		if _, err := tx.Exec(ctx, s.statement("fact_open")); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, s.statement("fact_hold"), bucketsIn(spend.AllBuckets)); err != nil { // in the order in which flushes do
			return err
		}
		_, err := tx.Exec(ctx, s.statement("fact_turn_all"))
		return err
	})
	if err == nil {
		err = s.emptyRetired(ctx)
	}
	if err == nil {
		err = s.write(ctx, func(tx querier) error {
			_, err := tx.Exec(ctx, s.statement("make_rollup_parts_ahead"))
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("tend ids: %w", denied(err))
	}
	return nil
}

func (s *Store) emptyRetired(ctx context.Context) error {
	err := s.write(ctx, func(tx querier) error {
		if _, err := tx.Exec(ctx, "SELECT pg_catalog.set_config('lock_timeout', $1::text, true)", fmt.Sprint(emptyTimeout.Milliseconds())); err != nil {
			return err
		}
		var n int64
		return tx.QueryRow(ctx, s.statement("fact_empty")).Scan(&n)
	})
	if sqlState(err) == codeLockTimeout {
		return nil
	}
	return err
}

// FactPart is one of the tables that ids lie in.
type FactPart struct {
	Part     int
	State    string // empty, current, full or retired
	OpenedAt time.Time
	Age      time.Duration // of its oldest id, in time that was observed
	Rows     int64         // Postgres's estimate
	Bytes    int64         // of the table and its index
	Untended time.Duration // since an instance tended the parts, the same for all of them
}

// FactParts returns the tables that ids lie in. It is cheap.
func (s *Store) FactParts(ctx context.Context) ([]FactPart, error) {
	scan := func(row pgx.CollectableRow) (p FactPart, err error) {
		err = row.Scan(&p.Part, &p.State, &p.OpenedAt, &p.Age, &p.Rows, &p.Bytes, &p.Untended)
		return p, err
	}
	list, err := readAll(ctx, s, "fact_status", nil, scan)
	if err != nil {
		return nil, fmt.Errorf("read the parts of ids: %w", denied(err))
	}
	return list, nil
}
