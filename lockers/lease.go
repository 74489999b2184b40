package lockers

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// MinTTL is the shortest TTL that a lock may have: a shorter one would be lost by any hiccup.
const MinTTL = 100 * time.Millisecond

// ErrTTL is wrapped by the error of Acquire if the TTL is shorter than MinTTL.
var ErrTTL = errors.New("TTL of a lock is too short")

// checkTTL is for options that have no other place to be refused.
func checkTTL(ttl time.Duration) error {
	if ttl < MinTTL {
		return fmt.Errorf("%w: %s; allowed is %s or more", ErrTTL, ttl, MinTTL)
	}
	return nil
}

// margin is what is taken off the TTL for the time that a lease is trusted.
func margin(ttl time.Duration) time.Duration { return ttl / 10 }

var (
	errGone = errors.New("lock is gone, or another's")
	errLate = errors.New("the answer came too late to be trusted")
)

// link is what a lease hangs on. Its methods are called one at a time and return soon after ctx ends.
type link interface {
	// rest blocks for d, or until ctx ends. It returns errGone as soon as it sees that the lock is lost.
	rest(ctx context.Context, d time.Duration) error

	// renew makes the lock last for another TTL. It returns errGone if there is none any more. After any other error
	// it is called again.
	renew(ctx context.Context) error

	// release gives the lock up if it is still there, and is the last call.
	release(ctx context.Context) error
}

// lease is a lock held, with the goroutine that keeps it.
type lease struct {
	link link
	ttl  time.Duration
	lost chan struct{} // closed under mu
	kept chan struct{} // closed when keep has returned
	wake context.CancelFunc
	kill context.CancelFunc // of everything that the link does
	err  error              // of the link's release; to be read after kept

	mu        sync.Mutex // guards what follows
	ended     bool
	trust     *time.Timer     // ends the lease
	releasing context.Context // of the first call to Release
}

// newLease starts to keep a lock that was won by a call that began at start. If that is too long ago, the error is
// errLate, and the link is the caller's.
func newLease(start time.Time, ttl time.Duration, k link) (*lease, error) {
	left := time.Until(start.Add(ttl - margin(ttl)))
	if left <= 0 {
		return nil, errLate
	}
	working, kill := context.WithCancel(context.Background())
	resting, wake := context.WithCancel(working)
	l := &lease{
		link: k, ttl: ttl, wake: wake, kill: kill,
		lost: make(chan struct{}), kept: make(chan struct{}),
	}
	l.mu.Lock()
	l.trust = time.AfterFunc(left, l.end)
	l.mu.Unlock()
	go l.keep(resting, working)
	return l, nil
}

// keep renews until the lease ends, and then releases the link.
func (l *lease) keep(resting, working context.Context) {
	defer close(l.kept)
	defer l.kill()
	pause := l.ttl / 3
	for l.link.rest(resting, pause) == nil && resting.Err() == nil {
		start := time.Now()
		ctx, cancel := context.WithTimeout(working, l.ttl/3)
		err := l.link.renew(ctx)
		cancel()
		if errors.Is(err, errGone) {
			break
		}
		if err != nil {
			pause = l.ttl / 15
			continue
		}
		pause = l.ttl / 3
		l.trustFrom(start)
	}
	l.end()
	ctx, cancel := context.WithTimeout(working, l.ttl/3)
	defer cancel()
	l.mu.Lock()
	if l.releasing != nil {
		ctx = l.releasing
	}
	l.mu.Unlock()
	l.err = l.link.release(ctx)
}

// trustFrom makes the lease trusted for as long as a renewal allows that began at start. It can't bring back a lease
// that has ended.
func (l *lease) trustFrom(start time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if left := time.Until(start.Add(l.ttl - margin(l.ttl))); !l.ended && left > 0 {
		l.trust.Reset(left)
	}
}

// end ends the trust, and makes keep return soon.
func (l *lease) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended {
		l.ended = true
		l.trust.Stop()
		close(l.lost)
		l.wake()
	}
}

func (l *lease) Lost() <-chan struct{} { return l.lost }

// Release gives the lock up; see spend.Lease. It returns when ctx ends, or after one TTL, when the lock has ended
// by itself. If ctx has ended already, it tries all the same: who stops because its context has ended wants the next
// one to go on at once.
func (l *lease) Release(ctx context.Context) error {
	if ctx.Err() != nil {
		ctx = context.WithoutCancel(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, l.ttl)
	defer cancel()
	l.mu.Lock()
	first := l.releasing == nil
	if first {
		l.releasing = ctx
	}
	l.mu.Unlock()
	l.end()
	defer context.AfterFunc(ctx, l.kill)() // a renewal may hang
	<-l.kept
	if !first {
		return nil
	}
	return l.err
}
