package httpapi

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const strongToken = "a-token-0123456789"

func newScrapedAPI(t testing.TB) *testAPI {
	a, _ := newAPI(t, func(c *Config) {
		c.Keys, c.HeaderTimeout = keysOf(strongToken), 100*time.Millisecond
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "told", Help: "h"}, func() float64 { return 7 }))
		c.Registry = registry
	})
	return a
}

func TestTheListenerOfTheMetricsServesThemAloneWithoutAToken(t *testing.T) {
	h := newScrapedAPI(t).metricsHandler(true)
	if w := do(h, "GET", "/metrics", ""); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "told 7") {
		t.Errorf("status %d: %s", w.Code, w.Body)
	}
	for _, path := range []string{"/", "/v1/status", "/v1/updates", "/healthz", "/metrics/", "/v1/session"} {
		checkProblem(t, do(h, "GET", path, "", "Authorization: Bearer "+strongToken).Result(), notFound)
	}
	checkProblem(t, do(h, "POST", "/metrics", "x").Result(), methodNotAllowed)
	checkProblem(t, do(h, "GET", "/metrics", "", "Sec-Fetch-Site: cross-site").Result(), crossOrigin)
}

func TestASiteWhoseNameStandsForLoopbackGetsNoMetrics(t *testing.T) {
	a := newScrapedAPI(t)
	for _, c := range []struct {
		local bool
		want  int
	}{{true, unknownHost.status}, {false, http.StatusOK}} { // others are asked under names: spendflush-1:9464
		server := a.metricsHandler(c.local)
		asked := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Host = "rebound.example:9464"
			server.ServeHTTP(w, r)
		})
		if w := do(asked, "GET", "/metrics", ""); w.Code != c.want {
			t.Errorf("on loopback %v: status %d, want %d", c.local, w.Code, c.want)
		}
	}
}

// serveMetrics serves the metrics on a port of loopback until the test ends, and returns its URL.
func serveMetrics(t testing.TB, a *testAPI) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, bounded := a.MetricsServer(listener)
	done := make(chan error, 1)
	go func() { done <- server.Serve(bounded) }()
	t.Cleanup(func() {
		server.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return "http://" + listener.Addr().String()
}

func TestAListenerOfTheMetricsOnLoopbackKnowsThatItIs(t *testing.T) {
	conn := dial(t, serveMetrics(t, newScrapedAPI(t)))
	if _, err := io.WriteString(conn, "GET /metrics HTTP/1.1\r\nHost: rebound.example\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 403 ") {
		t.Errorf("%v, the answer is %.300s", err, answer)
	}
}

func TestOneAddressHasHalfOfTheConnectionsToTheMetrics(t *testing.T) {
	url := serveMetrics(t, newScrapedAPI(t))
	var conns []net.Conn
	for range MetricsConnections/2 + 1 {
		conns = append(conns, dial(t, url))
	}
	if _, err := conns[0].Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the oldest connection is not closed for one more: %v", err)
	}
	last := conns[len(conns)-1]
	if _, err := io.WriteString(last, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(last); err != nil || !strings.Contains(string(answer), "told 7") {
		t.Errorf("%v, the answer is %.300s", err, answer)
	}
}

func TestAScraperThatDripsItsHeaderIsCutOff(t *testing.T) {
	conn := dial(t, serveMetrics(t, newScrapedAPI(t)))
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		drip(conn, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nX-Long: "+strings.Repeat("a", 5000))
	}()
	answer, _ := io.ReadAll(conn) // ends when the server hangs up
	if strings.Contains(string(answer), "200 OK") {
		t.Errorf("the answer is %q", answer)
	}
	conn.Close()
	<-sent
}
