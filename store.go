package spendflush

import (
	"context"
	"errors"
)

// Claim moves a producer's mark from First-1 to Last.
type Claim struct {
	Producer    ProducerID
	First, Last uint64
	Updates     int64  // updates in the claimed batches
	Amount      Amount // and their sum

	// What the audit needs to know whether the lanes of a producer are at the same seal, from the headers.
	Shards          int    // Header.Shards of the batch Last
	Seal, PriorSeal uint64 // Header.Seal of the batch Last, and of the one before it, 0 if that isn't claimed here
}

// TotalRow is what a flush adds to the total of one entity.
type TotalRow struct {
	Key      Key // Entity.Key()
	Entity   Entity
	Counters Counters
}

// RollupRow is what a flush adds to one series in one hour.
type RollupRow struct {
	Key      Key // Series.Key()
	Hour     Hour
	Counters Counters

	source seriesSource
}

// Series returns the series that Key stands for. It is decoded anew at each call: most rows are of a series that
// Postgres has already, and never need it.
func (r *RollupRow) Series() Series { return r.source.series() }

// Control holds, for one shard, the sums that its rows must have: [0] of all rollup rows, [t] of all totals of entity
// type t. They are made when a batch is sealed, apart from the rows, so that the books can be checked against them.
type Control [entityTypes + 1]Counters

// Add adds d to c.
func (c *Control) Add(d *Control) {
	for i := range c {
		c[i].Add(&d[i])
	}
}

// Flush is what one transaction writes: for one shard, claims and the sums of the batches claimed. The slices are
// sorted, without repetition: Claims by producer, Totals by key, Rollups by hour and key.
type Flush struct {
	Shard   int
	Claims  []Claim
	Totals  []TotalRow
	Rollups []RollupRow
	Control Control
}

// BadBatch is a queue entry that can't be applied.
type BadBatch struct {
	Shard  int
	Reason string // one line
	Bytes  []byte // as found in the queue
}

// ErrFenced is returned by Store.Apply when a mark isn't where a claim says: somebody else has committed one of these
// batches, perhaps this very flusher in a try whose reply was lost. Nothing was written. Read the marks again.
var ErrFenced = errors.New("claim lost: a batch of this flush is committed already")

// Store is the database that has the truth. Stores are safe for concurrent use.
type Store interface {
	// Marks returns the mark of each of these producers in the shard: the last sequence applied. Producers without
	// one are left out.
	Marks(ctx context.Context, shard int, producers []ProducerID) (map[ProducerID]uint64, error)

	// Apply commits all of the flush or nothing. It returns ErrFenced if a claim doesn't fit. Deadlocks, serialization
	// failures and the like are tried again inside. After any other error the outcome is unknown: the same batches
	// may be applied again, and the claim sees to it that they count once. Apply doesn't change the flush.
	Apply(ctx context.Context, f *Flush) error

	// Quarantine keeps entries that can't be applied, each once however often it is called with it.
	Quarantine(ctx context.Context, bad []BadBatch) error
}
