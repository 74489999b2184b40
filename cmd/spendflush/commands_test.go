package main

import (
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// everyCommand returns the program's commands by their paths, the program's name left out.
func everyCommand() map[string]*cobra.Command {
	all := map[string]*cobra.Command{}
	var add func(c *cobra.Command, path string)
	add = func(c *cobra.Command, path string) {
		for _, inner := range c.Commands() {
			name := strings.TrimSpace(path + " " + inner.Name())
			all[name] = inner
			add(inner, name)
		}
	}
	p := &program{stdout: io.Discard, stderr: io.Discard}
	add(p.commands(), "")
	return all
}

func TestEveryCommandHasHelpWithExamplesAndExitStatuses(t *testing.T) {
	for name, c := range everyCommand() {
		if c.Short == "" || c.Example == "" || !strings.Contains(c.Long, "Exit status: 0") {
			t.Errorf("%s: lacks a short text, an example or its exit statuses:\n%s", name, c.Long)
		}
		for example := range strings.Lines(c.Example) {
			checkExample(t, example)
		}
		checkLines(t, name, c.Long)
	}
	for example := range strings.Lines((&program{}).commands().Example) {
		checkExample(t, example)
	}
}

func checkLines(t *testing.T, name, text string) {
	for line := range strings.Lines(text) {
		if len([]rune(line)) > 130 {
			t.Errorf("%s: a line is too long: %s", name, line)
		}
	}
}

var called = regexp.MustCompile(`(?:^|[ (])spendflush((?: [^ #|>)]+)+)`)

// checkExample fails where a line calls the program with a command or flag that doesn't exist.
func checkExample(t *testing.T, line string) {
	t.Helper()
	found := called.FindStringSubmatch(strings.TrimSpace(line))
	if found == nil {
		t.Errorf("the example doesn't call the program: %s", line)
		return
	}
	args := strings.Fields(found[1])
	c, rest, err := (&program{stdout: io.Discard}).commands().Find(args)
	if err != nil || c.HasSubCommands() && c.Name() != "books" { // which says something by itself
		t.Errorf("the example calls no command: %s: %v", line, err)
		return
	}
	if err := c.ParseFlags(rest); err != nil {
		t.Errorf("%s: %v", line, err)
		return
	}
	if err := c.ValidateArgs(c.Flags().Args()); err != nil {
		t.Errorf("%s: %v", line, err)
	}
}
