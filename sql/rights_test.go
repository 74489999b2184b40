package sql

import (
	"context"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush"
)

// grantsOfTheRunbook returns the statements that the runbook lists, for the database and the role.
func grantsOfTheRunbook(t testing.TB, database, role string) string {
	t.Helper()
	text, err := os.ReadFile("../docs/runbook.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Roles\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var grants []string
	for line := range strings.Lines(section) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "GRANT ") || strings.HasPrefix(line, "ALTER DEFAULT PRIVILEGES ") {
			grants = append(grants, strings.NewReplacer("spendflush_app", role, "DATABASE spend ", "DATABASE "+database+" ").Replace(line))
		}
	}
	if len(grants) == 0 {
		t.Fatal("the runbook lists no GRANT under Roles")
	}
	return strings.Join(grants, "\n")
}

// asRole makes a role without any rights and returns the way to the database for it.
func asRole(t testing.TB, databaseURL, role string) string {
	t.Helper()
	s := open(t, databaseURL, Options{})
	execute(t, s.pool, `DO $$ BEGIN CREATE ROLE `+role+` LOGIN PASSWORD 'p'; EXCEPTION WHEN duplicate_object THEN END $$`)
	t.Cleanup(func() {
		conn, err := pgx.Connect(context.Background(), databaseURL)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		if _, err := conn.Exec(context.Background(), "DROP OWNED BY "+role); err != nil {
			t.Error(err)
		}
	})
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, "p")
	return u.String()
}

func TestTheRightsThatARoleLacksAreNamed(t *testing.T) {
	databaseURL := database(t)
	const role = "sql_rights"
	s, admin := open(t, asRole(t, databaseURL, role), Options{}), open(t, databaseURL, Options{})
	lacking := func() []string {
		t.Helper()
		list, err := s.Lacking(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	if list := lacking(); len(list) < 5 || !slices.Contains(list, "USAGE on schema spendflush") || !slices.Contains(list, "SELECT on spendflush.migrations") {
		t.Errorf("without any: %q", list)
	}
	execute(t, admin.pool, grantsOfTheRunbook(t, query[string](t, admin, "SELECT current_database()"), role))
	if list := lacking(); len(list) != 0 {
		t.Errorf("with those of the runbook: %q", list)
	}
	execute(t, admin.pool, "REVOKE UPDATE, INSERT ON spendflush.total FROM "+role)
	if list := lacking(); !slices.Equal(list, []string{"INSERT, UPDATE on spendflush.total"}) {
		t.Errorf("after a REVOKE: %q", list)
	}
	if list, err := admin.Lacking(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("the owner: %q, %v", list, err)
	}
}

func TestWhatARoleLacksIsARefusalAndNoOutage(t *testing.T) {
	s := open(t, asRole(t, database(t), "sql_refused"), Options{})
	_, err := s.Glance(t.Context())
	if got := Refusal(err); !strings.Contains(got, "permission denied") || !strings.Contains(got, "42501") {
		t.Errorf("%q of %v", got, err)
	}
	err = s.Apply(t.Context(), flushOf(newProducer(), 1, 1, request{spendflush.Series{APIKey: "k"}, noon, one("1")}))
	if got := Refusal(err); !strings.Contains(got, "42501") {
		t.Errorf("%q of %v", got, err)
	}
	away := open(t, "postgres://nobody@127.0.0.1:1/nothing", Options{})
	if _, err := away.Glance(t.Context()); err == nil || Refusal(err) != "" {
		t.Errorf("%q of %v", Refusal(err), err)
	}
}
