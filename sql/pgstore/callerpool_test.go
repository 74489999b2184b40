package pgstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/spendflush/spendflush/internal/lab/faultproxy"
	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/spend"
)

// callersPool returns a pool that a caller has set up in a way of its own.
func callersPool(t *testing.T, databaseURL string, change func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 4
	change(config)
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func onPool(t *testing.T, pool *pgxpool.Pool) *Store {
	t.Helper()
	s, err := NewStore(pool, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// setUp has every session of the pool begin by these settings, as a caller does for work of its
// own.
func setUp(settings string) func(*pgxpool.Config) {
	return func(config *pgxpool.Config) {
		config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
			for setting := range strings.SplitSeq(settings, ";") {
				if _, err := conn.Exec(ctx, "SET "+setting); err != nil {
					return err
				}
			}
			return nil
		}
	}
}

// state returns what a session is set to, and what is left in it. It calls nothing that the
// session's search_path decides on.
func state(t *testing.T, conn *pgx.Conn) map[string]string {
	t.Helper()
	results, err := conn.PgConn().Exec(t.Context(), `SELECT name, setting FROM pg_catalog.pg_settings;
		SELECT name, 'prepared' FROM pg_catalog.pg_prepared_statements;
		SELECT locktype, pid FROM pg_catalog.pg_locks`).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	of := map[string]string{}
	for _, result := range results[:2] {
		for _, row := range result.Rows {
			if strings.HasPrefix(string(row[0]), "plpgsql.") {
				continue // these come with the first function that is called
			}
			of[string(row[0])] = string(row[1])
		}
	}
	for _, row := range results[2].Rows {
		if string(row[0]) == "advisory" && string(row[1]) == strconv.Itoa(int(conn.PgConn().PID())) {
			of["a lock"] = "advisory"
		}
	}
	return of
}

// states returns the state of every idle connection of the pool.
func states(t *testing.T, pool *pgxpool.Pool) (all []map[string]string) {
	t.Helper()
	for _, conn := range pool.AcquireAllIdle(t.Context()) {
		all = append(all, state(t, conn.Conn()))
		conn.Release()
	}
	return all
}

// A caller's sessions may be set up in any way: it matters to no statement of a Store and its lock,
// and they stay as they are.
func TestAPoolOfTheCallersWorksHoweverItIsSetUpAndStaysAsItIs(t *testing.T) {
	for _, c := range []struct {
		name  string
		setUp func(*pgxpool.Config)
	}{
		{"time-outs", setUp("statement_timeout = '250ms'; lock_timeout = '1ms'; idle_in_transaction_session_timeout = '50ms'")},
		{"dates", setUp("DateStyle = 'SQL, DMY'; TimeZone = 'Asia/Kolkata'; IntervalStyle = 'sql_standard'")},
		{"texts", setUp("client_encoding = 'LATIN1'; bytea_output = 'escape'; standard_conforming_strings = off; extra_float_digits = -15")},
		{"transactions", setUp("default_transaction_read_only = on; default_transaction_isolation = 'serializable'; " +
			"default_transaction_deferrable = on; synchronous_commit = off")},
		{"planner", setUp("enable_indexscan = off; enable_bitmapscan = off; plan_cache_mode = force_generic_plan; jit = on; jit_above_cost = 0")},
		{"path", setUp("search_path = evil, public, pg_catalog")},
		{"prepared statements", func(c *pgxpool.Config) { c.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheStatement }},
		{"simple protocol", func(c *pgxpool.Config) { c.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol }},
		{"no caches", func(c *pgxpool.Config) {
			c.ConnConfig.StatementCacheCapacity, c.ConnConfig.DescriptionCacheCapacity = 0, 0
			c.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
		}},
		{"two connections", func(c *pgxpool.Config) { c.MaxConns = 2 }},
		{"times", func(c *pgxpool.Config) { c.AfterConnect = timesInKolkata }},
	} {
		t.Run(c.name, func(t *testing.T) {
			databaseURL := database(t)
			plain := open(t, databaseURL, Options{})
			if c.name == "path" {
				execute(t, plain.pool, twins)
			}
			pool := callersPool(t, databaseURL, c.setUp)
			before := stateOfNew(t, pool)

			s := onPool(t, pool)
			useEverything(t, s, plain)
			wantTimesInUTC(t, s)
			name := request{spend.Series{APIKey: `日本é\`}, noon, one("1")}
			apply(t, s, flushOf(newProducer(), 1, 1, name))
			if n := query[int](t, plain, "SELECT count(*) FROM spendflush.entity WHERE entity_id = $1", name.series.APIKey); n != 1 {
				t.Errorf("%d entities have the name that was booked, want 1", n)
			}
			if _, err := s.Probe(t.Context()); err != nil {
				t.Error(err)
			}

			after := states(t, pool)
			if len(after) == 0 {
				t.Fatal("no connection of the pool is left")
			}
			for _, got := range after {
				for name := range got {
					if got[name] != before[name] {
						t.Errorf("a session of the caller's has %s %q, and had %q", name, got[name], before[name])
					}
				}
			}
		})
	}
}

// stateOfNew returns the state of a connection that nothing was done on.
func stateOfNew(t *testing.T, pool *pgxpool.Pool) map[string]string {
	t.Helper()
	if err := pool.AcquireFunc(t.Context(), func(*pgxpool.Conn) error { return nil }); err != nil {
		t.Fatal(err)
	}
	return states(t, pool)[0]
}

func timesInKolkata(_ context.Context, conn *pgx.Conn) error {
	kolkata, err := time.LoadLocation("Asia/Kolkata")
	conn.TypeMap().RegisterType(&pgtype.Type{
		Name: "timestamptz", OID: pgtype.TimestamptzOID, Codec: &pgtype.TimestamptzCodec{ScanLocation: kolkata},
	})
	return err
}

func wantTimesInUTC(t *testing.T, s *Store) {
	t.Helper()
	books, err := s.BooksIdentity(t.Context())
	if err != nil || books.MadeAt.Location() != time.UTC {
		t.Errorf("the books were made at %v, %v; want UTC", books.MadeAt, err)
	}
	list, err := s.Quarantined(t.Context(), true, 0, 10)
	if err != nil || len(list) == 0 || list[0].CreatedAt.Location() != time.UTC || list[0].SettledAt.Location() != time.UTC {
		t.Errorf("the quarantine has %+v, %v; want times in UTC", list, err)
	}
}

func TestAPoolOfTheCallersThatPreparesStatementsWorksThroughAPoolerInTransactionMode(t *testing.T) {
	databaseURL := database(t)
	plain := open(t, databaseURL, Options{})
	pool := callersPool(t, pooled(t, databaseURL), func(c *pgxpool.Config) {
		c.MaxConns = 8 // more than the pooler has
		c.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheStatement
	})
	s := onPool(t, pool)
	fight(t, s)
	useEverything(t, s, plain)
	if n := query[int](t, plain, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"); n != 0 {
		t.Errorf("%d advisory locks are left", n)
	}
}

func TestAPoolOfTheCallersOutlivesTheStore(t *testing.T) {
	pool := callersPool(t, database(t), func(*pgxpool.Config) {})
	s := onPool(t, pool)
	if _, err := s.Books(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if err := pool.Ping(t.Context()); err != nil {
		t.Errorf("after the Store was closed: %v", err)
	}
}

func TestAPoolOrOptionsThatWillNotDoAreRefusedByName(t *testing.T) {
	fine := callersPool(t, "postgres://127.0.0.1:1/none", func(*pgxpool.Config) {})
	one := callersPool(t, "postgres://127.0.0.1:1/none", func(c *pgxpool.Config) { c.MaxConns = 1 })
	for _, c := range []struct {
		name    string
		pool    *pgxpool.Pool
		options Options
		want    []string
	}{
		{"none", nil, Options{}, []string{"pool: is nil"}},
		{"one connection", one, Options{}, []string{"pool: MaxConns is 1; allowed are 2 and more"}},
		{"options of the pool", fine, Options{MaxConns: 8, Standby: true, Logger: slog.Default(), ApplicationName: "x"},
			[]string{"MaxConns: 8; allowed is 0", "Standby: true; allowed is false", "Logger: is set; allowed is nil", `ApplicationName: "x"; allowed is ""`}},
		{"keys", fine, Options{BatchKeys: spend.BatchKeys{Key: []byte("short")}}, []string{"BatchKeys: "}},
	} {
		_, err := NewStore(c.pool, c.options)
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v; want %q", c.name, err, want)
			}
		}
	}
	if _, err := NewStore(fine, Options{KnownKeys: 10}); err != nil {
		t.Error(err)
	}
}

func TestBooksInADatabaseThatCanNotKeepEveryTextAreNotTold(t *testing.T) {
	databaseURL := testserver.PostgresEncoded(t, "LATIN1")
	plain := open(t, databaseURL, Options{})
	// As a caller makes the tables that doesn't use migrations.Up.
	execute(t, plain.pool, `CREATE SCHEMA spendflush;
		CREATE TABLE spendflush.books (id uuid, made_at timestamptz DEFAULT now(), earlier uuid[] DEFAULT '{}');
		INSERT INTO spendflush.books (id) VALUES (gen_random_uuid())`)
	s := onPool(t, callersPool(t, databaseURL, func(*pgxpool.Config) {}))
	if _, err := s.Books(t.Context()); !errors.Is(err, ErrEncoding) || !strings.Contains(err.Error(), "LATIN1") {
		t.Errorf("Books returned %v", err)
	}
}

// A caller's pool knows nothing of standbys. Its connections to one must not come back to it, or
// they were used for ever.
func TestAConnectionOfTheCallersThatLeadsToAStandbyIsClosedAndTheOthersAreLeftAlone(t *testing.T) {
	primary, standby := couple(t)
	front := faultproxy.New(t, host(t, standby.URL("")))
	pool := callersPool(t, withHost(t, primary.URL(""), front.Addr(), "any"), func(c *pgxpool.Config) { c.MaxConns = 2 })
	s := onPool(t, pool)
	p := newProducer()
	f := flushOf(p, 1, 1, request{spend.Series{APIKey: "k"}, noon, one("1")})

	busy, err := pool.Acquire(t.Context()) // in the middle of the caller's own work
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(busy.Release) // before the pool is closed, whatever fails
	if _, err := s.Marks(t.Context(), 0, []spend.ProducerID{p}); !errors.Is(err, ErrStandby) {
		t.Errorf("Marks: %v, want %v", err, ErrStandby)
	}
	if _, err := s.Books(t.Context()); !errors.Is(err, ErrStandby) {
		t.Errorf("Books: %v, want %v", err, ErrStandby)
	}
	if err := s.Apply(t.Context(), f); err == nil {
		t.Error("Apply on a standby went well")
	}
	for _, conn := range pool.AcquireAllIdle(t.Context()) {
		t.Error("a connection to the standby came back to the pool")
		conn.Release()
	}

	front.Lead(host(t, primary.URL("")))
	apply(t, s, f)
	if _, err := s.Marks(t.Context(), 0, []spend.ProducerID{p}); err != nil {
		t.Error(err)
	}
	if err := busy.Ping(t.Context()); err != nil {
		t.Errorf("the connection of the caller's own work: %v", err)
	}
	busy.Release()
}

func TestPasswordsThatThePoolGetsForEachConnectionAreUsedByTheProbe(t *testing.T) {
	databaseURL := database(t)
	pool := callersPool(t, databaseURL, func(c *pgxpool.Config) {
		right := c.ConnConfig.User
		c.ConnConfig.User = "nobody-of-that-name"
		c.BeforeConnect = func(_ context.Context, config *pgx.ConnConfig) error {
			config.User = right
			return nil
		}
	})
	if _, err := onPool(t, pool).Probe(t.Context()); err != nil {
		t.Error(err)
	}
	config := pool.Config()
	config.BeforeConnect = func(context.Context, *pgx.ConnConfig) error { return errors.New("no password today") }
	closed, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(closed.Close)
	if _, err := onPool(t, closed).Probe(t.Context()); err == nil || !strings.Contains(fmt.Sprint(err), "no password today") {
		t.Errorf("Probe returned %v", err)
	}
}
