package main

import (
	"fmt"
	"strings"
)

const pageHead = `# Guards, and the tests that fail without them

The books are exact because of many small guards. Each row below is the program with one of them switched off, and the
tests of which at least one fails then. ` + "`make mutants`" + ` builds and runs them all and fails if one goes unnoticed;
` + "`make test`" + ` checks that each can still be made and runs the quick ones (marked *).

This page is written by ` + "`go run ./internal/lab/mutants -table > docs/mutants.md`" + `.

| without | the guard, and what it is for | in | caught by |
|---|---|---|---|
`

// page returns docs/mutants.md.
func page(all []mutant) string {
	var b strings.Builder
	b.WriteString(pageHead)
	for i := range all {
		m := &all[i]
		mark := ""
		if m.quick {
			mark = " *"
		}
		var tests []string
		for _, test := range m.tests {
			tests = append(tests, "`"+test+"`")
		}
		fmt.Fprintf(&b, "| %s%s | %s | `%s` | %s |\n", m.name, mark, m.guard, m.edits[0].file, strings.Join(tests, ", "))
	}
	fmt.Fprintf(&b, "\n%d in all.\n", len(all))
	return b.String()
}
