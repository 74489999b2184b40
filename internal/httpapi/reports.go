package httpapi

import (
	"context"
	"time"

	"github.com/spendflush/spendflush"
)

// Reader is the read side of the database.
type Reader interface {
	// Spend returns what is committed of the entity and the marks of the producer, from one snapshot.
	Spend(ctx context.Context, e spendflush.Entity, producer spendflush.ProducerID) (SpendReport, error)
	// Usage calls yield with the rows of the report, in order, until it returns an error, which Usage returns.
	Usage(ctx context.Context, q UsageQuery, yield func(UsageRow) error) error
	Audit(ctx context.Context) (AuditReport, error)
	Ping(ctx context.Context) error
}

// SpendReport is what is committed of one entity.
type SpendReport struct {
	Found     bool
	Committed spendflush.Counters
	UpdatedAt time.Time
	Marks     map[int]uint64
	AsOf      time.Time
}

type UsageQuery struct {
	EntityType spendflush.EntityType
	EntityID   string
	TeamID     string
	From, To   time.Time
	By         Granularity
	Location   *time.Location
	GroupBy    []string
}

type Granularity uint8

const (
	Hour Granularity = iota
	Day
	Total
)

type UsageRow struct {
	Start    time.Time
	Group    []string
	Counters spendflush.Counters
}

type AuditReport struct {
	OK   bool      `json:"ok"`
	AsOf time.Time `json:"as_of"`
}

func GroupNames() []string {
	return []string{"entity_id", "team_id", "api_key", "user_id", "end_user_id", "organization_id", "agent_id", "model",
		"model_group", "custom_llm_provider", "mcp_namespaced_tool_name", "endpoint", "tag"}
}
