package pglink

import (
	"errors"
	"fmt"
	"time"
)

// ErrEncoding is wrapped where the database is of an encoding that can't keep every text.
var ErrEncoding = errors.New("UTF8 is needed, as in CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0; SQL_ASCII works too")

// CheckEncoding returns an error that wraps ErrEncoding unless a database of this server_encoding
// keeps every text. One of SQL_ASCII keeps bytes as they are sent.
func CheckEncoding(encoding string) error {
	if encoding == "UTF8" || encoding == "SQL_ASCII" {
		return nil
	}
	return fmt.Errorf("the database is of the encoding %s, which has no room for all characters: %w", encoding, ErrEncoding)
}

// Settings returns the statement by which every transaction begins, after BEGIN, whatever the role,
// the database, the server and the URL are set to. It holds for the transaction alone, so that
// nothing of it stays behind with a pooler's connection, and needs no setting itself.
//
// The first four are said by the connection as well, where it is one of ours. A pool of the
// caller's may have sessions with others.
//
// Nothing is looked up in a schema that another role may have put something into. How long the work
// takes is bounded by the client alone. idle is how long Postgres waits for the client in the
// middle of the transaction, lock how long a statement waits for a lock; 0 is without end. more are
// further calls, each with a comma before it.
//
// transaction_timeout is there from Postgres 17 on.
func Settings(idle, lock time.Duration, more string) string {
	return fmt.Sprintf(`SELECT pg_catalog.set_config('client_encoding', 'UTF8', true),
    pg_catalog.set_config('DateStyle', 'ISO', true),
    pg_catalog.set_config('TimeZone', 'UTC', true),
    pg_catalog.set_config('standard_conforming_strings', 'on', true),
    pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true),
    pg_catalog.set_config('statement_timeout', '0', true),
    pg_catalog.set_config('idle_in_transaction_session_timeout', '%d', true),
    pg_catalog.set_config('lock_timeout', '%d', true),
    CASE WHEN pg_catalog.current_setting('transaction_timeout', true) IS NOT NULL
        THEN pg_catalog.set_config('transaction_timeout', '0', true) END%s`, idle.Milliseconds(), lock.Milliseconds(), more)
}

// OnDisk is a further call for Settings: COMMIT returns when the commit is on disk. What was
// written is forgotten here then.
const OnDisk = `,
    CASE WHEN pg_catalog.current_setting('synchronous_commit') OPERATOR(pg_catalog.=) 'off'
        THEN pg_catalog.set_config('synchronous_commit', 'on', true) END`

// How transactions begin. A level above READ COMMITTED would keep a snapshot from the beginning on.
const (
	BeginWrite    = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE NOT DEFERRABLE"
	BeginRead     = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY NOT DEFERRABLE"
	BeginSnapshot = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY NOT DEFERRABLE"
)
