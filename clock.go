package spendflush

import (
	"math"
	"sync/atomic"
	"time"
)

// hourClock says which hour it is without reading the clock, which takes longer than counting an update. While it
// is kept, what it says is at most as old as the time between two calls of keep; otherwise it reads the clock.
type hourClock struct{ kept atomic.Int64 }

const notKept = math.MinInt64

func newHourClock() *hourClock {
	c := &hourClock{}
	c.kept.Store(notKept)
	return c
}

func (c *hourClock) now() Hour {
	if hour := c.kept.Load(); hour != notKept {
		return Hour(hour)
	}
	return HourOf(time.Now())
}

// keep notes the hour, and returns how long it still lasts.
func (c *hourClock) keep() time.Duration {
	now := time.Now()
	hour := HourOf(now)
	c.kept.Store(int64(hour))
	return (hour + 1).Time().Sub(now)
}

// release ends the keeping.
func (c *hourClock) release() { c.kept.Store(notKept) }
