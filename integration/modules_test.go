package integration

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// goTool runs go in a directory and returns what it prints.
func goTool(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s in %s: %v", strings.Join(args, " "), dir, err)
	}
	return string(out)
}

// requirement is a line of go.mod.
type requirement struct {
	Path, Version string
	Indirect      bool
}

func requirements(t *testing.T, dir string) []requirement {
	t.Helper()
	var module struct{ Require []requirement }
	if err := json.Unmarshal([]byte(goTool(t, dir, "mod", "edit", "-json")), &module); err != nil {
		t.Fatal(err)
	}
	return module.Require
}

// What go.mod requires reaches everybody who requires this module: each has its reason in
// docs/design.md, and none of those of the integration tests is among them.
func TestEveryRequirementHasItsReason(t *testing.T) {
	t.Parallel()
	_, table, _ := strings.Cut(readText(t, "../docs/design.md"), "\n## Direct dependencies, and why\n")
	of := map[string][]string{}
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) != 4 {
			continue
		}
		dir := ".."
		if strings.Contains(cells[1], "integration's own") {
			dir = "."
		}
		of[dir] = append(of[dir], captures("`([a-z0-9]+\\.[a-z0-9.]+/[^`]+)`", cells[1])...)
	}
	versions := map[string]string{}
	for _, dir := range []string{"..", "."} {
		var direct []string
		for _, r := range requirements(t, dir) {
			if earlier := versions[r.Path]; earlier != "" && earlier != r.Version {
				t.Errorf("integration/go.mod has %s in %s, and go.mod in %s: the tests run on other code than the users'", r.Path, r.Version, earlier)
			}
			if versions[r.Path] == "" && !r.Indirect && r.Path != "github.com/spendflush/spendflush" {
				direct = append(direct, r.Path)
			}
			versions[r.Path] = r.Version
		}
		slices.Sort(direct)
		slices.Sort(of[dir])
		if !slices.Equal(direct, of[dir]) || len(direct) == 0 {
			t.Errorf("%s/go.mod requires %q; docs/design.md has reasons for %q", dir, direct, of[dir])
		}
	}
}

func TestNoPackageOfTheProductImportsTheLab(t *testing.T) {
	t.Parallel()
	const lab = "github.com/spendflush/spendflush/internal/lab/"
	product, evidence := 0, 0
	for line := range strings.Lines(goTool(t, "..", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "./...")) {
		name, imports, _ := strings.Cut(strings.TrimSpace(line), " ")
		if strings.HasPrefix(name, lab) || strings.HasSuffix(name, "/cmd/spendflush-lab") {
			evidence++
			continue
		}
		product++
		for imported := range strings.FieldsSeq(imports) {
			if strings.HasPrefix(imported, lab) {
				t.Errorf("%s imports %s", name, imported)
			}
		}
	}
	if product < 10 || evidence < 5 {
		t.Errorf("%d packages of the product and %d of the lab: the test doesn't test what it says", product, evidence)
	}
}

// Who embeds the library compiles nothing of OpenTelemetry, as docs/adr/0021-traces.md says.
func TestWhoEmbedsTheLibraryCompilesNoOpenTelemetry(t *testing.T) {
	t.Parallel()
	var public []string
	for name := range strings.Lines(goTool(t, "..", "list", "./...")) {
		if name = strings.TrimSpace(name); !strings.Contains(name, "/internal/") && !strings.Contains(name, "/cmd/") {
			public = append(public, name)
		}
	}
	needed := goTool(t, "..", append([]string{"list", "-deps"}, public...)...)
	for name := range strings.Lines(needed) {
		if strings.HasPrefix(name, "go.opentelemetry.io/") {
			t.Errorf("a public package needs %s", name)
		}
	}
	if len(public) < 5 || !strings.Contains(needed, "github.com/jackc/pgx/v5\n") {
		t.Errorf("%q need %d packages: the test doesn't test what it says", public, strings.Count(needed, "\n"))
	}
}
