package httpapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/spendflush/spendflush/internal/access"
)

// from sends a request with a bearer token from an address, and returns the answer.
func from(a *testAPI, address, token string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", "/v1/status", nil)
	r.RemoteAddr = address
	r.Header.Set("Authorization", "Bearer "+token)
	w := httptest.NewRecorder()
	a.ServeHTTP(w, r)
	return w
}

// slowly has the API see the time that the returned function moves on.
func slowly(a *testAPI) (wait func(time.Duration)) {
	now := time.Now()
	a.guesses.clock = func() time.Time { return now }
	return func(d time.Duration) { now = now.Add(d) }
}

func TestWhoGuessesTokensHasToPauseAndNobodyElse(t *testing.T) {
	var log bytes.Buffer
	a, _ := newAPI(t, func(c *Config) {
		c.Keys = keysOf("secret-1", "secret-2")
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	wait := slowly(a)
	const guesser = "203.0.113.9:1000"
	if w := from(a, guesser, "secret-1"); w.Code != http.StatusOK { // a proxy, through which somebody honest comes, too
		t.Fatal(w.Code)
	}
	for i := range guessesAtOnce {
		wantProblem(t, from(a, guesser, fmt.Sprint("guess-", i)), unauthorized)
	}
	for range 100 {
		if w := from(a, guesser, "guess"); wantProblem(t, w, tooManyGuesses).Status != 429 || w.Header().Get("Retry-After") != "6" {
			t.Fatal(w.Header())
		}
	}
	wantProblem(t, from(a, "203.0.113.9:2000", "secret-2"), tooManyGuesses) // even if it is right
	wantProblem(t, do(a, "POST", "/v1/session", `{"token":"x"}`, asJSON), unauthorized)
	for _, honest := range [][2]string{{guesser, "secret-1"}, {"203.0.113.10:1000", "secret-2"}, {"[2001:db8::1]:1000", "secret-2"}} {
		if w := from(a, honest[0], honest[1]); w.Code != http.StatusOK {
			t.Errorf("%s with its token: %d", honest[0], w.Code)
		}
	}
	if lines := strings.Count(log.String(), "level=WARN"); lines != 1 || strings.Contains(log.String(), "guess-") {
		t.Errorf("%d warnings within a second:\n%s", lines, &log)
	}
	wait(guessEvery)
	wantProblem(t, from(a, guesser, "guess"), unauthorized) // one more
	wantProblem(t, from(a, guesser, "guess"), tooManyGuesses)
	if !strings.Contains(log.String(), "remote=203.0.113.9 since_the_last_line=111") {
		t.Errorf("the log is\n%s", &log)
	}
	wait(guessesAtOnce * guessEvery)
	if w := from(a, guesser, "secret-2"); w.Code != http.StatusOK {
		t.Errorf("after the pause: %d", w.Code)
	}
	wantProblem(t, do(a, "GET", "/v1/status", ""), unauthorized)
	refused := map[string]float64{}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(a.Collector())
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == "spendflush_http_unauthorized_total" {
			for _, m := range family.GetMetric() {
				refused[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
			}
		}
	}
	if want := map[string]float64{"missing": 1, "wrong": 12, "paused": 102}; !maps.Equal(refused, want) {
		t.Errorf("counted are %v, want %v", refused, want)
	}
}

func TestWhoGuessesBehindAProxyKeepsNoneOfManyTokensOut(t *testing.T) {
	tokens := make([]string, 300)
	var file strings.Builder // with names: to make 300 of tokens takes seconds
	for i := range tokens {
		tokens[i] = fmt.Sprintf("secret-0123456789-%d", i)
		fmt.Fprintf(&file, "caller-%d all %s\n", i, tokens[i])
	}
	a, _ := newAPI(t, func(c *Config) { c.Keys = keysIn(file.String()) })
	slowly(a)
	const proxy = "203.0.113.9:1000"
	for _, token := range tokens {
		if w := from(a, proxy, token); w.Code != http.StatusOK {
			t.Fatal(w.Code)
		}
	}
	for range guessesAtOnce {
		wantProblem(t, from(a, proxy, "guess"), unauthorized)
	}
	for _, token := range tokens {
		if w := from(a, proxy, token); w.Code != http.StatusOK {
			t.Fatalf("%s was right before, and is answered %d", token, w.Code)
		}
	}
}

func TestTheAddressesOfOneCustomerPauseTogetherAndAreNotRememberedForEver(t *testing.T) {
	a, _ := newAPI(t, withTokens("secret-1"))
	wait := slowly(a)
	for i := range guessesAtOnce {
		wantProblem(t, from(a, fmt.Sprintf("[2001:db8::%d]:1", i), "guess"), unauthorized)
	}
	wantProblem(t, from(a, "[2001:db8::ffff]:1", "guess"), tooManyGuesses)
	wantProblem(t, from(a, "[2001:db8:0:1::1]:1", "guess"), unauthorized)
	for i := range 2 * maxGuessers {
		a.guesses.check(caller{address: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})})
	}
	if n := len(a.guesses.until); n > maxGuessers+1 {
		t.Errorf("%d addresses are remembered", n)
	}
	wantProblem(t, from(a, "198.51.100.1:1", "guess"), tooManyGuesses) // all that came too late share one place
	wait(time.Hour)
	wantProblem(t, from(a, "198.51.100.1:1", "guess"), unauthorized)
	if n := len(a.guesses.until); n > maxGuessers+1 {
		t.Errorf("%d addresses are remembered", n)
	}
}

