package pgstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/spendflush/spendflush/spend"
)

// addIsolating adds the rows like addAll, but in parts, each behind a savepoint: a part that is
// refused is halved until the row is found that is at fault, and that row is put into quarantine.
// It is slow and used only after addAll failed.
func (t *transaction) addIsolating(ctx context.Context, f *spend.Flush) error {
	for from := 0; from < len(f.Totals); from += isolatedRows {
		err := t.halve(ctx, from, min(from+isolatedRows, len(f.Totals)),
			func(from, to int) []call { return t.totalCalls(f.Shard, f.Totals[from:to]) },
			func(i int, reason error) call { return quarantineTotal(f.Shard, &f.Totals[i], reason) })
		if err != nil {
			return err
		}
	}
	for from := 0; from < len(f.Rollups); from += isolatedRows {
		err := t.halve(ctx, from, min(from+isolatedRows, len(f.Rollups)),
			func(from, to int) []call { return t.rollupCalls(f.Rollups[from:to]) },
			func(i int, reason error) call { return quarantineRollup(f.Shard, &f.Rollups[i], reason) })
		if err != nil {
			return err
		}
	}
	return nil
}

// isolatedRows is how many rows the parts have, at most, in which rows at fault are looked for.
// They are encoded while the transaction is open, so that few must do.
const isolatedRows = 1024

func (t *transaction) totalCalls(shard int, rows []spend.TotalRow) []call {
	var e encoder
	all := places(len(rows))
	calls := t.internEntities(nil, rows, all)
	t.encodeFreshTotals(&e, shard, rows, all)
	return append(calls, call{name: "add_totals", params: e.params(), rows: len(rows)})
}

func (t *transaction) rollupCalls(rows []spend.RollupRow) []call {
	var e encoder
	all := places(len(rows))
	calls := t.makeParts(t.internSeries(nil, rows, all), rows)
	t.encodeFreshRollups(&e, rows, all)
	return append(calls, call{name: "add_rollups", params: e.params(), rows: len(rows)})
}

func places(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

// halve runs the calls for the rows from ≤ i < to. refuse makes the call that sets one row aside.
func (t *transaction) halve(
	ctx context.Context, from, to int, calls func(from, to int) []call, refuse func(i int, reason error) call,
) error {
	written := len(t.written)
	part := append([]call{{name: "savepoint", rows: -1}}, calls(from, to)...)
	err := t.run(ctx, append(part, call{name: "release", rows: -1})...)
	if err == nil || classify(ctx, err) != isolate {
		return err
	}
	t.written = t.written[:written]
	if _, err := t.simple(ctx, "rollback of a part", t.store.statement("undo_part")); err != nil {
		return err
	}
	if to-from == 1 {
		t.refused++
		return t.run(ctx, refuse(from, err))
	}
	middle := (from + to) / 2
	if err := t.halve(ctx, from, middle, calls, refuse); err != nil {
		return err
	}
	return t.halve(ctx, middle, to, calls, refuse)
}

func quarantineTotal(shard int, row *spend.TotalRow, reason error) call {
	return quarantineRow(shard, row.Entity.Type.String(), row.Key, row.Entity, nil, &row.Counters, reason)
}

func quarantineRollup(shard int, row *spend.RollupRow, reason error) call {
	return quarantineRow(shard, rollupBook, row.Key, row.Series(), &row.Hour, &row.Counters, reason)
}

func quarantineRow(
	shard int, book string, key spend.Key, names any, hour *spend.Hour, c *spend.Counters, reason error,
) call {
	// JSON has an escape for what isn't valid in a text; the key says which row it is in any case.
	text, err := json.Marshal(names)
	if err != nil {
		text = []byte("null")
	}
	var e encoder
	e.int2(int16(shard))
	e.text(oneLine(reason))
	e.text(book)
	e.uuid(key)
	e.buf = append(e.buf, text...)
	e.end(pgtype.JSONOID)
	if hour != nil {
		day, hour := split(*hour)
		e.date(day)
		e.int2(hour)
	}
	params := e.params()
	if hour == nil {
		params = append(params, param{oid: pgtype.DateOID}, param{oid: pgtype.Int2OID})
	}
	var sums encoder
	sums.amount(c.Spend)
	for i := range spend.Counts {
		sums.int8(*c.Count(i))
	}
	return call{name: "quarantine_row", params: append(params, sums.params()...), rows: 1}
}

// oneLine says why Postgres refused a row.
func oneLine(err error) string {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return fmt.Sprintf("%s (SQLSTATE %s)", pg.Message, pg.Code)
	}
	return err.Error()
}
