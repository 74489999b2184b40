package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// What these tests know of the storage behind the relations that are there to be read. It may
// change with it.

// flushTables are the tables that a flush writes its marks and sums into.
var flushTables = []string{"producers", "control", "total", "rollup"}

// checkHours compares the sums of every combination of ids, tags and dimensions in every hour.
func (s *stack) checkHours(b *book) {
	s.t.Helper()
	compare(s.t, "rollup", b.hours, s.readHours())
}

// readHours reads the rollup with what its series stand for.
func (s *stack) readHours() map[hourly]sums {
	s.t.Helper()
	rows := readMap(s.t, s.postgres, `SELECT r.day + make_interval(hours => r.hour), s.api_key, s.user_id, s.end_user_id,
		s.team_id, s.organization_id, s.agent_id, to_json(s.tags)::text, s.model, s.model_group, s.custom_llm_provider,
		s.mcp_namespaced_tool_name, s.endpoint, spend::text, successful_requests + failed_requests, successful_requests,
		failed_requests, prompt_tokens, completion_tokens, cache_read_input_tokens, cache_creation_input_tokens
		FROM spendflush.rollup r JOIN spendflush.series s ON s.key = r.series`, func(k *hourly) []any {
		return []any{
			&k.Hour, &k.APIKey, &k.UserID, &k.EndUserID, &k.TeamID, &k.OrganizationID, &k.AgentID, &k.Tags,
			&k.Model, &k.ModelGroup, &k.Provider, &k.Tool, &k.Endpoint,
		}
	})
	got := make(map[hourly]sums, len(rows))
	for k, x := range rows {
		var tags []string
		if err := json.Unmarshal([]byte(k.Tags), &tags); err != nil {
			s.t.Fatal(err)
		}
		k.Hour, k.Tags = k.Hour.UTC(), fmt.Sprintf("%q", tags)
		got[k] = x
	}
	return got
}

// tamper changes one amount in the books by the smallest sum of money.
func (s *stack) tamper() {
	s.t.Helper()
	s.execute("UPDATE spendflush.total SET spend = spend + 0.000000000001 WHERE entity = (SELECT min(entity::text)::uuid FROM spendflush.total)")
}

// makeNewer makes the database look as if a later version of the program had migrated it.
func (s *stack) makeNewer() {
	s.t.Helper()
	s.execute("INSERT INTO spendflush.migrations (version_id, is_applied) VALUES (99999, true)")
}

// execute runs a statement that has to change something.
func (s *stack) execute(statement string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.postgres)
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close(ctx)
	if tag, err := conn.Exec(ctx, statement); err != nil || tag.RowsAffected() == 0 {
		s.t.Fatalf("%s: %s %v", statement, tag, err)
	}
}
