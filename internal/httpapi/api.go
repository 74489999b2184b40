package httpapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/internal/access"
	"github.com/spendflush/spendflush/internal/gate"
	"github.com/spendflush/spendflush/internal/overview"
	"github.com/spendflush/spendflush/internal/quarantine"
	"github.com/spendflush/spendflush/spend"
)

// Recorder takes updates; *spendflush.Pipeline does.
type Recorder interface {
	// RecordAllFor keeps neither the slice nor anything that it refers to.
	RecordAllFor(caller string, updates []spend.Update) (spendflush.Receipt, error)
	RecordOnceFor(caller, key string, updates []spend.Update) (spendflush.Receipt, error)

	Counts(r spendflush.Receipt) spendflush.Counts
	FindID(ctx context.Context, kind spend.FactKind, id string) (spendflush.IDStatus, error)
	Wait(ctx context.Context, r spendflush.Receipt, want spendflush.Stage) (spendflush.Stage, error)
	Held(e spend.Entity) spendflush.Held
	Producer() spend.ProducerID
	Status() spendflush.PipelineStatus
}

// Config says what an API serves. Recorder, Reader and Registry must be set; the zero value of any
// other field stands for its default.
type Config struct {
	Recorder Recorder
	Reader   Reader
	Registry prometheus.Gatherer // for /metrics

	// Overview tells how the whole pipeline stands. nil: it is made of Recorder and Reader, and
	// knows of no queue and no other instance.
	Overview Overview

	// Keys are the bearer tokens that open what holds data, each what its roles allow. nil, or
	// none: everything is open to whoever reaches the listener under a loopback address or as
	// localhost.
	Keys *access.Keys

	// Logger gets failures of this side, who signed in and out, what was settled by whom, and every
	// request at debug level. nil: nothing is logged.
	Logger *slog.Logger

	// Tracer makes traces of requests. nil: none are made.
	Tracer Tracer

	// AccessLog has Logger get one line for every request at info level once it is answered, those
	// of health checks and metrics at debug level; and gives every request an id.
	AccessLog bool

	// Hosts are the names and addresses, without ports, under which requests are answered; loopback
	// ones and localhost are always among them. None: any with Keys, and no others without.
	Hosts []string

	// BasePath stands before the paths of all that is served, such as "/spend": the page is at
	// "/spend/" then. /healthz, /readyz and /metrics are served without it, too. It is one that
	// CleanBasePath returns. Default: "", the root
	BasePath string

	Instance string // name of this process. Default: "instance"
	Version  string // of the program. Default: "devel"

	// Ready says why updates shouldn't be sent here yet, nil if they should. Anybody may read its
	// error: it must hold no secret. nil: always ready.
	Ready func(ctx context.Context) error

	// Refuse says why updates aren't taken at all, nil if they are. Its error is the client's to
	// read. nil: they always are.
	Refuse func() error

	// Denied says what Redis or Postgres refuses this instance for lack of rights, "" if nothing.
	// Updates are taken all the same. Anybody may read it, too. nil: nothing is known.
	Denied func() string

	// Refused says in the words of Redis why it takes no writes of this instance, such as READONLY
	// where it is a replica; "" if it takes them. Updates are taken all the same. nil: it isn't
	// told.
	Refused func() string

	// MaxClients bounds the connections that Listen lets in. One address has half of them at most,
	// unless it is in TrustedProxies, which are believed to tell in X-Forwarded-For where requests
	// come from. Default: 10000.
	MaxClients     int
	TrustedProxies []netip.Prefix

	// One caller has half at most of the memory for bodies, the places for reports and look-ups,
	// and the streams: with several names of Keys each is a caller, else each address is.

	MaxBodyBytes   int64 // of one request. Default: 8 MiB
	MaxBodiesBytes int64 // of all requests being read at once, above the first 32 KiB of each. Default: 128 MiB
	MaxUpdates     int   // of one request. Default: 10000

	// IDWindow is for how long after its commit an id counts no second time, as answers tell it.
	// Default: 36 days, that of a pipeline.
	IDWindow time.Duration

	WaitTimeout time.Duration // how long ?ack waits without ?timeout. Default: 10s
	MaxWait     time.Duration // the most that ?timeout may ask for. Default: 60s

	MaxRows       int           // of one JSON usage report. Default: 10000
	MaxCSVRows    int           // of one CSV usage report. Default: 1000000
	MaxReports    int           // usage reports, audits and top lists at once; more get 503. Default: 4
	ReportTimeout time.Duration // for one of these, or a look-up. Default: 2m

	// How long an HTTP connection may take. IdleTimeout bounds how long it may be without a byte of
	// a request, HeaderTimeout the arrival of a header from its first byte (with Listen only),
	// WriteTimeout an answer, and PieceTimeout each 32 KiB of one that is longer than that.
	// Defaults: 2m, 10s, 60s, 10s.
	IdleTimeout, HeaderTimeout, WriteTimeout, PieceTimeout time.Duration

	// A body must arrive within ReadTimeout. After BodyGrace it must have come at LeastRate, in
	// bytes a second, and it may not be silent for as long as BodyGrace. Defaults: 30s, 5s, 64 KiB.
	ReadTimeout, BodyGrace time.Duration
	LeastRate              int64

	MaxHeaderBytes int // of one request's header, about. Default: 16 KiB
}

