package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/pgstore"
)

const tokenA, tokenB = "Authorization: Bearer secret-a", "Authorization: Bearer secret-b"

// answerTo is the answer to a request of whoever sent it.
func answerTo(a *testAPI, r *http.Request) *answer {
	from, _ := a.authenticate(r)
	return &answer{from: from}
}

func twoTokens(c *Config) { c.Keys = keysOf("secret-a", "secret-b") }

func TestOnePartyHasHalfOfThePlacesAndAnotherStillGetsOne(t *testing.T) {
	s := newPlaces(5)
	greedy, other := party{name: "one"}, party{name: "two"}
	for range 3 {
		if !s.tryTake(greedy) {
			t.Fatal("half of the places can't be had")
		}
	}
	if s.tryTake(greedy) {
		t.Error("one party has more than half")
	}

	// It waits, and another that comes later doesn't wait behind it.
	waits := make(chan *problem)
	go func() { waits <- s.take(context.Background(), greedy) }()
	waitUntil(t, "the request waits", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.waiting) == 1
	})
	if p := s.take(t.Context(), other); p != nil {
		t.Errorf("another party gets no place: %s", p.Detail)
	}
	s.give(greedy)
	if p := <-waits; p != nil {
		t.Errorf("the place that was given back went nowhere: %s", p.Detail)
	}

	for _, who := range []party{greedy, greedy, greedy, other} {
		s.give(who)
	}
	if s.held() != 0 || len(s.of) != 0 || len(s.waiting) != 0 {
		t.Errorf("places stay taken: %+v", s)
	}
}

func TestWhoGivesUpWaitingLeavesNoTrace(t *testing.T) {
	s := newPlaces(1)
	if !s.tryTake(party{name: "one"}) {
		t.Fatal("no place")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if p := s.take(ctx, party{name: "two"}); p == nil || p.Status != http.StatusServiceUnavailable {
		t.Errorf("%+v", p)
	}
	s.give(party{name: "one"})
	if s.held() != 0 || len(s.waiting) != 0 {
		t.Errorf("%+v", s)
	}
}

// stuckReader is a database whose reports don't end before the caller's patience does.
type stuckReader struct {
	failingReader
	asked chan struct{}
}

func (s *stuckReader) Audit(ctx context.Context) (pgstore.AuditReport, error) {
	s.asked <- struct{}{}
	<-ctx.Done()
	return pgstore.AuditReport{}, ctx.Err()
}

// anotherCallerIsAnswered asks as who has the second of two tokens.
func anotherCallerIsAnswered(t *testing.T, url string) {
	t.Helper()
	r, err := http.NewRequest("GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer secret-b")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("another caller gets %s", resp.Status)
	}
}

func TestOneCallerCanNotKeepAllReportsForItself(t *testing.T) {
	reader := &stuckReader{asked: make(chan struct{}, 8)}
	a, _ := newAPI(t, func(c *Config) { twoTokens(c); c.Reader = reader })
	url := serve(t, a)
	for range 8 {
		conn := dial(t, url)
		fmt.Fprintf(conn, "GET /v1/audit HTTP/1.1\r\nHost: localhost\r\n%s\r\n\r\n", tokenA)
	}
	<-reader.asked
	<-reader.asked
	anotherCallerIsAnswered(t, url+"/v1/usage")
	if len(reader.asked) > 0 {
		t.Error("one caller has more than half of the places")
	}
}

