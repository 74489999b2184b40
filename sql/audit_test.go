package sql

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/spendflush/spendflush"
)

// failed returns the names of the checks that failed, and all the entities named.
func failed(t *testing.T, s *Store) (names []string, entities []AuditDifference) {
	t.Helper()
	report, err := s.Audit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range report.Checks {
		if !c.OK {
			names, entities = append(names, c.Name), append(entities, c.Entities...)
		}
	}
	if report.OK != (len(names) == 0) {
		t.Errorf("the report says %t with %d failed checks", report.OK, len(names))
	}
	return names, entities
}

// keepBooks copies the tables of the books and returns what puts them back, past all triggers.
func keepBooks(t *testing.T, s *Store) (restore func()) {
	t.Helper()
	var back strings.Builder
	back.WriteString("BEGIN; SET LOCAL session_replication_role = replica;")
	for _, table := range []string{"producers", "control", "entity", "series", "series_tag", "total", "rollup"} {
		execute(t, s.pool, fmt.Sprintf("CREATE TABLE kept_%[1]s AS TABLE spendflush.%[1]s", table))
		fmt.Fprintf(&back, "TRUNCATE spendflush.%[1]s; INSERT INTO spendflush.%[1]s TABLE kept_%[1]s;", table)
	}
	back.WriteString("COMMIT")
	return func() { multiple(t, s, back.String()) }
}

// multiple runs several statements.
func multiple(t *testing.T, s *Store, text string) {
	t.Helper()
	conn, err := s.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	if _, err := conn.Conn().PgConn().Exec(t.Context(), text).ReadAll(); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
}

// corruption is something that nobody but a hand at the tables can do.
type corruption struct {
	change string
	want   []string // the checks that fail
	names  []string // the entities named
}

// corruptions are of books in which team-3 is a team, and "lone" and "lone tag" have the only rollup row of a series.
func corruptions() []corruption {
	const each = "each total = its rollups"
	const ofTeam3 = " WHERE entity = (SELECT key FROM spendflush.entity WHERE entity_type = 'team' AND entity_id = 'team-3')"
	const ofLone = " WHERE series = (SELECT key FROM spendflush.series WHERE api_key = 'lone')"
	list := []corruption{
		{"UPDATE spendflush.total SET spend = spend + 0.000000000001" + ofTeam3, []string{"totals of team", each}, []string{"team-3"}},
		{"UPDATE spendflush.rollup SET spend = spend - 0.000000000001" + ofLone, []string{"rollups", each}, []string{"lone", "lone tag"}},
		{"DELETE FROM spendflush.total" + ofTeam3, []string{"totals of team", each}, []string{"team-3"}},
		{"DELETE FROM spendflush.rollup" + ofLone, []string{"rollups", each}, []string{"lone", "lone tag"}},
		{
			"INSERT INTO spendflush.rollup SELECT series, day, hour + 1, 0, 0, 0, 1, 0, 0, 0 FROM spendflush.rollup" + ofLone,
			[]string{"rollups", each}, []string{"lone", "lone tag"},
		},
		{
			"BEGIN; SET LOCAL session_replication_role = replica; INSERT INTO spendflush.rollup " +
				"SELECT gen_random_uuid(), day, hour, 0, 0, 0, 0, 0, 0, 1 FROM spendflush.rollup" + ofLone + "; COMMIT",
			[]string{"rollups", "dictionaries"}, nil,
		},
		{"UPDATE spendflush.control SET spend = spend + 0.000000000001 WHERE book = 'team'", []string{"totals of team"}, nil},
		{"DELETE FROM spendflush.control WHERE book = 'organization'", []string{"totals of organization"}, nil},
		{"DELETE FROM spendflush.control WHERE book = 'rollup'", []string{"producers", "rollups"}, nil},
		{"UPDATE spendflush.producers SET amount = amount + 0.000000000001", []string{"sealed = booked", "producers"}, nil},
		{"UPDATE spendflush.producers SET updates = updates - 1", []string{"sealed = booked", "producers"}, nil},
		{"DELETE FROM spendflush.producers", []string{"producers"}, nil},
		{
			"UPDATE spendflush.entity SET entity_id = 'team-33' WHERE entity_id = 'team-3' AND entity_type = 'team'",
			[]string{each}, []string{"team-3", "team-33"},
		},
		{
			"UPDATE spendflush.entity SET entity_type = 'agent' WHERE entity_id = 'team-3' AND entity_type = 'team'",
			[]string{"totals of team", "totals of agent", each}, []string{"team-3", "team-3"},
		},
		{
			"UPDATE spendflush.entity SET entity_type = 'nonsense' WHERE entity_id = 'team-3' AND entity_type = 'team'",
			[]string{"totals of team", each}, []string{"team-3", "team-3"},
		},
		{"DELETE FROM spendflush.entity WHERE entity_id = 'lone'", []string{"totals of api_key", "dictionaries", each}, []string{"lone"}},
		{"UPDATE spendflush.series SET api_key = 'another' WHERE api_key = 'lone'", []string{each}, []string{"another", "lone"}},
		{"DELETE FROM spendflush.series WHERE api_key = 'lone'", []string{"dictionaries", each}, []string{"lone", "lone tag"}},
		{"DELETE FROM spendflush.series_tag WHERE tag = 'tag-a'", []string{"dictionaries", each}, []string{"tag-a"}},
		{
			"INSERT INTO spendflush.series_tag SELECT 'tag-z', key FROM spendflush.series WHERE api_key = 'lone'",
			[]string{"dictionaries", each}, []string{"tag-z"},
		},
	}
	for _, counter := range sumNames[1:] {
		change := " SET " + counter + " = " + counter + " + 1"
		list = append(list,
			corruption{"UPDATE spendflush.total" + change + ofTeam3, []string{"totals of team", each}, []string{"team-3"}},
			corruption{"UPDATE spendflush.rollup" + change + ofLone, []string{"rollups", each}, []string{"lone", "lone tag"}},
			corruption{"UPDATE spendflush.control" + change + " WHERE book = 'tag'", []string{"totals of tag"}, nil})
	}
	return list
}

