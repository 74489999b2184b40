package httpapi

import (
	"context"
	"time"

	"github.com/spendflush/spendflush/internal/quarantine"
	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/pgstore"
)

// Reader is what is read of the database, and the quarantine; *pgstore.Store is one.
type Reader interface {
	Spend(ctx context.Context, e spend.Entity, producers []spend.ProducerID) (pgstore.SpendReport, error)
	Usage(ctx context.Context, q pgstore.UsageQuery, yield func(pgstore.UsageRow) error) error
	Audit(ctx context.Context) (pgstore.AuditReport, error)
	Counts(ctx context.Context) (pgstore.Counts, error)
	Summary(ctx context.Context) (pgstore.Summary, error)
	Entities(ctx context.Context, types []spend.EntityType, begin string, limit int) ([]pgstore.EntityTotal, error)
	FindEntities(ctx context.Context, q pgstore.EntityQuery) (pgstore.EntityPage, error)
	LostBatches(ctx context.Context, state string, after *pgstore.LostID, limit int) ([]pgstore.Lost, error)
	QuarantinedIn(ctx context.Context, state string, after int64, limit int) ([]pgstore.Quarantined, error)
	quarantine.Store

	// SignedOut lists the sessions that were ended before their time; SignOut ends one.
	SignedOut(ctx context.Context) (map[[16]byte]time.Time, error)
	SignOut(ctx context.Context, session [16]byte, ends time.Time) error
}

var _ Reader = (*pgstore.Store)(nil)
