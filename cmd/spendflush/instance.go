package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/internal/clocks"
	"github.com/spendflush/spendflush/internal/overview"
	"github.com/spendflush/spendflush/internal/terminal"
	"github.com/spendflush/spendflush/lockers/pglock"
	"github.com/spendflush/spendflush/lockers/redislock"
	"github.com/spendflush/spendflush/queues/diskjournal"
	"github.com/spendflush/spendflush/queues/redisqueue"
	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/pgstore"
)

// keyPrefix begins all our keys in Redis.
const keyPrefix = "spendflush"

// parts are what an instance is made of, by its settings.
type parts struct {
	set        *settings
	log        *slog.Logger
	store      *pgstore.Store         // of the pipeline
	reads      *pgstore.Store         // of everything else that asks Postgres, with connections of its own
	locks      *pgxpool.Pool          // connections of the direct locks
	client     redis.UniversalClient  // nil without Redis
	queue      *redisqueue.Queue      // nil without Redis
	unused     *redisqueue.Queue      // the queue of a Redis that is named and switched off, else nil
	locker     *redislock.Locker      // nil without Redis
	heartbeats *redisqueue.Heartbeats // nil without Redis
	clocks     *clocks.Watch

	running *spendflush.Pipeline // of serve, else nil
	tracer  spendflush.Tracer    // nil without traces, and but for serve
	journal *diskjournal.Journal // nil without one, and but for serve
	screen  *terminal.Output     // of a command: for its log and its progress; nil for serve
}

// newParts opens what the settings name, and contacts nothing yet. With standby, a Postgres that is
// one will do.
func newParts(ctx context.Context, set *settings, log *slog.Logger, standby bool) (*parts, error) {
	store, err := pgstore.Open(ctx, set.DatabaseURL, pgstore.Options{
		MaxConns: set.flushConnections(), Standby: standby, Logger: log, BatchKeys: set.batchKeys(),
	})
	if err != nil {
		return nil, usageError{fmt.Errorf("%s: %w", set.nameOf("DATABASE_URL"), err)}
	}
	reads, err := pgstore.Open(ctx, set.DatabaseURL, pgstore.Options{MaxConns: set.readConnections(), KnownKeys: -1, Standby: standby, BatchKeys: set.batchKeys()})
	if err != nil {
		store.Close()
		return nil, usageError{fmt.Errorf("%s: %w", set.nameOf("DATABASE_URL"), err)}
	}
	locks, err := lockPool(ctx, store, set)
	if err != nil {
		store.Close()
		reads.Close()
		return nil, fmt.Errorf("open Postgres for locks: %w", err)
	}
	ps := &parts{set: set, log: log, store: store, reads: reads, locks: locks, clocks: clocks.New(log)}
	redis.SetLogger(redisLog{log})
	if !set.UseRedis && set.RedisURL != "" {
		ps.openUnused()
	}
	if set.UseRedis && set.RedisURL != "" {
		if ps.client, err = redisqueue.DialTLS(set.RedisURL, set.redisTLS()); err != nil {
			ps.close()
			return nil, usageError{fmt.Errorf("%s and SPENDFLUSH_REDIS_TLS_*: %w", set.nameOf("REDIS_URL"), err)}
		}
		if redisqueue.Unverified(ps.client) {
			log.Warn("THE CERTIFICATE OF REDIS ISN'T VERIFIED, because of skip_verify in REDIS_URL: whoever is on the way can read and " +
				"change batches. Name its authority in SPENDFLUSH_REDIS_TLS_CA_FILE")
		}
		if err := ps.useRedis(); err != nil {
			ps.close()
			return nil, usageError{fmt.Errorf("%s: %w", set.nameOf("REDIS_URL"), err)}
		}
	}
	return ps, nil
}

// openQueue opens the queue on the client.
func (ps *parts) openQueue() (err error) {
	ps.queue, err = redisqueue.New(ps.client, redisqueue.Options{
		Prefix: keyPrefix, MaxBytes: ps.set.QueueMaxBytes, Retain: ps.set.RewindWindow > 0,
	})
	return err
}

// adoptWindow has this process go by the rewind window of the instances, where that is longer than
// its own: a shell seldom has their settings.
func (ps *parts) adoptWindow(ctx context.Context, id spend.BooksID) error {
	window, err := ps.queue.Of(id).Window(ctx)
	if err != nil || window <= ps.set.RewindWindow {
		return err
	}
	ps.log.Info("instances have a longer rewind window than this command: what it flushes is retained for theirs",
		"window", window, "of_this_command", ps.set.RewindWindow)
	ps.set.RewindWindow = window
	return ps.openQueue()
}

