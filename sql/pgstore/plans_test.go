package pgstore

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush/spend"
)

// A database that is new, or was just restored, has no statistics. A join that compares all rows
// with all others would take longer by the square of their number.
func TestKnownRowsAreLookedUpByIndexInTablesThatWereNeverAnalyzed(t *testing.T) {
	for _, n := range []int{100, 700, 2000, 6000} {
		s := open(t, database(t), Options{})
		makeParts(t, s, "2026-11-10", "2026-11-30")
		execute(t, s.pool, "ALTER TABLE spendflush.total SET (autovacuum_enabled = off); ALTER TABLE spendflush.rollup_20261120 SET (autovacuum_enabled = off)")
		requests := make([]request, n)
		for i := range requests {
			requests[i] = request{spend.Series{APIKey: fmt.Sprint("key-", i)}, noon, one("1")}
		}
		apply(t, s, flushOf(newProducer(), 1, 1, requests...))
		for name, keys := range map[string]string{
			"add_known_totals":  "SELECT array_agg(entity ORDER BY entity)::text, '0' FROM spendflush.total",
			"add_known_rollups": "SELECT array_agg(day)::text, array_agg(hour)::text, array_agg(series ORDER BY series)::text FROM spendflush.rollup",
		} {
			plan := planOf(t, s, name, keys, n)
			if strings.Contains(plan, "Seq Scan") || !strings.Contains(plan, "Index Cond") {
				t.Errorf("%s of %d rows:\n%s", name, n, plan)
			}
			if strings.Contains(plan, "rollup_20261119") || name == "add_known_rollups" && !strings.Contains(plan, "rollup_20261120") {
				t.Errorf("%s looks into other parts:\n%s", name, plan)
			}
		}
	}
}

// planOf returns how the statement is run in a transaction of a flush, with the keys that a query
// tells and counters for so many rows.
func planOf(t *testing.T, s *Store, name, keys string, n int) (plan string) {
	t.Helper()
	err := s.write(t.Context(), func(tx querier) error {
		rows, err := tx.Query(t.Context(), keys)
		if err != nil {
			return err
		}
		args, err := pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) ([]any, error) { return row.Values() })
		if err != nil {
			return err
		}
		zeros := "{" + strings.TrimSuffix(strings.Repeat("0,", n), ",") + "}"
		for range 1 + len(spend.CountNames()) {
			args = append(args, zeros)
		}
		rows, err = tx.Query(t.Context(), "EXPLAIN (COSTS OFF) "+s.statement(name), args...)
		if err != nil {
			return err
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		plan = strings.Join(lines, "\n")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return plan
}
