package httpapi

import (
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/pgstore"
)

// everything is a series with all there is.
var everything = spend.Series{
	APIKey: "key", UserID: "user", EndUserID: "customer", TeamID: "crew", OrganizationID: "org", AgentID: "agent", Tags: []string{"a", "b"},
	Model: "model", ModelGroup: "group", CustomLLMProvider: "provider", MCPNamespacedToolName: "tool", Endpoint: "endpoint",
}

// everythingShown is the same in JSON.
var everythingShown = map[string]any{
	"api_key": "key", "user_id": "user", "end_user_id": "customer", "team_id": "crew", "organization_id": "org", "agent_id": "agent",
	"tags": []any{"a", "b"}, "model": "model", "model_group": "group", "custom_llm_provider": "provider",
	"mcp_namespaced_tool_name": "tool", "endpoint": "endpoint",
}

var member = spend.Entity{Type: spend.TeamMember, TeamID: "crew", ID: "user"}

func TestUsageCanBeGroupedByEverythingAtOnce(t *testing.T) {
	in := newInstance(t)
	in.run()
	u := spend.Update{Cost: spend.Cost{Spend: spend.Dollars(2), PromptTokens: 1, CompletionTokens: 2, CacheReadInputTokens: 3, CacheCreationInputTokens: 4}, Series: everything}
	in.book(string(encode(t, &u)))
	names := pgstore.GroupNames()
	_, answer := in.get("/v1/usage?by=total&entity_type=team_member&team_id=crew&entity_id=user&group_by=" + strings.Join(names, ","))
	var got []map[string]any
	for _, row := range answer["rows"].([]any) {
		got = append(got, row.(map[string]any))
	}
	var want []map[string]any
	for _, tag := range everything.Tags {
		row := map[string]any{
			"entity_id": "user", "tag": tag, "spend": "2", "api_requests": 1.0, "successful_requests": 1.0, "failed_requests": 0.0,
			"prompt_tokens": 1.0, "completion_tokens": 2.0, "cache_read_input_tokens": 3.0, "cache_creation_input_tokens": 4.0,
		}
		for _, name := range names {
			if row[name] == nil {
				row[name] = everythingShown[name]
			}
		}
		want = append(want, row)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%v, want\n%v", got, want)
	}
}

func TestRowsAndBatchesInQuarantineAreShownWithAllThatIsInThem(t *testing.T) {
	in := newInstance(t)
	producer := spend.NewProducerID(time.Now())
	batch := func(sequence uint64, dollars ...string) *spend.Batch {
		costs := []cost{{everything, member, dollars[0]}}
		for i, text := range dollars[1:] {
			e := spend.Entity{Type: spend.TeamMember, TeamID: "crew", ID: fmt.Sprint("counterweight ", i)}
			costs = append(costs, cost{spend.Series{TeamID: e.TeamID, UserID: e.ID}, e, text})
		}
		return madeUp(t, producer, sequence, costs...)
	}
	in.commit(batch(1, most, "-"+most, "0"), 1)
	in.commit(batch(2, "1", "0", "-1"), 2) // for whose first row there is no room, neither in the total nor in the rollup
	set := madeUp(t, producer, 4, cost{everything, member, "0.5"})
	if err := in.store.Quarantine(t.Context(), []spend.BadBatch{{Reason: "set aside", Bytes: set.Bytes()}}); err != nil {
		t.Fatal(err)
	}
	_, answer := in.get("/v1/quarantine")
	books := map[any]map[string]any{}
	for _, entry := range answer["entries"].([]any) {
		entry := entry.(map[string]any)
		books[entry["book"]] = entry
	}
	entity := map[string]any{"entity_type": "team_member", "entity_id": "user", "team_id": "crew"}
	if total := books["team_member"]; !reflect.DeepEqual(total["entity"], entity) || total["spend"] != "1" || total["series"] != nil {
		t.Errorf("the total: %v", total)
	}
	hour := longPast.Time().UTC().Format(time.RFC3339)
	if rollup := books["rollup"]; !reflect.DeepEqual(rollup["series"], any(everythingShown)) || rollup["hour"] != hour || rollup["entity"] != nil {
		t.Errorf("the rollup: %v", rollup)
	}
	_, shown := in.get(fmt.Sprintf("/v1/quarantine/%v", books[nil]["id"]))
	totals, _ := shown["totals"].([]any)
	rollups, _ := shown["rollups"].([]any)
	if len(totals) != 1 || len(rollups) != 1 {
		t.Fatalf("the batch: %v", shown)
	}
	if total := totals[0].(map[string]any); total["team_id"] != "crew" || total["spend"] != "0.5" || total["api_requests"] != 1.0 {
		t.Errorf("its total: %v", total)
	}
	if rollup := rollups[0].(map[string]any); !reflect.DeepEqual(rollup["series"], any(everythingShown)) || rollup["hour"] != hour {
		t.Errorf("its rollup: %v", rollup)
	}
	_, audit := in.get("/v1/audit")
	rows := audit["quarantine"].(map[string]any)["rows"]
	want := []any{
		map[string]any{"book": "rollup", "entries": 1.0, "spend": "1", "api_requests": "1"},
		map[string]any{"book": "team_member", "entries": 1.0, "spend": "1", "api_requests": "1"},
	}
	if !reflect.DeepEqual(rows, any(want)) {
		t.Errorf("the audit tells of the rows %v", rows)
	}
}

