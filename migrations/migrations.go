// Package migrations makes and updates the tables of spendflush, all of them in the Postgres schema
// "spendflush".
//
// Several instances may start at the same moment on an empty database: one of them migrates, the
// others wait. The lock is held by a transaction and not by a session, so that it works through a
// pooler such as PgBouncer in transaction mode, where the lock of a session would stay behind with
// a connection that others use. Waiting instances hold no connection. Through a pooler two server
// connections are needed at once: one for the lock, one for the work.
//
// A role that owns the schema is enough. Only if the schema doesn't exist must the role be allowed
// to create it.
package migrations

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/spendflush/spendflush/internal/pglink"
)

//go:embed *.sql
var files embed.FS

const versionTable = "spendflush.migrations"

var (
	// ErrNewer is wrapped where the database has migrations that this program doesn't know.
	ErrNewer = errors.New("upgrade the program")
	// ErrOlder is wrapped by Check where the database lacks migrations that this program needs.
	ErrOlder = errors.New("run spendflush migrate up")
	// ErrNotOwner is wrapped by Up where the role may not make what the database lacks.
	ErrNotOwner = errors.New("this role may not change the tables: run `spendflush migrate up` as their owner")
	// ErrEncoding is wrapped by Up where the database is of an encoding that can't keep every text.
	// Nothing is changed then.
	ErrEncoding = pglink.ErrEncoding
	// ErrNoRights is wrapped where the role may not even read which migrations the database has.
	ErrNoRights = errors.New("this role may not read the tables of spendflush: docs/runbook.md lists the rights to grant")
)

// Options are what can be set of Up. The zero value will do.
type Options struct {
	// Tell, if not nil, is told in a few words what is done, or waited for, just now. It must not
	// block.
	Tell func(what string)
}

// Applied is a migration that Up has applied.
type Applied struct {
	Version int64         `json:"version"`
	Name    string        `json:"name"`
	Took    time.Duration `json:"took_ns"`
}

// Migration is one migration that this program knows.
type Migration struct {
	Version   int64     `json:"version"`
	Name      string    `json:"name"`
	AppliedAt time.Time `json:"applied_at,omitzero"` // zero while it is pending
}

// Up applies the migrations that the database lacks, in order, each in a transaction of its own,
// and returns them. It blocks while another program migrates, and for as long as the work takes;
// ctx bounds both. Connecting, and asking how the database stands, takes half a minute at most.
//
// A migration waits for each lock on a table for a second only, since whatever comes after it waits
// behind it. Then it is rolled back and tried again, until ctx ends.
//
// The error wraps ErrNewer if the database is ahead of this program, and ErrEncoding if it can't
// keep every text; nothing is changed then. It wraps ErrNotOwner if the role may not do what is to
// be done. After an error the migrations returned are applied, and the failed one has left nothing
// behind.
func Up(ctx context.Context, databaseURL string) ([]Applied, error) {
	return UpWith(ctx, databaseURL, Options{})
}

// UpWith is Up with options.
func UpWith(ctx context.Context, databaseURL string, o Options) ([]Applied, error) {
	if o.Tell == nil {
		o.Tell = func(string) {}
	}
	return up(ctx, databaseURL, files, o.Tell)
}

// Status returns all migrations that this program knows, in order. The error wraps ErrNewer if the
// database is ahead of this program.
func Status(ctx context.Context, databaseURL string) ([]Migration, error) {
	db, err := open(databaseURL, true)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	known, err := newProvider(db, files)
	if err != nil {
		return nil, err
	}
	version, err := read(ctx, db)
	if err != nil {
		return nil, err
	}
	list := make([]Migration, 0, len(known.ListSources()))
	for _, source := range known.ListSources() {
		list = append(list, Migration{Version: source.Version, Name: source.Path, AppliedAt: version.appliedAt[source.Version]})
	}
	return list, version.compare(latest(known), false)
}

// Check returns nil if the database has exactly the migrations that this program knows. Otherwise
// the error wraps ErrNewer or ErrOlder.
func Check(ctx context.Context, databaseURL string) error {
	db, err := open(databaseURL, true)
	if err != nil {
		return err
	}
	defer db.Close()
	known, err := newProvider(db, files)
	if err != nil {
		return err
	}
	version, err := read(ctx, db)
	if err != nil {
		return err
	}
	return version.compare(latest(known), true)
}

