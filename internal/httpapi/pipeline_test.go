package httpapi

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/spendflush/spendflush/internal/overview"
)

func TestThePipelineIsToldWithEverythingInIt(t *testing.T) {
	in := newInstance(t)
	in.post("", "application/json", plain)
	status, answer := in.get("/v1/pipeline")
	if status != http.StatusOK || answer["state"] != "ok" || !strings.HasPrefix(answer["sentence"].(string), "Books exact and ") {
		t.Errorf("%d %v", status, answer)
	}
	instances, _ := answer["instances"].([]any)
	if len(instances) != 1 {
		t.Fatalf("instances %v", answer["instances"])
	}
	one := instances[0].(map[string]any)
	if one["self"] != true || one["held_updates"] != 1.0 || one["held_amount"] != "1" || one["producer"] != in.pipeline.Producer().String() {
		t.Errorf("instance %v", one)
	}
	in.run()
	in.post("?ack=committed", "application/json", plain)
	if _, answer := in.get("/v1/audit"); answer["ok"] != true || answer["took_seconds"] == nil {
		t.Errorf("audit %v", answer)
	}
	lines := in.events(t)
	for {
		event := nextEvent(t, lines)
		if event.LastAudit != nil && event.LastAudit.OK && event.Postgres.Updates == 2 && len(event.Flushes) > 0 && event.State == overview.OK {
			break
		}
	}
}

// events opens the stream of events and returns its lines. It is closed when the test ends.
func (in *instance) events(t *testing.T) *bufio.Scanner {
	t.Helper()
	resp, err := http.Get(in.url + "/v1/events")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" || resp.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	return lines
}

// nextEvent reads on to the next event.
func nextEvent(t *testing.T, lines *bufio.Scanner) (r overview.Report) {
	t.Helper()
	named := false
	for lines.Scan() {
		text, isData := strings.CutPrefix(lines.Text(), "data: ")
		if isData && named {
			if err := json.Unmarshal([]byte(text), &r); err != nil {
				t.Fatal(err)
			}
			return r
		}
		named = lines.Text() == "event: pipeline"
	}
	t.Fatalf("the stream ended: %v", lines.Err())
	return r
}

func TestStreamsAreBoundedAndEndWhenTheServerShutsDown(t *testing.T) {
	a, _ := newAPI(t, nil)
	a.streams = newPlaces(4) // two for one caller
	server := a.Server("")
	in := &instance{t: t, url: serve(t, a)}
	first, second := in.events(t), in.events(t)
	nextEvent(t, first)
	nextEvent(t, second)
	resp, err := http.Get(in.url + "/v1/events")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if checkProblem(t, resp, busy); resp.Header.Get("Retry-After") == "" {
		t.Errorf("header %v", resp.Header)
	}
	if w := do(a, "GET", "/metrics", ""); w.Code != http.StatusOK { // streams don't keep others out
		t.Errorf("metrics: %d", w.Code)
	}
	if err := server.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, lines := range []*bufio.Scanner{first, second} {
		for lines.Scan() {
		}
		if err := lines.Err(); err != nil {
			t.Errorf("the stream was cut off: %v", err)
		}
	}
}

func TestAStreamEndsWhenTheClientLeaves(t *testing.T) {
	a, _ := newAPI(t, nil)
	in := &instance{t: t, url: serve(t, a)}
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, "GET", in.url+"/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if n := a.streams.held(); n != 1 {
		t.Errorf("%d streams are counted", n)
	}
	cancel()
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	waitUntil(t, "the stream's place is free", func() bool { return a.streams.held() == 0 })
}

func TestAStreamOutlivesTheWriteTimeout(t *testing.T) {
	a, _ := newAPI(t, func(c *Config) { c.WriteTimeout = 700 * time.Millisecond })
	lines := (&instance{t: t, url: serve(t, a)}).events(t)
	for range 3 { // two seconds
		nextEvent(t, lines)
	}
}

func TestAHeadOfAStreamHasNone(t *testing.T) {
	a, _ := newAPI(t, nil)
	if w := do(a, "HEAD", "/v1/events", ""); w.Code != http.StatusOK || w.Body.Len() > 0 || w.Header().Get("Content-Type") != "text/event-stream" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestWithPostgresAwayThePipelineSaysSo(t *testing.T) {
	a, _ := newAPI(t, func(c *Config) { c.Reader = &failingReader{err: errors.New("gone")} })
	w := do(a, "GET", "/v1/pipeline", "")
	var r overview.Report
	if err := json.Unmarshal(w.Body.Bytes(), &r); err != nil || w.Code != http.StatusOK || r.State != overview.Bad || r.Postgres.Error != "gone" || r.Queue.Used {
		t.Errorf("%d %v %+v", w.Code, err, r)
	}
}
