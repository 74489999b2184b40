package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/internal/docpages"
	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/pgstore"
)

// failingRecorder is for faults that a pipeline can't be brought to at will, and for what is about
// HTTP alone. What recording means is tested with a pipeline on real servers.
type failingRecorder struct {
	Recorder // nil: what isn't expected panics

	mu      sync.Mutex
	updates int
	err     error
	unread  error // of FindID
	wait    func(ctx context.Context, want spendflush.Stage) (spendflush.Stage, error)
}

func (f *failingRecorder) RecordAllFor(_ string, updates []spend.Update) (spendflush.Receipt, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range updates {
		if err := updates[i].Check(i); err != nil {
			return spendflush.Receipt{}, err
		}
	}
	if f.err == nil {
		f.updates += len(updates)
	}
	return spendflush.Receipt{}, f.err
}

func (f *failingRecorder) RecordOnceFor(caller, _ string, updates []spend.Update) (spendflush.Receipt, error) {
	return f.RecordAllFor(caller, updates)
}

func (f *failingRecorder) Counts(spendflush.Receipt) spendflush.Counts {
	return spendflush.Counts{New: f.recorded()}
}

func (f *failingRecorder) FindID(context.Context, spend.FactKind, string) (spendflush.IDStatus, error) {
	return spendflush.IDStatus{}, f.unread
}

func (f *failingRecorder) recorded() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.updates
}

func (f *failingRecorder) Wait(ctx context.Context, _ spendflush.Receipt, want spendflush.Stage) (spendflush.Stage, error) {
	return f.wait(ctx, want)
}

func (f *failingRecorder) Held(spend.Entity) spendflush.Held { return spendflush.Held{} }
func (f *failingRecorder) Producer() spend.ProducerID        { return spend.ProducerID{} }
func (f *failingRecorder) Status() spendflush.PipelineStatus {
	return spendflush.PipelineStatus{Producer: f.Producer().String(), Shards: []spendflush.ShardStatus{}}
}

// failingReader answers with its error, or with generated rows.
type failingReader struct {
	Reader // nil: what isn't expected panics

	err   error
	rows  int        // rows of a usage report
	after error      // what comes behind them
	ended chan error // gets what Usage returns
	left  error      // of the context, when the report was left before its end
}

func (f *failingReader) Spend(context.Context, spend.Entity, []spend.ProducerID) (pgstore.SpendReport, error) {
	return pgstore.SpendReport{}, f.err
}

func (f *failingReader) Usage(ctx context.Context, q pgstore.UsageQuery, yield func(pgstore.UsageRow) error) (err error) {
	if f.ended != nil {
		defer func() { f.ended <- err }()
	}
	if f.err != nil {
		return f.err
	}
	for i := range f.rows {
		row := pgstore.UsageRow{Start: q.From, Group: make([]string, len(q.GroupBy)), Counts: [7]string{strconv.Itoa(i), strconv.Itoa(i), "0", "0", "0", "0", "0"}}
		for j := range row.Group {
			row.Group[j] = "=1+1,\"é\""
		}
		if err := yield(row); err != nil {
			f.left = ctx.Err()
			return err
		}
	}
	return f.after
}

func (f *failingReader) Audit(context.Context) (pgstore.AuditReport, error) {
	return pgstore.AuditReport{Checks: []pgstore.AuditCheck{}, Quarantine: pgstore.AuditQuarantine{
		Rows: []pgstore.AuditRows{}, Batches: pgstore.AuditBatches{Spend: "0", Updates: "0"}, Conflicts: pgstore.AuditBatches{Spend: "0", Updates: "0"},
	}}, f.err
}
func (f *failingReader) Summary(context.Context) (pgstore.Summary, error) {
	return pgstore.Summary{}, f.err
}
func (f *failingReader) SignedOut(context.Context) (map[[16]byte]time.Time, error) {
	return map[[16]byte]time.Time{}, f.err
}
func (f *failingReader) SignOut(context.Context, [16]byte, time.Time) error { return f.err }
func (f *failingReader) Counts(context.Context) (pgstore.Counts, error) {
	return pgstore.Counts{}, f.err
}

// newAPI returns an API on doubles, changed by change.
func newAPI(t testing.TB, change func(*Config)) (*testAPI, *failingRecorder) {
	t.Helper()
	recorder := &failingRecorder{}
	c := Config{Recorder: recorder, Reader: &failingReader{}, Registry: prometheus.NewPedanticRegistry()}
	if change != nil {
		change(&c)
	}
	return newTestAPI(t, c), recorder
}

