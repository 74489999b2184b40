package integration

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// hostileToken is the token of the attacker in the tests of this file; honest clients have the
// token of all tests.
const hostileToken = "integration-token-hostile-55d0"

// hostileFor is how long each attack goes on. SPENDFLUSH_HOSTILE_SECONDS makes it longer, for
// figures, and SPENDFLUSH_HOSTILE_PROGRAM names another build to be attacked.
func hostileFor(t testing.TB) (seconds time.Duration, program string) {
	t.Helper()
	seconds, program = time.Second, binary
	if text := os.Getenv("SPENDFLUSH_HOSTILE_SECONDS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		seconds = time.Duration(n) * time.Second
	}
	if other := os.Getenv("SPENDFLUSH_HOSTILE_PROGRAM"); other != "" {
		program = other
	}
	return seconds, program
}

// hostile is an instance under attack.
type hostile struct {
	*instance
	address string
	attack  sync.WaitGroup
	over    context.Context
}

func newHostile(t *testing.T, variables ...string) *hostile {
	t.Helper()
	_, program := hostileFor(t)
	s := newStack(t)
	variables = append([]string{"SPENDFLUSH_INSTANCE=attacked", "SPENDFLUSH_LOG_LEVEL=info", "SPENDFLUSH_TOKENS=" + token + "," + hostileToken}, variables...)
	in := &instance{process: launchProgram(t, program, "attacked", s.variables(variables...), "serve"), stack: s}
	in.awaitReady()
	over, end := context.WithCancel(t.Context())
	h := &hostile{instance: in, address: strings.TrimPrefix(in.url, "http://"), over: over}
	t.Cleanup(func() {
		end()
		h.attack.Wait()
	})
	return h
}

// manner is what an attacking client does once it has sent its text.
type manner int

const (
	waits  manner = iota // for an answer, or until it is cut off
	sips                 // takes a byte of the answer every half second
	leaves               // takes nothing of the answer for nine seconds, and goes
)

// connections has n clients of the address connect, send the text, and begin anew once they are
// answered or cut off.
func (h *hostile) connections(n int, from string, how manner, text string) {
	for range n {
		h.attack.Go(func() {
			for h.over.Err() == nil {
				h.connection(from, how, text)
				h.pause(100 * time.Millisecond)
			}
		})
	}
}

func (h *hostile) connection(from string, how manner, text string) {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := dialer.DialContext(h.over, "tcp", h.address)
	if err != nil {
		return
	}
	defer conn.Close()
	stop := context.AfterFunc(h.over, func() { conn.Close() })
	defer stop()
	_ = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	if how == leaves {
		_ = conn.SetWriteDeadline(time.Now().Add(time.Second)) // what isn't taken by then is enough
		_, _ = io.WriteString(conn, text)
		h.pause(9 * time.Second)
		return
	}
	if _, err := io.WriteString(conn, text); err != nil {
		return
	}
	for one := make([]byte, 1); ; h.pause(500 * time.Millisecond) {
		if _, err := conn.Read(one); err != nil || how == waits {
			return
		}
	}
}

func (h *hostile) pause(d time.Duration) {
	select {
	case <-h.over.Done():
	case <-time.After(d):
	}
}

// honest is what a client has seen that does nothing wrong.
type honest struct {
	asked, failed int
	took          []time.Duration
	why           string
}

// ask makes one request after the other until the time is over, each on a connection of its own,
// from another address than the attacker's.
func (h *hostile) ask(d time.Duration, request func() (*http.Request, error)) (seen honest) {
	h.t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: dialer.DialContext}, Timeout: 30 * time.Second}
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		r, err := request()
		if err != nil {
			h.t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+token)
		start := time.Now()
		resp, err := client.Do(r)
		status := ""
		if err == nil {
			status = resp.Status
			_, err = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		seen.asked++
		seen.took = append(seen.took, time.Since(start))
		if err != nil || !strings.HasPrefix(status, "20") {
			seen.failed++
			seen.why = fmt.Sprint(status, err)
		}
	}
	return seen
}

// String is what the client has seen. The times must be sorted.
func (seen *honest) String() string {
	return fmt.Sprintf("%d of %d failed, p99 %s", seen.failed, seen.asked, seen.p99().Round(100*time.Microsecond))
}

