package spendflush

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What the README shows of embedding is part of a program that the tests run.
func TestTheCodeOfTheREADMEOnEmbeddingIsThatOfTheExample(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile("example_embedding_test.go")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)### In a service of your own.*?```go\n(.*?)```").FindSubmatch(readme)
	if block == nil {
		t.Fatal("the README has no code on embedding")
	}
	rest := string(example)
	for line := range strings.Lines(string(block[1])) {
		line = strings.TrimSpace(line)
		_, after, found := strings.Cut(rest, line)
		if !found {
			t.Errorf("the example doesn't have, behind the lines before: %s", line)
			continue
		}
		rest = after
	}
}

// goTestCommand is a call of go test in a document, up to what ends it: another command, the end of
// the code or of the line.
var goTestCommand = regexp.MustCompile("\\bgo (?:-C [a-z]+ )?test [^`&\n]*")

// A command whose pattern is of no test passes and shows nothing.
func TestCommandsOfTheDocumentsFindTheirTests(t *testing.T) {
	documents, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	records, err := filepath.Glob("docs/adr/*.md")
	if err != nil {
		t.Fatal(err)
	}
	commands := 0
	for _, name := range append(append(documents, records...), "README.md", "SECURITY.md", "CONTRIBUTING.md") {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, command := range goTestCommand.FindAllString(string(text), -1) {
			commands++
			checkTestCommand(t, name, command)
		}
	}
	if commands < 20 {
		t.Errorf("only %d commands are found: the test doesn't test what it says", commands)
	}
}

// checkTestCommand looks whether each alternative of the patterns of a command is one of a test in
// its packages.
func checkTestCommand(t *testing.T, document, command string) {
	t.Helper()
	dir, patterns, packages := ".", []string{}, []string{}
	words := strings.Fields(strings.NewReplacer("-run=", "-run ", "-bench=", "-bench ").Replace(command))
	for i, word := range words {
		before := words[max(i-1, 0)]
		switch {
		case before == "-C":
			dir = word
		case before == "-run", before == "-bench":
			patterns = append(patterns, strings.Trim(word, `'"`))
		case word == ".", strings.HasPrefix(word, "./"):
			packages = append(packages, word)
		}
	}
	if len(packages) == 0 {
		packages = []string{"."}
	}
	declared := ""
	for _, pkg := range packages {
		if dir == "." && strings.HasPrefix(pkg, "./integration") && len(patterns) > 0 {
			t.Errorf("%s: %s: integration is a module of its own", document, command)
		}
		declared += testsBelow(t, dir, pkg)
	}
	for _, pattern := range patterns {
		if pattern == "^$" {
			continue // nothing, so that benchmarks alone are run
		}
		for one := range strings.SplitSeq(pattern, "|") {
			one, _, _ = strings.Cut(one, "/") // what follows is of subtests
			if found, err := regexp.MatchString(`(?m)^\w*`+one, declared); err != nil || !found {
				t.Errorf("%s: %s: no test there is %s", document, command, one)
			}
		}
	}
}

var testDeclared = regexp.MustCompile(`(?m)^func ((?:Test|Benchmark|Fuzz|Example)\w*)\(`)

// testsBelow returns the names of the tests of a package, a line each, or of all packages below if
// its name ends with dots.
func testsBelow(t *testing.T, dir, pkg string) (names string) {
	t.Helper()
	root, all := strings.CutSuffix(pkg, "...")
	root = filepath.Join(dir, root)
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && !all && path != root {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		source, err := os.ReadFile(path)
		for _, declared := range testDeclared.FindAllSubmatch(source, -1) {
			names += string(declared[1]) + "\n"
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return names
}
