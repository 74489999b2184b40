package integration

import (
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	collectormetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	metricsv1 "go.opentelemetry.io/proto/otlp/metrics/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// collector takes traces and metrics by OTLP over HTTP.
type collector struct {
	t   *testing.T
	url string

	mu      sync.Mutex
	spans   []span
	metrics map[string]*metricsv1.Metric // the last of each name
}

// span is one with the name of the instance that has sent it.
type span struct {
	*tracev1.Span
	instance string
}

func newCollector(t *testing.T) *collector {
	c := &collector{t: t, metrics: map[string]*metricsv1.Metric{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/traces", func(w http.ResponseWriter, r *http.Request) {
		var sent collectortrace.ExportTraceServiceRequest
		if c.decode(w, r, &sent) {
			c.takeTraces(&sent)
		}
	})
	mux.HandleFunc("POST /v1/metrics", func(w http.ResponseWriter, r *http.Request) {
		var sent collectormetrics.ExportMetricsServiceRequest
		if c.decode(w, r, &sent) {
			c.takeMetrics(&sent)
		}
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	c.url = server.URL
	return c
}

func (c *collector) decode(w http.ResponseWriter, r *http.Request, into proto.Message) bool {
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = proto.Unmarshal(body, into)
	}
	if err != nil {
		c.t.Errorf("%s: %v", r.URL.Path, err)
		w.WriteHeader(http.StatusBadRequest)
		return false
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	return true
}

func attributeOf(attributes []*commonv1.KeyValue, key string) string {
	for _, a := range attributes {
		if a.Key == key {
			return a.Value.GetStringValue()
		}
	}
	return ""
}

func (c *collector) takeTraces(sent *collectortrace.ExportTraceServiceRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range sent.ResourceSpans {
		name := attributeOf(resource.Resource.Attributes, "service.instance.id")
		if service := attributeOf(resource.Resource.Attributes, "service.name"); service != "books" {
			c.t.Errorf("the service is %q", service)
		}
		for _, scope := range resource.ScopeSpans {
			for _, s := range scope.Spans {
				c.spans = append(c.spans, span{s, name})
			}
		}
	}
}

func (c *collector) takeMetrics(sent *collectormetrics.ExportMetricsServiceRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range sent.ResourceMetrics {
		name := attributeOf(resource.Resource.Attributes, "service.instance.id")
		for _, scope := range resource.ScopeMetrics {
			for _, m := range scope.Metrics {
				c.metrics[name+" "+m.Name] = m
			}
		}
	}
}

// find waits for a span that is what is looked for.
func (c *collector) find(what string, is func(span) bool) (found span) {
	c.t.Helper()
	eventually(c.t, what+" arrives", func() string {
		c.mu.Lock()
		defer c.mu.Unlock()
		names := ""
		for _, s := range c.spans {
			if is(s) {
				found = s
				return ""
			}
			names += s.instance + " " + s.Name + ", "
		}
		return "there are " + names
	})
	return found
}

// One update is posted to an instance that doesn't flush within the time of the test; another one
// commits it.
func TestASlowCommitCanBeFollowedBackToItsRequests(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	s := newStack(t)
	telemetry := []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + c.url, "OTEL_SERVICE_NAME=books", "OTEL_BSP_SCHEDULE_DELAY=50", "OTEL_METRIC_EXPORT_INTERVAL=200"}
	taker := s.start("taker", append(telemetry, "SPENDFLUSH_FLUSH_INTERVAL=1m")...)
	flusher := s.start("flusher", telemetry...)

	const traceID, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	request, err := http.NewRequestWithContext(t.Context(), "POST", taker.url+"/v1/updates?ack=committed&timeout=60s", strings.NewReader(`{"spend":0.5,"api_key":"k"}`))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Traceparent", "00-"+traceID+"-"+parent+"-01")
	response, err := s.http.Do(request)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatal(response, err)
	}
	response.Body.Close()

	// Backwards, as one who looks for why a commit was slow.
	commit := c.find("the commit", func(s span) bool { return s.Name == "commit" && s.instance == "flusher" })
	flush := c.find("the flush", func(s span) bool { return string(s.SpanId) == string(commit.ParentSpanId) })
	if flush.Name != "flush" || len(flush.Links) != 1 || commit.EndTimeUnixNano <= commit.StartTimeUnixNano {
		t.Fatalf("above the commit is %v", flush)
	}
	link := flush.Links[0]
	seal := c.find("the seal", func(s span) bool {
		return string(s.SpanId) == string(link.SpanId) && string(s.TraceId) == string(link.TraceId)
	})
	if seal.Name != "seal" || seal.instance != "taker" || len(seal.Links) != 1 || attributeOf(seal.Attributes, "spendflush.batch") != hex.EncodeToString(seal.TraceId) {
		t.Fatalf("the flush is linked to %v of %s", seal, seal.instance)
	}
	back := seal.Links[0]
	asked := c.find("the request", func(s span) bool { return string(s.SpanId) == string(back.SpanId) })
	if hex.EncodeToString(asked.TraceId) != traceID || hex.EncodeToString(asked.ParentSpanId) != parent || asked.Name != "POST /v1/updates" {
		t.Errorf("the seal is linked to %v", asked)
	}
	c.find("the record", func(s span) bool { return s.Name == "record" && string(s.ParentSpanId) == string(asked.SpanId) })
	c.find("the push", func(s span) bool { return s.Name == "push" && string(s.ParentSpanId) == string(seal.SpanId) })

	eventually(t, "the metrics arrive, with the trace of the flush as an exemplar", func() string {
		c.mu.Lock()
		defer c.mu.Unlock()
		accepted := c.metrics["taker spendflush_updates_accepted_total"]
		if points := accepted.GetSum().GetDataPoints(); len(points) != 1 || points[0].GetAsDouble() != 1 {
			return fmt.Sprintf("accepted are %v", accepted)
		}
		for _, point := range c.metrics["flusher spendflush_flush_seconds"].GetHistogram().GetDataPoints() {
			for _, e := range point.Exemplars {
				if string(e.TraceId) == string(flush.TraceId) {
					return ""
				}
			}
		}
		return fmt.Sprintf("no exemplar has the trace %x: %v", flush.TraceId, c.metrics["flusher spendflush_flush_seconds"])
	})
	checkExemplar(t, flusher, hex.EncodeToString(flush.TraceId))
	stopAll([]*instance{taker, flusher})
}

// checkExemplar looks for a trace in what is told to who asks for OpenMetrics, and not to others.
func checkExemplar(t *testing.T, in *instance, traceID string) {
	t.Helper()
	for accept, want := range map[string]bool{"application/openmetrics-text; version=1.0.0": true, "text/plain": false} {
		request, err := http.NewRequestWithContext(t.Context(), "GET", in.url+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+token)
		request.Header.Set("Accept", accept)
		response, err := in.stack.http.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(response.Body)
		response.Body.Close()
		if got := strings.Contains(string(text), `# {trace_id="`+traceID+`"}`); err != nil || got != want {
			t.Errorf("%s: exemplar %t, %v", accept, got, err)
		}
	}
}