func (seen *honest) p99() time.Duration { return seen.took[len(seen.took)*99/100] }

// question is what the honest client asks.
type question struct {
	what    string
	request func() (*http.Request, error)
}

// beside asks the questions without the attack, and then with it, and says what became of them, as
// a row of a table. Any failure fails the test; how long answers take is for the reader, because it
// depends on the machine.
func (h *hostile) beside(attack string, begin func(), questions ...question) {
	h.t.Helper()
	d, _ := hostileFor(h.t)
	without := make([]honest, len(questions))
	for i, q := range questions {
		without[i] = h.ask(d/2, q.request)
	}

	begin()
	for i, q := range questions {
		with := h.ask(d, q.request)
		for _, seen := range []*honest{&without[i], &with} {
			slices.Sort(seen.took)
			if seen.failed > 0 {
				h.t.Errorf("%s: %s: %s: %s", attack, q.what, seen, seen.why)
			}
		}
		h.t.Logf("| %s | %s | %s | %s | %.1f |", attack, q.what, &without[i], &with, float64(with.p99())/float64(without[i].p99()))
	}
}

func (h *hostile) post(query string, body []byte) func() (*http.Request, error) {
	return func() (*http.Request, error) {
		r, err := http.NewRequest("POST", h.url+"/v1/updates"+query, bytes.NewReader(body))
		if err == nil {
			r.Header.Set("Content-Type", "application/json")
		}
		return r, err
	}
}

func (h *hostile) getter(path string) func() (*http.Request, error) {
	return func() (*http.Request, error) { return http.NewRequest("GET", h.url+path, nil) }
}

const honestUpdate = `{"spend":"0.01","api_key":"honest"}`

