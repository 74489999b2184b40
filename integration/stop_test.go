package integration

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/spendflush/spendflush/internal/lab/testserver"
)

// A client on a kept connection is told to leave it, and loses no request. The shell of a container
// isn't needed for that: the delay is the program's own.
func TestAStopTurnsClientsAwayBeforeItCloses(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	in := s.start("pod-0", "SPENDFLUSH_DRAIN_DELAY=5m")
	const clients = 16
	var turned sync.WaitGroup
	taken := make([]int64, clients)
	for i := range clients {
		turned.Go(func() { taken[i] = sendUntilTurnedAway(t, in) })
	}
	eventually(t, "all clients are at work", func() string {
		if n := in.metrics().sum("spendflush_updates_accepted_total"); n < 100 {
			return fmt.Sprintf("%v updates", n)
		}
		return ""
	})

	in.signal(syscall.SIGTERM)
	turned.Wait()
	if status, body := in.get("/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, "stopping") {
		t.Errorf("/readyz: %d %s", status, body)
	}
	if status, _ := in.get("/healthz"); status != http.StatusOK {
		t.Errorf("/healthz: %d", status)
	}
	status, answer, err := in.postUpdates("committed", "application/json", []byte(`{"spend": 1, "team_id": "late"}`))
	if err != nil || status != http.StatusOK {
		t.Errorf("an update while it stops: %d %s %v", status, answer, err)
	}

	in.stop(0) // the second signal skips the delay, and drains
	var want int64 = 1
	for _, n := range taken {
		want += n
	}
	if got := s.number("SELECT sum(updates)::bigint FROM spendflush.producers"); got != want {
		t.Errorf("%d updates are booked, want %d", got, want)
	}
}

// sendUntilTurnedAway sends on one connection until an answer says that it is closed, and returns
// how many updates were taken.
func sendUntilTurnedAway(t *testing.T, in *instance) (taken int64) {
	transport := &http.Transport{MaxConnsPerHost: 1}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: patience}
	for {
		request, err := http.NewRequest(http.MethodPost, in.url+"/v1/updates", strings.NewReader(`{"spend": 1, "team_id": "team"}`))
		if err != nil {
			t.Error(err)
			return taken
		}
		request.Header.Set("Authorization", "Bearer "+token)
		request.Header.Set("Content-Type", "application/json")
		response, err := client.Do(request)
		if err != nil {
			t.Errorf("a request of unknown fate: %v", err)
			return taken
		}
		_, _ = io.Copy(io.Discard, response.Body)
		response.Body.Close()
		if response.StatusCode != http.StatusAccepted {
			t.Errorf("status %d", response.StatusCode)
			return taken
		}
		if taken++; response.Close {
			return taken
		}
	}
}

