package gate

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spendflush/spendflush/internal/keypair"
	"github.com/spendflush/spendflush/internal/lab/testserver"
)

// serveTLS is serve behind TLS.
func serveTLS(t *testing.T, g *Gate, h http.HandlerFunc) string {
	t.Helper()
	files := testserver.NewCertificates(t)
	pair, err := keypair.Open(files.ServerCert, files.ServerKey)
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, g, h, func(l net.Listener) net.Listener { return tls.NewListener(g.Listen(l), pair.Config()) })
}

// handshaken returns a connection over TLS. Whom it leads to is not what these tests are about.
func handshaken(t *testing.T, conn net.Conn) *tls.Conn {
	t.Helper()
	over := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
	if err := over.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return over
}

func TestAHandshakeThatIsBegunMustEndInTime(t *testing.T) {
	g := New(Options{Clients: 10, Reserve: 1, HeaderTimeout: 100 * time.Millisecond})
	address := serveTLS(t, g, hello)
	for _, begin := range []string{"\x16", "\x16\x03\x01\x02\x00\x01\x00"} { // of a record with a ClientHello
		conn := dial(t, address)
		if _, err := io.WriteString(conn, begin); err != nil {
			t.Fatal(err)
		}
		if answer, err := io.ReadAll(conn); err != nil || strings.Contains(string(answer), "200 OK") {
			t.Errorf("%q, %v instead of the end of the connection", answer, err)
		}
	}
}

func TestAHeaderOverTLSHasTheTimeOfAHeaderAndAConnectionDialledAheadThatOfAnIdleOne(t *testing.T) {
	g := New(Options{Clients: 10, Reserve: 1, HeaderTimeout: time.Second})
	conn := handshaken(t, dial(t, serveTLS(t, g, hello)))
	reader := bufio.NewReader(conn)
	long := time.NewTicker(1500 * time.Millisecond)
	defer long.Stop()
	for range 2 { // after the handshake, then after an answer
		<-long.C
		fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: localhost\r\nX-Padding: "+strings.Repeat("a", 5000))
		fmt.Fprint(conn, "\r\nContent-Length: 2\r\n\r\n{")
		<-long.C
		fmt.Fprint(conn, "}")
		readHello(t, reader)
	}
	fmt.Fprint(conn, "GET / HTTP/1.1\r\n")
	fmt.Fprint(conn, "X-")
	if answer, err := io.ReadAll(reader); strings.Contains(string(answer), "200 OK") || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%q, %v instead of the end of the connection", answer, err)
	}
}

func TestAtTheLimitAConnectionOverTLSWithoutARequestMakesRoomAndOneAtWorkDoesNot(t *testing.T) {
	g := New(Options{Clients: 2, Reserve: 1, HeaderTimeout: time.Minute})
	begun, release := make(chan struct{}), make(chan struct{})
	address := serveTLS(t, g, func(w http.ResponseWriter, r *http.Request) {
		Of(r.Context()).Work() // its caller is known
		close(begun)
		<-release
		hello(w, r)
	})
	working := handshaken(t, dial(t, address))
	fmt.Fprint(working, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
	<-begun
	handshaken(t, dial(t, address)) // of one address half may stay: this one gets the reserve
	if s := g.Stats(); s.ClosedAddress != 0 || s.Reserved != 1 {
		t.Errorf("%+v", s)
	}
	close(release)
	readHello(t, bufio.NewReader(working))
}
