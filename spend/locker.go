package spend

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Locker hands out locks by name, each to one holder at a time. The lock only spares work: a holder
// that is wrong about holding it does no harm, because the claim decides. Lockers are safe for
// concurrent use. The suite in package lockertest says all that an implementation must do.
type Locker interface {
	// Acquire tries once and doesn't wait for the holder. If another holder has it (another Locker,
	// or an earlier Acquire of this one) holds the lock, the error is a *HeldError. The lease is
	// kept alive until Release, or until it is lost. ctx bounds only the call itself.
	Acquire(ctx context.Context, name string) (Lease, error)

	// Holder returns the holder as the lock stores it, the zero Holder if the lock is free.
	Holder(ctx context.Context, name string) (Holder, error)
}

// Lease is a lock held.
type Lease interface {
	// Lost is closed when the lease can no longer be trusted: it wasn't renewed in time, or another
	// holder was seen. Trust ends before another one can take the lock, counted on the monotonic
	// clock from before the last call that renewed it.
	Lost() <-chan struct{}

	// Release gives the lock up if it is still held, and stops what keeps it alive. It never takes
	// another holder's lock away. Calling it again does nothing. Lost is closed when Release
	// returns, even with an error.
	Release(ctx context.Context) error
}

// ErrDenied is wrapped by errors of a Queue, Locker or Store whose server answers, but refuses what
// is asked for lack of rights, or because something else is under the key. It lasts until the
// rights or the key are mended.
var ErrDenied = errors.New("access denied")

// Holder is who holds a lock.
type Holder struct {
	Owner   string        // the instance; "" if the lock is free, the holder is no instance, or it isn't known
	Expires time.Duration // how long until the lock ends unless it is renewed; 0 if it has no such end
	Foreign string        // what holds the lock and is no instance, such as a session in Postgres; "" if that isn't known
}

// ErrHeld is wrapped by every *HeldError.
var ErrHeld = errors.New("lock is held by another")

// HeldError says who holds a lock that Acquire couldn't get.
type HeldError struct {
	Name   string
	Holder Holder // Owner may be "" where the holder can't be told
}

func (e *HeldError) Error() string {
	switch {
	case e.Holder.Foreign != "":
		return fmt.Sprintf("lock %s is held by what is no instance: %s", e.Name, e.Holder.Foreign)
	case e.Holder.Owner == "":
		return fmt.Sprintf("lock %s is held by another", e.Name)
	case e.Holder.Expires == 0:
		return fmt.Sprintf("lock %s is held by %s", e.Name, e.Holder.Owner)
	default:
		return fmt.Sprintf("lock %s is held by %s for another %s", e.Name, e.Holder.Owner, e.Holder.Expires)
	}
}

// Unwrap returns ErrHeld.
func (e *HeldError) Unwrap() error { return ErrHeld }
