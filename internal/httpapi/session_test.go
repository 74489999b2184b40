package httpapi

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/spendflush/spendflush/internal/access"
)

const signInBody = `{"token":"secret-1"}`

// signedIn returns the cookie that a sign-in gives, as a header of a request.
func signedIn(t testing.TB, a *testAPI) (cookie *http.Cookie, header string) {
	t.Helper()
	return signedInWith(t, a, "secret-1")
}

func signedInWith(t testing.TB, a *testAPI, token string) (cookie *http.Cookie, header string) {
	t.Helper()
	w := do(a, "POST", "/v1/session", fmt.Sprintf(`{"token":%q}`, token), asJSON)
	cookies := w.Result().Cookies()
	if w.Code != http.StatusNoContent || len(cookies) != 1 {
		t.Fatalf("%d %v", w.Code, w.Header())
	}
	return cookies[0], "Cookie: " + cookies[0].Name + "=" + cookies[0].Value
}

// lists are those that keysOf has made, by their texts: the key of a session takes seconds with the
// race detector, and is the same for all who have the token.
var lists = map[string]*access.List{}

// keysOf are tokens without names of their own, which may do everything. Keys of the same texts
// have the same list.
func keysOf(texts ...string) *access.Keys {
	name := strings.Join(texts, ",")
	if lists[name] == nil {
		list, err := access.Plain(texts...)
		if err != nil {
			panic(err)
		}
		lists[name] = list
	}
	return access.NewKeys(lists[name])
}

func tokenOf(a *testAPI, text string) *access.Token { return a.cfg.Keys.Now().Find(text) }

func withTokens(texts ...string) func(*Config) { return func(c *Config) { c.Keys = keysOf(texts...) } }

func TestACookieOfOneInstanceOpensEveryOtherWithTheSameTokensUntilItEnds(t *testing.T) {
	a, _ := newAPI(t, withTokens("secret-1"))
	b, _ := newAPI(t, withTokens("another-2", "secret-1"))
	c, _ := newAPI(t, withTokens("another-2"))
	cookie, header := signedIn(t, a)
	if cookie.Name != "spendflush_session" || !cookie.HttpOnly || cookie.SameSite != http.SameSiteStrictMode || cookie.Path != "/" ||
		cookie.MaxAge != 12*60*60 || cookie.Secure || cookie.Domain != "" {
		t.Errorf("cookie %+v", cookie)
	}
	if raw, err := base64.RawURLEncoding.DecodeString(cookie.Value); err != nil || strings.Contains(string(raw), "secret") {
		t.Errorf("cookie %q holds the token, or isn't what it should be: %v", cookie.Value, err)
	}
	for name, api := range map[string]*testAPI{"the same": a, "another": b} {
		if w := do(api, "GET", "/v1/status", "", header); w.Code != http.StatusOK {
			t.Errorf("%s instance: %d", name, w.Code)
		}
		if w := do(api, "POST", "/v1/updates", plain, asJSON, header); w.Code != http.StatusAccepted {
			t.Errorf("%s instance: update: %d", name, w.Code)
		}
	}
	wantProblem(t, do(c, "GET", "/v1/status", "", header), unauthorized)
	made, ok := opens(a.cfg.Keys.Now(), cookie.Value, time.Now())
	if left := time.Until(made.ends); !ok || left > 12*time.Hour {
		t.Fatalf("the session ends in %s, %t", left, ok)
	}
	for at, want := range map[time.Duration]bool{-time.Second: true, 0: false, -12 * time.Hour: true, -12*time.Hour - time.Second: false} {
		if _, ok := opens(a.cfg.Keys.Now(), cookie.Value, made.ends.Add(at)); ok != want {
			t.Errorf("%s before its end it opens: %t", -at, ok) // one that would last longer than sessions do wasn't made here
		}
	}
}

func TestACookieThatWasAlteredOrMadeUpOpensNothing(t *testing.T) {
	a, _ := newAPI(t, withTokens("secret-1", "secret-2"))
	cookie, header := signedIn(t, a)
	raw, _ := base64.RawURLEncoding.DecodeString(cookie.Value)
	for i := range raw {
		changed := []byte(string(raw))
		changed[i] ^= 1
		if _, ok := opens(a.cfg.Keys.Now(), base64.RawURLEncoding.EncodeToString(changed), time.Now()); ok {
			t.Errorf("a cookie whose byte %d was changed opens", i)
		}
	}
	unknown := keysOf("another-3").Now().Find("another-3")
	ends := time.Now().Add(time.Hour)
	for _, value := range []string{
		"", "x", cookie.Value[:len(cookie.Value)-1], cookie.Value + "A", newSession(unknown, ends),
		base64.RawURLEncoding.EncodeToString(raw[:sessionHead]), "secret-1",
	} {
		wantProblem(t, do(a, "GET", "/v1/status", "", "Cookie: "+plainCookie+"="+value), unauthorized)
	}
	// The right one beside a wrong one of an old path or domain still opens, but not beside a wrong
	// bearer token.
	if w := do(a, "GET", "/v1/status", "", "Cookie: "+plainCookie+"=old; "+strings.TrimPrefix(header, "Cookie: ")); w.Code != http.StatusOK {
		t.Errorf("beside another cookie: %d", w.Code)
	}
	wantProblem(t, do(a, "GET", "/v1/status", "", header, "Authorization: Bearer wrong"), unauthorized)
}