// send sends an attacker's request and reads the answer, whatever it is.
func (h *hostile) send(token string, request func() (*http.Request, error)) {
	r, err := request()
	if err != nil {
		return
	}
	r.Header.Set("Authorization", "Bearer "+token)
	if resp, err := http.DefaultClient.Do(r.WithContext(h.over)); err == nil {
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
}

// attackers are two addresses that have one half of the connections each.
var attackers = []string{"127.0.0.3", "127.0.0.4"}

func (h *hostile) anUpdate() question   { return question{"an update", h.post("", []byte(honestUpdate))} }
func (h *hostile) readiness() question  { return question{"`/readyz`", h.getter("/readyz")} }
func bearer(token string) (line string) { return "Authorization: Bearer " + token + "\r\n" }

func TestHostileHeadersThatDoNotEndKeepNoClientOut(t *testing.T) {
	h := newHostile(t, "SPENDFLUSH_MAX_CLIENTS=40")
	h.beside("60 headers that don't end, of 40 connections", func() {
		h.connections(60, "127.0.0.1", waits, "GET /healthz HTTP/1.1\r\nHost: x\r\nX-")
	}, h.readiness(), h.anUpdate())
}

func TestHostileBodiesWithoutATokenKeepNoClientOut(t *testing.T) {
	h := newHostile(t, "SPENDFLUSH_MAX_CLIENTS=40")
	h.beside("60 requests without token or body, of 40 connections", func() {
		h.connections(60, "127.0.0.1", waits,
			"POST /v1/updates HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n")
	}, h.readiness(), h.anUpdate())
}

func TestHostileSignInsWithoutABodyKeepNoClientOut(t *testing.T) {
	h := newHostile(t, "SPENDFLUSH_MAX_CLIENTS=40")
	h.beside("60 sign-ins without a body, of two addresses and 40 connections", func() {
		for _, address := range attackers {
			h.connections(30, address, waits,
				"POST /v1/session HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n")
		}
	}, h.readiness(), h.anUpdate())
}

func TestHostileReadersOfPagesKeepNoClientOut(t *testing.T) {
	h := newHostile(t, "SPENDFLUSH_MAX_CLIENTS=40")
	h.beside("60 readers of a page that take nothing, of two addresses and 40 connections", func() {
		for _, address := range attackers {
			h.connections(30, address, leaves, strings.Repeat("GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n", 40))
		}
	}, h.readiness(), h.anUpdate())
}

func TestHostileScrapersKeepPrometheusFromNoMetrics(t *testing.T) {
	h := newHostile(t)
	h.beside("8 scrapers that take nothing", func() {
		h.connections(8, "127.0.0.1", leaves, strings.Repeat("GET /metrics HTTP/1.1\r\nHost: x\r\n"+bearer(hostileToken)+"\r\n", 40))
	}, question{"`/metrics`", h.getter("/metrics")})
}

func TestHostileStreamsKeepNoOtherOut(t *testing.T) {
	h := newHostile(t)
	h.beside("100 streams that are asked for", func() {
		h.connections(100, "127.0.0.1", sips, "GET /v1/events HTTP/1.1\r\nHost: x\r\n"+bearer(hostileToken)+"\r\n")
	}, question{"a stream", func() (*http.Request, error) { return http.NewRequest("HEAD", h.url+"/v1/events", nil) }}, h.anUpdate())
}

func TestHostileBodiesOfManySmallUpdatesTakeNoOthersPlace(t *testing.T) {
	h := newHostile(t)
	body := "[" + strings.Repeat(`{"spend":1,"user_id":"a"},`, 1200) + `{"spend":1,"user_id":"a"}]`
	h.beside("100 bodies of 1,200 updates at once, again and again", func() {
		h.connections(100, "127.0.0.1", waits, fmt.Sprintf("POST /v1/updates HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n%s"+
			"Content-Length: %d\r\n\r\n%s", bearer(hostileToken), len(body), body))
	}, h.readiness(), h.anUpdate(), question{"a body of 2 KiB", h.post("", []byte(honestUpdate+strings.Repeat(" ", 2<<10)))})
}

func TestHostileGuessesKeepNoTokenOut(t *testing.T) {
	h := newHostile(t)
	h.beside("wrong tokens on 4 connections, as fast as they are answered", func() {
		for range 4 {
			h.attack.Go(func() {
				for h.over.Err() == nil {
					h.send("wrong", h.getter("/v1/status"))
				}
			})
		}
	}, h.readiness(), h.anUpdate())
}

func TestHostileNewKeysKeepNoOtherKeyOut(t *testing.T) {
	h := newHostile(t, "SPENDFLUSH_MAX_KEYS=20000", "SPENDFLUSH_SEAL_INTERVAL=1s")
	var made atomic.Int64
	h.beside("new keys, 5,000 a request, with `SPENDFLUSH_MAX_KEYS=20000`", func() {
		for range 2 {
			h.attack.Go(func() {
				for h.over.Err() == nil {
					var body bytes.Buffer
					for range 5000 {
						fmt.Fprintf(&body, `,{"spend":"0.01","api_key":"made-up-%d"}`, made.Add(1))
					}
					body.Bytes()[0] = '['
					body.WriteByte(']')
					h.send(hostileToken, h.post("", body.Bytes()))
					h.pause(50 * time.Millisecond)
				}
			})
		}
	}, h.anUpdate(), question{"an update of a new key", func() (*http.Request, error) {
		return h.post("", fmt.Appendf(nil, `{"spend":"0.01","api_key":"honest-%d"}`, made.Add(1)))()
	}})
}

func TestHostileReadersKeepNoOtherReaderOutAndNoAcknowledgement(t *testing.T) {
	h := newHostile(t, "SPENDFLUSH_MAX_CONNECTIONS=4", "USE_REDIS_TRANSACTION_BUFFER=false")
	h.fill(40_000)
	status, answer, err := h.postUpdates("committed", "application/json", []byte(honestUpdate))
	if err != nil || status != http.StatusOK {
		t.Fatal(status, answer, err)
	}
	h.beside("8 reports that aren't read, 40,000 keys, `SPENDFLUSH_MAX_CONNECTIONS=4`, no Redis", func() {
		h.connections(8, "127.0.0.1", sips, "GET /v1/usage?format=csv&by=hour&group_by=api_key,model,endpoint HTTP/1.1\r\nHost: localhost\r\n"+
			bearer(hostileToken)+"\r\n")
		eventually(t, "a report is being read", func() string {
			if n := h.metrics().sum("spendflush_http_working", `kind="report"`); n < 1 {
				return fmt.Sprint(n)
			}
			return ""
		})
	}, question{"an update, `ack=committed`", h.post("?ack=committed", []byte(honestUpdate))},
		question{"the spend of a key", h.getter("/v1/spend/api_key/honest")})
}

// fill books updates on as many long keys.
func (h *hostile) fill(keys int) {
	h.t.Helper()
	const each = 5000
	for from := 0; from < keys; from += each {
		var body bytes.Buffer
		for i := range each {
			fmt.Fprintf(&body, `{"spend":"1","api_key":"%0200d"}`+"\n", from+i)
		}
		query := "accepted"
		if from+each >= keys {
			query = "committed&timeout=60s"
		}
		status, answer, err := h.postUpdates(query, "application/x-ndjson", body.Bytes())
		if err != nil || status >= 300 {
			h.t.Fatal(status, answer, err)
		}
	}
}

func TestHostileBodiesThatStopLeaveMemoryToOthers(t *testing.T) {
	h := newHostile(t)
	header := "POST /v1/updates HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" + bearer(hostileToken) +
		"Content-Length: 8388000\r\n\r\n"
	h.beside("80 bodies that stop, 33 KiB to 4 MiB", func() {
		for _, size := range []int{4<<20 + 9000, 256 << 10, 64 << 10, 33 << 10} { // the small ones fill what the large ones leave
			h.connections(20, "127.0.0.1", waits, header+strings.Repeat(" ", size))
		}
		eventually(t, "the attacker holds its share of the memory", func() string {
			m := h.metrics()
			if held, limit := m.sum("spendflush_http_body_bytes"), m.sum("spendflush_http_body_bytes_limit"); held < limit/4 {
				return fmt.Sprint(held)
			}
			return ""
		})
	}, question{"a body of 1.2 MiB", h.post("", []byte(honestUpdate+strings.Repeat(" ", 1200<<10)))})
}

func TestReadersThatWaitForPostgresLeaveConnectionsToAcknowledgements(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	in := s.start("reading", "SPENDFLUSH_MAX_CONNECTIONS=4", "USE_REDIS_TRANSACTION_BUFFER=false")
	conn, err := pgx.Connect(t.Context(), s.postgres)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "LOCK TABLE spendflush.quarantine"); err != nil { // which flushes don't look at
		t.Fatal(err)
	}

	var readers sync.WaitGroup
	defer readers.Wait()
	defer func() { _ = tx.Rollback(context.Background()) }()
	for range 8 {
		readers.Go(func() { _, _, _ = s.do("GET", in.url+"/v1/quarantine", "", nil) })
	}
	eventually(t, "readers wait for Postgres", func() string {
		n := s.number("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()")
		if n < 2 {
			return fmt.Sprint(n)
		}
		return ""
	})
	for range 3 {
		status, answer, err := in.postUpdates("committed&timeout=30s", "application/json", []byte(honestUpdate))
		if err != nil || status != http.StatusOK {
			t.Fatalf("%d %s %v", status, answer, err)
		}
	}
}

