// Package pgstore keeps the books in Postgres. The tables are made by package migrations.
//
// Everything a flush writes is one transaction: turns of buckets, claims, control sums, ids, new
// entries of the dictionaries, totals, rollups, in this order of tables and each sorted by its key,
// so that transactions which overlap wait for each other and don't deadlock. The claim decides
// whether a batch counts, and nothing else: not the lock, not a cache. Which of its facts count is
// decided by the ids that are there, while the turns stand still; see facts.go.
//
// The statements are the .sql files beside the code. No statement is prepared under a name and
// nothing is kept in a session, so a pooler in transaction mode may stand in between.
package pgstore

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/spendflush/spendflush/internal/pglink"
	"github.com/spendflush/spendflush/spend"
)

// Options are what can be set of a Store. The zero value of a field stands for its default.
type Options struct {
	// MaxConns bounds the connections of this process, from 1. Default: 4. A flush takes one for as
	// long as its transaction lasts, every read one.
	MaxConns int

	// KnownKeys bounds the keys of entities and series remembered as being in the dictionary, about
	// 40 bytes each. Default: 1000000. Negative: none are remembered, and their texts are sent with
	// every flush.
	KnownKeys int

	// Standby lets the store read from a standby, where the URL names one host. Otherwise only a
	// primary is connected to, unless the URL says target_session_attrs: what a standby says may be
	// older than what was committed.
	Standby bool

	// Logger is told where a server of several in the URL takes writes although another was
	// promoted in its place. nil: nobody is.
	Logger *slog.Logger
	// BatchKeys are those of the pipelines: ApplyQuarantined refuses a batch that none of them has
	// signed. The zero value accepts every batch.
	BatchKeys spend.BatchKeys

	// ApplicationName is what pg_stat_activity shows. Default: "spendflush". One in the URL goes
	// before it.
	ApplicationName string
}

const (
	defaultMaxConns  = 4
	defaultKnownKeys = 1_000_000
)

// These are not settings: there is no reason to change them.
const (
	// pingTimeout is how long a connection that has idled may take to answer before it is taken for
	// dead.
	pingTimeout = 3 * time.Second

	maxTries   = 8
	firstPause = 10 * time.Millisecond // before the second try, doubled at each; about 1.3s in all
)

// Store is the books in Postgres. It implements spend.Store. All methods are safe for concurrent
// use.
type Store struct {
	pool      *pgxpool.Pool
	lent      bool              // the pool is the caller's
	mode      pgx.QueryExecMode // of statements with parameters
	hosts     *pglink.Hosts     // nil unless the URL names several
	watch     sync.WaitGroup
	unwatch   context.CancelFunc
	known     keyCache
	days      dayCache
	stats     counters
	batchKeys spend.BatchKeys
	encoders  sync.Pool

	// Only tests change these, to see what goes wrong without them.
	room      quarantineRoom
	statement func(name string) string // the text of a .sql file
	anyOrder  bool                     // don't look at the order of the rows
}

var (
	_ spend.Store     = (*Store)(nil)
	_ spend.FactStore = (*Store)(nil)
)

// ErrStandby is wrapped where a server can't be written to because it is a standby.
var ErrStandby = pglink.ErrStandby

// ErrEncoding is wrapped where the database is of an encoding that can't keep every text.
var ErrEncoding = pglink.ErrEncoding