// endedReader is a list of ended sessions that several instances share, and that can be away.
type endedReader struct {
	failingReader
	mu    sync.Mutex
	ended map[[16]byte]time.Time
	away  error
}

func (r *endedReader) SignedOut(context.Context) (map[[16]byte]time.Time, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := map[[16]byte]time.Time{}
	for id, ends := range r.ended {
		list[id] = ends
	}
	return list, r.away
}

func (r *endedReader) SignOut(_ context.Context, id [16]byte, ends time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.away == nil {
		r.ended[id] = ends
	}
	return r.away
}

func (r *endedReader) is(away error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.away = away
}

// look has the instance read the list at the next cookie.
func look(a *testAPI) { a.signedOut.asked = time.Time{} }

func TestASignOutEndsTheSessionOnAllInstances(t *testing.T) {
	shared := &endedReader{ended: map[[16]byte]time.Time{}}
	var log bytes.Buffer
	start := func() *testAPI {
		a, _ := newAPI(t, func(c *Config) {
			c.Keys, c.Reader, c.Logger = keysOf("another-2", "secret-1"), shared, slog.New(slog.NewTextHandler(&log, nil))
		})
		return a
	}
	a, b := start(), start()
	opens := func(a *testAPI, header string) bool {
		return do(a, "GET", "/v1/status", "", header).Code == http.StatusOK
	}
	_, header := signedIn(t, a)
	_, other := signedIn(t, a)
	if !opens(a, header) || !opens(b, header) {
		t.Fatal("it doesn't open both")
	}
	if w := do(b, "DELETE", "/v1/session", "", header); w.Code != http.StatusNoContent {
		t.Fatal(w.Code)
	}
	if opens(b, header) {
		t.Error("the session goes on where it was ended")
	}
	if look(a); opens(a, header) || opens(start(), header) {
		t.Error("the session goes on elsewhere")
	}
	if !opens(a, other) || !opens(b, other) {
		t.Error("another session of the token was ended, too")
	}

	// While Postgres is away, a sign-out counts here, and elsewhere once it is back.
	shared.is(errors.New("connection refused"))
	wantProblem(t, do(b, "DELETE", "/v1/session", "", other), databaseUnavailable)
	look(a)
	look(b)
	if opens(b, other) || !opens(a, other) {
		t.Error("the sign-out doesn't count here, or what was known is forgotten")
	}
	if opens(a, header) || opens(b, header) {
		t.Error("what was ended before opens again while Postgres is away")
	}
	shared.is(nil)
	look(b)
	opens(b, "X: y; Cookie")
	opens(b, header) // reads, and says what wasn't said
	if look(a); opens(a, other) {
		t.Error("the sign-out was never told")
	}
	name := tokenOf(a, "secret-1").Name
	for _, want := range []string{
		`msg="signed in" token=` + name + ` remote=192.0.2.1`, `msg="signed out" token=` + name + ` remote=192.0.2.1 everywhere=true`, `everywhere=false`,
	} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log doesn't say %s:\n%s", want, &log)
		}
	}
}

