package servers

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// PgBouncerConfig says how to start a private PgBouncer.
type PgBouncerConfig struct {
	// Dir keeps the settings and the log. It is made when it isn't there. When we are root, the
	// server runs as user postgres or nobody.
	Dir string
	// Port on 127.0.0.1; 0 finds a free one.
	Port int
	// Database is the URL of the one database that clients reach, as its user.
	Database string
	// Settings are more lines of the section [pgbouncer]. They win over our own, of which the main
	// one is pool_mode transaction.
	Settings map[string]string
	// Log gets what the server logs, which goes to pgbouncer.log in Dir in any case. The server
	// waits for it to write. nil: nobody.
	Log io.Writer
}

// PgBouncer is a running private connection pooler.
type PgBouncer struct {
	server
	database url.URL
}

// StartPgBouncer starts a PgBouncer before one database and returns when the database answers
// through it. When ctx is done first, nothing is left running. Errors: as StartPostgres.
func StartPgBouncer(ctx context.Context, c PgBouncerConfig) (*PgBouncer, error) {
	program, ok := findProgram("pgbouncer")
	if !ok {
		return nil, missing("pgbouncer", "pgbouncer", "pgbouncer")
	}
	database, err := pgx.ParseConfig(c.Database)
	if err != nil {
		return nil, fmt.Errorf("database of pgbouncer: %w", err)
	}
	run, err := unprivileged()
	if err != nil {
		return nil, err
	}
	dir, err := makeDir(c.Dir, run)
	if err != nil {
		return nil, fmt.Errorf("directory of pgbouncer: %w", err)
	}
	b := &PgBouncer{database: url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(database.User, database.Password),
		Path:     "/" + database.Database,
		RawQuery: "sslmode=disable",
	}}
	ini, users := filepath.Join(dir, "pgbouncer.ini"), filepath.Join(dir, "users.txt")
	b.server = server{
		name:       "pgbouncer",
		dir:        dir,
		logWriter:  c.Log,
		stopSignal: syscall.SIGTERM, // at once
		prepare: func(context.Context) error {
			return writeFile(users, quoteUser(database.User)+" "+quoteUser(database.Password)+"\n", run)
		},
		command: func(port int) (*exec.Cmd, error) {
			if err := writeFile(ini, pgBouncerIni(database, users, port, c.Settings), run); err != nil {
				return nil, err
			}
			cmd := exec.Command(program, ini)
			cmd.Dir = dir
			run.apply(cmd)
			return cmd, nil
		},
		probe: func(ctx context.Context, port int) error {
			conn, err := pgx.Connect(ctx, b.url(port))
			if err != nil {
				return err
			}
			return conn.Close(ctx)
		},
	}
	if err := b.launch(ctx, c.Port); err != nil {
		return nil, err
	}
	return b, nil
}

// URL returns the URL of the database as reached through PgBouncer, with the password.
func (b *PgBouncer) URL() string { return b.url(b.Port()) }

func (b *PgBouncer) url(port int) string {
	u := b.database
	u.Host = address(port)
	return u.String()
}

func pgBouncerIni(database *pgx.ConnConfig, users string, port int, settings map[string]string) string {
	all := map[string]string{
		"listen_addr":       loopback,
		"listen_port":       strconv.Itoa(port),
		"unix_socket_dir":   "",
		"auth_type":         "scram-sha-256",
		"auth_file":         users,
		"pool_mode":         "transaction",
		"max_client_conn":   "1000",
		"default_pool_size": "20",
		// pgx sends it; PgBouncer refuses what it doesn't know.
		"ignore_startup_parameters": "extra_float_digits",
	}
	maps.Copy(all, settings)
	var ini strings.Builder
	// The name is a star because not all versions know how to quote names; any name leads to the
	// one database.
	fmt.Fprintf(&ini, "[databases]\n* = host=%s port=%d dbname=%s user=%s password=%s\n[pgbouncer]\n",
		quoteValue(database.Host), database.Port, quoteValue(database.Database),
		quoteValue(database.User), quoteValue(database.Password))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&ini, "%s = %s\n", name, all[name])
	}
	return ini.String()
}

func quoteUser(s string) string  { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
func quoteValue(s string) string { return `'` + strings.ReplaceAll(s, `'`, `''`) + `'` }