func TestOnlyATokenSignsInAndWhatIsWrongIsNotRepeated(t *testing.T) {
	a, _ := newAPI(t, withTokens("secret-1"))
	for body, kind := range map[string]problemType{
		`{"token":"secret-x"}`:                 unauthorized,
		`{"token":""}`:                         unauthorized,
		`{}`:                                   unauthorized,
		`null`:                                 unauthorized,
		`{"token":["secret-1"]}`:               invalidJSON,
		`{"token":"secret-1","more":"secret"}`: invalidJSON,
		`{"token":"secret-1"`:                  invalidJSON,
		`{"token":"a","token":"secret-1"}`:     invalidJSON,
		`"secret-1"`:                           invalidJSON,
		"":                                     invalidJSON,
		`{"token":"` + strings.Repeat("x", 5000) + `"}`: contentTooLarge,
	} {
		w := do(a, "POST", "/v1/session", body, asJSON)
		if p := wantProblem(t, w, kind); strings.Contains(p.Detail, "secret") || w.Header().Get("Set-Cookie") != "" {
			t.Errorf("%.40s: %+v %v", body, p, w.Header())
		}
	}
	wantProblem(t, do(a, "POST", "/v1/session", signInBody, "Content-Type: text/plain"), unsupportedMediaType)
	wantProblem(t, do(a, "POST", "/v1/session", signInBody, asNDJSON), unsupportedMediaType)
	wantProblem(t, do(a, "POST", "/v1/session?token=secret-1", signInBody, asJSON), invalidRequest)
}

func TestASessionSaysWhetherItIsNeededAndThere(t *testing.T) {
	a, _ := newAPI(t, withTokens("secret-1"))
	_, header := signedIn(t, a)
	open, _ := newAPI(t, nil)
	for _, c := range []struct {
		api    *testAPI
		header string
		want   string
	}{
		{a, "X: y", `{"needed":true,"signed_in":false,"roles":[]}`},
		{a, header, `{"needed":true,"signed_in":true,"name":"` + tokenOf(a, "secret-1").Name + `","roles":["write","read","operate"]}`},
		{a, "Authorization: Bearer secret-1", `{"needed":true,"signed_in":true,"name":"` + tokenOf(a, "secret-1").Name + `","roles":["write","read","operate"]}`},
		{a, "Authorization: Bearer secret-2", `{"needed":true,"signed_in":false,"roles":[]}`},
		{open, "X: y", `{"needed":false,"signed_in":true,"roles":["write","read","operate"]}`},
	} {
		if w := do(c.api, "GET", "/v1/session", "", c.header); w.Code != http.StatusOK || strings.TrimSpace(w.Body.String()) != c.want {
			t.Errorf("%s: %d %s, want %s", c.header, w.Code, w.Body, c.want)
		}
	}
	w := do(a, "DELETE", "/v1/session", "", header)
	if cookies := w.Result().Cookies(); w.Code != http.StatusNoContent || len(cookies) != 1 || cookies[0].Value != "" || cookies[0].MaxAge >= 0 || cookies[0].Path != "/" {
		t.Errorf("sign-out: %d %v", w.Code, w.Header())
	}
	if w := do(open, "POST", "/v1/session", signInBody, asJSON); w.Code != http.StatusNoContent || w.Header().Get("Set-Cookie") != "" {
		t.Errorf("sign-in where none is needed: %d %v", w.Code, w.Header())
	}
}

