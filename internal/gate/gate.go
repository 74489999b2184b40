package gate

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Options are the bounds of a Gate. All but Trusted must be set.
type Options struct {
	Clients       int           // connections at once, from 1. One address gets half of them at most.
	Reserve       int           // connections beyond these, for health checks; 0 where none is ever at work
	HeaderTimeout time.Duration // from the first byte of a request to the end of its header

	// Trusted are the addresses of proxies: the bound on one address doesn't hold for them.
	Trusted []netip.Prefix
}

// Gate bounds the connections of a server. Its methods are safe for concurrent use.
type Gate struct {
	headerTimeout time.Duration
	trusted       []netip.Prefix
	start         time.Time

	mu            sync.Mutex // of the rooms and of what conns say of them; nothing slow runs under it
	main, reserve room

	reserved                           atomic.Int64 // connections in the reserve
	closedFull, closedAddress, refused atomic.Int64
}

// New returns a gate. No connection is open yet.
func New(o Options) *Gate {
	return &Gate{
		headerTimeout: o.HeaderTimeout, trusted: o.Trusted, start: time.Now(),
		main: newRoom(o.Clients), reserve: newRoom(o.Reserve),
	}
}

// Listen returns a listener that lets in what the gate lets in. The server's ConnState and
// ConnContext must be those of the gate. The listener may be wrapped by tls.NewListener.
func (g *Gate) Listen(l net.Listener) net.Listener { return &listener{l, g} }

type listener struct {
	net.Listener
	gate *Gate
}

// Accept waits for the next connection that is let in.
func (l *listener) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c := l.gate.admit(raw); c != nil {
			return c, nil
		}
		l.gate.refused.Add(1)
		_ = raw.Close()
	}
}

// admit gives the connection a place. It returns nil if there is none.
func (g *Gate) admit(raw net.Conn) *Conn {
	c := &Conn{Conn: raw, gate: g, inHeader: true, address: addressOf(raw)}
	c.trusted = g.Trusts(c.address)
	c.address = NetworkOf(c.address)
	c.idleSince.Store(g.now())

	g.mu.Lock()
	ok, victims := g.main.admit(c)
	if !ok {
		var more []*Conn
		ok, more = g.reserve.admit(c)
		victims = append(victims, more...)
	}
	if ok && c.room == &g.reserve {
		g.reserved.Add(1)
	}
	for _, v := range victims {
		g.leave(v)
	}
	g.mu.Unlock()

	for _, v := range victims {
		if v.address == c.address {
			g.closedAddress.Add(1)
		} else {
			g.closedFull.Add(1)
		}
		_ = v.Conn.Close()
	}
	if !ok {
		return nil
	}
	return c
}

// leave takes the connection out of its room. The caller holds the lock.
func (g *Gate) leave(c *Conn) {
	if c.room == nil {
		return
	}
	if c.room == &g.reserve {
		g.reserved.Add(-1)
	}
	c.room.remove(c)
	c.room = nil
}

// now returns the time since the gate was made, never 0.
func (g *Gate) now() int64 { return int64(time.Since(g.start)) + 1 }

// Trusts says whether the address is one of a trusted proxy.
func (g *Gate) Trusts(address netip.Addr) bool {
	address = address.Unmap()
	for _, prefix := range g.trusted {
		if prefix.Contains(address) {
			return true
		}
	}
	return false
}

// ConnState is for http.Server.
func (g *Gate) ConnState(c net.Conn, state http.ConnState) {
	if c := within(c); c != nil {
		switch state {
		case http.StateActive:
			c.active()
		case http.StateIdle:
			c.idle()
		}
	}
}

type contextKey struct{}

// ConnContext is for http.Server: it lets Of find the connection of a request.
func (g *Gate) ConnContext(ctx context.Context, outer net.Conn) context.Context {
	c := within(outer)
	if c == nil {
		return ctx
	}
	c.inHandshake = outer != net.Conn(c)
	return context.WithValue(ctx, contextKey{}, c)
}

// within returns the connection of the gate that TLS runs over, or that it is itself; nil if there
// is none.
func within(c net.Conn) *Conn {
	for {
		switch is := c.(type) {
		case *Conn:
			return is
		case interface{ NetConn() net.Conn }: // *tls.Conn
			c = is.NetConn()
		default:
			return nil
		}
	}
}

// Of returns the connection of the request with this context, nil if it came through no gate.
func Of(ctx context.Context) *Conn {
	c, _ := ctx.Value(contextKey{}).(*Conn)
	return c
}

// Reserved says, at the price of a load, whether any connection is in the reserve.
func (g *Gate) Reserved() bool { return g.reserved.Load() > 0 }

// Stats are numbers of a Gate.
type Stats struct {
	Open     int // connections, those in the reserve included
	Limit    int // Clients
	Reserved int // connections in the reserve

	ClosedFull    int64 // closed for a new one because there were too many in all
	ClosedAddress int64 // closed for a new one of the same address
	Refused       int64 // new ones that got no place at all
}

// Stats returns the numbers as they are now.
func (g *Gate) Stats() Stats {
	g.mu.Lock()
	defer g.mu.Unlock()
	return Stats{
		Open: len(g.main.conns) + len(g.reserve.conns), Limit: g.main.limit, Reserved: len(g.reserve.conns),
		ClosedFull: g.closedFull.Load(), ClosedAddress: g.closedAddress.Load(), Refused: g.refused.Load(),
	}
}

// addressOf returns where the connection comes from, the zero Addr if that is no IP address.
func addressOf(c net.Conn) netip.Addr {
	if tcp, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}

// NetworkOf returns what counts as one address: of IPv6 a /64, which is what one host or customer
// has.
func NetworkOf(a netip.Addr) netip.Addr {
	if a.Is6() {
		prefix, _ := a.Prefix(64) // fails for more bits than there are
		return prefix.Addr()
	}
	return a
}