func TestWhoEndsSessionsByTheThousandRevivesNoneAndEndsNoOthers(t *testing.T) {
	shared := &endedReader{ended: map[[16]byte]time.Time{}}
	a, _ := newAPI(t, func(c *Config) { c.Keys, c.Reader = keysOf("secret-1", "secret-2"), shared })
	greedy, other := tokenOf(a, "secret-1"), tokenOf(a, "secret-2")
	of := func(token *access.Token, begun time.Duration) string {
		return "Cookie: " + plainCookie + "=" + newSession(token, time.Now().Add(sessionFor-begun))
	}
	status := func(header string) int {
		look(a)
		return do(a, "GET", "/v1/status", "", header).Code
	}
	idOf := func(token *access.Token, i int) (id [16]byte) {
		tag := tagOf(token)
		copy(id[:], tag[:])
		id[14], id[15] = byte(i>>8), byte(i)
		return id
	}
	victim, later, others, gone := of(greedy, time.Hour), of(greedy, time.Minute), of(other, 11*time.Hour), of(other, time.Hour)
	if w := do(a, "DELETE", "/v1/session", "", gone); w.Code != http.StatusNoContent {
		t.Fatal(w.Code)
	}
	for i := range fullList - 1 { // all that end last; the victim's sign-out is not among them any more
		shared.ended[idOf(greedy, i)] = time.Now().Add(sessionFor - 30*time.Minute)
	}
	if status(victim) != http.StatusUnauthorized {
		t.Error("a session opens that may have been ended")
	}
	if status(later) != http.StatusOK {
		t.Error("a session is taken for ended that the list would name")
	}
	if status(others) != http.StatusOK {
		t.Error("a session of another token ended")
	}
	if status(gone) != http.StatusUnauthorized {
		t.Error("an ended session of another token opens again")
	}
	delete(shared.ended, idOf(greedy, 0))
	if status(victim) != http.StatusOK {
		t.Error("a list that isn't full is whole")
	}

	// Of two that are as long, each may have one place less than the other.
	clear(shared.ended)
	for i := range fullList/2 + 1 {
		shared.ended[idOf(greedy, i)] = time.Now().Add(sessionFor - 30*time.Minute)
		if i > 1 {
			shared.ended[idOf(other, i)] = time.Now().Add(sessionFor - 30*time.Minute)
		}
	}
	if len(shared.ended) != fullList || status(victim) != http.StatusUnauthorized || status(others) != http.StatusOK {
		t.Errorf("of %d, places for %d and %d of two tokens", len(shared.ended), fullList/2+1, fullList/2-1)
	}
	delete(shared.ended, idOf(greedy, 0))
	shared.ended[idOf(other, 0)] = time.Now().Add(sessionFor - 30*time.Minute)
	if status(victim) != http.StatusUnauthorized || status(others) != http.StatusUnauthorized {
		t.Error("a session opens that may have been ended, of tokens with as many places")
	}
}

