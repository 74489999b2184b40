package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/spendflush/spendflush/migrations"
)

func (p *program) migrateCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "migrate", Short: "Make or check the schema in Postgres (serve does it by itself)", Args: noArgs,
		Long: `Make the schema in Postgres, bring it up to date, or say how it stands. "serve" brings it up to date by itself.

Exit status: 0 done, 1 failed, 2 wrong usage or settings.`,
		Example: `  spendflush migrate up
  spendflush migrate status
  spendflush migrate print --plain | psql -v ON_ERROR_STOP=1 "$DATABASE_URL"`,
		RunE: func(*cobra.Command, []string) error {
			return usageError{errors.New("migrate: say up, status or print")}
		},
	}
	c.AddCommand(p.migrateUpCommand(), p.migrateStatusCommand(), p.migratePrintCommand())
	return c
}

func (p *program) migrateUpCommand() *cobra.Command {
	return &cobra.Command{
		Use: "up", Short: "Bring the schema up to date", Args: noArgs,
		Long: `Apply the migrations that the database lacks, each in a transaction of its own, and say which. While another program
migrates, it waits. The role must own the schema or be allowed to make it.

Exit status: 0 up to date, 1 failed (what was applied stays), or the database is of a newer program; 2 wrong usage or settings.`,
		Example: `  spendflush migrate up`,
		RunE: func(c *cobra.Command, _ []string) error {
			return p.withParts(c, needDatabase, func(ctx context.Context, ps *parts) error {
				applied, err := p.migrateUp(ctx, ps)
				for _, m := range applied { // after an error too: these stay
					fmt.Fprintf(p.stdout, "applied %s in %s\n", m.Name, m.Took.Round(time.Millisecond))
				}
				if err == nil {
					_, err = fmt.Fprintln(p.stdout, "the schema is up to date")
				}
				return err
			})
		},
	}
}

func (p *program) migratePrintCommand() *cobra.Command {
	var plain, pending bool
	c := &cobra.Command{
		Use: "print", Short: "Print the migrations as SQL, for tools of your own", Args: noArgs,
		Long: `Print the SQL of all migrations, or of those that the database lacks, and change nothing. By default it is one migration for
goose, with its annotations. With --plain it can be run as it is, by psql for example: each migration is a transaction of its
own, and one that isn't the next does nothing but fail. What was applied that way "migrate status" and "serve" see.

Exit status: 0 printed, 1 the database can't be read or is of a newer program, 2 wrong usage or settings.`,
		Example: `  spendflush migrate print >db/migrations/20260301120000_spendflush.sql
  spendflush migrate print --plain --pending | psql -v ON_ERROR_STOP=1 "$DATABASE_URL"`,
		RunE: func(c *cobra.Command, _ []string) error {
			if !pending {
				return migrations.Print(p.stdout, 0, plain)
			}
			return p.withParts(c, needDatabase|standbyWillDo, func(ctx context.Context, ps *parts) error {
				list, err := migrations.Status(ctx, ps.set.DatabaseURL)
				if err != nil {
					return err
				}
				applied := int64(0)
				for _, m := range list {
					if !m.AppliedAt.IsZero() {
						applied = m.Version
					}
				}
				return migrations.Print(p.stdout, applied, plain)
			})
		},
	}
	c.Flags().BoolVar(&plain, "plain", false, "print SQL that psql can run, without annotations of goose")
	c.Flags().BoolVar(&pending, "pending", false, "print only what the database of DATABASE_URL lacks")
	return c
}

// migrateUp names on standard error what is done or waited for.
func (p *program) migrateUp(ctx context.Context, ps *parts) ([]migrations.Applied, error) {
	stop := func() {}
	last := ""
	tell := func(what string) {
		if what == last {
			return
		}
		last = what
		stop()
		ps.screen.Print(what)
		stop = ps.screen.Clock(what, 0)
	}
	defer func() { stop() }()
	return migrations.UpWith(ctx, ps.set.DatabaseURL, migrations.Options{Tell: tell})
}

func (p *program) migrateStatusCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "status", Short: "Say which migrations are applied", Args: noArgs,
		Long: `Say of each migration whether it is applied, and since when.

Exit status: 0 told, whatever is missing; 1 the database can't be read or is of a newer program; 2 wrong usage or settings.`,
		Example: `  spendflush migrate status
  spendflush migrate status --json | jq '.[] | select(.applied_at | not)'`,
		RunE: func(c *cobra.Command, _ []string) error {
			return p.withParts(c, needDatabase|standbyWillDo, func(ctx context.Context, ps *parts) error {
				list, err := migrations.Status(ctx, ps.set.DatabaseURL)
				switch {
				case err != nil:
					return err
				case asJSON:
					return printJSON(p.stdout, list)
				}
				w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
				fmt.Fprintln(w, "VERSION\tNAME\tAPPLIED")
				for _, m := range list {
					applied := "NOT APPLIED"
					if !m.AppliedAt.IsZero() {
						applied = m.AppliedAt.UTC().Format(time.RFC3339)
					}
					fmt.Fprintf(w, "%d\t%s\t%s\n", m.Version, m.Name, applied)
				}
				return w.Flush()
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}
