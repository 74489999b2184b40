package httpapi

import (
	"context"
	"time"

	"github.com/spendflush/spendflush/internal/quarantine"
	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql"
)

// Reader is what is read of the database, and the quarantine; *sql.Store is one.
type Reader interface {
	Spend(ctx context.Context, e spend.Entity, producers []spend.ProducerID) (sql.SpendReport, error)
	Usage(ctx context.Context, q sql.UsageQuery, yield func(sql.UsageRow) error) error
	Audit(ctx context.Context) (sql.AuditReport, error)
	Counts(ctx context.Context) (sql.Counts, error)
	Glance(ctx context.Context) (sql.Glance, error)
	Entities(ctx context.Context, types []spend.EntityType, begin string, limit int) ([]sql.EntityTotal, error)
	LostBatches(ctx context.Context, state string, after *sql.LostID, limit int) ([]sql.Lost, error)
	QuarantinedIn(ctx context.Context, state string, after int64, limit int) ([]sql.Quarantined, error)
	quarantine.Store

	// SignedOut lists the sessions that were ended before their time; SignOut ends one.
	SignedOut(ctx context.Context) (map[[16]byte]time.Time, error)
	SignOut(ctx context.Context, session [16]byte, ends time.Time) error
}

var _ Reader = (*sql.Store)(nil)
