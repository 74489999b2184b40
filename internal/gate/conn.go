package gate

import (
	"net"
	"net/netip"
	"sync/atomic"
	"time"
)

// Conn is a connection that was let in.
type Conn struct {
	net.Conn
	gate    *Gate
	address netip.Addr // its network
	trusted bool
	room    *room // nil once it has left; the gate's lock guards it

	// idleSince is since when the connection may be closed for another one, by the gate's clock.
	// atWork and given are no times.
	idleSince atomic.Int64

	// The goroutine that serves the connection uses these. Others may only read from it, or set its
	// deadline, while a request is being answered.
	inHandshake bool      // TLS is being agreed on
	inHeader    bool      // no request is being answered
	begun       bool      // bytes of the handshake or the header have come
	until       time.Time // when the handshake or the header must be there; zero: not in force
	asked       time.Time // the deadline that the server wants
}

const (
	atWork = 0  // a request is being answered whose caller is known
	given  = -1 // the connection was closed for another one
)

// Read reads. The time for a header begins with the first read after its first byte: of a header
// that comes in one piece, which is nearly every one, no time need be taken. A handshake of TLS has
// as much time, and the header after it has its own.
func (c *Conn) Read(b []byte) (int, error) {
	if !c.inHeader {
		return c.Conn.Read(b)
	}
	if c.begun && c.until.IsZero() {
		c.until = time.Now().Add(c.gate.headerTimeout)
		if err := c.SetReadDeadline(c.asked); err != nil {
			return 0, err
		}
	}
	n, err := c.Conn.Read(b)
	c.begun = c.begun || n > 0
	return n, err
}

// SetReadDeadline sets the deadline, or the one of the header if that is earlier.
func (c *Conn) SetReadDeadline(t time.Time) error {
	if c.inHandshake && t.IsZero() {
		// net/http bounds a handshake, and lifts that bound at its end. No request has begun:
		// clients open connections ahead.
		c.inHandshake, c.begun, c.until = false, false, time.Time{}
	}
	if c.inHeader {
		c.asked = t
		if !c.until.IsZero() && (t.IsZero() || t.After(c.until)) {
			t = c.until
		}
	}
	return c.Conn.SetReadDeadline(t)
}

// active notes that the header of a request is there. Anybody can send one, so the connection may
// still be closed: see Work.
func (c *Conn) active() {
	c.mark(c.gate.now())
	c.inHeader, c.begun = false, false
	if !c.until.IsZero() {
		c.until = time.Time{}
		_ = c.Conn.SetReadDeadline(c.asked) // fails on a closed connection, whose next use says so
	}
}

// idle notes that a request was answered and no other has come.
func (c *Conn) idle() {
	c.inHeader = true
	c.mark(c.gate.now())
}

// Work notes that the caller of the request is known: the connection isn't closed before the
// request is answered. false: it is closed already, and the request must have no effect, because
// the caller never learns of it.
func (c *Conn) Work() bool { return c.mark(atWork) }

// Answered notes that what is still read of this connection serves nothing but its end: it may be
// closed at any time.
func (c *Conn) Answered() { c.mark(c.gate.now()) }

// mark sets idleSince. false: the connection was given up before.
func (c *Conn) mark(since int64) bool {
	for {
		was := c.idleSince.Load()
		if was == given {
			return false
		}
		if c.idleSince.CompareAndSwap(was, since) {
			return true
		}
	}
}

// InReserve says whether the connection may be used for nothing but health checks.
func (c *Conn) InReserve() bool {
	c.gate.mu.Lock()
	defer c.gate.mu.Unlock()
	return c.room == &c.gate.reserve
}

// Close closes the connection and frees its place.
func (c *Conn) Close() error {
	c.gate.mu.Lock()
	c.gate.leave(c)
	c.gate.mu.Unlock()
	return c.Conn.Close()
}

// CloseWrite has the client see the end of what is sent. net/http does so before it closes a
// connection whose request it hasn't read to the end.
func (c *Conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