func TestSessionsOfOneTokenBeginAndEndNoMoreOftenThanPeopleDo(t *testing.T) {
	shared := &endedReader{ended: map[[16]byte]time.Time{}}
	a, _ := newAPI(t, func(c *Config) { c.Keys, c.Reader = keysOf("secret-1", "secret-2"), shared })
	now := time.Now()
	clock := func() time.Time { return now }
	a.signIns.clock, a.signOuts.clock = clock, clock
	signOut := func(token string) (header string, w *httptest.ResponseRecorder) {
		header = "Cookie: " + plainCookie + "=" + newSession(tokenOf(a, token), time.Now().Add(sessionFor)) // whoever has the token can make one
		return header, do(a, "DELETE", "/v1/session", "", header)
	}
	refused := func(w *httptest.ResponseRecorder) {
		t.Helper()
		if wantProblem(t, w, tooManySessions); w.Header().Get("Retry-After") != "10" || w.Header().Get("Set-Cookie") != "" {
			t.Error(w.Header())
		}
	}
	first, _ := signOut("secret-1")
	for range sessionRate.atOnce - 1 {
		if _, w := signOut("secret-1"); w.Code != http.StatusNoContent {
			t.Fatal(w.Code, w.Body)
		}
	}
	goesOn, w := signOut("secret-1")
	refused(w)
	if w := do(a, "GET", "/v1/status", "", goesOn); w.Code != http.StatusOK || len(shared.ended) != sessionRate.atOnce {
		t.Errorf("a session that wasn't ended: %d; %d were", w.Code, len(shared.ended))
	}
	for range 2 { // what is over already needs no turn, and other tokens have their own
		if w := do(a, "DELETE", "/v1/session", "", first); w.Code != http.StatusNoContent {
			t.Error(w.Code)
		}
		if _, w := signOut("secret-2"); w.Code != http.StatusNoContent {
			t.Error(w.Code)
		}
	}

	for range sessionRate.atOnce { // who can't sign out any more can sign in
		signedIn(t, a)
	}
	refused(do(a, "POST", "/v1/session", signInBody, asJSON))
	signedInWith(t, a, "secret-2")
	now = now.Add(sessionRate.every)
	signedIn(t, a)
	refused(do(a, "POST", "/v1/session", signInBody, asJSON))
	if w := do(a, "DELETE", "/v1/session", "", goesOn); w.Code != http.StatusNoContent {
		t.Error(w.Code)
	}
}

func TestAnInstanceThatNeverReadTheEndedSessionsTakesOnlyNewOnes(t *testing.T) {
	shared := &endedReader{ended: map[[16]byte]time.Time{}, away: errors.New("connection refused")}
	a, _ := newAPI(t, func(c *Config) { c.Keys, c.Reader = keysOf("secret-1"), shared })
	a.signedOut.started = time.Now().Add(-time.Hour)
	opens := func(begun time.Duration) bool {
		session := newSession(tokenOf(a, "secret-1"), time.Now().Add(sessionFor-begun))
		return do(a, "GET", "/v1/status", "", "Cookie: "+plainCookie+"="+session).Code == http.StatusOK
	}
	// /v1/status itself needs the database.
	a.cfg.Reader = &failingReader{}
	if !opens(30 * time.Minute) {
		t.Error("a session that began after the process did isn't taken: the page can't be opened while Postgres is away")
	}
	if opens(2 * time.Hour) {
		t.Error("a session that may have been ended before is taken")
	}

	// In the first moments nobody is sent to sign in again.
	a.signedOut.started = time.Now()
	header := "Cookie: " + plainCookie + "=" + newSession(tokenOf(a, "secret-1"), time.Now().Add(sessionFor-time.Hour))
	for _, path := range []string{"/v1/status", "/v1/session"} {
		if p := wantProblem(t, do(a, "GET", path, "", header), notReady); !strings.Contains(p.Detail, "session") {
			t.Errorf("%s: %+v", path, p)
		}
	}
	shared.is(nil)
	if look(a); !opens(2 * time.Hour) {
		t.Error("a session that goes on isn't taken")
	}
}

func TestAStreamEndsWithItsSession(t *testing.T) {
	shared := &endedReader{ended: map[[16]byte]time.Time{}}
	a, _ := newAPI(t, func(c *Config) { c.Keys, c.Reader = keysOf("secret-1"), shared })
	_, header := signedIn(t, a)
	base := serve(t, a)
	request, err := http.NewRequest("GET", base+"/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Cookie", strings.TrimPrefix(header, "Cookie: "))
	resp, err := http.DefaultClient.Do(request)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp, err)
	}
	defer resp.Body.Close()
	if w := do(a, "DELETE", "/v1/session", "", header); w.Code != http.StatusNoContent {
		t.Fatal(w.Code)
	}
	var seen bytes.Buffer
	if _, err := seen.ReadFrom(resp.Body); err != nil { // ends with the stream
		t.Error(err)
	}
}