// useRedis opens what is on the client: all of it, or nothing.
func (ps *parts) useRedis() error {
	locker, err := redislock.New(ps.client, ps.set.Instance, redislock.Options{Prefix: keyPrefix, TTL: ps.set.LockTTL})
	if err != nil {
		return err
	}
	heartbeats, err := redisqueue.NewHeartbeats(ps.client, redisqueue.HeartbeatOptions{Prefix: keyPrefix})
	if err != nil {
		return err
	}
	if err := ps.openQueue(); err != nil {
		return err
	}
	ps.locker, ps.heartbeats = locker, heartbeats
	return nil
}

// openUnused opens the Redis that is switched off, to see whether batches lie in it.
func (ps *parts) openUnused() {
	client, err := redisqueue.DialTLS(ps.set.RedisURL, ps.set.redisTLS())
	if err == nil {
		ps.client = client
		ps.unused, err = redisqueue.New(client, redisqueue.Options{Prefix: keyPrefix})
	}
	if err != nil {
		ps.log.Warn("it can't be looked whether batches lie in the Redis that is switched off", "error",
			fmt.Errorf("%s and SPENDFLUSH_REDIS_TLS_*: %w", ps.set.nameOf("REDIS_URL"), err))
	}
}

// lockPool returns connections for direct locks alone. A relay that holds such a lock needs another
// connection for its flush: were they of one pool, the locks of many relays could take all, and
// each relay wait for the others.
func lockPool(ctx context.Context, store *pgstore.Store, set *settings) (*pgxpool.Pool, error) {
	config := store.Pool().Config()
	config.MaxConns, config.MinConns, config.MinIdleConns = int32(set.lockConnections()), 0, 0
	return pgxpool.NewWithConfig(ctx, config)
}

// redisLog has what go-redis would print on standard error in the log, in its form.
type redisLog struct{ log *slog.Logger }

func (l redisLog) Printf(ctx context.Context, format string, args ...any) {
	l.log.DebugContext(ctx, "redis client", "message", fmt.Sprintf(format, args...))
}

// openJournal opens the journal if the settings name one.
func (ps *parts) openJournal() error {
	if ps.set.JournalDir == "" {
		return nil
	}
	journal, err := diskjournal.Open(ps.set.JournalDir)
	if err != nil {
		return usageError{fmt.Errorf("SPENDFLUSH_JOURNAL_DIR: %w", err)}
	}
	for _, damage := range journal.Damage() {
		ps.log.Warn("the journal was damaged", "what", damage)
	}
	ps.journal = journal
	return nil
}

func (ps *parts) close() {
	if ps.journal != nil {
		if err := ps.journal.Close(); err != nil {
			ps.log.Warn("the journal can't be closed", "error", err)
		}
	}
	if ps.client != nil {
		_ = ps.client.Close()
	}
	if ps.unused != nil {
		ps.unused.Wait()
	}
	if ps.queue != nil {
		ps.queue.Wait()
		ps.locker.Wait()
		ps.heartbeats.Wait()
	}
	ps.locks.Close()
	ps.store.Close()
	ps.reads.Close()
}

// sources are what an overview looks at.
func (ps *parts) sources() overview.Sources {
	s := overview.Sources{Books: ps.reads, Noted: ps.notedBooks, Shards: ps.set.Shards, QueueMaxBytes: ps.set.QueueMaxBytes, IDWindow: ps.set.IDWindow}
	if ps.queue != nil {
		s.Queue, s.Locker, s.Heartbeats, s.Server = ps.queue, ps.locker, ps.heartbeats, ps.queue.Info
	}
	if ps.unused != nil {
		s.Unused = ps.unused
	}
	return s
}

