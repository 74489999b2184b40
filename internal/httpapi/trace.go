package httpapi

import (
	"net/http"
	"time"

	"github.com/spendflush/spendflush"
)

// Tracer makes traces of requests. It is called by many goroutines at a time, and must not block.
type Tracer interface {
	// Begin is told of a request that came at that time, once it is known that its caller may do what it asks for: nobody else
	// makes traces. Health checks, scrapes, streams, and what is open to all aren't traced.
	Begin(r *http.Request, came time.Time) Span
}

// Span is that of one request.
type Span interface {
	// Recorded is told that the updates of the request are recorded.
	Recorded(receipt spendflush.Receipt, updates int, began time.Time)
	// End is told how the request was answered, once it is. The route is a pattern such as /v1/updates, "none" where there is none.
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

// traceID returns the id of the request's trace: that of its span or, without one, of the traceparent that came with it; "" if
// there is neither.
func (w *answer) traceID(r *http.Request) string {
	if w.span != nil {
		return w.span.TraceID()
	}
	return traceOf(r.Header)
}

const (
	traceHeader   = "Traceparent" // in the form that net/http gives names
	traceIDLength = 32
	// 00-<trace id>-<id of the parent>-<flags>, as W3C Trace Context has it. Later versions may add to its end.
	traceLength = 2 + 1 + traceIDLength + 1 + 16 + 1 + 2
)

// traceOf returns the id of the trace that a traceparent names, "" if there is none or one of another form.
func traceOf(h http.Header) string {
	given := h[traceHeader]
	if len(given) != 1 || len(given[0]) < traceLength || len(given[0]) > traceLength && (given[0][:2] == "00" || given[0][traceLength] != '-') {
		return ""
	}
	text := given[0][:traceLength]
	zero := true
	for i, c := range []byte(text) {
		switch hyphen := i == 2 || i == 3+traceIDLength || i == traceLength-3; {
		case hyphen != (c == '-'), !hyphen && (c < '0' || c > '9') && (c < 'a' || c > 'f'):
			return ""
		case i >= 3 && i < 3+traceIDLength && c != '0':
			zero = false
		}
	}
	if zero || text[:2] == "ff" {
		return ""
	}
	return text[3 : 3+traceIDLength]
}
