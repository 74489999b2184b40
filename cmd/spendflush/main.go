// Command spendflush books spend exactly: it runs an instance, migrates the database, and shows how
// things stand. `spendflush help` lists the commands; docs/design.md in its repository says how it
// works.
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

// Exit statuses, as `spendflush help` documents them.
const (
	exitOK     = 0
	exitFailed = 1 // the work failed, or an audit found a fault
	exitUsage  = 2 // wrong command line or settings: nothing was tried
)

// version is set when a release is linked.
var version = ""

func main() {
	p := &program{environ: os.Environ(), stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	os.Exit(p.run(context.Background(), os.Args[1:]))
}

// program is what main runs, with all that it takes from the process.
type program struct {
	environ        []string
	stdin          io.Reader
	stdout, stderr io.Writer
}

// usageError is about the command line or the settings.
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
	var usage usageError
	switch {
	case err == nil:
		return exitOK
	case err == errSilent:
		return exitFailed
	case errors.As(err, &usage) || strings.HasPrefix(err.Error(), "unknown command"):
		fmt.Fprintf(p.stderr, "spendflush: %v\n", err)
		return exitUsage
	default:
		fmt.Fprintf(p.stderr, "spendflush: %v\n", err)
		return exitFailed
	}
}

func (p *program) commands() *cobra.Command {
	root := &cobra.Command{
		Use:   "spendflush",
		Short: "Book spend exactly, from many instances, at the speed of the database",
		Long: `spendflush sums up what requests cost in memory, queues the sums in Redis, and lets
one instance at a time commit them to Postgres. Every accepted update counts once.

Settings come from the environment: see "spendflush env".

Exit status of every command: 0 done; 1 failed, or what was checked is bad (audit, status --check); 2 wrong usage or settings,
and nothing was tried.`,
		Example: `  spendflush dev                     # try it, without any settings
  spendflush serve                   # run an instance
  spendflush status --watch          # see how everything stands
  spendflush help quarantine         # all about one command`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(p.serveCommand(), p.devCommand(), p.migrateCommand(), p.flushCommand(), p.statusCommand(), p.auditCommand(),
		p.booksCommand(), p.quarantineCommand(), p.envCommand(), p.completionCommand(), p.versionCommand())
	helpCommand(root)
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp) // what takes a file says so
	return root
}

// noArgs refuses arguments as a usage error.
func noArgs(c *cobra.Command, args []string) error {
	if err := cobra.NoArgs(c, args); err != nil {
		return usageError{err}
	}
	return nil
}

func (p *program) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: noArgs,
		Long: `Print the name and the version in one line. Exit status: 0.`, Example: `  spendflush version`,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(p.stdout, "spendflush", programVersion())
			return err
		},
	}
}

func programVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}
