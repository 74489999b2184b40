package migrations

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/spendflush/spendflush/internal/lab/testserver"
)

// told gathers what Up tells.
type told struct {
	mu   sync.Mutex
	list []string
	when func(what string)
}

func (g *told) tell(what string) {
	g.mu.Lock()
	g.list = append(g.list, what)
	g.mu.Unlock()
	if g.when != nil {
		g.when(what)
	}
}

func (g *told) all() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return strings.Join(g.list, "\n")
}

const changeTotals = "-- +goose Up\nALTER TABLE spendflush.total ADD COLUMN noted text;\n"

// A reader holds the table. What comes while the migration waits for it, a flush, must not wait as
// long as the reader.
func TestAMigrationThatWaitsForAReaderLetsFlushesThrough(t *testing.T) {
	databaseURL := testserver.Postgres(t)
	if _, err := Up(t.Context(), databaseURL); err != nil {
		t.Fatal(err)
	}
	reader := connect(t, databaseURL)
	execute(t, reader, "BEGIN; SELECT * FROM spendflush.total")

	writer := connect(t, databaseURL)
	written := 0
	g := &told{}
	g.when = func(what string) {
		if !strings.Contains(what, "waits for a table") {
			return
		}
		execute(t, writer, "UPDATE spendflush.total SET spend = spend") // it would wait for the reader's end, which is below
		if written++; written == 2 {
			execute(t, reader, "COMMIT")
		}
	}
	applied, err := up(t.Context(), databaseURL, withMigration(t, "09000_late.sql", changeTotals), g.tell)
	if err != nil || len(applied) != 1 || written < 2 {
		t.Fatalf("applied %+v after %d writes: %v", applied, written, err)
	}
	if got := query[string](t, writer, "SHOW lock_timeout"); got != "0" {
		t.Errorf("lock_timeout is left at %s", got)
	}
	if !strings.Contains(g.all(), "applying 09000_late.sql") {
		t.Errorf("told:\n%s", g.all())
	}
}

func TestAProgramThatWaitsForAnotherOnesMigrationSaysSoAndDoesNotGiveUp(t *testing.T) {
	databaseURL := testserver.Postgres(t)
	other := connect(t, databaseURL)
	makeSchemaOnly(t, databaseURL)
	execute(t, other, "BEGIN")
	if !query[bool](t, other, fmt.Sprintf("SELECT pg_try_advisory_xact_lock(%d::bigint # salt) FROM spendflush.lock_salt", int64(lockKey))) {
		t.Fatal("the lock isn't free")
	}
	waits := 0
	g := &told{}
	g.when = func(what string) {
		if strings.Contains(what, "another program") {
			if waits++; waits == 3 {
				execute(t, other, "COMMIT")
			}
		}
	}
	applied, err := UpWith(t.Context(), databaseURL, Options{Tell: g.tell})
	if err != nil || len(applied) == 0 || waits != 3 {
		t.Errorf("applied %d after %d waits: %v", len(applied), waits, err)
	}
}

func TestTheWaitForALockEndsWithItsContext(t *testing.T) {
	databaseURL := testserver.Postgres(t)
	if _, err := Up(t.Context(), databaseURL); err != nil {
		t.Fatal(err)
	}
	execute(t, connect(t, databaseURL), "BEGIN; SELECT * FROM spendflush.total")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	g := &told{when: func(what string) {
		if strings.Contains(what, "waits for a table") {
			cancel()
		}
	}}
	_, err := up(ctx, databaseURL, withMigration(t, "09000_late.sql", changeTotals), g.tell)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("up returned %v", err)
	}
}

func TestARoleThatMayNotMakeTheTablesIsSentToTheirOwner(t *testing.T) {
	databaseURL := testserver.Postgres(t)
	applied, err := Up(t.Context(), testserver.Role(t, databaseURL, "migrations_stranger"))
	if !errors.Is(err, ErrNotOwner) || !strings.Contains(err.Error(), "spendflush migrate up") || len(applied) != 0 {
		t.Errorf("applied %d, error %v", len(applied), err)
	}
}

func TestADatabaseThatWritesDatesItsOwnWayIsUnderstood(t *testing.T) {
	databaseURL := testserver.Postgres(t)
	if _, err := Up(t.Context(), databaseURL); err != nil {
		t.Fatal(err)
	}
	execute(t, connect(t, databaseURL), `DO $$ BEGIN
		EXECUTE format('ALTER DATABASE %I SET datestyle = ''SQL, DMY''', current_database()); END $$`)
	if _, err := Up(t.Context(), databaseURL); err != nil {
		t.Error(err)
	}
	list, err := Status(t.Context(), databaseURL)
	if err != nil || len(list) == 0 || list[0].AppliedAt.IsZero() {
		t.Errorf("status %+v: %v", list, err)
	}
}
