package testserver

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush/internal/servers"
)

// PostgresSettings are those of every test server. The time zone is one that nobody is in by
// chance, off the full hour: what takes the session's zone for UTC doesn't pass.
var PostgresSettings = map[string]string{
	"fsync":           "off", // the data needn't survive the machine; that of a killed server is in the page cache
	"max_connections": "200",
	"shared_buffers":  "128MB",
	"log_lock_waits":  "on",
	"timezone":        "Asia/Kathmandu",
}

var (
	sharedPostgres = shared{name: "Postgres", variable: PostgresVariable, local: localPostgres, inspect: inspectPostgres}
	databases      atomic.Int64

	// template is the data that private servers begin with, made once: initdb is slow.
	template = sync.OnceValues(func() (dir string, err error) {
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
		defer cancel()
		if dir, err = tempDir(); err != nil {
			return "", err
		}
		atEnd(func(context.Context) error { return os.RemoveAll(dir) })
		p, err := servers.StartPostgres(ctx, servers.PostgresConfig{Dir: dir, Settings: PostgresSettings})
		if err != nil {
			return "", err
		}
		return dir, p.Stop(ctx)
	})
)

// Postgres returns the URL of a new empty database on the Postgres that the package's tests share.
// It is dropped when the test ends, whoever still uses it.
func Postgres(t testing.TB) string {
	t.Helper()
	return newDatabase(t, "")
}

// PostgresEncoded is Postgres with a database of that encoding.
func PostgresEncoded(t testing.TB, encoding string) string {
	t.Helper()
	return newDatabase(t, " ENCODING '"+encoding+"' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
}

var filled struct {
	mu    sync.Mutex // held while one is filled
	names map[string]string
}

// PostgresFilled is Postgres with a database that is a copy of one which fill has filled, and left:
// once for each name, as that takes longer than a copy.
func PostgresFilled(t testing.TB, name string, fill func(databaseURL string)) string {
	t.Helper()
	return newDatabase(t, " TEMPLATE "+filledOnce(t, name, fill))
}

func filledOnce(t testing.TB, name string, fill func(databaseURL string)) (database string) {
	t.Helper()
	server := sharedPostgres.get(t)
	filled.mu.Lock()
	defer filled.mu.Unlock()
	if database, there := filled.names[name]; there {
		return database
	}
	database = fmt.Sprintf("filled_%d", databases.Add(1))
	execute(t, server, "CREATE DATABASE "+database)
	atEnd(func(ctx context.Context) error {
		return run(ctx, server, "DROP DATABASE IF EXISTS "+database+" WITH (FORCE)")
	})
	fill(inDatabase(t, server, database))
	if filled.names == nil {
		filled.names = map[string]string{}
	}
	filled.names[name] = database
	return database
}

func newDatabase(t testing.TB, options string) string {
	t.Helper()
	server := sharedPostgres.get(t)
	name := fmt.Sprintf("test_%d", databases.Add(1))
	execute(t, server, "CREATE DATABASE "+name+options)
	t.Cleanup(func() { execute(t, server, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)") })
	return inDatabase(t, server, name)
}

func inDatabase(t testing.TB, server, name string) string {
	t.Helper()
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + name
	return u.String()
}

func execute(t testing.TB, url, statement string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if err := run(ctx, url, statement); err != nil {
		t.Fatalf("testserver: %s: %v", statement, err)
	}
}

func run(ctx context.Context, url, statement string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, statement)
	return err
}

func localPostgres(ctx context.Context) (string, error) {
	dir, err := tempDir()
	if err != nil {
		return "", err
	}
	atEnd(func(context.Context) error { return os.RemoveAll(dir) })
	p, err := servers.StartPostgres(ctx, servers.PostgresConfig{Dir: dir, Settings: PostgresSettings})
	if err != nil {
		return "", err
	}
	atEnd(p.Stop)
	return p.URL(""), nil
}

// NewPostgres starts a Postgres for this test alone, which may kill and restart it. It is always
// one of this machine.
func NewPostgres(t testing.TB) *servers.Postgres {
	t.Helper()
	return NewPostgresIn(t, privateDir(t), nil)
}

// NewPostgresIn is NewPostgres with its data in a directory of the caller's, such as a small disk,
// and more settings.
func NewPostgresIn(t testing.TB, dir string, settings map[string]string) *servers.Postgres {
	t.Helper()
	from, err := template()
	if err != nil {
		t.Fatalf("testserver: %v", err)
	}
	all := maps.Clone(PostgresSettings)
	maps.Copy(all, settings)
	return start(t, servers.PostgresConfig{Dir: dir, Template: from, Settings: all})
}

// NewStandby starts a Postgres for this test alone that follows the primary at the URL by
// streaming. It is always one of this machine.
func NewStandby(t testing.TB, primaryURL string) *servers.Postgres {
	t.Helper()
	return start(t, servers.PostgresConfig{Dir: privateDir(t), Primary: primaryURL, Settings: PostgresSettings})
}

// start starts a Postgres that ends with the test.
func start(t testing.TB, c servers.PostgresConfig) *servers.Postgres {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	p, err := servers.StartPostgres(ctx, c)
	if err != nil {
		t.Fatalf("testserver: %v", err)
	}
	t.Cleanup(func() {
		showLog(t, filepath.Join(c.Dir, "postgres.log"))
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		select {
		case <-p.Done():
			// What a killed Postgres leaves in shared memory only the next start clears.
			if err := p.Restart(ctx); err != nil {
				t.Logf("testserver: %v", err)
			}
		default:
		}
		if err := p.Stop(ctx); err != nil {
			t.Errorf("testserver: %v", err)
		}
	})
	return p
}

// privateDir makes a directory that is removed when the test ends.
func privateDir(t testing.TB) string {
	t.Helper()
	dir, err := tempDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// PgBouncer starts Debian's PgBouncer in transaction mode before the database and returns the URL
// of the way through it. Settings are more lines of its section [pgbouncer].
func PgBouncer(t testing.TB, postgresURL string, settings map[string]string) string {
	t.Helper()
	dir := privateDir(t)
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	b, err := servers.StartPgBouncer(ctx, servers.PgBouncerConfig{Dir: dir, Database: postgresURL, Settings: settings})
	if err != nil {
		t.Fatalf("testserver: %v", err)
	}
	t.Cleanup(func() {
		showLog(t, filepath.Join(dir, "pgbouncer.log"))
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		if err := b.Stop(ctx); err != nil {
			t.Errorf("testserver: %v", err)
		}
	})
	return b.URL()
}

func inspectPostgres(ctx context.Context, url string) (is inspection, err error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return is, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	const others = "SELECT coalesce('the database ' || min(datname), '') FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres'"
	err = conn.QueryRow(ctx, "SELECT current_setting('server_version'), ("+others+")").Scan(&is.version, &is.holds)
	return is, err
}