// do sends a request to the API without a network. Headers are given as "Name: value".
func do(a http.Handler, method, target, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Host = "127.0.0.1:4180"
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		r.Header.Add(name, value)
	}
	w := httptest.NewRecorder()
	a.ServeHTTP(w, r)
	return w
}

const asJSON, asNDJSON = "Content-Type: application/json", "Content-Type: application/x-ndjson"

// wantProblem checks that the answer is a problem of the type.
func wantProblem(t testing.TB, w *httptest.ResponseRecorder, kind problemType) problem {
	t.Helper()
	return checkProblem(t, w.Result(), kind)
}

func checkProblem(t testing.TB, resp *http.Response, kind problemType) problem {
	t.Helper()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var p problem
	if err := json.Unmarshal(body, &p); err != nil {
		t.Fatalf("status %d, body %q: %v", resp.StatusCode, body, err)
	}
	if resp.StatusCode != kind.status || p.Status != kind.status || p.Type != typeOf(kind) || p.Title != kind.title {
		t.Errorf("status %d, problem %+v; want %+v", resp.StatusCode, p, kind)
	}
	if got := resp.Header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("content type %q", got)
	}
	if !strings.HasPrefix(p.Instance, "urn:uuid:") || len(p.Instance) != len("urn:uuid:")+36 {
		t.Errorf("instance is %q", p.Instance)
	}
	return p
}

var protectedPaths = []string{
	"/v1/spend/team/t", "/v1/usage", "/v1/status", "/v1/audit", "/metrics", "/nothing/here", "/v1/spend/", "/v1/updates",
}

