package httpapi

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/spendflush/spendflush/internal/docpages"
	"github.com/spendflush/spendflush/spend"
)

// problemType is a type of problem as clients know it: the slug ends its URI, which leads to a
// section of docs/api.md, and never changes its meaning.
type problemType struct {
	slug   string
	title  string
	status int
}

var (
	invalidRequest       = problemType{"invalid-request", "The request is not valid", http.StatusBadRequest}
	invalidJSON          = problemType{"invalid-json", "The body is not valid JSON", http.StatusBadRequest}
	invalidUpdate        = problemType{"invalid-update", "An update is not valid", http.StatusBadRequest}
	noUpdates            = problemType{"no-updates", "There are no updates", http.StatusBadRequest}
	tooManyRows          = problemType{"too-many-rows", "The report is too long", http.StatusBadRequest}
	unauthorized         = problemType{"unauthorized", "A valid token is needed", http.StatusUnauthorized}
	missingRole          = problemType{"missing-role", "The token lacks a role", http.StatusForbidden}
	crossOrigin          = problemType{"cross-origin", "A page of another origin sent this", http.StatusForbidden}
	unknownHost          = problemType{"unknown-host", "The host is not served here", http.StatusForbidden}
	proxied              = problemType{"proxied", "The request came through a proxy", http.StatusForbidden}
	notFound             = problemType{"not-found", "Not found", http.StatusNotFound}
	methodNotAllowed     = problemType{"method-not-allowed", "The method is not allowed", http.StatusMethodNotAllowed}
	requestTimeout       = problemType{"request-timeout", "The request came too slowly", http.StatusRequestTimeout}
	alreadySettled       = problemType{"already-settled", "The entry is settled already", http.StatusConflict}
	notApplied           = problemType{"not-applied", "The entry can't be applied", http.StatusConflict}
	contentTooLarge      = problemType{"content-too-large", "The request is too large", http.StatusRequestEntityTooLarge}
	unsupportedMediaType = problemType{"unsupported-media-type", "The media type is not supported", http.StatusUnsupportedMediaType}
	idReused             = problemType{"id-reused", "The id was given to another content", http.StatusUnprocessableEntity}
	tooManyGuesses       = problemType{"too-many-guesses", "Too many wrong tokens", http.StatusTooManyRequests}
	tooManySessions      = problemType{"too-many-sessions", "Too many sessions begin or end", http.StatusTooManyRequests}
	tooManyNewKeys       = problemType{"too-many-new-keys", "Too many new keys", http.StatusTooManyRequests}
	internalError        = problemType{"internal-error", "Something went wrong in here", http.StatusInternalServerError}
	databaseRefuses      = problemType{"database-refuses", "The database refuses the question", http.StatusInternalServerError}
	bufferFull           = problemType{"buffer-full", "The buffer is full", http.StatusServiceUnavailable}
	shuttingDown         = problemType{"shutting-down", "This instance is shutting down", http.StatusServiceUnavailable}
	busy                 = problemType{"busy", "Too much is asked at once", http.StatusServiceUnavailable}
	notReady             = problemType{"not-ready", "This instance is not ready", http.StatusServiceUnavailable}
	databaseUnavailable  = problemType{"database-unavailable", "The database can't be asked", http.StatusServiceUnavailable}
	waitEnded            = problemType{"wait-ended", "The updates are recorded, but the wait ended", http.StatusGatewayTimeout}
)

// problem is why a request fails, as RFC 9457 writes it.
type problem struct {
	Type     string  `json:"type"`
	Title    string  `json:"title"`
	Status   int     `json:"status"`
	Detail   string  `json:"detail,omitempty"`
	Instance string  `json:"instance"`             // names this one occurrence; the log has it too
	Request  string  `json:"request_id,omitempty"` // the id of the request, also in X-Request-Id
	Errors   []fault `json:"errors,omitempty"`     // of invalid-json, invalid-update and id-reused

	// Role and Roles are of missing-role: the role that is needed, and those that the token has.
	Role  string   `json:"role,omitempty"`
	Roles []string `json:"roles,omitempty"`

	// Updates and Reached are of wait-ended.
	Updates int    `json:"updates,omitempty"`
	Reached string `json:"reached,omitempty"`

	header     http.Header   // to be sent along
	retryAfter time.Duration // 0: it doesn't help to come again
	cause      error         // for the log only
}

func (t problemType) because(format string, args ...any) *problem {
	return &problem{Type: docpages.URL("api", t.slug), Title: t.title, Status: t.status, Detail: fmt.Sprintf(format, args...)}
}

func (p *problem) with(name, value string) *problem {
	if p.header == nil {
		p.header = http.Header{}
	}
	p.header.Add(name, value)
	return p
}

// fail answers with the problem. Failures of this side are logged, with the same name of the
// occurrence.
func (a *API) fail(w *answer, r *http.Request, p *problem) {
	id := newUUID()
	p.Type, p.Instance = a.docsURL(p.Type), "urn:uuid:"+id
	if w.requestID == "" {
		w.requestID = id
	}
	p.Request = w.requestID
	if level, ok := p.logLevel(); ok && !p.isUnheard(r) {
		a.log.Log(r.Context(), level, "request failed", "method", r.Method, "path", r.URL.Path, "status", p.Status,
			"detail", p.Detail, "error", p.cause, "occurrence", p.Instance, "request_id", p.Request)
	}
	h := w.Header()
	h[requestIDHeader] = []string{p.Request}
	for name, values := range p.header {
		h[name] = values
	}
	if p.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int((p.retryAfter+time.Second-1)/time.Second)))
	}
	writeJSON(w, "application/problem+json", p.Status, p)
}

// logLevel says how loud the problem is. What the client did wrong, and a full buffer, which has
// its own metric, are not for the log: a client could flood it.
func (p *problem) logLevel() (slog.Level, bool) {
	switch {
	case p.Status == http.StatusInternalServerError:
		return slog.LevelError, true
	case p.Status >= 500 && p.cause != nil:
		return slog.LevelWarn, true
	default:
		return 0, false
	}
}

// isUnheard says whether the client left before it was answered: then what failed did so because of
// that, and nothing is wrong on this side. A panic is, whoever is there to see it.
func (p *problem) isUnheard(r *http.Request) bool {
	return p.Status > http.StatusInternalServerError && r.Context().Err() != nil
}

// statusUnheard is what such a request counts as in the metrics. Others call it 499, too.
const statusUnheard = 499

// writeJSON answers with v, whose type must be one that can't fail to be written.
func writeJSON(w http.ResponseWriter, contentType string, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("httpapi: a %T can't be written as JSON: %v", v, err))
	}
	writeBody(w, contentType, status, append(body, '\n'))
}

// writeBody answers with the body, compressed if that is worth it and the client takes it.
func writeBody(w http.ResponseWriter, contentType string, status int, body []byte) {
	body = compressed(w, body)
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if _, err := w.Write(body); err != nil && len(body) > pieceBytes {
		panic(http.ErrAbortHandler) // half of it was sent; the client is gone, or takes nothing
	}
}

// newUUID returns a random UUID (version 4).
func newUUID() string {
	var id spend.ProducerID // for its text
	_, _ = rand.Read(id[:]) // never fails
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return id.String()
}
