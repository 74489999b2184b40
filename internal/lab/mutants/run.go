package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// runner runs the tests of mutants. The files of the module stay as they are: go builds with an
// overlay, which it honours for embedded files too.
type runner struct {
	root    string
	timeout time.Duration // for the tests of one mutant; building comes on top
}

// buildTime is what go may take, on top of the timeout, to build a mutant and its tests.
const buildTime = 5 * time.Minute

// unchangedTime is for the tests of all mutants of a package together, on the program as it is.
const unchangedTime = 20 * time.Minute

// try builds the mutant and runs the tests that must catch it. An error is one of the mutant or of
// this machine.
func (r *runner) try(ctx context.Context, m *mutant) (classified, error) {
	dir, err := os.MkdirTemp("", "spendflush-mutant-")
	if err != nil {
		return classified{verdict: untried}, err
	}
	defer os.RemoveAll(dir)
	overlay, err := r.writeOverlay(dir, m)
	if err != nil {
		return classified{verdict: untried}, err
	}
	return r.test(ctx, r.timeout, m.pkg, m.tests, "-overlay", overlay)
}

// unchanged runs tests on the program as it is.
func (r *runner) unchanged(ctx context.Context, pkg string, tests []string) (classified, error) {
	return r.test(ctx, unchangedTime, pkg, tests)
}

func (r *runner) test(ctx context.Context, timeout time.Duration, pkg string, tests []string, flags ...string) (classified, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout+buildTime)
	defer cancel()
	args := append([]string{"test", "-json", "-count=1", "-vet=off", "-timeout", timeout.String()}, flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, "-run", pattern(tests), "./"+pkg)...)
	cmd.Dir = r.root
	cmd.WaitDelay = 10 * time.Second
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // go test ends what it has started
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	failed := cmd.Run()
	t, err := read(&stdout)
	t.output.Write(stderr.Bytes())
	j := t.classify(tests)
	if ctx.Err() != nil {
		j.verdict, err = untried, context.Cause(ctx)
	} else if failed != nil && !t.packageFail {
		j.verdict, err = untried, fmt.Errorf("go test: %w", failed)
	}
	return j, err
}

// pattern is the -run pattern for exactly these tests, with all subtests of those of which one is
// named.
func pattern(tests []string) string {
	var names []string
	for _, test := range tests {
		top, _, _ := strings.Cut(test, "/")
		names = append(names, regexp.QuoteMeta(top))
	}
	slices.Sort(names)
	return "^(" + strings.Join(slices.Compact(names), "|") + ")$"
}

// writeOverlay writes the changed files and what go's -overlay flag wants to know of them.
func (r *runner) writeOverlay(dir string, m *mutant) (string, error) {
	texts, err := m.apply(r.root)
	if err != nil {
		return "", err
	}
	replace := map[string]string{}
	for file, text := range texts {
		changed := filepath.Join(dir, fmt.Sprint(len(replace), filepath.Ext(file)))
		if err := os.WriteFile(changed, []byte(text), 0o600); err != nil {
			return "", err
		}
		replace[filepath.Join(r.root, filepath.FromSlash(file))] = changed
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, overlay, 0o600)
}
