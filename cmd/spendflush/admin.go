package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/spendflush/spendflush/migrations"
	"github.com/spendflush/spendflush/sql"
)

// withParts runs f with what the settings name. Ctrl-C ends ctx.
func (p *program) withParts(c *cobra.Command, n need, f func(ctx context.Context, ps *parts) error) error {
	set, err := load(p.environ, n)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ps, err := newParts(ctx, set, newLogger(set, p.stderr))
	if err != nil {
		return err
	}
	defer ps.close()
	return f(ctx, ps)
}

// printJSON writes v for programs.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func (p *program) migrateCommand() *cobra.Command {
	c := &cobra.Command{Use: "migrate", Short: "Make or check the schema in Postgres (serve does it by itself)", Args: noArgs,
		Long: `Make the schema in Postgres, bring it up to date, or say how it stands. "serve" brings it up to date by itself.

Exit status: 0 done, 1 failed, 2 wrong usage or settings.`,
		Example: `  spendflush migrate up
  spendflush migrate status`,
		RunE: func(*cobra.Command, []string) error { return usageError{errors.New("migrate: say up or status")} }}
	c.AddCommand(
		&cobra.Command{Use: "up", Short: "Bring the schema up to date", Args: noArgs,
			Long: `Apply the migrations that the database lacks, each in a transaction of its own, and say which. While another program
migrates, it waits. The role must own the schema or be allowed to make it.

Exit status: 0 up to date, 1 failed (what was applied stays), or the database is of a newer program; 2 wrong usage or settings.`,
			Example: `  spendflush migrate up`,
			RunE: func(c *cobra.Command, _ []string) error {
				return p.withParts(c, needDatabase, func(ctx context.Context, ps *parts) error {
					applied, err := migrations.Up(ctx, ps.set.DatabaseURL)
					if err != nil {
						return err
					}
					for _, m := range applied {
						fmt.Fprintf(p.stdout, "applied %v\n", m)
					}
					fmt.Fprintln(p.stdout, "the schema is up to date")
					return nil
				})
			}},
		&cobra.Command{Use: "status", Short: "Say which migrations are applied", Args: noArgs,
			Long: `Say of each migration whether it is applied, and since when.

Exit status: 0 told, whatever is missing; 1 the database can't be read or is of a newer program; 2 wrong usage or settings.`,
			Example: `  spendflush migrate status`,
			RunE: func(c *cobra.Command, _ []string) error {
				return p.withParts(c, needDatabase, func(ctx context.Context, ps *parts) error {
					list, err := migrations.Status(ctx, ps.set.DatabaseURL)
					if err != nil {
						return err
					}
					for _, m := range list {
						fmt.Fprintln(p.stdout, m)
					}
					return nil
				})
			}})
	return c
}

func (p *program) flushCommand() *cobra.Command {
	var wait time.Duration
	c := &cobra.Command{Use: "flush", Short: "Flush what is in the queue now, once", Args: noArgs,
		Long: `Flush what is in the queue now, once, under the same lock and claims as the instances. Use it when no instance
runs, or to hurry; it is harmless at any moment.

Exit status: 0 flushed, 1 failed or not done in time (what is flushed is flushed, the rest waits), 2 wrong usage or settings.`,
		Example: `  spendflush flush
  spendflush flush --timeout 10m`,
		RunE: func(c *cobra.Command, _ []string) error {
			return p.withParts(c, needDatabase|needQueue, func(ctx context.Context, ps *parts) error {
				if ps.queue == nil {
					return usageError{errors.New("flush: USE_REDIS_TRANSACTION_BUFFER is false, so there is no queue")}
				}
				ctx, cancel := context.WithTimeout(ctx, wait)
				defer cancel()
				pipeline, err := ps.pipeline(nil)
				if err != nil {
					return err
				}
				before, err := ps.queued(ctx)
				if err != nil {
					return err
				}
				if err := pipeline.DrainQueue(ctx); err != nil {
					return err
				}
				after, err := ps.queued(ctx)
				if err != nil {
					return err
				}
				fmt.Fprintf(p.stdout, "batches in the queue: %d before, %d after\n", before, after)
				return nil
			})
		}}
	c.Flags().DurationVar(&wait, "timeout", time.Minute, "how long it may take, waiting for the lock included")
	_ = c.RegisterFlagCompletionFunc("timeout", cobra.FixedCompletions([]string{"10s", "1m", "10m"}, cobra.ShellCompDirectiveNoFileComp)) // it is there
	return c
}

func (ps *parts) queued(ctx context.Context) (batches int64, err error) {
	for shard := range ps.set.Shards {
		stats, err := ps.queue.Stats(ctx, shard)
		if err != nil {
			return 0, fmt.Errorf("look at the queue: %w", err)
		}
		batches += stats.Batches
	}
	return batches, nil
}

func (p *program) auditCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{Use: "audit", Short: "Prove that the books add up, in one snapshot", Args: noArgs,
		Long: `Compare, in one snapshot of Postgres, what the producers' marks say was applied with the sums of all rows.
What is open in quarantine is listed with what it counts, as far as that is known. It reads all the books, while flushes go on.

Exit status: 0 the books add up, 1 they don't or can't be read, 2 wrong usage or settings.`,
		Example: `  spendflush audit
  spendflush audit --json | jq '.checks[] | select(.ok | not)'`,
		RunE: func(c *cobra.Command, _ []string) error {
			return p.withParts(c, needDatabase, func(ctx context.Context, ps *parts) error {
				report, err := ps.store.Audit(ctx)
				if err != nil {
					return err
				}
				if asJSON {
					err = printJSON(p.stdout, report)
				} else {
					err = printAudit(p.stdout, report)
				}
				if err == nil && !report.OK {
					err = errSilent
				}
				return err
			})
		}}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func printAudit(to io.Writer, r sql.AuditReport) error {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	for _, check := range r.Checks {
		verdict := "ok"
		switch {
		case !check.OK:
			verdict = "FAILED"
		case check.Skipped != "":
			verdict = "skipped"
		}
		detail := check.Detail
		if check.Skipped != "" {
			detail = check.Skipped
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", verdict, check.Name, detail)
		for _, e := range check.Entities {
			fmt.Fprintf(w, "\t\t%s %q %s: total %s of %s requests, rollups %s of %s\n", e.EntityType, e.EntityID, e.TeamID,
				e.TotalSpend, e.TotalRequests, e.RollupSpend, e.RollupRequests)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	printQuarantineSums(to, &r.Quarantine)
	verdict := "the books add up"
	if !r.OK {
		verdict = "THE BOOKS DO NOT ADD UP"
	}
	_, err := fmt.Fprintf(to, "%s, as of %s; quarantined: %d, lost batches: %d\n",
		verdict, r.AsOf.UTC().Format(time.RFC3339), r.Quarantined, r.LostBatches)
	return err
}