func TestPartiesAreTokensAndElseAddresses(t *testing.T) {
	cookie := func(a *testAPI, token string) string {
		w := do(a, "POST", "/v1/session", `{"token":"`+token+`"}`, asJSON)
		return "Cookie: " + w.Result().Cookies()[0].String()
	}
	proxied := func(c *Config) {
		c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/28"), netip.MustParsePrefix("10.0.0.0/8")}
	}
	address := func(text string) party { return party{address: netip.MustParseAddr(text)} }
	two, _ := newAPI(t, twoTokens)
	one, _ := newAPI(t, withTokens("secret-a"))
	open, _ := newAPI(t, nil)
	behind, _ := newAPI(t, proxied)
	for _, c := range []struct {
		api    *testAPI
		header string
		want   party
	}{
		{two, tokenA, party{name: tokenOf(two, "secret-a").Name}},
		{two, tokenB, party{name: tokenOf(two, "secret-b").Name}},
		{two, cookie(two, "secret-b"), party{name: tokenOf(two, "secret-b").Name}},
		{two, "", address("192.0.2.1")},
		{one, tokenA, address("192.0.2.1")},
		{open, "X-Forwarded-For: 198.51.100.7", address("192.0.2.1")}, // by whoever it is
		{behind, "", address("192.0.2.1")},
		{behind, "X-Forwarded-For: 203.0.113.9, 198.51.100.7", address("198.51.100.7")},
		{behind, "X-Forwarded-For: 203.0.113.9, 198.51.100.7, 10.1.1.1", address("198.51.100.7")},
		{behind, "X-Forwarded-For: 2001:db8:0:1:2:3:4:5", address("2001:db8:0:1::")}, // a customer has a /64
		{behind, "X-Forwarded-For: nonsense", address("192.0.2.1")},
	} {
		r := httptest.NewRequest("GET", "/v1/usage", nil) // from 192.0.2.1
		if name, value, ok := strings.Cut(c.header, ": "); ok {
			r.Header.Set(name, value)
		}
		if got := c.api.partyOf(answerTo(c.api, r), r); got != c.want {
			t.Errorf("%q: %+v instead of %+v", c.header, got, c.want)
		}
	}
}

func TestWithAllConnectionsAtWorkHealthChecksAreAnsweredAndOthersRefusedAtOnce(t *testing.T) {
	a, recorder := newAPI(t, func(c *Config) {
		c.MaxClients, c.TrustedProxies = 2, []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	})
	waiting, release := make(chan struct{}, 2), make(chan struct{})
	recorder.wait = func(_ context.Context, want spendflush.Stage) (spendflush.Stage, error) {
		waiting <- struct{}{}
		<-release
		return want, nil
	}
	url := serve(t, a)
	t.Cleanup(func() { close(release) })
	post := "POST /v1/updates?ack=committed HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: " +
		fmt.Sprint(len(plain)) + "\r\n\r\n" + plain
	for range 2 {
		fmt.Fprint(dial(t, url), post)
		<-waiting
	}
	for request, status := range map[string]int{
		"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n": http.StatusOK,
		"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n":  http.StatusOK,
		post: http.StatusServiceUnavailable,
	} {
		conn := dial(t, url)
		fmt.Fprint(conn, request)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != status || !resp.Close {
			t.Errorf("%.20s: %s, close: %t", request, resp.Status, resp.Close)
		}
	}
	if n := recorder.recorded(); n != 2 {
		t.Errorf("%d updates were recorded", n)
	}
}

func TestARequestThatNeedsNoTokenKeepsNoConnectionFromOthers(t *testing.T) {
	a, recorder := newAPI(t, func(c *Config) {
		c.Keys, c.MaxClients, c.BodyGrace = keysOf("secret-1"), 2, time.Hour
		c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")} // else one address has one
	})
	url := serve(t, a)
	for range 2 {
		conn := dial(t, url)
		fmt.Fprint(conn, "POST /v1/session HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"+
			"Expect: 100-continue\r\nContent-Length: 1000\r\n\r\n")
		if line, err := bufio.NewReader(conn).ReadString('\n'); !strings.Contains(line, "100 Continue") { // its body is waited for
			t.Fatal(line, err)
		}
	}
	conn := dial(t, url)
	fmt.Fprintf(conn, "POST /v1/updates HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"+
		"Authorization: Bearer secret-1\r\nContent-Length: %d\r\n\r\n%s", len(plain), plain)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusAccepted || recorder.recorded() != 1 {
		t.Errorf("%s, %d updates recorded", resp.Status, recorder.recorded())
	}
}

