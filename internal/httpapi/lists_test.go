package httpapi

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spendflush/spendflush/internal/docpages"
	"github.com/spendflush/spendflush/spend"
)

// list returns the rows of the answer at the path, each as a line of the named members.
func (in *instance) list(path, member string, names ...string) (lines []string, next any) {
	in.t.Helper()
	status, answer := in.get(path)
	rows, ok := answer[member].([]any)
	if status != http.StatusOK || !ok {
		in.t.Fatalf("%s: %d %v", path, status, answer)
	}
	for _, row := range rows {
		var values []string
		for _, name := range names {
			values = append(values, fmt.Sprint(row.(map[string]any)[name]))
		}
		lines = append(lines, strings.Join(values, " "))
	}
	return lines, answer["next"]
}

func (in *instance) wantList(path, member, names string, want ...string) {
	in.t.Helper()
	if got, _ := in.list(path, member, strings.Fields(names)...); !slices.Equal(got, want) {
		in.t.Errorf("%s: got\n%q, want\n%q", path, got, want)
	}
}

// pages follows next from the path, which has a query, to its end.
func (in *instance) pages(path, member string, names ...string) (all []string) {
	in.t.Helper()
	for after := ""; ; {
		lines, next := in.list(path+after, member, names...)
		all = append(all, lines...)
		if next == nil {
			return all
		}
		after = "&after=" + url.QueryEscape(fmt.Sprint(next))
	}
}

// book records updates and waits until they are in the books.
func (in *instance) book(lines ...string) {
	in.t.Helper()
	if status, answer := in.post("?ack=committed&timeout=60s", "application/x-ndjson", strings.Join(lines, "\n")); status != http.StatusOK {
		in.t.Fatalf("%d %v", status, answer)
	}
}

func (in *instance) wantProblem(path string, kind problemType) {
	in.t.Helper()
	if status, answer := in.get(path); status != kind.status || answer["type"] != typeOf(kind) {
		in.t.Errorf("%s: %d %v, want %s", path, status, answer, kind.slug)
	}
}

func TestEntitiesAreFoundByTheBeginningOfTheirIdsAndListedByWhatTheySpent(t *testing.T) {
	in := newInstance(t)
	in.run()
	in.book(`{"spend":"3","team_id":"red","user_id":"rita"}`, `{"spend":"0.5","team_id":"red","user_id":"rolf"}`,
		`{"spend":"4","team_id":"rot"}`, `{"spend":"9","tags":["re/d"]}`, `{"spend":"0.25","team_id":"blue"}`)
	const names = "entity_type entity_id team_id spend api_requests"
	in.wantList("/v1/entities?q=re", "entities", names, "tag re/d  9 1", "team red  3.5 2")
	in.wantList("/v1/entities?q=re%2F", "entities", names, "tag re/d  9 1")
	in.wantList("/v1/entities?q=r&entity_type=team", "entities", names, "team red  3.5 2", "team rot  4 1")
	in.wantList("/v1/entities?q=r&entity_type=team_member", "entities", names, "team_member rita red 3 1", "team_member rolf red 0.5 1")
	in.wantList("/v1/entities?q=r&entity_type=team&limit=1", "entities", names, "team red  3.5 2")
	in.wantList("/v1/entities?q=nobody", "entities", names)
	in.wantList("/v1/entities?entity_type=team", "entities", names, "team rot  4 1", "team red  3.5 2", "team blue  0.25 1")
	in.wantList("/v1/entities?limit=2", "entities", names, "tag re/d  9 1", "team rot  4 1")
	for _, query := range []string{"limit=0", "limit=101", "limit=x", "entity_type=teams", "q=%00", "q=" + strings.Repeat("a", 257), "begin=r"} {
		in.wantProblem("/v1/entities?"+query, invalidRequest)
	}
}

