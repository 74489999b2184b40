package lockers

import (
	"context"
	"sync"

	"github.com/spendflush/spendflush"
)

// Memory hands out locks within one process: those of one table exclude each other. It is for tests, and for programs
// of a single instance.
type Memory struct {
	owner string
	table *memoryTable
}

type memoryTable struct {
	mu   sync.Mutex
	held map[string]*memoryLease
}

type memoryLease struct {
	table *memoryTable
	name  string
	owner string
	lost  chan struct{}
}

var _ spendflush.Locker = (*Memory)(nil)

// NewMemory returns a locker with a table of its own.
func NewMemory(owner string) *Memory {
	return &Memory{owner: owner, table: &memoryTable{held: map[string]*memoryLease{}}}
}

// Beside returns a locker of another owner on the same table.
func (l *Memory) Beside(owner string) *Memory { return &Memory{owner: owner, table: l.table} }

// Acquire tries once to take the lock; see spendflush.Locker.
func (l *Memory) Acquire(ctx context.Context, name string) (spendflush.Lease, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l.table.mu.Lock()
	defer l.table.mu.Unlock()
	if holder := l.table.held[name]; holder != nil {
		return nil, &spendflush.HeldError{Name: name, Holder: spendflush.Holder{Owner: holder.owner}}
	}
	lease := &memoryLease{table: l.table, name: name, owner: l.owner, lost: make(chan struct{})}
	l.table.held[name] = lease
	return lease, nil
}

// Holder says who holds the lock; see spendflush.Locker.
func (l *Memory) Holder(ctx context.Context, name string) (spendflush.Holder, error) {
	if err := ctx.Err(); err != nil {
		return spendflush.Holder{}, err
	}
	l.table.mu.Lock()
	defer l.table.mu.Unlock()
	if holder := l.table.held[name]; holder != nil {
		return spendflush.Holder{Owner: holder.owner}, nil
	}
	return spendflush.Holder{}, nil
}

// Lose takes the lock away from whoever holds it, as if its lease had run out.
func (l *Memory) Lose(name string) {
	l.table.mu.Lock()
	defer l.table.mu.Unlock()
	if holder := l.table.held[name]; holder != nil {
		delete(l.table.held, name)
		close(holder.lost)
	}
}

// Lost implements spendflush.Lease.
func (l *memoryLease) Lost() <-chan struct{} { return l.lost }

// Release implements spendflush.Lease. It never fails.
func (l *memoryLease) Release(context.Context) error {
	l.table.mu.Lock()
	defer l.table.mu.Unlock()
	if l.table.held[l.name] == l {
		delete(l.table.held, l.name)
		close(l.lost)
	}
	return nil
}