func TestOnlyHostsThatAreNamedAreServed(t *testing.T) {
	hosts := func(tokens ...string) *testAPI {
		a, _ := newAPI(t, func(c *Config) { c.Keys, c.Hosts = keysOf(tokens...), []string{"Spend.Example", "10.0.0.5", "fd00::5"} })
		return a
	}
	for _, a := range []*testAPI{hosts("secret-1"), hosts()} {
		for host, status := range map[string]int{
			"spend.example": 200, "SPEND.example:4180": 200, "spend.example.": 200, "10.0.0.5:80": 200, "[fd00::5]:80": 200, "localhost": 200, "127.0.0.1:1": 200,
			"evil.test": 403, "x.spend.example": 403, "spend.example.evil.test": 403, "10.0.0.6": 403,
		} {
			r := httptest.NewRequest("GET", "/v1/status", nil)
			r.Host = host
			r.Header.Set("Authorization", "Bearer secret-1")
			w := httptest.NewRecorder()
			if a.ServeHTTP(w, r); w.Code != status {
				t.Errorf("%s, %d tokens: %d", host, a.cfg.Keys.Now().Len(), w.Code)
			}
			if status == 403 {
				wantProblem(t, w, unknownHost)
			}
		}
	}
}

func TestWithoutTokensNothingIsServedThroughAProxy(t *testing.T) {
	a, recorder := newAPI(t, nil)
	guarded, _ := newAPI(t, withTokens("secret-1"))
	for _, header := range []string{
		"X-Forwarded-For: 8.8.8.8", "X-Forwarded-Proto: https", "X-Forwarded-Host: x", "x-forwarded-anything: x", "Forwarded: for=8.8.8.8",
		"Via: 1.1 proxy", "X-Real-IP: 8.8.8.8",
	} {
		for _, target := range []string{"POST /v1/updates", "GET /v1/status", "GET /", "GET /metrics"} {
			method, path, _ := strings.Cut(target, " ")
			wantProblem(t, do(a, method, path, plain, asJSON, header), proxied)
		}
		if w := do(a, "GET", "/readyz", "", header); w.Code != http.StatusOK {
			t.Errorf("%s: /readyz: %d", header, w.Code)
		}
		if w := do(guarded, "POST", "/v1/updates", plain, asJSON, header, "Authorization: Bearer secret-1"); w.Code != http.StatusAccepted {
			t.Errorf("%s with a token: %d", header, w.Code)
		}
	}
	if recorder.recorded() != 0 {
		t.Error("an update was recorded")
	}
}

func TestEveryAnswerIsForPagesOfThisOriginAlone(t *testing.T) {
	a, _ := newAPI(t, func(c *Config) {
		c.Keys = keysOf("secret-1")
		c.Ready = func(context.Context) error { panic("to be rescued") }
	})
	for _, target := range []string{"/", "/assets/page.css", "/docs/api", "/v1/status", "/v1/usage?format=csv", "/metrics", "/openapi.json", "/nothing", "/healthz", "/readyz"} {
		for _, header := range []string{"X: y", "Authorization: Bearer secret-1", "Sec-Fetch-Site: cross-site"} {
			w := do(a, "GET", target, "", header)
			if got := w.Header().Get("Cross-Origin-Resource-Policy"); got != "same-origin" {
				t.Errorf("%s, %s: %d, %q", target, header, w.Code, got)
			}
		}
	}
}

