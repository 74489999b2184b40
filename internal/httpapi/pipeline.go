package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/spendflush/spendflush/internal/overview"
)

// Overview tells how the whole pipeline stands; *overview.Live does.
type Overview interface {
	Report(ctx context.Context) (*overview.Report, error) // the error is ctx's
}

// pipeline tells how all instances, the queue and Postgres stand. It answers with any of them away.
func (a *API) pipeline(w http.ResponseWriter, r *http.Request) *problem {
	if _, p := params(r); p != nil {
		return p
	}
	ctx, cancel := context.WithTimeout(r.Context(), pipelineTimeout)
	defer cancel()
	report, err := a.cfg.Overview.Report(ctx)
	if err != nil {
		return a.tooSlow()
	}
	writeJSON(w, "application/json", http.StatusOK, report)
	return nil
}

func (a *API) tooSlow() *problem {
	p := busy.because("how everything stands could not be found out in time")
	p.retryAfter = retrySoon
	return p
}

const (
	pipelineTimeout = 3 * overview.Timeout // the look of another request may have to end first

	maxStreams  = 64
	streamEvery = time.Second
	heartEvery  = 15               // events between two comments
	streamFor   = 15 * time.Minute // then the client connects again, and its right to is looked at anew
)

// events sends how everything stands at once and then every second, until the client leaves or
// signs out, its token is removed or has other roles, the server shuts down, or streamFor is over.
func (a *API) events(w http.ResponseWriter, r *http.Request) *problem {
	if _, p := params(r); p != nil {
		return p
	}
	who := a.partyOf(w, r)
	if !a.streams.tryTake(who) {
		p := busy.because("%d streams are open, or %d of yours, which is as many as are at once", a.streams.size, a.streams.each)
		p.retryAfter = retryLater
		return p
	}
	defer a.streams.give(who)
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no") // a proxy must not gather events
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return nil
	}
	ctx, cancel := context.WithTimeout(r.Context(), streamFor)
	defer cancel()
	ticker := time.NewTicker(streamEvery)
	defer ticker.Stop()
	s := stream{w: w, timeout: a.cfg.WriteTimeout}
	s.send("retry: 2000\n\n")
	for n := 0; s.err == nil; n++ {
		report, err := a.cfg.Overview.Report(ctx)
		if err != nil {
			break // the client left, or its time is over
		}
		text, err := json.Marshal(report)
		if err != nil {
			panic(fmt.Sprintf("httpapi: a report can't be written as JSON: %v", err))
		}
		s.send("event: pipeline\ndata: " + string(text) + "\n\n")
		if n%heartEvery == 0 {
			s.send(": alive\n\n")
		}
		select {
		case <-ticker.C:
			if !a.isStillWelcome(w, r) {
				return nil
			}
		case <-ctx.Done():
			return nil
		case <-a.ending:
			return nil
		}
	}
	return nil
}

// isStillWelcome says whether the token that a stream was opened with is in the list, with the same
// roles, and the session goes on.
func (a *API) isStillWelcome(w http.ResponseWriter, r *http.Request) bool {
	keys := a.cfg.Keys.Now()
	if keys.Len() == 0 {
		return true
	}
	if !keys.Has(callerOf(w).token) {
		return false
	}
	if len(r.Header["Authorization"]) > 0 {
		return true
	}
	_, p := a.sessionOf(r)
	return p == nil
}

// stream sends events. Each gets a new deadline.
type stream struct {
	w       http.ResponseWriter
	timeout time.Duration
	err     error // of the client's connection
}

func (s *stream) send(text string) {
	c := http.NewResponseController(s.w)
	_ = c.SetWriteDeadline(time.Now().Add(s.timeout)) // an error means that there is no connection, as in a test
	if _, s.err = s.w.Write([]byte(text)); s.err == nil {
		s.err = c.Flush()
	}
}
