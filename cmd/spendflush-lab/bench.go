package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/spendflush/spendflush/internal/lab/bench"
	"github.com/spendflush/spendflush/internal/terminal"
)

func (p *program) benchCommand() *cobra.Command {
	var o bench.Options
	var seconds float64
	var files benchFiles
	names, abouts := bench.Parts()
	var list strings.Builder
	for i := range names {
		fmt.Fprintf(&list, "  %-10s %s\n", names[i], abouts[i])
	}
	c := &cobra.Command{
		Use: "bench [PART...]", Short: "Measure spendflush against other ways of booking the same traffic, and its parts",
		Long: `Measure spendflush against other ways of booking the same traffic, and its parts by themselves. What is compared is
measured in turns, and the ratios are made round by round, so that they hold on a noisy machine too. The parts:

` + list.String() + `
A private Postgres and Redis are started, and are gone at the end. With --database-url and --redis-url those are used: only
if they hold nothing at all, and they hold nothing afterwards. DATABASE_URL and REDIS_URL don't count here.

The tables go to standard output as Markdown. All parts take about twenty-five minutes.

Exit status: 0 measured, 1 something failed or the books were wrong, 2 wrong usage, or a database that holds something.`,
		Example: `  spendflush-lab bench
  spendflush-lab bench flush record --rounds 5
  spendflush-lab bench --json bench.json --markdown docs/benchmarks.md
  spendflush-lab bench ways --cpuprofile cpu.prof`,
		ValidArgs: names,
		RunE: func(c *cobra.Command, args []string) error {
			o.Parts, o.Duration = args, time.Duration(seconds*float64(time.Second))
			if o.Duration == 0 || o.Rounds == 0 { // which stand for defaults in the options, but not here
				o.Rounds = -1
			}
			return p.bench(c.Context(), o, c.Flags().Changed, files)
		},
	}
	c.Flags().Float64Var(&seconds, "seconds", 3, "how long one measurement takes, 0.01 to 60")
	c.Flags().IntVar(&o.Rounds, "rounds", 3, "how often each is made, 1 to 100")
	c.Flags().IntVar(&o.IDs, "ids", 0, "how many ids are in the window where the part ids has many, up to 1000000000 (default 3000000, 20000 with --quick)")
	c.Flags().IntVar(&o.Days, "days", 0, "how many days before today the rollups have where the part years reads them, up to 4000 (default 40, 3 with --quick)")
	c.Flags().BoolVar(&o.Quick, "quick", false, "fewer keys, one round of 0.2 s: to see that everything runs, not to learn from")
	c.Flags().StringVar(&o.DatabaseURL, "database-url", "", "a Postgres database that holds nothing")
	c.Flags().StringVar(&o.RedisURL, "redis-url", "", "a Redis that holds nothing")
	c.Flags().StringVar(&files.json, "json", "", "file that gets all numbers as JSON")
	c.Flags().StringVar(&files.markdown, "markdown", "", "file that gets the tables, beside standard output")
	c.Flags().StringVar(&files.profile, "cpuprofile", "", "file that gets a CPU profile for go tool pprof, in which each measurement has its name as label \"measured\"")
	for flag, extension := range map[string]string{"json": "json", "markdown": "md", "cpuprofile": "prof"} {
		if err := c.MarkFlagFilename(flag, extension); err != nil {
			panic("spendflush-lab: " + err.Error()) // there is no such flag
		}
	}
	return c
}

// benchFiles are the names of the files that a run writes, empty where it doesn't.
type benchFiles struct{ json, markdown, profile string }

func (p *program) bench(ctx context.Context, o bench.Options, changed func(flag string) bool, names benchFiles) error {
	if o.Quick && !changed("seconds") {
		o.Duration = 200 * time.Millisecond
	}
	if o.Quick && !changed("rounds") {
		o.Rounds = 1
	}
	if err := o.Validate(); err != nil {
		return usageError{err}
	}
	o.Version, o.Command = programVersion(), benchLine(o)
	files, err := openResults(names.json, names.markdown, names.profile)
	if err != nil {
		return usageError{err}
	}
	defer files.discard()
	out := terminal.New(p.stderr, p.environ)
	progress := out.Progress("bench", "measurements", 0)
	last := ""
	o.Progress = func(done, total int, next string) {
		progress.Set(int64(done), int64(total))
		if !out.Redraws() && next != last {
			last = next
			out.Print(fmt.Sprintf("%d of %d: %s", done, total, next))
		}
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	report, err := profiled(files[names.profile], func() (*bench.Report, error) { return bench.Run(ctx, o) })
	progress.End()
	if err != nil {
		if _, ok := errors.AsType[*bench.NotEmptyError](err); ok {
			return usageError{err}
		}
		return err
	}
	if err := report.WriteMarkdown(p.stdout); err != nil {
		return err
	}
	return errors.Join(files.keep(names.json, report.WriteJSON), files.keep(names.markdown, report.WriteMarkdown),
		files.keep(names.profile, func(io.Writer) error { return nil })) // which is written already
}

// profiled has the CPU profile of what it runs written to the file, if there is one.
func profiled(to *os.File, run func() (*bench.Report, error)) (*bench.Report, error) {
	if to == nil {
		return run()
	}
	if err := pprof.StartCPUProfile(to); err != nil {
		return nil, err
	}
	defer pprof.StopCPUProfile()
	return run()
}

// benchLine is the command that measures the same again. It shows no URL, which may have a
// password.
func benchLine(o bench.Options) string {
	line := append([]string{"spendflush-lab bench"}, o.Parts...)
	if o.Quick {
		line = append(line, "--quick")
	}
	line = append(line, fmt.Sprintf("--seconds %g --rounds %d", o.Duration.Seconds(), o.Rounds))
	if o.DatabaseURL != "" {
		line = append(line, "--database-url … --redis-url …")
	}
	return strings.Join(line, " ")
}

// results are files being written, by the names that they get at the end: until then what is there
// under these names stays.
type results map[string]*os.File

// openResults opens files for the names that aren't empty: now, rather than to fail after a quarter
// of an hour.
func openResults(names ...string) (results, error) {
	r := results{}
	for _, name := range names {
		if name == "" {
			continue
		}
		f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*")
		if err != nil {
			r.discard()
			return nil, fmt.Errorf("%s can't be written: %w", name, err)
		}
		r[name] = f
	}
	return r, nil
}

// keep writes the file and gives it its name, if it has one.
func (r results) keep(name string, write func(io.Writer) error) error {
	f := r[name]
	if f == nil {
		return nil
	}
	if err := errors.Join(write(f), f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	delete(r, name)
	return nil
}

// discard removes what wasn't kept.
func (r results) discard() {
	for _, f := range r {
		_ = f.Close() // it may be closed
		_ = os.Remove(f.Name())
	}
}
