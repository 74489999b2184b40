package httpapi

import (
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spendflush/spendflush/internal/quarantine"
	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/pgstore"
)

const spendPrefix = "/v1/spend/"

// counters are sums as JSON writes them.
type counters struct {
	Spend spend.Amount `json:"spend"`
	*quarantine.Counts
}

func countersOf(c spend.Counters) counters { return counters{c.Spend, quarantine.CountsOf(&c)} }

// entitySpend is the answer to GET /v1/spend/….
type entitySpend struct {
	EntityType string    `json:"entity_type"`
	EntityID   string    `json:"entity_id"`
	TeamID     string    `json:"team_id,omitempty"`   // of a team_member
	Committed  counters  `json:"committed"`           // by all instances
	Held       counters  `json:"held"`                // by this instance, not committed yet
	Total      counters  `json:"total"`               // of the two; what other instances hold is in neither
	AsOf       time.Time `json:"as_of"`               // of the database's snapshot
	UpdatedAt  time.Time `json:"updated_at,omitzero"` // when Committed last changed
	Instance   string    `json:"instance"`            // who holds Held
}

// spendByPath tells what the entity that the path names has spent.
func (a *API) spendByPath(w http.ResponseWriter, r *http.Request) *problem {
	entity, p := entityOf(r.PathValue("entity"))
	if p != nil {
		return p
	}
	if _, p := params(r); p != nil {
		return p
	}
	return a.spend(w, r, entity)
}

// spendByQuery tells it of an entity that the query names. Clients clean "." and ".." out of paths,
// which are ids like others.
func (a *API) spendByQuery(w http.ResponseWriter, r *http.Request) *problem {
	values, p := params(r, "entity_type", "entity_id", "team_id")
	if p != nil {
		return p
	}
	kind, err := spend.ParseEntityType(values.Get("entity_type"))
	if err != nil {
		return invalidRequest.because("entity_type: %v", err)
	}
	entity := spend.Entity{Type: kind, ID: values.Get("entity_id"), TeamID: values.Get("team_id")}
	if p := checkID("entity_id", entity.ID); p != nil {
		return p
	}
	if kind != spend.TeamMember && values.Has("team_id") {
		return invalidRequest.because("team_id goes with entity_type=team_member; of a team, the id is given as entity_id")
	}
	if kind == spend.TeamMember {
		if p := checkID("team_id", entity.TeamID); p != nil {
			return p
		}
	}
	return a.spend(w, r, entity)
}

// spend tells what one entity has spent.
func (a *API) spend(w http.ResponseWriter, r *http.Request, entity spend.Entity) *problem {
	who := a.partyOf(w, r)
	if p := a.spends.take(r.Context(), who); p != nil {
		return p
	}
	defer a.spends.give(who)
	// What is held must be looked at before the books are: see spendflush.Held.
	held := a.cfg.Recorder.Held(entity)
	report, err := a.cfg.Reader.Spend(r.Context(), entity, held.Producers())
	if err != nil {
		return databaseProblem(err)
	}
	beyond := held.NotIn(report.Marks)
	if !report.Found && beyond == (spend.Counters{}) {
		return notFound.because("nothing was ever booked on this %s, and this instance holds nothing of it", entity.Type)
	}
	total := report.Committed
	total.Add(&beyond)
	writeJSON(w, "application/json", http.StatusOK, entitySpend{
		EntityType: entity.Type.String(), EntityID: entity.ID, TeamID: entity.TeamID,
		Committed: countersOf(report.Committed), Held: countersOf(beyond), Total: countersOf(total),
		AsOf: report.AsOf, UpdatedAt: report.UpdatedAt, Instance: a.cfg.Instance,
	})
	return nil
}

// entityOf reads {entity_type}/{entity_id} or team_member/{team_id}/{user_id}. A slash in an id is
// escaped, as %2F.
func entityOf(path string) (spend.Entity, *problem) {
	parts := strings.Split(path, "/")
	for i := range parts {
		part, err := url.PathUnescape(parts[i])
		if err != nil {
			return spend.Entity{}, invalidRequest.because("the path can't be read: %v", err)
		}
		parts[i] = part
	}
	kind, err := spend.ParseEntityType(parts[0])
	if err != nil {
		return spend.Entity{}, notFound.because("%v", err)
	}
	ids, want := parts[1:], []string{"entity_id"}
	if kind == spend.TeamMember {
		want = []string{"team_id", "user_id"}
	}
	if len(ids) != len(want) {
		return spend.Entity{}, notFound.because("want %s%s/{%s}; a slash in an id is written as %%2F",
			spendPrefix, kind, strings.Join(want, "}/{"))
	}
	for i, id := range ids {
		if p := checkID(want[i], id); p != nil {
			return spend.Entity{}, p
		}
	}
	if kind == spend.TeamMember {
		return spend.Entity{Type: kind, TeamID: ids[0], ID: ids[1]}, nil
	}
	return spend.Entity{Type: kind, ID: ids[0]}, nil
}

// checkID refuses what can't be an id.
func checkID(name, id string) *problem {
	switch {
	case id == "":
		return invalidRequest.because("%s is empty", name)
	case len(id) > spend.MaxIDBytes:
		return invalidRequest.because("%s has %d bytes; allowed are %d", name, len(id), spend.MaxIDBytes)
	case strings.IndexByte(id, 0) >= 0:
		return invalidRequest.because("%s holds a NUL character", name)
	case !utf8.ValidString(id):
		return invalidRequest.because("%s is not valid UTF-8", name)
	}
	return nil
}

// databaseProblem says that the database didn't answer, or what it refuses; the rest is for the
// log.
func databaseProblem(err error) *problem {
	if why, ok := pgstore.Explain(err); ok {
		p := databaseRefuses.because("%s; updates are still taken, but asking again doesn't help", why)
		p.cause = err
		return p
	}
	p := databaseUnavailable.because("updates are still taken; ask again later")
	p.retryAfter, p.cause = retryLater, err
	return p
}
