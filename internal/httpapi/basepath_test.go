package httpapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// newAPIBelow returns an API with a token and a base path.
func newAPIBelow(t *testing.T, base string) *API {
	t.Helper()
	a, err := New(Config{
		Recorder: &failingRecorder{}, Reader: &failingReader{}, Registry: prometheus.NewPedanticRegistry(),
		Keys: keysOf("secret-1"), BasePath: base,
	})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

const bearer = "Authorization: Bearer secret-1"

func TestBelowABasePathAllIsServedAndOnlyProbesAndMetricsAreWithoutIt(t *testing.T) {
	a := newAPIBelow(t, "/billing/spend")
	paths := []string{"/healthz", "/readyz", "/metrics", "/v1/status", "/v1/pipeline", "/v1/session"}
	for path := range assets {
		paths = append(paths, path)
	}
	for _, path := range paths {
		below, above := do(a, "GET", "/billing/spend"+path, "", bearer), do(a, "GET", path, "", bearer)
		wantAbove := http.StatusNotFound
		switch path {
		case "/healthz", "/readyz", "/metrics":
			wantAbove = below.Code
		}
		if below.Code != http.StatusOK || above.Code != wantAbove {
			t.Errorf("%s: %d below the base path, %d without it", path, below.Code, above.Code)
		}
	}
	if w := do(a, "POST", "/billing/spend/v1/updates", plain, asJSON, bearer); w.Code != http.StatusAccepted {
		t.Errorf("an update: %d %s", w.Code, w.Body)
	}
	if w := do(a, "GET", "/billing/spend/v1/spend/team/a%2Fb", "", bearer); !strings.Contains(w.Body.String(), "booked on this team") {
		t.Errorf("a path with a name in it: %d %s", w.Code, w.Body)
	}
	for _, path := range []string{"/", "/v1/updates", "/billing", "/billing/", "/billing/spendv1/status", "/billing/spend/billing/spend/v1/status", "/billing/spend//v1/status", "/Billing/spend/", "/billing%2Fspend/v1/status"} {
		if w := do(a, "GET", path, "", bearer); w.Code != http.StatusNotFound {
			t.Errorf("%s: %d", path, w.Code)
		}
		if w := do(a, "GET", path, ""); w.Code != http.StatusUnauthorized {
			t.Errorf("%s without a token: %d", path, w.Code)
		}
	}
}

func TestTheBasePathWithoutASlashLeadsToThePage(t *testing.T) {
	a := newAPIBelow(t, "/spend")
	for _, method := range []string{"GET", "HEAD"} {
		if w := do(a, method, "/spend", ""); w.Code != http.StatusPermanentRedirect || w.Header().Get("Location") != "/spend/" {
			t.Errorf("%s: %d %v", method, w.Code, w.Header())
		}
	}
}

func TestBelowABasePathTheCookieGoesThereAlone(t *testing.T) {
	a := newAPIBelow(t, "/spend")
	for _, over := range []struct{ header, name string }{
		{"X-Forwarded-Proto: http", "spendflush_session"}, {"X-Forwarded-Proto: https", "__Secure-spendflush_session"},
	} {
		w := do(a, "POST", "/spend/v1/session", signInBody, asJSON, over.header)
		cookies := w.Result().Cookies()
		if len(cookies) != 1 || cookies[0].Name != over.name || cookies[0].Path != "/spend/" || cookies[0].Secure != strings.HasPrefix(over.name, "__") || !cookies[0].HttpOnly {
			t.Fatalf("%s: %v", over.header, w.Header())
		}
		header := "Cookie: " + cookies[0].Name + "=" + cookies[0].Value
		if w := do(a, "GET", "/spend/v1/status", "", over.header, header); w.Code != http.StatusOK {
			t.Errorf("%s: %d with the cookie", over.header, w.Code)
		}
		w = do(a, "DELETE", "/spend/v1/session", "", over.header, header)
		if cookies := w.Result().Cookies(); len(cookies) != 1 || cookies[0].Name != over.name || cookies[0].Path != "/spend/" || cookies[0].MaxAge >= 0 {
			t.Errorf("%s: the browser doesn't forget it: %v", over.header, w.Header())
		}
	}
}

func TestTheDescriptionOfTheAPISaysBelowWhichPathItIs(t *testing.T) {
	tags := map[string]bool{}
	for base, want := range map[string]string{"": "/", "/spend": "/spend"} {
		w := do(newAPIBelow(t, base), "GET", base+"/openapi.json", "")
		var document struct{ Servers []struct{ URL string } }
		if err := json.Unmarshal(w.Body.Bytes(), &document); err != nil || len(document.Servers) != 1 || document.Servers[0].URL != want {
			t.Errorf("below %q: %v %v", base, document, err)
		}
		tags[w.Header().Get("ETag")] = true
	}
	if len(tags) != 2 {
		t.Error("both have one tag")
	}
}

func TestABasePathIsTakenAsItIsWrittenOrRefused(t *testing.T) {
	for text, want := range map[string]string{"": "", "/": "", "/spend": "/spend", "/spend/": "/spend", "/a/B-c_d.e~f/2": "/a/B-c_d.e~f/2", "/v1": "/v1"} {
		if got, err := CleanBasePath(text); err != nil || got != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	for _, text := range []string{
		"spend", "spend/", "//", "//evil.example", "/a//b", "/./", "/../a", "/a/..", "/a b", "/a%2Fb", "/a?b", "/a#b", "/ä", "/a\\b", "/a\n", `/"`,
		"/healthz", "/metrics/x", "/readyz/", "https://a.example/spend", "/" + strings.Repeat("a", 128), "/{a}",
	} {
		got, err := CleanBasePath(text)
		if err == nil {
			t.Errorf("%q is taken, as %q", text, got)
		}
		if _, err := New(Config{Recorder: &failingRecorder{}, Reader: &failingReader{}, Registry: prometheus.NewPedanticRegistry(), BasePath: text}); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("BasePath: %q", text)) {
			t.Errorf("an API is made with %q: %v", text, err)
		}
	}
}