func TestEntitiesAreSearchedWithinTheirIdsAndListedPageByPage(t *testing.T) {
	in := newInstance(t)
	in.run()
	in.book(`{"spend":"3","team_id":"EU-Sales","user_id":"rita"}`, `{"spend":"0.5","team_id":"sales us","user_id":"rita"}`, `{"spend":"4","team_id":"Research"}`,
		`{"spend":"9","tags":["presales"]}`, `{"spend":"0.25","team_id":"eng"}`)
	const names = "entity_type entity_id team_id spend api_requests"
	in.wantList("/v1/entities?contains=SALES", "entities", names, "team EU-Sales  3 1", "tag presales  9 1", "team sales us  0.5 1")
	in.wantList("/v1/entities?contains=sales&limit=2", "entities", names, "team EU-Sales  3 1", "tag presales  9 1")
	in.wantList("/v1/entities?contains=sales&entity_type=team", "entities", names, "team EU-Sales  3 1", "team sales us  0.5 1")
	in.wantList("/v1/entities?contains=sales&entity_type=team&order_by=id", "entities", names, "team EU-Sales  3 1", "team sales us  0.5 1")
	in.wantList("/v1/entities?contains=nobody", "entities", names)
	for _, limit := range []int{1, 2, 3, 100} {
		all := []string{"team EU-Sales  3 1", "team Research  4 1", "team eng  0.25 1", "team sales us  0.5 1"}
		if got := in.pages(fmt.Sprintf("/v1/entities?entity_type=team&order_by=id&limit=%d", limit), "entities", strings.Fields(names)...); !slices.Equal(got, all) {
			t.Errorf("%d a page: %q", limit, got)
		}
		found := []string{all[0], all[3]}
		if got := in.pages(fmt.Sprintf("/v1/entities?entity_type=team&contains=s&limit=%d", limit), "entities", strings.Fields(names)...); !slices.Equal(got, []string{all[0], all[1], all[3]}) {
			t.Errorf("with an s, %d a page: %q", limit, got)
		}
		if got := in.pages(fmt.Sprintf("/v1/entities?entity_type=team&contains=aLe&limit=%d", limit), "entities", strings.Fields(names)...); !slices.Equal(got, found) {
			t.Errorf("found, %d a page: %q", limit, got)
		}
		if got := in.pages(fmt.Sprintf("/v1/entities?entity_type=team_member&order_by=id&limit=%d", limit), "entities", strings.Fields(names)...); len(got) != 2 {
			t.Errorf("members, %d a page: %q", limit, got)
		}
	}
	for _, c := range []struct {
		query    string
		complete any
	}{{"contains=a", true}, {"contains=a&entity_type=tag", true}, {"q=a", nil}, {"entity_type=team&order_by=id", nil}} {
		if _, answer := in.get("/v1/entities?" + c.query); answer["complete"] != c.complete {
			t.Errorf("%s: %v", c.query, answer)
		}
	}
	for _, query := range []string{
		"q=a&contains=b", "contains=%00", "contains=" + strings.Repeat("a", 257), "order_by=id", "order_by=name&entity_type=team", "order_by=", "q=a&order_by=spend",
		"after=dGVhbS0xAA", "after=dGVhbS0xAA&entity_type=team", "after=dGVhbS0xAA&contains=a", "after=dGVhbS0xAA&entity_type=team&q=t",
		"after=&entity_type=team&order_by=id", "after=dGVhbS0x&entity_type=team&order_by=id", "after=AA&entity_type=team&order_by=id", "after=%25&entity_type=team&order_by=id",
	} {
		in.wantProblem("/v1/entities?"+query, invalidRequest)
	}
}

