package servers

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

func TestPostgresKeepsRowsAndPasswordFromOneStartToTheNext(t *testing.T) {
	dir := tempDir(t)
	first := startPostgres(t, PostgresConfig{Dir: dir})
	if _, err := connect(t, first).Exec(t.Context(), "CREATE TABLE kept AS SELECT 7 AS n"); err != nil {
		t.Fatal(err)
	}
	stop(t, first)
	second := startPostgres(t, PostgresConfig{Dir: dir, Port: first.Port()})
	if second.URL("") != first.URL("") {
		t.Error("the URL has changed")
	}
	if n := query[int](t, connect(t, second), "SELECT n FROM kept"); n != 7 {
		t.Errorf("read %d, want 7", n)
	}
}

func TestPostgresSpeaksUTF8AndSortsByBytesWhateverTheEnvironment(t *testing.T) {
	t.Setenv("LC_ALL", "de_DE.ISO-8859-1")
	t.Setenv("PGDATA", "/nowhere")
	t.Setenv("PGPORT", "1")
	p, err := StartPostgres(t.Context(), PostgresConfig{Dir: tempDir(t), Settings: quick})
	if err != nil {
		t.Fatal(err)
	}
	defer stop(t, p)
	conn := connect(t, p)
	defer conn.Close(t.Context())
	for sql, want := range map[string]string{
		"SHOW server_encoding": "UTF8",
		"SELECT datcollate FROM pg_database WHERE datname = current_database()": "C",
	} {
		if got := query[string](t, conn, sql); got != want {
			t.Errorf("%s: %q, want %q", sql, got, want)
		}
	}
}

func TestKillLeavesNoProcessOfPostgresAliveAndRestartFindsWhatWasCommitted(t *testing.T) {
	p := startPostgres(t, PostgresConfig{Dir: tempDir(t)})
	url := p.URL("")
	conn := connect(t, p)
	pids := []int{p.PID(), query[int](t, conn, "SELECT pg_backend_pid()")}
	if _, err := conn.Exec(t.Context(), "CREATE TABLE kept AS SELECT 7 AS n"); err != nil {
		t.Fatal(err)
	}
	// One that computes doesn't notice by itself that its postmaster is gone.
	busy := connect(t, p)
	pids = append(pids, query[int](t, busy, "SELECT pg_backend_pid()"))
	ended := make(chan error)
	go func() {
		_, err := busy.Exec(t.Context(), "SELECT count(*) FROM generate_series(1, 1e12)")
		ended <- err
	}()
	const others = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%1e12%' AND pid <> pg_backend_pid()"
	for query[int](t, conn, others) == 0 {
	}
	rows, err := conn.Query(t.Context(), "SELECT pid FROM pg_stat_activity")
	if err != nil {
		t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range append(pids, all...) {
		if !isGone(t, pid) {
			t.Errorf("process %d is alive", pid)
		}
	}
	if err := <-ended; err == nil {
		t.Error("the query didn't notice")
	}
	if err := p.Kill(); err != nil {
		t.Errorf("killing it again: %v", err)
	}
	if err := p.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p.URL("") != url {
		t.Error("the URL has changed")
	}
	if n := query[int](t, connect(t, p), "SELECT n FROM kept"); n != 7 {
		t.Errorf("read %d, want 7", n)
	}
}

func TestNobodyGetsIntoPostgresWithoutThePassword(t *testing.T) {
	p := startPostgres(t, PostgresConfig{Dir: tempDir(t)})
	_, err := pgx.Connect(t.Context(), strings.Replace(p.URL(""), p.password, "guess", 1))
	const invalidPassword = "28P01"
	if e, ok := errors.AsType[*pgconn.PgError](err); !ok || e.Code != invalidPassword {
		t.Errorf("error %v, want %s", err, invalidPassword)
	}
	st, err := os.Stat(filepath.Join(p.Dir(), "password"))
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode().Perm() != 0o600 {
		t.Errorf("the password file has mode %s", st.Mode())
	}
}

func TestAPasswordThatDoesNotFitTheDataIsAnErrorAndNoWait(t *testing.T) {
	dir := tempDir(t)
	p := startPostgres(t, PostgresConfig{Dir: dir})
	if _, err := connect(t, p).Exec(t.Context(), "ALTER ROLE postgres PASSWORD 'another'"); err != nil {
		t.Fatal(err)
	}
	stop(t, p)
	if _, err := StartPostgres(t.Context(), PostgresConfig{Dir: dir, Settings: quick}); !errors.Is(err, errRefused) {
		t.Errorf("with another password: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "password")); err != nil {
		t.Fatal(err)
	}
	if _, err := StartPostgres(t.Context(), PostgresConfig{Dir: dir, Settings: quick}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a password: %v", err)
	}
}

func TestDataHalfMadeByInitdbIsMadeAnew(t *testing.T) {
	dir := tempDir(t)
	half := filepath.Join(dir, "data.new", "base")
	if err := os.MkdirAll(half, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "data.new", "PG_VERSION"), []byte("15\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	startPostgres(t, PostgresConfig{Dir: dir})
}

func TestInitdbIsBrokenOffWithItsContext(t *testing.T) {
	dir := tempDir(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := StartPostgres(ctx, PostgresConfig{Dir: dir, Settings: quick}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that of the context", err)
	}
	startPostgres(t, PostgresConfig{Dir: dir})
}

func TestAPausedPostgresCanBeStopped(t *testing.T) {
	p := startPostgres(t, PostgresConfig{Dir: tempDir(t)})
	if err := p.Pause(); err != nil {
		t.Fatal(err)
	}
	stop(t, p)
	<-p.Done()
}

func TestStopKillsWhatDoesNotEndInTime(t *testing.T) {
	p := startPostgres(t, PostgresConfig{Dir: tempDir(t)})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Stop(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that of the context", err)
	}
	<-p.Done()
	if err := p.Restart(t.Context()); err != nil {
		t.Errorf("starting it again: %v", err)
	}
}

func TestServersThatStartAtOnceMayCopyOneTemplate(t *testing.T) {
	startPostgres(t, PostgresConfig{Dir: tempDir(t)}) // so that the template is there
	ctx := t.Context()
	var work sync.WaitGroup
	for range 3 {
		dir := tempDir(t)
		work.Go(func() {
			p, err := StartPostgres(ctx, PostgresConfig{Dir: dir, Settings: quick, Template: template.dir})
			if err != nil {
				t.Error(err)
				return
			}
			if err := p.Stop(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	work.Wait()
}
