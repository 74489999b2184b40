package migrations

import (
	"bytes"
	"database/sql"
	"os/exec"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pressly/goose/v3"

	"github.com/spendflush/spendflush/internal/lab/testserver"
)

// everything tells all that is in the schema, a line for each thing, as the catalogs of any version
// have it; pg_dump reads no server that is newer than itself.
const everything = `
WITH things AS (
	SELECT 'schema ' || nspname || ' ' || COALESCE(nspacl::text, '') || ' ' || COALESCE(obj_description(oid, 'pg_namespace'), '') AS line
	FROM pg_namespace WHERE nspname = 'spendflush'
	UNION ALL
	SELECT concat_ws(' ', 'relation', relkind, oid::regclass, relpersistence, reloptions, relacl, obj_description(oid, 'pg_class'))
	FROM pg_class WHERE relnamespace = 'spendflush'::regnamespace
	UNION ALL
	SELECT concat_ws(' ', 'column', attrelid::regclass, attnum, attname, format_type(atttypid, atttypmod), CASE WHEN attnotnull THEN 'NOT NULL' END,
		attidentity, attgenerated, attstorage, attacl, pg_get_expr(adbin, adrelid), col_description(attrelid, attnum))
	FROM pg_attribute JOIN pg_class c ON c.oid = attrelid LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
	WHERE relnamespace = 'spendflush'::regnamespace AND attnum > 0 AND NOT attisdropped
	UNION ALL
	SELECT concat_ws(' ', 'constraint', conrelid::regclass, conname, pg_get_constraintdef(oid)) FROM pg_constraint
	WHERE connamespace = 'spendflush'::regnamespace
	UNION ALL
	SELECT pg_get_indexdef(indexrelid) FROM pg_index JOIN pg_class c ON c.oid = indrelid WHERE relnamespace = 'spendflush'::regnamespace
	UNION ALL
	SELECT concat_ws(' ', pg_get_triggerdef(t.oid), tgenabled) FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid
	WHERE relnamespace = 'spendflush'::regnamespace AND NOT tgisinternal
	UNION ALL
	SELECT concat_ws(' ', pg_get_functiondef(oid), proacl, obj_description(oid, 'pg_proc')) FROM pg_proc
	WHERE pronamespace = 'spendflush'::regnamespace
	UNION ALL
	SELECT concat_ws(' ', 'sequence', seqrelid::regclass, format_type(seqtypid, NULL), seqstart, seqincrement, seqmax, seqmin, seqcache, seqcycle)
	FROM pg_sequence JOIN pg_class c ON c.oid = seqrelid WHERE relnamespace = 'spendflush'::regnamespace
	UNION ALL
	SELECT concat_ws(' ', 'type', t.oid::regtype, typtype, pg_get_constraintdef(c.oid)) FROM pg_type t LEFT JOIN pg_constraint c ON contypid = t.oid
	WHERE typnamespace = 'spendflush'::regnamespace AND typtype IN ('d', 'e', 'r')
	UNION ALL
	SELECT 'migrations ' || string_agg(DISTINCT version_id::text, ' ' ORDER BY version_id::text) FROM spendflush.migrations WHERE is_applied
)
SELECT string_agg(line, E'\n' ORDER BY line) || E'\n' FROM things`

// dump returns everything that is in the schema of a database, and which migrations are noted.
func dump(t *testing.T, databaseURL string) string {
	t.Helper()
	text := query[string](t, connect(t, databaseURL), everything)
	for _, want := range []string{"\nrelation p spendflush.rollup ", "\ncolumn spendflush.rollup ", "CREATE OR REPLACE FUNCTION spendflush.", "CREATE TRIGGER ", "\nmigrations 0 1 "} {
		if !strings.Contains("\n"+text, want) {
			t.Fatalf("the dump tells nothing of %q:\n%s", want, text)
		}
	}
	return text
}

// migrated returns the dump of a database that Up has migrated.
func migrated(t *testing.T) string {
	t.Helper()
	databaseURL := testserver.Postgres(t)
	if _, err := Up(t.Context(), databaseURL); err != nil {
		t.Fatal(err)
	}
	if _, err := Up(t.Context(), databaseURL); err != nil {
		t.Fatal(err)
	}
	return dump(t, databaseURL)
}

func wantSame(t *testing.T, databaseURL, want string) {
	t.Helper()
	got := dump(t, databaseURL)
	if got != want {
		t.Errorf("the schema is not the one that Up makes:\n%s", difference(want, got))
	}
	if applied, err := Up(t.Context(), databaseURL); err != nil || len(applied) != 0 {
		t.Errorf("Up applied %v, %v; want nothing left to do", applied, err)
	}
	if n := query[int](t, connect(t, databaseURL), "SELECT count(*) FROM spendflush.lock_salt WHERE salt <> 0"); n != 1 {
		t.Errorf("there are %d salts of locks", n)
	}
}

