package spendflush

import (
	"context"
	"math"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// clock is the time that the engine goes by, so that a simulator can have one of its own.
type clock interface {
	// Now returns the time.
	Now() time.Time

	// Sleep blocks for d. It returns false if ctx ends or lost is closed before.
	Sleep(ctx context.Context, d time.Duration, lost <-chan struct{}) bool

	// WithTimeout is context.WithTimeout.
	WithTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc)

	// Jitter returns a random duration from 0 to below d.
	Jitter(d time.Duration) time.Duration
}

// systemClock is the clock of this machine.
type systemClock struct{}

func (systemClock) Now() time.Time { return time.Now() }

func (systemClock) WithTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, d)
}

func (systemClock) Jitter(d time.Duration) time.Duration { return rand.N(d) }

func (systemClock) Sleep(ctx context.Context, d time.Duration, lost <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	case <-lost:
		return false
	}
}

// hourClock says which hour it is without reading the clock, which takes longer than counting an
// update. While it is kept, what it says is at most as old as the time between two calls of keep;
// otherwise it reads the clock.
type hourClock struct {
	kept  atomic.Int64
	clock clock
}

const notKept = math.MinInt64

func newHourClock(of clock) *hourClock {
	c := &hourClock{clock: of}
	c.kept.Store(notKept)
	return c
}

func (c *hourClock) now() spend.Hour {
	if hour := c.kept.Load(); hour != notKept {
		return spend.Hour(hour)
	}
	return spend.HourOf(c.clock.Now())
}

// keep notes the hour, and returns how long it still lasts.
func (c *hourClock) keep() time.Duration {
	now := c.clock.Now()
	hour := spend.HourOf(now)
	c.kept.Store(int64(hour))
	return (hour + 1).Time().Sub(now)
}

// release ends the keeping.
func (c *hourClock) release() { c.kept.Store(notKept) }

// later returns the later of two times.
func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
