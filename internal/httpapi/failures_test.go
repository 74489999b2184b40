package httpapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/spendflush/spendflush/internal/overview"
	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/pgstore"
)

// trouble is an API on doubles, and a request for it that answers a problem of one type.
type trouble struct {
	method, path, body string
	headers            []string
	config             func(*Config)
	api                func(*testAPI)
	request            func(*http.Request)
}

// troubles bring about, for any operation that can answer it, the problem of the slug. What needs
// books in a certain state is tested where there are real ones.
var troubles = map[string]func(*trouble){
	"invalid-request": func(c *trouble) { c.path = strings.Replace(c.path+"?", "?", "?nonsense=1&", 1) },
	"invalid-json":    func(c *trouble) { c.body = "{" },
	"unauthorized":    func(c *trouble) { c.config, c.body = withTokens("secret-1"), `{"token":"wrong"}` },
	"missing-role": func(c *trouble) {
		c.config = func(c *Config) { c.Keys = keysIn("x write " + writer) }
		c.headers = append(c.headers, "Authorization: Bearer "+writer)
		if strings.HasPrefix(c.path, "/v1/updates") {
			c.config = func(c *Config) { c.Keys = keysIn("x read,operate " + writer) }
		}
	},
	"cross-origin": func(c *trouble) { c.headers = append(c.headers, "Sec-Fetch-Site: cross-site") },
	"too-many-guesses": func(c *trouble) {
		c.config, c.body, c.headers = withTokens("secret-1"), `{"token":"wrong"}`, []string{asJSON, "Authorization: Bearer wrong"}
		c.api = func(a *testAPI) {
			for range guessesAtOnce {
				a.guesses.check(caller{address: netip.MustParseAddr("192.0.2.1")}) // which httptest asks from
			}
		}
	},
	"too-many-sessions": func(c *trouble) {
		c.config = withTokens("secret-1")
		c.api = func(a *testAPI) {
			name := tokenOf(a, "secret-1").Name
			for range sessionRate.atOnce {
				a.signIns.take(name)
				a.signOuts.take(name)
			}
			session := newSession(tokenOf(a, "secret-1"), time.Now().Add(sessionFor))
			c.headers = append(c.headers, "Cookie: "+plainCookie+"="+session)
		}
	},
	"proxied":                func(c *trouble) { c.headers = append(c.headers, "X-Forwarded-For: 8.8.8.8") },
	"unknown-host":           func(c *trouble) { c.request = func(r *http.Request) { r.Host = "evil.example" } },
	"unsupported-media-type": func(c *trouble) { c.headers = []string{"Content-Type: text/plain"} },
	"content-too-large": func(c *trouble) {
		c.config = func(c *Config) { c.MaxBodyBytes = 5000 }
		c.body = strings.Repeat(" ", 6000) + c.body
	},
	"request-timeout": func(c *trouble) {
		c.request = func(r *http.Request) { r.Body = io.NopCloser(late{}) }
	},
	"internal-error": func(c *trouble) {
		c.config = func(c *Config) {
			c.Recorder, c.Reader, c.Overview = struct{ Recorder }{}, struct{ Reader }{}, struct{ Overview }{}
			c.Ready = func(context.Context) error { panic("no state to be in") }
		}
	},
	"busy": func(c *trouble) {
		c.config = func(c *Config) { c.MaxBodiesBytes, c.Overview = 1, slowOverview{} }
		c.body = strings.Repeat(" ", 2*freeBodyBytes) + c.body
		if strings.Contains(c.path, "/quarantine/") {
			c.body = strings.TrimSpace(c.body)
		}
		c.api = func(a *testAPI) {
			for _, places := range []*places{a.spends, a.reports, a.looks, a.streams, a.scrapes} {
				places.taken = places.size
			}
		}
		c.request = leave // instead of waiting for its turn
	},
	"database-unavailable": func(c *trouble) {
		c.config = func(c *Config) {
			c.Reader, c.Keys = &failingReader{err: errors.New("connection refused")}, keysOf("secret-1")
			c.Recorder.(*failingRecorder).unread = errors.New("connection refused")
		}
		c.api = func(a *testAPI) {
			session := newSession(tokenOf(a, "secret-1"), time.Now().Add(sessionFor))
			c.headers = append(c.headers, "Authorization: Bearer secret-1", "Cookie: "+plainCookie+"="+session)
		}
	},
	"database-refuses": func(c *trouble) {
		c.config = func(c *Config) {
			refused := fmt.Errorf("read: %w", &pgconn.PgError{Severity: "ERROR", Code: "22003", Message: "bigint out of range"})
			c.Reader, c.Recorder.(*failingRecorder).unread = &failingReader{err: refused}, refused
		}
	},
	"not-ready": func(c *trouble) {
		c.config = func(c *Config) {
			c.Ready = func(context.Context) error { return errors.New("still migrating") }
			c.Refuse = func() error { return errors.New("still migrating") }
			c.Reader, c.Keys = &failingReader{err: errors.New("connection refused")}, keysOf("secret-1")
		}
		c.api = func(a *testAPI) { // a session that may have been ended before the instance began
			a.signedOut.started = time.Now().Add(time.Second)
			c.headers = append(c.headers, "Cookie: "+plainCookie+"="+newSession(tokenOf(a, "secret-1"), time.Now().Add(sessionFor-time.Hour)))
		}
	},
}

