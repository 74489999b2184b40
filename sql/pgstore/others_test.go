package pgstore

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/spendflush/spendflush/spend"
)

// A trigger of the operator's refuses one team.
func TestARowThatATriggerOfOthersRaisesForIsSetAsideAndTheRestCommits(t *testing.T) {
	s := open(t, database(t), Options{})
	execute(t, s.pool, `CREATE FUNCTION public.veto() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF NEW.entity_id = 'vetoed' THEN RAISE 'not this team'; END IF; RETURN NEW; END $$`)
	execute(t, s.pool, "CREATE TRIGGER veto BEFORE INSERT ON spendflush.entity FOR EACH ROW EXECUTE FUNCTION public.veto()")
	p := newProducer()
	vetoed := request{spend.Series{APIKey: "k", TeamID: "vetoed"}, noon, one("1")}
	apply(t, s, flushOf(p, 1, 1, vetoed, costOne))
	open, err := s.Quarantined(t.Context(), false, 0, 10)
	if err != nil || len(open) != 1 || open[0].Book != "team" || !strings.Contains(open[0].Reason, "not this team (SQLSTATE P0001)") {
		t.Fatalf("%+v, %v", open, err)
	}
	wantRequests(t, s, 2)
	if err := s.ApplyQuarantined(t.Context(), open[0].ID, "a test"); !errors.Is(err, ErrRefused) {
		t.Errorf("while the trigger is there: %v", err)
	}
	execute(t, s.pool, "DROP TRIGGER veto ON spendflush.entity")
	if err := s.ApplyQuarantined(t.Context(), open[0].ID, "a test"); err != nil {
		t.Error(err)
	}
	wantRequests(t, s, 2)
}

// An index of the operator's takes rows of 2,704 bytes, and ids may have more together.
func TestARowTooLargeForAnIndexOfOthersIsSetAsideAndTheRestCommits(t *testing.T) {
	s := open(t, database(t), Options{})
	execute(t, s.pool, `CREATE INDEX own ON spendflush.series (api_key, user_id, end_user_id, team_id, organization_id, agent_id, model, model_group,
		custom_llm_provider, mcp_namespaced_tool_name, endpoint)`)
	r := rand.New(rand.NewPCG(54, 1))
	noise := func() string {
		text := make([]byte, spend.MaxIDBytes)
		for i := range text {
			text[i] = byte('0' + r.IntN(75))
		}
		return string(text)
	}
	long := request{spend.Series{
		APIKey: noise(), UserID: noise(), EndUserID: noise(), Model: noise(), Endpoint: noise(),
		TeamID: noise(), OrganizationID: noise(), AgentID: noise(), ModelGroup: noise(), CustomLLMProvider: noise(), MCPNamespacedToolName: noise(),
	}, noon, one("1")}
	apply(t, s, flushOf(newProducer(), 1, 1, long, costOne))
	open, err := s.Quarantined(t.Context(), false, 0, 10)
	if err != nil || len(open) != 1 || open[0].Book != "rollup" || !strings.Contains(open[0].Reason, "(SQLSTATE 54000)") {
		t.Fatalf("%+v, %v", open, err)
	}
	wantRequests(t, s, 1)
	execute(t, s.pool, "DROP INDEX spendflush.own")
	if err := s.ApplyQuarantined(t.Context(), open[0].ID, "a test"); err != nil {
		t.Error(err)
	}
	wantRequests(t, s, 2)
}

// A trigger that refuses everything says nothing of any batch: none goes to quarantine for it.
func TestWhatATriggerOfOthersRaisesForAllIsNoFaultOfABatch(t *testing.T) {
	s := open(t, database(t), Options{})
	execute(t, s.pool, "CREATE FUNCTION public.veto() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'closed'; END $$")
	execute(t, s.pool, "CREATE TRIGGER veto BEFORE INSERT ON spendflush.control FOR EACH STATEMENT EXECUTE FUNCTION public.veto()")
	f := flushOf(newProducer(), 1, 1, costOne)
	if err := s.Apply(t.Context(), f); err == nil || errors.Is(err, ErrRefused) || sqlState(err) != "P0001" {
		t.Errorf("%v", err)
	}
	execute(t, s.pool, "DROP TRIGGER veto ON spendflush.control")
	apply(t, s, f)
	wantRequests(t, s, 1)
}
