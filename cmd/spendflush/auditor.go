package main

import (
	"context"
	"time"

	"github.com/spendflush/spendflush/sql/pgstore"
)

const (
	auditCheck   = time.Minute      // how often it is looked whether an audit is due
	auditTimeout = 15 * time.Minute // of one; its snapshot keeps Postgres from cleaning up
)

// auditRegularly has the books audited every AuditInterval, by one of the instances: which one is
// decided in Postgres. It works until ctx ends.
func (ps *parts) auditRegularly(ctx context.Context) {
	every := ps.set.AuditInterval
	if every == 0 {
		return
	}
	ticker := time.NewTicker(min(every, auditCheck))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		due, err := ps.reads.ClaimAudit(ctx, every)
		if err != nil {
			ps.log.Debug("it can't be looked whether an audit is due", "error", err)
		} else if due {
			ps.auditOnce(ctx)
		}
	}
}

// auditOnce audits the books and says in the log how it ended.
func (ps *parts) auditOnce(ctx context.Context) {
	auditCtx, cancel := context.WithTimeout(ctx, auditTimeout)
	defer cancel()
	start := time.Now()
	report, err := ps.regularAudit(auditCtx)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		ps.log.Warn("the books can't be audited; it is tried again after the interval", "error", err)
	case report.OK:
		ps.log.Info("audit: the books add up", "took", time.Since(start), "quarantined", report.Quarantined, "lost_batches", report.LostBatches)
	default:
		for _, c := range report.Checks {
			if !c.OK {
				ps.log.Error("AUDIT: THE BOOKS DO NOT ADD UP; `spendflush audit` says more", "check", c.Name, "detail", c.Detail)
			}
		}
	}
}

// fullAuditRows is how many rollup rows, by Postgres's estimate, the regular audit reads whatever has
// changed: that takes a minute at most.
const fullAuditRows = 5_000_000

// regularAudit reads all books while they are small, and what has changed once they are large.
func (ps *parts) regularAudit(ctx context.Context) (pgstore.AuditReport, error) {
	counts, err := ps.reads.Counts(ctx)
	if err != nil || counts.RollupRows > fullAuditRows {
		return ps.reads.AuditChanges(ctx)
	}
	return ps.reads.Audit(ctx)
}
