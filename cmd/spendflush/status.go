package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/spendflush/spendflush/internal/overview"
	"github.com/spendflush/spendflush/internal/terminal"
)

const (
	watchEvery        = 2 * time.Second
	mostOftenRefresh  = 100 * time.Millisecond
	leastOftenRefresh = time.Hour
)

// statusFlags are how `status` tells.
type statusFlags struct {
	asJSON, check bool
	watch         time.Duration // 0: once
}

func (p *program) statusCommand() *cobra.Command {
	var f statusFlags
	c := &cobra.Command{
		Use: "status", Short: "Say how everything stands, and what to do where something is wrong", Args: statusArgs,
		Long: `Say how everything stands: first in one sentence, the same that the page of every instance shows, with what to do where
something is wrong; then in tables: the instances and what they hold, the queue and the lock of each shard, the last flush,
the books, what is in quarantine or lost, and the last audit.

With --json it is the answer of GET /v1/pipeline. With --watch it is said again and again until Ctrl-C: redrawn on a
terminal, elsewhere as one line each time, with --json as one object a line.

Exit status: 0 told, however things stand; 1 with --check, if something is bad: no instance that lives, Postgres away, Redis
that is set and can't be reached from here, an audit that failed, books more than a minute behind and the like, but nothing
that is only worth a look; 2 wrong usage or settings.`,
		Example: `  spendflush status
  spendflush status --watch=5s
  spendflush status --check >/dev/null || page-operator
  spendflush status --json | jq -r '.problems[] | .what, .do'`,
		RunE: func(c *cobra.Command, _ []string) error {
			watches := c.Flags().Changed("watch")
			switch {
			case watches && f.check:
				return usageError{errors.New("status: --watch or --check, not both")}
			case watches && (f.watch < mostOftenRefresh || f.watch > leastOftenRefresh):
				return usageError{fmt.Errorf("--watch: %s is not allowed; allowed are 100ms to 1h", f.watch)}
			}
			return p.withParts(c, needDatabase|needQueue|standbyWillDo, func(ctx context.Context, ps *parts) error {
				if watches {
					return p.watchStatus(ctx, ps, f)
				}
				return p.printStatus(ctx, ps, f)
			})
		},
	}
	c.Flags().BoolVar(&f.asJSON, "json", false, "print JSON")
	c.Flags().BoolVar(&f.check, "check", false, "exit with status 1 if something is bad")
	c.Flags().DurationVar(&f.watch, "watch", 0, "say it again and again, this often")
	_ = c.RegisterFlagCompletionFunc("watch", cobra.FixedCompletions([]string{"1s", "2s", "5s", "10s", "1m"}, cobra.ShellCompDirectiveNoFileComp)) // it is there
	c.Flags().Lookup("watch").NoOptDefVal = watchEvery.String()
	return c
}

// statusArgs refuses arguments, and knows which mistake is likely.
func statusArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("status: %q is one argument too many; how often is said with an equals sign: --watch=5s", args[0])}
	}
	return nil
}

func (p *program) printStatus(ctx context.Context, ps *parts, f statusFlags) error {
	r := overview.Collect(ctx, ps.sources())
	if ctx.Err() != nil { // what it has cut short says nothing
		return ctx.Err()
	}
	if f.asJSON {
		if err := printJSON(p.stdout, &r); err != nil {
			return err
		}
	} else {
		out := terminal.New(p.stdout, p.environ)
		for _, line := range r.Text(out) {
			out.Print(line)
		}
		if out.Err() != nil {
			return out.Err()
		}
	}
	if f.check && r.State == overview.Bad {
		return errSilent
	}
	return nil
}

// watchStatus tells until ctx ends, which is how it is meant to end.
func (p *program) watchStatus(ctx context.Context, ps *parts, f statusFlags) error {
	out := terminal.New(p.stdout, p.environ)
	defer out.Leave()
	ticker := time.NewTicker(f.watch)
	defer ticker.Stop()
	for {
		r := overview.Collect(ctx, ps.sources())
		if ctx.Err() != nil {
			return nil
		}
		switch {
		case f.asJSON:
			text, err := json.Marshal(&r)
			if err != nil {
				return err
			}
			out.Print(string(text))
		case out.Redraws():
			foot := fmt.Sprintf("%s, again every %s until Ctrl-C", r.AsOf.Local().Format(time.TimeOnly), f.watch)
			out.Block(append(r.Text(out), "", out.Faint(foot))...)
		default:
			out.Print(r.Line())
		}
		if out.Err() != nil {
			return out.Err()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}