func TestTopListsHaveTheLargestRowsOfWhatWasAskedFor(t *testing.T) {
	in := newInstance(t)
	in.run()
	in.book(`{"spend":"1","team_id":"a","model":"big","custom_llm_provider":"p","prompt_tokens":10,"completion_tokens":3}`,
		`{"spend":"1","team_id":"b","model":"big","custom_llm_provider":"q","prompt_tokens":20,"completion_tokens":1}`,
		`{"spend":"5","team_id":"a","model":"dear","custom_llm_provider":"p","prompt_tokens":1,"completion_tokens":2,"status":"failure"}`,
		`{"spend":"0.5","team_id":"a","model":"small","custom_llm_provider":"p","prompt_tokens":7,"completion_tokens":50}`)
	top := func(query, names string, want ...string) {
		t.Helper()
		in.wantList("/v1/usage?by=total&"+query, "rows", names, want...)
	}
	top("group_by=model&order_by=spend&limit=2", "model spend", "dear 5", "big 2")
	top("group_by=model&order_by=api_requests&limit=1", "model api_requests", "big 2")
	top("group_by=model&order_by=prompt_tokens", "model prompt_tokens", "big 30", "small 7", "dear 1")
	top("group_by=model&order_by=completion_tokens", "model completion_tokens", "small 50", "big 4", "dear 2")
	top("group_by=team_id&order_by=spend&model=big", "team_id spend", "a 1", "b 1")
	top("group_by=model&order_by=spend&custom_llm_provider=p", "model spend", "dear 5", "big 1", "small 0.5")
	top("group_by=model&order_by=spend&custom_llm_provider=p&model=big", "model spend prompt_tokens", "big 1 10")
	top("entity_type=team&entity_id=a&group_by=model&order_by=spend&limit=1", "model spend failed_requests", "dear 5 1")
	top("model=unknown", "spend")
	for _, query := range []string{"order_by=date", "order_by=", "limit=0", "limit=1001", "limit=-1", "limit=1e2"} {
		in.wantProblem("/v1/usage?"+query, invalidRequest)
	}
}

// cost is a request of a batch that is made up, in an hour long past: its series, and one of the
// entities that it counts on.
type cost struct {
	series  spend.Series
	entity  spend.Entity
	dollars string
}

const longPast = spend.Hour(490_000)

func keyCost(key, dollars string) cost {
	return cost{spend.Series{APIKey: key}, spend.Entity{Type: spend.APIKey, ID: key}, dollars}
}

// madeUp returns a batch of a producer that isn't the instance.
func madeUp(t testing.TB, producer spend.ProducerID, sequence uint64, costs ...cost) *spend.Batch {
	t.Helper()
	var totals []spend.TotalRow
	var rollups []spend.RollupRow
	for _, of := range costs {
		amount, err := spend.ParseAmount(of.dollars)
		if err != nil {
			t.Fatal(err)
		}
		c := spend.Counters{Spend: amount, SuccessfulRequests: 1}
		totals = append(totals, spend.TotalRow{Key: of.entity.Key(), Entity: of.entity, Counters: c})
		rollups = append(rollups, spend.NewRollupRow(&of.series, longPast, c))
	}
	slices.SortFunc(totals, func(a, b spend.TotalRow) int { return a.Key.Compare(b.Key) })
	slices.SortFunc(rollups, func(a, b spend.RollupRow) int { return a.Key.Compare(b.Key) })
	h := spend.Header{Books: testBooks, Producer: producer, Sequence: 1, SealedAt: producer.Born()}
	b := spend.NewBatch(h, totals, rollups)
	for h.Sequence < sequence { // those before it were like it
		h.Sequence++
		h.PriorUpdates, h.PriorAmount, h.PriorDigest = h.PriorUpdates+b.Updates, h.PriorAmount.Add(b.Amount), b.Digest()
		b = spend.NewBatch(h, totals, rollups)
	}
	return b
}

// commit books a batch past the queue, with those before it from the given one on skipped as lost.
func (in *instance) commit(b *spend.Batch, from uint64) {
	in.t.Helper()
	f, err := b.Flush(spend.Mark{Sequence: b.Sequence - 1, Digest: b.PriorDigest})
	if err != nil {
		in.t.Fatal(err)
	}
	marks, err := in.store.Marks(in.t.Context(), b.Shard, []spend.ProducerID{b.Producer})
	if err != nil {
		in.t.Fatal(err)
	}
	f.Claims[0].First, f.Claims[0].Prior = from, marks.Of[b.Producer].Digest // whatever came before
	if from < b.Sequence {
		f.Lost = []spend.LostRange{{Producer: b.Producer, First: from, Last: b.Sequence - 1, Reason: "missing"}}
	}
	if err := in.store.Apply(in.t.Context(), f); err != nil {
		in.t.Fatal(err)
	}
}

