package integration

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// throwOut ends all sessions of instances, so that new settings reach them.
const throwOut = `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE '%pod-%' AND pid <> pg_backend_pid()`

// postgresKilled is kill -9 of Postgres and a new start.
type postgresKilled struct{}

func (f *postgresKilled) begin(x *rig) {
	x.note("kill -9 Postgres")
	x.watch.countDeadlocks() // a crash forgets how many there were
	x.try("kill Postgres", x.server.postgres.Kill())
}

func (f *postgresKilled) end(x *rig) { restart(x.t, x.server.postgres.Restart) }

// postgresRestarted is an orderly restart, which throws out whoever is connected.
type postgresRestarted struct{}

func (f *postgresRestarted) begin(x *rig) {
	x.note("Postgres restarted")
	restart(x.t, x.server.postgres.Restart)
}

func (f *postgresRestarted) end(*rig) {}

// postgresFull holds all connections that Postgres has.
type postgresFull struct{ held []*pgx.Conn }

func (f *postgresFull) begin(x *rig) {
	// The first one held throws the others out, so that the next ones get their places.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for range 20 {
		for {
			conn, err := pgx.Connect(ctx, x.stack.postgres)
			if err != nil {
				break
			}
			f.held = append(f.held, conn)
		}
		if len(f.held) == 0 {
			continue
		}
		var thrown int
		if err := f.held[0].QueryRow(ctx, "SELECT count(*) FROM ("+throwOut+") AS t").Scan(&thrown); err != nil || thrown == 0 {
			break
		}
	}
	x.note("%d connections to Postgres are held", len(f.held))
}

func (f *postgresFull) end(*rig) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, conn := range f.held {
		_ = conn.Close(ctx) // it may be broken already
	}
}

// postgresReadOnly is the default that operators set, which flushes don't heed, and then what a
// demoted primary says to whoever writes.
type postgresReadOnly struct{}

func (f *postgresReadOnly) begin(x *rig) {
	x.note("Postgres read-only")
	x.sql("ALTER DATABASE postgres SET default_transaction_read_only = on", throwOut)
	x.sql("SET default_transaction_read_only = off", `CREATE OR REPLACE FUNCTION public.torture_refuse() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN RAISE 'cannot execute INSERT in a read-only transaction' USING ERRCODE = '25006'; END $$`)
	x.sql("SET default_transaction_read_only = off",
		"CREATE OR REPLACE TRIGGER torture BEFORE INSERT ON spendflush.producers FOR EACH STATEMENT EXECUTE FUNCTION public.torture_refuse()")
}

func (f *postgresReadOnly) end(x *rig) {
	x.sql("SET default_transaction_read_only = off", "DROP TRIGGER IF EXISTS torture ON spendflush.producers")
	x.sql("SET default_transaction_read_only = off", "ALTER DATABASE postgres RESET default_transaction_read_only", throwOut)
}

// statementTimeout lets no statement of the instances last.
type statementTimeout struct{}

func (f *statementTimeout) begin(x *rig) {
	x.note("statement_timeout = 1ms")
	x.sql("ALTER DATABASE postgres SET statement_timeout = '1ms'", throwOut)
}

func (f *statementTimeout) end(x *rig) {
	// Not even this one: so it comes first in its own session.
	x.sql("SET statement_timeout = 0", "ALTER DATABASE postgres RESET statement_timeout", throwOut)
}

// tableLocked is a session that keeps a table of the books locked, as a careless migration or
// VACUUM FULL does.
type tableLocked struct{ conn *pgx.Conn }

func (f *tableLocked) begin(x *rig) {
	table := []string{"total", "producers", "rollup", "series"}[x.rng.IntN(4)]
	x.note("LOCK TABLE spendflush.%s", table)
	x.await("lock a table", patience, func() string {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		conn, err := pgx.Connect(ctx, x.stack.postgres)
		if err != nil {
			return err.Error()
		}
		if _, err := conn.Exec(ctx, "BEGIN; LOCK TABLE spendflush."+table); err != nil {
			_ = conn.Close(ctx)
			return err.Error()
		}
		f.conn = conn
		return ""
	})
}

func (f *tableLocked) end(*rig) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = f.conn.Close(ctx) // which ends the transaction
}

// backendsTerminated ends all sessions of instances, again and again.
type backendsTerminated struct{}

func (f *backendsTerminated) begin(x *rig) {
	x.note("sessions terminated")
	for range 5 {
		x.sql(throwOut)
	}
}

func (f *backendsTerminated) end(x *rig) { x.sql(throwOut) }

// diskFull fills the disk that Postgres is on, and makes it need more of it. Postgres may end
// itself over that.
type diskFull struct{}

func (f *diskFull) file(x *rig) string { return filepath.Join(x.disk, "filler") }

func (f *diskFull) begin(x *rig) {
	x.watch.countDeadlocks()
	file, err := os.Create(f.file(x))
	x.try("fill the disk", err)
	defer file.Close()
	var bytes int
	for block := make([]byte, 1<<20); ; {
		n, err := file.Write(block)
		bytes += n
		if errors.Is(err, syscall.ENOSPC) {
			break
		}
		x.try("fill the disk", err)
	}
	x.note("the disk of Postgres is full, by a file of %d MiB", bytes>>20)
	for range 3 {
		_ = x.database(func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, "SELECT pg_switch_wal()") // no matter: it needs disk
			return err
		})
	}
}

func (f *diskFull) end(x *rig) {
	x.try("empty the disk", os.Remove(f.file(x)))
	answers := func() bool {
		return x.database(func(ctx context.Context, conn *pgx.Conn) error { return conn.Ping(ctx) }) == nil
	}
	for !answers() { // it may be about to end itself
		select {
		case <-x.server.postgres.Done():
			x.note("Postgres had ended itself; it is started again")
			restart(x.t, x.server.postgres.Restart)
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}
