package httpapi

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/sql/pgstore"
)

// serve runs the API's server on a port of its own until the test ends, and returns its URL.
func serve(t testing.TB, a *testAPI) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := a.Server(listener.Addr().String())
	server.Handler = a
	done := make(chan error, 1)
	go func() { done <- server.Serve(a.Listen(listener)) }()
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		server.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return "http://" + listener.Addr().String()
}

// dial opens a connection to a server of serve that gives up when the test's time is over.
func dial(t testing.TB, url string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// drip sends text a byte at a time, slower than any of the deadlines allows, until the server hangs
// up.
func drip(conn net.Conn, text string) {
	pace := time.NewTicker(20 * time.Millisecond)
	defer pace.Stop()
	for i := range text {
		if _, err := conn.Write([]byte(text[i : i+1])); err != nil {
			return
		}
		<-pace.C
	}
}

func TestAClientThatDripsItsHeaderIsCutOff(t *testing.T) {
	a, _ := newAPI(t, func(c *Config) { c.HeaderTimeout, c.IdleTimeout = 100*time.Millisecond, time.Hour })
	conn := dial(t, serve(t, a))
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		drip(conn, "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Long: "+strings.Repeat("a", 5000))
	}()
	answer, _ := io.ReadAll(conn) // ends when the server hangs up
	if strings.Contains(string(answer), "200 OK") {
		t.Errorf("the answer is %q", answer)
	}
	conn.Close()
	<-sent
}

func TestAClientThatDripsItsBodyIsCutOffAndNothingIsRecorded(t *testing.T) {
	a, recorder := newAPI(t, func(c *Config) { c.ReadTimeout = 200 * time.Millisecond })
	conn := dial(t, serve(t, a))
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		fmt.Fprintf(conn, "POST /v1/updates HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 10000\r\n\r\n")
		drip(conn, plain+strings.Repeat(" ", 9000))
	}()
	reader := bufio.NewReader(conn)
	resp, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	checkProblem(t, resp, requestTimeout)
	if !resp.Close {
		t.Error("the connection is to be used again")
	}
	_, _ = io.Copy(io.Discard, reader) // ends when the server hangs up
	conn.Close()
	<-sent
	if recorder.recorded() != 0 {
		t.Error("an update was recorded")
	}
}

func TestAConnectionOpenedAheadIsAsGoodAsAnIdleOne(t *testing.T) {
	a, recorder := newAPI(t, func(c *Config) { c.ReadTimeout, c.HeaderTimeout = 200*time.Millisecond, 200*time.Millisecond })
	conn := dial(t, serve(t, a))
	reader := bufio.NewReader(conn)
	for range 2 { // unused so far, then used
		time.Sleep(400 * time.Millisecond)
		fmt.Fprintf(conn, "POST /v1/updates HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", len(plain))
		time.Sleep(20 * time.Millisecond) // the server has to wait for the body
		fmt.Fprint(conn, plain)
		resp, err := http.ReadResponse(reader, nil)
		if err != nil {
			t.Fatal(err)
		}
		if answer, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusAccepted || resp.Close {
			t.Errorf("%s, close: %t: %s", resp.Status, resp.Close, answer)
		}
	}
	if got := recorder.recorded(); got != 2 {
		t.Errorf("%d updates were recorded", got)
	}
}

func TestABodyThatEndsEarlyRecordsNothing(t *testing.T) {
	a, recorder := newAPI(t, nil)
	conn := dial(t, serve(t, a))
	fmt.Fprintf(conn, "POST /v1/updates HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nContent-Length: 10000\r\n\r\n%s\n", plain)
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	checkProblem(t, resp, invalidRequest)
	if recorder.recorded() != 0 {
		t.Error("the updates that had arrived were recorded")
	}
}

func TestAHeaderAboveTheBoundIsRefused(t *testing.T) {
	a, _ := newAPI(t, nil)
	r, err := http.NewRequest("GET", serve(t, a)+"/healthz", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Long", strings.Repeat("a", 40<<10))
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("status is %d", resp.StatusCode)
	}
}

