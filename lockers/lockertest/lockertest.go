// Package lockertest says in tests what a spend.Locker must do.
package lockertest

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// Owners of the two lockers under test.
const (
	OwnerA = "instance-a"
	OwnerB = "instance-b"
)

// Opened are two lockers for the same locks, whose owners are OwnerA and OwnerB.
type Opened struct {
	A, B spend.Locker

	// Lose takes the lock away from its holder, whose lease isn't asked. It returns when the lock
	// is free.
	Lose func(t *testing.T, name string)
}

// Run runs the suite. open is called for each test; the locks that it returns are free.
func Run(t *testing.T, open func(t *testing.T) Opened) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, o Opened)
	}{
		{"ALockHasOneHolder", testOneHolder},
		{"TheHolderCanBeRead", testHolder},
		{"AReleaseLetsTheNextOneIn", testRelease},
		{"LocksOfDifferentNamesAreDifferent", testNames},
		{"LostIsOpenWhileHeldAndClosedByRelease", testLostByRelease},
		{"LostClosesWhenTheLockIsTakenAway", testLostByLoss},
		{"ALateReleaseLeavesTheSuccessorsLockAlone", testLateRelease},
		{"ASecondReleaseLeavesTheSuccessorsLockAlone", testSecondRelease},
		{"ReleasesAtTheSameTimeAreOne", testConcurrentRelease},
		{"ALockIsHeldByAnotherEvenForItsOwnLocker", testSelf},
		{"AfterALossTheSameLockerMayWinAgain", testAgain},
		{"AnEndedContextTakesNoLock", testEndedContext},
		{"AnEndedContextStillReleases", testReleaseEndedContext},
		{"ALeaseOutlivesTheContextThatAcquiredIt", testLeaseOutlivesContext},
		{"AmongManyContendersThereAreNeverTwoHolders", testContenders},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

const lock = "flush/0"

// acquire fails the test if the lock is held. The lease is released when the test ends.
func acquire(t *testing.T, l spend.Locker, name string) spend.Lease {
	t.Helper()
	lease, err := l.Acquire(t.Context(), name)
	if err != nil {
		t.Fatalf("acquire %s: %v", name, err)
	}
	t.Cleanup(func() { _ = lease.Release(context.Background()) })
	return lease
}

func wantHeld(t *testing.T, l spend.Locker, name, owner string) {
	t.Helper()
	lease, err := l.Acquire(t.Context(), name)
	if err == nil {
		_ = lease.Release(context.Background())
	}
	held, ok := errors.AsType[*spend.HeldError](err)
	if !ok || !errors.Is(err, spend.ErrHeld) {
		t.Fatalf("acquire %s: %v, want a HeldError", name, err)
	}
	if held.Name != name || held.Holder.Owner != owner {
		t.Errorf("acquire %s: %+v, want owner %s", name, held, owner)
	}
}

func wantHolder(t *testing.T, l spend.Locker, name, owner string) spend.Holder {
	t.Helper()
	holder, err := l.Holder(t.Context(), name)
	if err != nil {
		t.Fatalf("holder of %s: %v", name, err)
	}
	if holder.Owner != owner {
		t.Errorf("%s is held by %q, want %q", name, holder.Owner, owner)
	}
	return holder
}

func release(t *testing.T, lease spend.Lease) {
	t.Helper()
	if err := lease.Release(t.Context()); err != nil {
		t.Errorf("release: %v", err)
	}
}

func isLost(lease spend.Lease) bool {
	select {
	case <-lease.Lost():
		return true
	default:
		return false
	}
}

func testOneHolder(t *testing.T, o Opened) {
	acquire(t, o.A, lock)
	wantHeld(t, o.B, lock, OwnerA)
	wantHeld(t, o.B, lock, OwnerA)
}

func testHolder(t *testing.T, o Opened) {
	wantHolder(t, o.A, lock, "")
	lease := acquire(t, o.B, lock)
	wantHolder(t, o.A, lock, OwnerB)
	wantHolder(t, o.B, lock, OwnerB)
	release(t, lease)
	if holder := wantHolder(t, o.A, lock, ""); holder != (spend.Holder{}) {
		t.Errorf("nobody's lock has the holder %+v", holder)
	}
}

func testRelease(t *testing.T, o Opened) {
	for range 5 {
		release(t, acquire(t, o.A, lock))
		release(t, acquire(t, o.B, lock))
	}
}

func testNames(t *testing.T, o Opened) {
	first := acquire(t, o.A, "flush/0")
	acquire(t, o.B, "flush/1")
	acquire(t, o.B, "flush/01")
	acquire(t, o.B, "")
	wantHeld(t, o.B, "flush/0", OwnerA)
	release(t, first)
	wantHeld(t, o.A, "flush/1", OwnerB)
}

func testLostByRelease(t *testing.T, o Opened) {
	lease := acquire(t, o.A, lock)
	if isLost(lease) {
		t.Error("a lease is lost as soon as it is won")
	}
	release(t, lease)
	if !isLost(lease) {
		t.Error("a released lease isn't lost")
	}
}

func testLostByLoss(t *testing.T, o Opened) {
	lease := acquire(t, o.A, lock)
	o.Lose(t, lock)
	<-lease.Lost()
	release(t, lease)
}

func testLateRelease(t *testing.T, o Opened) {
	late := acquire(t, o.A, lock)
	o.Lose(t, lock)
	successor := acquire(t, o.B, lock)
	<-late.Lost()
	release(t, late)
	wantHolder(t, o.A, lock, OwnerB)
	wantHeld(t, o.A, lock, OwnerB)
	if isLost(successor) {
		t.Error("the successor's lease is lost")
	}
}

func testSecondRelease(t *testing.T, o Opened) {
	lease := acquire(t, o.A, lock)
	release(t, lease)
	successor := acquire(t, o.B, lock)
	release(t, lease)
	release(t, lease)
	wantHeld(t, o.A, lock, OwnerB)
	if isLost(successor) {
		t.Error("the successor's lease is lost")
	}
}

func testConcurrentRelease(t *testing.T, o Opened) {
	lease := acquire(t, o.A, lock)
	var releases sync.WaitGroup
	for range 8 {
		releases.Go(func() {
			if err := lease.Release(t.Context()); err != nil {
				t.Errorf("release: %v", err)
			}
			if !isLost(lease) {
				t.Error("a released lease isn't lost")
			}
		})
	}
	releases.Wait()
	acquire(t, o.B, lock)
}

func testSelf(t *testing.T, o Opened) {
	acquire(t, o.A, lock)
	wantHeld(t, o.A, lock, OwnerA)
}

func testAgain(t *testing.T, o Opened) {
	first := acquire(t, o.A, lock)
	o.Lose(t, lock)
	<-first.Lost()
	second := acquire(t, o.A, lock)
	release(t, first)
	wantHeld(t, o.B, lock, OwnerA)
	if isLost(second) {
		t.Error("releasing the lost lease ended the new one")
	}
}

func testEndedContext(t *testing.T, o Opened) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := o.A.Acquire(ctx, lock); !errors.Is(err, context.Canceled) {
		t.Errorf("acquire returned %v", err)
	}
	if _, err := o.A.Holder(ctx, lock); !errors.Is(err, context.Canceled) {
		t.Errorf("holder returned %v", err)
	}
	acquire(t, o.B, lock)
}

