package httpapi

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/spendflush/spendflush/internal/gate"
)

// Listen returns a listener that bounds the connections of the server, as Config.MaxClients says.
func (a *API) Listen(l net.Listener) net.Listener { return a.gate.Listen(l) }

// Server returns a server for the API with all its deadlines set. It doesn't listen yet; Listen
// makes the listener to serve. Once it shuts down, streams of this API end.
func (a *API) Server(addr string) *http.Server {
	server := a.newServer(a, a.gate)
	server.Addr = addr
	server.RegisterOnShutdown(func() { a.end.Do(func() { close(a.ending) }) })
	return server
}

// newServer returns a server with the deadlines of the API, for a listener of the gate.
func (a *API) newServer(handler http.Handler, bounds *gate.Gate) *http.Server {
	return &http.Server{
		Handler: handler,
		// Clients open connections ahead: Go's keeps one that it dialled and then didn't need.
		// net/http counts these deadlines from the dial, so that a short one hangs up on such a
		// connection, maybe in the face of a request that takes it up at last, whose sender can't
		// know whether it was recorded. The gate bounds the time from the first byte, and ServeHTTP
		// the body.
		ReadHeaderTimeout: a.cfg.IdleTimeout,
		WriteTimeout:      a.cfg.WriteTimeout,
		IdleTimeout:       a.cfg.IdleTimeout,
		MaxHeaderBytes:    a.cfg.MaxHeaderBytes,
		ConnState:         bounds.ConnState,
		ConnContext:       bounds.ConnContext,
		ErrorLog:          slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
	}
}

// Drain has clients and balancers go elsewhere, before a server of this API is shut down: from now
// on /readyz says 503, and every answer closes its connection. Everything is served as before. It
// may be called more than once.
func (a *API) Drain() { a.draining.Store(true) }

// AwaitAnswers blocks until no request is being answered, or ctx ends. Connections without one
// don't count.
func (a *API) AwaitAnswers(ctx context.Context) {
	const poll = 10 * time.Millisecond // as net/http's Shutdown
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for a.active.Load() > 0 {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
