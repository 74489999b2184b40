package demo

import (
	"slices"
	"strings"
	"time"

	"github.com/spendflush/spendflush"
)

// update is an update as the client that sends it knows it.
type update struct {
	series   spendflush.Series
	at       time.Time // UTC
	counters spendflush.Counters

	combination int // of the client's mix
}

// ledger is what one client knows of what it has sent, apart from the program that is shown.
//
// The updates carry an end user of the client's own, which changes after every request that got no answer. So that
// end user's total tells whether that one request was counted: the total is the sum of what was acknowledged, or that
// and the request. A request is counted as a whole or not at all, for one batch holds all of it.
type ledger struct {
	acknowledged map[ledgerKey]*ledgerSum
	unanswered   []request // the i-th is of the i-th end user

	requests, updates int64 // acknowledged
}

// ledgerKey is what updates are summed by. The number of an end user is that of the requests without an answer before.
type ledgerKey struct {
	endUser     int
	combination int
	day         int64 // since 1970
}

type ledgerSum struct {
	series   spendflush.Series
	day      time.Time
	counters spendflush.Counters
}

// request is one that got no answer.
type request struct {
	endUser string
	updates []update
}

func newLedger() *ledger { return &ledger{acknowledged: map[ledgerKey]*ledgerSum{}} }

// acknowledge notes the updates of a request that was answered.
func (l *ledger) acknowledge(updates []update) {
	l.requests++
	l.updates += int64(len(updates))
	for i := range updates {
		u := &updates[i]
		k := ledgerKey{len(l.unanswered), u.combination, u.at.Unix() / (24 * 3600)}
		sum := l.acknowledged[k]
		if sum == nil {
			sum = &ledgerSum{series: u.series, day: u.at}
			l.acknowledged[k] = sum
		}
		sum.counters.Add(&u.counters)
	}
}

// doubt notes a request that got no answer.
func (l *ledger) doubt(updates []update) {
	l.unanswered = append(l.unanswered, request{updates[0].series.EndUserID, updates})
}

// book is what the books have to say: a row for each entity, and one for each entity, day and combination of dimensions.
type book struct {
	entities map[spendflush.Entity]spendflush.Counters
	days     map[daily]spendflush.Counters
	all      spendflush.Counters // each update once
}

// daily is the key of spendflush.daily_spend.
type daily struct {
	date string
	spendflush.Entity
	apiKey, model, group, provider, tool, endpoint string
}

func newBook() *book {
	return &book{entities: map[spendflush.Entity]spendflush.Counters{}, days: map[daily]spendflush.Counters{}}
}

func (b *book) add(s *spendflush.Series, day time.Time, c *spendflush.Counters) {
	b.all.Add(c)
	date := day.Format(time.DateOnly)
	for _, e := range countsOn(s) {
		addTo(b.entities, e, c)
		addTo(b.days, daily{date, e, s.APIKey, s.Model, s.ModelGroup, s.CustomLLMProvider, s.MCPNamespacedToolName, s.Endpoint}, c)
	}
}

func addTo[K comparable](rows map[K]spendflush.Counters, k K, c *spendflush.Counters) {
	sum := rows[k]
	sum.Add(c)
	rows[k] = sum
}

// countsOn returns whom a request counts on, as docs/api.md says.
func countsOn(s *spendflush.Series) (all []spendflush.Entity) {
	one := func(t spendflush.EntityType, id, team string) {
		if id != "" {
			all = append(all, spendflush.Entity{Type: t, ID: id, TeamID: team})
		}
	}
	one(spendflush.APIKey, s.APIKey, "")
	one(spendflush.User, s.UserID, "")
	one(spendflush.EndUser, s.EndUserID, "")
	one(spendflush.Team, s.TeamID, "")
	one(spendflush.Organization, s.OrganizationID, "")
	one(spendflush.Agent, s.AgentID, "")
	if s.TeamID != "" {
		one(spendflush.TeamMember, s.UserID, s.TeamID)
	}
	for _, tag := range slices.Compact(slices.SortedFunc(slices.Values(s.Tags), strings.Compare)) {
		one(spendflush.Tag, tag, "")
	}
	return all
}
