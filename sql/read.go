package sql

import (
	"context"
	"fmt"
	"time"

	"github.com/spendflush/spendflush"
)

// SpendReport is what the database has of one entity.
type SpendReport struct {
	Found     bool                // the entity has a total
	Committed spendflush.Counters // its total
	UpdatedAt time.Time           // when the total last changed; zero if there is none
	Marks     map[int]uint64      // marks of the asking producer by shard, from the same snapshot
	AsOf      time.Time           // when that snapshot was taken, by Postgres's clock
}

// Spend returns the total of an entity together with the marks of a producer, from one snapshot: what the producer
// holds of batches behind these marks isn't in the total yet.
func (s *Store) Spend(ctx context.Context, e spendflush.Entity, producer spendflush.ProducerID) (SpendReport, error) {
	var r SpendReport
	var shards []int32
	var sequences []int64
	c := &r.Committed
	row := s.pool.QueryRow(ctx, s.statement("spend"), [16]byte(e.Key()), [16]byte(producer))
	err := row.Scan(&r.AsOf, &r.Found, &r.UpdatedAt, &c.Spend, &c.SuccessfulRequests, &c.FailedRequests,
		&c.PromptTokens, &c.CompletionTokens, &c.CacheReadInputTokens, &c.CacheCreationInputTokens, &shards, &sequences)
	if err != nil {
		return SpendReport{}, fmt.Errorf("read spend: %w", err)
	}
	if !r.Found {
		r.UpdatedAt = time.Time{}
	}
	r.Marks = make(map[int]uint64, len(shards))
	for i, shard := range shards {
		r.Marks[int(shard)] = uint64(sequences[i])
	}
	return r, nil
}

// Counts are how much the database holds. Those marked as estimates are Postgres's own, as of its last ANALYZE.
type Counts struct {
	Producers       int64     `json:"producers"`
	Entities        int64     `json:"entities_estimate"`
	Series          int64     `json:"series_estimate"`
	RollupRows      int64     `json:"rollup_rows_estimate"`
	Bytes           int64     `json:"bytes"` // of all tables and indexes
	QuarantineOpen  int64     `json:"quarantine_open"`
	LostBatches     int64     `json:"lost_batches"`
	LastCommit      time.Time `json:"last_commit"` // zero if nothing was committed yet
	Updates         int64     `json:"updates"`
	SchemaMigration int64     `json:"schema_version"`
}

// Counts returns how much the database holds.
func (s *Store) Counts(ctx context.Context) (Counts, error) {
	var c Counts
	var last *time.Time
	err := s.pool.QueryRow(ctx, s.statement("counts")).Scan(&c.Producers, &c.Updates, &last, &c.Entities, &c.Series,
		&c.RollupRows, &c.Bytes, &c.QuarantineOpen, &c.LostBatches, &c.SchemaMigration)
	if err != nil {
		return Counts{}, fmt.Errorf("read counts: %w", err)
	}
	if last != nil {
		c.LastCommit = *last
	}
	return c, nil
}