func testReleaseEndedContext(t *testing.T, o Opened) {
	lease := acquire(t, o.A, lock)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := lease.Release(ctx); err != nil {
		t.Errorf("release: %v", err)
	}
	acquire(t, o.B, lock)
}

func testLeaseOutlivesContext(t *testing.T, o Opened) {
	ctx, cancel := context.WithCancel(t.Context())
	lease, err := o.A.Acquire(ctx, lock)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lease.Release(context.Background()) })
	cancel()
	wantHeld(t, o.B, lock, OwnerA)
	if isLost(lease) {
		t.Error("the lease ended with the context of Acquire")
	}
	release(t, lease)
}

func testContenders(t *testing.T, o Opened) {
	const contenders, terms = 8, 5
	var holders atomic.Int32
	var running sync.WaitGroup
	for i := range contenders {
		l := o.A
		if i%2 == 1 {
			l = o.B
		}
		running.Go(func() {
			for won := 0; won < terms; {
				lease, err := l.Acquire(t.Context(), lock)
				if errors.Is(err, spend.ErrHeld) {
					// Not to be in the holder's way all the time.
					<-time.After(time.Millisecond)
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if n := holders.Add(1); n != 1 {
					t.Errorf("there are %d holders", n)
				}
				if holder, err := l.Holder(t.Context(), lock); err != nil || holder.Owner == "" {
					t.Errorf("the holder is %+v, %v", holder, err)
				}
				won++
				holders.Add(-1)
				if err := lease.Release(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	running.Wait()
}
