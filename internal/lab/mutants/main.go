// Command mutants tests the tests: it switches the guards off that exact books rest on, one at a
// time, and runs the tests that must notice. No file of the module is changed.
//
//	go run ./internal/lab/mutants                  all of them, some minutes; needs what the tests need
//	go run ./internal/lab/mutants -run 'claim'     those whose name matches
//	go run ./internal/lab/mutants -table           the page docs/mutants.md
//
// It exits with 1 if a mutant survives, if another test than one of those named fails, or if a
// mutant can't be made any more: its text isn't found exactly once, or it doesn't compile. The
// table is in engine.go, sums.go, sqlbooks.go and redis.go.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("mutants", flag.ExitOnError)
	only := flags.String("run", "", "only the mutants whose name matches this regular expression")
	timeout := flags.Duration("timeout", 2*time.Minute, "for the tests of one mutant")
	table := flags.Bool("table", false, "print docs/mutants.md and run nothing")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *table {
		_, err := io.WriteString(out, page(mutants()))
		return err
	}
	matching, err := regexp.Compile(*only)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	root, err := findRoot()
	if err != nil {
		return err
	}
	chosen := slices.DeleteFunc(mutants(), func(m mutant) bool { return !matching.MatchString(m.name) })
	if len(chosen) == 0 {
		return fmt.Errorf("-run: no mutant's name matches %q", *only)
	}
	return runAll(ctx, &runner{root: root, timeout: *timeout}, chosen, out)
}

// runAll runs the tests on the program as it is, which must pass, and then on each mutant.
func runAll(ctx context.Context, r *runner, chosen []mutant, out io.Writer) error {
	for _, pkg := range packages(chosen) {
		tests := testsOf(chosen, pkg)
		fmt.Fprintf(out, "%d tests of ./%s on the program as it is ... ", len(tests), pkg)
		start := time.Now()
		j, err := r.unchanged(ctx, pkg, tests)
		if err != nil || j.verdict != survived {
			fmt.Fprintf(out, "\n%s", j.output)
			return fmt.Errorf("without a mutant the tests of ./%s must pass: failed: %v, verdict: %s, %v", pkg, j.failed, j.verdict, err)
		}
		fmt.Fprintf(out, "pass (%.1f s)\n", time.Since(start).Seconds())
	}
	var rows, wrong []string
	for i := range chosen {
		m := &chosen[i]
		fmt.Fprintf(out, "[%d/%d] %s ... ", i+1, len(chosen), m.name)
		start := time.Now()
		j, err := r.try(ctx, m)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		seconds := time.Since(start).Seconds()
		fmt.Fprintf(out, "%s (%.1f s)\n", j.verdict, seconds)
		if len(j.passed) > 0 && j.verdict == caught {
			fmt.Fprintf(out, "    and passed: %s\n", strings.Join(j.passed, ", "))
		}
		if err != nil || j.verdict != caught {
			wrong = append(wrong, m.name)
			fmt.Fprintf(out, "    expected to fail: %s\n", strings.Join(m.tests, ", "))
			if err != nil {
				fmt.Fprintf(out, "    %v\n", err)
			}
			fmt.Fprint(out, indent(j.output))
		}
		rows = append(rows, fmt.Sprintf("| %s | %s | %s | %s | %.1f |", m.name, m.guard, j.verdict, strings.Join(j.failed, ", "), seconds))
	}
	fmt.Fprintf(out, "\n| mutant | guard | verdict | by | seconds |\n|---|---|---|---|---|\n%s\n\n", strings.Join(rows, "\n"))
	if len(wrong) > 0 {
		return fmt.Errorf("%d of %d mutants aren't caught: %s", len(wrong), len(chosen), strings.Join(wrong, "; "))
	}
	fmt.Fprintf(out, "all %d mutants are caught\n", len(chosen))
	return nil
}

// indent returns the end of what go test said, set apart.
func indent(output string) string {
	const most = 40
	lines := slices.Collect(strings.Lines(output))
	var b strings.Builder
	for _, line := range lines[max(0, len(lines)-most):] {
		b.WriteString("    | " + line)
	}
	return b.String()
}

func packages(all []mutant) (list []string) {
	for i := range all {
		list = append(list, all[i].pkg)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

func testsOf(all []mutant, pkg string) (list []string) {
	for i := range all {
		if all[i].pkg == pkg {
			list = append(list, all[i].tests...)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}
