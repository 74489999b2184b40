package quarantine

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/pgstore"
)

func amount(t *testing.T, text string) spend.Amount {
	t.Helper()
	a, err := spend.ParseAmount(text)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestSumsOfTheQuarantineHaveNoBound(t *testing.T) {
	largest := amount(t, "99999999999999999999999999.5")
	row := func(book string, a spend.Amount) *pgstore.Quarantined {
		return &pgstore.Quarantined{Kind: "row", Book: book, Counters: spend.Counters{Spend: a, SuccessfulRequests: 1<<63 - 1}}
	}
	var sums Tally
	for range 4 {
		sums.Add(row("team", largest))
		sums.Add(row("agent", largest.Neg()))
	}
	sums.Add(&pgstore.Quarantined{Kind: "batch", Counted: true, Updates: 3})
	sums.Add(&pgstore.Quarantined{Kind: "batch"})
	want := "10 entries; batches: 1 of 0 dollars in 3 requests; batches of which it can't be told: 1; " +
		"rows of agent: 4 of -399999999999999999999999998 dollars in 36893488147419103228 requests; " +
		"rows of team: 4 of 399999999999999999999999998 dollars in 36893488147419103228 requests"
	if got := sums.String(); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

func TestEntriesAsJSONHaveTheNamesOfTheAPI(t *testing.T) {
	c := spend.Counters{Spend: amount(t, "1.5"), SuccessfulRequests: 2, FailedRequests: 1, CacheReadInputTokens: 7}
	at := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	series := &spend.Series{APIKey: "k", MCPNamespacedToolName: "tool", Endpoint: "/e", Tags: []string{"x"}}
	for _, c := range []struct {
		entry pgstore.Quarantined
		want  string
	}{
		{
			pgstore.Quarantined{ID: 1, Kind: "row", State: "applied", Reason: "r", CreatedAt: at, SettledAt: at, Shard: 2, Book: "rollup", Series: series, Hour: at, Counters: c},
			`{"id":1,"kind":"row","state":"applied","created_at":"2026-11-20T12:00:00Z","settled_at":"2026-11-20T12:00:00Z","shard":2,"reason":"r",` +
				`"book":"rollup","series":{"api_key":"k","mcp_namespaced_tool_name":"tool","endpoint":"/e","tags":["x"]},"hour":"2026-11-20T12:00:00Z",` +
				`"spend":"1.5","api_requests":3,"successful_requests":2,"failed_requests":1,"prompt_tokens":0,"completion_tokens":0,"cache_read_input_tokens":7,"cache_creation_input_tokens":0}`,
		},
		{
			pgstore.Quarantined{ID: 2, Kind: "batch", State: "open", Reason: "r", CreatedAt: at, Size: 9},
			`{"id":2,"kind":"batch","state":"open","created_at":"2026-11-20T12:00:00Z","shard":0,"reason":"r","size":9}`,
		},
		{
			pgstore.Quarantined{ID: 3, Kind: "batch", State: "open", Reason: "r", CreatedAt: at, Size: 9, Sequence: 4, Counted: true},
			`{"id":3,"kind":"batch","state":"open","created_at":"2026-11-20T12:00:00Z","shard":0,"reason":"r",` +
				`"producer":"00000000-0000-0000-0000-000000000000","sequence":4,"size":9,"updates":0,"spend":"0"}`,
		},
	} {
		got, err := json.Marshal(EntryOf(&c.entry))
		if err != nil || string(got) != c.want {
			t.Errorf("%v\n got %s\nwant %s", err, got, c.want)
		}
	}
}
