// Package lease keeps a lock with a TTL alive, and tells when it can no longer be trusted. Package
// lockers says by what rules.
package lease

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

// CheckTTL is for options that have no other place to be refused.
func CheckTTL(ttl time.Duration) error {
	if ttl < MinTTL {
		return fmt.Errorf("%w: %s; allowed is %s or more", ErrTTL, ttl, MinTTL)
	}
	return nil
}

// Margin is what is taken off the TTL for the time that a lease is trusted.
func Margin(ttl time.Duration) time.Duration { return ttl / 10 }

var (
	// ErrGone is returned by a Link whose lock is lost.
	ErrGone = errors.New("lock is gone, or another's")
	// ErrLate is returned by New where the lock was won so long ago that it can't be trusted any
	// more.
	ErrLate = errors.New("the answer came too late to be trusted")
)

// Link is what a lease hangs on. Its methods are called one at a time and return soon after ctx
// ends.
type Link interface {
	// Rest blocks for d, or until ctx ends. It returns ErrGone as soon as it sees that the lock is
	// lost.
	Rest(ctx context.Context, d time.Duration) error

	// Renew makes the lock last for another TTL. It returns ErrGone if there is none any more.
	// After any other error it is called again.
	Renew(ctx context.Context) error

	// Release gives the lock up if it is still there, and is the last call.
	Release(ctx context.Context) error
}

// Lease is a lock held, with the goroutine that keeps it.
type Lease struct {
	link Link
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

// New starts to keep a lock that was won by a call that began at start. If that is too long ago,
// the error is ErrLate, and the link is the caller's.
func New(start time.Time, ttl time.Duration, k Link) (*Lease, error) {
	left := time.Until(start.Add(ttl - Margin(ttl)))
	if left <= 0 {
		return nil, ErrLate
	}
	working, kill := context.WithCancel(context.Background())
	resting, wake := context.WithCancel(working)
	l := &Lease{
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
func (l *Lease) keep(resting, working context.Context) {
	defer close(l.kept)
	defer l.kill()
	pause := l.ttl / 3
	for l.link.Rest(resting, pause) == nil && resting.Err() == nil {
		start := time.Now()
		ctx, cancel := context.WithTimeout(working, l.ttl/3)
		err := l.link.Renew(ctx)
		cancel()
		if errors.Is(err, ErrGone) {
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
	l.err = l.link.Release(ctx)
}

// trustFrom makes the lease trusted for as long as a renewal allows that began at start. It can't
// bring back a lease that has ended.
func (l *Lease) trustFrom(start time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if left := time.Until(start.Add(l.ttl - Margin(l.ttl))); !l.ended && left > 0 {
		l.trust.Reset(left)
	}
}

// end ends the trust, and makes keep return soon.
func (l *Lease) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended {
		l.ended = true
		l.trust.Stop()
		close(l.lost)
		l.wake()
	}
}

// Lost is closed when the lease can no longer be trusted; see spend.Lease.
func (l *Lease) Lost() <-chan struct{} { return l.lost }

// Release gives the lock up; see spend.Lease. It returns when ctx ends, or after one TTL, when the
// lock has ended by itself. If ctx has ended already, it tries all the same: who stops because its
// context has ended wants the next one to go on at once.
func (l *Lease) Release(ctx context.Context) error {
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
