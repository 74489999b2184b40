package httpapi

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/spend"
)

const (
	retrySoon  = time.Second // until what is full has been emptied
	retryDay   = 10 * time.Minute
	retryLater = 5 * time.Second // until an operator has another instance ready, or the database back
)

// updates records the updates in the body, all or none.
func (a *API) updates(w http.ResponseWriter, r *http.Request) *problem {
	want, wait, p := a.ackOf(r)
	if p != nil {
		return p
	}
	form, p := formatOf(r.Header)
	if p != nil {
		return p
	}
	if a.cfg.Refuse != nil {
		if err := a.cfg.Refuse(); err != nil {
			p := notReady.because("nothing was recorded: %v", err)
			p.retryAfter = retryLater
			return p
		}
	}
	key, p := idempotencyKey(r.Header)
	if p != nil {
		return p
	}
	recorded, p := a.record(w, r, form, key)
	if p != nil {
		return p
	}
	if want == spendflush.Accepted {
		a.writeRecorded(w, http.StatusAccepted, recorded, spendflush.Accepted)
		return nil
	}
	a.extend(w, wait)
	ctx, cancel := context.WithTimeout(r.Context(), wait)
	defer cancel()
	reached, err := a.cfg.Recorder.Wait(ctx, recorded.receipt, want)
	if err != nil {
		return waitProblem(err, wait, want, reached, recorded)
	}
	a.writeRecorded(w, http.StatusOK, recorded, reached)
	return nil
}

// recorded is what a request has recorded.
type recorded struct {
	receipt    spendflush.Receipt
	updates    int
	hasIDs     bool // at least one of the updates has one, or the request
	repeatable bool // all of them have
}

// ackOf reads ?ack and ?timeout: the stage to wait for, and how long.
func (a *API) ackOf(r *http.Request) (want spendflush.Stage, wait time.Duration, p *problem) {
	query, p := params(r, "ack", "timeout")
	if p != nil {
		return 0, 0, p
	}
	want = spendflush.Accepted
	if query.Has("ack") {
		switch ack := query.Get("ack"); ack {
		case spendflush.Accepted.String():
		case spendflush.Queued.String():
			want = spendflush.Queued
		case spendflush.Committed.String():
			want = spendflush.Committed
		default:
			return 0, 0, invalidRequest.because("ack is %.40q; allowed are accepted, queued and committed", ack)
		}
	}
	wait = a.cfg.WaitTimeout
	if query.Has("timeout") {
		var err error
		text := query.Get("timeout")
		wait, err = time.ParseDuration(text)
		switch {
		case want == spendflush.Accepted:
			return 0, 0, invalidRequest.because("timeout needs ack=queued or ack=committed")
		case err != nil || wait <= 0 || wait > a.cfg.MaxWait:
			return 0, 0, invalidRequest.because("timeout is %.40q; allowed are durations up to %s, such as 500ms or 10s", text, a.cfg.MaxWait)
		}
	}
	return want, wait, nil
}

// record reads, decodes and records the updates of the body, once if there is a key. Its buffers
// are free again when it returns, so that a wait holds none.
func (a *API) record(w http.ResponseWriter, r *http.Request, form format, key string) (done recorded, p *problem) {
	in := a.requestBodies.Get().(*requestBody)
	defer a.putBody(in)
	body, p := a.read(in, w, r)
	if p != nil {
		return recorded{}, p
	}
	d, end, p := a.beginDecoding(w, r, len(body))
	if p != nil {
		return recorded{}, p
	}
	defer end()
	if err := d.decode(body, form); err != nil {
		return recorded{}, contentTooLarge.because("there are more than %d updates; nothing was recorded, send them in parts", a.cfg.MaxUpdates)
	}
	n := len(d.updates)
	switch {
	case len(d.faults) > 0:
		return recorded{}, d.problem(nil)
	case n == 0:
		return recorded{}, noUpdates.because("the body holds no update")
	}

	ids := withIDs(d.updates)
	done = recorded{updates: n, hasIDs: key != "" || ids > 0, repeatable: key != "" || ids == n}
	trace := traceRecord(w)
	var err error
	if key != "" {
		done.receipt, err = a.cfg.Recorder.RecordOnceFor(a.shareOf(w, r), key, d.updates)
	} else {
		done.receipt, err = a.cfg.Recorder.RecordAllFor(a.shareOf(w, r), d.updates)
	}
	if err != nil {
		return recorded{}, d.recordProblem(err)
	}
	trace(done.receipt, n)
	if token := callerOf(w).token; token != nil {
		token.AddBooked(int64(n))
	}
	return done, nil
}

