package httpapi

import (
	"context"
	"net/http"
	"time"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/sql/pgstore"
)

// statusTimeout is how long the status waits for the database.
const statusTimeout = 2 * time.Second

// instanceStatus is the answer to GET /v1/status.
type instanceStatus struct {
	Version string    `json:"version"`
	Now     time.Time `json:"now"`
	spendflush.PipelineStatus
	IDWindow int64           `json:"id_window_seconds"` // for how long after its commit an id counts no second time
	Database string          `json:"database"`          // ok or unavailable
	Books    *pgstore.Counts `json:"books,omitempty"`   // what the database has
}

// status tells how this instance stands. It answers with the database away as well.
func (a *API) status(w http.ResponseWriter, r *http.Request) *problem {
	if _, p := params(r); p != nil {
		return p
	}
	ctx, cancel := context.WithTimeout(r.Context(), statusTimeout)
	defer cancel()
	s := instanceStatus{
		Version: a.cfg.Version, Now: time.Now().UTC(), PipelineStatus: a.cfg.Recorder.Status(), Database: "ok",
		IDWindow: int64(a.cfg.IDWindow.Seconds()),
	}
	if books, err := a.cfg.Reader.Counts(ctx); err == nil {
		s.Books = &books
	} else {
		if r.Context().Err() == nil { // else the client has left
			a.log.Warn("the status can't read the database", "error", err)
		}
		s.Database = "unavailable"
	}
	writeJSON(w, "application/json", http.StatusOK, s)
	return nil
}

// begin waits for one of the places and gives the answer the time of a report. end must be called
// after it.
func (a *API) begin(places *places, w http.ResponseWriter, r *http.Request) (ctx context.Context, end func(), p *problem) {
	who := a.partyOf(w, r)
	if p := places.take(r.Context(), who); p != nil {
		return nil, nil, p
	}
	a.extend(w, a.cfg.ReportTimeout)
	ctx, cancel := context.WithTimeout(r.Context(), a.cfg.ReportTimeout)
	h := &holding{who: who, cancel: cancel, conn: http.NewResponseController(w)}
	places.watch(h)
	if answer, ok := w.(*answer); ok {
		answer.holding = h
	}
	return ctx, func() {
		cancel()
		places.unwatch(h)
		places.give(who)
	}, nil
}

// audit tells whether the books add up. It answers 200 either way: the question was answered.
func (a *API) audit(w http.ResponseWriter, r *http.Request) *problem {
	if _, p := params(r); p != nil {
		return p
	}
	ctx, end, p := a.begin(a.reports, w, r)
	if p != nil {
		return p
	}
	defer end()
	start := time.Now()
	report, err := a.cfg.Reader.Audit(ctx)
	if err != nil {
		return databaseProblem(err)
	}
	writeJSON(w, "application/json", http.StatusOK, auditAnswer{report, time.Since(start).Seconds()})
	return nil
}

// auditAnswer is the answer to GET /v1/audit.
type auditAnswer struct {
	pgstore.AuditReport
	Took float64 `json:"took_seconds"`
}

// healthz says that the process lives.
func (a *API) healthz(w http.ResponseWriter, _ *http.Request) *problem {
	writeBody(w, "application/json", http.StatusOK, []byte("{\"status\":\"ok\"}\n"))
	return nil
}

// readyz says whether updates should be sent here.
func (a *API) readyz(w http.ResponseWriter, r *http.Request) *problem {
	if a.draining.Load() {
		p := notReady.because("this instance is stopping")
		p.retryAfter = retryLater
		return p
	}
	if a.cfg.Ready != nil {
		ctx, cancel := context.WithTimeout(r.Context(), statusTimeout)
		defer cancel()
		if err := a.cfg.Ready(ctx); err != nil {
			p := notReady.because("%v", err)
			p.retryAfter = retrySoon
			return p
		}
	}
	var body struct {
		Status  string `json:"status"`
		Denied  string `json:"denied,omitempty"`
		Refused string `json:"refused,omitempty"`
	}
	body.Status = "ready"
	if a.cfg.Denied != nil {
		body.Denied = a.cfg.Denied()
	}
	if a.cfg.Refused != nil {
		body.Refused = a.cfg.Refused()
	}
	writeJSON(w, "application/json", http.StatusOK, &body)
	return nil
}
