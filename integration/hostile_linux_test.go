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
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// hostileToken is the token of the attacker in the tests of this file; honest clients have the
// token of all tests.
const hostileToken = "integration-token-hostile-55d0"

// hostileFor is how long each attack goes on. SPENDFLUSH_HOSTILE_SECONDS makes it longer, for
// figures, and SPENDFLUSH_HOSTILE_PROGRAM names another build to be attacked.
func hostileFor(t *testing.T) (seconds time.Duration, program string) {
	t.Helper()
	seconds, program = 3*time.Second, binary
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

// connections has n clients connect, send the text and wait, and begin anew once they are answered
// or cut off. With reading, they take a byte of the answer every half second instead.
func (h *hostile) connections(n int, reading bool, text string) {
	for range n {
		h.attack.Go(func() {
			for h.over.Err() == nil {
				h.connection(reading, text)
				h.pause(100 * time.Millisecond)
			}
		})
	}
}

func (h *hostile) connection(reading bool, text string) {
	dialer := net.Dialer{}
	conn, err := dialer.DialContext(h.over, "tcp", h.address)
	if err != nil {
		return
	}
	defer conn.Close()
	stop := context.AfterFunc(h.over, func() { conn.Close() })
	defer stop()
	_ = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	if _, err := io.WriteString(conn, text); err != nil {
		return
	}
	for one := make([]byte, 1); ; h.pause(500 * time.Millisecond) {
		if _, err := conn.Read(one); err != nil || !reading {
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

// tell says what the client has seen. Any failure fails the test.
func (seen honest) tell(t *testing.T, what string) {
	t.Helper()
	slices.Sort(seen.took)
	t.Logf("%-40s %5d requests, %5.1f %% failed, p99 %s, longest %s", what, seen.asked, 100*float64(seen.failed)/float64(seen.asked),
		seen.took[len(seen.took)*99/100].Round(100*time.Microsecond), seen.took[len(seen.took)-1].Round(100*time.Microsecond))
	if seen.failed > 0 {
		t.Errorf("%s: %d of %d requests failed: %s", what, seen.failed, seen.asked, seen.why)
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

func TestHostileHeadersThatDoNotEndKeepNoClientOut(t *testing.T) {
	d, _ := hostileFor(t)
	h := newHostile(t, "SPENDFLUSH_MAX_CLIENTS=40")
	h.connections(60, false, "GET /healthz HTTP/1.1\r\nHost: x\r\nX-")
	h.ask(d, h.getter("/readyz")).tell(t, "headers: /readyz")
	h.ask(d, h.post("", []byte(honestUpdate))).tell(t, "headers: an update")
}

func TestHostileBodiesWithoutATokenKeepNoClientOut(t *testing.T) {
	d, _ := hostileFor(t)
	h := newHostile(t, "SPENDFLUSH_MAX_CLIENTS=40")
	h.connections(60, false, "POST /v1/updates HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n")
	h.ask(d, h.getter("/readyz")).tell(t, "no token, no body: /readyz")
	h.ask(d, h.post("", []byte(honestUpdate))).tell(t, "no token, no body: an update")
}

func TestHostileReadersKeepNoOtherReaderOutAndNoAcknowledgement(t *testing.T) {
	d, _ := hostileFor(t)
	h := newHostile(t, "SPENDFLUSH_MAX_CONNECTIONS=4", "USE_REDIS_TRANSACTION_BUFFER=false")
	h.fill(40_000)
	h.connections(8, true, "GET /v1/usage?format=csv&by=hour&group_by=api_key,model,endpoint HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer "+
		hostileToken+"\r\n\r\n")
	eventually(t, "a report is being read", func() string {
		if n := h.metrics().sum("spendflush_http_working", `kind="report"`); n < 1 {
			return fmt.Sprint(n)
		}
		return ""
	})
	h.ask(d, h.post("?ack=committed", []byte(honestUpdate))).tell(t, "unread reports: a committed update")
	h.ask(d, h.getter("/v1/spend/api_key/honest")).tell(t, "unread reports: the spend of a key")
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
	d, _ := hostileFor(t)
	h := newHostile(t)
	header := "POST /v1/updates HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAuthorization: Bearer " + hostileToken +
		"\r\nContent-Length: 8388000\r\n\r\n"
	for _, size := range []int{4<<20 + 9000, 256 << 10, 64 << 10, 33 << 10} { // the small ones fill what the large ones leave
		h.connections(20, false, header+strings.Repeat(" ", size))
	}
	eventually(t, "the attacker holds its share of the memory", func() string {
		m := h.metrics()
		if held, limit := m.sum("spendflush_http_body_bytes"), m.sum("spendflush_http_body_bytes_limit"); held < limit/4 {
			return fmt.Sprint(held)
		}
		return ""
	})
	h.ask(d, h.post("", []byte(honestUpdate+strings.Repeat(" ", 1200<<10)))).tell(t, "silent bodies: a body of 1.2 MiB")
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
