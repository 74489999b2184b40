package httpapi

import (
	"context"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/sql"
)

// Reader is the read side of the database; *sql.Store is.
type Reader interface {
	Spend(ctx context.Context, e spendflush.Entity, producer spendflush.ProducerID) (sql.SpendReport, error)
	Usage(ctx context.Context, q sql.UsageQuery, yield func(sql.UsageRow) error) error
	Audit(ctx context.Context) (sql.AuditReport, error)
	Counts(ctx context.Context) (sql.Counts, error)
	Glance(ctx context.Context) (sql.Glance, error)
}

var _ Reader = (*sql.Store)(nil)
