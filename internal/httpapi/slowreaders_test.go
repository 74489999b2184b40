package httpapi

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

func TestAPlaceThatIsGivenBackGoesToAnotherPartyThatWaits(t *testing.T) {
	s := newPlaces(1)
	greedy, other := party{name: "one"}, party{name: "two"}
	if !s.tryTake(greedy) {
		t.Fatal("there is no place")
	}
	waits := make(map[party]chan struct{})
	for _, who := range []party{greedy, other} { // in this order
		waits[who] = make(chan struct{})
		s.waiting = append(s.waiting, &turn{who: who, come: waits[who]})
	}
	s.give(greedy)
	select {
	case <-waits[other]:
	default:
		t.Fatal("the party that had the only place has it again, and another one waits")
	}
	s.give(other)
	select {
	case <-waits[greedy]:
	default:
		t.Error("a place that nobody else waits for stays free")
	}
}

func TestTheReportThatIsKeptWaitingForLongestMakesRoom(t *testing.T) {
	s := newPlaces(2)
	s.patience = time.Minute
	one, two, three := party{name: "one"}, party{name: "two"}, party{name: "three"}
	var ended []string
	watched := func(name string, who party, kept time.Duration) {
		s.watch(&holding{who: who, kept: kept, conn: http.NewResponseController(httptest.NewRecorder()),
			cancel: func() { ended = append(ended, name) }})
	}
	is := func(want ...string) {
		t.Helper()
		if fmt.Sprint(ended) != fmt.Sprint(want) {
			t.Errorf("ended: %q instead of %q", ended, want)
		}
	}
	watched("short", one, time.Minute-time.Second)
	s.endSlowest(three)
	is()
	watched("long", one, 2*time.Minute)
	watched("longest", two, 3*time.Minute)
	s.hold(two)
	s.endSlowest(two) // which has its share, and doesn't wait for others
	is()
	s.endSlowest(three)
	is("longest")
	s.endSlowest(one)
	is("longest")
	s.endSlowest(three)
	s.endSlowest(three)
	is("longest", "long")
}

func TestAReportThatIsNotReadMakesRoomForAnotherCaller(t *testing.T) {
	reader := &failingReader{rows: 1_000_000, ended: make(chan error, 1)}
	a, _ := newAPI(t, func(c *Config) {
		twoTokens(c)
		c.Reader, c.MaxReports, c.PieceTimeout, c.WriteTimeout = reader, 1, time.Hour, time.Hour
	})
	a.reports.patience = 50 * time.Millisecond
	url := serve(t, a)
	fmt.Fprintf(gulp(t, url), "GET /v1/usage?format=csv HTTP/1.1\r\nHost: localhost\r\n%s\r\n\r\n", tokenA)
	waitUntil(t, "the report waits for its reader", func() bool {
		a.reports.mu.Lock()
		defer a.reports.mu.Unlock()
		return len(a.reports.holdings) == 1 && a.reports.holdings[0].waited(time.Now()) > a.reports.patience
	})

	anotherCallerIsAnswered(t, url+"/v1/audit")
	if err := <-reader.ended; err == nil {
		t.Error("the whole report was written to a client that reads nothing")
	}
	waitUntil(t, "no place is held", func() bool { return a.reports.held() == 0 })
	if n := len(a.reports.holdings); n != 0 {
		t.Errorf("%d places are watched that nobody has", n)
	}
}

// pipes is a listener with one connection, which has no buffers.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

// A client that has taken nothing of earlier answers, so that its buffers are full.
func TestAShortAnswerThatIsNotTakenKeepsNoPlace(t *testing.T) {
	reader := &failingReader{rows: 100, ended: make(chan error, 1)}
	a, _ := newAPI(t, func(c *Config) {
		twoTokens(c)
		c.Reader, c.PieceTimeout, c.WriteTimeout = reader, 100*time.Millisecond, time.Hour
	})
	client, conn := net.Pipe()
	listener := &pipes{conns: make(chan net.Conn, 1), closed: make(chan struct{})}
	listener.conns <- conn
	server := a.Server("")
	go func() { _ = server.Serve(listener) }() // ends when the server is closed
	t.Cleanup(func() { server.Close() })
	fmt.Fprintf(client, "GET /v1/usage?by=total HTTP/1.1\r\nHost: localhost\r\n%s\r\n\r\n", tokenA)
	if err := <-reader.ended; err != nil {
		t.Fatal(err)
	}
	waitUntil(t, "the place is free", func() bool { return a.reports.held() == 0 })
}