func difference(want, got string) string {
	var text strings.Builder
	has := func(all, line string) bool { return strings.Contains(all, line) }
	for line := range strings.Lines(want) {
		if !has(got, line) {
			text.WriteString("- " + line)
		}
	}
	for line := range strings.Lines(got) {
		if !has(want, line) {
			text.WriteString("+ " + line)
		}
	}
	return text.String()
}

func printed(t *testing.T, after int64, plain bool) string {
	t.Helper()
	var text bytes.Buffer
	if err := Print(&text, after, plain); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

func psql(t *testing.T, databaseURL, text string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "psql", "--no-psqlrc", "--quiet", "-v", "ON_ERROR_STOP=1", databaseURL)
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestWhatIsPrintedMakesTheSameSchemaByPsqlAsUpDoes(t *testing.T) {
	want := migrated(t)
	databaseURL := testserver.Postgres(t)
	// The settings of the database are of no importance here either.
	name := query[string](t, connect(t, databaseURL), "SELECT current_database()")
	execute(t, connect(t, databaseURL), "ALTER DATABASE "+name+" SET default_transaction_read_only = on")
	if out, err := psql(t, databaseURL, printed(t, 0, true)); err != nil {
		t.Fatalf("psql: %v\n%s", err, out)
	}
	wantSame(t, databaseURL, want)

	// Once more does nothing but fail.
	out, err := psql(t, databaseURL, printed(t, 0, true))
	if err == nil || !strings.Contains(out, "migration 1 comes after 0, but the database is at") {
		t.Errorf("again: %v\n%s", err, out)
	}
	wantSame(t, databaseURL, want)
}

func TestWhatIsPendingIsPrintedAndFollowsWhatIsThere(t *testing.T) {
	want := migrated(t)
	databaseURL := testserver.Postgres(t)
	first := fstest.MapFS{}
	for _, s := range scripts()[:3] {
		text, err := files.ReadFile(s.name)
		if err != nil {
			t.Fatal(err)
		}
		first[s.name] = &fstest.MapFile{Data: text}
	}
	if _, err := up(t.Context(), databaseURL, first, untold); err != nil {
		t.Fatal(err)
	}
	out, err := psql(t, databaseURL, printed(t, 5, true))
	if err == nil || !strings.Contains(out, "migration 6 comes after 5, but the database is at 3") {
		t.Errorf("with two left out: %v\n%s", err, out)
	}
	if out, err := psql(t, databaseURL, printed(t, 3, true)); err != nil {
		t.Fatalf("psql: %v\n%s", err, out)
	}
	wantSame(t, databaseURL, want)
	if text := printed(t, scripts()[len(scripts())-1].version, true); !strings.HasPrefix(text, "-- Nothing comes after") {
		t.Errorf("where nothing is pending %q is printed", text)
	}
}

func TestAGooseOfTheCallersAppliesTheFilesAndWhatIsPrinted(t *testing.T) {
	want := migrated(t)
	for name, from := range map[string]fstest.MapFS{
		"files": nil, "printed": {"00042_spendflush.sql": {Data: []byte(printed(t, 0, false))}},
	} {
		t.Run(name, func(t *testing.T) {
			databaseURL := testserver.Postgres(t)
			db, err := sql.Open("pgx", databaseURL)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			provider, err := goose.NewProvider(goose.DialectPostgres, db, FS(), goose.WithTableName("their_versions"))
			if from != nil {
				provider, err = goose.NewProvider(goose.DialectPostgres, db, from, goose.WithTableName("their_versions"))
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := provider.Up(t.Context()); err != nil {
				t.Fatal(err)
			}
			wantSame(t, databaseURL, want)
			if n := query[int](t, connect(t, databaseURL), "SELECT count(*) FROM public.their_versions"); n < 2 {
				t.Errorf("goose has noted %d versions", n)
			}

			if _, err := provider.DownTo(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			if n := query[int](t, connect(t, databaseURL), "SELECT count(*) FROM spendflush.migrations WHERE version_id > 0"); n != 0 {
				t.Errorf("%d migrations are noted after Down", n)
			}
			if _, err := Up(t.Context(), databaseURL); err != nil {
				t.Errorf("Up after Down: %v", err)
			}
			wantSame(t, databaseURL, want)
		})
	}
}

func TestADatabaseThatCanNotKeepEveryTextIsRefusedByWhatIsPrinted(t *testing.T) {
	databaseURL := testserver.PostgresEncoded(t, "LATIN1")
	out, err := psql(t, databaseURL, printed(t, 0, true))
	if err == nil || !strings.Contains(out, "LATIN1; UTF8 is needed") {
		t.Errorf("psql: %v\n%s", err, out)
	}
	var code string
	_, connErr := connect(t, databaseURL).Exec(t.Context(), "SELECT FROM spendflush.migrations")
	if pg, ok := connErr.(*pgconn.PgError); ok {
		code = pg.Code
	}
	if code != "42P01" {
		t.Errorf("something is left: %v", connErr)
	}
}
