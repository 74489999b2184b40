package demo

import (
	"time"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/internal/lab/load"
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
	series spendflush.Key
	date   string // UTC
}

type ledgerSum struct {
	series   spendflush.Series
	counters spendflush.Counters
}

// request is one that got no answer.
type request struct {
	endUser string
	updates []spendflush.Update
}

func newLedger() *ledger { return &ledger{acknowledged: map[ledgerKey]*ledgerSum{}} }

// acknowledge notes the updates of a request that was answered.
func (l *ledger) acknowledge(updates []spendflush.Update) {
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
		c := counters(u)
		sum.counters.Add(&c)
	}
}

// doubt notes a request that got no answer.
func (l *ledger) doubt(updates []spendflush.Update) {
	l.unanswered = append(l.unanswered, request{updates[0].EndUserID, updates})
}

// counters is what one update counts.
func counters(u *spendflush.Update) spendflush.Counters {
	c := spendflush.Counters{
		Spend: u.Spend, SuccessfulRequests: 1, PromptTokens: u.PromptTokens, CompletionTokens: u.CompletionTokens,
		CacheReadInputTokens: u.CacheReadInputTokens, CacheCreationInputTokens: u.CacheCreationInputTokens,
	}
	if u.Status == spendflush.Failure {
		c.SuccessfulRequests, c.FailedRequests = 0, 1
	}
	return c
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

func (b *book) add(s *spendflush.Series, date string, c *spendflush.Counters) {
	b.all.Add(c)
	for _, e := range load.Entities(s) {
		addTo(b.entities, e, c)
		addTo(b.days, daily{date, e, s.APIKey, s.Model, s.ModelGroup, s.CustomLLMProvider, s.MCPNamespacedToolName, s.Endpoint}, c)
	}
}

func addTo[K comparable](rows map[K]spendflush.Counters, k K, c *spendflush.Counters) {
	sum := rows[k]
	sum.Add(c)
	rows[k] = sum
}
