package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/spendflush/spendflush/internal/quarantine"
	"github.com/spendflush/spendflush/internal/terminal"
	"github.com/spendflush/spendflush/sql/pgstore"
)

func (p *program) quarantineApplyCommand() *cobra.Command {
	var all, asJSON bool
	c := &cobra.Command{
		Use: "apply ID... | --all", Short: "Try to book entries again, each at most once",
		Long: `Try to book entries again, each in a transaction of its own that marks it as applied. However often that is done, by
however many at once and beside the producer that sends the same batch again, an entry counts once. What becomes of each
is said on a line of its own; with --json, as one JSON object a line.

Exit status: 0 all of them are in the books, by this call or an earlier one; 1 one could not be applied, and the line says
why and what to do; 2 wrong usage or settings.`,
		Example: `  spendflush quarantine apply 7 8
  spendflush quarantine apply --all`,
		ValidArgsFunction: p.completeEntries(true),
		RunE: func(c *cobra.Command, args []string) error {
			ids, err := entryIDs(args)
			switch {
			case all && len(args) > 0:
				return usageError{errors.New("apply: ids or --all, not both")}
			case !all && err != nil:
				return err
			}
			return p.withQuarantine(c, needDatabase, func(ctx context.Context, ps *parts) error {
				a := applier{ps: ps, outcomes: outcomes{out: terminal.New(p.stdout, p.environ), asJSON: asJSON}}
				a.begin(ctx, ids)
				defer a.progress.End()
				if all {
					return a.all(ctx)
				}
				return a.ids(ctx, ids)
			})
		},
	}
	c.Flags().BoolVar(&all, "all", false, "apply all open entries")
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	return c
}

// outcomes tells what becomes of entries, and keeps count.
type outcomes struct {
	out    *terminal.Output
	asJSON bool
	count  map[quarantine.Result]int
}

func (o *outcomes) report(one *quarantine.Outcome) error {
	if o.count == nil {
		o.count = map[quarantine.Result]int{}
	}
	o.count[one.Result]++
	if o.asJSON {
		text, err := json.Marshal(one)
		if err == nil {
			err = o.print(string(text))
		}
		return err
	}
	text := one.Detail
	switch one.Result {
	case quarantine.Applied:
		text = "applied: " + text
	case quarantine.Dropped:
		text = "dropped"
	case quarantine.AppliedBefore, quarantine.DroppedBefore:
		by := ""
		if one.SettledBy != "" {
			by = ", by " + one.SettledBy
		}
		text = fmt.Sprintf("was %s before, at %s%s; nothing is changed", one.State, one.SettledAt.Format(time.RFC3339), by)
	case quarantine.NotApplied:
		text = "NOT applied: " + text
	case quarantine.NotDropped:
		text = "NOT dropped: " + text
	}
	return o.print(fmt.Sprintf("%d: %s", one.ID, quarantine.Printable(text)))
}

func (o *outcomes) print(line string) error {
	o.out.Print(line)
	return o.out.Err()
}

// failed says whether an entry isn't as it was wanted to be.
func (o *outcomes) failed() bool {
	return o.count[quarantine.NotApplied]+o.count[quarantine.NotDropped] > 0
}

// applier applies entries.
type applier struct {
	outcomes
	ps    *parts
	early []pgstore.Quarantined // batches whose turn it wasn't

	progress    *terminal.Progress
	done, total int64
}

// begin begins to tell how far it is: below the outcomes if they are on a terminal, else where it
// doesn't get among them.
func (a *applier) begin(ctx context.Context, ids []int64) {
	a.total = int64(len(ids))
	if a.total == 0 {
		if books, err := a.ps.reads.Summary(ctx); err == nil {
			a.total = books.Quarantined
		}
	}
	out := a.out
	if !out.Redraws() {
		out = a.ps.screen
	}
	a.progress = out.Progress("apply", "entries", a.total)
}

func (a *applier) all(ctx context.Context) error {
	err := a.ps.eachEntry(ctx, false, func(q pgstore.Quarantined) error { return a.apply(ctx, q.ID, true) })
	if err != nil {
		return err
	}
	return a.finish(ctx)
}

func (a *applier) ids(ctx context.Context, ids []int64) error {
	for _, id := range ids {
		if err := a.apply(ctx, id, true); err != nil {
			return err
		}
	}
	return a.finish(ctx)
}

// finish tries again what came before its turn: the batches of a producer may have been set aside
// in any order.
func (a *applier) finish(ctx context.Context) error {
	slices.SortStableFunc(a.early, func(x, y pgstore.Quarantined) int {
		if c := x.Producer.Compare(y.Producer); c != 0 {
			return c
		}
		return int(int64(x.Sequence) - int64(y.Sequence))
	})
	for i := range a.early {
		if err := a.apply(ctx, a.early[i].ID, false); err != nil {
			return err
		}
	}
	a.progress.End()
	if !a.asJSON {
		err := a.print(fmt.Sprintf("applied: %d; applied before: %d; not applied: %d",
			a.count[quarantine.Applied], a.count[quarantine.AppliedBefore], a.count[quarantine.NotApplied]))
		if err != nil {
			return err
		}
	}
	if a.failed() {
		return errSilent
	}
	return nil
}

