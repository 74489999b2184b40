package pgstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// Summary is what an operator wants to see of Postgres every second.
type Summary struct {
	Books          spend.BooksID
	Version        string // of the server, such as "15.6"
	Connections    int    // to the server, by whomever
	MaxConnections int    // that it allows
	Updates        int64  // in the books
	Amount         spend.Amount
	Quarantined    int64      // open entries
	Conflicts      int64      // those of them that are conflicts
	IDs            int64      // in the books, by Postgres's estimate
	IDBytes        int64      // of their tables and indexes
	LostBatches    int64      // skipped as lost and not found since
	LastLost       time.Time  // when the last of these was noticed; zero if there are none
	LastAudit      *LastAudit // nil if there was none

	// OldPrimary says which server of several in the URL takes writes although another was promoted
	// in its place, and isn't connected to; "" if none does.
	OldPrimary string
}

// ErrNotMigrated is wrapped where Postgres answers but the tables aren't there.
var ErrNotMigrated = errors.New("the tables are missing")

// Summary looks at the books and the server in one statement, whose cost doesn't grow with the
// history. The error wraps ErrNotMigrated where the tables aren't there, or lack a column.
func (s *Store) Summary(ctx context.Context) (Summary, error) {
	g := Summary{OldPrimary: s.hosts.OldPrimary()}
	var lost, asOf *time.Time
	var ok *bool
	var seconds *float64
	var failed *string
	err := s.readRow(ctx, "summary", nil, (*[16]byte)(&g.Books), &g.Version, &g.MaxConnections, &g.Connections, &g.Updates, &g.Amount,
		&g.Quarantined, &g.Conflicts, &g.IDs, &g.IDBytes, &g.LostBatches, &lost, &asOf, &ok, &seconds, &failed)
	switch sqlState(err) {
	case codeUndefinedTable, codeUndefinedColumn, codeUndefinedSchema:
		err = fmt.Errorf("%w: %w", ErrNotMigrated, err)
	}
	if err != nil {
		return Summary{}, fmt.Errorf("look at the books: %w", err)
	}
	if lost != nil {
		g.LastLost = *lost
	}
	if asOf != nil {
		g.LastAudit = &LastAudit{AsOf: *asOf, OK: *ok, Took: time.Duration(*seconds * float64(time.Second)), Failed: *failed}
	}
	return g, nil
}
