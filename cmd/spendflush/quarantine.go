package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/spendflush/spendflush/internal/quarantine"
	"github.com/spendflush/spendflush/migrations"
	"github.com/spendflush/spendflush/sql/pgstore"
)

func (p *program) quarantineCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "quarantine", Short: "List what could not be booked; apply it, or drop it", Args: noArgs,
		Long: `What can't be booked is set aside in quarantine instead of holding up the rest:

  batch  an entry of the queue that is damaged. Its producer sends it again, so that it is booked all the same.
  row    a total or a rollup row that Postgres refused, say because the sum would be out of range. The rest of its
         batch is in the books; the row is added by "apply" once the cause is mended, and counted in "audit" until then.

Exit status: 0 done, 1 an entry isn't there or could not be applied, 2 wrong usage or settings.`,
		Example: `  spendflush quarantine list              # what is open
  spendflush quarantine show 7            # all about entry 7
  spendflush quarantine apply 7           # try it again
  spendflush quarantine drop 7            # give it up`,
		RunE: func(*cobra.Command, []string) error {
			return usageError{errors.New("quarantine: say list, show, apply or drop")}
		},
	}
	c.AddCommand(p.quarantineListCommand(), p.quarantineShowCommand(), p.quarantineApplyCommand(), p.quarantineDropCommand())
	return c
}

// withQuarantine is withParts on a database that has the tables which f needs.
func (p *program) withQuarantine(c *cobra.Command, n need, f func(ctx context.Context, ps *parts) error) error {
	return p.withParts(c, n, func(ctx context.Context, ps *parts) error {
		if err := migrations.Check(ctx, ps.set.DatabaseURL); err != nil {
			return err
		}
		return f(ctx, ps)
	})
}

// entryIDs reads arguments that are ids, at least one. The error is a usageError.
func entryIDs(args []string) ([]int64, error) {
	if len(args) == 0 {
		return nil, usageError{errors.New(`say which entries, by the ids that "spendflush quarantine list" shows`)}
	}
	ids := make([]int64, len(args))
	for i, arg := range args {
		id, err := strconv.ParseInt(arg, 10, 64)
		if err != nil || id < 1 {
			return nil, usageError{fmt.Errorf("%q is not an id of an entry; allowed are whole numbers from 1", arg)}
		}
		ids[i] = id
	}
	return ids, nil
}

// errNoEntry says that there is no entry of the id.
func errNoEntry(id int64) error {
	return errors.New(quarantine.Missing(id, "").Detail)
}

// entriesAtOnce is how many entries are read in one go.
const entriesAtOnce = 500

// eachEntry calls do for every entry in the order of their ids: the open ones, or all.
func (ps *parts) eachEntry(ctx context.Context, all bool, do func(pgstore.Quarantined) error) error {
	for after := int64(0); ; {
		list, err := ps.reads.Quarantined(ctx, all, after, entriesAtOnce)
		if err != nil {
			return err
		}
		for _, q := range list {
			if err := do(q); err != nil {
				return err
			}
			after = q.ID
		}
		if len(list) < entriesAtOnce {
			return nil
		}
	}
}

func (p *program) quarantineListCommand() *cobra.Command {
	var all, asJSON bool
	c := &cobra.Command{
		Use: "list", Short: "List the open entries and what they count", Args: noArgs,
		Long: `List the open entries, oldest first, and in a last line how many there are and what they count. "?" stands where a
batch is too damaged to tell. Exit status: 0 listed, 1 the database can't be read, 2 wrong usage or settings.

With --json every entry is one JSON object on a line of its own, and there is no last line.`,
		Example: `  spendflush quarantine list
  spendflush quarantine list --all
  spendflush quarantine list --json | jq -r 'select(.kind == "row") | .id'`,
		RunE: func(c *cobra.Command, _ []string) error {
			return p.withQuarantine(c, needDatabase|standbyWillDo, func(ctx context.Context, ps *parts) error {
				if asJSON {
					encoder := json.NewEncoder(p.stdout)
					return ps.eachEntry(ctx, all, func(q pgstore.Quarantined) error { return encoder.Encode(quarantine.EntryOf(&q)) })
				}
				return p.listEntries(ctx, ps, all)
			})
		},
	}
	c.Flags().BoolVar(&all, "all", false, "list entries too that were applied or dropped")
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	return c
}

func (p *program) listEntries(ctx context.Context, ps *parts, all bool) error {
	var sums quarantine.Tally
	w := entryTable(p.stdout)
	err := ps.eachEntry(ctx, all, func(q pgstore.Quarantined) error {
		if sums.Entries == 0 {
			w.head()
		}
		sums.Add(&q)
		return w.row(&q)
	})
	if err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if sums.Entries == 0 {
		nothing := "nothing is open in quarantine"
		if all {
			nothing = "nothing was ever put into quarantine"
		}
		_, err = fmt.Fprintln(p.stdout, nothing)
		return err
	}
	_, err = fmt.Fprintln(p.stdout, sums.String())
	return err
}

// entriesTable writes entries for people.
type entriesTable struct{ *tabwriter.Writer }

func entryTable(to io.Writer) entriesTable {
	return entriesTable{tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)}
}

func (t entriesTable) head() {
	fmt.Fprintln(t, "ID\tKIND\tSTATE\tWHEN\tSHARD\tWHAT\tDOLLARS\tREQUESTS\tREASON")
}

func (t entriesTable) row(q *pgstore.Quarantined) error {
	amount, requests := "?", "?"
	if quarantine.CountsKnown(q) {
		amount, requests = q.Counters.Spend.String(), fmt.Sprint(quarantine.RequestsOf(q))
	}
	_, err := fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\n", q.ID, q.Kind, q.State, q.CreatedAt.UTC().Format(time.RFC3339),
		q.Shard, quarantine.Describe(q), amount, requests, quarantine.Printable(q.Reason))
	return err
}

// printQuarantineSums tells people what is open in quarantine, if anything is.
func printQuarantineSums(to io.Writer, q *pgstore.AuditQuarantine) {
	if len(q.Rows) == 0 && q.Batches.Entries == 0 {
		return
	}
	fmt.Fprintln(to, `open in quarantine, see "spendflush quarantine list":`)
	for _, r := range q.Rows {
		fmt.Fprintf(to, "  rows of %s: %d, of %s dollars in %s requests\n", r.Book, r.Entries, r.Spend, r.Requests)
	}
	if b := &q.Batches; b.Entries > 0 {
		fmt.Fprintf(to, "  batches: %d, of %s dollars in %s updates", b.Entries, b.Spend, b.Updates)
		if b.Unknown > 0 {
			fmt.Fprintf(to, "; of %d it can't be told", b.Unknown)
		}
		fmt.Fprintln(to)
	}
}
