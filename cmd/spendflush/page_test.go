package main

import (
	"bytes"
	"encoding"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spendflush/spendflush/internal/overview"
	"github.com/spendflush/spendflush/internal/quarantine"
	"github.com/spendflush/spendflush/migrations"
	"github.com/spendflush/spendflush/sql/pgstore"
)

var update = flag.Bool("update", false, "write the help of all commands into docs/commands.md")

const (
	commandsPage = "../../docs/commands.md"
	helpBegins   = "<!-- what follows is made by: go test ./cmd/spendflush -run TheHelpOnThePage -update -->\n"
	helpEnds     = "<!-- what was made ends here -->\n"
)

func TestTheHelpOnThePageIsThatOfTheProgram(t *testing.T) {
	content, err := os.ReadFile(commandsPage)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(content), helpBegins)
	is, after, foundEnd := strings.Cut(rest, helpEnds)
	if !found || !foundEnd {
		t.Fatalf("the page lacks the lines %s%s", helpBegins, helpEnds)
	}
	want := helpOfAll(t)
	if is == want {
		return
	}
	if !*update {
		t.Fatalf("%s isn't what the program says: go test ./cmd/spendflush -run TheHelpOnThePage -update", commandsPage)
	}
	if err := os.WriteFile(commandsPage, []byte(before+helpBegins+want+helpEnds+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// helpOfAll is the help of every command under a heading of its own.
func helpOfAll(t *testing.T) string {
	t.Helper()
	var text strings.Builder
	all := everyCommand()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		var help bytes.Buffer
		p := &program{stdout: &help, stderr: &help}
		if status := p.run(t.Context(), append(strings.Fields(name), "--help")); status != exitOK {
			t.Fatalf("%s --help: exit status %d", name, status)
		}
		text.WriteString("\n## " + name + "\n\n```text\n" + strings.TrimRight(help.String(), "\n") + "\n```\n")
	}
	return text.String() + "\n"
}

// answers are what commands print with --json, by their headings on the page.
var answers = map[string]reflect.Type{
	"status --json":          reflect.TypeFor[overview.Report](),
	"books --json":           reflect.TypeFor[booksJSON](),
	"audit --json":           reflect.TypeFor[pgstore.AuditReport](),
	"migrate status --json":  reflect.TypeFor[[]migrations.Migration](),
	"quarantine list --json": reflect.TypeFor[quarantine.Entry](),
	"quarantine show --json": reflect.TypeFor[quarantine.ViewJSON](),
	"quarantine apply --json, quarantine drop --json": reflect.TypeFor[quarantine.Outcome](),
}

func TestThePageHasEveryFieldOfEveryAnswerAndNoOther(t *testing.T) {
	sections := fieldsOnThePage(t)
	maps.Copy(sections["quarantine show --json"], sections["quarantine list --json"]) // it says so
	for name, of := range answers {
		is, want := sections[name], fields("", of)
		for field := range want {
			if !is[field] {
				t.Errorf("%s: %s isn't on the page", name, field)
			}
		}
		for field := range is {
			if !want[field] {
				t.Errorf("%s: %s is on the page, but not in the answer", name, field)
			}
		}
		delete(sections, name)
	}
	if len(sections) > 0 {
		t.Errorf("the page has answers of nobody: %v", slices.Collect(maps.Keys(sections)))
	}
	for name, c := range everyCommand() {
		_, documented := answers[name+" --json"]
		inPair := strings.HasPrefix(name, "quarantine apply") || strings.HasPrefix(name, "quarantine drop")
		asJSON := c.Flags().Lookup("json")
		if asJSON != nil && asJSON.Value.Type() == "bool" && !documented && !inPair {
			t.Errorf("%s: what --json prints isn't on the page", name)
		}
	}
}

// fieldsOnThePage reads the tables under the heading JSON: the path before each field, and in code
// the fields.
func fieldsOnThePage(t *testing.T) map[string]map[string]bool {
	t.Helper()
	content, err := os.ReadFile(commandsPage)
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(content), "\n## JSON\n")
	code := regexp.MustCompile("`([^`]+)`")
	sections := map[string]map[string]bool{}
	var section map[string]bool
	for line := range strings.Lines(text) {
		if heading, found := strings.CutPrefix(line, "### "); found {
			section = map[string]bool{}
			sections[strings.TrimSpace(heading)] = section
		}
		cells := strings.Split(line, "|")
		if len(cells) != 4 {
			continue
		}
		prefix := ""
		if in := code.FindStringSubmatch(cells[1]); in != nil {
			prefix = in[1] + "."
		}
		for _, field := range code.FindAllStringSubmatch(cells[2], -1) {
			section[prefix+field[1]] = true
		}
	}
	return sections
}

// spoken finds commands that a text tells people to run.
var spoken = regexp.MustCompile("[`\"](?:[A-Z_]+=\\S+ )*spendflush ([a-z][^`\"|>]*)[`\"]")

func TestTheReadmeNamesEveryCommand(t *testing.T) {
	content, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(content), "\n## Commands\n")
	table, _, _ := strings.Cut(rest, "\n## ")
	for name := range everyCommand() {
		if !strings.Contains(name, " ") && name != "help" && !strings.Contains(table, "`"+name) {
			t.Errorf("%s isn't in the table", name)
		}
	}
}

func TestEveryCommandThatTheTextsTellExists(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, page := range append(pages, "../../README.md") {
		content, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range spoken.FindAllStringSubmatch(string(content), -1) {
			found++
			args := strings.Fields(match[1])
			c, rest, err := (&program{}).commands().Find(args)
			if err == nil {
				c.InitDefaultHelpFlag()
				err = c.ParseFlags(rest)
			}
			if err != nil {
				t.Errorf("%s: %s: %v", page, match[0], err)
			}
		}
	}
	if found < 20 {
		t.Errorf("only %d are found: the test doesn't test what it says", found)
	}
}

// fields returns the paths of all that the JSON of a type may have.
func fields(path string, of reflect.Type) map[string]bool {
	_, isJSON := reflect.Zero(of).Interface().(json.Marshaler)
	_, isText := reflect.Zero(of).Interface().(encoding.TextMarshaler)
	all := map[string]bool{}
	switch {
	case of.Kind() == reflect.Pointer:
		return fields(path, of.Elem())
	case of.Kind() == reflect.Slice && !isJSON:
		return fields(path+"[]", of.Elem())
	case of.Kind() != reflect.Struct || isJSON || isText:
		all[path] = true
		return all
	}
	for i := range of.NumField() {
		f := of.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			maps.Copy(all, fields(path, f.Type))
		case name != "-" && f.IsExported():
			maps.Copy(all, fields(strings.TrimPrefix(path+"."+name, "."), f.Type))
		}
	}
	return all
}
