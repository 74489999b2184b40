package spend

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Bounds of an Update. They are chosen so that no sum of accepted updates can overflow before
// 9*10^9 updates of the largest size have been booked on one row.
const (
	MaxIDBytes = 256                 // bytes of an id, a tag or a dimension
	MaxTags    = 64                  // tags of one update
	MaxTokens  = 1_000_000_000       // each token counter of one update
	MaxAge     = 35 * 24 * time.Hour // how far Update.Time may lie back
	MaxAhead   = 5 * time.Minute     // how far Update.Time may lie ahead
)

// MaxSpend bounds the size of Update.Spend: 10^9 dollars. 10^17 updates of that size fit
// NUMERIC(38,12).
var MaxSpend = Dollars(1_000_000_000)

var minSpend = MaxSpend.Neg()

// Status says how the request ended that an update books.
type Status uint8

// The statuses. The zero value is Success.
const (
	Success Status = iota
	Failure
)

func (s Status) String() string {
	if s == Failure {
		return "failure"
	}
	return "success"
}

// MarshalText implements encoding.TextMarshaler. A status that is none is an error.
func (s Status) MarshalText() ([]byte, error) {
	if s > Failure {
		return nil, fmt.Errorf("status is %d; allowed are Success and Failure", uint8(s))
	}
	return []byte(s.String()), nil
}

// UnmarshalText reads what MarshalText writes.
func (s *Status) UnmarshalText(text []byte) error {
	switch string(text) {
	case "success":
		*s = Success
	case "failure":
		*s = Failure
	default:
		return fmt.Errorf("status is %.40q; allowed are success and failure", text)
	}
	return nil
}

// Update is what one request cost and whom and what it counts on. At least one id or tag must be
// set; an empty id means "none". Its JSON is one flat object, which POST /v1/updates takes.
type Update struct {
	// ID is the caller's name for what the update books, 1 to MaxIDBytes bytes of valid UTF-8
	// without NUL. What has the same ID counts once, whichever instance it is told to, within
	// Config.IDWindow. "": it has none, and counts each time.
	ID string `json:"id,omitempty"`

	Cost
	Series
}

// Series is a combination of ids, tags and dimensions. All requests of one combination in one hour
// share one row of the rollup. Each text is at most MaxIDBytes of valid UTF-8 without NUL.
type Series struct {
	APIKey         string `json:"api_key,omitempty"`
	UserID         string `json:"user_id,omitempty"`
	EndUserID      string `json:"end_user_id,omitempty"`
	TeamID         string `json:"team_id,omitempty"`
	OrganizationID string `json:"organization_id,omitempty"`
	AgentID        string `json:"agent_id,omitempty"`

	Model                 string `json:"model,omitempty"`
	ModelGroup            string `json:"model_group,omitempty"`
	CustomLLMProvider     string `json:"custom_llm_provider,omitempty"`
	MCPNamespacedToolName string `json:"mcp_namespaced_tool_name,omitempty"`
	Endpoint              string `json:"endpoint,omitempty"`

	// Tags is a set: order and repetition mean nothing. Each tag gets the full amount.
	Tags []string `json:"tags,omitempty"`
}

// seriesFields are the scalar fields of a Series in their canonical order: six ids, then five
// dimensions. The order is part of the identity of a series (see Series.Key) and of the batch
// format.
const (
	seriesIDs    = 6
	seriesFields = 11
)

var seriesFieldNames = [seriesFields]string{
	"api_key", "user_id", "end_user_id", "team_id", "organization_id", "agent_id",
	"model", "model_group", "custom_llm_provider", "mcp_namespaced_tool_name", "endpoint",
}

// TextNames returns the names of the texts of a series, as updates, columns and reports have them:
// its ids, then its dimensions. Tags aren't among them.
func TextNames() []string { return append([]string(nil), seriesFieldNames[:]...) }

// DimensionNames returns the names of the five dimensions, as Config.RollupDimensions takes them.
func DimensionNames() []string { return append([]string(nil), seriesFieldNames[seriesIDs:]...) }

// Text returns the i-th text of the series, in the order of TextNames.
func (s *Series) Text(i int) *string {
	switch i {
	case 0:
		return &s.APIKey
	case 1:
		return &s.UserID
	case 2:
		return &s.EndUserID
	case 3:
		return &s.TeamID
	case 4:
		return &s.OrganizationID
	case 5:
		return &s.AgentID
	case 6:
		return &s.Model
	case 7:
		return &s.ModelGroup
	case 8:
		return &s.CustomLLMProvider
	case 9:
		return &s.MCPNamespacedToolName
	default:
		return &s.Endpoint
	}
}

// ErrInvalidUpdate is wrapped by every *UpdateError.
var ErrInvalidUpdate = errors.New("invalid update")

// UpdateError says which field of which update is refused, and what is allowed. It wraps
// ErrInvalidUpdate.
type UpdateError struct {
	Index  int    // place of the update in the call, from 0
	Field  string // JSON name of the field, "" where it is about the update as a whole
	Reason string // what is wrong and what is allowed
}

