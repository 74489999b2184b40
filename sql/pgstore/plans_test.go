package pgstore

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush/spend"
)

// A database that is new, or was just restored, has no statistics. A join that compares all rows with all others would take
// longer by the square of their number.
func TestKnownRowsAreLookedUpByIndexInTablesThatWereNeverAnalyzed(t *testing.T) {
	s := open(t, database(t), Options{})
	execute(t, s.pool, "ALTER TABLE spendflush.total SET (autovacuum_enabled = off); ALTER TABLE spendflush.rollup SET (autovacuum_enabled = off)")
	requests := make([]request, 3000)
	for i := range requests {
		requests[i] = request{spend.Series{APIKey: fmt.Sprint("key-", i)}, noon, one("1")}
	}
	apply(t, s, flushOf(newProducer(), 1, 1, requests...))

	for name, arguments := range map[string]string{
		"add_known_totals":  "SELECT array_agg(entity ORDER BY entity)::text, '0' FROM spendflush.total",
		"add_known_rollups": "SELECT array_agg(day)::text, array_agg(hour)::text, array_agg(series ORDER BY series)::text FROM spendflush.rollup",
	} {
		err := s.write(t.Context(), func(tx querier) error {
			rows, err := tx.Query(t.Context(), arguments)
			if err != nil {
				return err
			}
			keys, err := pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (args []any, err error) { return row.Values() })
			if err != nil {
				return err
			}
			counters := "{" + strings.TrimSuffix(strings.Repeat("0,", len(requests)), ",") + "}"
			for range 1 + len(spend.CountNames()) {
				keys = append(keys, counters)
			}
			rows, err = tx.Query(t.Context(), "EXPLAIN (COSTS OFF) "+s.statement(name), keys...)
			if err != nil {
				return err
			}
			plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if whole := strings.Join(plan, "\n"); strings.Contains(whole, "Seq Scan") || !strings.Contains(whole, "Index") {
				t.Errorf("%s:\n%s", name, whole)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
