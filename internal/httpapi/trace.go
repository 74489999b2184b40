package httpapi

import (
	"context"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/spendflush/spendflush"
)

// Tracer makes traces of requests. It is called by many goroutines at a time, and must not block.
type Tracer interface {
	// Begin is told of a request that came at that time, once it is known that its caller may do
	// what it asks for: nobody else makes traces. Health checks, scrapes, streams, and what is open
	// to all aren't traced.
	Begin(r *http.Request, came time.Time) Span
}

// Span is that of one request.
type Span interface {
	// Recorded is told that the updates of the request are recorded.
	Recorded(receipt spendflush.Receipt, updates int, began time.Time)
	// End is told how the request was answered, once it is. The route is a pattern such as
	// /v1/updates, "none" where there is none.
	End(method, route string, status int)
	// TraceID returns the id of its trace in hexadecimal.
	TraceID() string
}

// beginSpan has the request traced if requests are.
func (a *API) beginSpan(w *answer, r *http.Request) {
	if a.cfg.Tracer != nil && !w.route.probe && !w.route.stream {
		w.span = a.cfg.Tracer.Begin(r, w.came)
	}
}

// traceRecord begins a record, and returns what is to be told that it has ended well.
func traceRecord(w http.ResponseWriter) (recorded func(spendflush.Receipt, int)) {
	answer, ok := w.(*answer)
	if !ok || answer.span == nil {
		return func(spendflush.Receipt, int) {}
	}
	began := time.Now()
	return func(receipt spendflush.Receipt, updates int) { answer.span.Recorded(receipt, updates, began) }
}

// endSpan ends what beginSpan has begun.
func (w *answer) endSpan(r *http.Request) {
	if w.span != nil {
		w.span.End(shortMethod(r), w.routeName(), w.status)
	}
}

// routeName is the pattern of the route that was asked for.
func (w *answer) routeName() string {
	if w.route == nil {
		return "none"
	}
	return w.route.path
}

// shortMethod is the method, which is the client's to choose.
func shortMethod(r *http.Request) string { return r.Method[:min(len(r.Method), longestMethod)] }

// traceID returns the id of the request's trace: that of its span or, without one, of the
// traceparent that came with it; "" if there is neither.
func (w *answer) traceID(r *http.Request) string {
	if w.span != nil {
		return w.span.TraceID()
	}
	if parent := TraceParent(r.Header); parent.IsValid() {
		return parent.TraceID().String()
	}
	return ""
}

const traceHeader = "Traceparent" // in the form that net/http gives names

// TraceParent returns the span that a traceparent and a tracestate name, as W3C Trace Context has
// them. It isn't valid if there is no traceparent, more than one, or one that the standard refuses.
func TraceParent(h http.Header) trace.SpanContext {
	if len(h[traceHeader]) != 1 {
		return trace.SpanContext{}
	}
	return trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), propagation.HeaderCarrier(h)))
}
