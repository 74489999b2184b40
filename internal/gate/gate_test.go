package gate

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"
)

// end is a connection that does nothing but note that it was closed.
type end struct {
	net.Conn
	remote net.Addr
	closed bool
}

func (e *end) RemoteAddr() net.Addr            { return e.remote }
func (e *end) Close() error                    { e.closed = true; return nil }
func (e *end) SetReadDeadline(time.Time) error { return nil }
func (e *end) Read(b []byte) (int, error)      { return copy(b, "GET"), nil }
func (c *Conn) wasClosed() bool                { return c.Conn.(*end).closed }
func from(address string) *end                 { return &end{remote: &net.TCPAddr{IP: net.ParseIP(address), Port: 1}} }
func (g *Gate) mustAdmit(t *testing.T, a string) *Conn {
	t.Helper()
	c := g.admit(from(a))
	if c == nil || c.InReserve() {
		t.Fatalf("%s gets no place", a)
	}
	return c
}

// work has the connection answer a request of a caller that is known.
func (c *Conn) work(t *testing.T) {
	t.Helper()
	c.gate.ConnState(c, http.StateActive)
	if !c.Work() {
		t.Fatal("the connection was closed before")
	}
}

func newGate(clients int, trusted ...netip.Prefix) *Gate {
	return New(Options{Clients: clients, Reserve: 4, HeaderTimeout: time.Minute, Trusted: trusted})
}

func TestAtTheLimitTheConnectionLongestWithoutARequestMakesRoom(t *testing.T) {
	g := newGate(4)
	working := g.mustAdmit(t, "10.0.0.1")
	working.work(t)
	oldest := g.mustAdmit(t, "10.0.0.2")
	used := g.mustAdmit(t, "10.0.0.3")
	newest := g.mustAdmit(t, "10.0.0.4")
	oldest.work(t)
	g.ConnState(oldest, http.StateIdle) // now it is the last that was used
	last := g.mustAdmit(t, "10.0.0.5")
	if working.wasClosed() || oldest.wasClosed() || !used.wasClosed() || newest.wasClosed() || last.wasClosed() {
		t.Error("another connection was closed than the one longest without a request")
	}
	if s := g.Stats(); s.Open != 4 || s.ClosedFull != 1 || s.ClosedAddress != 0 {
		t.Errorf("%+v", s)
	}
}

func TestTheAddressWithTheMostIdleConnectionsMakesRoom(t *testing.T) {
	g := newGate(6)
	honest := g.mustAdmit(t, "10.0.0.1")
	greedy := g.mustAdmit(t, "10.0.0.2")
	g.mustAdmit(t, "10.0.0.2")
	g.mustAdmit(t, "10.0.0.2")
	g.mustAdmit(t, "10.0.0.3")
	g.mustAdmit(t, "10.0.0.3")
	g.mustAdmit(t, "10.0.0.4")
	if honest.wasClosed() || !greedy.wasClosed() {
		t.Error("a client with one connection has to make room for those with many")
	}
}

func TestOneAddressHasHalfOfTheConnectionsAtMost(t *testing.T) {
	g := newGate(8)
	var own []*Conn
	for range 4 {
		own = append(own, g.mustAdmit(t, "2001:db8::1"))
	}
	g.mustAdmit(t, "2001:db8::2") // the same network
	if !own[0].wasClosed() {
		t.Error("a fifth of eight was let in")
	}
	for range 4 {
		g.mustAdmit(t, "10.0.0.1")
	}
	if s := g.Stats(); s.Open != 8 || s.ClosedAddress != 1 || s.ClosedFull != 0 {
		t.Errorf("%+v", s)
	}
}

func TestAProxyThatIsTrustedMayHaveAll(t *testing.T) {
	g := newGate(8, netip.MustParsePrefix("10.0.0.0/8"))
	for range 8 {
		g.mustAdmit(t, "10.0.0.1")
	}
	if s := g.Stats(); s.Open != 8 || s.ClosedAddress+s.ClosedFull != 0 {
		t.Errorf("%+v", s)
	}
}

func TestConnectionsOfAProxyMakeRoomLast(t *testing.T) {
	g := newGate(4, netip.MustParsePrefix("10.0.0.0/8"))
	for range 3 {
		g.mustAdmit(t, "10.0.0.1")
	}
	other := g.mustAdmit(t, "192.0.2.1")
	g.mustAdmit(t, "10.0.0.1")
	if !other.wasClosed() {
		t.Error("a connection of the proxy was closed for one that isn't of it")
	}
}

func TestWithAllAtWorkNewConnectionsGetTheReserveInTurn(t *testing.T) {
	g := newGate(2)
	for i := range 2 {
		g.mustAdmit(t, fmt.Sprint("10.0.0.", i)).work(t)
	}
	if g.Reserved() {
		t.Error("the reserve is in use")
	}
	var reserved []*Conn
	for i := range 5 {
		c := g.admit(from(fmt.Sprint("10.0.1.", i)))
		if c == nil || !c.InReserve() {
			t.Fatalf("the connection of %d gets no place of the reserve", i)
		}
		reserved = append(reserved, c)
	}
	if !g.Reserved() || !reserved[0].wasClosed() || g.Stats().Reserved != 4 {
		t.Errorf("the oldest connection still has its place in the reserve: %+v", g.Stats())
	}
	for _, c := range reserved[1:] {
		c.work(t)
	}
	if g.admit(from("10.0.2.1")) != nil {
		t.Error("there are more places than the reserve has")
	}
	for _, c := range reserved {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if g.Reserved() || g.Stats().Open != 2 {
		t.Errorf("places stay taken: %+v", g.Stats())
	}
}

func TestARequestKeepsItsPlaceOnceItsCallerIsKnown(t *testing.T) {
	g := newGate(2)
	unknown, known := g.mustAdmit(t, "10.0.0.1"), g.mustAdmit(t, "10.0.0.2")
	g.ConnState(unknown, http.StateActive) // it may never end, or take nothing of its answer
	known.work(t)
	g.mustAdmit(t, "10.0.0.3")
	if !unknown.wasClosed() || known.wasClosed() {
		t.Error("a request of anybody has kept its place")
	}
}

func TestARequestOnAConnectionThatMadeRoomHasNoEffect(t *testing.T) {
	g := newGate(2)
	c := g.mustAdmit(t, "10.0.0.1")
	g.ConnState(c, http.StateActive)
	g.mustAdmit(t, "10.0.0.2")
	g.mustAdmit(t, "10.0.0.3")
	g.ConnState(c, http.StateActive) // of a request that had come with the one before
	if !c.wasClosed() || c.Work() {
		t.Error("a request is answered whose caller has been cut off")
	}
}

func TestAFloodCostsOneSearchForManyConnections(t *testing.T) {
	g := newGate(1000)
	for i := range 1000 {
		g.mustAdmit(t, fmt.Sprintf("10.0.%d.1", i/10))
	}
	g.mustAdmit(t, "10.1.0.1")
	if open := g.Stats().Open; open >= 1000 || open < 900 {
		t.Errorf("%d connections are left", open)
	}
}
