package servers

import (
	"testing"

	"github.com/jackc/pgx/v5"
)

// awaitRows waits until the table has so many rows: a standby follows a little later.
func awaitRows(t *testing.T, conn *pgx.Conn, want int) {
	t.Helper()
	for {
		n := query[int](t, conn, "SELECT count(*) FROM kept")
		if n == want {
			return
		}
		if t.Context().Err() != nil || n > want {
			t.Fatalf("%d rows, want %d", n, want)
		}
	}
}

func TestAStandbyFollowsIsPromotedAndItsOldPrimaryFollowsIt(t *testing.T) {
	first := startPostgres(t, PostgresConfig{Dir: tempDir(t)})
	before := connect(t, first)
	if _, err := before.Exec(t.Context(), "CREATE TABLE kept AS SELECT 1 AS n"); err != nil {
		t.Fatal(err)
	}
	second := startPostgres(t, PostgresConfig{Dir: tempDir(t), Primary: first.URL("")})
	if _, err := before.Exec(t.Context(), "INSERT INTO kept VALUES (2)"); err != nil {
		t.Fatal(err)
	}
	follower := connect(t, second)
	awaitRows(t, follower, 2)
	if !query[bool](t, follower, "SELECT pg_is_in_recovery()") {
		t.Error("the copy is no standby")
	}

	// There: the old primary stops cleanly, so that all is streamed, and then follows the new one.
	if err := first.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := second.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := first.Follow(t.Context(), second.URL("")); err != nil {
		t.Fatal(err)
	}
	if _, err := connect(t, second).Exec(t.Context(), "INSERT INTO kept VALUES (3)"); err != nil {
		t.Fatal(err)
	}
	after := connect(t, first)
	awaitRows(t, after, 3)
	if !query[bool](t, after, "SELECT pg_is_in_recovery()") {
		t.Error("the old primary is still one")
	}
}
