package httpapi

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/spend"
)

const (
	keyHeader   = "Idempotency-Key"
	maxKeyBytes = 255
)

// idempotencyKey returns the key of the request, bare or as a string of RFC 8941, "" if it has
// none.
func idempotencyKey(h http.Header) (string, *problem) {
	given := h.Values(keyHeader)
	if len(given) == 0 {
		return "", nil
	}
	if len(given) > 1 {
		return "", invalidRequest.because("%s is given %d times", keyHeader, len(given))
	}
	key := given[0] // net/http has cut the blanks around it
	if strings.HasPrefix(key, `"`) {
		var ok bool
		if key, ok = structuredString(key); !ok {
			return "", invalidRequest.because(`%s begins with a quote and is no string of RFC 8941: printable ASCII between quotes, with \" and \\ for a quote and a backslash`, keyHeader)
		}
	}
	switch {
	case key == "":
		return "", invalidRequest.because("%s is empty; allowed are 1 to %d bytes", keyHeader, maxKeyBytes)
	case len(key) > maxKeyBytes:
		return "", invalidRequest.because("%s has %d bytes; allowed are %d", keyHeader, len(key), maxKeyBytes)
	case !utf8.ValidString(key):
		return "", invalidRequest.because("%s is not valid UTF-8", keyHeader)
	}
	return key, nil
}

// structuredString reads a string of RFC 8941, section 3.3.3. ok is false if the text is none, or
// anything follows.
func structuredString(text string) (value string, ok bool) {
	var b strings.Builder
	for i := 1; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			return b.String(), i == len(text)-1
		case c < ' ' || c > '~':
			return "", false
		case c != '\\':
			b.WriteByte(c)
		default:
			if i++; i == len(text) || text[i] != '"' && text[i] != '\\' {
				return "", false
			}
			b.WriteByte(text[i])
		}
	}
	return "", false
}

// withIDs returns how many of the updates have an id.
func withIDs(updates []spend.Update) (n int) {
	for i := range updates { // an update is large to be copied
		if updates[i].ID != "" {
			n++
		}
	}
	return n
}

// idProblem makes a problem of an error of RecordAllFor or RecordOnceFor that is about ids, nil of
// others.
func idProblem(err error) *problem {
	if reused, ok := errors.AsType[*spendflush.IDReusedError](err); ok {
		if reused.Index < 0 {
			return idReused.because("nothing was recorded; %s was given to a request with other updates before", keyHeader)
		}
		f := fault{Index: reused.Index, Field: fieldNames[fieldID], Detail: "was given to an update with another content before"}
		p := idReused.because("nothing was recorded; update %d: %s: %s", f.Index, f.Field, f.Detail)
		p.Errors = []fault{f}
		return p
	}
	switch {
	case errors.Is(err, spendflush.ErrInvalidKey):
		return invalidRequest.because("%s: %v", keyHeader, err)
	case errors.Is(err, spendflush.ErrTooLarge):
		return contentTooLarge.because("with %s, the updates of a request count on at most %d entities, and their combinations have at most %d MiB of texts; nothing was recorded, "+
			"send them in parts, or give each update an id", keyHeader, spendflush.MaxRequestTotals, spendflush.MaxRequestTexts>>20)
	}
	return nil
}

// idStatus is the answer to GET /v1/ids/{id}.
type idStatus struct {
	ID            string    `json:"id"`
	Kind          string    `json:"kind"`
	Identity      string    `json:"identity"` // what the books have in its place
	State         string    `json:"state"`
	CommittedAt   time.Time `json:"committed_at,omitzero"` // to the minute
	WindowSeconds int64     `json:"window_seconds"`        // for how long after its commit an id counts no second time
	Instance      string    `json:"instance"`              // that holds it, if it is held
}

// idByPath tells what became of the id that the path names.
func (a *API) idByPath(w http.ResponseWriter, r *http.Request) *problem {
	values, p := params(r, "kind")
	if p != nil {
		return p
	}
	id, err := url.PathUnescape(r.PathValue("id"))
	if err != nil {
		return invalidRequest.because("the path can't be read: %v", err)
	}
	return a.idOf(w, r, id, values)
}

// idByQuery tells it of an id that the query names: clients clean "." and ".." out of paths.
func (a *API) idByQuery(w http.ResponseWriter, r *http.Request) *problem {
	values, p := params(r, "id", "kind")
	if p != nil {
		return p
	}
	return a.idOf(w, r, values.Get("id"), values)
}

func (a *API) idOf(w http.ResponseWriter, r *http.Request, id string, values url.Values) *problem {
	kind, name := spend.UpdateFact, "update"
	if values.Has("kind") {
		switch name = values.Get("kind"); name {
		case "update":
		case "request":
			kind = spend.RequestFact
		default:
			return invalidRequest.because("kind is %.40q; allowed are update and request", name)
		}
	}
	if p := checkID("id", id); p != nil {
		return p
	}
	who := a.partyOf(w, r)
	if p := a.spends.take(r.Context(), who); p != nil {
		return p
	}
	defer a.spends.give(who)
	found, err := a.cfg.Recorder.FindID(r.Context(), kind, id)
	if err != nil && found.State != spendflush.IDHeld {
		return databaseProblem(err)
	}
	writeJSON(w, "application/json", http.StatusOK, idStatus{
		ID: id, Kind: name, Identity: spend.NewFactID(kind, id).String(), State: found.State.String(), CommittedAt: found.At.UTC(), WindowSeconds: int64(a.cfg.IDWindow.Seconds()),
		Instance: a.cfg.Instance,
	})
	return nil
}
