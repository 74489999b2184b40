package tracing

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/spend"
)

// kept is an exporter that still has what it was sent after it is shut down.
type kept struct{ *tracetest.InMemoryExporter }

func (kept) Shutdown(context.Context) error { return nil }

// started is what these variables switch on, with an exporter in memory.
func started(t *testing.T, set map[string]string) (*Telemetry, *tracetest.InMemoryExporter) {
	t.Helper()
	environ := []string{"OTEL_TRACES_EXPORTER=otlp"}
	for _, name := range []string{"OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG", "OTEL_SPAN_LINK_COUNT_LIMIT"} {
		t.Setenv(name, set[name])
		environ = append(environ, name+"="+set[name])
	}
	s, err := FromEnviron(environ)
	if err != nil {
		t.Fatal(err)
	}
	res, err := describeInstance(t.Context(), Options{Instance: "one", Version: "1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	exporter := kept{tracetest.NewInMemoryExporter()}
	telemetry := &Telemetry{}
	telemetry.startTraces(exporter, s, res)
	return telemetry, exporter.InMemoryExporter
}

// post tells of a request with a traceparent, unless that is empty, and of its record.
func post(r *Requests, traceparent string, status int) (traceID string) {
	request := &http.Request{Header: http.Header{}}
	if traceparent != "" {
		request.Header.Set("traceparent", traceparent)
	}
	span := r.Begin(request, time.Unix(1, 0))
	span.Recorded(spendflush.Receipt{}, 2, time.Unix(1, 0))
	span.End("POST", "/v1/updates", status)
	return span.TraceID()
}

const (
	clientID  = "4bf92f3577b34da6a3ce929d0e0e4736"
	sampled   = "00-" + clientID + "-00f067aa0ba902b7-01"
	unsampled = "00-" + clientID + "-00f067aa0ba902b7-00"
)

func sealAndFlush(p *Pipeline, batches ...*spend.Batch) {
	at := time.Unix(10, 0)
	p.Sealed(spendflush.SealEvent{Seal: 1, Batches: batches, Began: at, Ended: at})
	p.Flushed(spendflush.FlushEvent{Batches: batches, Gathered: at, Began: at, Ended: at})
}

func TestARequestIsInTheTraceOfItsClient(t *testing.T) {
	telemetry, exporter := started(t, nil)
	if id := post(telemetry.Requests, sampled, 503); id != clientID {
		t.Errorf("the trace is %s", id)
	}
	if err := telemetry.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	spans := named(exporter, "POST /v1/updates")
	if len(spans) != 1 || spans[0].Parent.SpanID().String() != "00f067aa0ba902b7" || !spans[0].StartTime.Equal(time.Unix(1, 0)) || spans[0].Status.Code != codes.Error {
		t.Fatalf("the request is %+v", spans)
	}
	records := named(exporter, "record")
	if len(records) != 1 || records[0].Parent.SpanID() != spans[0].SpanContext.SpanID() {
		t.Errorf("the record is %+v", records)
	}
}

func TestARequestThatIsNotSampledIsNotNoted(t *testing.T) {
	telemetry, exporter := started(t, nil)
	sealing := telemetry.Pipeline
	if id := post(telemetry.Requests, unsampled, 202); id != clientID {
		t.Errorf("the trace is %s", id)
	}
	sealing.Sealed(spendflush.SealEvent{Seal: 0, Batches: []*spend.Batch{batch(1)}})
	post(telemetry.Requests, unsampled, 202)
	if err := telemetry.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if seals := named(exporter, "seal"); len(seals) != 1 || len(seals[0].Links) != 0 || len(exporter.GetSpans()) != 1 {
		t.Errorf("the spans are %+v", exporter.GetSpans())
	}
}

// Requests are sampled as the environment says, and seals and flushes are traced all the same.
func TestSealsAndFlushesAreTracedWhateverTheRequestsAre(t *testing.T) {
	for _, sampler := range []string{"parentbased_always_off", "traceidratio"} {
		telemetry, exporter := started(t, map[string]string{"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": "0"})
		post(telemetry.Requests, "", 202)
		sealAndFlush(telemetry.Pipeline, batch(1))
		if err := telemetry.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := len(exporter.GetSpans()); n != 3 || len(named(exporter, "seal")) != 1 || len(named(exporter, "commit")) != 1 {
			t.Errorf("%s: %d spans: %+v", sampler, n, exporter.GetSpans())
		}
	}
	for _, never := range []string{"always_off", "Always_Off"} {
		if telemetry, _ := started(t, map[string]string{"OTEL_TRACES_SAMPLER": never}); telemetry.Pipeline != nil || telemetry.Requests != nil {
			t.Errorf("%s: %+v", never, telemetry)
		}
	}
}

// A flush has many batches, and a seal many requests.
func TestSpansHaveAsManyLinksAsTheEnvironmentSays(t *testing.T) {
	var batches []*spend.Batch
	for n := range uint64(1500) {
		batches = append(batches, batch(n+1))
	}
	for limit, want := range map[string]int{"": linkLimit, "5": 5, "0": 0, "-1": len(batches)} {
		telemetry, exporter := started(t, map[string]string{"OTEL_SPAN_LINK_COUNT_LIMIT": limit})
		for range len(batches) {
			telemetry.Pipeline.recorded(1, request(1))
		}
		sealAndFlush(telemetry.Pipeline, batches[0])
		at := time.Unix(10, 0)
		telemetry.Pipeline.Flushed(spendflush.FlushEvent{Batches: batches, Gathered: at, Began: at, Ended: at})
		if err := telemetry.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		flush, seal := named(exporter, "flush")[1], named(exporter, "seal")[0]
		if len(flush.Links) != want || len(seal.Links) != want {
			t.Errorf("limit %q: the flush has %d links, the seal %d, want %d", limit, len(flush.Links), len(seal.Links), want)
		}
	}
}

func TestTheEnvironmentSaysWhatTheServiceIsCalled(t *testing.T) {
	for set, want := range map[string][3]string{
		"":      {"spendflush", "one", "1.2.3"},
		"books": {"books", "two", "1.2.3"},
	} {
		t.Setenv("OTEL_SERVICE_NAME", set)
		t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "")
		if set != "" {
			t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=two")
		}
		res, err := describeInstance(t.Context(), Options{Instance: "one", Version: "1.2.3"})
		if err != nil {
			t.Fatal(err)
		}
		var got [3]string
		for i, key := range []attribute.Key{"service.name", "service.instance.id", "service.version"} {
			value, _ := res.Set().Value(key)
			got[i] = value.AsString()
		}
		if got != want {
			t.Errorf("OTEL_SERVICE_NAME=%s: %q, want %q", set, got, want)
		}
	}
}

func TestWithoutAVariableNothingIsStarted(t *testing.T) {
	handled := 0
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(error) { handled++ }))
	telemetry, err := Start(t.Context(), Settings{}, Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil || telemetry.Requests != nil || telemetry.Pipeline != nil || len(telemetry.stop) != 0 {
		t.Errorf("%+v, %v", telemetry, err)
	}
	if otel.Handle(errors.New("of somebody else")); handled != 1 {
		t.Error("what OpenTelemetry can't do is told to nobody else any more")
	}
	if err := telemetry.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestWhatOpenTelemetrySaysIsInTheLogOfTheInstance(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", "/there/is/none.pem")
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "https://127.0.0.1:1")
	var log bytes.Buffer
	telemetry, err := Start(t.Context(), Settings{Traces: true}, Options{Logger: slog.New(slog.NewJSONHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	otel.Handle(errors.New("the collector is away"))
	if err := telemetry.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"level":"ERROR","msg":"read tls ca cert file"`, `"file":"/there/is/none.pem"`, `"error":"the collector is away"`} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %s:\n%s", want, log.String())
		}
	}
}

// hanging is an exporter whose collector doesn't answer until it is let go.
type hanging struct{ letGo chan struct{} }

func (h hanging) ExportSpans(context.Context, []sdktrace.ReadOnlySpan) error {
	<-h.letGo
	return nil
}

func (hanging) Shutdown(context.Context) error { return nil }

func TestACollectorThatHangsHoldsUpNeitherRequestsNorFlushesNorTheStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		collector, telemetry := hanging{make(chan struct{})}, &Telemetry{}
		telemetry.startTraces(collector, Settings{Traces: true}, resource.Empty())
		began := time.Now()
		for range 10_000 { // several times what is kept to be sent
			post(telemetry.Requests, sampled, 202)
		}
		for range 1_000 {
			sealAndFlush(telemetry.Pipeline, batch(1))
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("it was waited for %s", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := telemetry.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		close(collector.letGo)
	})
}
