package faultproxy_test

import (
	"bufio"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/spendflush/spendflush/internal/lab/faultproxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// startEcho starts a server that sends every line back, and returns its address and how many it
// got.
func startEcho(t *testing.T) (string, *atomic.Int64) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var lines atomic.Int64
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			for r := bufio.NewReader(conn); ; {
				line, err := r.ReadString('\n')
				if err != nil {
					break
				}
				lines.Add(1)
				_, _ = io.WriteString(conn, line)
			}
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-ended
	})
	return listener.Addr().String(), &lines
}

func connect(t *testing.T, p *faultproxy.Proxy) (net.Conn, *bufio.Reader) {
	conn, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn, bufio.NewReader(conn)
}

func TestACutReplyHasReachedTheServer(t *testing.T) {
	addr, lines := startEcho(t)
	p := faultproxy.New(t, addr)
	conn, replies := connect(t, p)
	_, _ = io.WriteString(conn, "one\n")
	if line, err := replies.ReadString('\n'); line != "one\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	p.CutNextReply()
	_, _ = io.WriteString(conn, "two\n")
	if line, err := replies.ReadString('\n'); err == nil {
		t.Errorf("got %q", line)
	}
	if lines.Load() != 2 {
		t.Errorf("the server got %d lines", lines.Load())
	}
	again, replies := connect(t, p)
	_, _ = io.WriteString(again, "three\n")
	if line, err := replies.ReadString('\n'); line != "three\n" {
		t.Errorf("got %q, %v", line, err)
	}
}

func TestSilenceKeepsTheConnectionAndWhatWasSent(t *testing.T) {
	addr, _ := startEcho(t)
	p := faultproxy.New(t, addr)
	conn, replies := connect(t, p)
	p.Silence(true)
	_, _ = io.WriteString(conn, "one\n")
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if line, err := replies.ReadString('\n'); err == nil || err == io.EOF {
		t.Errorf("got %q, %v", line, err)
	}
	p.Silence(false)
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if line, err := replies.ReadString('\n'); line != "one\n" {
		t.Errorf("got %q, %v", line, err)
	}
}

func TestDropClosesConnectionsAndTakesNewOnes(t *testing.T) {
	addr, _ := startEcho(t)
	p := faultproxy.New(t, addr)
	conn, replies := connect(t, p)
	_, _ = io.WriteString(conn, "one\n")
	if line, err := replies.ReadString('\n'); line != "one\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	p.Drop()
	if line, err := replies.ReadString('\n'); err == nil {
		t.Errorf("got %q", line)
	}
	again, replies := connect(t, p)
	_, _ = io.WriteString(again, "two\n")
	if line, err := replies.ReadString('\n'); line != "two\n" {
		t.Errorf("got %q, %v", line, err)
	}
}

func TestOnlyRepliesToRequestsThatHoldTheTextAreCut(t *testing.T) {
	addr, lines := startEcho(t)
	p := faultproxy.New(t, addr)
	conn, replies := connect(t, p)
	p.CutReplies("COMMIT\n", 1)
	_, _ = io.WriteString(conn, "READ COMMITTED\n")
	if line, err := replies.ReadString('\n'); line != "READ COMMITTED\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	_, _ = io.WriteString(conn, "COMMIT\n")
	if line, err := replies.ReadString('\n'); err == nil {
		t.Errorf("got %q", line)
	}
	if lines.Load() != 2 || p.Cut() != 1 {
		t.Errorf("the server got %d lines, and %d replies were cut", lines.Load(), p.Cut())
	}
	// That was the one.
	again, replies := connect(t, p)
	_, _ = io.WriteString(again, "COMMIT\n")
	if line, err := replies.ReadString('\n'); line != "COMMIT\n" {
		t.Errorf("got %q, %v", line, err)
	}
}

func TestATextInTwoPiecesIsFoundAndTheServerGetsBoth(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	p := faultproxy.New(t, listener.Addr().String())
	p.CutReplies("COMMIT\n", 1)
	conn, replies := connect(t, p)
	server, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	for _, piece := range []string{"COM", "MIT\n"} {
		_, _ = io.WriteString(conn, piece)
		got := make([]byte, len(piece))
		if _, err := io.ReadFull(server, got); err != nil || string(got) != piece {
			t.Fatalf("the server got %q, %v", got, err)
		}
	}
	_, _ = io.WriteString(server, "done\n")
	if line, err := replies.ReadString('\n'); err == nil || p.Cut() != 1 {
		t.Errorf("got %q, and %d replies were cut", line, p.Cut())
	}
}

func TestDelayHoldsBackRequestsAndReplies(t *testing.T) {
	addr, _ := startEcho(t)
	p := faultproxy.New(t, addr)
	conn, replies := connect(t, p)
	const delay = 30 * time.Millisecond
	p.Delay(delay)
	start := time.Now()
	_, _ = io.WriteString(conn, "one\n")
	if line, err := replies.ReadString('\n'); line != "one\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	if took := time.Since(start); took < 2*delay {
		t.Errorf("there and back took %s", took)
	}
	p.Delay(time.Hour)
	_, _ = io.WriteString(conn, "two\n") // the end of the proxy must not wait for it
}

func TestRefuseClosesOldAndNewConnectionsUntilItEnds(t *testing.T) {
	addr, lines := startEcho(t)
	p := faultproxy.New(t, addr)
	_, old := connect(t, p)
	p.Refuse(true)
	_, fresh := connect(t, p)
	for _, replies := range []*bufio.Reader{old, fresh} {
		if line, err := replies.ReadString('\n'); err == nil {
			t.Errorf("got %q", line)
		}
	}
	p.Refuse(false)
	conn, replies := connect(t, p)
	_, _ = io.WriteString(conn, "one\n")
	if line, err := replies.ReadString('\n'); line != "one\n" {
		t.Errorf("got %q, %v", line, err)
	}
	if n := lines.Load(); n != 1 {
		t.Errorf("the server got %d lines", n)
	}
}
