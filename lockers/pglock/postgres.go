// Package pglock hands out advisory locks of Postgres. Package lockers says how they work.
package pglock

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/spendflush/spendflush/internal/pglink"
	"github.com/spendflush/spendflush/lockers/lease"
	"github.com/spendflush/spendflush/spend"
)

// DefaultPostgresTTL is the TTL of a lock in Postgres unless WithTTL says otherwise.
const DefaultPostgresTTL = 6 * time.Second

//go:embed holder.sql
var holderSQL string

// Pool is where a locker gets connections from; *pgxpool.Pool is one.
type Pool interface {
	Acquire(ctx context.Context) (*pgxpool.Conn, error)
}

// Locker hands out advisory locks of one database, which must have the tables of spendflush. It
// works through PgBouncer in transaction mode, and needs no prepared statements and no setting of
// the pool or the role.
//
// A lease keeps a connection of the pool busy, and an Acquire one for three round trips. Who holds
// a lease and waits for another connection of the same pool may wait for others who do the same. So
// a locker on a *pgxpool.Pool leaves one of its connections to others, unless WithMaxLeases says
// how many it may take: as many as there are where the pool is its own.
type Locker struct {
	pool  Pool
	owner string
	ttl   time.Duration
	slots chan struct{} // one is taken for each lease and try; nil: no bound
}

var _ spend.Locker = (*Locker)(nil)

// New returns a locker whose locks show the owner, which names this instance, as the
// application_name "spendflush/<owner>" of the session that holds one. Postgres keeps 63 characters
// of that and only those of ASCII. The pool stays the caller's, and must outlive all leases. It
// doesn't talk to Postgres.
func New(pool Pool, owner string) *Locker {
	l := &Locker{pool: pool, owner: owner, ttl: DefaultPostgresTTL}
	if p, ok := pool.(*pgxpool.Pool); ok {
		return l.WithMaxLeases(int(p.Stat().MaxConns()) - 1)
	}
	return l
}

// WithTTL returns a locker for the same locks with another TTL, which is how long a lock outlives a
// holder that has fallen silent while its connection stays open. (When the connection ends, the
// lock is free at once.) It is at least MinTTL, in whole milliseconds.
func (l *Locker) WithTTL(ttl time.Duration) *Locker {
	other := *l
	other.ttl = ttl.Truncate(time.Millisecond)
	return &other
}

// WithMaxLeases returns a locker for the same locks that has at most n leases and tries at once,
// from 1. Beyond them Acquire doesn't wait for a connection, but returns a *spend.HeldError at
// once, without an owner: the lock may be free, but this locker has no connection for it.
func (l *Locker) WithMaxLeases(n int) *Locker {
	other := *l
	other.slots = make(chan struct{}, max(n, 1))
	return &other
}

// take returns false if the locker has as many leases as it may. give undoes it.
func (l *Locker) take() bool {
	if l.slots == nil {
		return true
	}
	select {
	case l.slots <- struct{}{}:
		return true
	default:
		return false
	}
}

func (l *Locker) give() {
	if l.slots != nil {
		<-l.slots
	}
}

// exec runs statements without parameters, in one round trip of the simple protocol, and returns
// their results. In the extended protocol the last query's portal, and with it a snapshot, would
// stay until the next query, and hold back VACUUM.
func exec(ctx context.Context, conn *pgxpool.Conn, statements ...string) ([]*pgconn.Result, error) {
	results, err := conn.Conn().PgConn().Exec(ctx, strings.Join(statements, ";\n")).ReadAll()
	if err == nil && len(results) != len(statements) {
		err = fmt.Errorf("%d results of %d statements", len(results), len(statements))
	}
	return results, err
}

// begin returns the statements that begin a transaction which may idle for that long. Whatever the
// database's defaults are: other levels keep a snapshot until the end, which would hold back
// VACUUM.
func begin(idle time.Duration, more string) []string {
	return []string{pglink.BeginRead, pglink.Settings(idle, 0, more)}
}

// askTimeout is how long Postgres waits in a transaction that only asks.
const askTimeout = 10 * time.Second

// lockKey returns the number of the advisory lock. It is a hash of what only we would hash, mixed
// with the random number that the migrations have made: other programs use such locks of the same
// database too, and any role may take any of them, but only one that may read the tables can tell
// which numbers are taken here before they are.
func lockKey(ctx context.Context, conn *pgxpool.Conn, name string) (int64, error) {
	results, err := exec(ctx, conn, append(begin(askTimeout, ""), "SELECT salt FROM spendflush.lock_salt", "COMMIT")...)
	if err != nil {
		return 0, fmt.Errorf("read the salt of the locks: %w", err)
	}
	rows := results[2].Rows
	if len(rows) != 1 {
		return 0, errors.New("read the salt of the locks: spendflush.lock_salt is empty")
	}
	salt, err := strconv.ParseInt(string(rows[0][0]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read the salt of the locks: %w", err)
	}
	sum := sha256.Sum256([]byte("github.com/spendflush/spendflush lock\x00" + name))
	return int64(binary.BigEndian.Uint64(sum[:8])) ^ salt, nil
}

// quote returns a literal of the number that is one whatever the settings are.
func quote(n int64) string { return fmt.Sprintf("'%d'::bigint", n) }

// quoteName returns a literal of the name. What isn't printable ASCII Postgres itself would
// replace.
func quoteName(name string) string {
	return "'" + strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || r == '\'' || r == '\\' {
			return '?'
		}
		return r
	}, name) + "'"
}

const applicationPrefix = "spendflush/"

