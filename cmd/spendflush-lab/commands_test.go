package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the help of both commands into docs/commands.md")

const (
	commandsPage = "../../docs/commands.md"
	helpBegins   = "<!-- what follows is made by: go test ./cmd/spendflush-lab -run TheHelpOnThePage -update -->\n"
	helpEnds     = "<!-- what the lab says ends here -->\n"
)

var names = []string{"bench", "demo"}

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
	var want strings.Builder
	for _, name := range names {
		var help bytes.Buffer
		p := &program{stdout: &help, stderr: &help}
		if status := p.run(t.Context(), []string{name, "--help"}); status != exitOK {
			t.Fatalf("%s --help: exit status %d", name, status)
		}
		want.WriteString("\n### " + name + "\n\n```text\n" + strings.TrimRight(help.String(), "\n") + "\n```\n")
	}
	want.WriteString("\n")
	switch {
	case is == want.String():
	case *update:
		if err := os.WriteFile(commandsPage, []byte(before+helpBegins+want.String()+helpEnds+after), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Fatalf("%s isn't what the program says: go test ./cmd/spendflush-lab -run TheHelpOnThePage -update", commandsPage)
	}
}

func TestEveryCommandHasExamplesAndExitStatuses(t *testing.T) {
	p := &program{}
	for _, name := range names {
		c, _, err := p.commands().Find([]string{name})
		if err != nil || c.Short == "" || !strings.Contains(c.Long, "Exit status: 0") {
			t.Fatalf("%s lacks a short text or its exit statuses: %v", name, err)
		}
		for line := range strings.Lines(p.commands().Example + "\n" + c.Example) {
			checkCall(t, name, line)
		}
	}
}

func TestEveryCommandThatTheTextsTellExists(t *testing.T) {
	spoken := regexp.MustCompile("`(spendflush-lab [a-z][^`|>]*)`")
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]bool{}
	for _, page := range append(pages, "../../README.md") {
		content, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range spoken.FindAllStringSubmatch(string(content), -1) {
			told[checkCall(t, page, match[1])] = true
		}
	}
	for _, name := range names {
		if !told[name] {
			t.Errorf("no page tells of %s", name)
		}
	}
}

// checkCall fails where a line calls the program with a command or flag that doesn't exist. It
// returns the command.
func checkCall(t *testing.T, where, line string) string {
	t.Helper()
	line, _, _ = strings.Cut(strings.TrimSpace(line), "#")
	args, found := strings.CutPrefix(line, "spendflush-lab ")
	if !found {
		t.Errorf("%s doesn't call the program: %s", where, line)
		return ""
	}
	c, rest, err := (&program{}).commands().Find(strings.Fields(args))
	if err == nil {
		err = c.ParseFlags(rest)
	}
	if err != nil || !c.Runnable() {
		t.Errorf("%s: %s: %v", where, line, err)
	}
	return c.Name()
}
