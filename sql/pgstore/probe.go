package pgstore

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush/internal/pglink"
)

// Server is what Probe finds out about Postgres.
type Server struct {
	Version           string `json:"version"`            // such as "15.6"
	Pooler            string `json:"pooler,omitempty"`   // "" if none stands in between
	InRecovery        bool   `json:"in_recovery"`        // a standby: it can't be written to
	Encoding          string `json:"encoding"`           // UTF8, or SQL_ASCII
	SynchronousCommit string `json:"synchronous_commit"` // of the role or database; flushes never run with off
	MaxConnections    int    `json:"max_connections"`
	Fsync             bool   `json:"fsync"` // off: a crash of the machine loses commits, and more

	// ClockAhead is how far Postgres's clock is ahead of this machine's, to the time that asking
	// took.
	ClockAhead time.Duration `json:"clock_ahead_ns"`
}

// The values of Server.Pooler.
const (
	PoolerTransaction = "pooler in transaction mode" // as PgBouncer with pool_mode=transaction
	PoolerOther       = "pooler"                     // its mode couldn't be told; everything here works in any
)

// Lacking returns the rights that the role lacks for what a Store does, such as "INSERT on
// spendflush.total", in order. Those that only migrations need aren't among them. It also returns
// the time by the clock of Postgres.
func (s *Store) Lacking(ctx context.Context) (lacking []string, now time.Time, err error) {
	if err := s.readRow(ctx, "rights", nil, &lacking, &now); err != nil {
		return nil, now, fmt.Errorf("look at the rights of the role: %w", err)
	}
	return lacking, now, nil
}

// Probe looks at the server on connections of its own, two at once. The error wraps ErrEncoding if
// the database can't keep every text.
func (s *Store) Probe(ctx context.Context) (Server, error) {
	server, err := s.probe(ctx)
	if err != nil {
		return Server{}, fmt.Errorf("probe Postgres: %w", err)
	}
	return server, nil
}

func (s *Store) probe(ctx context.Context) (server Server, err error) {
	pool := s.pool.Config()
	config := pool.ConnConfig
	config.ValidateConnect = nil // also a standby is looked at
	config.DefaultQueryExecMode = s.mode
	if pool.BeforeConnect != nil {
		if err := pool.BeforeConnect(ctx, config); err != nil {
			return server, err
		}
	}
	first, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return server, err
	}
	defer first.Close(context.WithoutCancel(ctx))
	o := pgx.TxOptions{BeginQuery: s.statement("begin_read") + ";\n" + s.statement("settings_read")}
	err = pgx.BeginTxFunc(ctx, first, o, func(tx pgx.Tx) error {
		var clock time.Time
		asked := time.Now()
		err := tx.QueryRow(ctx, s.statement("probe")).Scan(&server.Version, &server.InRecovery, &server.Encoding,
			&server.SynchronousCommit, &server.MaxConnections, &server.Fsync, &clock)
		server.ClockAhead = clock.Sub(asked.Add(time.Since(asked) / 2))
		return err
	})
	if err == nil {
		err = pglink.CheckEncoding(server.Encoding)
	}
	if err != nil {
		return server, err
	}
	backend, err := backendOf(ctx, first)
	if err != nil || backend == first.PgConn().PID() {
		return server, err
	}
	// Another backend answered than the one that we are connected to. If another client of the
	// pooler gets the same backend while we are still here, then it is ours for a transaction only.
	server.Pooler = PoolerOther
	second, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return server, err
	}
	defer second.Close(context.WithoutCancel(ctx))
	other, err := backendOf(ctx, second)
	if err == nil && other == backend {
		server.Pooler = PoolerTransaction
	}
	return server, err
}

func backendOf(ctx context.Context, conn *pgx.Conn) (pid uint32, err error) {
	err = conn.QueryRow(ctx, "SELECT pg_catalog.pg_backend_pid()").Scan(&pid)
	return pid, err
}