// Acquire tries once to get the lock; see spend.Locker. It waits for a connection of the pool if
// all are busy. Errors: *spend.HeldError, whose owner is "" if it gave the lock up meanwhile, or if
// there are as many leases as WithMaxLeases allows; ErrTTL; those of Postgres, after which the lock
// isn't held.
func (l *Locker) Acquire(ctx context.Context, name string) (spend.Lease, error) {
	lease, err := l.acquire(ctx, name)
	if held, ok := errors.AsType[*spend.HeldError](err); ok {
		return nil, held
	}
	if err != nil {
		return nil, fmt.Errorf("acquire lock %s: %w", name, err)
	}
	return lease, nil
}

func (l *Locker) acquire(ctx context.Context, name string) (*lease.Lease, error) {
	if err := lease.CheckTTL(l.ttl); err != nil {
		return nil, err
	}
	if !l.take() {
		return nil, &spend.HeldError{Name: name}
	}
	conn, err := l.pool.Acquire(ctx)
	if err != nil {
		l.give()
		return nil, err
	}
	k := &postgresLink{conn: conn, name: name, ended: l.give}
	key, err := lockKey(ctx, conn, name)
	start := time.Now()
	if err == nil {
		err = l.begin(ctx, conn, name, key)
	}
	if err == nil {
		var won *lease.Lease
		if won, err = lease.New(start, l.ttl, k); err == nil {
			return won, nil
		}
	}
	return nil, errors.Join(err, k.Release(ctx))
}

// begin opens the transaction that holds the lock. All its settings are its own.
func (l *Locker) begin(ctx context.Context, conn *pgxpool.Conn, name string, key int64) error {
	application := ",\n    pg_catalog.set_config('application_name', " + quoteName(applicationPrefix+l.owner) + ", true)"
	results, err := exec(ctx, conn, append(begin(l.ttl, application), "SELECT pg_try_advisory_xact_lock("+quote(key)+")")...)
	if err != nil {
		return err
	}
	if string(results[2].Rows[0][0]) == "t" {
		return nil
	}
	results, err = exec(ctx, conn, holderOf(key))
	if err != nil {
		return err
	}
	holder, err := readHolder(results[0])
	if err != nil {
		return err
	}
	return &spend.HeldError{Name: name, Holder: holder}
}

// Holder says who holds the lock; see spend.Locker. Its Expires is always 0.
func (l *Locker) Holder(ctx context.Context, name string) (spend.Holder, error) {
	holder, err := l.holder(ctx, name)
	if err != nil {
		return spend.Holder{}, fmt.Errorf("look who holds lock %s: %w", name, err)
	}
	return holder, nil
}

func (l *Locker) holder(ctx context.Context, name string) (spend.Holder, error) {
	conn, err := l.pool.Acquire(ctx)
	if err != nil {
		return spend.Holder{}, err
	}
	defer conn.Release() // which closes it if a transaction is left open
	key, err := lockKey(ctx, conn, name)
	if err != nil {
		return spend.Holder{}, err
	}
	results, err := exec(ctx, conn, append(begin(askTimeout, ""), holderOf(key), "COMMIT")...)
	if err != nil {
		return spend.Holder{}, err
	}
	return readHolder(results[2])
}

func holderOf(key int64) string { return strings.ReplaceAll(holderSQL, "$1::bigint", quote(key)) }

// readHolder tells an instance from any other session. One whose role may not even use the schema
// is none, whatever it calls itself.
func readHolder(r *pgconn.Result) (spend.Holder, error) {
	if len(r.Rows) == 0 {
		return spend.Holder{}, nil
	}
	if len(r.Rows[0]) != 4 {
		return spend.Holder{}, errors.New("the holder can't be read")
	}
	pid, application, role, may := string(r.Rows[0][0]), string(r.Rows[0][1]), string(r.Rows[0][2]), string(r.Rows[0][3])
	if owner, ok := strings.CutPrefix(application, applicationPrefix); ok && may == "t" {
		return spend.Holder{Owner: owner}, nil
	}
	return spend.Holder{Foreign: fmt.Sprintf("process %s of role %q, application %q", pid, role, application)}, nil
}

// postgresLink is the transaction that holds a lock. All its errors are lease.ErrGone: what has
// failed once on a connection isn't tried again on it.
type postgresLink struct {
	conn  *pgxpool.Conn
	name  string
	ended func() // called once the connection was given back
}

// Rest listens to the connection, on which nothing is to come but its end.
func (k *postgresLink) Rest(ctx context.Context, d time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for ctx.Err() == nil {
		// A notification is none of ours, but may be for the client that had the connection before.
		if _, err := k.conn.Conn().WaitForNotification(ctx); err != nil && ctx.Err() == nil {
			return lease.ErrGone
		}
	}
	if k.conn.Conn().IsClosed() {
		return lease.ErrGone
	}
	return nil
}

func (k *postgresLink) Renew(ctx context.Context) error {
	// Any query starts idle_in_transaction_session_timeout anew, even the empty one.
	if err := k.conn.Ping(ctx); err != nil || k.conn.Conn().PgConn().TxStatus() != 'T' {
		return lease.ErrGone
	}
	return nil
}

// Release ends the transaction and gives the connection back. What ctx leaves no time for is done
// by closing the connection, which also frees the lock.
func (k *postgresLink) Release(ctx context.Context) error {
	defer k.ended()
	defer k.conn.Release()
	if k.conn.Conn().IsClosed() || k.conn.Conn().PgConn().TxStatus() == 'I' {
		return nil
	}
	if _, err := k.conn.Exec(ctx, "ROLLBACK"); err != nil {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Millisecond)
		defer cancel()
		return errors.Join(fmt.Errorf("release lock %s: %w", k.name, err), k.conn.Conn().Close(closing))
	}
	return nil
}
