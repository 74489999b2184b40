package httpapi

import (
	"context"
	"slices"
	"sync"
	"time"
)

// places bound how many requests do something at once. One party has half of them at most, so that
// no client keeps all others out. One that is given back goes to another party that waits, if there
// is one.
type places struct {
	size, each int
	patience   time.Duration // how long in all a reader may keep an answer waiting whose place another party waits for

	mu      sync.Mutex
	taken   int
	of      map[party]int // of the parties that have any
	waiting []*turn       // in the order in which they came

	holdings []*holding // of answers that readers may keep waiting
}

// turn is a request that waits for a place.
type turn struct {
	who  party
	come chan struct{} // closed once it has the place
}

func newPlaces(size int) *places {
	return &places{size: size, each: (size + 1) / 2, patience: reportPatience, of: map[party]int{}}
}

// placeWait is how long a request waits for its turn.
const placeWait = 2 * time.Second

// take waits for a place, which the caller must give back.
func (s *places) take(ctx context.Context, who party) *problem {
	if s.tryTake(who) {
		return nil
	}

	mine := &turn{who: who, come: make(chan struct{})}
	s.mu.Lock()
	s.waiting = append(s.waiting, mine)
	s.callNext(party{}) // a place may have become free in between
	if slices.Contains(s.waiting, mine) {
		s.endSlowest(who)
	}
	s.mu.Unlock()

	timer := time.NewTimer(placeWait)
	defer timer.Stop()
	select {
	case <-mine.come:
		return nil
	case <-timer.C:
	case <-ctx.Done():
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.waiting, mine)
	if i < 0 { // its turn came at the last moment
		s.release(who)
	} else {
		s.waiting = slices.Delete(s.waiting, i, i+1)
	}
	return s.full(who, time.Second)
}

// tryTake takes a place if one is free for the party.
func (s *places) tryTake(who party) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.fits(who) {
		return false
	}
	s.hold(who)
	return true
}

// give gives a place back.
func (s *places) give(who party) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.release(who)
}

// full says why there is no place. The caller holds the lock.
func (s *places) full(who party, retryAfter time.Duration) *problem {
	p := busy.because("%d requests of this kind are being answered, which is as many as are at once", s.taken)
	if s.of[who] >= s.each {
		p = busy.because("%d requests of this kind of yours are being answered, which is as many as one caller has at once", s.of[who])
	}
	p.retryAfter = retryAfter
	return p
}

func (s *places) fits(who party) bool { return s.taken < s.size && s.of[who] < s.each }

func (s *places) hold(who party) {
	s.taken++
	s.of[who]++
}

func (s *places) release(who party) {
	s.taken--
	if s.of[who]--; s.of[who] == 0 {
		delete(s.of, who)
	}
	s.callNext(who)
}

// callNext gives free places to those that wait longest, of the parties that may have one more. The
// one that had a place last comes after all others: else it keeps a single place by waiting for it
// again and again. The caller holds the lock.
func (s *places) callNext(last party) {
	for _, others := range []bool{true, false} {
		s.waiting = slices.DeleteFunc(s.waiting, func(t *turn) bool {
			if others && t.who == last || !s.fits(t.who) {
				return false
			}
			s.hold(t.who)
			close(t.come)
			return true
		})
	}
}

// held returns how many places are taken.
func (s *places) held() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken
}
