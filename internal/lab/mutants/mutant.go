package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// mutant is the program with one guard switched off.
type mutant struct {
	name  string
	guard string // the guard, and what goes wrong without it: one sentence for docs/mutants.md
	edits []edit // all files are in one package
	pkg   string // whose tests must notice: a directory below the module's root, "." for the root itself
	tests []string
	quick bool // "make test" runs it too
}

// edit replaces a text that is found exactly once in a file. Texts are kept short, so that changes
// nearby leave them alone.
type edit struct {
	file     string // below the module's root, with slashes
	old, new string
}

var errNotOnce = errors.New("the text to replace isn't found exactly once")

// mutants is the whole table, part by part.
func mutants() []mutant {
	var all []mutant
	for _, part := range [][]mutant{engineMutants, laneMutants, lossMutants, rangeMutants, sumMutants, rollupMutants, sqlMutants, factMutants, redisMutants, booksMutants, accessMutants, neighbourMutants, serviceMutants, traceMutants, memoryMutants, reportMutants} {
		all = append(all, part...)
	}
	return all
}

// apply returns the changed texts by file.
func (m *mutant) apply(root string) (map[string]string, error) {
	texts := map[string]string{}
	for _, e := range m.edits {
		text, ok := texts[e.file]
		if !ok {
			read, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(e.file)))
			if err != nil {
				return nil, fmt.Errorf("mutant %s: %w", m.name, err)
			}
			text = string(read)
		}
		if n := strings.Count(text, e.old); n != 1 {
			return nil, fmt.Errorf("mutant %s: %w: %d times in %s: %q", m.name, errNotOnce, n, e.file, e.old)
		}
		texts[e.file] = strings.Replace(text, e.old, e.new, 1)
	}
	return texts, nil
}

// findRoot returns the directory of the module that the working directory is in.
func findRoot() (string, error) {
	dir, err := os.Getwd()
	for err == nil {
		if _, missing := os.Stat(filepath.Join(dir, "go.mod")); missing == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("no go.mod in this directory or above: run it inside the module")
		}
		dir = filepath.Dir(dir)
	}
	return "", err
}