// pipeline makes the pipeline. registerer may be nil.
func (ps *parts) pipeline(registerer prometheus.Registerer) (*spendflush.Pipeline, error) {
	c := spendflush.Config{
		Store:               ps.store,
		DirectLocker:        pglock.New(ps.locks, ps.set.Instance).WithMaxLeases(ps.set.lockConnections()),
		Instance:            ps.set.Instance,
		Shards:              ps.set.Shards,
		SealInterval:        ps.set.SealInterval,
		FlushInterval:       ps.set.FlushInterval,
		MaxKeys:             ps.set.MaxKeys,
		MaxNewKeysPerDay:    ps.set.MaxNewKeysPerDay,
		MaxUnconfirmedBytes: ps.set.MaxUnconfirmed,
		GapGrace:            ps.set.GapGrace,
		RewindWindow:        ps.set.RewindWindow,
		IDWindow:            ps.set.IDWindow,
		RollupDimensions:    ps.set.RollupDimensions,
		BatchKeys:           ps.set.batchKeys(),
		Logger:              ps.log,
		Registerer:          registerer,
		LiteLLMMetrics:      ps.set.LiteLLMMetrics,
		Tracer:              ps.tracer,
	}
	if ps.queue != nil {
		c.Queue, c.Locker = ps.queue, ps.locker
	}
	if ps.journal != nil {
		c.Journal = ps.journal
	}
	return spendflush.New(c)
}

// probe says in one line what the instance talks to, and warns of what endangers it.
func (ps *parts) probe(ctx context.Context) {
	for _, line := range ps.set.unprotected() {
		ps.log.Warn("a connection is not protected", "what", line)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var found []any
	if info, err := ps.reads.Probe(ctx); err != nil {
		found = append(found, "postgres", "unreachable", "postgres_error", err)
	} else {
		found = append(found, "postgres", describePostgres(info))
		if info.InRecovery {
			ps.log.Warn("Postgres is a standby: nothing can be written until it is promoted")
		}
		ps.clocks.Note(clocks.Postgres, info.ClockAhead)
		if !info.Fsync {
			ps.log.Warn("Postgres runs with fsync off: a crash of its machine loses committed spend")
		}
	}
	switch {
	case ps.unused != nil:
		found = append(found, ps.probeUnused(ctx)...)
	case ps.queue == nil:
		found = append(found, "redis", "off")
	default:
		info, err := ps.queue.Info(ctx)
		if err != nil {
			found = append(found, "redis", "unreachable", "redis_error", err)
			break
		}
		found = append(found, "redis", info.String())
		if info.MayEvict() {
			ps.log.Warn("REDIS MAY EVICT QUEUED BATCHES: set maxmemory-policy noeviction, or one of volatile-…. Evicted batches are sent again "+
				"by the instances that hold them, and lost with those that died meanwhile", "maxmemory_policy", info.EvictionPolicy)
		}
	}
	ps.log.Info("found", found...)
}

// probeUnused looks whether anything lies in the Redis that is switched off, and says so.
func (ps *parts) probeUnused(ctx context.Context) (found []any) {
	id, err := ps.booksID(ctx)
	var left redisqueue.Remainder
	if err == nil {
		left, err = ps.unused.Of(id).Remainder(ctx)
	}
	switch {
	case err != nil:
		ps.log.Warn("Redis is switched off: it can't be looked whether batches lie in it that aren't in the books", "error", err)
		return []any{"redis", "off, unreachable"}
	case left.Batches > 0:
		ps.log.Warn("BATCHES LIE IN THE REDIS THAT IS SWITCHED OFF: they were acknowledged and aren't in the books. "+
			"Bring them to Postgres with \"spendflush flush\"", "batches", left.Batches, "retained", left.Retained, "shards", left.Shards)
	case left.Retained > 0:
		ps.log.Warn("the Redis that is switched off retains committed batches; while it is off they can't be used should Postgres be "+
			"turned back", "retained", left.Retained, "shards", left.Shards)
	}
	return []any{"redis", "off", "batches_left_in_redis", left.Batches}
}

func describePostgres(s pgstore.Server) string {
	text := fmt.Sprintf("%s, max_connections %d, synchronous_commit %s", s.Version, s.MaxConnections, s.SynchronousCommit)
	if s.Pooler != "" {
		text += ", " + s.Pooler
	}
	return text
}

// newLogger returns a logger as the settings say.
func newLogger(set *settings, to io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: set.LogLevel, ReplaceAttr: durationsWithUnits}
	if set.LogFormat == "text" || set.LogFormat == "auto" && isTerminal(to) {
		return slog.New(slog.NewTextHandler(to, options))
	}
	return slog.New(slog.NewJSONHandler(to, options))
}

// durationsWithUnits writes a duration as text, such as 1.5s. In JSON it would be a bare number of
// nanoseconds.
func durationsWithUnits(_ []string, attr slog.Attr) slog.Attr {
	if attr.Value.Kind() == slog.KindDuration {
		attr.Value = slog.StringValue(attr.Value.Duration().String())
	}
	return attr
}

// isTerminal says whether the stream is one.
func isTerminal(stream any) bool { return terminal.Is(stream) }
