package main

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func root(t *testing.T) string {
	t.Helper()
	dir, err := findRoot()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestEveryMutantCanStillBeMadeAndBuilt(t *testing.T) {
	all := mutants()
	check := newTypeChecker(t, root(t), all)
	for i := range all {
		m := &all[i]
		texts, err := m.apply(root(t))
		if err != nil {
			t.Error(err)
			continue
		}
		if err := check.changed(texts); err != nil {
			t.Errorf("mutant %s doesn't build: %v", m.name, err)
		}
	}
}

func TestEveryMutantIsOneOfItsKindAndNamesTestsThatThereAre(t *testing.T) {
	names := map[string]bool{}
	for _, m := range mutants() {
		if names[m.name] {
			t.Errorf("two mutants are called %s", m.name)
		}
		names[m.name] = true
		if m.guard == "" || len(m.edits) == 0 || len(m.tests) == 0 || strings.ContainsAny(m.name+m.guard, "|\n") {
			t.Errorf("mutant %s lacks something, or has what breaks a table", m.name)
		}
		for _, e := range m.edits {
			if e.old == e.new {
				t.Errorf("mutant %s changes nothing", m.name)
			}
		}
		for _, test := range m.tests {
			top, _, _ := strings.Cut(test, "/")
			if !slices.Contains(testNames(t, m.pkg), top) {
				t.Errorf("mutant %s: there is no %s in ./%s", m.name, top, m.pkg)
			}
		}
	}
}

var testFunc = regexp.MustCompile(`(?m)^func (Test\w+)\(`)

func testNames(t *testing.T, pkg string) (names []string) {
	t.Helper()
	files, _ := filepath.Glob(filepath.Join(root(t), pkg, "*_test.go")) // the pattern is well-formed
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range testFunc.FindAllStringSubmatch(string(text), -1) {
			names = append(names, found[1])
		}
	}
	return names
}

func TestTheDocumentedTableIsTheOneThatIsRun(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root(t), "docs", "mutants.md"))
	if err != nil {
		t.Fatal(err)
	}
	if string(text) != page(mutants()) {
		t.Error("docs/mutants.md is another one; write it with: go run ./internal/lab/mutants -table > docs/mutants.md")
	}
}

// quickTimeout is for tests that need no server.
const quickTimeout = 2 * time.Minute

func TestQuickMutantsAreCaught(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and tests the root package some times")
	}
	quick := slices.DeleteFunc(mutants(), func(m mutant) bool { return !m.quick })
	var out strings.Builder
	if err := runAll(t.Context(), &runner{root: root(t), timeout: quickTimeout}, quick, &out); err != nil || len(quick) == 0 {
		t.Errorf("%v\n%s", err, out.String())
	}
}

// A test of the test before it.
func TestMutantsThatNobodyNoticesOrThatDontBuildAreTold(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and tests the root package some times")
	}
	r := &runner{root: root(t), timeout: quickTimeout}
	for want, change := range map[verdict]string{survived: "// nobody minds\n", broken: "var unused = nothing\n"} {
		m := mutant{
			name: "made up", pkg: ".", tests: []string{"TestOutboxRefusesWhatDoesNotGoOnFromItsLastBatch"},
			edits: []edit{{"plan.go", "type plan struct {", change + "type plan struct {"}},
		}
		if j, err := r.try(t.Context(), &m); err != nil || j.verdict != want {
			t.Errorf("%s, %v; want %s\n%s", j.verdict, err, want, j.output)
		}
		m.edits[0].old = "no such text"
		if _, err := r.try(t.Context(), &m); !errors.Is(err, errNotOnce) {
			t.Errorf("a text that isn't there: %v", err)
		}
	}
}
