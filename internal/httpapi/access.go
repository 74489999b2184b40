package httpapi

import (
	"context"
	"log/slog"
	"net/http"
	"time"
)

const (
	requestIDHeader = "X-Request-Id" // in the form that net/http gives names
	maxRequestID    = 128            // bytes of one that is taken up
	longestMethod   = 20             // bytes of a method in the access log
)

// requestIDOf returns the id that the client or a proxy gave the request, "" if it gave none that
// can be taken up.
func requestIDOf(h http.Header) string {
	given := h[requestIDHeader]
	if len(given) != 1 || len(given[0]) > maxRequestID {
		return ""
	}
	for _, c := range []byte(given[0]) {
		if c <= ' ' || c >= 0x7f {
			return ""
		}
	}
	return given[0]
}

// identify gives the request its id, and tells the client. With the access log every request has
// one.
func (a *API) identify(w *answer, r *http.Request) {
	id := requestIDOf(r.Header)
	if id == "" && a.cfg.AccessLog {
		id = newUUID()
	}
	if id != "" {
		w.requestID = id
		w.Header()[requestIDHeader] = []string{id}
	}
}

// logAccess writes the line of a request whose answer has ended, if it is to be written.
func (a *API) logAccess(w *answer, r *http.Request) {
	ctx := context.WithoutCancel(r.Context())
	if !a.cfg.AccessLog {
		if a.log.Enabled(ctx, slog.LevelDebug) {
			a.log.Debug("request", "method", r.Method, "path", r.URL.Path, "status", w.status, "bytes", w.bytes,
				"took", time.Since(w.came), "remote", r.RemoteAddr)
		}
		return
	}
	level := slog.LevelInfo
	if w.route != nil && w.route.probe {
		level = slog.LevelDebug
	}
	if !a.log.Enabled(ctx, level) {
		return
	}
	attrs := [9]slog.Attr{
		slog.String("method", shortMethod(r)), slog.String("route", w.routeName()), slog.Int("status", w.status), slog.Int64("bytes", w.bytes),
		slog.Float64("seconds", time.Since(w.came).Seconds()), slog.String("remote", a.clientOf(r).String()),
		slog.String("token", w.from.name()), slog.String("request_id", w.requestID),
	}
	n := len(attrs) - 1
	if id := w.traceID(r); id != "" {
		attrs[n] = slog.String("trace_id", id)
		n++
	}
	a.log.LogAttrs(ctx, level, "request", attrs[:n]...)
}