func (c Config) withDefaults() Config {
	c.Instance = cmp.Or(c.Instance, "instance")
	c.Version = cmp.Or(c.Version, "devel")
	c.MaxBodyBytes = cmp.Or(c.MaxBodyBytes, 8<<20)
	c.MaxBodiesBytes = cmp.Or(c.MaxBodiesBytes, 128<<20)
	c.MaxUpdates = cmp.Or(c.MaxUpdates, 10_000)
	c.IDWindow = cmp.Or(c.IDWindow, 36*24*time.Hour)
	c.WaitTimeout = cmp.Or(c.WaitTimeout, 10*time.Second)
	c.MaxWait = cmp.Or(c.MaxWait, time.Minute)
	c.MaxRows = cmp.Or(c.MaxRows, 10_000)
	c.MaxCSVRows = cmp.Or(c.MaxCSVRows, 1_000_000)
	c.MaxReports = cmp.Or(c.MaxReports, 4)
	c.ReportTimeout = cmp.Or(c.ReportTimeout, 2*time.Minute)
	c.ReadTimeout = cmp.Or(c.ReadTimeout, 30*time.Second)
	c.WriteTimeout = cmp.Or(c.WriteTimeout, time.Minute)
	c.IdleTimeout = cmp.Or(c.IdleTimeout, 2*time.Minute)
	c.HeaderTimeout = cmp.Or(c.HeaderTimeout, 10*time.Second)
	c.PieceTimeout = cmp.Or(c.PieceTimeout, 10*time.Second)
	c.BodyGrace = cmp.Or(c.BodyGrace, 5*time.Second)
	c.LeastRate = cmp.Or(c.LeastRate, 64<<10)
	c.MaxClients = cmp.Or(c.MaxClients, 10_000)
	c.MaxHeaderBytes = cmp.Or(c.MaxHeaderBytes, 16<<10)
	if c.Logger == nil {
		c.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	return c
}

func (c Config) validate() error {
	var faults []error
	needed := func(name string, missing bool) {
		if missing {
			faults = append(faults, fmt.Errorf("%s: is nil; it is needed", name))
		}
	}
	needed("Recorder", c.Recorder == nil)
	needed("Reader", c.Reader == nil)
	needed("Registry", c.Registry == nil)
	for _, bound := range []struct {
		name  string
		value int64
	}{
		{"MaxBodyBytes", c.MaxBodyBytes}, {"MaxBodiesBytes", c.MaxBodiesBytes}, {"MaxUpdates", int64(c.MaxUpdates)},
		{"WaitTimeout", int64(c.WaitTimeout)}, {"MaxWait", int64(c.MaxWait)}, {"MaxRows", int64(c.MaxRows)},
		{"MaxCSVRows", int64(c.MaxCSVRows)}, {"MaxReports", int64(c.MaxReports)}, {"ReportTimeout", int64(c.ReportTimeout)},
		{"ReadTimeout", int64(c.ReadTimeout)}, {"WriteTimeout", int64(c.WriteTimeout)}, {"IdleTimeout", int64(c.IdleTimeout)},
		{"MaxHeaderBytes", int64(c.MaxHeaderBytes)}, {"HeaderTimeout", int64(c.HeaderTimeout)}, {"PieceTimeout", int64(c.PieceTimeout)},
		{"BodyGrace", int64(c.BodyGrace)}, {"LeastRate", c.LeastRate}, {"MaxClients", int64(c.MaxClients)},
	} {
		if bound.value < 0 {
			faults = append(faults, fmt.Errorf("%s: is negative", bound.name))
		}
	}
	if clean, err := CleanBasePath(c.BasePath); err != nil || clean != c.BasePath {
		faults = append(faults, fmt.Errorf("BasePath: %q is not allowed; allowed is %s, without a slash at its end", c.BasePath, BasePathAllowed))
	}
	if c.WaitTimeout > c.MaxWait {
		faults = append(faults, fmt.Errorf("WaitTimeout: %s is more than MaxWait, %s", c.WaitTimeout, c.MaxWait))
	}
	return errors.Join(faults...)
}

// API is an http.Handler. Make it with New.
type API struct {
	cfg           Config
	log           *slog.Logger
	guesses       *guesses
	signedOut     *signedOut
	signIns       *sessionTurns
	signOuts      *sessionTurns
	routes        *routes
	assets        map[string]asset
	requestBodies sync.Pool // of *intake
	decoders      sync.Pool // of *decoder
	gate          *gate.Gate
	bodies        *memory
	decodes       *places
	spends        *places
	reports       *places
	looks         *places
	streams       *places
	scrapes       *places
	lingers       *places
	traffic       traffic

	draining atomic.Bool  // Drain was called
	active   atomic.Int64 // requests being answered

	ending chan struct{} // closed when a server of it begins to shut down
	end    sync.Once
}

// New returns an API for the configuration. The error joins all that is wrong with it.
func New(c Config) (*API, error) {
	c = c.withDefaults()
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("httpapi: %w", err)
	}
	a := &API{
		cfg: c, log: c.Logger, guesses: newGuesses(c.Logger), signedOut: newSignedOut(c.Reader),
		signIns: newSessionTurns("begin"), signOuts: newSessionTurns("be ended"),
		gate: gate.New(gate.Options{
			Clients: c.MaxClients, Reserve: HealthReserve, HeaderTimeout: c.HeaderTimeout, Trusted: c.TrustedProxies,
		}),
		bodies:  newMemory(c.MaxBodiesBytes),
		decodes: newPlaces(max(leastDecodes, 4*runtime.GOMAXPROCS(0))),
		spends:  newPlaces(maxSpends),
		reports: newPlaces(c.MaxReports),
		looks:   newPlaces(maxLooks),
		streams: newPlaces(maxStreams),
		scrapes: newPlaces(maxScrapes),
		lingers: newPlaces(maxLingers),
		ending:  make(chan struct{}),
	}
	if c.Overview == nil {
		a.cfg.Overview = overview.NewLive(overview.Sources{Books: c.Reader, IDWindow: a.cfg.IDWindow}, c.Recorder, overview.LiveOptions{Version: c.Version, Logger: c.Logger})
	}
	a.requestBodies.New = func() any { return &requestBody{buffer: make([]byte, 0, 4<<10)} }
	a.decoders.New = func() any { return &decoder{maxUpdates: c.MaxUpdates} }
	a.assets = a.placed()
	a.routes = newRoutes(a.cfg.BasePath, a.served())
	return a, nil
}

