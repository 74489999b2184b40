package spendflush

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spendflush/spendflush/lockers/memlock"
	"github.com/spendflush/spendflush/spend"
)

// dyingLocker is a lock that another holds until a moment and doesn't renew any more, as it is left
// by who is killed.
type dyingLocker struct {
	*memlock.Locker
	ends  time.Time
	taken atomic.Int64 // when it was won after that, Unix nanoseconds
}

func (l *dyingLocker) Acquire(ctx context.Context, name string) (spend.Lease, error) {
	if left := time.Until(l.ends); left > 0 {
		return nil, &spend.HeldError{Name: name, Holder: spend.Holder{Owner: "another", Expires: left}}
	}
	l.taken.CompareAndSwap(0, time.Now().UnixNano())
	return l.Locker.Acquire(ctx, name)
}

func TestALockIsTakenAsSoonAsItsHoldersTimeIsOver(t *testing.T) {
	for _, left := range []time.Duration{700 * time.Millisecond, 1000 * time.Millisecond, 2990 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, true, 1, &faults{})
			locker := &dyingLocker{Locker: r.locker, ends: time.Now().Add(left)}
			r.cfg.Locker = locker
			r.start(t)
			r.record(t, spend.Update{Cost: spend.Cost{Spend: spend.Dollars(1)}, Series: spend.Series{APIKey: "k"}})
			eventually(t, "the lock is taken", func() bool { return locker.taken.Load() != 0 })
			if late := time.Unix(0, locker.taken.Load()).Sub(locker.ends); late >= expirySpread {
				t.Errorf("the lock was free for %s, with %s left at the start", late, left)
			}
			r.end(t)
		})
	}
}