func TestIdsThatNoPathCanHaveAreAskedForByQuery(t *testing.T) {
	in := newInstance(t)
	in.run()
	for _, id := range []string{".", "..", "a/b", "plain"} {
		body := fmt.Sprintf(`{"spend":"1.5","team_id":%q,"user_id":%q}`, id, id)
		if status, answer := in.post("?ack=committed", "application/json", body); status != http.StatusOK {
			t.Fatal(status, answer)
		}
		for _, query := range []url.Values{{"entity_type": {"team"}, "entity_id": {id}}, {"entity_type": {"team_member"}, "entity_id": {id}, "team_id": {id}}} {
			status, answer := in.get("/v1/spend?" + query.Encode())
			if committed, _ := answer["committed"].(map[string]any); status != http.StatusOK || committed["spend"] != "1.5" || answer["entity_id"] != id {
				t.Errorf("%v: %d %v", query, status, answer)
			}
		}
	}
	for _, query := range []string{"", "entity_type=team", "entity_type=x&entity_id=a", "entity_type=team&entity_id=", "entity_type=team&entity_id=a&team_id=b",
		"entity_type=team_member&entity_id=a", "entity_type=team&entity_id=a%00"} {
		wantProblem(t, do(in.api, "GET", "/v1/spend?"+query, ""), invalidRequest)
	}
	wantProblem(t, do(in.api, "GET", "/v1/spend?entity_type=team&entity_id=nobody", ""), notFound)
}

func TestWhoSettlesAnEntryIsInTheLogAndWithTheEntry(t *testing.T) {
	in := newInstance(t)
	in.run()
	in.aside()
	var log bytes.Buffer
	in.api.cfg.Keys = keysOf("another-1", "secret-2")
	another, second := tokenOf(in.api, "another-1").Name, tokenOf(in.api, "secret-2").Name
	in.api.log = slog.New(slog.NewTextHandler(&log, nil))
	_, header := signedInWith(t, in.api, "secret-2")
	for id, step := range map[int]struct{ what, auth string }{3: {"apply", header}, 1: {"drop", "Authorization: Bearer another-1"}} {
		path, body := fmt.Sprintf("/v1/quarantine/%d/%s", id, step.what), fmt.Sprintf(`{"id":%d}`, id)
		if w := do(in.api, "POST", path, body, asJSON, step.auth); w.Code != http.StatusOK {
			t.Fatal(w.Code, w.Body)
		}
		wantProblem(t, do(in.api, "POST", path, body, asJSON, step.auth), alreadySettled) // which is no news
	}
	for _, want := range []string{
		`level=INFO msg="signed in" token=` + second + ` remote=192.0.2.1`,
		`level=INFO msg="a quarantine entry was applied" entry=3 what="producer `,
		`level=INFO msg="a quarantine entry was dropped" entry=1 what="11 bytes" token=` + another + ` remote=192.0.2.1`,
	} {
		if strings.Count(log.String(), want) != 1 {
			t.Errorf("the log doesn't say once %s:\n%s", want, &log)
		}
	}
	for id, want := range map[int64]string{1: "token " + another + ", 192.0.2.1, instance here", 3: "token " + second + ", 192.0.2.1, instance here"} {
		if q, err := in.store.QuarantinedEntry(t.Context(), id); err != nil || q.SettledBy != want {
			t.Errorf("entry %d is settled by %q, %v", id, q.SettledBy, err)
		}
	}
}

func TestWhoGuessesBehindATrustedProxyDoesNotPauseOthersBehindIt(t *testing.T) {
	a, _ := newAPI(t, func(c *Config) {
		c.Keys, c.TrustedProxies = keysOf("secret-1"), []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}
	})
	slowly(a)
	behind := func(client, token string) *httptest.ResponseRecorder { // do comes from 192.0.2.1
		return do(a, "GET", "/v1/status", "", "X-Forwarded-For: "+client, "Authorization: Bearer "+token)
	}
	for range guessesAtOnce {
		wantProblem(t, behind("198.51.100.7", "guess"), unauthorized)
	}
	wantProblem(t, behind("198.51.100.7", "secret-1"), tooManyGuesses)
	if w := behind("198.51.100.8", "secret-1"); w.Code != http.StatusOK {
		t.Errorf("another client behind the proxy: %d", w.Code)
	}
}
