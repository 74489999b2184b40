// Package tracing makes traces and metrics of OpenTelemetry of what an instance does, and sends
// them by OTLP over HTTP. It is the only package that knows OpenTelemetry's SDK: the pipeline and
// the API tell it through interfaces of their own.
//
// There are three kinds of traces, which links lead through:
//
//   - A request's is the client's own, if it sent a traceparent: a span for the request, and below it one for the record.
//   - A batch's has its digest as its id: "seal" is its root, with links to the requests of the seal, and below it are its pushes.
//     Whoever has the batch knows the span of its seal, so nothing is carried over the queue.
//   - A flush's has links to the seals of its batches, and below it "commit", the transaction.
package tracing

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	prombridge "go.opentelemetry.io/contrib/bridges/prometheus"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// Options say what the instance is, and where its metrics are.
type Options struct {
	Instance, Version string
	Gatherer          prometheus.Gatherer
	Logger            *slog.Logger
}

// Telemetry is what is switched on.
type Telemetry struct {
	Requests *Requests // nil: requests aren't traced
	Pipeline *Pipeline // nil: the pipeline isn't
	stop     []func(context.Context) error
}

const scope = "github.com/spendflush/spendflush"

// linkLimit is how many links a span has unless OTEL_SPAN_LINK_COUNT_LIMIT says otherwise: a flush
// has one for each of its batches.
const linkLimit = 1024

// Start begins to export. It connects to nobody: what can't be sent is dropped, and said in the
// log.
func Start(ctx context.Context, s Settings, o Options) (*Telemetry, error) {
	t := &Telemetry{}
	if !s.Any() {
		return t, nil
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		o.Logger.Warn("OpenTelemetry: something could not be sent or is set wrong", "error", err)
	}))
	// What the SDK says by itself, such as of a certificate that it can't read, would go to stderr
	// in a form of its own.
	otel.SetLogger(logr.FromSlogHandler(o.Logger.With("of", "OpenTelemetry").Handler()))
	res, err := describeInstance(ctx, o)
	if err != nil {
		return nil, err
	}
	if s.Traces {
		exporter, err := otlptracehttp.New(ctx)
		if err != nil {
			return nil, err
		}
		t.startTraces(exporter, s, res)
	}
	if s.Metrics {
		exporter, err := otlpmetrichttp.New(ctx)
		if err != nil {
			return nil, errors.Join(err, t.Stop(ctx))
		}
		bridge := binaryIDs{prombridge.NewMetricProducer(prombridge.WithGatherer(o.Gatherer))}
		reader := sdkmetric.NewPeriodicReader(exporter, sdkmetric.WithProducer(bridge))
		t.stop = append(t.stop, sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader), sdkmetric.WithResource(res)).Shutdown)
	}
	return t, nil
}

// describeInstance returns what is told of the instance. What the environment says
// (OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES) goes before.
func describeInstance(ctx context.Context, o Options) (*resource.Resource, error) {
	res, err := resource.New(ctx, resource.WithTelemetrySDK(), resource.WithAttributes(
		attribute.String("service.name", "spendflush"), attribute.String("service.version", o.Version),
		attribute.String("service.instance.id", o.Instance)), resource.WithFromEnv())
	if err != nil && !errors.Is(err, resource.ErrPartialResource) && !errors.Is(err, resource.ErrSchemaURLConflict) {
		return nil, err
	}
	return res, nil
}

// startTraces makes two providers on one exporter. Requests are sampled as OTEL_TRACES_SAMPLER
// says; what the pipeline does is always traced, unless nothing is, as there are few seals and
// flushes in a second however many requests there are: a flush that wasn't sampled could not be
// followed, whoever asks.
func (t *Telemetry) startTraces(exporter sdktrace.SpanExporter, s Settings, res *resource.Resource) {
	limits := sdktrace.NewSpanLimits()
	if !s.linksLimited {
		limits.LinkCountLimit = linkLimit
	}
	batcher := sdktrace.NewBatchSpanProcessor(exporter)
	common := []sdktrace.TracerProviderOption{sdktrace.WithSpanProcessor(batcher), sdktrace.WithResource(res), sdktrace.WithRawSpanLimits(limits)}
	requests := sdktrace.NewTracerProvider(common...)
	t.stop = append(t.stop, requests.Shutdown)
	if s.sampledNever {
		return
	}
	own := sdktrace.NewTracerProvider(append(common, sdktrace.WithSampler(sdktrace.AlwaysSample()), sdktrace.WithIDGenerator(givenIDs{}))...)
	maxLinks := limits.LinkCountLimit
	if maxLinks < 0 { // there is no limit
		maxLinks = math.MaxInt
	}
	t.Pipeline = newPipeline(own.Tracer(scope), maxLinks)
	t.Requests = &Requests{tracer: requests.Tracer(scope), pipeline: t.Pipeline}
}

// Stop sends what is left, until ctx ends.
func (t *Telemetry) Stop(ctx context.Context) error {
	if t.Pipeline != nil {
		t.Pipeline.end(time.Time{})
	}
	var failed []error
	for _, stop := range t.stop {
		failed = append(failed, stop(ctx))
	}
	return errors.Join(failed...)
}