// apply applies one entry. With later, one whose turn it isn't is left for later. The error is
// about the database.
func (a *applier) apply(ctx context.Context, id int64, later bool) error {
	one, err := quarantine.Apply(ctx, a.ps.reads, id, byThisUser())
	if err != nil {
		return fmt.Errorf("%w; what was applied stays applied, and to say the same command again is safe", err)
	}
	if one.Early && later {
		q, err := a.ps.reads.QuarantinedEntry(ctx, id)
		if err != nil {
			return err
		}
		a.early = append(a.early, q)
		return nil
	}
	a.done++
	a.progress.Set(a.done, max(a.done, a.total))
	return a.report(&one)
}

func (p *program) quarantineDropCommand() *cobra.Command {
	var yes, asJSON bool
	c := &cobra.Command{
		Use: "drop ID...", Short: "Give entries up",
		Long: `Give entries up: they stay in the table, but can't be applied any more. A batch that its producer has sent again loses
nothing by it. What a dropped row counts stays out of the books, and "audit" goes on taking it into account.

It asks first. Where no terminal can answer, --yes is needed. Exit status: 0 dropped, by this call or an earlier one;
1 one could not be dropped, or the answer was no; 2 wrong usage or settings.`,
		Example: `  spendflush quarantine drop 7
  spendflush quarantine drop --yes 7 8`,
		ValidArgsFunction: p.completeEntries(true),
		RunE: func(c *cobra.Command, args []string) error {
			ids, err := entryIDs(args)
			if err != nil {
				return err
			}
			if asJSON && !yes {
				return usageError{errors.New("drop: --json needs --yes; nothing was dropped")}
			}
			if !yes && !isTerminal(p.stdin) {
				return usageError{errors.New("drop: standard input is no terminal to ask on; nothing was dropped; --yes drops without asking")}
			}
			return p.withQuarantine(c, needDatabase, func(ctx context.Context, ps *parts) error { return p.dropEntries(ctx, ps, ids, yes, asJSON) })
		},
	}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "don't ask")
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line; needs --yes")
	return c
}

func (p *program) dropEntries(ctx context.Context, ps *parts, ids []int64, yes, asJSON bool) error {
	if !yes {
		drop, err := p.askToDrop(ctx, ps, ids)
		if err != nil {
			return err
		}
		if !drop {
			return errors.New("nothing was dropped")
		}
	}
	told := outcomes{out: terminal.New(p.stdout, p.environ), asJSON: asJSON}
	for _, id := range ids {
		one, err := quarantine.Drop(ctx, ps.reads, id, byThisUser())
		if err == nil {
			err = told.report(&one)
		}
		if err != nil {
			return err
		}
	}
	if told.failed() {
		return errSilent
	}
	return nil
}

// askToDrop shows those of the entries that are open, if any, and asks. If none is open there is
// nothing to ask.
func (p *program) askToDrop(ctx context.Context, ps *parts, ids []int64) (bool, error) {
	open := 0
	w := entryTable(p.stdout)
	for _, id := range ids {
		q, err := ps.reads.QuarantinedEntry(ctx, id)
		if err != nil && !errors.Is(err, pgstore.ErrNotQuarantined) {
			return false, err
		}
		if err != nil || q.State != "open" {
			continue
		}
		if open++; open == 1 {
			w.head()
		}
		_ = w.row(&q) // Flush tells
	}
	if err := w.Flush(); err != nil || open == 0 {
		return true, err
	}
	noun := "entries"
	if open == 1 {
		noun = "entry"
	}
	return p.confirm(ctx, fmt.Sprintf("Drop %d %s, never to be applied? [y/N] ", open, noun)), nil
}

// byThisUser says who settles entries with a command: the account and the machine.
func byThisUser() string {
	name := fmt.Sprint("id ", os.Getuid())
	if u, err := user.Current(); err == nil && u.Username != "" {
		name = u.Username
	}
	host, _ := os.Hostname() // "" where it has none
	return fmt.Sprintf("command, user %s on %s", name, host)
}

// confirm asks on the terminal. No answer, as Ctrl-D gives none, is a no.
func (p *program) confirm(ctx context.Context, question string) bool {
	fmt.Fprint(p.stderr, question)
	answers := make(chan string, 1)
	// Reading can't be interrupted, but Ctrl-C has to end the question. The program ends soon
	// after.
	go func() {
		answer, _ := bufio.NewReader(p.stdin).ReadString('\n')
		answers <- answer
	}()
	select {
	case <-ctx.Done():
		return false
	case answer := <-answers:
		answer = strings.ToLower(strings.TrimSpace(answer))
		return answer == "y" || answer == "yes"
	}
}