// recordProblem makes a problem of an error of RecordAllFor.
func (d *decoder) recordProblem(err error) *problem {
	if refused, ok := errors.AsType[*spend.UpdateError](err); ok {
		return d.problem(refused)
	}
	if p := idProblem(err); p != nil {
		return p
	}
	switch {
	case errors.Is(err, spendflush.ErrDayFull):
		p := tooManyNewKeys.because("this caller has brought as many new keys as it may in a day; nothing was recorded; known keys are taken")
		p.retryAfter = retryDay
		return p
	case errors.Is(err, spendflush.ErrShareFull):
		p := tooManyNewKeys.because("too many new keys of this caller wait to be written; nothing was recorded, send it again later")
		p.retryAfter = retrySoon
		return p
	case errors.Is(err, spendflush.ErrBufferFull):
		p := bufferFull.because("too many distinct keys wait to be written; nothing was recorded, send it again later")
		p.retryAfter = retrySoon
		return p
	case errors.Is(err, spendflush.ErrClosed):
		p := shuttingDown.because("nothing was recorded; send it to another instance")
		p.retryAfter = retryLater
		return p
	}
	p := internalError.because("nothing was recorded; the log of the instance says more")
	p.cause = err
	return p
}

// problem lists what is wrong with the updates: what the decoder has found, and what the root says
// of the others. refused is what RecordAllFor said, nil if it wasn't asked.
func (d *decoder) problem(refused *spend.UpdateError) *problem {
	known := len(d.faults)
	for i := range d.updates {
		if d.bad[i] {
			continue
		}
		if len(d.faults)-known == maxFaults { // later ones aren't told
			break
		}
		if r, ok := errors.AsType[*spend.UpdateError](d.updates[i].Check(i)); ok {
			d.refuseUpdate(r)
		}
	}
	if len(d.faults) == 0 { // a time at the edge of its bounds, and the clock has moved on since
		d.refuseUpdate(refused)
	}
	slices.SortStableFunc(d.faults, func(a, b fault) int { return a.Index - b.Index })
	found := len(d.faults)
	faults := slices.Clone(d.faults[:min(found, maxFaults)])
	kind := invalidUpdate
	if d.broken {
		kind = invalidJSON
	}
	first := faults[0]
	if first.Field != "" {
		first.Field += ": "
	}
	p := kind.because("nothing was recorded; update %d: %s%s", first.Index, first.Field, first.Detail)
	if found >= maxFaults {
		p.Detail += "; the first " + strconv.Itoa(maxFaults) + " faults are listed"
	}
	p.Errors = faults
	return p
}

func (d *decoder) refuseUpdate(r *spend.UpdateError) {
	d.faults = append(d.faults, fault{Index: r.Index, Field: r.Field, Detail: r.Reason})
}

func waitProblem(err error, wait time.Duration, want, reached spendflush.Stage, r recorded) *problem {
	why := "within " + wait.String()
	if errors.Is(err, spendflush.ErrClosed) {
		why = "before this instance stopped"
	}
	then := "do not send them again, they would count twice"
	switch {
	case r.repeatable:
		then = "send them again, to any instance, until an answer says so; they count once"
	case r.hasIDs:
		then = "do not send those without an id again, they would count twice; those with one may be sent again"
	}
	p := waitEnded.because("the updates were not %s %s, but they are recorded and %s: %s", want, why, reached, then)
	p.Updates, p.Reached = r.updates, reached.String()
	return p
}

// writeRecorded answers that the updates have reached a stage, and which of those with ids are new.
func (a *API) writeRecorded(w http.ResponseWriter, status int, r recorded, reached spendflush.Stage) {
	body := make([]byte, 0, 128)
	number := func(name string, n int) {
		body = append(append(append(body, '"'), name...), "\":"...)
		body = append(strconv.AppendInt(body, int64(n), 10), ',')
	}
	body = append(body, '{')
	number("updates", r.updates)
	if r.hasIDs {
		counts := a.cfg.Recorder.Counts(r.receipt)
		number("new", counts.New)
		number("duplicates", counts.Duplicates)
		if counts.Conflicts > 0 {
			number("conflicts", counts.Conflicts)
		}
	}
	body = append(append(append(body, `"reached":"`...), reached.String()...), "\"}\n"...)
	writeBody(w, "application/json", status, body)
}
