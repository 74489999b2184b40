package lease

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// These tests are about time, so they run on a fake clock, and the lock's server is a link that
// does what they say.

const fakeTTL = 3 * time.Second

// fakeLink renews as told.
type fakeLink struct {
	renewal  func(ctx context.Context, n int) error // n counts from 1
	renewals int
	released int
	late     error // of release
}

func (k *fakeLink) Rest(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil
}

func (k *fakeLink) Renew(ctx context.Context) error {
	k.renewals++
	return k.renewal(ctx, k.renewals)
}

func (k *fakeLink) Release(context.Context) error {
	k.released++
	return k.late
}

var errNetwork = errors.New("network")

// trustedFor runs a lease until it is lost by itself and returns how long that took.
func trustedFor(t *testing.T, renewal func(ctx context.Context, n int) error) (trusted time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		k := &fakeLink{renewal: renewal}
		l, err := New(start, fakeTTL, k)
		if err != nil {
			t.Fatal(err)
		}
		<-l.Lost()
		trusted = time.Since(start)
		if err := l.Release(t.Context()); err != nil {
			t.Error(err)
		}
		if k.released != 1 {
			t.Errorf("the link was released %d times", k.released)
		}
	})
	return trusted
}

func TestTrustEndsBeforeTheTTLWhenNoRenewalSucceeds(t *testing.T) {
	got := trustedFor(t, func(context.Context, int) error { return errNetwork })
	if want := fakeTTL - Margin(fakeTTL); got != want || want >= fakeTTL {
		t.Errorf("trusted for %s, want %s", got, want)
	}
}

func TestTrustEndsWhileARenewalHangs(t *testing.T) {
	got := trustedFor(t, func(ctx context.Context, _ int) error {
		<-ctx.Done()
		return ctx.Err()
	})
	if want := fakeTTL - Margin(fakeTTL); got != want {
		t.Errorf("trusted for %s, want %s", got, want)
	}
}

func TestRenewalExtendsTrustFromItsStartNotFromItsEnd(t *testing.T) {
	const slow = 900 * time.Millisecond
	got := trustedFor(t, func(_ context.Context, n int) error {
		if n > 1 {
			return errNetwork
		}
		time.Sleep(slow)
		return nil
	})
	if want := fakeTTL/3 + fakeTTL - Margin(fakeTTL); got != want {
		t.Errorf("trusted for %s, want %s", got, want)
	}
}

func TestASlowSuccessDoesNotBringBackALostLease(t *testing.T) {
	got := trustedFor(t, func(context.Context, int) error {
		time.Sleep(fakeTTL)
		return nil
	})
	if want := fakeTTL - Margin(fakeTTL); got != want {
		t.Errorf("trusted for %s, want %s", got, want)
	}
}

func TestAnotherHolderEndsTheLeaseAtOnce(t *testing.T) {
	got := trustedFor(t, func(context.Context, int) error { return ErrGone })
	if want := fakeTTL / 3; got != want {
		t.Errorf("trusted for %s, want %s", got, want)
	}
}

func TestAFailedRenewalIsTriedAgainWhileThereIsTrust(t *testing.T) {
	got := trustedFor(t, func(_ context.Context, n int) error {
		switch {
		case n <= 5:
			return errNetwork
		case n == 6:
			return nil
		}
		return ErrGone
	})
	if want := fakeTTL/3 + 5*fakeTTL/15 + fakeTTL/3; got != want {
		t.Errorf("trusted for %s, want %s", got, want)
	}
}

func TestALeaseThatIsRenewedIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &fakeLink{renewal: func(context.Context, int) error { return nil }}
		l, err := New(time.Now(), fakeTTL, k)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * fakeTTL)
		select {
		case <-l.Lost():
			t.Error("the lease is lost")
		default:
		}
		if err := l.Release(t.Context()); err != nil {
			t.Error(err)
		}
		if k.renewals < 299 || k.renewals > 300 {
			t.Errorf("renewed %d times in 100 times the TTL", k.renewals)
		}
	})
}

func TestAnAnswerThatComesTooLateMakesNoLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		time.Sleep(fakeTTL - Margin(fakeTTL))
		k := &fakeLink{}
		if _, err := New(start, fakeTTL, k); !errors.Is(err, ErrLate) {
			t.Errorf("error is %v", err)
		}
	})
}

func TestReleaseDoesNotWaitForARenewalLongerThanItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hanging := make(chan struct{})
		k := &fakeLink{late: errNetwork, renewal: func(ctx context.Context, _ int) error {
			close(hanging)
			<-ctx.Done()
			return ctx.Err()
		}}
		l, err := New(time.Now(), fakeTTL, k)
		if err != nil {
			t.Fatal(err)
		}
		<-hanging
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		start := time.Now()
		if err := l.Release(ctx); !errors.Is(err, errNetwork) {
			t.Errorf("release returned %v", err)
		}
		if took := time.Since(start); took != 10*time.Millisecond {
			t.Errorf("release took %s", took)
		}
		<-l.Lost()
		if err := l.Release(t.Context()); err != nil {
			t.Errorf("the second release returned %v", err)
		}
	})
}

func TestReleaseWithAnEndedContextStillHasTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		got := make(chan context.Context, 1)
		l, err := New(time.Now(), fakeTTL, recordingLink{&fakeLink{}, got})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Release(ctx); err != nil {
			t.Error(err)
		}
		deadline, ok := (<-got).Deadline()
		if left := time.Until(deadline); !ok || left != fakeTTL {
			t.Errorf("the release had %s", left)
		}
	})
}

// recordingLink passes the context of a release on, if it was still good.
type recordingLink struct {
	*fakeLink
	got chan<- context.Context
}

func (k recordingLink) Release(ctx context.Context) error {
	k.got <- ctx
	return ctx.Err()
}