const most = "99999999999999999999999999" // dollars that a total can hold

// aside puts five entries into quarantine: 1, a batch that can't be read; 2, one whose turn it
// isn't; 3, one whose turn it is; 4, one that is in the books; 5, a row that a total has no room
// for, until mend is called. producer is that of 2 to 4.
func (in *instance) aside() (producer spend.ProducerID, mend func()) {
	in.t.Helper()
	filler := spend.NewProducerID(time.Now())
	in.commit(madeUp(in.t, filler, 1, keyCost("full", most), keyCost("counterweight", "-"+most)), 1)
	producer = spend.NewProducerID(time.Now())
	batch := func(sequence uint64) []byte {
		return madeUp(in.t, producer, sequence, keyCost("k", "2.5")).Bytes()
	}
	in.commit(madeUp(in.t, producer, 1, keyCost("k", "2.5")), 1)
	for _, bytes := range [][]byte{[]byte("not a batch"), batch(3), batch(2), batch(1)} {
		err := in.store.Quarantine(in.t.Context(), []spend.BadBatch{{Reason: "set aside", Bytes: bytes}})
		if err != nil {
			in.t.Fatal(err)
		}
	}
	in.book(`{"spend":"1.25","api_key":"full","team_id":"crew","model":"m","prompt_tokens":7}`)
	return producer, func() {
		in.commit(madeUp(in.t, filler, 2, keyCost("full", "-"+most), keyCost("counterweight", most)), 2)
	}
}

// settle posts that the entry is to be applied or dropped.
func (in *instance) settle(id int, what string) (int, map[string]any) {
	in.t.Helper()
	resp, err := http.Post(fmt.Sprintf("%s/v1/quarantine/%d/%s", in.url, id, what), "application/json", strings.NewReader(fmt.Sprintf(`{"id":%d}`, id)))
	if err != nil {
		in.t.Fatal(err)
	}
	return in.decode(resp)
}

func TestTheQuarantineIsListedAndShown(t *testing.T) {
	in := newInstance(t)
	in.run()
	producer, _ := in.aside()
	const names = "id kind state sequence spend"
	all := []string{"1 batch open <nil> <nil>", "2 batch open 3 2.5", "3 batch open 2 2.5", "4 batch open 1 2.5", "5 row open <nil> 1.25"}
	in.wantList("/v1/quarantine", "entries", names, all...)
	in.wantList("/v1/quarantine?state=applied", "entries", names)
	in.wantList("/v1/quarantine?after=3", "entries", names, all[3:]...)
	for limit := 1; limit <= 5; limit++ {
		if got := in.pages(fmt.Sprintf("/v1/quarantine?state=all&limit=%d", limit), "entries", strings.Fields(names)...); !slices.Equal(got, all) {
			t.Errorf("%d a page: %q", limit, got)
		}
	}
	if _, answer := in.get("/v1/quarantine?limit=5"); answer["next"] != nil {
		t.Errorf("there is a page behind the last: %v", answer["next"])
	}
	if _, answer := in.get("/v1/quarantine/1"); answer["unreadable"] != "corrupt batch: 11 bytes without a batch header" ||
		answer["first_bytes"] != "6e6f742061206261746368" || answer["size"] != 11.0 {
		t.Errorf("entry 1: %v", answer)
	}
	_, answer := in.get("/v1/quarantine/2")
	header, _ := answer["header"].(map[string]any)
	totals, _ := answer["totals"].([]any)
	if answer["producer"] != producer.String() || answer["mark"] != 1.0 || header["sequence"] != 3.0 || header["spend"] != "2.5" ||
		len(totals) != 1 || fmt.Sprint(totals[0].(map[string]any)["entity_id"]) != "k" ||
		!strings.HasPrefix(fmt.Sprint(answer["advice"]), "batch 2 of its producer must be in the books before it") {
		t.Errorf("entry 2: %v", answer)
	}
	_, answer = in.get("/v1/quarantine/5")
	if entity, _ := answer["entity"].(map[string]any); entity["entity_id"] != "full" || answer["book"] != "api_key" || answer["prompt_tokens"] != 7.0 ||
		!strings.Contains(fmt.Sprint(answer["reason"]), "numeric field overflow") {
		t.Errorf("entry 5: %v", answer)
	}
	in.wantProblem("/v1/quarantine/6", notFound)
	for _, path := range []string{"/0", "/-1", "/x", "/9223372036854775808", "/1?more=1", "?state=closed", "?after=0", "?after=x", "?limit=501"} {
		in.wantProblem("/v1/quarantine"+path, invalidRequest)
	}
}

