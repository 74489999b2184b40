// Package clocks compares the clock of this machine with those of Postgres and Redis while an
// instance runs, and notices when it is set. It only tells: nothing is stopped by it.
package clocks

import (
	"log/slog"
	"sync"
	"time"
)

// Bound is how far two clocks may be apart before that is told.
const Bound = time.Minute

// The servers that have a clock.
const (
	Postgres = "postgres"
	Redis    = "redis"
)

// Watch knows how the clocks differ, as far as the servers have been asked. All methods are safe
// for concurrent use, and do nothing where it is nil.
type Watch struct {
	log *slog.Logger
	now func() reading // of this machine; only tests set another

	mu      sync.Mutex // guards what follows; nothing slow runs under it
	last    reading
	servers map[string]*difference
}

// reading is what the two clocks of a machine say at one moment.
type reading struct {
	wall time.Time     // without a monotonic part
	ran  time.Duration // on the monotonic clock
}

// difference is how far the clock of a server is ahead of this machine's.
type difference struct {
	ahead  time.Duration
	logged time.Duration // when that was logged; 0: the clocks agree
}

// New returns a watch that logs.
func New(log *slog.Logger) *Watch {
	begun := time.Now()
	now := func() reading {
		now := time.Now()
		return reading{now.Round(0), now.Sub(begun)}
	}
	return &Watch{log: log, now: now, last: now(), servers: map[string]*difference{}}
}

// Asks notes that a server is asked now, and returns what notes the time that it has answered. It
// also looks whether the clock of this machine was set since the last call.
func (w *Watch) Asks(server string) (answered func(clock time.Time)) {
	if w == nil {
		return func(time.Time) {}
	}
	asked := w.check()
	return func(clock time.Time) {
		now := w.check()
		took := now.ran - asked.ran
		if took > Bound/2 {
			return // it says too little
		}
		w.Note(server, clock.Sub(now.wall.Add(-took/2)))
	}
}

// Note notes how far the clock of a server is ahead of this machine's. It logs where that passes
// Bound, where it has changed by as much since, and where the clocks agree again.
func (w *Watch) Note(server string, ahead time.Duration) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.servers[server]
	if d == nil {
		d = &difference{}
		w.servers[server] = d
	}
	d.ahead = ahead
	switch apart := ahead.Abs(); {
	case apart > Bound && (d.logged == 0 || (ahead-d.logged).Abs() > Bound):
		d.logged = ahead
		w.log.Warn("the clock of this machine and that of a server differ: set the one that is wrong. Updates without a time are booked "+
			"by this machine's, and a producer that seems to be a month old is not believed",
			"server", server, "server_is_ahead_by", ahead.Round(time.Second))
	case apart <= Bound/2 && d.logged != 0: // not at Bound, where it would come and go
		d.logged = 0
		w.log.Info("the clock of this machine and that of a server agree again", "server", server,
			"server_is_ahead_by", ahead.Round(time.Millisecond))
	}
}

// Ahead returns how far the clock of a server was ahead of this machine's when it answered last. ok
// is false if it has not.
func (w *Watch) Ahead(server string) (ahead time.Duration, ok bool) {
	if w == nil {
		return 0, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.servers[server]
	if d == nil {
		return 0, false
	}
	return d.ahead, true
}

// check reads the clocks of this machine, and logs if the one was set: they then have not run on by
// the same time.
func (w *Watch) check() reading {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	if by := now.wall.Sub(w.last.wall) - (now.ran - w.last.ran); by.Abs() > Bound {
		w.log.Warn("the clock of this machine was set, or the machine was asleep: updates without a time are booked by what it says now",
			"by", by.Round(time.Second), "now", now.wall.UTC())
	}
	w.last = now
	return now
}
