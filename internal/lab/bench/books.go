package bench

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush/internal/lab/load"
	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/pgstore"
)

// check compares the books with what was sent, and audits them. With so many keys that it would
// take longer than the measurement, only the sum of all is compared, beside the audit.
func (g *group) check(ctx context.Context, w *load.Workload) error {
	store, err := pgstore.Open(ctx, g.env.databaseURL, pgstore.Options{})
	if err != nil {
		return err
	}
	defer store.Close()
	audit, err := store.Audit(ctx)
	if err != nil {
		return err
	}
	if !audit.OK {
		return fmt.Errorf("%w: the audit fails: %+v", ErrWrongBooks, audit.Checks)
	}
	want := w.Sums(0, g.sent)
	add(&want, w.Sums(0, g.again), 1)
	add(&want, w.Sums(0, cycle), g.cycles)
	var got spend.Counters
	err = g.env.pool.QueryRow(ctx, "SELECT "+pgstore.Columns("coalesce(sum(%), 0)")+" FROM spendflush.rollup").Scan(load.Into(&got)...)
	if err != nil {
		return fmt.Errorf("read the rollups: %w", err)
	}
	if got != want.Updates {
		return fmt.Errorf("%w: the rollups add up to %+v, the updates to %+v", ErrWrongBooks, got, want.Updates)
	}
	if w.Shape().Keys > maxCheckedKeys {
		return nil
	}
	return g.env.checkTotals(ctx, want.Entities)
}

const maxCheckedKeys = 100_000

// add adds sums to others, some times.
func add(to *load.Sums, sums load.Sums, times uint64) {
	if times == 0 {
		return
	}
	all := multiple(sums.Updates, times)
	to.Updates.Add(&all)
	for e, c := range sums.Entities {
		sum, more := to.Entities[e], multiple(c, times)
		sum.Add(&more)
		to.Entities[e] = sum
	}
}

// multiple adds c up n times, by doubling.
func multiple(c spend.Counters, n uint64) (sum spend.Counters) {
	for ; n > 0; n /= 2 {
		if n%2 == 1 {
			sum.Add(&c)
		}
		c.Add(&c)
	}
	return sum
}

func (p *env) checkTotals(ctx context.Context, want map[spend.Entity]spend.Counters) error {
	rows, err := p.pool.Query(ctx, "SELECT entity_type, entity_id, team_id, spend, api_requests FROM spendflush.spend")
	if err != nil {
		return fmt.Errorf("read the totals: %w", err)
	}
	var kind string
	var e spend.Entity
	var amount spend.Amount
	var requests int64
	found := 0
	_, err = pgx.ForEachRow(rows, []any{&kind, &e.ID, &e.TeamID, &amount, &requests}, func() (err error) {
		if e.Type, err = spend.ParseEntityType(kind); err != nil {
			return err
		}
		sum := want[e]
		if amount != sum.Spend || requests != sum.APIRequests() {
			return fmt.Errorf("%w: %s %s has %s dollars of %d requests, its updates are %s of %d",
				ErrWrongBooks, kind, e.ID, amount, requests, sum.Spend, sum.APIRequests())
		}
		found++
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the totals: %w", err)
	}
	if found != len(want) {
		return fmt.Errorf("%w: %d entities have totals, %d had updates", ErrWrongBooks, found, len(want))
	}
	return nil
}
