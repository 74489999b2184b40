package servers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/spendflush/spendflush/internal/trust"
)

const postgresUser = "postgres"

// PostgresConfig says how to start a private Postgres.
type PostgresConfig struct {
	// Dir keeps the data, the log and the password. It is made, and filled by initdb, when it isn't
	// there. Data that is there already needs programs of its major version. When we are root, the
	// server runs as user postgres or nobody, which must be able to reach Dir.
	Dir string
	// Template, if not "", is the Dir of a stopped server whose data and password are copied where
	// initdb would otherwise make new ones. That is quicker, for tests that start many.
	Template string
	// Primary, if not "", is the URL of a running server that this one is to be a standby of: its
	// data is copied with pg_basebackup where initdb would otherwise make new ones, and streamed
	// from then on. The URL's user must be one that may replicate.
	Primary string
	// Port on 127.0.0.1; 0 finds a free one.
	Port int
	// Settings override those of postgresql.conf: "fsync": "off", for data that needn't survive the
	// machine.
	Settings map[string]string
	// Log gets what the server logs, which goes to postgres.log in Dir in any case. The server
	// waits for it to write. nil: nobody.
	Log io.Writer
}

// Postgres is a running private server.
type Postgres struct {
	server
	password string // fixed by the first start
}

// StartPostgres starts a Postgres, with initdb first where that is needed, and returns when it
// answers. Its encoding is UTF8 and its locale C. When ctx is done first, nothing is left running.
// Errors: *MissingError, *DirInUseError,
// *PortInUseError; *trust.Error if another account could have made or changed what is in Dir; ErrEnded with the end of the
// log, if the server refuses to start.
func StartPostgres(ctx context.Context, c PostgresConfig) (*Postgres, error) {
	run, err := unprivileged()
	if err != nil {
		return nil, err
	}
	dir, err := makeDir(c.Dir, run)
	if err != nil {
		return nil, fmt.Errorf("directory of postgres: %w", err)
	}
	data := filepath.Join(dir, "data")
	major, err := dataMajor(data)
	if err != nil {
		return nil, err
	}
	bin, err := findPostgres(major)
	if err != nil {
		return nil, err
	}
	p := &Postgres{}
	p.server = server{
		name:       "postgres",
		dir:        dir,
		logWriter:  c.Log,
		stopSignal: syscall.SIGINT, // "fast": clients are thrown out, data is written
		prepare: func(ctx context.Context) error {
			secret, err := makeData(ctx, bin, dir, run, c)
			if err != nil {
				return err
			}
			if p.password == "" { // at a restart URL may be reading it
				p.password = secret
			}
			return endOrphans(ctx, "postgres", filepath.Join(data, "postmaster.pid"), data, syscall.SIGINT)
		},
		command: func(port int) (*exec.Cmd, error) {
			cmd := exec.Command(filepath.Join(bin, "postgres"), postgresArgs(data, port, c.Settings)...)
			cmd.Dir = data
			run.apply(cmd)
			return cmd, nil
		},
		probe: func(ctx context.Context, port int) error {
			conn, err := pgx.Connect(ctx, postgresURL(p.password, port, postgresUser))
			const invalidPassword = "28P01"
			if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code == invalidPassword {
				return fmt.Errorf("%w: the password in %s isn't that of user %s: %w", errRefused, dir, postgresUser, err)
			}
			if err != nil {
				return err
			}
			return conn.Close(ctx)
		},
	}
	if err := p.launch(ctx, c.Port); err != nil {
		return nil, err
	}
	return p, nil
}

// URL returns the URL of a database, with the password; "" stands for the database postgres.
func (p *Postgres) URL(database string) string {
	if database == "" {
		database = postgresUser
	}
	return postgresURL(p.password, p.Port(), database)
}

func postgresURL(password string, port int, database string) string {
	u := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(postgresUser, password),
		Host:     address(port),
		Path:     "/" + database,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// makeData makes the data in dir, unless it is there, and returns the password. It is made aside
// first: data half made is never taken for good.
func makeData(ctx context.Context, bin, dir string, run *account, c PostgresConfig) (string, error) {
	data, aside := filepath.Join(dir, "data"), filepath.Join(dir, "data.new")
	if info, err := os.Lstat(data); !errors.Is(err, fs.ErrNotExist) {
		if err == nil && !info.IsDir() {
			err = &trust.Error{Path: data, Why: "is no directory; allowed is the directory that this program made"}
		}
		if err != nil {
			return "", err
		}
		return keptPassword(dir)
	}
	if err := os.RemoveAll(aside); err != nil {
		return "", err
	}
	if c.Primary != "" {
		return copyPrimary(ctx, bin, c.Primary, dir, aside, data, run)
	}
	if c.Template != "" {
		return copyTemplate(ctx, c.Template, dir, aside, data)
	}
	secret, err := password(dir, "")
	if err != nil {
		return "", err
	}
	if err := initdb(ctx, bin, aside, secret, run, c.Settings["fsync"] == "off"); err != nil {
		return "", err
	}
	return secret, os.Rename(aside, data)
}

func copyTemplate(ctx context.Context, template, dir, aside, data string) (string, error) {
	lock, err := shareDir(template) // nobody changes it meanwhile
	if err != nil {
		return "", fmt.Errorf("template: %w", err)
	}
	defer lock.Close()
	secret, err := keptPassword(template)
	if err != nil {
		return "", fmt.Errorf("template: %w", err)
	}
	if err := writeFile(passwordFile(dir), secret+"\n", nil); err != nil {
		return "", err
	}
	// Owners and modes have to stay.
	if err := runToEnd(ctx, exec.Command("cp", "-pR", filepath.Join(template, "data"), aside)); err != nil {
		return "", fmt.Errorf("copy the template: %w", err)
	}
	return secret, os.Rename(aside, data)
}

func initdb(ctx context.Context, bin, data, password string, run *account, quick bool) error {
	if err := os.Mkdir(data, 0o700); err != nil {
		return err
	}
	if err := run.own(data); err != nil {
		return err
	}
	input := data + ".password"
	defer os.Remove(input)
	if err := writeFile(input, password+"\n", run); err != nil {
		return err
	}
	args := []string{
		"--pgdata=" + data, "--username=" + postgresUser, "--pwfile=" + input,
		"--auth=scram-sha-256", "--encoding=UTF8", "--locale=C",
	}
	if quick {
		args = append(args, "--no-sync")
	}
	cmd := exec.Command(filepath.Join(bin, "initdb"), args...)
	cmd.Dir = filepath.Dir(data)
	run.apply(cmd)
	return runToEnd(ctx, cmd)
}

func postgresArgs(data string, port int, settings map[string]string) []string {
	args := []string{"-D", data}
	set := func(name, value string) { args = append(args, "-c", name+"="+value) }
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		set(name, settings[name])
	}
	// What follows wins: a later setting replaces an earlier one.
	set("listen_addresses", loopback)
	set("port", strconv.Itoa(port))
	set("unix_socket_directories", "")
	set("logging_collector", "off")
	return args
}
