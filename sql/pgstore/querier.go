package pgstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/spendflush/spendflush/internal/pglink"
)

// querier is a connection in the middle of a transaction. What is sent and read through it doesn't
// depend on how the pool is set up, which may be the caller's: statements are sent in the store's
// own mode, and times are read in UTC.
type querier struct {
	conn *pgx.Conn
	mode pgx.QueryExecMode
}

func (s *Store) querier(conn *pgx.Conn) querier { return querier{conn, s.mode} }

func (q querier) withMode(args []any) []any { return append([]any{q.mode}, args...) }

// Exec is that of a pgx.Conn.
func (q querier) Exec(ctx context.Context, statement string, args ...any) (pgconn.CommandTag, error) {
	return q.conn.Exec(ctx, statement, q.withMode(args)...)
}

// QueryRow is that of a pgx.Conn.
func (q querier) QueryRow(ctx context.Context, statement string, args ...any) pgx.Row {
	return utcRow{q.conn.QueryRow(ctx, statement, q.withMode(args)...)}
}

// Query is that of a pgx.Conn.
func (q querier) Query(ctx context.Context, statement string, args ...any) (pgx.Rows, error) {
	rows, err := q.conn.Query(ctx, statement, q.withMode(args)...)
	return utcRows{rows}, err
}

// utcRow is a row whose times are read in UTC, wherever this program runs and whatever the types of
// its connection say.
type utcRow struct{ pgx.Row }

func (r utcRow) Scan(into ...any) error {
	err := r.Row.Scan(into...)
	toUTC(into)
	return err
}

// utcRows are rows like that.
type utcRows struct{ pgx.Rows }

func (r utcRows) Scan(into ...any) error {
	err := r.Rows.Scan(into...)
	toUTC(into)
	return err
}

func toUTC(scanned []any) {
	for _, value := range scanned {
		switch t := value.(type) {
		case *time.Time:
			*t = t.UTC()
		case **time.Time:
			if *t != nil {
				**t = (**t).UTC()
			}
		}
	}
}

// on calls do with a connection. One whose server says that it is not the one to write to any more
// never goes back to the pool. Connections of the store's own do that by themselves, and leave with
// all others of their pool.
func (s *Store) on(ctx context.Context, do func(conn *pgx.Conn) error) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Release()

	err = do(conn.Conn())
	isStandby := errors.Is(err, ErrStandby)
	if !s.lent {
		if isStandby {
			s.pool.Reset()
		}
		return err
	}
	if isStandby || pglink.Ends(sqlState(err)) {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
		defer cancel()
		_ = conn.Conn().Close(closing) // the pool notices
	}
	return err
}