// late is a body that doesn't come in time.
type late struct{}

func (late) Read([]byte) (int, error) { return 0, os.ErrDeadlineExceeded }

// slowOverview never finds out how everything stands in time.
type slowOverview struct{}

func (slowOverview) Report(ctx context.Context) (*overview.Report, error) {
	return nil, context.DeadlineExceeded
}

// fill makes an address of a path of the document, with the examples of the parameters that are
// needed.
func (op *described) fill() string {
	path, query := op.path, url.Values{}
	for _, parameter := range op.of("parameters").elements() {
		name, example := parameter.text("name"), fmt.Sprint(parameter.of("example").value)
		switch {
		case parameter.text("in") == "path":
			path = strings.Replace(path, "{"+name+"}", example, 1)
		case parameter.of("required").value == true:
			query.Set(name, example)
		}
	}
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	return path
}

// goodBodies are bodies that are taken, by the operation.
var goodBodies = map[string]string{
	"recordUpdates": plain, "signIn": signInBody, "applyQuarantineEntry": `{"id":7}`, "dropQuarantineEntry": `{"id":7}`,
}

func TestEveryOperationAnswersTheProblemsThatAreDocumentedOfItAndNoOthers(t *testing.T) {
	for _, op := range theDocument().ops {
		answers := op.answers()
		for slug, bring := range troubles {
			i := slices.IndexFunc(answers, func(answer string) bool { return strings.HasSuffix(answer, " "+slug) })
			t.Run(op.id+" "+slug, func(t *testing.T) {
				c := trouble{method: op.method, path: op.fill(), body: goodBodies[op.id], headers: []string{asJSON}}
				bring(&c)
				w := c.answer(t)
				// Whatever else is answered is held to the document like every answer.
				if got := fmt.Sprintf("%d %s", w.Code, slugOf(w.Body.Bytes())); i >= 0 && got != answers[i] {
					t.Errorf("%s %s: %s instead of %s: %s", c.method, c.path, got, answers[i], w.Body)
				}
			})
		}
	}
}

// answer sends the request. A stream, which doesn't end by itself, is left at once.
func (c *trouble) answer(t *testing.T) (w *httptest.ResponseRecorder) {
	a, _ := newAPI(t, c.config)
	if c.api != nil {
		c.api(a)
	}
	r := httptest.NewRequest(c.method, c.path, strings.NewReader(c.body))
	r.Host = "localhost"
	for _, header := range c.headers {
		name, value, _ := strings.Cut(header, ": ")
		r.Header.Set(name, value)
	}
	if c.request != nil {
		c.request(r)
	}
	if strings.HasPrefix(c.path, "/v1/events") {
		leave(r)
	}
	w = httptest.NewRecorder()
	defer func() {
		if reason := recover(); reason != nil && reason != http.ErrAbortHandler { // which cuts the connection
			panic(reason)
		}
	}()
	a.ServeHTTP(w, r)
	return w
}

// leave has the client of the request gone.
func leave(r *http.Request) {
	ctx, cancel := context.WithCancel(r.Context())
	cancel()
	*r = *r.WithContext(ctx)
}