func TestAnIdleConnectionIsClosed(t *testing.T) {
	a, _ := newAPI(t, func(c *Config) { c.IdleTimeout, c.ReadTimeout = 500*time.Millisecond, time.Hour })
	conn := dial(t, serve(t, a))
	fmt.Fprintf(conn, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
	if answer, err := io.ReadAll(conn); err != nil || !strings.Contains(string(answer), "200 OK") {
		t.Errorf("answer %q, error %v", answer, err)
	}
}

func TestChunkedBodiesAreTaken(t *testing.T) {
	a, recorder := newAPI(t, nil)
	reader, writer := io.Pipe()
	go func() {
		for range 3 {
			fmt.Fprintln(writer, plain)
		}
		writer.Close()
	}()
	resp, err := http.Post(serve(t, a)+"/v1/updates", "application/x-ndjson", reader)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted || recorder.recorded() != 3 {
		t.Errorf("status %d, %d recorded", resp.StatusCode, recorder.recorded())
	}
}

func TestAWaitMayTakeLongerThanAWriteTimeout(t *testing.T) {
	a, recorder := newAPI(t, func(c *Config) { c.WriteTimeout = 100 * time.Millisecond })
	recorder.wait = func(ctx context.Context, want spendflush.Stage) (spendflush.Stage, error) {
		// Three times the deadline that the connection came with.
		timer := time.NewTimer(300 * time.Millisecond)
		defer timer.Stop()
		select {
		case <-timer.C:
			return want, nil
		case <-ctx.Done():
			return spendflush.Accepted, ctx.Err()
		}
	}
	url := serve(t, a)
	for range 2 { // the second on the same connection, whose deadlines must be fresh
		resp, err := http.Post(url+"/v1/updates?ack=committed", "application/json", strings.NewReader(plain))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), `"committed"`) {
			t.Errorf("%d %s %v", resp.StatusCode, body, err)
		}
	}
}

func TestAWaitEndsWhenTheClientLeaves(t *testing.T) {
	a, recorder := newAPI(t, nil)
	waiting, ended := make(chan struct{}), make(chan error, 1)
	recorder.wait = func(ctx context.Context, _ spendflush.Stage) (spendflush.Stage, error) {
		close(waiting)
		<-ctx.Done()
		ended <- ctx.Err()
		return spendflush.Accepted, ctx.Err()
	}
	conn := dial(t, serve(t, a))
	fmt.Fprintf(conn, "POST /v1/updates?ack=committed&timeout=60s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(plain), plain)
	<-waiting
	conn.Close()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the wait ended with %v", err)
	}
	if recorder.recorded() != 1 {
		t.Error("the update is gone")
	}
}

func TestALongReportMayTakeLongerThanAWriteTimeout(t *testing.T) {
	reader := &pausingReader{pause: 300 * time.Millisecond}
	a, _ := newAPI(t, func(c *Config) { c.Reader, c.WriteTimeout = reader, 100*time.Millisecond })
	for _, format := range []string{"csv", "json"} {
		resp, err := http.Get(serve(t, a) + "/v1/usage?format=" + format)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), "3") {
			t.Errorf("%s: %d, %d bytes, %v", format, resp.StatusCode, len(body), err)
		}
	}
}

// pausingReader is a database that takes its time.
type pausingReader struct {
	failingReader
	pause time.Duration
}

func (p *pausingReader) Usage(ctx context.Context, q pgstore.UsageQuery, yield func(pgstore.UsageRow) error) error {
	timer := time.NewTimer(p.pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
	}
	return yield(pgstore.UsageRow{Start: q.From, Counts: [7]string{"3", "3", "0", "0", "0", "0", "0"}})
}

func TestAReportThatFailsHalfwayIsNotTakenForTheWhole(t *testing.T) {
	for name, reader := range map[string]*failingReader{
		"the database goes away": {rows: 5000, after: errors.New("connection lost")},
		"there are too many":     {rows: 6001},
	} {
		t.Run(name, func(t *testing.T) {
			a, _ := newAPI(t, func(c *Config) { c.Reader, c.MaxCSVRows = reader, 6000 })
			resp, err := http.Get(serve(t, a) + "/v1/usage?format=csv")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if _, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("the client sees %v", err)
			}
		})
	}
}