// open doesn't connect yet. A standby will do for reading only. Statements are sent without names,
// which a pooler wouldn't keep.
func open(databaseURL string, standby bool) (*sql.DB, error) {
	if err := pglink.CheckURL(databaseURL); err != nil {
		return nil, fmt.Errorf("migrations: database URL: %w", err)
	}
	config, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		return nil, fmt.Errorf("migrations: database URL: %w", pglink.ParseError(err))
	}
	pglink.Prepare(config, databaseURL, pglink.Options{Standby: standby})
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = askTimeout
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "spendflush migrate"
	}
	return stdlib.OpenDB(*config), nil
}

func newProvider(db *sql.DB, from fs.FS) (*goose.Provider, error) {
	provider, err := goose.NewProvider(goose.DialectPostgres, db, from,
		goose.WithTableName(versionTable), goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return nil, fmt.Errorf("migrations: %w", err)
	}
	return provider, nil
}

func latest(p *goose.Provider) int64 {
	sources := p.ListSources()
	return sources[len(sources)-1].Version
}

// askTimeout bounds connecting and asking how the database stands. The work has no bound but ctx.
const askTimeout = 30 * time.Second

func up(ctx context.Context, databaseURL string, from fs.FS, tell func(string)) ([]Applied, error) {
	db, err := open(databaseURL, false)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	provider, err := newProvider(db, impatient{from})
	if err != nil {
		return nil, err
	}

	// Most starts find nothing to do, and need no lock for that.
	if behind, err := isBehind(ctx, db, provider); err != nil || !behind {
		return nil, err
	}

	var applied []Applied
	err = makeSchema(ctx, db)
	if err == nil {
		err = locked(ctx, db, tell, func() error {
			// Another program may have been quicker.
			if behind, err := isBehind(ctx, db, provider); err != nil || !behind {
				return err
			}
			applied, err = applyAll(ctx, db, provider, tell)
			return err
		})
	}
	if err != nil && sqlState(err) == codeNoRight && !errors.Is(err, ErrNoRights) {
		err = fmt.Errorf("%w: %w", ErrNotOwner, err)
	}
	if err != nil {
		return applied, fmt.Errorf("migrations: %w", err)
	}
	return applied, nil
}

// isBehind says whether migrations are lacking. The error wraps ErrNewer if the database is ahead.
func isBehind(ctx context.Context, db *sql.DB, known *goose.Provider) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	version, err := read(ctx, db)
	if err == nil {
		err = pglink.CheckEncoding(version.encoding)
	}
	if err != nil {
		return false, err
	}
	err = version.compare(latest(known), true)
	if errors.Is(err, ErrOlder) {
		return true, nil
	}
	return false, err
}

const (
	codeNoRight     = "42501"
	codeIdleTimeout = "25P03"
	codeLockTimeout = "55P03"
)

func sqlState(err error) string {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code
	}
	return ""
}

// How long is waited before a migration that didn't get a lock is tried again, doubled at each.
const (
	retryFirst = time.Second
	retryMost  = 15 * time.Second
)

// applyAll applies what is lacking. The caller must hold the lock.
func applyAll(ctx context.Context, db *sql.DB, provider *goose.Provider, tell func(string)) (applied []Applied, err error) {
	pause := retryFirst
	for {
		next, err := nextOf(ctx, db, provider)
		if err != nil || next == "" {
			return applied, err
		}
		tell("applying " + next)
		result, err := provider.UpByOne(ctx)
		switch {
		case err == nil:
			applied = append(applied, Applied{Version: result.Source.Version, Name: result.Source.Path, Took: result.Duration})
			pause = retryFirst
			continue
		case sqlState(err) != codeLockTimeout:
			return applied, err
		}
		tell(next + " waits for a table that another session uses")
		select {
		case <-ctx.Done():
			return applied, fmt.Errorf("%s: %w: %w", next, ctx.Err(), err)
		case <-time.After(pause):
			pause = min(2*pause, retryMost)
		}
	}
}

// nextOf returns the name of the first migration that is lacking, "" if none is.
func nextOf(ctx context.Context, db *sql.DB, known *goose.Provider) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	version, err := read(ctx, db)
	if err != nil {
		return "", err
	}
	for _, source := range known.ListSources() {
		if source.Version > version.current {
			return source.Path, nil
		}
	}
	return "", nil
}

// databaseVersion is what the database says of itself.
type databaseVersion struct {
	current   int64 // the newest applied, 0 if none is
	appliedAt map[int64]time.Time
	encoding  string
}

