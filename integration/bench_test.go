package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush/internal/lab/bench"
	"github.com/spendflush/spendflush/internal/lab/testserver"
)

// Everything that bench measures is run once, with few keys: the books must be right, and every
// number must be there.
func TestBenchMeasuresEverythingOnceAndLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	jsonFile, markdownFile := filepath.Join(dir, "bench.json"), filepath.Join(dir, "bench.md")
	postgres, redis := testserver.Postgres(t), testserver.Redis(t)
	p := launchProgram(t, lab, "bench", nil, "bench", "--quick", "--seconds", "0.05", "--database-url", postgres, "--redis-url", redis,
		"--json", jsonFile, "--markdown", markdownFile, "--cpuprofile", filepath.Join(dir, "cpu.prof"))
	<-p.done // later than others have patience for, on a busy machine
	if status := p.wait(); status != 0 {
		t.Fatalf("exit status %d", status)
	}
	out := p.stdout.String()

	text, err := os.ReadFile(jsonFile)
	if err != nil {
		t.Fatal(err)
	}
	var report bench.Report
	if err := json.Unmarshal(text, &report); err != nil {
		t.Fatal(err)
	}
	var measured []string
	for _, table := range report.Tables {
		measured = append(measured, table.Part)
		for _, row := range table.Rows {
			if len(row.Cells) != len(table.Columns) {
				t.Errorf("%s, %s has %d cells in %d columns", table.Title, row.Name, len(row.Cells), len(table.Columns))
			}
			for i, cell := range row.Cells {
				if cell != nil && (len(cell.Samples) == 0 || cell.Low > cell.Median || cell.Median > cell.High) {
					t.Errorf("%s, %s, %s: %+v", table.Title, row.Name, table.Columns[i], *cell)
				}
			}
		}
		if !strings.Contains(out, "## "+table.Title+"\n") {
			t.Errorf("standard output has no table %q", table.Title)
		}
	}
	parts, _ := bench.Parts()
	if measured = slices.Compact(measured); !slices.Equal(measured, parts) {
		t.Errorf("measured were %q; there are %q", measured, parts)
	}
	for _, target := range report.Targets {
		if len(target.Got.Samples) == 0 {
			t.Errorf("of the target %q nothing was measured", target.What)
		}
	}
	if markdown, err := os.ReadFile(markdownFile); err != nil || string(markdown) != out {
		t.Errorf("the Markdown file isn't what was printed: %v", err)
	}
	if profile, err := os.ReadFile(filepath.Join(dir, "cpu.prof")); err != nil || len(profile) < 1000 || profile[0] != 0x1f || profile[1] != 0x8b {
		t.Errorf("the profile has %d bytes, and should be compressed: %v", len(profile), err)
	}
	for _, secret := range []string{postgres, redis} {
		if strings.Contains(out+string(text), secret) {
			t.Error("the report shows a URL, which may have a password")
		}
	}

	// It has left nothing, so it may run again; a database with a single table in it is refused,
	// and not touched.
	again := []string{"bench", "locks", "--quick", "--database-url", postgres, "--redis-url", redis}
	if status, _, stderr := runProgram(t, lab, nil, append(again, "--seconds", "0.01")...); status != 0 {
		t.Errorf("the second run: exit status %d, %s", status, stderr)
	}
	query(t, postgres, pgx.RowTo[string], "CREATE TABLE precious (id int)")
	status, stdout, stderr := runProgram(t, lab, nil, append(again, "--json", jsonFile+"2", "--markdown", markdownFile)...)
	if status != 2 || stdout != "" || !strings.Contains(stderr, "public.precious") {
		t.Errorf("with a table in the database: exit status %d, %s", status, stderr)
	}
	if _, err := os.Stat(jsonFile + "2"); !os.IsNotExist(err) {
		t.Errorf("a file of a run that was refused is there: %v", err)
	}
	if markdown, err := os.ReadFile(markdownFile); err != nil || string(markdown) != out {
		t.Errorf("the file of an earlier run is changed by one that was refused: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 3 {
		t.Errorf("beside the three files of the first run there are others: %v, %v", entries, err)
	}
	tables := query(t, postgres, pgx.RowTo[string], "SELECT tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')")
	if !slices.Equal(tables, []string{"precious"}) {
		t.Errorf("the database has the tables %q", tables)
	}
}

func TestBenchNamesWhatIsWrongWithItsCommandLine(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"everything"}, `no part "everything"; there are ways, flush,`},
		{[]string{"--seconds", "0"}, "allowed are 0.01 to 60"},
		{[]string{"--rounds", "0"}, "and 1 to 100"},
		{[]string{"--redis-url", "redis://localhost"}, "or neither"},
		{[]string{"--json", "/nowhere/at/all.json"}, "/nowhere/at/all.json"},
	} {
		status, _, stderr := runProgram(t, lab, nil, append([]string{"bench"}, c.args...)...)
		if status != 2 || !strings.Contains(stderr, c.says) {
			t.Errorf("%q: exit status %d, %s", c.args, status, stderr)
		}
	}
}
