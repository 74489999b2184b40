package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/spendflush/spendflush/internal/quarantine"
	"github.com/spendflush/spendflush/sql/pgstore"
)

func (p *program) quarantineShowCommand() *cobra.Command {
	var asJSON, raw bool
	c := &cobra.Command{
		Use: "show ID", Short: "Show all about one entry",
		Long: `Show all about one entry: what it is, why it is here and what can be done. Of a batch that can be read its header and
rows, of another one its first bytes and what is wrong with them. Exit status: 0 shown, 1 there is no such entry,
2 wrong usage or settings.`,
		Example: `  spendflush quarantine show 7
  spendflush quarantine show 7 --json
  spendflush quarantine show 7 --raw > batch`,
		ValidArgsFunction: p.completeEntries(false),
		RunE: func(c *cobra.Command, args []string) error {
			ids, err := entryIDs(args)
			switch {
			case err != nil:
				return err
			case len(ids) > 1:
				return usageError{errors.New("show: one entry at a time")}
			case asJSON && raw:
				return usageError{errors.New("show: --json or --raw, not both")}
			}
			return p.withQuarantine(c, needDatabase|standbyWillDo, func(ctx context.Context, ps *parts) error {
				return p.showEntry(ctx, ps, ids[0], asJSON, raw)
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().BoolVar(&raw, "raw", false, "write the bytes of a batch, and nothing else")
	return c
}

func (p *program) showEntry(ctx context.Context, ps *parts, id int64, asJSON, raw bool) error {
	if raw {
		bytes, err := rawBatch(ctx, ps, id)
		if err == nil {
			_, err = p.stdout.Write(bytes)
		}
		return err
	}
	v, err := quarantine.Look(ctx, ps.reads, id)
	switch {
	case errors.Is(err, pgstore.ErrNotQuarantined):
		return errNoEntry(id)
	case err != nil:
		return err
	case asJSON:
		return printJSON(p.stdout, v.JSON())
	default:
		return v.Print(p.stdout)
	}
}

func rawBatch(ctx context.Context, ps *parts, id int64) ([]byte, error) {
	q, err := ps.reads.QuarantinedEntry(ctx, id)
	switch {
	case errors.Is(err, pgstore.ErrNotQuarantined):
		return nil, errNoEntry(id)
	case err != nil:
		return nil, err
	case q.Kind == "row":
		return nil, fmt.Errorf("entry %d is a row: only batches have bytes", id)
	}
	return ps.reads.QuarantinedBytes(ctx, id)
}