// The listener is closed while a body is still coming.
func TestARequestUnderWayAtTheStopIsAnswered(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	in := s.start("pod-0", "SPENDFLUSH_DRAIN_DELAY=0s")
	conn, err := net.Dial("tcp", strings.TrimPrefix(in.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const body = `{"spend": 1, "team_id": "team"}`
	// The instance asks for the body once it has the header.
	fmt.Fprintf(conn, "POST /v1/updates?ack=committed HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n"+
		"Content-Type: application/json\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", token, len(body))
	const asks = "HTTP/1.1 100 Continue\r\n\r\n"
	got := make([]byte, len(asks))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != asks {
		t.Fatalf("%v: %q", err, got)
	}
	in.signal(syscall.SIGTERM)
	in.logged("stopping: draining")
	if _, err := conn.Write([]byte(body)); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 200") {
		t.Errorf("%v: %s", err, answer)
	}
	if status := in.wait(); status != 0 {
		t.Errorf("exit status %d", status)
	}
}

func TestAStopWithAJournalSaysThatNothingIsLost(t *testing.T) {
	t.Parallel()
	postgres, redis := testserver.NewPostgres(t), testserver.NewRedis(t)
	s := stackOn(t, postgres.URL("postgres"), redis.URL())
	dir := filepath.Join(t.TempDir(), "journal")
	in := s.start("pod-0", "SPENDFLUSH_JOURNAL_DIR="+dir, "SPENDFLUSH_SHUTDOWN_TIMEOUT=2s")
	for _, kill := range []func() error{redis.Kill, postgres.Kill} {
		if err := kill(); err != nil {
			t.Fatal(err)
		}
	}
	l := startLoad(t, []*instance{in}, loadOptions{clients: 2, updates: 100, most: 20, acks: []string{"queued"}})
	_, recorded, _ := l.stop()
	in.stop(1)
	in.logged("they are in the journal, and the next start brings them on")
	if n := in.count(`"level":"ERROR"`); n != 0 || in.count("are lost") != 0 {
		t.Errorf("%d errors, and %d lines that speak of a loss", n, in.count("are lost"))
	}
	restart(t, postgres.Restart)
	restart(t, redis.Restart)
	next := s.start("pod-0", "SPENDFLUSH_JOURNAL_DIR="+dir)
	next.logged("all batches that the journal had are in Postgres")
	next.stop(0)
	s.check(recorded)
}

func TestRollingRestartsBehindTheShippedProxyAnswerEveryRequest(t *testing.T) {
	t.Parallel()
	rollingRestarts(t, 20*time.Second)
}

// rollingRestarts restarts three instances behind HAProxy one after the other, each at least once
// and for at least as long, under load.
func rollingRestarts(t *testing.T, long time.Duration) {
	s := newStack(t)
	var all [3]*instance
	var addresses [len(all)]string
	launch := func(i int) *instance {
		// With the delay that is the default, which is the one that the proxy's configuration was
		// made for.
		return s.launch(fmt.Sprintf("pod-%d", i), "SPENDFLUSH_LISTEN="+addresses[i], "SPENDFLUSH_DRAIN_DELAY=5s")
	}
	for i := range all {
		addresses[i] = freeAddress(t)
		all[i] = launch(i)
	}
	for _, in := range all {
		in.awaitReady()
	}
	proxy := startProxy(t, s, addresses[:])
	l := startLoad(t, []*instance{proxy}, loadOptions{clients: 16, most: 20, pace: 2 * time.Millisecond, no5xx: true})

	for turn, begun := 0, time.Now(); turn < len(all) || time.Since(begun) < long; turn++ {
		i := turn % len(all)
		all[i].stop(0)
		all[i] = launch(i).awaitReady()
	}
	sent, recorded, _ := l.stop()
	if sent.updates != recorded.updates {
		t.Errorf("%d of %d updates were answered well", recorded.updates, sent.updates)
	}
	stopAll(all[:])
	s.check(recorded)
	s.audit()
	t.Logf("%d updates", recorded.updates)
}

// freeAddress finds an address that no program listens on and that isn't one for outgoing
// connections.
func freeAddress(t testing.TB) string {
	t.Helper()
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 10240+rand.IntN(20000))
		l, err := net.Listen("tcp", address)
		if err == nil {
			l.Close()
			return address
		}
	}
	t.Fatal("no free port")
	return ""
}

// startProxy runs HAProxy with the configuration that is shipped before the addresses, and returns
// it as a target of load. Only what deploy/haproxy.cfg says to change elsewhere is changed: the
// addresses, and Docker's resolvers.
func startProxy(t testing.TB, s *stack, addresses []string) *instance {
	t.Helper()
	address := freeAddress(t)
	changes := []string{"bind :4180", "bind " + address, " resolvers docker init-addr last,libc,none", ""}
	for i, to := range addresses {
		name := fmt.Sprintf("spendflush-%d", i+1)
		changes = append(changes, fmt.Sprintf("server %s %s:4180", name, name), fmt.Sprintf("server %s %s", name, to))
	}
	text := changed(t, "../deploy/haproxy.cfg", changes...)
	before, rest, _ := strings.Cut(text, "resolvers docker\n")
	_, after, found := strings.Cut(rest, "\nfrontend ")
	if !found {
		t.Fatal("deploy/haproxy.cfg has no frontend behind its resolvers")
	}
	file := written(t, t.TempDir(), "haproxy.cfg", before+"frontend "+after)
	proxy := &instance{process: launchProgram(t, serverProgram(t, "haproxy"), "haproxy", nil, "-db", "-f", file), stack: s, url: "http://" + address}
	eventually(t, "the proxy has an instance", func() string {
		if status, body, err := s.do(http.MethodGet, proxy.url+"/readyz", "", nil); err != nil || status != http.StatusOK {
			return fmt.Sprintf("%d %s %v", status, body, err)
		}
		return ""
	})
	return proxy
}
