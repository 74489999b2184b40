package testserver_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush/internal/lab/testserver"
)

func TestMain(m *testing.M) { testserver.Main(m) }

func TestDatabasesAreSeparateAndGoneAfterTheTest(t *testing.T) {
	var gone string
	ok := t.Run("one test", func(t *testing.T) {
		gone = testserver.Postgres(t)
		other := testserver.Postgres(t)
		exec(t, connect(t, gone), "CREATE TABLE x ()")
		exec(t, connect(t, other), "CREATE TABLE x ()") // fails if it is there
	})
	if !ok {
		t.FailNow()
	}
	_, err := pgx.Connect(t.Context(), gone)
	const unknownDatabase = "3D000"
	if e, ok := errors.AsType[*pgconn.PgError](err); !ok || e.Code != unknownDatabase {
		t.Errorf("connecting to a database after its test: %v; it should be unknown", err)
	}
}

func TestRedisDatabasesAreSeparateAndStartEmpty(t *testing.T) {
	seen := make(map[int]bool)
	for range 300 { // some numbers come twice
		ok := t.Run("test", func(t *testing.T) {
			one, other := client(t, testserver.Redis(t)), client(t, testserver.Redis(t))
			for _, c := range []*redis.Client{one, other} {
				if n, err := c.DBSize(t.Context()).Result(); n != 0 || err != nil {
					t.Fatalf("a fresh database holds %d keys, error %v", n, err)
				}
			}
			if err := one.Set(t.Context(), "key", "one", 0).Err(); err != nil {
				t.Fatal(err)
			}
			if err := other.Get(t.Context(), "key").Err(); !errors.Is(err, redis.Nil) {
				t.Fatalf("the key of one database read in another: %v", err)
			}
			seen[one.Options().DB], seen[other.Options().DB] = true, true
		})
		if !ok {
			t.FailNow()
		}
	}
	if len(seen) != 512 {
		t.Errorf("%d numbers were used, want all 512", len(seen))
	}
}

func TestTransactionPoolingIsInForceBehindPgBouncer(t *testing.T) {
	// One server connection for two clients: only between transactions can they share it.
	url := testserver.PgBouncer(t, testserver.Postgres(t), map[string]string{"default_pool_size": "1"})
	one, other := connect(t, url), connect(t, url)
	var pids [2]int
	for i, conn := range []*pgx.Conn{one, other} {
		err := conn.QueryRow(t.Context(), "SELECT pg_backend_pid()", pgx.QueryExecModeSimpleProtocol).Scan(&pids[i])
		if err != nil {
			t.Fatal(err)
		}
	}
	if pids[0] != pids[1] {
		t.Errorf("two clients were given the server connections %v, want one", pids)
	}
}

func TestAKilledPrivatePostgresComesBackWithItsRows(t *testing.T) {
	p := testserver.NewPostgres(t)
	exec(t, connect(t, p.URL("")), "CREATE TABLE kept AS SELECT 1 AS n")
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := p.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	exec(t, connect(t, p.URL("")), "INSERT INTO kept VALUES (2)")
}

func TestAKilledPrivateRedisComesBackWithItsKeys(t *testing.T) {
	r := testserver.NewRedis(t)
	if err := client(t, r.URL()).Set(t.Context(), "key", "value", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if err := r.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := r.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := client(t, r.URL()).Get(t.Context(), "key").Result(); got != "value" || err != nil {
		t.Errorf("read %q, error %v", got, err)
	}
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func exec(t *testing.T, conn *pgx.Conn, statement string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}

func client(t *testing.T, url string) *redis.Client {
	t.Helper()
	o, err := redis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	c := redis.NewClient(o)
	t.Cleanup(func() { c.Close() })
	return c
}
