package load

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spendflush/spendflush/spend"
)

// BulkRows is how many rows AddTotals and AddRollups write in one statement at most.
const BulkRows = 100

// Sum is what is added to one row: to the total of an entity, or to the rollup of a series.
type Sum struct {
	Key      spend.Key
	Counters *spend.Counters
}

// SortSums puts sums in the order of their keys. Writers who go by it don't deadlock.
func SortSums(sums []Sum) {
	slices.SortFunc(sums, func(a, b Sum) int { return bytes.Compare(a.Key[:], b.Key[:]) })
}

// totalRow and rollupRow write the parameters of one row, from a number on.
func totalRow(first int) string { return fmt.Sprintf("($%d, now(), %s)", first, values(first+1)) }

func rollupRow(first int) string {
	return fmt.Sprintf("($%d, $%d, $%d, %s)", first, first+1, first+2, values(first+3))
}

// How many parameters these are.
const (
	totalParameters  = 2 + spend.Counts
	rollupParameters = 4 + spend.Counts
)

// statements are those of 1 to BulkRows rows.
func statements(text, schema string, row func(first int) string, parameters int) (made [BulkRows]string) {
	var rows []string
	for i := range made {
		rows = append(rows, row(1+i*parameters))
		made[i] = fmt.Sprintf(text, schema, strings.Join(rows, ", "))
	}
	return made
}

// AddTotals adds to the totals of entities, BulkRows of them in a statement. No key may come twice.
func (t *Tables) AddTotals(ctx context.Context, to Execer, sums []Sum) error {
	for chunk := range slices.Chunk(sums, BulkRows) {
		parameters := make([]any, 0, len(chunk)*totalParameters)
		for _, s := range chunk {
			parameters = args(s.Counters, append(parameters, [16]byte(s.Key))...)
		}
		if _, err := to.Exec(ctx, t.addTotals[len(chunk)-1], parameters...); err != nil {
			return err
		}
	}
	return nil
}

// AddRollups adds to the rollups of series in an hour, BulkRows of them in a statement. No key may
// come twice.
func (t *Tables) AddRollups(ctx context.Context, to Execer, hour spend.Hour, sums []Sum) error {
	at := hour.Time()
	for chunk := range slices.Chunk(sums, BulkRows) {
		parameters := make([]any, 0, len(chunk)*rollupParameters)
		for _, s := range chunk {
			parameters = args(s.Counters, append(parameters, [16]byte(s.Key), at, int16(at.Hour()))...)
		}
		if _, err := to.Exec(ctx, t.addRollups[len(chunk)-1], parameters...); err != nil {
			return err
		}
	}
	return nil
}
