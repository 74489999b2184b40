package pgstore

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush/spend"
)

// EntityTotal is an entity and what it has spent.
type EntityTotal struct {
	Entity    spend.Entity
	Spend     spend.Amount
	Requests  int64
	UpdatedAt time.Time
}

// Entities returns at most limit entities of these types (none: of all) whose id begins with the
// text, in the order of their ids as bytes; of team members, the user's id counts. It goes by an
// index, and looks at no more than limit of each type. With an empty text it returns those that
// have spent most instead, which reads all totals.
func (s *Store) Entities(ctx context.Context, types []spend.EntityType, begin string, limit int) ([]EntityTotal, error) {
	if len(types) == 0 {
		types = spend.EntityTypes()
	}
	names := make([]string, len(types))
	for i, t := range types {
		names[i] = t.String()
	}
	name, args := "entities_top", []any{names, limit}
	if begin != "" {
		name, args = "entities", []any{names, begin, limit, begin + behindAll}
	}
	list, err := readAll(ctx, s, name, args, func(row pgx.CollectableRow) (e EntityTotal, err error) {
		var kind string
		if err = row.Scan(&kind, &e.Entity.ID, &e.Entity.TeamID, &e.Spend, &e.Requests, &e.UpdatedAt); err == nil {
			e.Entity.Type, err = spend.ParseEntityType(kind)
		}
		return e, err
	})
	if err != nil {
		return nil, fmt.Errorf("look for entities: %w", err)
	}
	return list, nil
}

// behindAll goes behind every id: none is longer than so many of the last character.
var behindAll = strings.Repeat("\U0010ffff", spend.MaxIDBytes/len("\U0010ffff"))

// LostID names a range of batches that were skipped as lost, by the first of them.
type LostID struct {
	Producer spend.ProducerID
	Shard    int
	First    uint64 // sequence
}

// Lost is a range of batches that were skipped as lost together. One that is found or in quarantine
// stands by itself.
type Lost struct {
	LostID
	Last      uint64 // sequence
	Reason    string
	NoticedAt time.Time
	FoundAt   time.Time // when it turned up after all and was counted; zero if it didn't

	Quarantined bool // its bytes are in quarantine, or were when it was skipped

	// What is missing from the books of all lost batches of the producer in the shard, and how many
	// these are; what is in quarantine is left out. Of one alone it isn't known. Known is false if
	// the producer's mark was pruned.
	Known   bool
	Updates int64
	Amount  spend.Amount
	Batches int64
}

// The states of lost batches, for LostBatches.
const (
	LostMissing     = "missing"     // nothing is known of it
	LostQuarantined = "quarantined" // its bytes are in quarantine
	LostFound       = "found"       // it is in the books
)

// LostBatches returns at most limit ranges of the batches skipped as lost, in the given state or,
// with "", in any. The latest producers come first, and of each the latest ranges. after is the
// last one of the call before; nil begins.
func (s *Store) LostBatches(ctx context.Context, state string, after *LostID, limit int) ([]Lost, error) {
	var producer *[16]byte
	var shard int
	var sequence int64
	if after != nil {
		producer, shard, sequence = (*[16]byte)(&after.Producer), after.Shard, int64(after.First)
	}
	list, err := readAll(ctx, s, "lost_list", []any{producer, shard, sequence, state, limit}, scanLost)
	if err != nil {
		return nil, fmt.Errorf("list lost batches: %w", err)
	}
	return list, nil
}

func scanLost(row pgx.CollectableRow) (l Lost, err error) {
	var producer [16]byte
	var first, last int64
	var found *time.Time
	var updates *int64
	var amount *string
	err = row.Scan(&producer, &l.Shard, &first, &last, &l.Reason, &l.NoticedAt, &found, &l.Quarantined, &updates, &amount, &l.Batches)
	if err != nil {
		return l, err
	}
	l.Producer, l.First, l.Last = producer, uint64(first), uint64(last)
	if found != nil {
		l.FoundAt = *found
	}
	if updates != nil && amount != nil {
		l.Known, l.Updates = true, *updates
		err = (*anyAmount)(&l.Amount).Scan(*amount)
	}
	return l, err
}