// Open returns a Store on the database, which it doesn't contact yet. It fails if the URL (or
// keyword/value string) or an option can't be used; the error doesn't show a password. ctx is not
// kept. Close must be called at the end.
//
// Where the URL names several hosts, the one that takes writes is looked for at each new
// connection. A connection whose server says that it doesn't take them any more is closed, and the
// other idle ones with it. While another one takes writes, a server that doesn't answer for a
// second is left with all connections to it, and so is one of an older timeline, which was frozen
// or cut off when the other was promoted.
func Open(ctx context.Context, databaseURL string, o Options) (*Store, error) {
	if err := pglink.CheckURL(databaseURL); err != nil {
		return nil, fmt.Errorf("database URL: %w", err)
	}
	config, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		return nil, fmt.Errorf("database URL: %w", pglink.ParseError(err))
	}
	if err := o.BatchKeys.Validate(); err != nil {
		return nil, fmt.Errorf("BatchKeys: %w", err)
	}
	if o.MaxConns < 0 || o.MaxConns > 10_000 {
		return nil, fmt.Errorf("MaxConns: %d; allowed are 1 to 10000", o.MaxConns)
	}
	config.MaxConns = int32(cmp.Or(o.MaxConns, defaultMaxConns))
	config.ConnConfig.DefaultQueryExecMode = unnamed // for others who share the pool
	if config.ConnConfig.RuntimeParams["application_name"] == "" {
		config.ConnConfig.RuntimeParams["application_name"] = cmp.Or(o.ApplicationName, "spendflush")
	}
	var made atomic.Pointer[pgxpool.Pool] // connections may be made before it is known
	moved := func() {
		if pool := made.Load(); pool != nil {
			pool.Reset()
		}
	}
	hosts := pglink.Prepare(config.ConnConfig, databaseURL, pglink.Options{Standby: o.Standby, Moved: moved, Log: o.Logger})
	config.PingTimeout = pingTimeout
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open Postgres: %w", err)
	}
	made.Store(pool)

	s := newStore(pool, o)
	s.hosts = hosts
	watching, unwatch := context.WithCancel(context.WithoutCancel(ctx))
	s.unwatch = unwatch
	if hosts != nil {
		s.watch.Go(func() { hosts.Watch(watching) })
	}
	return s, nil
}

// unnamed is how statements with parameters are sent: describing one asks once more and leaves
// nothing behind in the session.
const unnamed = pgx.QueryExecModeCacheDescribe

func newStore(pool *pgxpool.Pool, o Options) *Store {
	mode := unnamed
	if pool.Config().ConnConfig.DescriptionCacheCapacity <= 0 {
		mode = pgx.QueryExecModeDescribeExec
	}
	s := &Store{
		pool: pool, mode: mode, unwatch: func() {}, statement: embedded.get, batchKeys: o.BatchKeys,
		room: quarantineRoom{MaxQuarantined, MaxQuarantinedBytes},
	}
	s.known.limit = max(0, cmp.Or(o.KnownKeys, defaultKnownKeys)/2)
	s.encoders.New = func() any { return new(encoder) }
	return s
}

// Close closes all connections. It blocks until those in use are given back. Those of a pool of the
// caller's stay open.
func (s *Store) Close() {
	if s.lent {
		return
	}
	s.pool.Close() // before the watch ends, which cuts what hangs at a frozen server
	s.unwatch()
	s.watch.Wait()
}

// Pool returns the connections of the store, for a pglock.Locker to share. They stay the store's,
// or the caller's who has given them to NewStore.
func (s *Store) Pool() *pgxpool.Pool { return s.pool }

// Ping asks Postgres for an answer.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.pool.Ping(ctx); err != nil {
		return fmt.Errorf("ping Postgres: %w", err)
	}
	return nil
}

// Stats are numbers of this Store since it was opened.
type Stats struct {
	Commits   int64 // flushes committed
	Retries   int64 // tries of a flush after the first
	Deadlocks int64 // tries that ended in a deadlock
	Fenced    int64 // flushes that lost a claim
	Interned  int64 // texts of entities and series sent
	Relearned int64 // times the dictionary wasn't as remembered
	Refused   int64 // rows set aside because Postgres refused them
	NewFacts  int64 // ids kept
	Repeats   int64 // updates taken out as duplicates
	Conflicts int64 // updates set aside because the books have another content under their id
	Turned    int64 // tries of a flush with ids that another one was faster than
	KnownKeys int   // keys remembered now
	Conns     int32 // connections open now
	BusyConns int32 // and in use
	MaxConns  int32 // and allowed
}

type counters struct {
	commits, retries, deadlocks, fenced, interned, relearned, refused atomic.Int64
	newFacts, repeats, conflicts, turned                              atomic.Int64
}

// Stats returns the numbers as they are now.
func (s *Store) Stats() Stats {
	pool := s.pool.Stat()
	return Stats{
		Commits: s.stats.commits.Load(), Retries: s.stats.retries.Load(), Deadlocks: s.stats.deadlocks.Load(),
		Fenced: s.stats.fenced.Load(), Interned: s.stats.interned.Load(), Relearned: s.stats.relearned.Load(),
		NewFacts: s.stats.newFacts.Load(), Repeats: s.stats.repeats.Load(), Conflicts: s.stats.conflicts.Load(), Turned: s.stats.turned.Load(),
		Refused: s.stats.refused.Load(), KnownKeys: s.known.size(),
		Conns: pool.TotalConns(), BusyConns: pool.AcquiredConns(), MaxConns: pool.MaxConns(),
	}
}

