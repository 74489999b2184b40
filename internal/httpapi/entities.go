package httpapi

import (
	"cmp"
	"context"
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/pgstore"
)

// entityTotal is an entity of the answer to GET /v1/entities.
type entityTotal struct {
	EntityType  string       `json:"entity_type"`
	EntityID    string       `json:"entity_id"`
	TeamID      string       `json:"team_id"`
	Spend       spend.Amount `json:"spend"`
	APIRequests int64        `json:"api_requests"`
	UpdatedAt   time.Time    `json:"updated_at"`
}

// entityList is that answer.
type entityList struct {
	Entities []entityTotal `json:"entities"`
	Next     *string       `json:"next"`
	Complete *bool         `json:"complete,omitempty"` // of a search within names
}

// entityQuery is what is asked of it.
type entityQuery struct {
	types    []spend.EntityType // nil: all
	begin    string
	contains string
	byID     bool // all of a type, in the order of their ids
	after    *spend.Entity
	limit    int
}

// entities lists the entities whose id begins with q or contains a text, all of a type, or those
// that have spent most.
func (a *API) entities(w http.ResponseWriter, r *http.Request) *problem {
	q, p := entityQueryOf(r)
	if p != nil {
		return p
	}
	places := a.looks
	if q.begin == "" && !q.byID { // which reads all totals, or many names
		places = a.reports
	}
	ctx, end, p := a.begin(places, w, r)
	if p != nil {
		return p
	}
	defer end()

	list, err := a.entityList(ctx, &q)
	if err != nil {
		return databaseProblem(err)
	}
	writeJSON(w, "application/json", http.StatusOK, list)
	return nil
}

func entityQueryOf(r *http.Request) (q entityQuery, p *problem) {
	values, p := params(r, "q", "contains", "entity_type", "order_by", "after", "limit")
	if p != nil {
		return q, p
	}
	if q.limit, p = limitOf(values, 20, 100); p != nil {
		return q, p
	}
	if values.Has("entity_type") {
		kind, err := spend.ParseEntityType(values.Get("entity_type"))
		if err != nil {
			return q, invalidRequest.because("entity_type: %v", err)
		}
		q.types = append(q.types, kind)
	}
	q.begin, q.contains = values.Get("q"), values.Get("contains")
	for _, name := range []string{"q", "contains"} {
		if values.Get(name) != "" {
			if p := checkID(name, values.Get(name)); p != nil {
				return q, p
			}
		}
	}
	return q, q.order(values)
}

// order reads the order of the list, and where it goes on.
func (q *entityQuery) order(values url.Values) *problem {
	switch order := values.Get("order_by"); {
	case q.begin != "" && q.contains != "":
		return invalidRequest.because("q and contains are both given; an id either begins with a text or has it anywhere")
	case order == "id" && q.types == nil:
		return invalidRequest.because("order_by=id lists all of one entity_type, which is missing")
	case order == "spend" && q.begin+q.contains != "":
		return invalidRequest.because("order_by is spend; what is found by its id is in the order of the ids")
	case values.Has("order_by") && order != "id" && order != "spend":
		return invalidRequest.because("order_by is %.40q; allowed are spend and id", order)
	default:
		q.byID = order == "id" && q.begin+q.contains == ""
	}
	if !values.Has("after") {
		return nil
	}
	if q.types == nil || q.contains == "" && !q.byID {
		return invalidRequest.because("after goes with an entity_type and contains or order_by=id")
	}
	id, team, ok := cursorOf(values.Get("after"))
	if !ok {
		return invalidRequest.because("after is %.80q; want what next was", values.Get("after"))
	}
	q.after = &spend.Entity{Type: q.types[0], ID: id, TeamID: team}
	return nil
}

// cursor is what next is: the id and the team of the entity that the next page is behind.
func cursor(e *spend.Entity) *string {
	text := base64.RawURLEncoding.EncodeToString([]byte(e.ID + "\x00" + e.TeamID))
	return &text
}

func cursorOf(text string) (id, team string, ok bool) {
	both, err := base64.RawURLEncoding.DecodeString(text)
	id, team, ok = strings.Cut(string(both), "\x00")
	if err != nil || !ok || checkID("after", id) != nil || team != "" && checkID("after", team) != nil {
		return "", "", false
	}
	return id, team, true
}

func (a *API) entityList(ctx context.Context, q *entityQuery) (entityList, error) {
	if q.contains != "" || q.byID {
		return a.foundEntities(ctx, q)
	}
	found, err := a.cfg.Reader.Entities(ctx, q.types, q.begin, q.limit)
	return entityList{Entities: entityTotals(found)}, err
}

// foundEntities goes over the names of each type.
func (a *API) foundEntities(ctx context.Context, q *entityQuery) (list entityList, err error) {
	types := q.types
	if types == nil {
		types = spend.EntityTypes()
	}
	var found []pgstore.EntityTotal
	complete := true
	for _, kind := range types {
		page, err := a.cfg.Reader.FindEntities(ctx, pgstore.EntityQuery{Type: kind, Contains: q.contains, After: q.after, Limit: q.limit})
		if err != nil {
			return list, err
		}
		found = append(found, page.Entities...)
		if page.Next != nil {
			complete = complete && len(page.Entities) == q.limit
			list.Next = cursor(page.Next)
		}
	}
	if q.types == nil { // there is no going on with all of them at once
		list.Next = nil
		slices.SortStableFunc(found, func(a, b pgstore.EntityTotal) int { return cmp.Compare(a.Entity.ID, b.Entity.ID) })
		found = found[:min(len(found), q.limit)]
	}
	if q.contains != "" {
		list.Complete = &complete
	}
	list.Entities = entityTotals(found)
	return list, nil
}

func entityTotals(found []pgstore.EntityTotal) []entityTotal {
	list := make([]entityTotal, len(found))
	for i, e := range found {
		list[i] = entityTotal{e.Entity.Type.String(), e.Entity.ID, e.Entity.TeamID, e.Spend, e.Requests, e.UpdatedAt}
	}
	return list
}
