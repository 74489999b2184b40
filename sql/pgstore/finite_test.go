package pgstore

import (
	"fmt"
	"strings"
	"testing"
)

// A sum never loses a NaN again, and NaN is equal to itself, so that the audit finds nothing.
func TestACorrectionThatIsNoNumberIsRefusedByNameAndChangesNothing(t *testing.T) {
	s := open(t, database(t), Options{})
	apply(t, s, flushOf(newProducer(), 1, 1, costOne))
	state := func() string {
		return query[string](t, s, `SELECT pg_catalog.concat((SELECT pg_catalog.array_agg(c ORDER BY c.book) FROM spendflush.control c WHERE shard < 0),
			(SELECT pg_catalog.array_agg(r) FROM spendflush.rollup r), (SELECT pg_catalog.array_agg(p) FROM spendflush.pruned_marks p))`)
	}
	before := state()
	for _, c := range []struct{ args, want string }{
		{"spend => 'NaN'", "spend is NaN; allowed are"},
		{"spend => 'Infinity'", "spend is Infinity; allowed are"},
		{"spend => '-Infinity'", "spend is -Infinity; allowed are"},
		{"spend => 1e26", "spend is 100000000000000000000000000; allowed are"},
		{"spend => -1e26", "spend is -100000000000000000000000000; allowed are"},
		{"spend => 0.0000000000001", "spend is 0.0000000000001; allowed are at most 12 decimals"},
		{"spend => NULL", "spend is NULL"},
		{"spend => 1, prompt_tokens => NULL", "prompt_tokens is NULL"},
		{"spend => 1, day => 'infinity'", "day is infinity; allowed are"},
		{"spend => 1, hour => 24", "hour is 24; allowed are"},
		{"spend => 1, hour => NULL", "hour is NULL"},
	} {
		args := c.args
		for _, needed := range []string{"day => '2026-11-20'", "hour => 12", "series => (SELECT key FROM spendflush.series)"} {
			if name, _, _ := strings.Cut(needed, " "); !strings.Contains(args, name+" =>") {
				args += ", " + needed
			}
		}
		if _, err := s.pool.Exec(t.Context(), "SELECT spendflush.correct("+args+")"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.args, err, c.want)
		}
	}
	if after := state(); after != before {
		t.Errorf("the books changed from %s to %s", before, after)
	}
	wantAudit(t, s)
}

func TestNoColumnThatIsSummedTakesWhatIsNoNumber(t *testing.T) {
	s := open(t, database(t), Options{})
	apply(t, s, flushOf(newProducer(), 1, 1, costOne))
	quarantine(t, s, s, []byte("damaged"))
	id := besideClaims(t, s, chainOf(bornAgo(0), 2)[1].Bytes())[0]
	if err := s.ApplyQuarantined(t.Context(), id, "a test"); err != nil {
		t.Fatal(err)
	}
	dropParts(t, s)
	apply(t, s, flushOf(newProducer(), 1, 1, costOne))
	keepFigures(t, s)
	rows, err := s.pool.Query(t.Context(), `SELECT table_name || '.' || column_name FROM information_schema.columns
		WHERE table_schema = 'spendflush' AND data_type = 'numeric' AND table_name IN (
			SELECT table_name FROM information_schema.tables WHERE table_schema = 'spendflush' AND table_type = 'BASE TABLE')`)
	if err != nil {
		t.Fatal(err)
	}
	var columns []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		columns = append(columns, name)
	}
	if err := rows.Err(); err != nil || len(columns) < 16 {
		t.Fatalf("the columns are %q, %v", columns, err)
	}
	for _, name := range columns {
		table, column, _ := strings.Cut(name, ".")
		if n := query[int](t, s, "SELECT count(*) FROM spendflush."+table); n == 0 {
			t.Errorf("%s has no row to try it on", table)
		}
		for _, value := range []string{"NaN", "Infinity"} {
			if _, err := s.pool.Exec(t.Context(), fmt.Sprintf("UPDATE spendflush.%s SET %s = '%s'", table, column, value)); err == nil {
				t.Errorf("%s takes %s", name, value)
			}
		}
	}
}