func TestARequestWithoutATokenIsRefusedBeforeItsBodyComes(t *testing.T) {
	a, _ := newAPI(t, func(c *Config) {
		c.Keys, c.ReadTimeout, c.BodyGrace = keysOf("secret-1"), time.Hour, time.Hour
	})
	conn := dial(t, serve(t, a))
	fmt.Fprint(conn, "POST /v1/updates HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if checkProblem(t, resp, unauthorized); !resp.Close {
		t.Error("the connection is to be used again")
	}
}

func TestARefusalReachesACallerThatSendsItsWholeBodyFirst(t *testing.T) {
	for name, header := range map[string]string{
		"a length that is too large": fmt.Sprint("Content-Length: ", 20<<20),
		"no token":                   fmt.Sprint("Authorization: Bearer wrong\r\nContent-Length: ", 20<<20),
		"the wrong type":             fmt.Sprint("Content-Type: text/plain\r\nContent-Length: ", 20<<20),
	} {
		t.Run(name, func(t *testing.T) {
			a, recorder := newAPI(t, withTokens("secret-1"))
			conn := dial(t, serve(t, a))
			if !strings.Contains(header, "Authorization") {
				header += "\r\nAuthorization: Bearer secret-1"
			}
			if !strings.Contains(header, "Content-Type") {
				header += "\r\nContent-Type: application/json"
			}
			fmt.Fprintf(conn, "POST /v1/updates HTTP/1.1\r\nHost: localhost\r\n%s\r\n\r\n", header)
			piece := bytes.Repeat([]byte(" "), 1<<20)
			for range 20 {
				if _, err := conn.Write(piece); err != nil {
					t.Fatalf("the caller is cut off while it sends: %v", err)
				}
			}
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatalf("the refusal doesn't arrive: %v", err)
			}
			if resp.StatusCode < 400 || resp.StatusCode > 499 || !resp.Close || recorder.recorded() > 0 {
				t.Errorf("%s, close: %t", resp.Status, resp.Close)
			}
		})
	}
}

// gulp is a connection whose buffers hold little.
func gulp(t *testing.T, url string) net.Conn {
	conn := dial(t, url)
	if err := conn.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestAClientThatTakesNothingOfAReportIsCutOffAndItsPlaceIsFree(t *testing.T) {
	for format, rows := range map[string]int{"csv": 1_000_000, "json": 100_000} { // which no buffers of a connection hold
		t.Run(format, func(t *testing.T) {
			reader := &failingReader{rows: rows, ended: make(chan error, 1)}
			a, _ := newAPI(t, func(c *Config) {
				c.Reader, c.MaxRows, c.PieceTimeout, c.WriteTimeout = reader, 1_000_000, 100*time.Millisecond, time.Hour
			})
			conn := gulp(t, serve(t, a))
			fmt.Fprintf(conn, "GET /v1/usage?format=%s HTTP/1.1\r\nHost: localhost\r\n\r\n", format)
			err := <-reader.ended
			if format == "csv" && err == nil {
				t.Error("the whole report was written to a client that reads nothing")
			}
			waitUntil(t, "the report's place is free", func() bool { return a.reports.held() == 0 })
		})
	}
}

func TestALongBodyMustKeepTheLeastRate(t *testing.T) {
	a, recorder := newAPI(t, func(c *Config) { c.BodyGrace, c.ReadTimeout, c.LeastRate = 200*time.Millisecond, time.Hour, 1<<30 })
	conn := dial(t, serve(t, a))
	fmt.Fprintf(conn, "POST /v1/updates HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 8000000\r\n\r\n%s",
		strings.Repeat(" ", 100_000))
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		drip(conn, strings.Repeat(" ", 10_000)) // never silent for long
	}()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	checkProblem(t, resp, requestTimeout)
	conn.Close()
	<-sent
	if recorder.recorded() > 0 || a.bodies.inUse() > 0 {
		t.Errorf("%d recorded, %d bytes taken", recorder.recorded(), a.bodies.inUse())
	}
}

