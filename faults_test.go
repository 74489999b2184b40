package spendflush

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"
	"time"

	"github.com/spendflush/spendflush/lockers/memlock"
	"github.com/spendflush/spendflush/spend"
)

// faults makes one call out of many fail, or all of them for a while.
type faults struct {
	mu       sync.Mutex
	name     string // only calls of this name count, "" for all
	calls    int
	failing  int  // the number of the call that fails, from 1
	applied  bool // it is done nevertheless, and only its reply lost
	all      bool // every call fails before it is done
	injected bool

	disturb func(name string, do func() error) error // makes every call; nil: what is above decides
}

func (f *faults) call(name string, do func() error) error {
	if f.disturb != nil {
		return f.disturb(name, do)
	}
	f.mu.Lock()
	fails, all := false, f.all
	if f.name == "" || f.name == name {
		f.calls++
		fails = f.calls == f.failing
		f.injected = f.injected || fails
	}
	f.mu.Unlock()
	if all {
		return errInjected
	}
	if !fails {
		return do()
	}
	if f.applied {
		if err := do(); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s: %w", name, errInjected)
}

func (f *faults) setAll(on bool) {
	f.mu.Lock()
	f.all = on
	f.mu.Unlock()
}

type faultyStore struct {
	spend.Store
	*faults
}

func (s faultyStore) Books(ctx context.Context) (id spend.BooksID, err error) {
	err = s.call("Store.Books", func() error { id, err = s.Store.Books(ctx); return err })
	return id, err
}

func (s faultyStore) Marks(ctx context.Context, shard int, ids []spend.ProducerID) (marks spend.Marks, err error) {
	err = s.call("Store.Marks", func() error { marks, err = s.Store.Marks(ctx, shard, ids); return err })
	return marks, err
}

func (s faultyStore) Apply(ctx context.Context, f *spend.Flush) error {
	return s.call("Store.Apply", func() error { return s.Store.Apply(ctx, f) })
}

// facts returns the store as one that keeps ids.
func (s faultyStore) facts() spend.FactStore { return s.Store.(spend.FactStore) }

func (s faultyStore) Fact(ctx context.Context, id spend.FactID) (facts []spend.CommittedFact, err error) {
	err = s.call("Store.Fact", func() error { facts, err = s.facts().Fact(ctx, id); return err })
	return facts, err
}

func (s faultyStore) Outcomes(
	ctx context.Context, shard int, producer spend.ProducerID, sequences []uint64,
) (taken []spend.TakenOut, err error) {
	err = s.call("Store.Outcomes", func() error { taken, err = s.facts().Outcomes(ctx, shard, producer, sequences); return err })
	return taken, err
}

func (s faultyStore) TendFacts(ctx context.Context, window time.Duration) error {
	return s.call("Store.TendFacts", func() error { return s.facts().TendFacts(ctx, window) })
}

func (s faultyStore) Quarantine(ctx context.Context, bad []spend.BadBatch) error {
	return s.call("Store.Quarantine", func() error { return s.Store.Quarantine(ctx, bad) })
}

func (s faultyStore) InQuarantine(ctx context.Context, shard int, sums [][sha256.Size]byte) (found []bool, err error) {
	err = s.call("Store.InQuarantine", func() error { found, err = s.Store.InQuarantine(ctx, shard, sums); return err })
	return found, err
}

type faultyQueue struct {
	spend.Queue
	*faults
}

func (q faultyQueue) Push(ctx context.Context, b *spend.Batch, previous spend.EntryID) (id spend.EntryID, err error) {
	err = q.call("Queue.Push", func() error { id, err = q.Queue.Push(ctx, b, previous); return err })
	if err != nil {
		id = ""
	}
	return id, err
}

func (q faultyQueue) Read(ctx context.Context, shard int, after spend.EntryID, n, bytes int) (got []spend.Entry, err error) {
	err = q.call("Queue.Read", func() error { got, err = q.Queue.Read(ctx, shard, after, n, bytes); return err })
	return got, err
}

func (q faultyQueue) Ack(ctx context.Context, shard int, a spend.Ack) error {
	return q.call("Queue.Ack", func() error { return q.Queue.Ack(ctx, shard, a) })
}

func (q faultyQueue) Mark(ctx context.Context, shard int, id spend.ProducerID) (mark spend.Mark, err error) {
	err = q.call("Queue.Mark", func() error { mark, err = q.Queue.Mark(ctx, shard, id); return err })
	return mark, err
}

func (q faultyQueue) Stats(ctx context.Context, shard int) (stats spend.QueueStats, err error) {
	err = q.call("Queue.Stats", func() error { stats, err = q.Queue.Stats(ctx, shard); return err })
	return stats, err
}

type faultyLocker struct {
	*memlock.Locker
	*faults
}

func (l faultyLocker) Acquire(ctx context.Context, name string) (lease spend.Lease, err error) {
	err = l.call("Locker.Acquire", func() error { lease, err = l.Locker.Acquire(ctx, name); return err })
	if err != nil {
		if lease != nil { // acquired, but nobody knows
			forgotten := lease
			time.AfterFunc(testTTL, func() { forgotten.Release(context.Background()) })
		}
		return nil, err
	}
	return faultyLease{lease, l.faults}, nil
}

type faultyLease struct {
	spend.Lease
	*faults
}

func (l faultyLease) Release(ctx context.Context) error {
	err := l.call("Lease.Release", func() error { return l.Lease.Release(ctx) })
	if err != nil {
		time.AfterFunc(testTTL, func() { l.Lease.Release(ctx) })
	}
	return err
}