func TestFewOpenFilesAreSharedOutBeforeClientsCanTakeThem(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	limited := func(files int) *process {
		return launchProgram(t, "/bin/sh", fmt.Sprint(files, " files"), s.variables("SPENDFLUSH_INSTANCE=few"),
			"-c", fmt.Sprintf("ulimit -n %d && exec %s serve", files, binary))
	}

	none := limited(60)
	if status := none.wait(); status != 2 || !strings.Contains(none.stderr.String(), "ulimit -n") {
		t.Errorf("with next to no files: exit status %d", status)
	}

	const files, clients = 160, 300
	in := &instance{process: limited(files), stack: s}
	in.awaitReady()
	in.logged("fewer clients are let in")
	address := strings.TrimPrefix(in.url, "http://")
	for range clients {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}

	// The last connection is answered, so that all before it were let in, or not.
	last, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer last.Close()
	fmt.Fprint(last, "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(last), nil)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%v, %v", resp, err)
	}
	m := in.metrics()
	if open, limit := m.sum("spendflush_http_connections"), m.sum("spendflush_http_connections_limit"); limit > files-64 || open > limit {
		t.Errorf("%v connections are open; let in are %v, with %d files", open, limit, files)
	}
	if status, answer, err := in.postUpdates("committed", "application/json", []byte(honestUpdate)); err != nil || status != http.StatusOK {
		t.Errorf("%d %s %v", status, answer, err)
	}
}
