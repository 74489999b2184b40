package migrations

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/spendflush/spendflush/internal/lab/testserver"
)

func untold(string) {}

func TestMain(m *testing.M) { testserver.Main(m) }

func connect(t *testing.T, databaseURL string) *pgx.Conn {
	t.Helper()
	config, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func execute(t *testing.T, conn *pgx.Conn, statement string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func query[T any](t *testing.T, conn *pgx.Conn, statement string) (value T) {
	t.Helper()
	if err := conn.QueryRow(t.Context(), statement).Scan(&value); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	return value
}

// upTen migrates ten times at once and returns how often each version was applied.
func upTen(t *testing.T, databaseURL string) map[int64]int {
	t.Helper()
	results := make([][]Applied, 10)
	var group errgroup.Group
	for i := range results {
		group.Go(func() (err error) {
			results[i], err = Up(t.Context(), databaseURL)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	times := map[int64]int{}
	for _, applied := range results {
		for _, a := range applied {
			times[a.Version]++
		}
	}
	return times
}

func wantEachOnce(t *testing.T, databaseURL string, times map[int64]int) {
	t.Helper()
	status, err := Status(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range status {
		if times[m.Version] != 1 {
			t.Errorf("migration %d was applied %d times", m.Version, times[m.Version])
		}
		if m.AppliedAt.IsZero() {
			t.Errorf("migration %d has no time", m.Version)
		}
	}
	if err := Check(t.Context(), databaseURL); err != nil {
		t.Error(err)
	}
}

func TestTenInstancesStartingAtOnceOnAnEmptyDatabaseMigrateItOnce(t *testing.T) {
	databaseURL := testserver.Postgres(t)
	wantEachOnce(t, databaseURL, upTen(t, databaseURL))
}

func TestTenInstancesMigrateOnceThroughAPoolerInTransactionModeAndLeaveNoLockBehind(t *testing.T) {
	direct := testserver.Postgres(t)
	// Two server connections for ten instances: one for the lock, one for the work.
	pooled := testserver.PgBouncer(t, direct, map[string]string{"default_pool_size": "2"})
	wantEachOnce(t, direct, upTen(t, pooled))
	conn := connect(t, direct)
	if n := query[int](t, conn, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"); n != 0 {
		t.Errorf("%d advisory locks are left", n)
	}
}

func TestANewerDatabaseIsRefusedAndLeftAlone(t *testing.T) {
	databaseURL := testserver.Postgres(t)
	if _, err := Up(t.Context(), databaseURL); err != nil {
		t.Fatal(err)
	}
	known := latestKnown(t, databaseURL)
	conn := connect(t, databaseURL)
	execute(t, conn, "INSERT INTO spendflush.migrations (version_id, is_applied) VALUES (4711, true)")
	applied, err := Up(t.Context(), databaseURL)
	if !errors.Is(err, ErrNewer) || len(applied) != 0 {
		t.Fatalf("Up returned %v, %v", applied, err)
	}
	want := fmt.Sprintf("database is at version 4711, this program knows up to %d: upgrade the program", known)
	if err.Error() != want {
		t.Errorf("error is %q, want %q", err, want)
	}
	if err := Check(t.Context(), databaseURL); !errors.Is(err, ErrNewer) {
		t.Errorf("Check returned %v", err)
	}
	if _, err := Status(t.Context(), databaseURL); !errors.Is(err, ErrNewer) {
		t.Errorf("Status returned %v", err)
	}
}

func latestKnown(t *testing.T, databaseURL string) int64 {
	t.Helper()
	status, err := Status(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	return status[len(status)-1].Version
}

func TestADatabaseThatLacksMigrationsIsToldApart(t *testing.T) {
	databaseURL := testserver.Postgres(t)
	if err := Check(t.Context(), databaseURL); !errors.Is(err, ErrOlder) {
		t.Errorf("Check of an empty database returned %v", err)
	}
	if n := query[int](t, connect(t, databaseURL), "SELECT count(*) FROM pg_namespace WHERE nspname = 'spendflush'"); n != 0 {
		t.Error("Check made the schema")
	}
	status, err := Status(t.Context(), databaseURL)
	if err != nil || len(status) == 0 {
		t.Fatalf("Status returned %v, %v", status, err)
	}
	for _, m := range status {
		if !m.AppliedAt.IsZero() {
			t.Errorf("migration %d is said to be applied", m.Version)
		}
	}
}

// withMigration returns the real migrations and one more behind them.
func withMigration(t *testing.T, name, text string) fs.FS {
	t.Helper()
	all := fstest.MapFS{name: {Data: []byte(text)}}
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		data, err := files.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all[name] = &fstest.MapFile{Data: data}
	}
	return all
}

func TestAMigrationThatFailsHalfWayLeavesNothingOfItselfAndTheNextUpRepeatsIt(t *testing.T) {
	databaseURL := testserver.Postgres(t)
	broken := "-- +goose Up\nCREATE TABLE spendflush.half (n int);\nINSERT INTO spendflush.half VALUES (1/0);\n"
	applied, err := up(t.Context(), databaseURL, withMigration(t, "09000_broken.sql", broken), untold)
	if err == nil || len(applied) == 0 {
		t.Fatalf("up returned %v, %v; want the migrations before the broken one and its error", applied, err)
	}
	conn := connect(t, databaseURL)
	if n := query[int](t, conn, "SELECT count(*) FROM pg_tables WHERE tablename = 'half'"); n != 0 {
		t.Error("the table of the broken migration is there")
	}
	if err := Check(t.Context(), databaseURL); err != nil {
		t.Errorf("the migrations before it aren't all there: %v", err)
	}
	mended := strings.Replace(broken, "1/0", "1", 1)
	applied, err = up(t.Context(), databaseURL, withMigration(t, "09000_broken.sql", mended), untold)
	if err != nil || len(applied) != 1 {
		t.Fatalf("the mended one: %v, %v", applied, err)
	}
}

func TestARoleThatOwnsOnlyTheSchemaCanMigrate(t *testing.T) {
	databaseURL := testserver.Postgres(t)
	conn := connect(t, databaseURL)
	role := "schema_owner_" + query[string](t, conn, "SELECT current_database()")
	execute(t, conn, "CREATE ROLE "+role+" LOGIN PASSWORD 'schema-owner'")
	t.Cleanup(func() {
		execute := func(statement string) {
			if _, err := conn.Exec(context.Background(), statement); err != nil {
				t.Error(err)
			}
		}
		execute("DROP OWNED BY " + role)
		execute("DROP ROLE " + role)
		conn.Close(context.Background())
	})
	execute(t, conn, "CREATE SCHEMA spendflush AUTHORIZATION "+role)
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, "schema-owner")
	if _, err := Up(t.Context(), u.String()); err != nil {
		t.Fatal(err)
	}
	if err := Check(t.Context(), u.String()); err != nil {
		t.Error(err)
	}
}

// makeSchemaOnly makes what is there before the first migration.
func makeSchemaOnly(t *testing.T, databaseURL string) {
	t.Helper()
	db, err := open(databaseURL, false)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := makeSchema(t.Context(), db); err != nil {
		t.Fatal(err)
	}
}

func TestWaitingForAnotherProgramThatMigratesEndsWithTheContext(t *testing.T) {
	databaseURL := testserver.Postgres(t)
	conn := connect(t, databaseURL)
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	makeSchemaOnly(t, databaseURL)
	if _, err := tx.Exec(t.Context(), "SELECT pg_advisory_xact_lock($1::bigint # salt) FROM spendflush.lock_salt", int64(lockKey)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := Up(ctx, databaseURL)
		done <- err
	}()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Up returned %v", err)
	}
	if n := query[int](t, connect(t, databaseURL), "SELECT count(*) FROM pg_class WHERE relname = 'rollup'"); n != 0 {
		t.Error("Up migrated without the lock")
	}
}

func TestErrorsDontShowThePassword(t *testing.T) {
	for _, databaseURL := range []string{
		"postgres://u:s3cret@127.0.0.1:1/db?connect_timeout=1", "postgres://u:s3cret@127.0.0.1:notaport/db", "host=x password=s3cret port=x",
	} {
		_, err := Up(t.Context(), databaseURL)
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%v", err)
		}
	}
}