func TestACookieGivenOverTLSNeverTravelsWithoutIt(t *testing.T) {
	a, _ := newAPI(t, withTokens("secret-1"))
	behind := do(a, "POST", "/v1/session", signInBody, asJSON, "X-Forwarded-Proto: https")
	r := httptest.NewRequest("POST", "/v1/session", strings.NewReader(signInBody))
	r.Header.Set("Content-Type", "application/json")
	r.TLS = &tls.ConnectionState{}
	direct := httptest.NewRecorder()
	a.ServeHTTP(direct, r)
	for _, w := range []*httptest.ResponseRecorder{behind, direct} {
		cookies := w.Result().Cookies()
		if len(cookies) != 1 || !cookies[0].Secure || cookies[0].Name != "__Host-spendflush_session" || cookies[0].Path != "/" || cookies[0].Domain != "" {
			t.Fatalf("%d %v", w.Code, w.Header())
		}
		// What any service on the same host name can set doesn't count where the browser would keep
		// it apart.
		value := cookies[0].Value
		for header, status := range map[string]int{
			"Cookie: __Host-spendflush_session=" + value: http.StatusOK, "Cookie: spendflush_session=" + value: http.StatusUnauthorized,
		} {
			if w := do(a, "GET", "/v1/status", "", header, "X-Forwarded-Proto: https"); w.Code != status {
				t.Errorf("%.30s over TLS: %d", header, w.Code)
			}
		}
	}
}

func TestAPageOfAnotherOriginCanChangeNothing(t *testing.T) {
	a, recorder := newAPI(t, withTokens("secret-1"))
	_, header := signedIn(t, a)
	for _, from := range []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site", "Origin: https://evil.example", "Origin: null", "Origin: http://127.0.0.1:9999"} {
		for _, target := range []string{
			"POST /v1/updates", "POST /v1/session", "DELETE /v1/session", "POST /v1/nothing", "GET /v1/audit", "GET /v1/usage", "GET /v1/events",
			"GET /v1/session", "GET /metrics", "GET /openapi.json", "HEAD /v1/audit", "GET /nothing",
		} {
			method, path, _ := strings.Cut(target, " ")
			w := do(a, method, path, plain, asJSON, header, from)
			if wantProblem(t, w, crossOrigin); w.Header().Get("Set-Cookie") != "" {
				t.Errorf("%s %s: %v", target, from, w.Header())
			}
		}
	}
	if recorder.recorded() != 0 {
		t.Error("an update was recorded")
	}
	for _, from := range []string{"Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: none", "Origin: http://127.0.0.1:4180", "X: a program"} {
		if w := do(a, "POST", "/v1/updates", plain, asJSON, header, from); w.Code != http.StatusAccepted {
			t.Errorf("%s: %d %s", from, w.Code, w.Body)
		}
	}
	// A link may lead to the page, and whatever is asked for, pages of other sites can't use it.
	for target, status := range map[string]int{"/": http.StatusOK, "/assets/page.css": http.StatusOK, "/healthz": http.StatusOK, "/v1/audit": http.StatusForbidden} {
		w := do(a, "GET", target, "", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document")
		if w.Code != status || w.Header().Get("Cross-Origin-Resource-Policy") != "same-origin" {
			t.Errorf("a link to %s: %d %v", target, w.Code, w.Header())
		}
	}
}

func TestWithoutTokensANameThatIsMadeToStandForThisMachineOpensNothing(t *testing.T) {
	a, recorder := newAPI(t, nil)
	guarded, _ := newAPI(t, withTokens("secret-1"))
	ask := func(a *testAPI, method, path, host string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, path, strings.NewReader(plain))
		r.Host = host
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", "Bearer secret-1")
		w := httptest.NewRecorder()
		a.ServeHTTP(w, r)
		return w
	}
	for _, host := range []string{"evil.example", "evil.example:4180", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.5", "[fe80::1]:4180", "notlocalhost", "0.0.0.0", "::"} {
		for _, target := range []string{"POST /v1/updates", "GET /v1/status", "GET /", "GET /metrics", "GET /nothing"} {
			method, path, _ := strings.Cut(target, " ")
			if p := wantProblem(t, ask(a, method, path, host), unknownHost); !strings.Contains(p.Detail, fmt.Sprintf("%q", host)) {
				t.Errorf("%s: %+v", host, p)
			}
		}
		for _, path := range []string{"/healthz", "/readyz"} {
			if w := ask(a, "GET", path, host); w.Code != http.StatusOK {
				t.Errorf("%s of %s: %d", path, host, w.Code)
			}
		}
		if w := ask(guarded, "GET", "/v1/status", host); w.Code != http.StatusOK {
			t.Errorf("with a token under %s: %d", host, w.Code)
		}
	}
	if recorder.recorded() != 0 {
		t.Error("an update was recorded")
	}
	for _, host := range []string{"localhost", "LOCALHOST:4180", "localhost.:80", "a.localhost", "127.0.0.1", "127.8.7.6:4180", "[::1]:4180", "[::1]", "::1", "[::ffff:127.0.0.1]", ""} {
		if w := ask(a, "GET", "/v1/status", host); w.Code != http.StatusOK {
			t.Errorf("%q: %d %s", host, w.Code, w.Body)
		}
	}
}
