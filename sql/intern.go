package sql

import (
	"slices"

	"github.com/spendflush/spendflush"
)

// What a transaction takes up in the dictionaries: the texts of entities and series that aren't known to be there.

func (t *transaction) internEntities(calls []call, rows []spendflush.TotalRow, places []int) []call {
	if len(places) == 0 {
		return calls
	}
	at := func(i int) *spendflush.TotalRow { return &rows[places[i]] }
	n := len(places)
	var e encoder
	e.keys(n, func(i int) *[16]byte { return (*[16]byte)(&at(i).Key) })
	e.texts(n, func(i int) string { return at(i).Entity.Type.String() })
	e.texts(n, func(i int) string { return at(i).Entity.ID })
	e.texts(n, func(i int) string { return at(i).Entity.TeamID })
	t.interned += int64(n)
	return append(calls, call{name: "intern_entities", params: e.params(), rows: -1})
}

func (t *transaction) internSeries(calls []call, rows []spendflush.RollupRow, places []int) []call {
	if len(places) == 0 {
		return calls
	}
	// The rows are in the order of hours first; a series of several hours is sent once.
	places = slices.Clone(places)
	slices.SortFunc(places, func(a, b int) int { return rows[a].Key.Compare(rows[b].Key) })
	places = slices.CompactFunc(places, func(a, b int) bool { return rows[a].Key == rows[b].Key })
	n := len(places)
	series := make([]spendflush.Series, n)
	for i, place := range places {
		series[i] = rows[place].Series()
	}
	t.interned += int64(n)
	var e encoder
	e.keys(n, func(i int) *[16]byte { return (*[16]byte)(&rows[places[i]].Key) })
	e.texts(n, func(i int) string { return series[i].APIKey })
	e.texts(n, func(i int) string { return series[i].UserID })
	e.texts(n, func(i int) string { return series[i].EndUserID })
	e.texts(n, func(i int) string { return series[i].TeamID })
	e.texts(n, func(i int) string { return series[i].OrganizationID })
	e.texts(n, func(i int) string { return series[i].AgentID })
	e.texts(n, func(i int) string { return series[i].Model })
	e.texts(n, func(i int) string { return series[i].ModelGroup })
	e.texts(n, func(i int) string { return series[i].CustomLLMProvider })
	e.texts(n, func(i int) string { return series[i].MCPNamespacedToolName })
	e.texts(n, func(i int) string { return series[i].Endpoint })
	var tags []byte
	e.texts(n, func(i int) string {
		tags = appendTextArray(tags[:0], series[i].Tags)
		return string(tags)
	})
	return append(calls, call{name: "intern_series", params: e.params(), rows: -1})
}

// learn notes what the transaction, now committed, has written.
func (t *transaction) learn() {
	t.store.known.learn(t.written, t.epoch)
	t.store.stats.interned.Add(t.interned)
	t.store.stats.refused.Add(t.refused)
}
