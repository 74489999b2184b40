package pgstore

import (
	"context"
	"fmt"
)

// figures compares the figures that reports read with the rows that they stand for, day by day and
// dimension by dimension.
func (a *audit) figures(ctx context.Context, tx querier) error {
	var days []string
	var wrong, held int64
	if err := tx.QueryRow(ctx, a.store.statement("audit_figures"), maxDifferences, !a.changes).Scan(&days, &wrong, &held); err != nil {
		return err
	}
	detail := fmt.Sprintf("%d of %d days have figures that aren't their rows", wrong, held)
	a.report.Checks = append(a.report.Checks, AuditCheck{Name: checkFigures, OK: wrong == 0, Detail: detail, Days: days})
	return nil
}
