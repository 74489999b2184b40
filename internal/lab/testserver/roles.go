package testserver

import (
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// Role makes a role without any rights, unless there is one of that name, and returns the way to
// the database for it. What it was granted there is taken from it when the test ends; the role
// stays, as others may have rights by then.
func Role(t testing.TB, databaseURL, role string) string {
	t.Helper()
	const password = "only-what-it-needs"
	execute(t, databaseURL, "DO $$ BEGIN CREATE ROLE "+role+" LOGIN PASSWORD '"+password+"'; EXCEPTION WHEN duplicate_object THEN END $$")
	t.Cleanup(func() { execute(t, databaseURL, "DROP OWNED BY "+role) })
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, password)
	return u.String()
}

// Grant says to the database, as the owner of its tables, what the runbook lists under Roles, with
// that role.
func Grant(t testing.TB, databaseURL, runbook, role string) {
	t.Helper()
	text, err := os.ReadFile(runbook)
	if err != nil {
		t.Fatal(err)
	}
	config, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Roles\n")
	section, _, _ = strings.Cut(section, "\n## ")
	said := 0
	for line := range strings.Lines(section) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "GRANT ") || strings.HasPrefix(line, "ALTER DEFAULT PRIVILEGES ") {
			line = strings.Replace(line, "DATABASE spend ", "DATABASE "+config.Database+" ", 1)
			execute(t, databaseURL, strings.Replace(line, "spendflush_app", role, 1))
			said++
		}
	}
	if said < 3 {
		t.Fatalf("%s lists %d GRANTs under Roles", runbook, said)
	}
}
