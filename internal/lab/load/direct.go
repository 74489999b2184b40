package load

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/spendflush/spendflush/spend"
)

// DirectConfig says how Direct writes. The zero value of a field stands for its default.
type DirectConfig struct {
	DatabaseURL string

	// Schema is made for the tables and dropped by Close. Default: "direct_updates".
	Schema string

	// Writers is the number of instances, each with a connection. Default: 10.
	Writers int

	// Buffer is the number of updates that an instance gathers and writes in one transaction.
	// Default: 20.
	Buffer int

	// DeadlockTimeout is how long its connections wait for a row before Postgres looks for a
	// deadlock. Only a superuser may set it. Default: the server's own, which is a second unless
	// its configuration says otherwise.
	DeadlockTimeout time.Duration
}

// Direct is what a service does by itself: each instance writes what it has gathered in a
// transaction, a statement a row, in the order in which it came. Two of them that meet the same
// rows in another order deadlock. A transaction that Postgres ends for that is tried again at once,
// three times at most; then its updates are lost.
type Direct struct {
	config DirectConfig
	pool   *pgxpool.Pool
	tables *Tables

	mu    sync.Mutex // guards stats; nothing slow under it
	stats DirectStats
}

// DirectStats is what Direct has done so far.
type DirectStats struct {
	Updates int64        // in the tables
	Amount  spend.Amount // and their sum
	Rows    int64        // rows written for them

	Deadlocks int64 // transactions ended by Postgres for a deadlock (or a serialization failure)
	Retries   int64 // transactions tried again

	Lost       int64        // updates given up after the retries
	LostAmount spend.Amount // and their sum

	Elapsed time.Duration // of the runs that have ended
}

const (
	directRetries = 3
	bookTimeout   = 2 * time.Minute // for one transaction with its retries, all of which may wait for other writers
)

// OpenDirect makes the tables. It fails if the schema exists. Close must be called at the end.
func OpenDirect(ctx context.Context, c DirectConfig) (*Direct, error) {
	c.Schema = cmp.Or(c.Schema, "direct_updates")
	c.Writers = cmp.Or(c.Writers, 10)
	c.Buffer = cmp.Or(c.Buffer, 20)
	if c.Writers < 1 || c.Writers > 1000 || c.Buffer < 1 {
		return nil, fmt.Errorf("direct: Writers: %d, Buffer: %d; allowed are 1 to 1000, and 1 and more", c.Writers, c.Buffer)
	}
	config, err := pgxpool.ParseConfig(c.DatabaseURL)
	if err != nil {
		return nil, fmt.Errorf("direct: database URL: %w", err)
	}
	config.MaxConns = int32(c.Writers)
	config.ConnConfig.RuntimeParams["application_name"] = "spendflush direct"
	if c.DeadlockTimeout > 0 {
		config.ConnConfig.RuntimeParams["deadlock_timeout"] = fmt.Sprintf("%dms", c.DeadlockTimeout.Milliseconds())
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("direct: %w", err)
	}
	tables, err := MakeTables(ctx, pool, c.Schema)
	if err != nil {
		pool.Close()
		return nil, fmt.Errorf("direct: %w", err)
	}
	return &Direct{config: c, pool: pool, tables: tables}, nil
}

// Close drops the tables and closes the connections.
func (d *Direct) Close(ctx context.Context) error {
	defer d.pool.Close()
	return d.tables.Drop(ctx)
}

// Tables returns the tables. They are gone after Close.
func (d *Direct) Tables() *Tables { return d.tables }

// Stats returns what was done so far. It may be called during a run.
func (d *Direct) Stats() DirectStats {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stats
}

// Run books count updates of the workload from the first one on (count 0: without end), and blocks
// until they are through or lost. When ctx ends, transactions at work are finished, and Run returns
// nil: the updates taken are then the first ones, Updates + Lost of them. Any failure but those it
// is about ends the run, and is returned.
func (d *Direct) Run(ctx context.Context, w *Workload, first, count uint64) error {
	start := time.Now()
	end := uint64(math.MaxUint64)
	if count > 0 {
		end = first + count
	}
	var next atomic.Uint64
	next.Store(first)
	writers, ctx := errgroup.WithContext(ctx)
	for range d.config.Writers {
		writers.Go(func() error { return d.write(ctx, w, &next, end) })
	}
	err := writers.Wait()
	d.mu.Lock()
	d.stats.Elapsed += time.Since(start)
	d.mu.Unlock()
	if err != nil {
		return fmt.Errorf("direct: %w", err)
	}
	return nil
}

// write is one instance. It takes nothing more once ctx has ended.
func (d *Direct) write(ctx context.Context, w *Workload, next *atomic.Uint64, end uint64) error {
	buffer := uint64(d.config.Buffer)
	updates := make([]spend.Update, buffer)
	for ctx.Err() == nil {
		first := next.Add(buffer) - buffer
		if first >= end {
			return nil
		}
		taken := updates[:min(buffer, end-first)]
		var amount spend.Amount
		for i := range taken {
			w.Fill(first+uint64(i), &taken[i])
			amount = amount.Add(taken[i].Spend)
		}
		if err := d.book(context.WithoutCancel(ctx), taken, amount); err != nil {
			return err
		}
	}
	return nil
}

// book tries to commit the updates. That they are lost is no error.
func (d *Direct) book(ctx context.Context, updates []spend.Update, amount spend.Amount) error {
	ctx, cancel := context.WithTimeout(ctx, bookTimeout)
	defer cancel()
	for try := 0; ; try++ {
		rows, err := d.try(ctx, updates)
		if err != nil && !isConflict(err) {
			return err
		}
		d.mu.Lock()
		s := &d.stats
		again := err != nil && try < directRetries
		switch {
		case err == nil:
			s.Updates += int64(len(updates))
			s.Amount = s.Amount.Add(amount)
			s.Rows += int64(rows)
		case again:
			s.Deadlocks++
			s.Retries++
		default:
			s.Deadlocks++
			s.Lost += int64(len(updates))
			s.LostAmount = s.LostAmount.Add(amount)
		}
		d.mu.Unlock()
		if !again {
			return nil
		}
	}
}

// try is one transaction.
func (d *Direct) try(ctx context.Context, updates []spend.Update) (rows int, err error) {
	tx, err := d.pool.Begin(ctx)
	if err != nil {
		return 0, err
	}
	defer tx.Rollback(ctx) // nothing to do after the commit
	for i := range updates {
		n, err := d.tables.Add(ctx, tx, &updates[i])
		if err != nil {
			return 0, err
		}
		rows += n
	}
	return rows, tx.Commit(ctx)
}

// isConflict says whether Postgres has ended the transaction in favour of another one.
func isConflict(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (pg.Code == "40P01" || pg.Code == "40001")
}
