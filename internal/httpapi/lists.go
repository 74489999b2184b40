package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spendflush/spendflush/internal/quarantine"
	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/pgstore"
)

// Bounds of the lists.
const (
	defaultListed = 50
	maxListed     = 500
)

// limitOf reads ?limit; without it, the answer is otherwise.
func limitOf(values url.Values, otherwise, most int) (int, *problem) {
	if !values.Has("limit") {
		return otherwise, nil
	}
	n, err := strconv.Atoi(values.Get("limit"))
	if err != nil || n < 1 || n > most {
		return 0, invalidRequest.because("limit is %.40q; allowed are 1 to %d", values.Get("limit"), most)
	}
	return n, nil
}

// lostRange is one of the answer to GET /v1/lost-batches. What is missing is known of all lost
// batches of a producer and shard together.
type lostRange struct {
	Producer       string        `json:"producer"`
	Shard          int           `json:"shard"`
	First          uint64        `json:"first_sequence"`
	Last           uint64        `json:"last_sequence"`
	Batches        uint64        `json:"batches"`
	Reason         string        `json:"reason"`
	NoticedAt      time.Time     `json:"noticed_at"`
	FoundAt        time.Time     `json:"found_at,omitzero"`
	Quarantined    bool          `json:"quarantined"` // its bytes are in quarantine, or were when it was passed
	ProducerLost   int64         `json:"producer_lost_batches"`
	MissingUpdates *int64        `json:"producer_missing_updates"`
	MissingAmount  *spend.Amount `json:"producer_missing_amount"`
}

func (a *API) lostBatches(w http.ResponseWriter, r *http.Request) *problem {
	values, p := params(r, "after", "limit")
	if p != nil {
		return p
	}
	limit, p := limitOf(values, defaultListed, maxListed)
	if p != nil {
		return p
	}
	var after *pgstore.LostID
	if values.Has("after") {
		if after, p = lostIDOf(values.Get("after")); p != nil {
			return p
		}
	}
	ctx, end, p := a.begin(a.looks, w, r)
	if p != nil {
		return p
	}
	defer end()
	found, err := a.cfg.Reader.LostBatches(ctx, "", after, limit+1)
	if err != nil {
		return databaseProblem(err)
	}
	answer := struct {
		LostBatches []lostRange `json:"lost_batches"`
		Next        *string     `json:"next"`
	}{LostBatches: []lostRange{}}
	if len(found) > limit {
		found = found[:limit]
		last := &found[limit-1]
		next := fmt.Sprintf("%s/%d/%d", last.Producer, last.Shard, last.First)
		answer.Next = &next
	}
	for i := range found {
		l := &found[i]
		one := lostRange{Producer: l.Producer.String(), Shard: l.Shard, First: l.First, Last: l.Last,
			Batches: spend.SequenceRange{First: l.First, Last: l.Last}.Len(), Reason: l.Reason, NoticedAt: l.NoticedAt,
			FoundAt: l.FoundAt, Quarantined: l.Quarantined, ProducerLost: l.Batches}
		if l.Known {
			one.MissingUpdates, one.MissingAmount = &l.Updates, &l.Amount
		}
		answer.LostBatches = append(answer.LostBatches, one)
	}
	writeJSON(w, "application/json", http.StatusOK, answer)
	return nil
}

func lostIDOf(text string) (*pgstore.LostID, *problem) {
	var id pgstore.LostID
	parts := strings.Split(text, "/")
	if len(parts) == 3 {
		var errs [3]error
		id.Producer, errs[0] = spend.ParseProducerID(parts[0])
		var shard uint64
		shard, errs[1] = strconv.ParseUint(parts[1], 10, 15)
		id.Shard = int(shard)
		id.First, errs[2] = strconv.ParseUint(parts[2], 10, 63)
		if errors.Join(errs[:]...) == nil {
			return &id, nil
		}
	}
	return nil, invalidRequest.because("after is %.80q; want what next was", text)
}

