package demo

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/spendflush/spendflush"
)

// mix makes the updates of one client: what requests to models of several makers cost, on the keys of users in teams.
type mix struct {
	rng          *rand.Rand
	combinations []spendflush.Series // without the end user
}

const (
	combinationsPerClient = 40
	keys                  = 200
	users                 = 60
	teams                 = 8
	organizations         = 2
)

var models = [...]struct{ model, group, provider string }{
	{"gpt-5", "large", "openai"}, {"gpt-5-mini", "small", "openai"}, {"claude-opus", "large", "anthropic"},
	{"claude-haiku", "small", "anthropic"}, {"mistral-large", "large", "mistral"}, {"text-embedding-3", "", "openai"},
}

var tags = [...]string{"production", "batch", "experiment", "chat", "search"}

func newMix(seed uint64) *mix {
	m := &mix{rng: rand.New(rand.NewPCG(seed, 1))}
	for range combinationsPerClient {
		m.combinations = append(m.combinations, m.combination())
	}
	return m
}

// combination chooses a key, and whom and what it is used for. A key is one user's, and a user is in one team.
func (m *mix) combination() spendflush.Series {
	key := m.rng.IntN(keys)
	user := key % users
	team := user % teams
	model := models[m.rng.IntN(len(models))]
	s := spendflush.Series{
		APIKey: fmt.Sprintf("key-%03d", key), UserID: fmt.Sprintf("user-%02d", user), TeamID: fmt.Sprintf("team-%d", team),
		OrganizationID: fmt.Sprintf("org-%d", team%organizations), Model: model.model, ModelGroup: model.group,
		CustomLLMProvider: model.provider, Endpoint: "/v1/chat/completions",
	}
	for range m.rng.IntN(3) {
		s.Tags = append(s.Tags, tags[m.rng.IntN(len(tags))]) // the same one twice now and then
	}
	if m.rng.IntN(8) == 0 {
		s.AgentID = fmt.Sprintf("agent-%d", m.rng.IntN(3))
	}
	if m.rng.IntN(8) == 0 {
		s.MCPNamespacedToolName, s.Endpoint = "web/search", "/mcp"
	}
	return s
}

// next makes an update: one of the combinations, and what the request counts. Some fail, and some are credits.
func (m *mix) next() (combination int, c spendflush.Counters) {
	c = spendflush.Counters{
		Spend: spendflush.Picodollars(m.rng.Int64N(40_000_000_000)), SuccessfulRequests: 1,
		PromptTokens: m.rng.Int64N(4000), CompletionTokens: m.rng.Int64N(1500), CacheReadInputTokens: m.rng.Int64N(3) * 128,
		CacheCreationInputTokens: m.rng.Int64N(2) * 64,
	}
	switch m.rng.IntN(25) {
	case 0:
		c.Spend = c.Spend.Neg()
	case 1, 2:
		c.SuccessfulRequests, c.FailedRequests = 0, 1
	}
	return m.rng.IntN(len(m.combinations)), c
}

// wireUpdate is an update as it is sent.
type wireUpdate struct {
	Spend          string   `json:"spend"`
	Time           string   `json:"time"`
	Status         string   `json:"status,omitempty"`
	APIKey         string   `json:"api_key"`
	UserID         string   `json:"user_id"`
	EndUserID      string   `json:"end_user_id"`
	TeamID         string   `json:"team_id"`
	OrganizationID string   `json:"organization_id"`
	AgentID        string   `json:"agent_id,omitempty"`
	Tags           []string `json:"tags,omitempty"`
	Model          string   `json:"model"`
	ModelGroup     string   `json:"model_group,omitempty"`
	Provider       string   `json:"custom_llm_provider"`
	Tool           string   `json:"mcp_namespaced_tool_name,omitempty"`
	Endpoint       string   `json:"endpoint"`
	Prompt         int64    `json:"prompt_tokens"`
	Completion     int64    `json:"completion_tokens"`
	CacheRead      int64    `json:"cache_read_input_tokens"`
	CacheCreation  int64    `json:"cache_creation_input_tokens"`
}

// body writes the updates of a request, one a line.
func body(updates []update) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	for i := range updates {
		u := &updates[i]
		s, c := &u.series, &u.counters
		w := wireUpdate{
			Spend: c.Spend.String(), Time: u.at.Format(time.RFC3339), APIKey: s.APIKey, UserID: s.UserID, EndUserID: s.EndUserID,
			TeamID: s.TeamID, OrganizationID: s.OrganizationID, AgentID: s.AgentID, Tags: s.Tags, Model: s.Model,
			ModelGroup: s.ModelGroup, Provider: s.CustomLLMProvider, Tool: s.MCPNamespacedToolName, Endpoint: s.Endpoint,
			Prompt: c.PromptTokens, Completion: c.CompletionTokens, CacheRead: c.CacheReadInputTokens,
			CacheCreation: c.CacheCreationInputTokens,
		}
		if c.FailedRequests > 0 {
			w.Status = "failure"
		}
		if err := e.Encode(&w); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}