// readTries is how often it is read where the role's own idle_in_transaction_session_timeout ends
// the transaction before its settings are there: on a busy machine that may come between BEGIN and
// the next statement.
const readTries = 5

func read(ctx context.Context, db *sql.DB) (version databaseVersion, err error) {
	for range readTries {
		version, err = readOnce(ctx, db)
		if sqlState(err) != codeIdleTimeout && !errors.Is(err, driver.ErrBadConn) { // as what was said last may not be read any more
			break
		}
	}
	return version, wrapRead(err)
}

func readOnce(ctx context.Context, db *sql.DB) (databaseVersion, error) {
	version := databaseVersion{appliedAt: map[int64]time.Time{}}
	tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted, ReadOnly: true})
	if err != nil {
		return version, err
	}
	defer tx.Rollback()
	return version, version.read(ctx, tx)
}

func (v *databaseVersion) read(ctx context.Context, tx *sql.Tx) error {
	if _, err := tx.ExecContext(ctx, settings); err != nil {
		return err
	}
	var exists bool
	err := tx.QueryRowContext(ctx, "SELECT to_regclass($1) IS NOT NULL, current_setting('server_encoding')", versionTable).
		Scan(&exists, &v.encoding)
	if err != nil || !exists {
		return err
	}
	// The last row of a version says whether it is applied.
	rows, err := tx.QueryContext(ctx, `SELECT DISTINCT ON (version_id) version_id, is_applied,
			(extract(epoch FROM tstamp AT TIME ZONE current_setting('TimeZone')) * 1e6)::bigint
		FROM `+versionTable+` WHERE version_id > 0 ORDER BY version_id, id DESC`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var id int64
		var applied bool
		var at int64 // not as text, whose form is the database's to say
		if err := rows.Scan(&id, &applied, &at); err != nil {
			return err
		}
		if applied {
			v.current, v.appliedAt[id] = id, time.UnixMicro(at).UTC()
		}
	}
	return rows.Err()
}

func wrapRead(err error) error {
	if sqlState(err) == codeNoRight {
		return fmt.Errorf("migrations: read version: %w: %w", ErrNoRights, err)
	}
	if err != nil {
		return fmt.Errorf("migrations: read version: %w", err)
	}
	return nil
}

// compare returns an error that wraps ErrNewer if the database is ahead of known and, if all are
// wanted, ErrOlder if it is behind.
func (v databaseVersion) compare(known int64, all bool) error {
	switch {
	case v.current > known:
		return fmt.Errorf("database is at version %d, this program knows up to %d: %w", v.current, known, ErrNewer)
	case all && len(v.appliedAt) == 0:
		return fmt.Errorf("database has no tables of spendflush, this program needs version %d: %w", known, ErrOlder)
	case all && v.current < known:
		return fmt.Errorf("database is at version %d, this program needs %d: %w", v.current, known, ErrOlder)
	default:
		return nil
	}
}

// lockKey is that of the advisory lock before it is salted: "spendflu" in ASCII.
const lockKey = 0x7370656e64666c75

// locked calls do while a transaction of its own holds the lock. It polls instead of waiting in
// Postgres, so that programs that wait don't use up the connections of a pooler that the one at
// work needs.
func locked(ctx context.Context, db *sql.DB, tell func(string), do func() error) error {
	for {
		tx, err := tryLock(ctx, db)
		if err != nil {
			return fmt.Errorf("lock: %w", err)
		}
		if tx != nil {
			defer tx.Rollback()
			return do()
		}
		tell("waiting for another program, which migrates")
		select {
		case <-ctx.Done():
			return fmt.Errorf("lock: another program migrates: %w", ctx.Err())
		case <-time.After(100*time.Millisecond + rand.N(200*time.Millisecond)):
		}
	}
}

// tryLock returns the transaction that holds the lock, nil if another one does. ctx is the
// transaction's, too.
func tryLock(ctx context.Context, db *sql.DB) (*sql.Tx, error) {
	tx, err := beginTx(ctx, db)
	if err != nil {
		return nil, err
	}
	askCtx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var held bool
	err = tx.QueryRowContext(askCtx, "SELECT pg_try_advisory_xact_lock($1::bigint # salt) FROM "+saltTable, int64(lockKey)).Scan(&held)
	if err != nil || !held {
		tx.Rollback()
		return nil, err
	}
	return tx, nil
}
