package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/spendflush/spendflush/queues/redisqueue"
	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/pgstore"
)

// booksID returns which books the database has: by Postgres, or else by a note in Redis.
func (ps *parts) booksID(ctx context.Context) (spend.BooksID, error) {
	is, err := ps.reads.BooksIdentity(ctx)
	if err == nil {
		return is.ID, nil
	}
	if id := ps.notedBooks(ctx); !id.IsZero() {
		return id, nil
	}
	return spend.BooksID{}, err
}

// notedBooks returns which books the database has as far as it can be known without it, zero if it
// can't.
func (ps *parts) notedBooks(ctx context.Context) (id spend.BooksID) {
	if ps.running != nil {
		status := ps.running.Status()
		return status.Books
	}
	for _, q := range []*redisqueue.Queue{ps.queue, ps.unused} {
		if q != nil && id.IsZero() {
			id, _ = q.NotedBooks(ctx, ps.reads.BooksPlace()) // one that can't be read is as good as none
		}
	}
	return id
}

// booksJSON is what `books --json` prints.
type booksJSON struct {
	ID      spend.BooksID   `json:"id"`
	MadeAt  time.Time       `json:"made_at"`
	Earlier []spend.BooksID `json:"earlier"`
}

func (p *program) booksCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "books", Short: "Show which books a database has", Args: noArgs,
		Long: `Show the id of the books in the database. Every batch names it, and all that belongs to these books in Redis lies under it,
so that any number of deployments may share one Redis. A copy of a database has the same id: give it one of its own with
"spendflush books new-id" before an instance works on it.

Exit status: 0 shown, 1 failed, 2 wrong usage or settings.`,
		Example: `  spendflush books
  spendflush books --json | jq -r .id`,
		RunE: func(c *cobra.Command, _ []string) error {
			return p.withParts(c, needDatabase|standbyWillDo, func(ctx context.Context, ps *parts) error {
				is, err := ps.reads.BooksIdentity(ctx)
				if err != nil {
					return err
				}
				if !asJSON {
					_, err = fmt.Fprintln(p.stdout, is.ID)
					return err
				}
				return printJSON(p.stdout, asBooksJSON(is))
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON: the id, when it was made, and earlier ones")
	c.AddCommand(p.booksNewIDCommand())
	return c
}

func asBooksJSON(is pgstore.BooksIdentity) booksJSON {
	return booksJSON{ID: is.ID, MadeAt: is.MadeAt.UTC(), Earlier: append([]spend.BooksID{}, is.Earlier...)}
}

func (p *program) booksNewIDCommand() *cobra.Command {
	var yes bool
	var text string
	c := &cobra.Command{
		Use: "new-id", Short: "Give a copied database an id of its own", Args: noArgs,
		Long: `Give the books in the database another id: a random one, unless --id names one. It is for the copy of a database, such as
a clone for tests, before an instance works on it. What lies in Redis under the id before is left alone, for the original.

With --id a database takes the id of books whose database is gone for good, so that what still waits for them in Redis comes
to this one. Never give two databases the same id.

It asks first; where no terminal can answer, --yes is needed. Exit status: 0 done, and the new id is printed; 1 failed, or the
answer was no; 2 wrong usage or settings.`,
		Example: `  DATABASE_URL=postgres://localhost/staging spendflush books new-id --yes`,
		RunE: func(c *cobra.Command, _ []string) error {
			var id spend.BooksID
			if text != "" {
				var err error
				if id, err = spend.ParseBooksID(strings.ToLower(text)); err != nil {
					return usageError{fmt.Errorf("--id: %w", err)}
				}
			}
			if !yes && !isTerminal(p.stdin) {
				return usageError{errors.New("new-id: standard input is no terminal to ask on; nothing was changed; --yes doesn't ask")}
			}
			return p.withParts(c, needDatabase, func(ctx context.Context, ps *parts) error { return p.newBooksID(ctx, ps, id, yes) })
		},
	}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "don't ask")
	c.Flags().StringVar(&text, "id", "", "the id of books whose database is gone for good")
	_ = c.RegisterFlagCompletionFunc("id", cobra.NoFileCompletions) // it is there
	return c
}

func (p *program) newBooksID(ctx context.Context, ps *parts, id spend.BooksID, yes bool) error {
	is, err := ps.reads.BooksIdentity(ctx)
	if err != nil {
		return err
	}
	question := fmt.Sprintf("The books are %s. What waits in Redis under that id won't come to this database any more. Give it another id? [y/N] ", is.ID)
	if !yes && !p.confirm(ctx, question) {
		return errors.New("nothing was changed")
	}
	made, err := ps.reads.NewBooksID(ctx, id)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(p.stdout, made)
	return err
}