func TestAuditFindsWhatSomebodyChangedByHand(t *testing.T) {
	s := open(t, database(t), Options{})
	wantAudit(t, s) // of empty books too
	lone := request{spendflush.Series{APIKey: "lone", Tags: []string{"lone tag"}}, noon, one("1")}
	requests := append(traffic(rand.New(rand.NewPCG(12, 1)), 200, 40), lone)
	apply(t, s, flushOf(newProducer(), 1, 1, requests...))
	wantAudit(t, s)
	restore := keepBooks(t, s)
	for _, c := range corruptions() {
		multiple(t, s, c.change)
		failed, entities := failed(t, s)
		if !slices.Equal(failed, c.want) {
			t.Errorf("after %s the checks that fail are %q, want %q", c.change, failed, c.want)
		}
		var names []string
		for _, e := range entities {
			names = append(names, e.EntityID)
		}
		if slices.Sort(names); !slices.Equal(names, c.names) {
			t.Errorf("after %s the entities named are %q, want %q", c.change, names, c.names)
		}
		restore()
	}
	wantAudit(t, s)
}

func TestAuditFindsARollupThatIsCountedElsewhere(t *testing.T) {
	s := open(t, database(t), Options{})
	a := request{spendflush.Series{APIKey: "a"}, noon, one("1")}
	b := request{spendflush.Series{APIKey: "b"}, noon, one("2")}
	apply(t, s, flushOf(newProducer(), 1, 1, a, b))
	// The sums over all stay what they are: only entity by entity it shows.
	execute(t, s.pool, "UPDATE spendflush.rollup SET spend = 3 - spend")
	names, entities := failed(t, s)
	if len(names) != 1 || len(entities) != 2 || entities[0].EntityID != "a" || entities[0].RollupSpend != "2" || entities[0].TotalSpend != "1" {
		t.Errorf("%q, %+v", names, entities)
	}
}

func TestAuditNamesAtMostTwentyEntities(t *testing.T) {
	s := open(t, database(t), Options{})
	apply(t, s, flushOf(newProducer(), 1, 1, traffic(rand.New(rand.NewPCG(13, 1)), 200, 60)...))
	execute(t, s.pool, "UPDATE spendflush.total SET spend = spend + 1")
	if _, entities := failed(t, s); len(entities) != maxDifferences {
		t.Errorf("%d entities are named", len(entities))
	}
}

func TestAuditCountsRowsThatNameNothing(t *testing.T) {
	s := open(t, database(t), Options{})
	apply(t, s, flushOf(newProducer(), 1, 1, request{spendflush.Series{APIKey: "a"}, noon, one("1")}))
	execute(t, s.pool, "DELETE FROM spendflush.series")
	if names, _ := failed(t, s); !slices.Contains(names, "dictionaries") {
		t.Errorf("the checks that fail are %q", names)
	}
}