// served lists all that is served.
func (a *API) served() []*route {
	list := []*route{
		{path: "/v1/updates", role: access.Write, post: a.updates},
		{path: "/v1/spend", role: access.Read, get: a.spendByQuery},
		{path: "/v1/spend/{entity...}", role: access.Read, get: a.spendByPath},
		{path: "/v1/usage", role: access.Read, get: a.usage},
		{path: "/v1/status", role: access.Read, get: a.status},
		{path: "/v1/audit", role: access.Operate, get: a.audit},
		{path: "/v1/pipeline", role: access.Read, get: a.pipeline},
		{path: "/v1/events", role: access.Read, stream: true, get: a.events},
		{path: "/v1/ids", role: access.Read, get: a.idByQuery},
		{path: "/v1/ids/{id}", role: access.Read, get: a.idByPath},
		{path: "/v1/entities", role: access.Read, get: a.entities},
		{path: "/v1/lost-batches", role: access.Read, get: a.lostBatches},
		{path: "/v1/quarantine", role: access.Read, get: a.quarantined},
		{path: "/v1/quarantine/{id}", role: access.Read, get: a.quarantineEntry},
		{path: "/v1/quarantine/{id}/apply", role: access.Operate, post: a.settle("applied", quarantine.Apply)},
		{path: "/v1/quarantine/{id}/drop", role: access.Operate, post: a.settle("dropped", quarantine.Drop)},
		{path: "/v1/session", open: true, get: a.session, post: a.signIn, delete: a.signOut},
		{path: "/metrics", role: access.Read, probe: true, get: a.newScrape(a.scrapes)},
		{path: "/healthz", open: true, unguarded: true, probe: true, get: a.healthz},
		{path: "/readyz", open: true, unguarded: true, probe: true, get: a.readyz},
		{path: "/", open: true, page: true, get: a.asset},
		{path: "/assets/{file...}", open: true, page: true, get: a.asset},
		{path: "/openapi.json", open: true, get: a.asset},
		{path: "/docs", open: true, page: true, get: a.toSlash},
		{path: "/docs/{document...}", open: true, page: true, get: a.document},
	}
	if a.cfg.BasePath != "" {
		list = append(list, &route{path: "", open: true, page: true, get: a.toSlash})
	}
	return list
}

