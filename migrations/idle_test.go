package migrations

import (
	"bufio"
	"bytes"
	"context"
	"net"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/spendflush/spendflush/internal/lab/testserver"
)

// slowConn is a connection of a process that gets no processor behind a BEGIN until Postgres has
// ended its transaction.
type slowConn struct {
	net.Conn
	from  *bufio.Reader
	times *int // how often
	begun bool
}

func (c *slowConn) Read(b []byte) (int, error) { return c.from.Read(b) }

func (c *slowConn) Write(b []byte) (int, error) {
	if c.begun && *c.times > 0 {
		*c.times--
		if _, err := c.from.Peek(1); err != nil { // what Postgres says unasked
			return 0, err
		}
	}
	c.begun = bytes.Contains(bytes.ToLower(b), []byte("begin"))
	return c.Conn.Write(b)
}

// openSlowly opens a database whose role ends idle transactions soon, over slow connections.
func openSlowly(t *testing.T, times int) func() error {
	t.Helper()
	databaseURL := testserver.Postgres(t)
	if _, err := Up(t.Context(), databaseURL); err != nil {
		t.Fatal(err)
	}
	config, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeExec // as open has it
	config.RuntimeParams["idle_in_transaction_session_timeout"] = "20"
	dial := config.DialFunc
	config.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &slowConn{Conn: conn, from: bufio.NewReader(conn), times: &times}, nil
	}
	db := stdlib.OpenDB(*config)
	t.Cleanup(func() { db.Close() })
	return func() error {
		version, err := read(t.Context(), db)
		if err == nil && version.current == 0 {
			t.Error("nothing was read")
		}
		return err
	}
}

func TestAVersionIsReadAgainWherePostgresHasEndedItsTransactionAsIdle(t *testing.T) {
	if err := openSlowly(t, readTries-1)(); err != nil {
		t.Error(err)
	}
}

func TestAVersionThatIsNeverReadForIdlingEndsWithAnError(t *testing.T) {
	if err := openSlowly(t, readTries+1)(); err == nil {
		t.Error("it was read")
	}
}
