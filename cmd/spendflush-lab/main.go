// Command spendflush-lab shows what spendflush does: it measures it against other ways of booking
// the same traffic, and runs ten instances of it through faults and compares the books. It is
// evidence and no part of a service: nothing of it is in the program that serves.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

// Exit statuses, as `spendflush-lab help` documents them.
const (
	exitOK     = 0
	exitFailed = 1 // the work failed, or the books are wrong
	exitUsage  = 2 // wrong command line or settings: nothing was measured or shown
)

// version is set when the program is linked.
var version = ""

func main() {
	p := &program{environ: os.Environ(), stdout: os.Stdout, stderr: os.Stderr}
	os.Exit(p.run(context.Background(), os.Args[1:]))
}

// program is what main runs, with all that it takes from the process.
type program struct {
	environ        []string
	stdout, stderr io.Writer
}

// usageError is about the command line, the settings, or a database that may not be used.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// errSilent ends the program with exitFailed after all was said.
var errSilent = errors.New("")

func (p *program) run(ctx context.Context, args []string) int {
	root := p.commands()
	root.SetArgs(args)
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if err != errSilent {
		fmt.Fprintf(p.stderr, "spendflush-lab: %v\n", err)
	}
	var usage usageError
	if errors.As(err, &usage) || strings.HasPrefix(err.Error(), "unknown command") {
		return exitUsage
	}
	return exitFailed
}

func (p *program) commands() *cobra.Command {
	root := &cobra.Command{
		Use:   "spendflush-lab",
		Short: "Measure spendflush, and watch it survive",
		Long: `spendflush-lab shows what spendflush does, on a private Postgres and Redis that are gone afterwards.

Exit status of every command: 0 done; 1 failed, or the books are wrong; 2 wrong usage or settings.`,
		Example: `  spendflush-lab demo                # watch it survive
  spendflush-lab bench               # measure it beside other ways`,
		Version:       programVersion(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(p.benchCommand(), p.demoCommand())
	root.CompletionOptions.HiddenDefaultCmd = true
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	return root
}

func programVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "unknown"
}
