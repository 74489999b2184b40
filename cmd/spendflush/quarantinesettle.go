package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/sql"
)

func (p *program) quarantineApplyCommand() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use: "apply ID... | --all", Short: "Try to book entries again, each at most once",
		Long: `Try to book entries again, each in a transaction of its own that marks it as applied. However often that is done, by
however many at once and beside the producer that sends the same batch again, an entry counts once. What becomes of each
is said on a line of its own.

Exit status: 0 all of them are in the books, by this call or an earlier one; 1 one could not be applied, and the line says
why and what to do; 2 wrong usage or settings.`,
		Example: `  spendflush quarantine apply 7 8
  spendflush quarantine apply --all`,
		RunE: func(c *cobra.Command, args []string) error {
			ids, err := entryIDs(args)
			switch {
			case all && len(args) > 0:
				return usageError{errors.New("apply: ids or --all, not both")}
			case !all && err != nil:
				return err
			}
			return p.withQuarantine(c, func(ctx context.Context, ps *parts) error {
				a := applier{ps: ps, to: p.stdout}
				if all {
					return a.all(ctx)
				}
				return a.ids(ctx, ids)
			})
		},
	}
	c.Flags().BoolVar(&all, "all", false, "apply all open entries")
	return c
}

// applier applies entries and says what becomes of them.
type applier struct {
	ps                      *parts
	to                      io.Writer
	applied, before, failed int

	early []sql.Quarantined // batches whose turn it wasn't
	retry bool              // they are being tried again
}

func (a *applier) all(ctx context.Context) error {
	err := a.ps.eachEntry(ctx, false, func(q sql.Quarantined) error { return a.apply(ctx, &q) })
	if err != nil {
		return err
	}
	return a.finish(ctx)
}

func (a *applier) ids(ctx context.Context, ids []int64) error {
	for _, id := range ids {
		q, err := a.ps.store.QuarantinedEntry(ctx, id)
		switch {
		case errors.Is(err, sql.ErrNotQuarantined):
			a.say(id, "NOT applied: %v", errNoEntry(id))
			a.failed++
		case err != nil:
			return err
		default:
			if err := a.apply(ctx, &q); err != nil {
				return err
			}
		}
	}
	return a.finish(ctx)
}

// finish tries again what came before its turn: the batches of a producer may have been set aside in any order.
func (a *applier) finish(ctx context.Context) error {
	early := a.early
	slices.SortStableFunc(early, func(x, y sql.Quarantined) int {
		if c := x.Producer.Compare(y.Producer); c != 0 {
			return c
		}
		return int(int64(x.Sequence) - int64(y.Sequence))
	})
	a.retry = true
	for i := range early {
		if err := a.apply(ctx, &early[i]); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprintf(a.to, "applied: %d; applied before: %d; not applied: %d\n", a.applied, a.before, a.failed); err != nil {
		return err
	}
	if a.failed > 0 {
		return errSilent
	}
	return nil
}

func (a *applier) say(id int64, format string, args ...any) {
	fmt.Fprintf(a.to, "%d: %s\n", id, printable(fmt.Sprintf(format, args...)))
}

// apply applies one entry. The error is about the database, not the entry.
func (a *applier) apply(ctx context.Context, q *sql.Quarantined) error {
	const tries = 3
	for try := 1; ; try++ {
		err := a.ps.store.ApplyQuarantined(ctx, q.ID)
		switch {
		case err == nil:
			a.applied++
			a.say(q.ID, "applied: %s", describe(q))
		case errors.Is(err, sql.ErrNotQuarantined):
			return a.wasSettled(ctx, q.ID)
		case errors.Is(err, spendflush.ErrFenced) && try < tries:
			continue // the producer's mark has moved meanwhile
		case errors.Is(err, spendflush.ErrGap) && !a.retry:
			a.early = append(a.early, *q)
		case errors.Is(err, spendflush.ErrApplied) || errors.Is(err, spendflush.ErrGap):
			at, err := a.ps.standing(ctx, q)
			if err != nil {
				return err
			}
			a.failed++
			a.say(q.ID, "NOT applied: %s", turn(q, at))
		case errors.Is(err, sql.ErrRefused) || errors.Is(err, spendflush.ErrFenced):
			a.failed++
			a.say(q.ID, "NOT applied: %v; %s", errors.Unwrap(err), mend(q, err)) // without the id once more
		default:
			return fmt.Errorf("%w; what was applied stays applied, and to say the same command again is safe", err)
		}
		return nil
	}
}

// mend says what to do about an entry that was refused.
func mend(q *sql.Quarantined, err error) string {
	if errors.Is(err, spendflush.ErrCorruptBatch) {
		return damaged(q.ID)
	}
	return fmt.Sprintf(`mend that and apply it again, or drop it with "spendflush quarantine drop %d"`, q.ID)
}

// wasSettled says what somebody else has done with the entry.
func (a *applier) wasSettled(ctx context.Context, id int64) error {
	q, err := a.ps.entry(ctx, id)
	if err != nil {
		return err
	}
	at := q.SettledAt.UTC().Format(time.RFC3339)
	if q.State == "applied" {
		a.before++
		a.say(id, "was applied before, at %s; nothing is changed", at)
		return nil
	}
	a.failed++
	a.say(id, "NOT applied: it was %s at %s", q.State, at)
	return nil
}

func (p *program) quarantineDropCommand() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "drop ID...", Short: "Give entries up",
		Long: `Give entries up: they stay in the table, but can't be applied any more. A batch that its producer has sent again loses
nothing by it. What a dropped row counts stays out of the books, and "audit" goes on taking it into account.

It asks first. Where no terminal can answer, --yes is needed. Exit status: 0 dropped, by this call or an earlier one;
1 one could not be dropped, or the answer was no; 2 wrong usage or settings.`,
		Example: `  spendflush quarantine drop 7
  spendflush quarantine drop --yes 7 8`,
		RunE: func(c *cobra.Command, args []string) error {
			ids, err := entryIDs(args)
			if err != nil {
				return err
			}
			if !yes && !isTerminal(p.stdin) {
				return usageError{errors.New("drop: standard input is no terminal to ask on; nothing was dropped; --yes drops without asking")}
			}
			return p.withQuarantine(c, func(ctx context.Context, ps *parts) error { return p.dropEntries(ctx, ps, ids, yes) })
		},
	}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "don't ask")
	return c
}

