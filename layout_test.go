package spendflush_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/spendflush/spendflush"

// layoutRow is a row of the map of the packages in docs/design.md.
type layoutRow struct {
	packages []string // patterns as of path.Match, "." for the root
	imports  []string // of the module, likewise
	all      bool     // it may import whatever it likes
}

var quoted = regexp.MustCompile("`([^`]+)`")

func layout(t *testing.T) (rows []layoutRow) {
	t.Helper()
	text, err := os.ReadFile("docs/design.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "## Map of the packages\n")
	section, _, closed := strings.Cut(section, "\n## ")
	if !found || !closed {
		t.Fatal("docs/design.md has no map of the packages")
	}
	names := func(cell string) (all []string) {
		for _, match := range quoted.FindAllStringSubmatch(cell, -1) {
			all = append(all, match[1])
		}
		return all
	}
	for line := range strings.Lines(section) {
		cells := strings.Split(line, "|")
		if len(cells) != 5 || len(names(cells[1])) == 0 {
			continue
		}
		rows = append(rows, layoutRow{names(cells[1]), names(cells[3]), strings.TrimSpace(cells[3]) == "all"})
	}
	return rows
}

func matches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		is, err := path.Match(pattern, name)
		return is && err == nil
	})
}

// moduleImports returns which packages of the module the package in a folder imports outside of its
// tests.
func moduleImports(t *testing.T, dir string) (imports []string, isPackage bool) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		isPackage = true
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range parsed.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if imported == module {
				imports = append(imports, ".")
			} else if of, ok := strings.CutPrefix(imported, module+"/"); ok {
				imports = append(imports, of)
			}
		}
	}
	return imports, isPackage
}

func TestImportsAreThoseOfTheMap(t *testing.T) {
	rows := layout(t)
	seen := 0
	err := filepath.WalkDir(".", func(dir string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		if name := entry.Name(); dir != "." && (strings.HasPrefix(name, ".") || name == "testdata" || dir == "integration" || dir == "bin" || dir == "dist") {
			return filepath.SkipDir
		}
		imports, isPackage := moduleImports(t, dir)
		if !isPackage {
			return nil
		}
		seen++
		at := slices.IndexFunc(rows, func(r layoutRow) bool { return matches(r.packages, filepath.ToSlash(dir)) })
		if at < 0 {
			t.Errorf("package %s isn't in the map of docs/design.md", dir)
			return nil
		}
		for _, imported := range imports {
			if !rows[at].all && !matches(rows[at].imports, imported) {
				t.Errorf("package %s imports %s; allowed are %s", dir, imported, strings.Join(rows[at].imports, ", "))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) < 10 || seen < 20 {
		t.Errorf("%d rows and %d packages were found", len(rows), seen)
	}
}
