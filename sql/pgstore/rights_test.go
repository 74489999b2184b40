package pgstore

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/spend"
)

func TestTheRightsThatARoleLacksAreNamed(t *testing.T) {
	databaseURL := database(t)
	const role = "sql_rights"
	s, admin := open(t, testserver.Role(t, databaseURL, role), Options{}), open(t, databaseURL, Options{})
	lacking := func() []string {
		t.Helper()
		list, _, err := s.Lacking(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	want := query[[]string](t, admin, `SELECT array_agg(lacking ORDER BY lacking COLLATE "C") FROM (
		SELECT 'USAGE on schema spendflush' AS lacking
		UNION ALL VALUES ('SELECT on spendflush.migrations'), ('SELECT on spendflush.lock_salt')
		UNION ALL SELECT 'DELETE, INSERT, SELECT, UPDATE on spendflush.' || c.relname FROM pg_class c
			WHERE c.relnamespace = 'spendflush'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
				AND c.relname NOT IN ('migrations', 'lock_salt')) AS all_of_them`)
	execute(t, admin.pool, "CREATE TABLE spendflush.of_another_program (n int)")
	if list := lacking(); !slices.Equal(slices.Sorted(slices.Values(list)), want) {
		t.Errorf("without any: %q\nwant %q: rights.sql has to list the tables that migrations make", list, want)
	}
	testserver.Grant(t, databaseURL, "../../docs/runbook.md", role)
	if list := lacking(); len(list) != 0 {
		t.Errorf("with those of the runbook: %q", list)
	}
	execute(t, admin.pool, "REVOKE UPDATE, INSERT ON spendflush.total FROM "+role)
	if list := lacking(); !slices.Equal(list, []string{"INSERT, UPDATE on spendflush.total"}) {
		t.Errorf("after a REVOKE: %q", list)
	}
	if list, _, err := admin.Lacking(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("the owner: %q, %v", list, err)
	}
}

func TestWithTheRightsComesWhatTheClockOfPostgresSays(t *testing.T) {
	s := open(t, database(t), Options{})
	clock := func() time.Time { return query[time.Time](t, s, "SELECT clock_timestamp()") }
	before := clock()
	_, now, err := s.Lacking(t.Context())
	if after := clock(); err != nil || now.Before(before) || now.After(after) {
		t.Errorf("%s, %v; want it between %s and %s", now, err, before, after)
	}
}

func TestWhatARoleLacksIsARefusalAndNoOutage(t *testing.T) {
	s := open(t, testserver.Role(t, database(t), "sql_refused"), Options{})
	_, err := s.Summary(t.Context())
	if got := Refusal(err); !strings.Contains(got, "permission denied") || !strings.Contains(got, "42501") {
		t.Errorf("%q of %v", got, err)
	}
	err = s.Apply(t.Context(), flushOf(newProducer(), 1, 1, request{spend.Series{APIKey: "k"}, noon, one("1")}))
	if got := Refusal(err); !strings.Contains(got, "42501") {
		t.Errorf("%q of %v", got, err)
	}
	away := open(t, "postgres://nobody@127.0.0.1:1/nothing", Options{})
	if _, err := away.Summary(t.Context()); err == nil || Refusal(err) != "" {
		t.Errorf("%q of %v", Refusal(err), err)
	}
}
