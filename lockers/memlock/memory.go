// Package memlock hands out locks in the memory of a process, for tests and for a single instance.
// Package lockers says what a lock is for.
package memlock

import (
	"context"
	"fmt"
	"sync"

	"github.com/spendflush/spendflush/spend"
)

// Locker hands out locks in the memory of this process, for tests and for a single instance. They
// never expire.
type Locker struct {
	owner string
	locks *memoryLocks
}

// memoryLocks are what all peers share.
type memoryLocks struct {
	mu     sync.Mutex // guards what follows
	leases map[string]*memoryLease
}

var _ spend.Locker = (*Locker)(nil)

// New returns a locker with locks of its own.
func New(owner string) *Locker {
	return &Locker{owner, &memoryLocks{leases: map[string]*memoryLease{}}}
}

// Peer returns another locker for the same locks.
func (l *Locker) Peer(owner string) *Locker { return &Locker{owner, l.locks} }

// Revoke takes the lock away from whoever holds it, whose lease ends.
func (l *Locker) Revoke(name string) {
	l.locks.mu.Lock()
	defer l.locks.mu.Unlock()
	if lease := l.locks.leases[name]; lease != nil {
		lease.end()
	}
}

// Acquire tries once to get the lock; see spend.Locker. The error is a *spend.HeldError or ctx's.
func (l *Locker) Acquire(ctx context.Context, name string) (spend.Lease, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("acquire lock %s: %w", name, err)
	}
	l.locks.mu.Lock()
	defer l.locks.mu.Unlock()
	if held := l.locks.leases[name]; held != nil {
		return nil, &spend.HeldError{Name: name, Holder: spend.Holder{Owner: held.owner}}
	}
	lease := &memoryLease{locks: l.locks, name: name, owner: l.owner, lost: make(chan struct{})}
	l.locks.leases[name] = lease
	return lease, nil
}

// Holder says who holds the lock; see spend.Locker.
func (l *Locker) Holder(ctx context.Context, name string) (spend.Holder, error) {
	if err := ctx.Err(); err != nil {
		return spend.Holder{}, fmt.Errorf("look who holds lock %s: %w", name, err)
	}
	l.locks.mu.Lock()
	defer l.locks.mu.Unlock()
	if held := l.locks.leases[name]; held != nil {
		return spend.Holder{Owner: held.owner}, nil
	}
	return spend.Holder{}, nil
}

type memoryLease struct {
	locks *memoryLocks
	name  string
	owner string
	lost  chan struct{}
	ended bool // guarded by locks.mu
}

// end gives the lock up if it is still this lease's. The caller must hold the lock of locks.
func (l *memoryLease) end() {
	if !l.ended {
		l.ended = true
		delete(l.locks.leases, l.name)
		close(l.lost)
	}
}

func (l *memoryLease) Lost() <-chan struct{} { return l.lost }

func (l *memoryLease) Release(context.Context) error {
	l.locks.mu.Lock()
	defer l.locks.mu.Unlock()
	l.end()
	return nil
}
