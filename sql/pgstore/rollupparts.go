package pgstore

import (
	"errors"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/spendflush/spendflush/spend"
)

// Rollups lie in parts by day, see docs/adr/0023-rollups-in-parts.md. A flush makes those that it
// lacks; most are there ahead of time.

// dayCache remembers days whose part is there. It decides nothing: a row without a part is refused.
// The zero value remembers nothing.
type dayCache struct {
	mu   sync.Mutex
	days map[int32]struct{} // counted from 1970-01-01
}

// mostDays bounds the days that are remembered.
const mostDays = 1000

// lacking returns the days of the rows that aren't known, sorted, each once.
func (c *dayCache) lacking(rows []spend.RollupRow) (days []int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range rows {
		day, _ := split(rows[i].Hour)
		if _, known := c.days[day]; !known && !slices.Contains(days, day) {
			days = append(days, day)
		}
	}
	slices.Sort(days)
	return days
}

// learn notes days whose part a transaction has found or made.
func (c *dayCache) learn(days []int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.days == nil || len(c.days) > mostDays {
		c.days = map[int32]struct{}{}
	}
	for _, day := range days {
		c.days[day] = struct{}{}
	}
}

func (c *dayCache) evictAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.days = nil
}

// makeParts adds the call that makes the parts which the rows may lack.
func (t *transaction) makeParts(calls []call, rows []spend.RollupRow) []call {
	days := t.store.days.lacking(rows)
	if len(days) == 0 {
		return calls
	}
	t.days = append(t.days, days...)
	var e encoder
	e.dates(len(days), func(i int) int32 { return days[i] })
	return append(calls, call{name: "make_rollup_parts", params: e.params(), rows: 1})
}

// lacksPart says whether a row had no part to lie in: Postgres was turned back to before it was
// made.
func lacksPart(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pg.Code == codeCheckViolation && pg.ConstraintName == "" && pg.SchemaName == "spendflush" && pg.TableName == "rollup"
}
