package migrations

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// For those who bring migrations to their database by tools of their own.

// script is one migration as text, without what begins and ends its transaction.
type script struct {
	version  int64
	name     string
	previous int64 // the version that must be there before it
	up, down string
}

// scripts returns all migrations in order.
func scripts() []script {
	names, _ := fs.Glob(files, "*.sql") // the pattern is well-formed; sorted
	list := make([]script, len(names))
	for i, name := range names {
		list[i] = mustScript(name)
		if i > 0 {
			list[i].previous = list[i-1].version
		}
	}
	return list
}

func mustScript(name string) script {
	text, err := fs.ReadFile(files, name)
	_, body, found := strings.Cut(string(text), "-- +goose Up\n")
	up, down, hasDown := strings.Cut(body, "-- +goose Down\n")
	number, _, _ := strings.Cut(name, "_")
	version, versionErr := strconv.ParseInt(number, 10, 64)
	if err != nil || versionErr != nil || !found || !hasDown || bytes.Contains(text, noTransaction) {
		panic("spendflush/migrations: the embedded file " + name + " isn't of the form that is expected")
	}
	return script{version: version, name: name, up: strings.TrimSpace(up) + "\n", down: strings.TrimSpace(down) + "\n"}
}

// statement has goose take a text as one statement.
func statement(text string) string {
	return "-- +goose StatementBegin\n" + text + "\n-- +goose StatementEnd\n"
}

// makeIfMissing is makeMissing in SQL.
var makeIfMissing = statement(`DO $spendflush$ BEGIN
    IF current_setting('server_encoding') NOT IN ('UTF8', 'SQL_ASCII') THEN
        RAISE EXCEPTION 'spendflush: the database is of the encoding %; UTF8 is needed', current_setting('server_encoding');
    END IF;
    IF to_regnamespace('spendflush') IS NULL THEN
        CREATE SCHEMA spendflush;
    END IF;
    IF to_regclass('` + versionTable + `') IS NULL THEN
        ` + makeVersions + `;
        ` + firstVersion + `;
    END IF;
    IF to_regclass('` + saltTable + `') IS NULL THEN
        ` + makeSalt + `;
        ` + fillSalt + `;
    END IF;
END $spendflush$;`)

// upSQL returns what a transaction does to apply the migration: it waits for other programs that
// migrate, looks whether the migration is the next one, and notes it where Status and the program
// look.
func (s script) upSQL() string {
	text := ""
	if s.previous == 0 {
		text = makeIfMissing
	}
	return text + statement(fmt.Sprintf(`DO $spendflush$
DECLARE
    version bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(%d::bigint # salt) FROM %s;
    SELECT max(version_id) INTO version FROM (
        SELECT DISTINCT ON (version_id) version_id, is_applied FROM %s ORDER BY version_id, id DESC) AS last
    WHERE is_applied;
    IF version <> %d THEN
        RAISE EXCEPTION 'spendflush: migration %d comes after %[4]d, but the database is at %%', version;
    END IF;
END $spendflush$;`, int64(lockKey), saltTable, versionTable, s.previous, s.version)) +
		s.up + fmt.Sprintf("INSERT INTO %s (version_id, is_applied) VALUES (%d, true);\n", versionTable, s.version)
}

func (s script) downSQL() string {
	return s.down + fmt.Sprintf("DELETE FROM %s WHERE version_id = %d;\n", versionTable, s.version)
}

// FS returns all migrations as files for goose, "00001_books.sql" and so on, for a provider of the
// caller's:
//
//	goose.NewProvider(goose.DialectPostgres, db, migrations.FS(), goose.WithTableName("spendflush_goose"))
//
// The first makes the schema too, where it is missing. Each also notes itself where Status, Check
// and the program look, so Up finds nothing left to do, and refuses to be applied in another order.
// Give goose a table for these alone: their versions are 1, 2 and so on. A migration waits for each
// lock on a table for a second only, and fails then.
func FS() fs.FS { return gooseFiles{impatient{files}} }

// gooseFiles has the files of a migration that brings along all that it needs.
type gooseFiles struct{ impatient }

// Open implements fs.FS.
func (g gooseFiles) Open(name string) (fs.File, error) {
	file, err := g.FS.Open(name)
	if err != nil || path.Ext(name) != ".sql" {
		return file, err
	}
	for _, s := range scripts() {
		if s.name == name {
			return &changedFile{File: file, text: strings.NewReader(asGoose(s.upSQL(), s.downSQL()))}, nil
		}
	}
	return file, nil
}

// asGoose frames what goose does in one transaction. Afterwards goose notes the version in its
// table, which it finds by the path that was there before.
func asGoose(up, down string) string {
	return "-- +goose Up\n" + begin + savePath + settingsOfMigration + up + restorePath + "\n-- +goose Down\n" + begin + savePath + settingsOfMigration + down + restorePath
}

const (
	savePath    = "SELECT pg_catalog.set_config('spendflush.search_path', pg_catalog.current_setting('search_path'), true);\n"
	restorePath = "SELECT set_config('search_path', current_setting('spendflush.search_path'), true);\n"
)

// Print writes the SQL of the migrations after a version, 0 for all, as one text. With plain it can
// be run as it is, by psql or another tool that takes several statements: each migration is a
// transaction of its own, and nothing is done by one that isn't the next. Without plain it is one
// migration for goose, in one transaction, with a Down that undoes it. The error is w's.
func Print(w io.Writer, after int64, plain bool) error {
	list := slices.DeleteFunc(scripts(), func(s script) bool { return s.version <= after })
	if len(list) == 0 {
		_, err := fmt.Fprintf(w, "-- Nothing comes after migration %d.\n", after)
		return err
	}
	if plain {
		return printPlain(w, list)
	}
	up, down := "", ""
	for _, s := range list {
		up += fmt.Sprintf("\n-- Migration %d of spendflush: %s\n\n", s.version, s.name) + s.upSQL()
		down = fmt.Sprintf("\n-- Undo %s\n\n", s.name) + s.downSQL() + down
	}
	_, err := io.WriteString(w, asGoose(up, down))
	return err
}

var annotation = regexp.MustCompile(`(?m)^-- \+goose .*\n`)

func printPlain(w io.Writer, list []script) error {
	for _, s := range list {
		_, err := fmt.Fprintf(w, "-- Migration %d of spendflush: %s\n\nBEGIN;\n%s%s\nCOMMIT;\n\n",
			s.version, s.name, migrationSettings, annotation.ReplaceAllString(s.upSQL(), ""))
		if err != nil {
			return err
		}
	}
	return nil
}
