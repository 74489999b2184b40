package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush/internal/servers"
	"github.com/spendflush/spendflush/migrations"
	"github.com/spendflush/spendflush/queues/redisqueue"
)

// NotEmptyError says that a database holds something, so that nothing was done.
type NotEmptyError struct {
	Server string // "Postgres" or "Redis"
	Holds  string
}

func (e *NotEmptyError) Error() string {
	return fmt.Sprintf("the %s isn't empty: it has %s; only one that holds nothing is used", e.Server, e.Holds)
}

const (
	keyPrefix    = "spendflush-bench"
	directSchema = "spendflush_bench" // of the tables that other ways write
	closeTimeout = time.Minute
)

// settings of a Postgres of our own: all that makes it safe stays on. No checkpoint falls into one
// measurement and spares another: each begins with one.
var postgresSettings = map[string]string{
	"max_connections": "300", "shared_buffers": "512MB", "max_wal_size": "8GB", "checkpoint_timeout": "30min",
}

// env is where it is measured.
type env struct {
	databaseURL, redisURL string

	pool   *pgxpool.Pool
	client redis.UniversalClient

	dir      string // of our own servers
	postgres *servers.Postgres
	redis    *servers.Redis
	ours     bool // what is in the databases was made here
}

// openEnv starts the servers, or looks whether those given hold nothing.
func openEnv(ctx context.Context, o Options) (p *env, err error) {
	p = &env{databaseURL: o.DatabaseURL, redisURL: o.RedisURL}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close(ctx))
			p = nil
		}
	}()
	if p.databaseURL == "" {
		if err := p.start(ctx); err != nil {
			return nil, err
		}
	}
	config, err := pgxpool.ParseConfig(p.databaseURL)
	if err != nil {
		return nil, fmt.Errorf("database URL: %w", err)
	}
	config.ConnConfig.RuntimeParams["application_name"] = "spendflush-lab bench"
	if p.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return nil, fmt.Errorf("open Postgres: %w", err)
	}
	if p.client, err = redisqueue.Dial(p.redisURL); err != nil {
		return nil, fmt.Errorf("redis URL: %w", err)
	}
	return p, p.mustBeEmpty(ctx)
}

func (p *env) start(ctx context.Context) (err error) {
	if p.dir, err = os.MkdirTemp("", "spendflush-bench-"); err != nil {
		return err
	}
	if err := os.Chmod(p.dir, 0o755); err != nil { // Postgres may run as another account
		return err
	}
	p.postgres, err = servers.StartPostgres(ctx, servers.PostgresConfig{Dir: filepath.Join(p.dir, "postgres"), Settings: postgresSettings})
	if err != nil {
		return err
	}
	if p.redis, err = servers.StartRedis(ctx, servers.RedisConfig{Dir: filepath.Join(p.dir, "redis")}); err != nil {
		return err
	}
	p.databaseURL, p.redisURL = p.postgres.URL(""), p.redis.URL()
	return nil
}

const anyRelation = `
SELECT format('%I.%I', n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
    AND n.nspname !~ '^pg_(toast|temp)'
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1 LIMIT 1`

func (p *env) mustBeEmpty(ctx context.Context) error {
	var found string
	switch err := p.pool.QueryRow(ctx, anyRelation).Scan(&found); {
	case err == nil:
		return &NotEmptyError{Server: "Postgres database", Holds: found}
	case !errors.Is(err, pgx.ErrNoRows):
		return fmt.Errorf("look what the Postgres holds: %w", err)
	}
	keys, err := p.client.DBSize(ctx).Result()
	if err != nil {
		return fmt.Errorf("look what the Redis holds: %w", err)
	}
	if keys > 0 {
		return &NotEmptyError{Server: "Redis database", Holds: fmt.Sprintf("%d keys", keys)}
	}
	p.ours = true
	return nil
}

// fresh makes empty books, and writes out what was dirty before.
func (p *env) fresh(ctx context.Context) error {
	if err := p.clear(ctx); err != nil {
		return err
	}
	if _, err := migrations.Up(ctx, p.databaseURL); err != nil {
		return err
	}
	_, _ = p.pool.Exec(ctx, "CHECKPOINT") // who may not do that has to live with the servers' own
	return nil
}

// clear removes all that was made.
func (p *env) clear(ctx context.Context) error {
	for _, schema := range []string{"spendflush", directSchema} {
		if _, err := p.pool.Exec(ctx, "DROP SCHEMA IF EXISTS "+schema+" CASCADE"); err != nil {
			return fmt.Errorf("drop what was measured with: %w", err)
		}
	}
	keys := p.client.Scan(ctx, 0, "*"+keyPrefix+"*", 1000).Iterator()
	for keys.Next(ctx) {
		if err := p.client.Del(ctx, keys.Val()).Err(); err != nil {
			return fmt.Errorf("delete what was measured with: %w", err)
		}
	}
	if err := keys.Err(); err != nil {
		return fmt.Errorf("delete what was measured with: %w", err)
	}
	return nil
}

// close leaves everything as it was found. It does so after the end of ctx, too.
func (p *env) close(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	if p.ours && p.dir == "" {
		err = p.clear(ctx)
	}
	if p.client != nil {
		err = errors.Join(err, p.client.Close())
	}
	if p.pool != nil {
		p.pool.Close()
	}
	if p.redis != nil {
		err = errors.Join(err, p.redis.Stop(ctx))
	}
	if p.postgres != nil {
		err = errors.Join(err, p.postgres.Stop(ctx))
	}
	if p.dir != "" {
		err = errors.Join(err, os.RemoveAll(p.dir))
	}
	return err
}

func (p *env) machine(ctx context.Context) (Machine, error) {
	m := Machine{Cores: runtime.GOMAXPROCS(0), CPU: cpuName(), OS: runtime.GOOS + "/" + runtime.GOARCH, Go: runtime.Version()}
	err := p.pool.QueryRow(ctx, `
SELECT format('%s (fsync %s, synchronous_commit %s, shared_buffers %s, max_wal_size %s)', split_part(current_setting('server_version'), ' ', 1),
    current_setting('fsync'), current_setting('synchronous_commit'), current_setting('shared_buffers'), current_setting('max_wal_size'))`).Scan(&m.Postgres)
	if err != nil {
		return Machine{}, fmt.Errorf("ask Postgres for its version: %w", err)
	}
	queue, err := redisqueue.New(p.client, redisqueue.Options{})
	if err != nil {
		return Machine{}, err
	}
	server, err := queue.Info(ctx)
	if err != nil {
		return Machine{}, err
	}
	m.Redis = cmp.Or(server.Version, "of unknown version")
	return m, nil
}

// activity is what Postgres has done since its beginning.
type activity struct {
	deadlocks float64
	wal       float64 // bytes of its log
}

// activity is exact as to deadlocks once the connections that had them are closed.
func (p *env) activity(ctx context.Context) (a activity, err error) {
	err = p.pool.QueryRow(ctx, `
SELECT deadlocks, (pg_current_wal_insert_lsn() - '0/0')::float8
FROM pg_stat_database WHERE datname = current_database()`).Scan(&a.deadlocks, &a.wal)
	if err != nil {
		return a, fmt.Errorf("read the activity of Postgres: %w", err)
	}
	return a, nil
}

// connect opens a connection of its own.
func (p *env) connect(ctx context.Context) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(p.databaseURL)
	if err != nil {
		return nil, fmt.Errorf("database URL: %w", err)
	}
	config.RuntimeParams["application_name"] = "spendflush-lab bench"
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open Postgres: %w", err)
	}
	return conn, nil
}
