package httpapi

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spendflush/spendflush"
)

func TestATraceparentIsTakenUpAsTheStandardHasIt(t *testing.T) {
	t.Parallel()
	const id = "4bf92f3577b34da6a3ce929d0e0e4736"
	for given, want := range map[string]string{
		"00-" + id + "-00f067aa0ba902b7-01":                      id,
		"00-" + id + "-00f067aa0ba902b7-00":                      id, // not sampled, but known by it all the same
		"01-" + id + "-00f067aa0ba902b7-01":                      id,
		"01-" + id + "-00f067aa0ba902b7-01-more":                 id, // a later version
		"00-" + id + "-00f067aa0ba902b7-01-more":                 "",
		"01-" + id + "-00f067aa0ba902b7-01more":                  "",
		"ff-" + id + "-00f067aa0ba902b7-01":                      "",
		"00-" + strings.Repeat("0", 32) + "-00f067aa0ba902b7-01": "",
		"00-" + strings.ToUpper(id) + "-00f067aa0ba902b7-01":     "",
		"00-" + id[:31] + "-00f067aa0ba902b7-01":                 "",
		"00-" + id[:31] + "g-00f067aa0ba902b7-01":                "",
		"00_" + id + "-00f067aa0ba902b7-01":                      "",
		"00-" + id + "-00f067aa-ba902b7-01":                      "",
		"00-" + id + "-" + strings.Repeat("0", 16) + "-01":       "", // no span has this id
		"00-" + id + "-00f067aa0ba902b7-04":                      "", // a flag that version 00 doesn't have
		"":                                                       "",
		"00-" + id[:31] + "\n-00f067aa0ba902b7-01":               "",
	} {
		if got := idOf(http.Header{traceHeader: {given}}); got != want {
			t.Errorf("%q: %q, want %q", given, got, want)
		}
	}
	if got := idOf(http.Header{}); got != "" {
		t.Errorf("without one the trace is %q", got)
	}
	valid := "00-" + id + "-00f067aa0ba902b7-01"
	if got := idOf(http.Header{traceHeader: {valid, valid}}); got != "" {
		t.Errorf("of two the trace %q is taken", got)
	}
	parent := TraceParent(http.Header{traceHeader: {valid}, "Tracestate": {"vendor=1"}})
	if !parent.IsSampled() || !parent.IsRemote() || parent.TraceState().Get("vendor") != "1" {
		t.Errorf("the parent is %+v", parent)
	}
	parent = TraceParent(http.Header{traceHeader: {valid[:len(valid)-1] + "0"}, "Tracestate": {"=,"}})
	if !parent.IsValid() || parent.IsSampled() {
		t.Errorf("a tracestate that is wrong, or a client that doesn't sample, makes of the parent %+v", parent)
	}
}

// idOf is the id of the trace that the access log has for a request with these headers that isn't
// traced.
func idOf(h http.Header) string { return new(answer).traceID(&http.Request{Header: h}) }

// notes is a Tracer that keeps what it is told.
type notes struct {
	mu   sync.Mutex
	told []string
}

func (n *notes) note(parts ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.told = append(n.told, strings.Join(parts, " "))
}

func (n *notes) Begin(r *http.Request, came time.Time) Span {
	if came.IsZero() || time.Since(came) > patience {
		n.note("at another time")
	}
	n.note("begin")
	return noted{n}
}

type noted struct{ *notes }

func (n noted) Recorded(_ spendflush.Receipt, updates int, began time.Time) {
	n.note("recorded", strings.Repeat("x", updates))
}
func (n noted) End(method, route string, status int) { n.note(method, route, http.StatusText(status)) }
func (n noted) TraceID() string                      { return "the-trace" }

func TestOnlyRequestsOfKnownCallersAreTraced(t *testing.T) {
	tracer := &notes{}
	a, _ := newAPI(t, func(c *Config) { c.Keys, c.Tracer = keysOf(strongToken), tracer })
	const token = "Authorization: Bearer " + strongToken
	for _, path := range []string{"/metrics", "/healthz", "/readyz"} {
		do(a, "GET", path, "", token)
	}
	do(a, "POST", "/v1/updates", `{"spend":1,"api_key":"k"}`)                                          // without a token
	do(a, "POST", "/v1/updates", `{"spend":1,"api_key":"k"}`, "Authorization: Bearer another-0123456") // with a wrong one
	do(a, "GET", "/", "")
	if len(tracer.told) != 0 {
		t.Errorf("is traced: %q", tracer.told)
	}
	do(a, "POST", "/v1/updates", `[{"spend":1,"api_key":"k"},{"spend":1,"api_key":"k"}]`, token, "Content-Type: application/json")
	do(a, "POST", "/v1/updates", `[{"spend":-1e99}]`, token, "Content-Type: application/json")
	want := []string{"begin", "recorded xx", "POST /v1/updates Accepted", "begin", "POST /v1/updates Bad Request"}
	if !slices.Equal(tracer.told, want) {
		t.Errorf("is told %q, want %q", tracer.told, want)
	}
}