const (
	maxSpends  = 16 // spend look-ups at once; each walks over what is open
	maxLooks   = 16 // look-ups by an index at once, which slow reports must not keep out: an operator types, or mends the books
	maxScrapes = 4

	leastDecodes = 16 // bodies above 1 KiB decoded at once, or four for each processor if that is more

	// HealthReserve is how many connections Listen lets in above MaxClients. They serve health
	// checks only.
	HealthReserve = 16
)

// ServeHTTP answers one request.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	answer := &answer{ResponseWriter: w, takesGzip: takesGzip(r.Header), pieceTimeout: a.cfg.PieceTimeout, came: start}
	defer func() {
		a.traffic.answered(answer.status)
		answer.endSpan(r)
		a.logAccess(answer, r)
	}()
	a.identify(answer, r)
	if r.ContentLength != 0 { // else net/http watches already whether the client leaves, which must not end
		answer.body.ReadCloser, r.Body = r.Body, &answer.body
		_ = http.NewResponseController(w).SetReadDeadline(start.Add(min(a.cfg.BodyGrace, a.cfg.ReadTimeout)))
	}
	a.respond(answer, r)
	a.linger(answer, r)
}

// respond gives the answer. AwaitAnswers waits for it, and not for what still comes of the body
// after it.
func (a *API) respond(answer *answer, r *http.Request) {
	a.active.Add(1)
	defer a.active.Add(-1)
	defer a.recoverPanic(answer, r)
	protect(answer.Header())
	if a.draining.Load() {
		answer.Header()["Connection"] = closes
	}
	p := a.inReserve(answer, r)
	if p == nil {
		p = a.serve(answer, r)
	}
	if p != nil {
		a.fail(answer, r, p)
		if p.isUnheard(r) {
			answer.status = statusUnheard
		}
	}
}

// work has the gate keep the connection until the request is answered. Before that, and on routes
// that are open, the request is that of anybody. If the connection was closed a moment ago, the
// request ends here: its caller could not learn what became of it.
func work(r *http.Request) {
	if conn := gate.Of(r.Context()); conn != nil && !conn.Work() {
		panic(http.ErrAbortHandler)
	}
}

// inReserve refuses all but health checks on a connection above MaxClients, which is closed after
// the answer.
func (a *API) inReserve(w http.ResponseWriter, r *http.Request) *problem {
	if !a.gate.Reserved() {
		return nil
	}
	if conn := gate.Of(r.Context()); conn == nil || !conn.InReserve() {
		return nil
	}
	w.Header()["Connection"] = closes
	if found := a.routes.find(r); found != nil && found.unguarded {
		return nil
	}
	p := busy.because("%d connections are at work, which is as many as are at once; nothing was done", a.cfg.MaxClients)
	p.retryAfter = retrySoon
	return p
}

var (
	noSniff    = []string{"nosniff"}
	noStore    = []string{"no-store"}
	sameOrigin = []string{"same-origin"}
	closes     = []string{"close"}
)

// protect sets what all answers tell browsers: pages of other sites get nothing of them.
func protect(h http.Header) {
	h["X-Content-Type-Options"] = noSniff
	h["Cache-Control"] = noStore
	h["Cross-Origin-Resource-Policy"] = sameOrigin
}

func (a *API) serve(w *answer, r *http.Request) *problem {
	found := a.routes.find(r)
	w.route = found
	if found == nil || !found.unguarded {
		if p := a.guard(found, r); p != nil {
			return p
		}
	}
	if found == nil || !found.open {
		var p *problem
		if w.from, p = a.authenticate(r); p != nil {
			return p
		}
		if found != nil {
			if p := a.authorize(found, w.from); p != nil {
				return p
			}
			work(r)
			a.beginSpan(w, r)
		}
	}
	if found == nil {
		return notFound.because("nothing is served at %.200q", r.URL.Path)
	}
	do, allow := found.of(r.Method)
	switch {
	case do != nil:
		return do(w, r)
	case r.Method == http.MethodOptions:
		w.Header().Set("Allow", allow)
		w.WriteHeader(http.StatusNoContent)
		return nil
	default:
		return methodNotAllowed.because("%.20s is not allowed here; allowed are %s", r.Method, allow).with("Allow", allow)
	}
}

// recoverPanic turns a panic into a problem, or cuts the connection if the answer has begun.
func (a *API) recoverPanic(w *answer, r *http.Request) {
	reason := recover()
	if reason == nil {
		return
	}
	if reason == http.ErrAbortHandler {
		panic(reason)
	}
	p := internalError.because("the log of the instance says more")
	p.cause = panicError(reason)
	if w.status != 0 {
		a.log.Error("request failed halfway", "method", r.Method, "path", r.URL.Path, "error", p.cause, "request_id", w.requestID)
		panic(http.ErrAbortHandler)
	}
	clear(w.Header())
	protect(w.Header())
	a.fail(w, r, p)
}
