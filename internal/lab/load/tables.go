package load

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/pgstore"
)

// Tables are books that are written a row at a time: the total of each entity, and the rollup of
// each combination and hour. They have the columns, keys, indexes and fillfactor of spendflush's
// own. What its dictionaries hold, the texts of the keys, isn't written at all, which favours those
// who write here.
type Tables struct {
	pool   *pgxpool.Pool
	schema string // quoted

	addTotals, addRollups [BulkRows]string // by the number of rows, less one
	addRollupOnce         string
}

// types are the columns of the counters, in an order that wastes nothing: the numeric one is last.
var types = func() string {
	names := spend.CountNames()
	for i, name := range names {
		names[i] = name + " bigint NOT NULL"
	}
	return strings.Join(append(names, "spend numeric(38,12) NOT NULL"), ",\n    ")
}()

var makeTables = `
CREATE SCHEMA %[1]s;
CREATE TABLE %[1]s.total (
    entity     uuid        PRIMARY KEY,
    updated_at timestamptz NOT NULL,
    ` + types + `
) WITH (fillfactor = 50);
CREATE TABLE %[1]s.rollup (
    series uuid     NOT NULL,
    day    date     NOT NULL,
    hour   smallint NOT NULL,
    ` + types + `,
    PRIMARY KEY (day, hour, series)
) WITH (fillfactor = 50);
CREATE INDEX ON %[1]s.rollup (series, day);
CREATE TABLE %[1]s.seen (id text PRIMARY KEY);`

var addTotal = `
INSERT INTO %s.total AS t (entity, updated_at, ` + pgstore.Columns("%") + `)
VALUES %s
ON CONFLICT (entity) DO UPDATE SET updated_at = excluded.updated_at, ` + pgstore.Columns("% = t.% + excluded.%")

var addRollup = `
INSERT INTO %s.rollup AS t (series, day, hour, ` + pgstore.Columns("%") + `)
VALUES %s
ON CONFLICT (day, hour, series) DO UPDATE SET ` + pgstore.Columns("% = t.% + excluded.%")

// addRollupOnce is addRollup for an id that is new. In a SELECT a parameter isn't of its column's
// type, so each says its own.
var addRollupOnce = `
WITH new AS (INSERT INTO %[1]s.seen (id) VALUES ($1) ON CONFLICT DO NOTHING RETURNING id)
INSERT INTO %[1]s.rollup AS t (series, day, hour, ` + pgstore.Columns("%") + `)
SELECT $2::uuid, $3::date, $4::smallint, $5::numeric` + bigints(6) + ` FROM new
ON CONFLICT (day, hour, series) DO UPDATE SET ` + pgstore.Columns("% = t.% + excluded.%")

// bigints are the parameters of the counts, from a number on, each after a comma.
func bigints(first int) string {
	var b strings.Builder
	for i := range spend.Counts {
		fmt.Fprintf(&b, ", $%d::bigint", first+i)
	}
	return b.String()
}

// MakeTables makes the tables in a new schema of the name. It fails if there is one already. The
// pool stays the caller's.
func MakeTables(ctx context.Context, pool *pgxpool.Pool, schema string) (*Tables, error) {
	t := &Tables{pool: pool, schema: pgx.Identifier{schema}.Sanitize()}
	t.addTotals = statements(addTotal, t.schema, totalRow, totalParameters)
	t.addRollups = statements(addRollup, t.schema, rollupRow, rollupParameters)
	t.addRollupOnce = fmt.Sprintf(addRollupOnce, t.schema)
	// As one simple query it is one transaction.
	if _, err := pool.Exec(ctx, fmt.Sprintf(makeTables, t.schema), pgx.QueryExecModeSimpleProtocol); err != nil {
		return nil, fmt.Errorf("make the tables of %s: %w", schema, err)
	}
	return t, nil
}

// Drop removes the schema and all in it.
func (t *Tables) Drop(ctx context.Context) error {
	if _, err := t.pool.Exec(ctx, "DROP SCHEMA "+t.schema+" CASCADE"); err != nil {
		return fmt.Errorf("drop the tables: %w", err)
	}
	return nil
}

// Clear empties the tables.
func (t *Tables) Clear(ctx context.Context) error {
	if _, err := t.pool.Exec(ctx, fmt.Sprintf("TRUNCATE %[1]s.total, %[1]s.rollup", t.schema)); err != nil {
		return fmt.Errorf("clear the tables: %w", err)
	}
	return nil
}

// Execer is a connection or a transaction.
type Execer interface {
	Exec(ctx context.Context, statement string, args ...any) (pgconn.CommandTag, error)
}

// Add adds the update, a statement a row, and returns how many rows that were: the totals of its
// entities, and its rollup. Outside a transaction each of them is one.
func (t *Tables) Add(ctx context.Context, to Execer, u *spend.Update) (rows int, err error) {
	c := Counters(u)
	for _, e := range Entities(&u.Series) {
		if err := t.AddTotal(ctx, to, e.Key(), &c); err != nil {
			return rows, err
		}
		rows++
	}
	at := u.Time
	if at.IsZero() {
		at = time.Now()
	}
	if err := t.AddRollup(ctx, to, u.Series.Key(), spend.HourOf(at), &c); err != nil {
		return rows, err
	}
	return rows + 1, nil
}

// AddTotal adds to the total of an entity.
func (t *Tables) AddTotal(ctx context.Context, to Execer, entity spend.Key, c *spend.Counters) error {
	_, err := to.Exec(ctx, t.addTotals[0], args(c, [16]byte(entity))...)
	return err
}

// AddRollup adds to the rollup of a series in an hour.
func (t *Tables) AddRollup(ctx context.Context, to Execer, series spend.Key, hour spend.Hour, c *spend.Counters) error {
	at := hour.Time()
	_, err := to.Exec(ctx, t.addRollups[0], args(c, [16]byte(series), at, int16(at.Hour()))...)
	return err
}

// AddRollupOnce is AddRollup if the id is new, in the same statement. It says whether it was.
func (t *Tables) AddRollupOnce(ctx context.Context, to Execer, id string, series spend.Key, hour spend.Hour, c *spend.Counters) (added bool, err error) {
	at := hour.Time()
	tag, err := to.Exec(ctx, t.addRollupOnce, args(c, id, [16]byte(series), at, int16(at.Hour()))...)
	return tag.RowsAffected() == 1, err
}

// Updates returns what is in the rollups: each update once.
func (t *Tables) Updates(ctx context.Context) (spend.Counters, error) {
	var all spend.Counters
	row := t.pool.QueryRow(ctx, fmt.Sprintf(`SELECT %s FROM %s.rollup`, sumColumns, t.schema))
	return all, wrapRead(row.Scan(Into(&all)...))
}

// Entities returns the totals by entity key.
func (t *Tables) Entities(ctx context.Context) (map[spend.Key]spend.Counters, error) {
	rows, err := t.pool.Query(ctx, fmt.Sprintf(`SELECT entity, %s FROM %s.total GROUP BY entity`, sumColumns, t.schema))
	if err != nil {
		return nil, wrapRead(err)
	}
	defer rows.Close()
	all := map[spend.Key]spend.Counters{}
	for rows.Next() {
		var key [16]byte
		var c spend.Counters
		if err := rows.Scan(append([]any{&key}, Into(&c)...)...); err != nil {
			return nil, wrapRead(err)
		}
		all[key] = c
	}
	return all, wrapRead(rows.Err())
}

func wrapRead(err error) error {
	if err != nil {
		return fmt.Errorf("read the tables: %w", err)
	}
	return nil
}
