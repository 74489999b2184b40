package gate

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

const patience = time.Minute

// serve runs a server behind a gate until the test ends, and returns its address.
func serve(t *testing.T, g *Gate, h http.HandlerFunc) string {
	t.Helper()
	return serveOn(t, g, h, g.Listen)
}

// serveOn is serve with another listener than the gate's own.
func serveOn(t *testing.T, g *Gate, h http.HandlerFunc, listen func(net.Listener) net.Listener) string {
	t.Helper()
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: time.Hour, IdleTimeout: time.Hour, ConnState: g.ConnState, ConnContext: g.ConnContext}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listen(raw)) }()
	t.Cleanup(func() {
		server.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return raw.Addr().String()
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return conn
}

func hello(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	fmt.Fprint(w, "hello ", Of(r.Context()) != nil)
}

func TestAHeaderThatIsBegunMustEndInTimeOnAnyRequestOfAConnection(t *testing.T) {
	for _, earlier := range []int{0, 1, 2} {
		g := New(Options{Clients: 10, Reserve: 1, HeaderTimeout: 100 * time.Millisecond})
		conn := dial(t, serve(t, g, hello))
		reader := bufio.NewReader(conn)
		for range earlier {
			fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}")
			readHello(t, reader)
		}
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: localhost\r\nX-")
		if answer, err := io.ReadAll(reader); err != nil || strings.Contains(string(answer), "200 OK") {
			t.Errorf("after %d requests: %q, %v instead of the end of the connection", earlier, answer, err)
		}
		if open := g.Stats().Open; open > 1 {
			t.Errorf("%d connections are counted", open)
		}
	}
}

func readHello(t *testing.T, reader *bufio.Reader) {
	t.Helper()
	resp, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, _ := io.ReadAll(resp.Body); string(body) != "hello true" || resp.Close {
		t.Errorf("%q, close: %t", body, resp.Close)
	}
}

func TestTheTimeForAHeaderIsNotThatForAnUntouchedConnectionNorForABody(t *testing.T) {
	g := New(Options{Clients: 10, Reserve: 1, HeaderTimeout: 50 * time.Millisecond})
	conn := dial(t, serve(t, g, hello))
	reader := bufio.NewReader(conn)
	long := time.NewTicker(150 * time.Millisecond)
	defer long.Stop()
	for range 2 { // dialled ahead, then idle
		<-long.C
		// The header comes in two pieces, so that its deadline comes into force and must be lifted
		// again.
		fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: localhost\r\nX-Padding: "+strings.Repeat("a", 5000))
		fmt.Fprint(conn, "\r\nContent-Length: 2\r\n\r\n{")
		<-long.C
		fmt.Fprint(conn, "}")
		readHello(t, reader)
	}
}
