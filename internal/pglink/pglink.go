// Package pglink says how every connection to Postgres is made: which server of several is the
// right one, when a connection is of no more use, and what a database URL that can't be read is
// told.
package pglink

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// ErrStandby is wrapped where a server takes no writes because it is a standby.
var ErrStandby = errors.New("the server is a standby, which takes no writes")

// Options are what can be set of the connections.
type Options struct {
	// Standby allows a single host that is a standby. It has no effect where the URL names several
	// hosts or target_session_attrs.
	Standby bool

	// Moved, if not nil, is called when a server says that it has stopped to be the one to write
	// to. It must not block.
	Moved func()

	// Log is told of a server that takes writes although another was promoted in its place; nil:
	// nobody is.
	Log *slog.Logger
}

// manyHostsTimeout bounds the connection to one of several hosts, unless the URL has
// connect_timeout: a host that has vanished must not keep the next one from being tried.
const manyHostsTimeout = 3 * time.Second

// vanishedAfter is how long a machine may not acknowledge anything before it is taken for gone,
// with all connections to it, whatever the caller's context says.
const vanishedAfter = 5 * time.Second

// Prepare sets up connections by a configuration that was parsed from the URL.
//
// A connection is made to a primary only, unless the URL says otherwise by target_session_attrs, or
// the options do. This is target_session_attrs=primary and not read-write: a role whose
// transactions are read-only by default is no reason to turn a primary away, for a flush says what
// it needs.
//
// A connection is closed by the first error that says that its server is not the one to write to
// any more. So it never goes back to a pool.
//
// Where the URL names several hosts and doesn't say which of them is wanted, it returns what
// watches over them, else nil.
func Prepare(config *pgx.ConnConfig, databaseURL string, o Options) *Hosts {
	dialer := &net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 3},
		Control:         giveUpAfter(vanishedAfter),
	}
	config.DialFunc = dialer.DialContext

	// What every session has, whatever the role, the database or the URL say. Poolers in
	// transaction mode keep track of these four; what else matters is set by the transactions
	// themselves.
	for name, value := range map[string]string{
		"client_encoding": "UTF8", "DateStyle": "ISO", "TimeZone": "UTC", "standard_conforming_strings": "on",
	} {
		maps.DeleteFunc(config.RuntimeParams, func(given, _ string) bool { return strings.EqualFold(given, name) })
		config.RuntimeParams[name] = value
	}

	several := hostsOf(config) > 1
	if several && config.ConnectTimeout == 0 {
		config.ConnectTimeout = manyHostsTimeout
	}
	if !saysTarget(databaseURL) && (several || !o.Standby) {
		config.ValidateConnect = refuseStandby
	}
	var hosts *Hosts
	if several && !saysTarget(databaseURL) {
		if o.Log == nil {
			o.Log = slog.New(slog.DiscardHandler)
		}
		hosts = newHosts(config, o.Log)
	}

	fatal := config.OnPgError
	config.OnPgError = func(conn *pgconn.PgConn, err *pgconn.PgError) bool {
		if !Ends(err.Code) {
			return fatal(conn, err)
		}
		if o.Moved != nil {
			o.Moved()
		}
		return false
	}
	return hosts
}

// hostsOf counts the different hosts. Several entries may be of one host, with and without TLS.
func hostsOf(config *pgx.ConnConfig) int {
	type place struct {
		host string
		port uint16
	}
	places := map[place]bool{{config.Host, config.Port}: true}
	for _, f := range config.Fallbacks {
		places[place{f.Host, f.Port}] = true
	}
	return len(places)
}

// refuseStandby is a pgconn.ValidateConnectFunc.
func refuseStandby(ctx context.Context, conn *pgconn.PgConn) error {
	results, err := conn.Exec(ctx, "SELECT pg_catalog.pg_is_in_recovery()").ReadAll()
	if err != nil {
		return err
	}
	if len(results) == 1 && len(results[0].Rows) == 1 && string(results[0].Rows[0][0]) == "f" {
		return nil
	}
	return ErrStandby
}

// The codes of servers that take no writes, or none any more.
const (
	CodeReadOnly       = "25006" // a write in a transaction of a standby
	CodeNotSupported   = "0A000" // BEGIN READ WRITE on a standby
	codeAdminShutdown  = "57P01"
	codeCrashShutdown  = "57P02"
	codeCannotConnect  = "57P03" // it is starting, stopping or recovering; only at the beginning of a connection
	codeDatabaseIsGone = "57P04"
)

// Ends says whether an error of this code is the end of the connection that it came on, and a
// reason to distrust the others of its pool. A code of a server that takes no connection at all
// isn't one: it may be another one of several.
func Ends(code string) bool {
	switch code {
	case CodeReadOnly, CodeNotSupported, codeAdminShutdown, codeCrashShutdown, codeDatabaseIsGone:
		return true
	}
	return false
}
