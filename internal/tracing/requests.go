package tracing

import (
	"context"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/internal/httpapi"
)

// Requests makes spans of requests. It implements httpapi.Tracer.
type Requests struct {
	tracer   trace.Tracer
	pipeline *Pipeline
}

// Begin implements httpapi.Tracer. The trace is that of a traceparent, if the client sent one.
func (r *Requests) Begin(request *http.Request, came time.Time) httpapi.Span {
	parent := trace.ContextWithRemoteSpanContext(context.Background(), httpapi.TraceParent(request.Header))
	ctx, span := r.tracer.Start(parent, "request", trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(came))
	return &requestSpan{of: r, ctx: ctx, span: span}
}

type requestSpan struct {
	of   *Requests
	ctx  context.Context
	span trace.Span
}

// Recorded implements httpapi.Span.
func (s *requestSpan) Recorded(receipt spendflush.Receipt, updates int, began time.Time) {
	if !s.span.SpanContext().IsSampled() {
		return
	}
	seal := receipt.Seal()
	_, record := s.of.tracer.Start(s.ctx, "record", trace.WithTimestamp(began), trace.WithAttributes(
		attribute.Int("spendflush.updates", updates), attribute.Int64("spendflush.seal", int64(seal))))
	record.End()
	s.of.pipeline.recorded(seal, s.span.SpanContext())
}

// End implements httpapi.Span. The route is the pattern: a path may hold an id.
func (s *requestSpan) End(method, route string, status int) {
	s.span.SetName(method + " " + route)
	s.span.SetAttributes(attribute.String("http.request.method", method), attribute.String("http.route", route),
		attribute.Int("http.response.status_code", status))
	if status >= 500 {
		s.span.SetStatus(codes.Error, "")
	}
	s.span.End()
}

// TraceID implements httpapi.Span.
func (s *requestSpan) TraceID() string { return s.span.SpanContext().TraceID().String() }
