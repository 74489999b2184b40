package pgstore

import "context"

// figures compares the figures that reports read with the rows that they stand for, day by day and
// dimension by dimension.
func (a *audit) figures(ctx context.Context, tx querier) error {
	var days []string
	var wrong, held int64
	if err := tx.QueryRow(ctx, a.store.statement("audit_figures"), maxDifferences, !a.changes).Scan(&days, &wrong, &held); err != nil {
		return err
	}
	a.add(checkFigures, wrong == 0, "%d of %d days have figures that aren't their rows", wrong, held)
	a.report.Checks[len(a.report.Checks)-1].Days = days
	return nil
}
