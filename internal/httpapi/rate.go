package httpapi

import (
	"maps"
	"sync"
	"time"
)

// rate is how often something may be done: so many times at once, and then once more each time that
// every has passed.
type rate struct {
	atOnce int
	every  time.Duration
}

// next returns for how long nothing may be done, and if it is 0 the time by which what is done now,
// too, is forgotten. forgotten is that time as it was before, zero if nothing was done.
func (r rate) next(forgotten, now time.Time) (wait time.Duration, next time.Time) {
	if forgotten.Before(now) {
		forgotten = now
	}
	if wait := forgotten.Sub(now) - time.Duration(r.atOnce-1)*r.every; wait > 0 {
		return wait, time.Time{}
	}
	return 0, forgotten.Add(r.every)
}

// sessionRate is how often sessions of one token may begin on an instance, and how often they may
// be ended. Each that is ended is a row in Postgres, and each of both a line of the log.
var sessionRate = rate{atOnce: 100, every: 10 * time.Second}

// sessionTurns holds the sessions of each token to sessionRate, so that one token has a bounded
// part of the list of ended sessions.
type sessionTurns struct {
	what  string // is done
	clock func() time.Time

	mu        sync.Mutex
	forgotten map[string]time.Time // by the name of a token: when what was done is forgotten
}

func newSessionTurns(what string) *sessionTurns {
	return &sessionTurns{what: what, clock: time.Now, forgotten: map[string]time.Time{}}
}

// take returns nil if it is the token's turn, and notes that.
func (t *sessionTurns) take(name string) *problem {
	now := t.clock()
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.forgotten, func(_ string, at time.Time) bool { return at.Before(now) }) // of few tokens
	wait, next := sessionRate.next(t.forgotten[name], now)
	if wait > 0 {
		p := tooManySessions.because("sessions of the token %s may %s %d times at once, and then once every %s",
			name, t.what, sessionRate.atOnce, sessionRate.every)
		p.retryAfter = wait
		return p
	}
	t.forgotten[name] = next
	return nil
}
