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
		RunE: func(*cobra.Command, []string) error { return usageError{errors.New("migrate: say up or status")} }}
	c.AddCommand(
		&cobra.Command{Use: "up", Short: "Bring the schema up to date", Args: noArgs,
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
runs, or to hurry.`,
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
Exit status 1 if they differ. What is open in quarantine is listed with what it counts, as far as that is known.`,
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
