package pgstore

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"
)

// NewStore returns a Store on a pool of the caller's, who goes on to use it, and closes it after
// the Store. It doesn't contact the database. The error names each option that can't be used, and
// what is allowed.
//
// Nothing is changed in the pool, its connections or their sessions. Every transaction brings the
// settings that it needs and takes them along when it ends, so a pooler in transaction mode may
// stand in between. No statement is prepared under a name, whatever the pool's
// DefaultQueryExecMode. What others have set in a session doesn't matter, with two exceptions: the
// role must have the rights of docs/runbook.md in every transaction, and session_replication_role
// must be origin.
//
// The pool needs two connections at least: a pglock.Locker keeps one busy while a flush uses
// another. A flush takes one for as long as its transaction lasts, every read one; callers wait for
// a connection.
//
// The pool decides which server is written to. A standby is never written to nor believed, and a
// connection whose server says that it is one, or stops, is closed. But of several hosts only the
// caller's target_session_attrs=primary (or read-write) finds the primary. That a server is frozen,
// or was replaced while it was away, is noticed only by a Store that Open has made.
//
// Of the options MaxConns, Standby, Logger and ApplicationName are the pool's business and must be
// left zero.
func NewStore(pool *pgxpool.Pool, o Options) (*Store, error) {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	switch {
	case pool == nil:
		fault("pool: is nil; one is needed")
	case pool.Config().MaxConns < minLent:
		fault("pool: MaxConns is %d; allowed are %d and more, for a lock keeps one connection busy during a flush",
			pool.Config().MaxConns, minLent)
	}
	if o.MaxConns != 0 {
		fault("MaxConns: %d; allowed is 0, for the pool has a bound of its own", o.MaxConns)
	}
	if o.Standby {
		fault("Standby: true; allowed is false, for the pool decides what it connects to")
	}
	if o.Logger != nil {
		fault("Logger: is set; allowed is nil, for the servers of the pool aren't watched")
	}
	if o.ApplicationName != "" {
		fault("ApplicationName: %q; allowed is \"\", for the pool's connections have one", o.ApplicationName)
	}
	if err := o.BatchKeys.Validate(); err != nil {
		fault("BatchKeys: %w", err)
	}
	if err := errors.Join(faults...); err != nil {
		return nil, fmt.Errorf("a Store on a pool of the caller's: %w", err)
	}
	s := newStore(pool, o)
	s.lent = true
	return s, nil
}

// minLent is how many connections a pool of the caller's must have.
const minLent = 2
