package pgstore

import (
	"slices"

	"github.com/spendflush/spendflush/spend"
)

// What a transaction takes up in the dictionaries: the texts of entities and series that aren't
// known to be there.

// maxChunkTexts bounds the texts that one statement sends, about: a row may have 20 kB of them.
// Postgres takes a message of 1 GiB at most, and both sides need room for it.
//
// maxChunkRows bounds its rows: Postgres counts through the sets of tags to find each row's.
const (
	maxChunkTexts = 4 << 20
	maxChunkRows  = 4096
)

// chunks calls send for stretches of the places whose texts aren't too many for one statement.
func chunks(places []int, size func(place int) int, send func(places []int)) {
	for len(places) > 0 {
		n, texts := 0, 0
		for n < len(places) && n < maxChunkRows && (n == 0 || texts < maxChunkTexts) {
			texts += size(places[n])
			n++
		}
		send(places[:n])
		places = places[n:]
	}
}

func (t *transaction) internEntities(calls []call, rows []spend.TotalRow, places []int) []call {
	t.interned += int64(len(places))
	size := func(place int) int { return len(rows[place].Entity.ID) + len(rows[place].Entity.TeamID) }
	chunks(places, size, func(places []int) {
		at := func(i int) *spend.TotalRow { return &rows[places[i]] }
		n := len(places)
		var e encoder
		e.keys(n, func(i int) *[16]byte { return (*[16]byte)(&at(i).Key) })
		e.texts(n, func(i int) string { return at(i).Entity.Type.String() })
		e.texts(n, func(i int) string { return at(i).Entity.ID })
		e.texts(n, func(i int) string { return at(i).Entity.TeamID })
		calls = append(calls, call{name: "intern_entities", params: e.params(), rows: -1})
	})
	return calls
}

func (t *transaction) internSeries(calls []call, rows []spend.RollupRow, places []int) []call {
	// The rows are in the order of hours first; a series of several hours is sent once.
	places = slices.Clone(places)
	slices.SortFunc(places, func(a, b int) int { return rows[a].Key.Compare(rows[b].Key) })
	places = slices.CompactFunc(places, func(a, b int) bool { return rows[a].Key == rows[b].Key })
	t.interned += int64(len(places))
	chunks(places, func(place int) int { return rows[place].Texts() }, func(places []int) {
		calls = append(calls, call{name: "intern_series", params: encodeSeries(rows, places), rows: -1})
	})
	return calls
}

// encodeSeries encodes the names of series. A set of tags that several of them have is sent once.
func encodeSeries(rows []spend.RollupRow, places []int) []param {
	n := len(places)
	series := make([]spend.Series, n)
	sets, setOf := []string{}, make([]int64, n) // the texts of the arrays; the place of each series' one, from 1
	known := map[string]int64{}
	var text []byte
	for i, place := range places {
		series[i] = rows[place].Series()
		text = appendTextArray(text[:0], series[i].Tags)
		at, ok := known[string(text)]
		if !ok {
			sets = append(sets, string(text))
			at = int64(len(sets))
			known[sets[at-1]] = at
		}
		setOf[i] = at
	}

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
	e.int8s(n, func(i int) int64 { return setOf[i] })
	e.texts(len(sets), func(i int) string { return sets[i] })
	return e.params()
}

// learn notes what the transaction, now committed, has written.
func (t *transaction) learn() {
	t.store.known.learn(t.written, t.epoch)
	t.store.days.learn(t.days)
	t.store.stats.interned.Add(t.interned)
	t.store.stats.refused.Add(t.refused)
}