func TestAnEntryIsSettledOnceAndOnlyWhenItsTurnHasCome(t *testing.T) {
	in := newInstance(t)
	in.run()
	_, mend := in.aside()
	for _, step := range []struct {
		id     int
		what   string
		before func()
		status int
		says   string // of the result, or of the type of the problem
		detail string
	}{
		{6, "apply", nil, 404, "not-found", "quarantine has no entry 6"},
		{6, "drop", nil, 404, "not-found", "quarantine has no entry 6"},
		{1, "apply", nil, 409, "not-applied", "corrupt batch"},
		{2, "apply", nil, 409, "not-applied", "batch 2 of its producer must be in the books before it"},
		{3, "apply", nil, 200, "applied", "batch 2"},
		{3, "apply", nil, 409, "already-settled", "it was applied at 20"},
		{3, "drop", nil, 409, "already-settled", "it was applied at 20"},
		{2, "apply", nil, 200, "applied", "batch 3"},
		{4, "apply", nil, 409, "not-applied", "already in the books"},
		{4, "drop", nil, 200, "dropped", "batch 1"},
		{4, "drop", nil, 409, "already-settled", "it was dropped at 20"},
		{4, "apply", nil, 409, "already-settled", "it was dropped at 20"},
		{1, "drop", nil, 200, "dropped", "11 bytes"},
		{5, "apply", nil, 409, "not-applied", "numeric field overflow"},
		{5, "apply", mend, 200, "applied", `api_key "full"`},
	} {
		if step.before != nil {
			step.before()
		}
		status, answer := in.settle(step.id, step.what)
		says := fmt.Sprint(answer["result"])
		if answer["type"] != nil {
			says = strings.TrimPrefix(fmt.Sprint(answer["type"]), docpages.URL("api", ""))
		}
		if status != step.status || says != step.says || !strings.Contains(fmt.Sprint(answer["detail"]), step.detail) {
			t.Errorf("%s %d: %d %v; want %d %s, %q", step.what, step.id, status, answer, step.status, step.says, step.detail)
		}
	}
	in.wantList("/v1/quarantine?state=all", "entries", "id state", "1 dropped", "2 applied", "3 applied", "4 dropped", "5 applied")
	in.wantList("/v1/quarantine?state=dropped", "entries", "id settled_by", "1 no token, 127.0.0.1, instance here", "4 no token, 127.0.0.1, instance here")
	in.wantList("/v1/quarantine?state=applied", "entries", "id", "2", "3", "5")
	in.wantList("/v1/quarantine", "entries", "id")
	for path, want := range map[string]string{"/v1/spend/api_key/k": "7.5", "/v1/spend/api_key/full": "1.25"} {
		if _, answer := in.get(path); counter(answer, "committed", "spend") != want {
			t.Errorf("%s: %v, want %s", path, answer, want)
		}
	}
	if _, answer := in.get("/v1/audit"); answer["ok"] != true {
		t.Errorf("audit: %v", answer)
	}
}

