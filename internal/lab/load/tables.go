package load

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/spendflush/spendflush/spend"
)

// Tables are books that are written a row at a time: the total of each entity, and the rollup of each combination and
// hour. They have the columns, keys, indexes and fillfactor of spendflush's own. What its dictionaries hold, the texts of
// the keys, isn't written at all, which favours those who write here.
type Tables struct {
	pool   *pgxpool.Pool
	schema string // quoted

	addTotal, addRollup string
}

const makeTables = `
CREATE SCHEMA %[1]s;
CREATE TABLE %[1]s.total (
    entity                      uuid           PRIMARY KEY,
    failed_requests             bigint         NOT NULL,
    cache_creation_input_tokens bigint         NOT NULL,
    cache_read_input_tokens     bigint         NOT NULL,
    successful_requests         bigint         NOT NULL,
    prompt_tokens               bigint         NOT NULL,
    completion_tokens           bigint         NOT NULL,
    updated_at                  timestamptz    NOT NULL,
    spend                       numeric(38,12) NOT NULL
) WITH (fillfactor = 50);
CREATE TABLE %[1]s.rollup (
    series                      uuid           NOT NULL,
    day                         date           NOT NULL,
    hour                        smallint       NOT NULL,
    failed_requests             bigint         NOT NULL,
    cache_creation_input_tokens bigint         NOT NULL,
    cache_read_input_tokens     bigint         NOT NULL,
    successful_requests         bigint         NOT NULL,
    prompt_tokens               bigint         NOT NULL,
    completion_tokens           bigint         NOT NULL,
    spend                       numeric(38,12) NOT NULL,
    PRIMARY KEY (day, hour, series)
) WITH (fillfactor = 50);
CREATE INDEX ON %[1]s.rollup (series, day);`

const addCounters = `
    spend = t.spend + excluded.spend,
    successful_requests = t.successful_requests + excluded.successful_requests,
    failed_requests = t.failed_requests + excluded.failed_requests,
    prompt_tokens = t.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = t.completion_tokens + excluded.completion_tokens,
    cache_read_input_tokens = t.cache_read_input_tokens + excluded.cache_read_input_tokens,
    cache_creation_input_tokens = t.cache_creation_input_tokens + excluded.cache_creation_input_tokens`

const addTotal = `
INSERT INTO %s.total AS t (spend, successful_requests, failed_requests, prompt_tokens, completion_tokens,
    cache_read_input_tokens, cache_creation_input_tokens, entity, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, now())
ON CONFLICT (entity) DO UPDATE SET updated_at = excluded.updated_at,` + addCounters

const addRollup = `
INSERT INTO %s.rollup AS t (spend, successful_requests, failed_requests, prompt_tokens, completion_tokens,
    cache_read_input_tokens, cache_creation_input_tokens, series, day, hour)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT (day, hour, series) DO UPDATE SET` + addCounters

// MakeTables makes the tables in a new schema of the name. It fails if there is one already. The pool stays the
// caller's.
func MakeTables(ctx context.Context, pool *pgxpool.Pool, schema string) (*Tables, error) {
	t := &Tables{pool: pool, schema: pgx.Identifier{schema}.Sanitize()}
	t.addTotal = fmt.Sprintf(addTotal, t.schema)
	t.addRollup = fmt.Sprintf(addRollup, t.schema)
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

// Add adds the update, a statement a row, and returns how many rows that were: the totals of its entities, and its
// rollup. Outside a transaction each of them is one.
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
	_, err := to.Exec(ctx, t.addTotal, args(c, entity)...)
	return err
}

// AddRollup adds to the rollup of a series in an hour.
func (t *Tables) AddRollup(ctx context.Context, to Execer, series spend.Key, hour spend.Hour, c *spend.Counters) error {
	at := hour.Time()
	_, err := to.Exec(ctx, t.addRollup, append(args(c, series), at, int16(at.Hour()))...)
	return err
}

func args(c *spend.Counters, key spend.Key) []any {
	return []any{
		c.Spend.String(), c.SuccessfulRequests, c.FailedRequests, c.PromptTokens, c.CompletionTokens,
		c.CacheReadInputTokens, c.CacheCreationInputTokens, [16]byte(key),
	}
}

// Updates returns what is in the rollups: each update once.
func (t *Tables) Updates(ctx context.Context) (spend.Counters, error) {
	var all spend.Counters
	row := t.pool.QueryRow(ctx, fmt.Sprintf(`SELECT coalesce(sum(spend), 0)::text, %s FROM %s.rollup`, sumOfCounts, t.schema))
	return all, wrapRead(scan(row, &all))
}

// Entities returns the totals by entity key.
func (t *Tables) Entities(ctx context.Context) (map[spend.Key]spend.Counters, error) {
	rows, err := t.pool.Query(ctx, fmt.Sprintf(`SELECT entity, sum(spend)::text, %s FROM %s.total GROUP BY entity`, sumOfCounts, t.schema))
	if err != nil {
		return nil, wrapRead(err)
	}
	defer rows.Close()
	all := map[spend.Key]spend.Counters{}
	for rows.Next() {
		var key [16]byte
		var c spend.Counters
		if err := scan(rows, &c, &key); err != nil {
			return nil, wrapRead(err)
		}
		all[key] = c
	}
	return all, wrapRead(rows.Err())
}

const sumOfCounts = `coalesce(sum(successful_requests), 0)::bigint, coalesce(sum(failed_requests), 0)::bigint,
    coalesce(sum(prompt_tokens), 0)::bigint, coalesce(sum(completion_tokens), 0)::bigint,
    coalesce(sum(cache_read_input_tokens), 0)::bigint, coalesce(sum(cache_creation_input_tokens), 0)::bigint`

func scan(from pgx.Row, c *spend.Counters, first ...any) error {
	var cost string
	err := from.Scan(append(first, &cost, &c.SuccessfulRequests, &c.FailedRequests, &c.PromptTokens, &c.CompletionTokens,
		&c.CacheReadInputTokens, &c.CacheCreationInputTokens)...)
	if err == nil {
		c.Spend, err = spend.ParseAmount(cost)
	}
	return err
}

func wrapRead(err error) error {
	if err != nil {
		return fmt.Errorf("read the tables: %w", err)
	}
	return nil
}
