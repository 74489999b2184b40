package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/internal/overview"
	"github.com/spendflush/spendflush/internal/terminal"
	"github.com/spendflush/spendflush/lockers"
	"github.com/spendflush/spendflush/migrations"
	"github.com/spendflush/spendflush/queues"
	"github.com/spendflush/spendflush/sql"
)

// keyPrefix begins all our keys in Redis.
const keyPrefix = "spendflush"

// parts are what an instance is made of, by its settings.
type parts struct {
	set    *settings
	log    *slog.Logger
	store  *sql.Store
	client redis.UniversalClient // nil without Redis
	queue  *queues.Redis         // nil without Redis
	locker *lockers.Redis        // nil without Redis
	roster *queues.Roster        // nil without Redis

	journal *queues.Journal  // nil without one, and but for serve
	screen  *terminal.Output // of a command: for the log and for how far it is, beside what it is asked for; nil for serve
}

func newParts(ctx context.Context, set *settings, log *slog.Logger) (*parts, error) {
	store, err := sql.Open(ctx, set.DatabaseURL, sql.Options{MaxConns: set.MaxConnections})
	if err != nil {
		return nil, usageError{fmt.Errorf("DATABASE_URL: %w", err)}
	}
	ps := &parts{set: set, log: log, store: store}
	redis.SetLogger(redisLog{log})
	if set.UseRedis && set.RedisURL != "" {
		if ps.client, err = queues.DialTLS(set.RedisURL, set.redisTLS()); err != nil {
			store.Close()
			return nil, usageError{fmt.Errorf("REDIS_URL and SPENDFLUSH_REDIS_TLS_*: %w", err)}
		}
		if queues.Unverified(ps.client) {
			log.Warn("THE CERTIFICATE OF REDIS ISN'T VERIFIED, because of skip_verify in REDIS_URL: whoever is on the way can read and " +
				"change batches. Name its authority in SPENDFLUSH_REDIS_TLS_CA_FILE")
		}
		ps.queue = queues.NewRedis(ps.client, queues.RedisOptions{
			Prefix: keyPrefix, MaxBytes: set.QueueMaxBytes, KeepSettled: set.RewindWindow > 0,
		})
		ps.locker = lockers.NewRedis(ps.client, set.Instance, lockers.RedisOptions{Prefix: keyPrefix, TTL: set.LockTTL})
		ps.roster = queues.NewRoster(ps.client, queues.RosterOptions{Prefix: keyPrefix})
	}
	return ps, nil
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
	journal, err := queues.OpenJournal(ps.set.JournalDir)
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
		ps.queue.Wait()
		ps.locker.Wait()
		ps.roster.Wait()
	}
	ps.store.Close()
}

// sources are what an overview looks at.
func (ps *parts) sources() overview.Sources {
	s := overview.Sources{Books: ps.store, Shards: ps.set.Shards, QueueMaxBytes: ps.set.QueueMaxBytes}
	if ps.queue != nil {
		s.Queue, s.Locker, s.Roster = ps.queue, ps.locker, ps.roster
	}
	return s
}

// pipeline makes the pipeline. registerer may be nil.
func (ps *parts) pipeline(registerer prometheus.Registerer) (*spendflush.Pipeline, error) {
	c := spendflush.Config{
		Store:               ps.store,
		DirectLocker:        lockers.NewPostgres(ps.store.Pool(), ps.set.Instance),
		Instance:            ps.set.Instance,
		Shards:              ps.set.Shards,
		SealInterval:        ps.set.SealInterval,
		FlushInterval:       ps.set.FlushInterval,
		MaxKeys:             ps.set.MaxKeys,
		MaxUnconfirmedBytes: ps.set.MaxUnconfirmed,
		GapGrace:            ps.set.GapGrace,
		RewindWindow:        ps.set.RewindWindow,
		RollupDimensions:    ps.set.RollupDimensions,
		Logger:              ps.log,
		Registerer:          registerer,
	}
	if ps.queue != nil {
		c.Queue, c.Locker = ps.queue, ps.locker
	}
	if ps.journal != nil {
		c.Journal = ps.journal
	}
	return spendflush.New(c)
}

// migrate brings the schema up to date. While Postgres can't be reached it goes on trying until ctx ends; any other
// failure is returned.
func (ps *parts) migrate(ctx context.Context) error {
	for pause := time.Second; ; pause = min(2*pause, 15*time.Second) {
		tryCtx, cancel := context.WithTimeout(ctx, time.Minute)
		applied, err := migrations.Up(tryCtx, ps.set.DatabaseURL)
		cancel()
		if err == nil {
			if len(applied) > 0 {
				ps.log.Info("database migrated", "applied", len(applied))
			}
			return nil
		}
		if errors.Is(err, migrations.ErrNewer) || ctx.Err() != nil {
			return err
		}
		ps.log.Error("database can't be migrated; updates are kept in memory, trying again", "error", err, "pause", pause)
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// probe says in one line what the instance talks to, and warns of what endangers it.
func (ps *parts) probe(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var found []any
	if info, err := ps.store.Probe(ctx); err != nil {
		found = append(found, "postgres", "unreachable", "postgres_error", err)
	} else {
		found = append(found, "postgres", describePostgres(info))
		if info.InRecovery {
			ps.log.Warn("Postgres is a standby: nothing can be written until it is promoted")
		}
		if info.ClockAhead.Abs() > time.Minute {
			ps.log.Warn("the clocks of this machine and of Postgres differ: updates without a time are booked by this machine's, and a "+
				"producer that seems to be a month old is not believed", "postgres_is_ahead_by", info.ClockAhead.Round(time.Second))
		}
		if !info.Fsync {
			ps.log.Warn("Postgres runs with fsync off: a crash of its machine loses committed spend")
		}
	}
	switch {
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

func describePostgres(s sql.Server) string {
	text := fmt.Sprintf("%s, max_connections %d, synchronous_commit %s", s.Version, s.MaxConnections, s.SynchronousCommit)
	if s.Pooler != "" {
		text += ", " + s.Pooler
	}
	return text
}

// newLogger returns a logger as the settings say.
func newLogger(set *settings, to io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: set.LogLevel}
	if set.LogFormat == "text" || set.LogFormat == "auto" && isTerminal(to) {
		return slog.New(slog.NewTextHandler(to, options))
	}
	return slog.New(slog.NewJSONHandler(to, options))
}

// isTerminal says whether the stream is one.
func isTerminal(stream any) bool { return terminal.Is(stream) }