func TestNothingIsSettledByAnAddressAlone(t *testing.T) {
	in := newInstance(t)
	in.run()
	in.aside()
	for body, kind := range map[string]problemType{
		`{"id":1}`: invalidRequest, `{}`: invalidRequest, `{"id":"3"}`: invalidJSON, `{"id":3,"force":true}`: invalidJSON, "": invalidJSON, `{"id":3.5}`: invalidJSON,
	} {
		for _, what := range []string{"apply", "drop"} {
			wantProblem(t, do(in.api, "POST", "/v1/quarantine/3/"+what, body, asJSON), kind)
		}
	}
	wantProblem(t, do(in.api, "POST", "/v1/quarantine/3/apply", `{"id":3}`, "Content-Type: text/plain"), unsupportedMediaType)
	wantProblem(t, do(in.api, "POST", "/v1/quarantine/3/apply?id=3", `{"id":3}`, asJSON), invalidRequest)
	wantProblem(t, do(in.api, "GET", "/v1/quarantine/3/apply", ""), methodNotAllowed)
	in.wantList("/v1/quarantine", "entries", "id", "1", "2", "3", "4", "5")
}

func TestLostBatchesAreListedPageByPage(t *testing.T) {
	in := newInstance(t)
	older := spend.NewProducerID(time.Now().Add(-time.Hour))
	newer := spend.NewProducerID(time.Now())
	batch := func(p spend.ProducerID, sequence uint64) *spend.Batch {
		return madeUp(t, p, sequence, keyCost("k", "1.5"))
	}
	in.commit(batch(older, 5), 1) // 1 to 4 are lost
	in.commit(batch(newer, 2), 1) // 1 is lost
	marks, err := in.store.Marks(t.Context(), 0, []spend.ProducerID{older})
	if err != nil {
		t.Fatal(err)
	}
	found, err := batch(older, 3).Flush(marks.Of[older])
	if err != nil {
		t.Fatal(err)
	}
	if err := in.store.Apply(t.Context(), found); err != nil {
		t.Fatal(err)
	}
	names := []string{"producer", "shard", "first_sequence", "last_sequence", "batches", "reason", "producer_lost_batches", "producer_missing_updates", "producer_missing_amount"}
	all := []string{newer.String() + " 0 1 1 1 missing 1 1 1.5"}
	for _, place := range []string{"4 4 1", "3 3 1", "1 2 2"} {
		all = append(all, fmt.Sprintf("%s 0 %s missing 3 3 4.5", older, place))
	}
	for limit := 1; limit <= 5; limit++ {
		if got := in.pages(fmt.Sprintf("/v1/lost-batches?limit=%d", limit), "lost_batches", names...); !slices.Equal(got, all) {
			t.Errorf("%d a page: got\n%q, want\n%q", limit, got, all)
		}
	}
	_, answer := in.get("/v1/lost-batches")
	for i, row := range answer["lost_batches"].([]any) {
		if _, turnedUp := row.(map[string]any)["found_at"]; turnedUp != (i == 2) {
			t.Errorf("batch %d: found %t", i, turnedUp)
		}
	}
	if _, answer := in.get("/v1/audit"); answer["ok"] != true || answer["lost_batches"] != 4.0 || answer["lost_amount"] != "6" {
		t.Errorf("audit: %v", answer)
	}
	for _, query := range []string{
		"limit=0", "limit=501", "after=1", "after=" + older.String() + "/0", "after=x/0/1", "after=" + older.String() + "/-1/1",
		"after=" + older.String() + "/0/9223372036854775808", "state=missing",
	} {
		in.wantProblem("/v1/lost-batches?"+query, invalidRequest)
	}
}

func TestSlowReportsKeepNeitherSearchesNorTheQuarantineOut(t *testing.T) {
	in := newInstance(t)
	in.api.reports.taken = in.api.reports.size
	for _, path := range []string{"/v1/entities?q=a", "/v1/entities?entity_type=team&order_by=id", "/v1/quarantine", "/v1/lost-batches"} {
		if status, answer := in.get(path); status != http.StatusOK {
			t.Errorf("%s: %d %v", path, status, answer)
		}
	}
	in.wantProblem("/v1/quarantine/1", notFound)
	if status, answer := in.settle(1, "drop"); status != http.StatusNotFound {
		t.Errorf("drop: %d %v", status, answer)
	}
	in.wantProblem("/v1/entities", busy)            // reads all totals
	in.wantProblem("/v1/entities?contains=a", busy) // looks at many names
}
