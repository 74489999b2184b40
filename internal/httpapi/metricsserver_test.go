package httpapi

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
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

func TestAScraperThatDripsItsHeaderIsCutOff(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, bounded := newScrapedAPI(t).MetricsServer(listener)
	done := make(chan error, 1)
	go func() { done <- server.Serve(bounded) }()
	defer func() {
		server.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}()
	conn := dial(t, "http://"+listener.Addr().String())
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
