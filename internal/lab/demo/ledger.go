package demo

import (
	"time"

	"github.com/spendflush/spendflush/internal/lab/load"
	"github.com/spendflush/spendflush/spend"
)

// ledger is what one client knows of what it has sent, apart from the program that is shown.
type ledger struct {
	sums    map[ledgerKey]*ledgerSum
	updates int64
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

func newLedger() *ledger { return &ledger{sums: map[ledgerKey]*ledgerSum{}} }

// note notes an update that was sent.
func (l *ledger) note(u *spend.Update) {
	l.updates++
	k := ledgerKey{u.Series.Key(), u.Time.Format(time.DateOnly)}
	sum := l.sums[k]
	if sum == nil {
		sum = &ledgerSum{series: u.Series}
		l.sums[k] = sum
	}
	c := load.Counters(u)
	sum.counters.Add(&c)
}

// book is what the books have to say: a row for each entity, and one for each entity, day and
// combination of dimensions.
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
