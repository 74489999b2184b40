package demo

import (
	"time"

	"github.com/spendflush/spendflush/internal/lab/load"
	"github.com/spendflush/spendflush/spend"
)

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

// ledgerKey is what updates are summed by.
type ledgerKey struct {
	series spend.Key
	date   string // UTC
}

type ledgerSum struct {
	series   spend.Series
	counters spend.Counters
}

// request is one that got no answer.
type request struct {
	endUser string
	updates []spend.Update
}

func newLedger() *ledger { return &ledger{acknowledged: map[ledgerKey]*ledgerSum{}} }

// acknowledge notes the updates of a request that was answered.
func (l *ledger) acknowledge(updates []spend.Update) {
	l.requests++
	l.updates += int64(len(updates))
	for i := range updates {
		u := &updates[i]
		k := ledgerKey{u.Series.Key(), u.Time.Format(time.DateOnly)}
		sum := l.acknowledged[k]
		if sum == nil {
			sum = &ledgerSum{series: u.Series}
			l.acknowledged[k] = sum
		}
		c := load.Counters(u)
		sum.counters.Add(&c)
	}
}

// noteUnanswered notes a request that got no answer.
func (l *ledger) noteUnanswered(updates []spend.Update) {
	l.unanswered = append(l.unanswered, request{updates[0].EndUserID, updates})
}

// book is what the books have to say: a row for each entity, and one for each entity, day and combination of dimensions.
type book struct {
	entities map[spend.Entity]spend.Counters
	days     map[daily]spend.Counters
	all      spend.Counters // each update once
}

// daily is the key of spendflush.daily_spend.
type daily struct {
	date string
	spend.Entity
	apiKey, model, group, provider, tool, endpoint string
}

func newBook() *book {
	return &book{entities: map[spend.Entity]spend.Counters{}, days: map[daily]spend.Counters{}}
}

func (b *book) add(s *spend.Series, date string, c *spend.Counters) {
	b.all.Add(c)
	for _, e := range load.Entities(s) {
		addTo(b.entities, e, c)
		addTo(b.days, daily{date, e, s.APIKey, s.Model, s.ModelGroup, s.CustomLLMProvider, s.MCPNamespacedToolName, s.Endpoint}, c)
	}
}

func addTo[K comparable](rows map[K]spend.Counters, k K, c *spend.Counters) {
	sum := rows[k]
	sum.Add(c)
	rows[k] = sum
}
