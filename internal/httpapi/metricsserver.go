package httpapi

import (
	"log/slog"
	"net"
	"net/http"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/spendflush/spendflush/internal/gate"
)

// MetricsConnections is how many connections the listener of a MetricsServer has open at most. One
// address has half of them at most. None is ever at work to the gate, as nobody says who asks: one
// more always takes the place of another.
const MetricsConnections = 64

// MetricsServer returns a server that serves /metrics alone, to whoever reaches the listener,
// without a token, and the listener that it is to serve, which bounds its connections. A listener
// on a loopback address answers under loopback names and Config.Hosts only, so that no site can
// have its name stand for that address.
//
// The deadlines are those of the API. What it answers counts among the answers of the API.
func (a *API) MetricsServer(l net.Listener) (*http.Server, net.Listener) {
	bounds := gate.New(gate.Options{Clients: MetricsConnections, HeaderTimeout: a.cfg.HeaderTimeout})
	server := a.newServer(a.metricsHandler(isLoopback(l.Addr().String())), bounds)
	server.ReadTimeout = a.cfg.ReadTimeout
	return server, bounds.Listen(l)
}

// metricsHandler serves /metrics alone. local: the listener is one that only this machine can
// reach.
func (a *API) metricsHandler(local bool) http.Handler {
	scrape := a.newScrape(newPlaces(maxScrapes))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := &answer{ResponseWriter: w, pieceTimeout: a.cfg.PieceTimeout}
		defer func() { a.traffic.answered(answer.status) }()
		defer a.recoverPanic(answer, r)
		protect(answer.Header())
		p := a.refuseScrape(r, local)
		if p == nil {
			p = scrape(answer, r)
		}
		if p != nil {
			a.fail(answer, r, p)
		}
	})
}

// refuseScrape says why the request gets no metrics, nil if it gets them.
func (a *API) refuseScrape(r *http.Request, local bool) *problem {
	switch {
	case local && !a.isOwnHost(r.Host):
		return unknownHost.because("Host is %.100q; only localhost, loopback addresses and the hosts of SPENDFLUSH_HOSTS are served", r.Host)
	case isOfAnotherSite(r):
		return crossOrigin.because("a page of another origin may not send %.20s requests here", r.Method)
	case r.URL.EscapedPath() != "/metrics":
		return notFound.because("nothing is served at %.200q; this listener has /metrics alone", r.URL.Path)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		const allow = "GET, HEAD"
		return methodNotAllowed.because("%.20s is not allowed here; allowed are %s", r.Method, allow).with("Allow", allow)
	}
	return nil
}

// newScrape returns what answers a scrape, as many at once as there are places. One caller has half
// of them at most: it may take nothing of its answers, and must not keep Prometheus out by that.
func (a *API) newScrape(scrapes *places) endpoint {
	handler := promhttp.HandlerFor(a.cfg.Registry, promhttp.HandlerOpts{
		ErrorLog:          slog.NewLogLogger(a.log.Handler(), slog.LevelWarn),
		EnableOpenMetrics: true, // for who asks for it: exemplars need it
	})
	return func(w http.ResponseWriter, r *http.Request) *problem {
		who := a.partyOf(w, r)
		if p := scrapes.take(r.Context(), who); p != nil {
			return p
		}
		defer scrapes.give(who)
		handler.ServeHTTP(w, r)
		return nil
	}
}
