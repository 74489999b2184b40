package lockers

import (
	"context"
	"sync"
	"time"
)

// lease is a lock held, and the goroutine that keeps it alive.
type lease struct {
	lost     chan struct{}
	ended    chan struct{} // closed when the goroutine has returned
	stop     context.CancelFunc
	release  func(ctx context.Context) error
	loseOnce sync.Once

	mu       sync.Mutex // held during the one release
	released bool
}

// newLease starts keep, which returns when ctx ends or the lock is lost. release gives the lock up.
func newLease(keep func(ctx context.Context), release func(ctx context.Context) error) *lease {
	ctx, stop := context.WithCancel(context.Background())
	l := &lease{lost: make(chan struct{}), ended: make(chan struct{}), stop: stop, release: release}
	go func() {
		defer close(l.ended)
		defer l.lose()
		keep(ctx)
	}()
	return l
}

func (l *lease) lose() { l.loseOnce.Do(func() { close(l.lost) }) }

// Lost implements spendflush.Lease.
func (l *lease) Lost() <-chan struct{} { return l.lost }

// Release implements spendflush.Lease.
func (l *lease) Release(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stop()
	l.lose()
	<-l.ended
	if l.released {
		return nil
	}
	l.released = true
	return l.release(ctx)
}

// keepTrust calls renew every interval, and after a failure every retry, until ctx ends, renew says that the lock is
// another's, or trust runs out. renew gets a context that ends with the trust, and returns until when a success lets
// the lock be trusted.
func keepTrust(
	ctx context.Context, until time.Time, interval, retry time.Duration,
	renew func(ctx context.Context) (until time.Time, ours bool, err error),
) {
	wait := interval
	for {
		timer := time.NewTimer(min(wait, time.Until(until)))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		if !time.Now().Before(until) {
			return
		}
		callCtx, cancel := context.WithDeadline(ctx, until)
		next, ours, err := renew(callCtx)
		cancel()
		switch {
		case err != nil:
			wait = retry
		case !ours:
			return
		default:
			until, wait = next, interval
		}
	}
}