func TestBooksThatSomebodyChangedAreToldByEntity(t *testing.T) {
	in := newInstance(t)
	in.run()
	in.book(`{"spend":"2.5","team_id":"crew","user_id":"user"}`)
	if _, err := in.store.Pool().Exec(t.Context(), "UPDATE spendflush.total SET spend = spend + 1, failed_requests = failed_requests + 1"); err != nil {
		t.Fatal(err)
	}
	_, audit := in.get("/v1/audit")
	var named []any
	for _, check := range audit["checks"].([]any) {
		if entities, ok := check.(map[string]any)["entities"].([]any); ok {
			named = append(named, entities...)
		}
	}
	found := false
	for _, e := range named {
		found = found || reflect.DeepEqual(e, any(map[string]any{
			"entity_type": "team_member", "entity_id": "user", "team_id": "crew", "total_spend": "3.5", "rollup_spend": "2.5",
			"total_requests": "2", "rollup_requests": "1",
		}))
	}
	if audit["ok"] != false || len(named) != 3 || !found {
		t.Errorf("ok %v, entities %v", audit["ok"], named)
	}
}

func TestAFlushIsToldInTheStatusAndALossInThePipeline(t *testing.T) {
	in := newInstance(t)
	in.run()
	producer := spend.NewProducerID(time.Now())
	in.commit(madeUp(t, producer, 2, keyCost("k", "1.5")), 1)
	for held := false; !held; { // the lock is held while there is something to flush
		in.book(`{"spend":"0.25","team_id":"crew"}`)
		_, status := in.get("/v1/status")
		flush := status["recent_flushes"].([]any)[0].(map[string]any)
		if flush["path"] != "queue" || flush["updates"] != 1.0 || flush["amount"] != "0.25" || flush["rows"] != 2.0 {
			t.Fatalf("flush %v", flush)
		}
		shard := status["shards"].([]any)[0].(map[string]any)
		if held = shard["held_since"] != nil; held != (shard["holds_lock"] == true) {
			t.Fatalf("shard %v", shard)
		}
	}
	status, pipeline := in.get("/v1/pipeline")
	problems, _ := pipeline["problems"].([]any)
	if status != http.StatusOK || pipeline["state"] != "bad" || pipeline["lost_batches"] != 1.0 || pipeline["last_lost_at"] == nil || len(problems) != 1 ||
		problems[0].(map[string]any)["runbook"] != "spendflushlostbatches" {
		t.Errorf("%d %v", status, pipeline)
	}
}
