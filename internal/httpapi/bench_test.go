//go:build unix

package httpapi

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/spend"
)

// sampleUpdate is an update as a gateway would send it.
func sampleUpdate(i int) string {
	return fmt.Sprintf(`{"spend":0.0%05d,"time":"2026-01-31T12:00:00Z","status":"success","api_key":"sk-hash-%06d","user_id":"user-%05d",`+
		`"team_id":"team-%03d","organization_id":"org-%02d","tags":["prod","chat"],"model":"gpt-5-mini","model_group":"gpt-5",`+
		`"custom_llm_provider":"openai","endpoint":"/v1/chat/completions","prompt_tokens":1234,"completion_tokens":%d}`,
		i%100000, i%1000, i%500, i%50, i%5, i%4096)
}

func sampleArray(n int) []byte {
	b := []byte{'['}
	for i := range n {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, sampleUpdate(i)...)
	}
	return append(b, ']')
}

func sampleLines(n int) []byte {
	lines := bytes.ReplaceAll(sampleArray(n), []byte("},{"), []byte("}\n{"))
	return lines[1 : len(lines)-1]
}

// cpuTime returns how much processor time this process has used: on a machine that others use too,
// it says more than the clock on the wall.
func cpuTime(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// measure runs f, which does b.N times n updates, and reports them by second and by processor time.
func measure(b *testing.B, n int, f func()) {
	b.ReportAllocs()
	b.ResetTimer()
	before := cpuTime(b)
	f()
	used := cpuTime(b) - before
	updates := float64(b.N) * float64(n)
	b.ReportMetric(updates/b.Elapsed().Seconds(), "updates/s")
	b.ReportMetric(float64(used.Nanoseconds())/updates, "cpu-ns/update")
}

func BenchmarkDecode(b *testing.B) {
	for _, bench := range []struct {
		name   string
		body   []byte
		format format
		n      int
	}{
		{"one", []byte(sampleUpdate(7)), formatJSON, 1},
		{"array of 100", sampleArray(100), formatJSON, 100},
		{"100 lines", sampleLines(100), formatNDJSON, 100},
	} {
		b.Run(bench.name, func(b *testing.B) {
			d := &decoder{maxUpdates: 1000}
			b.SetBytes(int64(len(bench.body)))
			measure(b, bench.n, func() {
				for range b.N {
					if err := d.decode(bench.body, bench.format); err != nil || len(d.faults) > 0 || len(d.updates) != bench.n {
						b.Fatal(err, d.faults, len(d.updates))
					}
					d.reset()
				}
			})
		})
	}
}

// idlePipeline takes updates and does nothing else: it isn't run.
func idlePipeline(b *testing.B) *spendflush.Pipeline {
	p, err := spendflush.New(spendflush.Config{Store: struct{ spend.Store }{}, DirectLocker: struct{ spend.Locker }{}})
	if err != nil {
		b.Fatal(err)
	}
	return p
}

// readOnly does what any handler must: it reads the body and answers.
func readOnly(w http.ResponseWriter, r *http.Request) {
	n, err := io.Copy(io.Discard, r.Body)
	if err != nil || n == 0 {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	io.WriteString(w, "{\"updates\":1,\"reached\":\"accepted\"}\n")
}

// BenchmarkRequests sends updates over loopback on 16 connections and waits for each answer, to the
// API with a pipeline behind it and, to compare, to a handler that only reads the body.
func BenchmarkRequests(b *testing.B) {
	for _, bench := range []struct {
		name, contentType string
		body              []byte
		n                 int
	}{
		{"one", "application/json", []byte(strings.Replace(sampleUpdate(7), `"time":"2026-01-31T12:00:00Z",`, "", 1)), 1},
		{"array of 100", "application/json", bytes.ReplaceAll(sampleArray(100), []byte(`"time":"2026-01-31T12:00:00Z",`), nil), 100},
		{"100 lines", "application/x-ndjson", bytes.ReplaceAll(sampleLines(100), []byte(`"time":"2026-01-31T12:00:00Z",`), nil), 100},
	} {
		request := fmt.Appendf(nil, "POST /v1/updates HTTP/1.1\r\nHost: bench\r\nContent-Type: %s\r\nAuthorization: Bearer secret\r\n"+
			"User-Agent: bench\r\nAccept: */*\r\nContent-Length: %d\r\n\r\n%s", bench.contentType, len(bench.body), bench.body)
		for name, accessLog := range map[string]bool{"api": false, "api with access log": true} {
			b.Run(bench.name+"/"+name, func(b *testing.B) {
				p := idlePipeline(b)
				a, err := New(Config{
					Recorder: p, Reader: &failingReader{}, Registry: prometheus.NewRegistry(), Keys: keysOf("secret"),
					AccessLog: accessLog, Logger: slog.New(slog.NewJSONHandler(io.Discard, nil)),
				})
				if err != nil {
					b.Fatal(err)
				}
				measure(b, bench.n, func() { flood(b, a.Server(""), a.Listen, request) })
				if got, want := p.Status().Accepted, int64(b.N*bench.n); got != want+int64(connections*bench.n) {
					b.Fatalf("%d updates were accepted, %d sent", got, want)
				}
			})
		}
		b.Run(bench.name+"/body only", func(b *testing.B) {
			listen := func(l net.Listener) net.Listener { return l }
			measure(b, bench.n, func() { flood(b, &http.Server{Handler: http.HandlerFunc(readOnly)}, listen, request) })
		})
	}
}

const connections = 16

// flood sends the request b.N times, and once more on each connection to learn how long an answer
// is.
func flood(b *testing.B, server *http.Server, listen func(net.Listener) net.Listener, request []byte) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go func() { _ = server.Serve(listen(listener)) }() // ends when the server is closed
	defer server.Close()
	var sent atomic.Int64
	var work sync.WaitGroup
	for range connections {
		work.Go(func() {
			conn, err := net.Dial("tcp", listener.Addr().String())
			if err != nil {
				b.Error(err)
				return
			}
			defer conn.Close()
			size := 0
			answer := make([]byte, 4096)
			for i := int64(-1); i < int64(b.N); i = sent.Add(1) - 1 {
				if _, err := conn.Write(request); err != nil {
					b.Error(err)
					return
				}
				if size == 0 {
					size, err = conn.Read(answer) // a small answer comes in one piece
				} else {
					_, err = io.ReadFull(conn, answer[:size])
				}
				if err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 202 ")) {
					b.Errorf("%.300s %v", answer, err)
					return
				}
			}
		})
	}
	work.Wait()
}
