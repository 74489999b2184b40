package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"

	"github.com/spendflush/spendflush/internal/overview"
	"github.com/spendflush/spendflush/internal/terminal"
	"github.com/spendflush/spendflush/migrations"
	"github.com/spendflush/spendflush/sql/pgstore"
)

// withParts runs f with what the settings name. Ctrl-C ends ctx.
func (p *program) withParts(c *cobra.Command, n need, f func(ctx context.Context, ps *parts) error) error {
	set, err := load(p.environ, n)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	screen := terminal.New(p.stderr, p.environ)
	ps, err := newParts(ctx, set, newLogger(set, screen), n&standbyWillDo != 0)
	if err != nil {
		return err
	}
	defer ps.close()
	ps.screen = screen
	return explain(f(ctx, ps))
}

// explain says what to do about an error of Postgres's whose cause is how it was set up.
func explain(err error) error {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || errors.Is(err, migrations.ErrNotOwner) || errors.Is(err, migrations.ErrNoRights) {
		return err
	}
	switch pg.Code {
	case "42P01", "42703", "3F000": // a table, a column or the schema is missing
		return fmt.Errorf("this database has no tables of spendflush, or older ones: run `spendflush migrate up`, or start an instance (%w)", err)
	case "42501":
		return fmt.Errorf("the role lacks a right: docs/runbook.md lists under Roles what to grant (%w)", err)
	}
	return err
}

// printJSON writes v for programs.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func (p *program) flushCommand() *cobra.Command {
	var wait time.Duration
	c := &cobra.Command{Use: "flush", Short: "Flush what is in the queue now, once", Args: noArgs,
		Long: `Flush what is in the queue now, once, under the same lock and claims as the instances. Use it when no instance
runs, or to hurry, or after Redis was switched off: it works on REDIS_URL even if USE_REDIS_TRANSACTION_BUFFER is false. It is
harmless at any moment.

Exit status: 0 flushed, 1 failed or not done in time (what is flushed is flushed, the rest waits), 2 wrong usage or settings.`,
		Example: `  spendflush flush
  spendflush flush --timeout 10m`,
		RunE: func(c *cobra.Command, _ []string) error {
			return p.withParts(c, needDatabase|needRedis, func(ctx context.Context, ps *parts) error {
				ctx, cancel := context.WithTimeout(ctx, wait)
				defer cancel()
				return p.flush(ctx, ps)
			})
		}}
	c.Flags().DurationVar(&wait, "timeout", time.Minute, "how long it may take, waiting for the lock included")
	_ = c.RegisterFlagCompletionFunc("timeout", cobra.FixedCompletions([]string{"10s", "1m", "10m"}, cobra.ShellCompDirectiveNoFileComp)) // it is there
	return c
}

func (p *program) flush(ctx context.Context, ps *parts) error {
	id, err := ps.store.Books(ctx)
	if err != nil {
		return err
	}
	if err := ps.adoptWindow(ctx, id); err != nil {
		return err
	}
	pipeline, err := ps.pipeline(nil)
	if err != nil {
		return err
	}
	ps.queue = ps.queue.Of(id)
	before, err := ps.queued(ctx)
	if err != nil {
		return err
	}
	stop := ps.followQueue(ctx, ps.screen.Progress("flush", "batches", before), before)
	err = pipeline.DrainQueue(ctx)
	stop()
	if err != nil {
		return err
	}
	after, err := ps.queued(ctx)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.stdout, "batches in the queue: %d before, %d after\n", before, after)
	return err
}

const followEvery = 200 * time.Millisecond

// followQueue tells how far a flush is, until stop is called. Instances may push meanwhile: then
// there is more to do.
func (ps *parts) followQueue(ctx context.Context, progress *terminal.Progress, total int64) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(followEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				progress.End()
				return
			case <-ticker.C:
			}
			if left, err := ps.queued(ctx); err == nil {
				total = max(total, left)
				progress.Set(total-left, total)
			}
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

func (ps *parts) queued(ctx context.Context) (batches int64, err error) {
	left, err := ps.queue.Remainder(ctx)
	return left.Batches, err
}

func (p *program) auditCommand() *cobra.Command {
	var asJSON, full bool
	c := &cobra.Command{Use: "audit", Short: "Prove that the books add up, in one snapshot", Args: noArgs,
		Long: `Compare, in one snapshot of Postgres, what the producers' marks say was applied with the sums of all rows, the totals
with the rollups, each day's rows with what flushes added to them, and the keys with the names they stand for. What is lost or in
quarantine is counted in, and listed. Flushes go on meanwhile. Of days that were compared before, and that no flush has
added to since, it reads the sums that are kept ready, and says how many these are: what was changed by hand in their
rows shows with --full alone, which reads all the books.

Exit status: 0 the books add up, 1 they don't or can't be read, 2 wrong usage or settings.`,
		Example: `  spendflush audit
  spendflush audit --json | jq '.checks[] | select(.ok | not)'`,
		RunE: func(c *cobra.Command, _ []string) error {
			return p.withParts(c, needDatabase|standbyWillDo, func(ctx context.Context, ps *parts) error {
				stop := ps.screen.Clock("audit", ps.lastAuditTook(ctx))
				audit := ps.reads.AuditChanges
				if full {
					audit = ps.reads.Audit
				}
				report, err := audit(ctx)
				stop()
				if err != nil {
					return err
				}
				if asJSON {
					err = printJSON(p.stdout, report)
				} else {
					err = printAudit(p.stdout, terminal.New(p.stdout, p.environ), report)
				}
				if err == nil && !report.OK {
					err = errSilent
				}
				return err
			})
		}}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().BoolVar(&full, "full", false, "read the rows of all days")
	return c
}

// lastAuditTook is about how long the next one will take, 0 if that can't be told.
func (ps *parts) lastAuditTook(ctx context.Context) time.Duration {
	ctx, cancel := context.WithTimeout(ctx, overview.Timeout)
	defer cancel()
	books, err := ps.reads.Summary(ctx)
	if err != nil || books.LastAudit == nil {
		return 0
	}
	return books.LastAudit.Took
}

// printAudit writes for people, with the verdict in the colours of out.
func printAudit(to io.Writer, out *terminal.Output, r pgstore.AuditReport) error {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	for _, check := range r.Checks {
		verdict := "ok"
		if !check.OK {
			verdict = "FAILED"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", verdict, check.Name, check.Detail)
		for _, e := range check.Entities {
			fmt.Fprintf(w, "\t\t%s %q %s: total %s of %s requests, rollups %s of %s\n", e.EntityType, e.EntityID, e.TeamID,
				e.TotalSpend, e.TotalRequests, e.RollupSpend, e.RollupRequests)
		}
		if len(check.Days) > 0 {
			fmt.Fprintf(w, "\t\tdays (UTC): %s\n", strings.Join(check.Days, ", "))
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	printQuarantineSums(to, &r.Quarantine)
	verdict := out.Good("the books add up")
	if !r.OK {
		verdict = out.Bad("THE BOOKS DO NOT ADD UP")
	}
	unread := ""
	if r.DaysUnread > 0 {
		unread = fmt.Sprintf("; days that haven't changed since they were compared, and weren't read (--full does): %d", r.DaysUnread)
	}
	_, err := fmt.Fprintf(to, "%s, as of %s; quarantined: %d, lost batches: %d, batches set aside: %d%s\n",
		verdict, r.AsOf.UTC().Format(time.RFC3339), r.Quarantined, r.LostBatches, r.SetAside.Batches, unread)
	return err
}