func TestPartsOfFilesAreServedAndStaleOnesAreNot(t *testing.T) {
	a, _ := newAPI(t, nil)
	for _, path := range []string{"/", "/assets/page.css", "/docs/api", "/openapi.json"} {
		for header, status := range map[string]int{
			"Range: bytes=0-9":       http.StatusPartialContent,
			"Range: bytes=99999999-": http.StatusRequestedRangeNotSatisfiable,
			`If-Match: "other"`:      http.StatusPreconditionFailed,
		} {
			if w := do(a, "GET", path, "", header); w.Code != status || status == http.StatusPartialContent && w.Body.Len() != 10 {
				t.Errorf("%s, %s: %d, %d bytes", path, header, w.Code, w.Body.Len())
			}
		}
	}
}

// collecting is a collector that does what a test wants.
type collecting func(chan<- prometheus.Metric)

func (c collecting) Describe(chan<- *prometheus.Desc)         {}
func (c collecting) Collect(metrics chan<- prometheus.Metric) { c(metrics) }

func TestScrapesThatFailOrAreTooManySaySo(t *testing.T) {
	of := func(c collecting) *testAPI {
		registry := prometheus.NewRegistry()
		registry.MustRegister(c)
		a, _ := newAPI(t, func(c *Config) { c.Registry = registry })
		return a
	}
	broken := of(func(metrics chan<- prometheus.Metric) {
		metrics <- prometheus.NewInvalidMetric(descConns, errors.New("can't be read"))
	})
	if w := do(broken, "GET", "/metrics", ""); w.Code != http.StatusInternalServerError {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	begun, end, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	slow := of(func(chan<- prometheus.Metric) {
		begun <- struct{}{}
		<-end
	})
	scrape := func(address string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", "http://localhost/metrics", nil)
		r.RemoteAddr = address + ":1000"
		w := httptest.NewRecorder()
		slow.ServeHTTP(w, r)
		return w
	}
	for i := range maxScrapes { // of two callers
		go func() {
			scrape(fmt.Sprint("127.0.0.", 1+i%2))
			done <- struct{}{}
		}()
		<-begun
	}
	wantProblem(t, scrape("127.0.0.3"), busy)
	close(end)
	for range maxScrapes {
		<-done
	}
}

func TestOneCallerDoesNotKeepOthersFromTheMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	begun, end := make(chan struct{}, maxScrapes), make(chan struct{})
	registry.MustRegister(collecting(func(chan<- prometheus.Metric) {
		begun <- struct{}{}
		<-end
	}))
	a, _ := newAPI(t, func(c *Config) { c.Registry = registry })
	scrape := a.newScrape(a.scrapes)
	from := func(address string) *problem {
		r := httptest.NewRequest("GET", "http://localhost/metrics", nil)
		r.RemoteAddr = address + ":1000"
		return scrape(httptest.NewRecorder(), r)
	}
	var work sync.WaitGroup
	for range maxScrapes / 2 {
		work.Go(func() { from("127.0.0.1") })
		<-begun
	}
	if p := from("127.0.0.1"); p == nil || p.Status != http.StatusServiceUnavailable {
		t.Error("one caller has more than half of the places")
	}
	work.Go(func() { from("127.0.0.2") })
	select {
	case <-begun:
	case <-time.After(patience):
		t.Error("another caller is kept out")
	}
	close(end)
	work.Wait()
}

func TestMetricsComeAsProtobufToThosePreferringIt(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "spendflush_test", Help: "A test."}))
	a, _ := newAPI(t, func(c *Config) { c.Registry = registry })
	w := do(a, "GET", "/metrics", "", "Accept: application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited")
	if w.Code != http.StatusOK || !strings.HasPrefix(w.Header().Get("Content-Type"), "application/vnd.google.protobuf") {
		t.Errorf("%d %v", w.Code, w.Header())
	}
}

// What the double of the database answers where it isn't away: that there is nothing.

func (f *failingReader) Entities(context.Context, []spend.EntityType, string, int) ([]pgstore.EntityTotal, error) {
	return nil, f.err
}

func (f *failingReader) FindEntities(context.Context, pgstore.EntityQuery) (pgstore.EntityPage, error) {
	return pgstore.EntityPage{}, f.err
}

func (f *failingReader) LostBatches(context.Context, string, *pgstore.LostID, int) ([]pgstore.Lost, error) {
	return nil, f.err
}

func (f *failingReader) QuarantinedIn(context.Context, string, int64, int) ([]pgstore.Quarantined, error) {
	return nil, f.err
}

func (f *failingReader) QuarantinedEntry(context.Context, int64) (pgstore.Quarantined, error) {
	return pgstore.Quarantined{}, cmp.Or(f.err, pgstore.ErrNotQuarantined)
}
