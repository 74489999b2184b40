package lockers

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/spendflush/spendflush"
)

var (
	//go:embed try_lock.sql
	tryLockSQL string
	//go:embed holder.sql
	holderSQL string
)

// How a lock in Postgres is kept. These are not settings: nobody has a reason to change them.
const (
	// pingInterval is how often the holder looks whether its connection still lives. It is less than idleTimeout.
	pingInterval = time.Second
	// pingTimeout is how long it waits for the answer.
	pingTimeout = 2 * time.Second
	// idleTimeout is how long Postgres lets a holder that has stopped (SIGSTOP, a frozen machine) keep the lock.
	idleTimeout = 5 * time.Second
)

// Postgres hands out transaction-scoped advisory locks. A held lock takes a connection of the pool and keeps a
// transaction open on it; nothing is kept in a session, so a pooler in transaction mode may stand in between.
type Postgres struct {
	pool  *pgxpool.Pool
	owner string
}

var _ spendflush.Locker = (*Postgres)(nil)

// NewPostgres returns a locker for the owner, whose name others see while it holds a lock. The pool stays the caller's;
// it must not use statements prepared under a name if a pooler in transaction mode stands in between.
func NewPostgres(pool *pgxpool.Pool, owner string) *Postgres {
	return &Postgres{pool: pool, owner: owner}
}

// lockKey returns the number of the advisory lock of this name: the first half is this program's alone (or so one
// hopes), the second is the name's.
func lockKey(name string) int64 {
	sum := sha256.Sum256([]byte("spendflush lock " + name))
	const program = 0x7370666c // "spfl"
	return program<<32 | int64(binary.BigEndian.Uint32(sum[:4]))
}

// ownerPrefix begins what pg_stat_activity shows as the application of a holder.
const ownerPrefix = "spendflush lock: "

// Acquire tries once to take the lock; see spendflush.Locker. It blocks while the pool has no free connection.
func (l *Postgres) Acquire(ctx context.Context, name string) (spendflush.Lease, error) {
	tx, err := l.pool.BeginTx(ctx, pgx.TxOptions{})
	if err != nil {
		return nil, fmt.Errorf("acquire lock %s: %w", name, err)
	}
	var taken bool
	err = tx.QueryRow(ctx, tryLockSQL, lockKey(name), ownerPrefix+l.owner,
		fmt.Sprint(idleTimeout.Milliseconds())).Scan(&taken)
	if err != nil || !taken {
		rollback(tx)
		if err != nil {
			return nil, fmt.Errorf("acquire lock %s: %w", name, err)
		}
		holder, _ := l.Holder(ctx, name) // who it is only serves the message
		return nil, &spendflush.HeldError{Name: name, Holder: holder}
	}
	release := func(ctx context.Context) error {
		// The end of the transaction is the end of the lock. If it can't be told, the connection is closed, and
		// Postgres ends it.
		if err := tx.Rollback(ctx); err != nil && !tx.Conn().IsClosed() {
			return fmt.Errorf("release lock %s: %w", name, err)
		}
		return nil
	}
	return newLease(func(ctx context.Context) { keepConnection(ctx, tx) }, release), nil
}

// keepConnection asks something every second, until ctx ends or there is no answer. It also keeps the server from
// ending the transaction because it idles.
func keepConnection(ctx context.Context, tx pgx.Tx) {
	ticker := time.NewTicker(pingInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		// Not ctx: a query that is cut short would close the connection, which Release still wants to use.
		pingCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pingTimeout)
		_, err := tx.Exec(pingCtx, "SELECT 1")
		cancel()
		if err != nil {
			return
		}
	}
}

func rollback(tx pgx.Tx) {
	ctx, cancel := context.WithTimeout(context.Background(), pingTimeout)
	defer cancel()
	_ = tx.Rollback(ctx) // else the connection is closed, which does the same
}

// Holder says who holds the lock, as far as this role may see it in pg_stat_activity; see spendflush.Locker.
func (l *Postgres) Holder(ctx context.Context, name string) (spendflush.Holder, error) {
	var owner string
	key := lockKey(name)
	err := l.pool.QueryRow(ctx, holderSQL, int64(uint32(key>>32)), int64(uint32(key)), ownerPrefix).Scan(&owner)
	if err == pgx.ErrNoRows {
		return spendflush.Holder{}, nil
	}
	if err != nil {
		return spendflush.Holder{}, fmt.Errorf("look at lock %s: %w", name, err)
	}
	return spendflush.Holder{Owner: owner}, nil
}