// Marks implements spend.Store.
func (s *Store) Marks(ctx context.Context, shard int, producers []spend.ProducerID) (spend.Marks, error) {
	var marks spend.Marks
	err := s.read(ctx, func(tx querier) (err error) {
		marks, err = s.readMarks(ctx, tx, shard, producers)
		return err
	})
	if err != nil {
		return spend.Marks{}, fmt.Errorf("read marks: %w", denied(err))
	}
	return marks, nil
}

// onPrimary asks of the same snapshot whether it is one of a standby. That may lag behind: its
// marks would look as if Postgres had been turned back. A pooler may lead there although the
// connection once led to a primary.
const onPrimary = "SELECT pg_catalog.pg_is_in_recovery(), marks.* FROM (%s) AS marks"

func (s *Store) readMarks(ctx context.Context, from querier, shard int, producers []spend.ProducerID) (spend.Marks, error) {
	asked := make([][16]byte, len(producers))
	for i, id := range producers {
		asked[i] = id
	}
	var standby bool
	var horizon *time.Time
	var changes *int64
	var ids, digests, missing, byHand, byHandDigests [][16]byte
	var recent [][]byte
	var sequences, updates, first, last, byHandSequences []int64
	var amounts []string
	var books [16]byte
	var quarantined []bool
	err := from.QueryRow(ctx, fmt.Sprintf(onPrimary, s.statement("marks")), shard, asked).Scan(
		&standby, &books, &horizon, &changes, &ids, &sequences, &digests, &recent, &updates, &amounts, &missing, &first, &last, &quarantined,
		&byHand, &byHandSequences, &byHandDigests)
	if err == nil && standby {
		err = ErrStandby
	}
	if err != nil {
		return spend.Marks{}, err
	}
	marks := spend.Marks{Books: books, Of: make(map[spend.ProducerID]spend.Mark, len(ids))}
	if horizon != nil {
		marks.Horizon = *horizon
	}
	if changes != nil {
		marks.Changes = *changes
	}
	for i, id := range ids {
		mark := spend.Mark{Sequence: uint64(sequences[i]), Digest: digests[i], Recent: recent[i], Updates: updates[i]}
		if mark.Amount, err = spend.ParseAmount(amounts[i]); err != nil {
			return spend.Marks{}, err
		}
		marks.Of[id] = mark
	}
	for i, id := range missing {
		mark := marks.Of[id]
		mark.Lost = appendRange(mark.Lost, first[i], last[i])
		if quarantined[i] {
			mark.Quarantined = append(mark.Quarantined, uint64(first[i]))
		}
		marks.Of[id] = mark
	}
	for i, id := range byHand {
		mark := marks.Of[id]
		mark.ByHand = append(mark.ByHand, spend.ByHandBatch{Producer: id, Sequence: uint64(byHandSequences[i]), Digest: byHandDigests[i]})
		marks.Of[id] = mark
	}
	return marks, nil
}

// appendRange appends sequences that follow the ranges. Those that meet the last range become part
// of it.
func appendRange(ranges []spend.SequenceRange, first, last int64) []spend.SequenceRange {
	if n := len(ranges); n > 0 && ranges[n-1].Last+1 == uint64(first) {
		ranges[n-1].Last = uint64(last)
		return ranges
	}
	return append(ranges, spend.SequenceRange{First: uint64(first), Last: uint64(last)})
}

// TouchMarks implements spend.Store. It prunes only if a mark of the caller's, two hours old at
// least, shows that the clock has run on without a jump.
func (s *Store) TouchMarks(ctx context.Context, living []spend.ProducerID, now time.Time, idle time.Duration) (pruned int64, err error) {
	producers, shards := make([][16]byte, len(living)), make([]int16, len(living))
	for shard, producer := range living {
		producers[shard], shards[shard] = producer, int16(shard)
	}
	err = s.write(ctx, func(tx querier) error {
		return tx.QueryRow(ctx, s.statement("touch_marks"), producers, shards, now, idle).Scan(&pruned)
	})
	if err != nil {
		return 0, fmt.Errorf("touch marks: %w", err)
	}
	return pruned, nil
}
