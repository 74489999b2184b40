package spendflush

import (
	"hash/maphash"
	"sync/atomic"

	"github.com/spendflush/spendflush/spend"
)

// Handle counts on one series without looking it up each time. Get it from Pipeline.Handle. All
// methods are safe for concurrent use; goroutines that use the same handle at the same moment wait
// for each other.
type Handle struct {
	p       *Pipeline
	key     string // a cell's key with the hour left open
	current atomic.Pointer[slot]
}

// Handle returns a handle for the series, which is copied. It is for callers that know whom the
// next requests count on: an API key's session, a connection, a route. It holds the memory of one
// cell for as long as it is kept; a new hour needs no new handle. The error is an *UpdateError that
// says what is wrong with the series.
func (p *Pipeline) Handle(s *spend.Series) (*Handle, error) {
	if err := s.Check(0); err != nil {
		return nil, err
	}
	return &Handle{p: p, key: string(appendCellKey(nil, 0, s, p.open.keep))}, nil
}

// Record counts one request, as Pipeline.Record does, and keeps nothing of c. Errors: *UpdateError
// if the cost is refused, ErrBufferFull, ErrClosed; nothing was recorded then.
func (h *Handle) Record(c *spend.Cost) error {
	hour, err := h.p.check(c)
	if err == nil {
		at := h.current.Load()
		if at == nil || at.hour != hour {
			at = h.locate(hour)
		}
		at.stripe.mu.Lock()
		_, err = h.p.open.countOne(at.stripe, at.cell, 0, nil, c)
		at.stripe.mu.Unlock()
	}
	if err != nil {
		h.p.metrics.refuse(err, 1)
	}
	return err
}

// locate finds or makes the cell of the hour, and remembers it.
func (h *Handle) locate(hour spend.Hour) *slot {
	m, key := h.p.open, []byte(h.key)
	putHour(key, hour)
	hash := maphash.Bytes(m.seed, key)
	s := m.stripe(hash)
	s.mu.Lock()
	c := s.findOrMake(hash, key, m.maxKeys)
	s.mu.Unlock()
	at := &slot{hour: hour, stripe: s, cell: c}
	h.current.Store(at)
	return at
}
