package load

import (
	"fmt"
	"strings"

	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/pgstore"
)

// sumColumns are the sums of the columns of the counters, as Into takes them.
var sumColumns = pgstore.Columns("coalesce(sum(%), 0)")

// values writes the parameters from a number on that have the counters.
func values(first int) string {
	list := make([]string, 1+spend.Counts)
	for i := range list {
		list[i] = fmt.Sprintf("$%d", first+i)
	}
	return strings.Join(list, ", ")
}

// args appends the counters to parameters.
func args(c *spend.Counters, before ...any) []any {
	before = append(before, c.Spend.String())
	for i := range spend.Counts {
		before = append(before, *c.Count(i))
	}
	return before
}

// Into returns where the columns of the counters are scanned into.
func Into(c *spend.Counters) []any {
	into := []any{&c.Spend}
	for i := range spend.Counts {
		into = append(into, c.Count(i))
	}
	return into
}

// Counters is what one update adds.
func Counters(u *spend.Update) (c spend.Counters) {
	c.AddCost(&u.Cost)
	return c
}
