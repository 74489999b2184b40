package httpapi

import (
	"context"
	"sync"
	"time"
)

// memory bounds the bytes of request bodies that are held at once. One party has half of it at
// most. When there is none left, the body that has been silent for longest is given up for the
// next.
type memory struct {
	limit, each int64

	mu      sync.Mutex
	held    int64
	of      map[party]int64      // of the parties that hold any
	holders map[*holder]struct{} // whoever holds any
	freed   chan struct{}        // closed and replaced whenever some is given back; nil while nobody waits
}

// holder is a body that is being read. The memory's lock guards it but for cutOff.
type holder struct {
	who     party
	bytes   int64
	heard   time.Time // when bytes of it came last
	waiting bool      // for memory: the client isn't to blame for the silence
	cut     bool      // its memory is needed elsewhere
	cutOff  func()    // has the read that is under way fail
}

const (
	memoryWait   = 2 * time.Second // how long a body waits for memory
	silentEnough = time.Second     // how long a body must have been silent to be given up
)

func newMemory(limit int64) *memory {
	return &memory{limit: limit, each: (limit + 1) / 2, of: map[party]int64{}, holders: map[*holder]struct{}{}}
}

// take takes n bytes more for the body. It waits a while for bytes to become free. false: there are
// none.
func (m *memory) take(ctx context.Context, h *holder, n int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fits(h, n) {
		m.hold(h, n)
		return true
	}

	h.waiting = true
	defer func() { h.waiting, h.heard = false, time.Now() }()
	for end := time.Now().Add(memoryWait); ; {
		next := m.giveUpSilent(h, n)
		wait := min(time.Until(end), next)
		if wait <= 0 || ctx.Err() != nil {
			return false
		}
		if m.freed == nil {
			m.freed = make(chan struct{})
		}
		freed := m.freed
		m.mu.Unlock()
		timer := time.NewTimer(wait)
		select {
		case <-freed:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		m.mu.Lock()
		if m.fits(h, n) {
			m.hold(h, n)
			return true
		}
	}
}

func (m *memory) fits(h *holder, n int64) bool { return m.held+n <= m.limit && m.of[h.who]+n <= m.each }

func (m *memory) hold(h *holder, n int64) {
	m.held += n
	m.of[h.who] += n
	h.bytes += n
	h.heard = time.Now()
	m.holders[h] = struct{}{}
}

// giveUpSilent cuts off the body that has been silent for longest, of those whose end makes a
// difference to h, and returns when to look for another. The caller holds the lock.
func (m *memory) giveUpSilent(h *holder, n int64) (next time.Duration) {
	now := time.Now()
	ownShare := m.of[h.who]+n > m.each
	var longest *holder
	for other := range m.holders {
		if other == h || other.waiting || other.cut || ownShare && other.who != h.who {
			continue
		}
		if longest == nil || other.heard.Before(longest.heard) {
			longest = other
		}
	}
	switch {
	case longest == nil:
		return memoryWait
	case now.Sub(longest.heard) < silentEnough:
		return silentEnough - now.Sub(longest.heard)
	}
	longest.cut = true
	longest.cutOff()
	return memoryWait
}

// hear notes that bytes of the body have come. false: it was given up.
func (m *memory) hear(h *holder, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	h.heard = now
	return !h.cut
}

// give gives back all that the body holds.
func (m *memory) give(h *holder) {
	if h.bytes == 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held -= h.bytes
	if m.of[h.who] -= h.bytes; m.of[h.who] == 0 {
		delete(m.of, h.who)
	}
	h.bytes = 0
	delete(m.holders, h)
	if m.freed != nil {
		close(m.freed)
		m.freed = nil
	}
}

// inUse returns the bytes that are held.
func (m *memory) inUse() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.held
}
