package pgstore

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// transaction is one try of a flush on one connection. It is used by one goroutine.
type transaction struct {
	store    *Store
	conn     *pgconn.PgConn
	written  []row   // upserted, to be known once it is committed
	days     []int32 // whose parts are there, to be known then, too
	epoch    uint64  // of the store's known keys when it was asked for them
	interned int64   // texts sent
	refused  int64   // rows put into quarantine
}

// write calls do in a transaction with the settings of a flush, which is committed if do returns
// nil. Nothing is written outside of one, for it would be up to the role whether that is possible,
// and whether it is on disk.
func (s *Store) write(ctx context.Context, do func(querier) error) error {
	return s.inTx(ctx, "begin", "settings", do)
}

// read calls do in a transaction that only reads, with the settings of one: what a name stands for,
// and how long a statement may take, is up to neither the role nor the database.
func (s *Store) read(ctx context.Context, do func(querier) error) error {
	return s.inTx(ctx, "begin_read", "settings_read", do)
}

// readSnapshot is read where several statements must see the same.
func (s *Store) readSnapshot(ctx context.Context, do func(querier) error) error {
	return s.inTx(ctx, "begin_snapshot", "settings_read", do)
}

func (s *Store) inTx(ctx context.Context, begin, settings string, do func(querier) error) error {
	o := pgx.TxOptions{BeginQuery: s.statement(begin) + ";\n" + s.statement(settings)} // in one round trip
	return s.on(ctx, func(conn *pgx.Conn) error {
		return pgx.BeginTxFunc(ctx, conn, o, func(pgx.Tx) error { return do(s.querier(conn)) })
	})
}

// readRow reads the one row of a statement.
func (s *Store) readRow(ctx context.Context, name string, args []any, into ...any) error {
	return s.read(ctx, func(tx querier) error { return tx.QueryRow(ctx, s.statement(name), args...).Scan(into...) })
}

// readAll reads the rows of a statement.
func readAll[T any](ctx context.Context, s *Store, name string, args []any, scan pgx.RowToFunc[T]) (list []T, err error) {
	err = s.read(ctx, func(tx querier) error {
		rows, err := tx.Query(ctx, s.statement(name), args...)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, scan)
		return err
	})
	return list, err
}

// call is one statement of a transaction.
type call struct {
	name   string // of the .sql file; names the operation in errors too
	params []param
	rows   int    // how many rows it must affect, negative: any number
	answer *int64 // if set, gets the first column of the first row

	// result, if set, gets the rows as texts.
	result func(rows [][][]byte) error
}

// errUnknown is wrapped where COMMIT was sent and it isn't known what became of it.
var errUnknown = errors.New("outcome of COMMIT is unknown")

// The formats of parameters and results.
const (
	textFormat   = 0
	binaryFormat = 1
)

// run sends the statements together and reads their results. If one of them fails, those behind it
// aren't run.
func (t *transaction) run(ctx context.Context, calls ...call) error {
	if len(calls) == 0 {
		return nil
	}
	var batch pgconn.Batch
	for _, c := range calls {
		values := make([][]byte, len(c.params))
		oids := make([]uint32, len(c.params))
		for i, p := range c.params {
			values[i], oids[i] = p.value, p.oid
		}
		batch.ExecParams(t.store.statement(c.name), values, oids, []int16{binaryFormat}, nil)
	}
	results, err := t.conn.ExecBatch(ctx, &batch).ReadAll()
	for i, c := range calls {
		if i == len(results) || results[i].Err != nil {
			if err == nil {
				err = results[i].Err
			}
			return fmt.Errorf("%s: %w", c.name, err)
		}
		if err := c.check(results[i]); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", calls[len(calls)-1].name, err)
	}
	return nil
}

func (c *call) check(r *pgconn.Result) error {
	if n := r.CommandTag.RowsAffected(); c.rows >= 0 && n != int64(c.rows) {
		return fmt.Errorf("%w: %d of %d", errShort, n, c.rows)
	}
	if c.result != nil {
		return c.result(r.Rows)
	}
	if c.answer == nil {
		return nil
	}
	if len(r.Rows) != 1 || len(r.Rows[0]) == 0 {
		return fmt.Errorf("%w: no answer", errShort)
	}
	n, err := strconv.ParseInt(string(r.Rows[0][0]), 10, 64)
	if err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	*c.answer = n
	return nil
}

// simple runs one statement without parameters.
func (t *transaction) simple(ctx context.Context, name, text string) (pgconn.CommandTag, error) {
	results, err := t.conn.Exec(ctx, text).ReadAll()
	if err != nil {
		return pgconn.CommandTag{}, fmt.Errorf("%s: %w", name, err)
	}
	if len(results) == 0 {
		return pgconn.CommandTag{}, fmt.Errorf("%s: %w: no answer", name, errShort)
	}
	return results[0].CommandTag, nil
}

// commit commits. The error wraps errUnknown unless it is certain that nothing was committed.
func (t *transaction) commit(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	tag, err := t.simple(ctx, "commit", t.store.statement("commit"))
	if err != nil {
		// Only an ERROR says that the transaction is undone. What is fatal for the session may have
		// come after it.
		if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.SeverityUnlocalized == "ERROR" {
			return err
		}
		return fmt.Errorf("%w: %w", errUnknown, err)
	}
	if tag.String() != "COMMIT" { // Postgres answers ROLLBACK where a statement has failed before
		return fmt.Errorf("commit: %w: Postgres answered %s", errShort, tag)
	}
	return nil
}

// rollbackTimeout bounds the end of a transaction that has failed. A connection that doesn't answer
// is closed.
const rollbackTimeout = 2 * time.Second

// end makes sure that no transaction is left open.
func (t *transaction) end(ctx context.Context) {
	const idle = 'I'
	if t.conn.IsClosed() || t.conn.TxStatus() == idle {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
	defer cancel()
	if _, err := t.simple(ctx, "rollback", "ROLLBACK"); err != nil {
		t.conn.Close(ctx)
	}
}