func TestALongBodyThatFallsSilentIsCutOff(t *testing.T) {
	a, _ := newAPI(t, func(c *Config) { c.BodyGrace, c.ReadTimeout, c.LeastRate = 200*time.Millisecond, time.Hour, 1 })
	conn := dial(t, serve(t, a))
	fmt.Fprintf(conn, "POST /v1/updates HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 8000000\r\n\r\n%s",
		strings.Repeat(" ", 100_000))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	checkProblem(t, resp, requestTimeout)
}

func TestBodiesOfOneCallerLeaveHalfOfTheMemoryToOthers(t *testing.T) {
	m := newMemory(1000)
	greedy := &holder{who: party{name: "one"}, cutOff: func() { t.Error("a body that isn't silent was given up") }}
	if !m.take(t.Context(), greedy, 500) {
		t.Fatal("half of the memory can't be had")
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	if m.take(gone, &holder{who: party{name: "one"}}, 1) {
		t.Error("one caller has more than half")
	}
	if !m.take(t.Context(), &holder{who: party{name: "two"}}, 500) {
		t.Error("another caller gets nothing")
	}
}

func TestTheBodyThatIsSilentForLongestIsGivenUpForTheNext(t *testing.T) {
	a, recorder := newAPI(t, func(c *Config) {
		twoTokens(c)
		c.MaxBodiesBytes, c.BodyGrace, c.ReadTimeout, c.LeastRate = 400<<10, time.Hour, time.Hour, 1
	})
	url := serve(t, a)
	const size = 150 << 10
	begin := func(token string) net.Conn {
		conn := dial(t, url)
		fmt.Fprintf(conn, "POST /v1/updates HTTP/1.1\r\nHost: localhost\r\n%s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s%s",
			token, size, plain, strings.Repeat(" ", size-len(plain)-1))
		return conn
	}
	held := func(n int64) func() bool { return func() bool { return a.bodies.inUse() >= n } }
	first := begin(tokenA)
	waitUntil(t, "the first body holds memory", held(size-freeBodyBytes))
	begin(tokenB)
	waitUntil(t, "the second body holds memory", held(2*(size-freeBodyBytes)))
	third := begin(tokenA)
	fmt.Fprint(third, " ")
	for conn, kind := range map[net.Conn]int{first: requestTimeout.status, third: http.StatusAccepted} {
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != kind {
			t.Errorf("%s instead of %d", resp.Status, kind)
		}
	}
	if n := recorder.recorded(); n != 1 {
		t.Errorf("%d updates were recorded", n)
	}
}

func TestAClientThatLeavesIsNoFailureOfTheDatabase(t *testing.T) {
	for _, path := range []string{"/v1/audit", "/v1/usage", "/v1/usage?format=csv", "/v1/spend/team/t", "/v1/status", "/v1/pipeline"} {
		var log bytes.Buffer
		a, _ := newAPI(t, func(c *Config) {
			c.Logger = slog.New(slog.NewTextHandler(&log, nil))
			c.Reader, c.Overview = &leftReader{}, slowOverview{}
		})
		r := httptest.NewRequest("GET", path, nil)
		r.Host = "localhost"
		leave(r)
		a.ServeHTTP(httptest.NewRecorder(), r)
		if log.Len() > 0 {
			t.Errorf("%s: the log is %s", path, &log)
		}
		for status := range a.traffic.responses {
			n := a.traffic.responses[status].Load()
			if n > 0 && status != statusUnheard && path != "/v1/status" { // which is answered in any case
				t.Errorf("%s: counted as %d", path, status)
			}
		}
	}
}

// leftReader answers as a database does whose caller has left.
type leftReader struct{ failingReader }

var errLeft = fmt.Errorf("read: %w", context.Canceled)

func (*leftReader) Spend(context.Context, spend.Entity, []spend.ProducerID) (pgstore.SpendReport, error) {
	return pgstore.SpendReport{}, errLeft
}
func (*leftReader) Usage(context.Context, pgstore.UsageQuery, func(pgstore.UsageRow) error) error {
	return errLeft
}
func (*leftReader) Audit(context.Context) (pgstore.AuditReport, error) {
	return pgstore.AuditReport{}, errLeft
}
func (*leftReader) Counts(context.Context) (pgstore.Counts, error) { return pgstore.Counts{}, errLeft }

func TestAPanicIsLoggedEvenIfTheClientHasLeft(t *testing.T) {
	var log bytes.Buffer
	a, _ := newAPI(t, func(c *Config) {
		c.Logger, c.Reader = slog.New(slog.NewTextHandler(&log, nil)), struct{ Reader }{}
	})
	r := httptest.NewRequest("GET", "/v1/audit", nil)
	r.Host = "localhost"
	leave(r)
	a.ServeHTTP(httptest.NewRecorder(), r)
	if !strings.Contains(log.String(), "panic") {
		t.Errorf("the log is %q", &log)
	}
}

func TestAStopDoesNotWaitForWhatComesOfABodyAfterItsAnswer(t *testing.T) {
	a, _ := newAPI(t, withTokens("secret-1"))
	r := httptest.NewRequest("POST", "/v1/updates", nil)
	asked := false
	r.ContentLength, r.Body = 1000, io.NopCloser(readerFunc(func([]byte) (int, error) {
		asked = true
		if n := a.active.Load(); n != 0 {
			t.Errorf("%d requests count as being answered", n)
		}
		return 0, io.EOF
	}))
	w := httptest.NewRecorder()
	a.ServeHTTP(w, r)
	if wantProblem(t, w, unauthorized); !asked {
		t.Error("the rest of the body isn't waited for at all")
	}
}

func TestTheAddressesOfOneCustomerShareThePlacesOfRefusedBodies(t *testing.T) {
	a, _ := newAPI(t, withTokens("secret-1"))
	for range a.lingers.each {
		if !a.lingers.tryTake(party{address: netip.MustParseAddr("2001:db8::")}) {
			t.Fatal("there is no place")
		}
	}
	for remote, want := range map[string]bool{"[2001:db8::5]:1": false, "[2001:db8:0:1::5]:1": true} {
		r := httptest.NewRequest("POST", "/v1/updates", nil)
		r.RemoteAddr = remote
		asked := false
		r.ContentLength, r.Body = 1000, io.NopCloser(readerFunc(func([]byte) (int, error) {
			asked = true
			return 0, io.EOF
		}))
		if a.ServeHTTP(httptest.NewRecorder(), r); asked != want {
			t.Errorf("%s: the rest of the body is waited for: %t", remote, asked)
		}
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

func TestThePipelineIsToldWhoBringsNewKeys(t *testing.T) {
	two, _ := newAPI(t, twoTokens)
	one, _ := newAPI(t, withTokens("secret-a"))
	open, _ := newAPI(t, nil)
	for _, c := range []struct {
		api           *testAPI
		remote, token string
		want          string
	}{
		{two, "192.0.2.1:1", "secret-b", "token " + tokenOf(two, "secret-b").Name},
		{two, "192.0.2.1:1", "secret-a", "token " + tokenOf(two, "secret-a").Name},
		{one, "192.0.2.1:1", "secret-a", "192.0.2.1"},
		{one, "[2001:db8:0:1:2::3]:1", "secret-a", "2001:db8:0:1::"},
		{open, "127.0.0.1:1", "", ""},
	} {
		r := httptest.NewRequest("POST", "/v1/updates", nil)
		r.RemoteAddr = c.remote
		r.Header.Set("Authorization", "Bearer "+c.token)
		if got := c.api.shareOf(answerTo(c.api, r), r); got != c.want {
			t.Errorf("%q from %s: %q, want %q", c.token, c.remote, got, c.want)
		}
	}
}
