package pgstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// SpendReport is what the database has of one entity.
type SpendReport struct {
	Found     bool           // the entity has a total
	Committed spend.Counters // its total
	UpdatedAt time.Time      // when the total last changed; zero if there is none

	// Marks says by shard how far the asking producers are in the books, from the same snapshot.
	// Only Sequence and Lost are filled in. A producer without a mark has none here.
	Marks map[int]spend.Mark

	AsOf time.Time // when that snapshot was taken, by Postgres's clock
}

// ErrOutOfRange is wrapped where a sum doesn't fit the type that the method returns it in. Asking
// again can't help.
var ErrOutOfRange = errors.New("a sum is out of range")

// Spend returns the total of an entity together with the marks of producers, one for each shard
// from 0, from one snapshot: what a producer holds of batches that its mark doesn't have isn't in
// the total yet. The error wraps ErrOutOfRange if the sum of the shards has no room in the
// counters.
func (s *Store) Spend(ctx context.Context, e spend.Entity, producers []spend.ProducerID) (SpendReport, error) {
	asked := make([][16]byte, len(producers))
	for i, id := range producers {
		asked[i] = id
	}
	var r SpendReport
	var shards, lostShards []int32
	var sequences, first, last []int64
	into := append([]any{&r.AsOf, &r.Found, &r.UpdatedAt, (*anyAmount)(&r.Committed.Spend)}, countsOf(&r.Committed)...)
	err := s.readRow(ctx, "spend", []any{[16]byte(e.Key()), asked}, append(into, &shards, &sequences, &lostShards, &first, &last)...)
	if sqlState(err) == codeOutOfRange {
		err = fmt.Errorf("%w: %w", ErrOutOfRange, err)
	}
	if err != nil {
		return SpendReport{}, fmt.Errorf("read spend: %w", err)
	}
	if !r.Found {
		r.UpdatedAt = time.Time{}
	}

	r.Marks = make(map[int]spend.Mark, len(shards))
	for i, shard := range shards {
		r.Marks[int(shard)] = spend.Mark{Sequence: uint64(sequences[i])}
	}
	for i, shard := range lostShards {
		mark := r.Marks[int(shard)]
		mark.Lost = appendRange(mark.Lost, first[i], last[i])
		r.Marks[int(shard)] = mark
	}
	return r, nil
}

// Counts are how much the database holds. Those marked as estimates are Postgres's own, as of its
// last ANALYZE.
type Counts struct {
	Producers       int64     `json:"producers"`
	Entities        int64     `json:"entities_estimate"`
	Series          int64     `json:"series_estimate"`
	RollupRows      int64     `json:"rollup_rows_estimate"`
	IDs             int64     `json:"ids_estimate"`
	Bytes           int64     `json:"bytes"` // of all tables and indexes
	QuarantineOpen  int64     `json:"quarantine_open"`
	LostBatches     int64     `json:"lost_batches"` // those in quarantine left out
	LastCommit      time.Time `json:"last_commit"`  // zero if nothing was committed yet
	Updates         int64     `json:"updates"`
	SchemaMigration int64     `json:"schema_version"`
}

// Counts returns how much the database holds.
func (s *Store) Counts(ctx context.Context) (Counts, error) {
	var c Counts
	var last *time.Time
	err := s.readRow(ctx, "counts", nil, &c.Producers, &c.Updates, &last, &c.Entities, &c.Series,
		&c.RollupRows, &c.IDs, &c.Bytes, &c.QuarantineOpen, &c.LostBatches, &c.SchemaMigration)
	if err != nil {
		return Counts{}, fmt.Errorf("read counts: %w", err)
	}
	if last != nil {
		c.LastCommit = *last
	}
	return c, nil
}