// quarantined lists entries of the quarantine.
func (a *API) quarantined(w http.ResponseWriter, r *http.Request) *problem {
	values, p := params(r, "state", "after", "limit")
	if p != nil {
		return p
	}
	limit, p := limitOf(values, defaultListed, maxListed)
	if p != nil {
		return p
	}
	state := "open"
	if values.Has("state") {
		state = values.Get("state")
	}
	switch state {
	case "open", "applied", "dropped":
	case "all":
		state = ""
	default:
		return invalidRequest.because("state is %.40q; allowed are open, applied, dropped and all", state)
	}
	var after int64
	if values.Has("after") {
		if after, p = entryID(values.Get("after")); p != nil {
			return p
		}
	}
	ctx, end, p := a.begin(a.looks, w, r)
	if p != nil {
		return p
	}
	defer end()
	found, err := a.cfg.Reader.QuarantinedIn(ctx, state, after, limit+1)
	if err != nil {
		return databaseProblem(err)
	}
	answer := struct {
		Entries []*quarantine.Entry `json:"entries"`
		Next    *int64              `json:"next"`
	}{Entries: []*quarantine.Entry{}}
	if len(found) > limit {
		found = found[:limit]
		answer.Next = &found[limit-1].ID
	}
	for i := range found {
		answer.Entries = append(answer.Entries, quarantine.EntryOf(&found[i]))
	}
	writeJSON(w, "application/json", http.StatusOK, answer)
	return nil
}

func entryID(text string) (int64, *problem) {
	id, err := strconv.ParseInt(text, 10, 64)
	if err != nil || id < 1 {
		return 0, invalidRequest.because("%.40q is no id of an entry; want a whole number from 1", text)
	}
	return id, nil
}

// quarantineEntry shows one entry, with all that can be read of it.
func (a *API) quarantineEntry(w http.ResponseWriter, r *http.Request) *problem {
	if _, p := params(r); p != nil {
		return p
	}
	id, p := entryID(r.PathValue("id"))
	if p != nil {
		return p
	}
	ctx, end, p := a.begin(a.looks, w, r)
	if p != nil {
		return p
	}
	defer end()
	view, err := quarantine.Look(ctx, a.cfg.Reader, id)
	switch {
	case errors.Is(err, pgstore.ErrNotQuarantined):
		return notFound.because("quarantine has no entry %d", id)
	case err != nil:
		return databaseProblem(err)
	}
	writeJSON(w, "application/json", http.StatusOK, view.JSON())
	return nil
}

// settle applies or drops an entry. The body must repeat the id, so that it takes more than an
// address to do it. Who did it is kept with the entry and said in the log.
func (a *API) settle(done string, do func(ctx context.Context, store quarantine.Store, id int64, by string) (quarantine.Outcome, error)) endpoint {
	return func(w http.ResponseWriter, r *http.Request) *problem {
		id, p := entryID(r.PathValue("id"))
		if p != nil {
			return p
		}
		var body struct {
			ID int64 `json:"id"`
		}
		if p := a.readSmall(w, r, &body); p != nil {
			return p
		}
		if body.ID != id {
			return invalidRequest.because("the body has the id %d; it must repeat that of the path, %d", body.ID, id)
		}
		ctx, end, p := a.begin(a.looks, w, r)
		if p != nil {
			return p
		}
		defer end()
		outcome, err := do(ctx, a.cfg.Reader, id, callerOf(w).String()+", instance "+a.cfg.Instance)
		if err == nil && outcome.Done() && outcome.SettledAt.IsZero() {
			a.log.Info("a quarantine entry was "+done, "entry", id, "what", outcome.Detail, "token", callerOf(w).name(), "remote", callerOf(w).address)
		}
		switch {
		case err != nil:
			return databaseProblem(err)
		case outcome.Done() && outcome.SettledAt.IsZero():
			writeJSON(w, "application/json", http.StatusOK, outcome)
			return nil
		case outcome.State == "":
			return notFound.because("%s", outcome.Detail)
		case outcome.State == "open":
			return notApplied.because("%s", outcome.Detail)
		}
		return alreadySettled.because("%s", outcome.Detail)
	}
}