func (e *UpdateError) Error() string {
	if e.Field == "" {
		return fmt.Sprintf("invalid update %d: %s", e.Index, e.Reason)
	}
	return fmt.Sprintf("invalid update %d: %s: %s", e.Index, e.Field, e.Reason)
}

// Unwrap returns ErrInvalidUpdate.
func (e *UpdateError) Unwrap() error { return ErrInvalidUpdate }

// Cost is what one request cost.
type Cost struct {
	Spend  Amount    `json:"spend"`         // may be negative (a credit); size at most MaxSpend
	Time   time.Time `json:"time,omitzero"` // when the request was; zero means now. Counted in its UTC hour
	Status Status    `json:"status,omitempty"`

	PromptTokens             int64 `json:"prompt_tokens,omitempty"` // 0 to MaxTokens, as the other three
	CompletionTokens         int64 `json:"completion_tokens,omitempty"`
	CacheReadInputTokens     int64 `json:"cache_read_input_tokens,omitempty"`
	CacheCreationInputTokens int64 `json:"cache_creation_input_tokens,omitempty"`
}

// Check returns what RecordAll would return for this update at this index, as far as it is about
// the update itself: nil or an *UpdateError.
func (u *Update) Check(index int) error { return u.checkAt(index, time.Now()) }

// checkAt does it by another clock.
func (u *Update) checkAt(index int, now time.Time) error {
	if err := u.Cost.Check(index, now); err != nil {
		return err
	}
	if err := u.CheckID(index); err != nil {
		return err
	}
	return u.Series.Check(index)
}

// CheckID checks the ID, if there is one. The error is an *UpdateError of that index.
func (u *Update) CheckID(index int) error {
	if u.ID == "" {
		return nil
	}
	if err := CheckFactID(u.ID); err != nil {
		return refuse(index, "id", "%s", err)
	}
	return nil
}

// Check checks the cost against the bounds. now is needed only if Time is set. The error is an
// *UpdateError of that index.
func (c *Cost) Check(index int, now time.Time) error {
	if c.Spend.Cmp(MaxSpend) > 0 || c.Spend.Cmp(minSpend) < 0 { // not Abs: -2^127 has none
		return refuse(index, "spend", "%s dollars is out of range; allowed are -%s to %s", c.Spend, MaxSpend, MaxSpend)
	}
	if c.Status > Failure {
		return refuse(index, "status", "unknown; allowed are success and failure")
	}
	if !c.Time.IsZero() && (c.Time.Before(now.Add(-MaxAge)) || c.Time.After(now.Add(MaxAhead))) {
		return refuse(index, "time", "%s is out of range; allowed are 35 days back to 5 minutes ahead of %s",
			c.Time.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	// A negative number is a very large one without its sign.
	if max(uint64(c.PromptTokens), uint64(c.CompletionTokens), uint64(c.CacheReadInputTokens), uint64(c.CacheCreationInputTokens)) > MaxTokens {
		return c.refuseTokens(index)
	}
	return nil
}

func (c *Cost) refuseTokens(index int) error {
	for i, name := range TokenNames() {
		if v := *c.Tokens(i); v < 0 || v > MaxTokens {
			return refuse(index, name, "%d is out of range; allowed are 0 to %d", v, MaxTokens)
		}
	}
	return nil
}

func refuse(index int, field, format string, args ...any) error {
	return &UpdateError{Index: index, Field: field, Reason: fmt.Sprintf(format, args...)}
}

// Check checks the texts. The error is an *UpdateError of that index. Dimensions that the rollup
// leaves out are checked like the others.
func (s *Series) Check(index int) error {
	anyID := len(s.Tags) > 0
	for i := range seriesFields {
		text := *s.Text(i)
		if text == "" {
			continue
		}
		anyID = anyID || i < seriesIDs
		if why := textFault(text); why != "" {
			return refuse(index, seriesFieldNames[i], "%s", why)
		}
	}
	if len(s.Tags) > MaxTags {
		return refuse(index, "tags", "%d tags; allowed are %d", len(s.Tags), MaxTags)
	}
	for i, tag := range s.Tags {
		if tag == "" {
			return refuse(index, "tags", "tag %d is empty", i)
		}
		if why := textFault(tag); why != "" {
			return refuse(index, "tags", "tag %d: %s", i, why)
		}
	}
	if !anyID {
		return refuse(index, "", "no id; at least one of api_key, user_id, end_user_id, team_id, organization_id, agent_id and tags is needed")
	}
	return nil
}

// textFault says what is wrong with an id, a tag or a dimension, "" if nothing is.
func textFault(text string) string {
	switch {
	case len(text) > MaxIDBytes:
		return fmt.Sprintf("%d bytes; allowed are %d", len(text), MaxIDBytes)
	case strings.IndexByte(text, 0) >= 0:
		return "holds a NUL character"
	case !utf8.ValidString(text):
		return "is not valid UTF-8"
	}
	return ""
}