func TestWithTokensNothingThatHoldsDataAnswersWithoutOne(t *testing.T) {
	a, recorder := newAPI(t, func(c *Config) { c.Keys = keysOf("secret-1") })
	for _, path := range protectedPaths {
		for _, method := range []string{"GET", "HEAD", "POST", "OPTIONS", "DELETE"} {
			w := do(a, method, path, sampleUpdate(1), asJSON)
			if w.Code != http.StatusUnauthorized || w.Header().Get("WWW-Authenticate") != `Bearer realm="spendflush"` {
				t.Errorf("%s %s: %d, challenge %q", method, path, w.Code, w.Header().Get("WWW-Authenticate"))
			}
		}
	}
	if recorder.recorded() != 0 {
		t.Error("an update was recorded")
	}
	for _, path := range []string{"/healthz", "/readyz", "/"} {
		if w := do(a, "GET", path, ""); w.Code != http.StatusOK {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}

func TestOnlyAWholeTokenOfTheListOpens(t *testing.T) {
	a, _ := newAPI(t, func(c *Config) { c.Keys = keysOf("secret-1", "secret-2") })
	now := time.Now()
	a.guesses.clock = func() time.Time { // so slowly that there is no pause
		now = now.Add(guessEvery)
		return now
	}
	for _, header := range []string{
		"Bearer ", "Bearer secret", "Bearer secret-12", "Bearer secret-1 secret-2", "Bearer secret-1,secret-2", "Bearer SECRET-1",
		"Basic secret-1", "secret-1", "Bearersecret-1", "",
	} {
		p := wantProblem(t, do(a, "GET", "/v1/status", "", "Authorization: "+header), unauthorized)
		if strings.Contains(p.Detail, "secret") {
			t.Errorf("%q: the detail is %q", header, p.Detail)
		}
	}
	wantProblem(t, do(a, "GET", "/v1/status", "", "Authorization: Bearer secret-1", "Authorization: Bearer secret-1"), unauthorized)
	for _, header := range []string{"Bearer secret-1", "bearer secret-2", "BEARER  secret-1"} {
		if w := do(a, "GET", "/v1/status", "", "Authorization: "+header); w.Code != http.StatusOK {
			t.Errorf("%q: %d", header, w.Code)
		}
	}
}

func TestATokenNeverReachesTheLogNorAnError(t *testing.T) {
	var log bytes.Buffer
	a, recorder := newAPI(t, func(c *Config) {
		c.Keys = keysOf("secret-1")
		c.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	recorder.err = errors.New("something strange")
	for _, token := range []string{"secret-1", "secret-wrong"} {
		do(a, "POST", "/v1/updates", sampleUpdate(1), asJSON, "Authorization: Bearer "+token)
		do(a, "GET", "/v1/status", "", "Authorization: Bearer "+token)
	}
	if strings.Contains(log.String(), "secret") || !strings.Contains(log.String(), "path=/v1/status") {
		t.Errorf("the log is %s", &log)
	}
	_, err := New(Config{})
	for _, want := range []string{"Recorder", "Reader", "Registry"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error doesn't name %s: %v", want, err)
		}
	}
}

func TestAMethodThatIsNotServedIsRefusedWithThoseThatAre(t *testing.T) {
	a, recorder := newAPI(t, nil)
	const reads = "GET, HEAD, OPTIONS"
	for path, allow := range map[string]string{
		"/v1/updates": "POST, OPTIONS", "/v1/usage": reads, "/v1/spend/team/t": reads, "/v1/status": reads, "/v1/audit": reads,
		"/metrics": reads, "/healthz": reads, "/readyz": reads, "/": reads, "/v1/session": "GET, HEAD, POST, DELETE, OPTIONS",
	} {
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "NONSENSE"} {
			if strings.Contains(allow, method) {
				continue
			}
			w := do(a, method, path, sampleUpdate(1), asJSON)
			wantProblem(t, w, methodNotAllowed)
			if got := w.Header().Get("Allow"); got != allow {
				t.Errorf("%s %s: Allow is %q, want %q", method, path, got, allow)
			}
		}
		w := do(a, "OPTIONS", path, "")
		if w.Code != http.StatusNoContent || w.Header().Get("Allow") != allow || w.Header().Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("OPTIONS %s: %d %v", path, w.Code, w.Header())
		}
	}
	if recorder.recorded() != 0 {
		t.Error("an update was recorded")
	}
}

func TestAPathThatIsNotServedIsNotFoundAndNeverRedirected(t *testing.T) {
	a, _ := newAPI(t, nil)
	for _, path := range []string{"/v1", "/v1/", "/v1/updates/", "//v1/updates", "/v1/../v1/updates", "/v1/%75pdates", "/x", "/v1/spend/", "/healthz/"} {
		wantProblem(t, do(a, "GET", path, ""), notFound)
	}
}

func TestAPanicBecomesAProblemWhoseCauseOnlyTheLogHas(t *testing.T) {
	var log bytes.Buffer
	a, _ := newAPI(t, func(c *Config) {
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
		c.Ready = func(context.Context) error { panic("the inner state") }
	})
	w := do(a, "GET", "/readyz", "")
	p := wantProblem(t, w, internalError)
	if strings.Contains(p.Detail, "inner") {
		t.Errorf("the detail is %q", p.Detail)
	}
	if !strings.Contains(log.String(), "the inner state") || !strings.Contains(log.String(), p.Instance) {
		t.Errorf("the log is %s", &log)
	}
}

func TestAPanicHalfwayThroughAnAnswerCutsTheConnection(t *testing.T) {
	a, _ := newAPI(t, nil)
	a.routes.exact["/half"] = &route{get: func(w http.ResponseWriter, _ *http.Request) *problem {
		io.WriteString(w, "half of it")
		panic("and no more")
	}}
	server := serve(t, a)
	if resp, err := http.Get(server + "/half"); err == nil {
		defer resp.Body.Close()
		if body, err := io.ReadAll(resp.Body); err == nil {
			t.Errorf("the client takes %q for the whole", body)
		}
	}
}

func TestReadinessSaysWhyNot(t *testing.T) {
	a, _ := newAPI(t, func(c *Config) { c.Ready = func(context.Context) error { return errors.New("still migrating") } })
	w := do(a, "GET", "/readyz", "")
	if p := wantProblem(t, w, notReady); p.Detail != "still migrating" || w.Header().Get("Retry-After") == "" {
		t.Errorf("problem %+v, header %v", p, w.Header())
	}
	if w := do(a, "GET", "/healthz", ""); w.Code != http.StatusOK {
		t.Errorf("healthz: %d", w.Code)
	}
}

func TestADrainTurnsAwayAndStillTakesUpdates(t *testing.T) {
	a, _ := newAPI(t, nil)
	if w := do(a, "GET", "/readyz", ""); w.Code != http.StatusOK || w.Header().Get("Connection") != "" {
		t.Errorf("before: %d %v", w.Code, w.Header())
	}
	a.Drain()
	w := do(a, "GET", "/readyz", "")
	if p := wantProblem(t, w, notReady); !strings.Contains(p.Detail, "stopping") || w.Header().Get("Retry-After") == "" {
		t.Errorf("problem %+v, header %v", p, w.Header())
	}
	for _, path := range []string{"/readyz", "/healthz", "/v1/status", "/nothing"} {
		if w := do(a, "GET", path, ""); w.Header().Get("Connection") != "close" {
			t.Errorf("%s: header %v", path, w.Header())
		}
	}
	if w := do(a, "POST", "/v1/updates", plain, asJSON); w.Code != http.StatusAccepted || w.Header().Get("Connection") != "close" {
		t.Errorf("updates: %d %v", w.Code, w.Header())
	}
}

func TestUpdatesAreRefusedWithTheReason(t *testing.T) {
	var refusal error
	a, r := newAPI(t, func(c *Config) { c.Refuse = func() error { return refusal } })
	if w := do(a, "POST", "/v1/updates", plain, asJSON); w.Code != http.StatusAccepted {
		t.Errorf("before: %d", w.Code)
	}
	before := r.Status().Accepted
	refusal = errors.New("run it as the owner")
	w := do(a, "POST", "/v1/updates", plain, asJSON)
	if p := wantProblem(t, w, notReady); p.Detail != "nothing was recorded: run it as the owner" || w.Header().Get("Retry-After") == "" {
		t.Errorf("problem %+v, header %v", p, w.Header())
	}
	if now := r.Status().Accepted; now != before {
		t.Errorf("%d updates were recorded", now-before)
	}
}

func TestMetricsComeFromTheGivenRegistry(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	gauge := prometheus.NewGauge(prometheus.GaugeOpts{Name: "spendflush_test", Help: "A test."})
	registry.MustRegister(gauge)
	gauge.Set(7)
	a, _ := newAPI(t, func(c *Config) { c.Registry = registry })
	if w := do(a, "GET", "/metrics", ""); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "spendflush_test 7\n") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestWithTheDatabaseAwayStatusAnswersAndTheRestSaysSo(t *testing.T) {
	a, _ := newAPI(t, func(c *Config) { c.Reader = &failingReader{err: errors.New("dial tcp 10.0.0.5: refused")} })
	for _, path := range []string{"/v1/spend/team/t", "/v1/usage", "/v1/usage?format=csv", "/v1/audit"} {
		w := do(a, "GET", path, "")
		if p := wantProblem(t, w, databaseUnavailable); strings.Contains(p.Detail, "10.0.0.5") || w.Header().Get("Retry-After") == "" {
			t.Errorf("%s: problem %+v, header %v", path, p, w.Header())
		}
	}
	w := do(a, "GET", "/v1/status", "")
	if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"database":"unavailable"`) || strings.Contains(w.Body.String(), "10.0.0.5") {
		t.Errorf("status: %d %s", w.Code, w.Body)
	}
}

func TestBooksThatDoNotAddUpAreAnAnswerAndNotAFailure(t *testing.T) {
	a, _ := newAPI(t, nil)
	if w := do(a, "GET", "/v1/audit", ""); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"ok":false`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestAnswersAreNotCachedNorSniffed(t *testing.T) {
	a, _ := newAPI(t, nil)
	for _, path := range []string{"/v1/status", "/nothing", "/assets/nothing"} {
		h := do(a, "GET", path, "").Header()
		if h.Get("Cache-Control") != "no-store" || h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %v", path, h)
		}
	}
}

// waitUntil waits for something that happens sooner or later.
func waitUntil(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// patience bounds every wait for something that happens sooner or later. No test is quicker or
// slower to pass for it.
const patience = time.Minute

// typeOf returns the type of such problems of an instance at the root.
func typeOf(kind problemType) string { return docpages.URL("api", kind.slug) }

func TestAnInstanceThatRedisTakesNoWritesOfIsReadyAndSaysSo(t *testing.T) {
	a, _ := newAPI(t, func(c *Config) {
		c.Refused = func() string { return "READONLY You can't write against a read only replica." }
	})
	w := do(a, "GET", "/readyz", "")
	if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"refused":"READONLY You can't write against a read only replica."`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