func (p *program) dropEntries(ctx context.Context, ps *parts, ids []int64, yes bool) error {
	var open []int64
	failed := false
	w := entryTable(p.stdout)
	for _, id := range ids {
		q, err := ps.store.QuarantinedEntry(ctx, id)
		switch {
		case errors.Is(err, sql.ErrNotQuarantined):
			failed = true
			fmt.Fprintf(p.stdout, "%d: NOT dropped: %v\n", id, errNoEntry(id))
		case err != nil:
			return err
		case q.State != "open":
			failed = p.sayNotOpen(&q) || failed
		default:
			if len(open) == 0 {
				w.head()
			}
			open = append(open, id)
			_ = w.row(&q) // Flush tells
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(open) > 0 && !yes {
		noun := "entries"
		if len(open) == 1 {
			noun = "entry"
		}
		if !p.confirm(ctx, fmt.Sprintf("Drop %d %s, never to be applied? [y/N] ", len(open), noun)) {
			return errors.New("nothing was dropped")
		}
	}
	for _, id := range open {
		err := ps.store.DropQuarantined(ctx, id)
		switch {
		case err == nil:
			fmt.Fprintf(p.stdout, "%d: dropped\n", id)
		case errors.Is(err, sql.ErrNotQuarantined): // somebody was quicker
			q, err := ps.entry(ctx, id)
			if err != nil {
				return err
			}
			failed = p.sayNotOpen(&q) || failed
		default:
			return err
		}
	}
	if failed {
		return errSilent
	}
	return nil
}

// sayNotOpen says what was done with an entry already, and whether that is something else than wanted.
func (p *program) sayNotOpen(q *sql.Quarantined) (failed bool) {
	at := q.SettledAt.UTC().Format(time.RFC3339)
	if q.State == "dropped" {
		fmt.Fprintf(p.stdout, "%d: was dropped before, at %s\n", q.ID, at)
		return false
	}
	fmt.Fprintf(p.stdout, "%d: NOT dropped: it was %s at %s\n", q.ID, q.State, at)
	return true
}

// confirm asks on the terminal. No answer, as Ctrl-D gives none, is a no.
func (p *program) confirm(ctx context.Context, question string) bool {
	fmt.Fprint(p.stderr, question)
	answers := make(chan string, 1)
	// Reading can't be interrupted, but Ctrl-C has to end the question. The program ends soon after.
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
