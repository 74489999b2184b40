package httpapi

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"
)

// reportPatience is how long in all the reader of a report may keep it waiting where another caller
// waits for its place.
const reportPatience = 30 * time.Second

// errPlaceNeeded ends an answer whose reader kept it waiting for too long.
var errPlaceNeeded = errors.New("another caller waits for the place of this report")

// holding is the place of an answer that its reader may keep waiting.
type holding struct {
	who    party
	cancel context.CancelFunc // of what is read of the database
	conn   *http.ResponseController

	mu    sync.Mutex
	kept  time.Duration // how long the reader has kept the answer waiting
	since time.Time     // when that began last, zero while the answer doesn't wait
	cut   bool          // the place is needed elsewhere
}

// write writes a piece of the answer, which must be taken within the timeout, and notes how long
// that took.
func (h *holding) write(w http.ResponseWriter, piece []byte, timeout time.Duration) (int, error) {
	h.mu.Lock()
	if h.cut {
		h.mu.Unlock()
		return 0, errPlaceNeeded
	}
	h.since = time.Now()
	_ = h.conn.SetWriteDeadline(h.since.Add(timeout)) // an error means that there is no connection, as in a test
	h.mu.Unlock()

	n, err := w.Write(piece)

	h.mu.Lock()
	defer h.mu.Unlock()
	h.kept += time.Since(h.since)
	h.since = time.Time{}
	return n, err
}

// waited returns how long the reader has kept the answer waiting.
func (h *holding) waited(now time.Time) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.since.IsZero() {
		return h.kept
	}
	return h.kept + now.Sub(h.since)
}

// end ends the answer. Its place becomes free as soon as the request has noticed.
func (h *holding) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cut = true
	_ = h.conn.SetWriteDeadline(time.Now())
	h.cancel()
}

// watch notes who holds a place, until unwatch.
func (s *places) watch(h *holding) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holdings = append(s.holdings, h)
}

func (s *places) unwatch(h *holding) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holdings = slices.DeleteFunc(s.holdings, func(other *holding) bool { return other == h })
}

// endSlowest ends the answer of another caller whose reader has kept it waiting for longest, and
// for patience at least, if the party has no place for want of that one. The caller holds the lock.
func (s *places) endSlowest(who party) {
	if s.of[who] >= s.each {
		return
	}
	now, longest := time.Now(), s.patience
	var slowest *holding
	for _, h := range s.holdings {
		if waited := h.waited(now); h.who != who && waited >= longest {
			slowest, longest = h, waited
		}
	}
	if slowest != nil {
		s.holdings = slices.DeleteFunc(s.holdings, func(h *holding) bool { return h == slowest }) // its end is on its way
		slowest.end()
	}
}
