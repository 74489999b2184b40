package demo

import (
	"bytes"
	"encoding/json"
	"time"

	"github.com/spendflush/spendflush"
)

// wireUpdate is an update as it is sent.
type wireUpdate struct {
	Spend          string   `json:"spend"`
	Time           string   `json:"time"`
	Status         string   `json:"status,omitempty"`
	APIKey         string   `json:"api_key"`
	UserID         string   `json:"user_id,omitempty"`
	EndUserID      string   `json:"end_user_id"`
	TeamID         string   `json:"team_id,omitempty"`
	OrganizationID string   `json:"organization_id,omitempty"`
	AgentID        string   `json:"agent_id,omitempty"`
	Tags           []string `json:"tags,omitempty"`
	Model          string   `json:"model,omitempty"`
	ModelGroup     string   `json:"model_group,omitempty"`
	Provider       string   `json:"custom_llm_provider,omitempty"`
	Tool           string   `json:"mcp_namespaced_tool_name,omitempty"`
	Endpoint       string   `json:"endpoint,omitempty"`
	Prompt         int64    `json:"prompt_tokens"`
	Completion     int64    `json:"completion_tokens"`
	CacheRead      int64    `json:"cache_read_input_tokens"`
	CacheCreation  int64    `json:"cache_creation_input_tokens"`
}

// body writes the updates of a request, one a line.
func body(updates []spendflush.Update) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	for i := range updates {
		u := &updates[i]
		w := wireUpdate{
			Spend: u.Spend.String(), Time: u.Time.Format(time.RFC3339), APIKey: u.APIKey, UserID: u.UserID, EndUserID: u.EndUserID,
			TeamID: u.TeamID, OrganizationID: u.OrganizationID, AgentID: u.AgentID, Tags: u.Tags, Model: u.Model,
			ModelGroup: u.ModelGroup, Provider: u.CustomLLMProvider, Tool: u.MCPNamespacedToolName, Endpoint: u.Endpoint,
			Prompt: u.PromptTokens, Completion: u.CompletionTokens, CacheRead: u.CacheReadInputTokens,
			CacheCreation: u.CacheCreationInputTokens,
		}
		if u.Status == spendflush.Failure {
			w.Status = "failure"
		}
		if err := e.Encode(&w); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}
