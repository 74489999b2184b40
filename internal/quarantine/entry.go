// Package quarantine shows what could not be booked, and applies or drops it, for the commands and
// the HTTP API alike.
package quarantine

import (
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/pgstore"
)

// CountsKnown says whether it is known what the entry counts.
func CountsKnown(q *pgstore.Quarantined) bool { return q.Kind == "row" || q.Counted }

// RequestsOf returns the number of requests that the entry counts, if that is known.
func RequestsOf(q *pgstore.Quarantined) int64 {
	if q.Kind == "row" {
		return q.Counters.APIRequests()
	}
	return q.Updates
}

// Describe says in a line what an entry is.
func Describe(q *pgstore.Quarantined) string {
	switch {
	case q.Entity != nil:
		return describeEntity(q.Entity)
	case q.Series != nil:
		return "rollup " + hourText(q.Hour) + " " + describeSeries(q.Series)
	case q.Kind == "row":
		return q.Book
	case q.Kind == "conflict":
		return fmt.Sprintf("updates under ids used before, of producer %s batch %d", q.Producer, q.Sequence)
	case q.Sequence > 0:
		return fmt.Sprintf("producer %s batch %d", q.Producer, q.Sequence)
	default:
		return fmt.Sprintf("%d bytes", q.Size)
	}
}

func hourText(t time.Time) string { return t.UTC().Format("2006-01-02T15:04Z") }

func describeEntity(e *spend.Entity) string {
	if e.Type == spend.TeamMember {
		return fmt.Sprintf("%s %q of team %q", e.Type, e.ID, e.TeamID)
	}
	return fmt.Sprintf("%s %q", e.Type, e.ID)
}

func describeSeries(s *spend.Series) string {
	var parts []string
	for _, f := range []struct{ name, value string }{
		{"api_key", s.APIKey}, {"user_id", s.UserID}, {"end_user_id", s.EndUserID}, {"team_id", s.TeamID},
		{"organization_id", s.OrganizationID}, {"agent_id", s.AgentID}, {"model", s.Model},
		{"model_group", s.ModelGroup}, {"custom_llm_provider", s.CustomLLMProvider},
		{"mcp_namespaced_tool_name", s.MCPNamespacedToolName}, {"endpoint", s.Endpoint},
	} {
		if f.value != "" {
			parts = append(parts, fmt.Sprintf("%s=%q", f.name, f.value))
		}
	}
	for _, tag := range s.Tags {
		parts = append(parts, fmt.Sprintf("tag=%q", tag))
	}
	return strings.Join(parts, " ")
}

// Printable takes out what could move the cursor of a terminal or break a table.
func Printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, text)
}

// Tally sums what entries count. Sums of many may be larger than any one of them, so they have no
// bound.
type Tally struct {
	Entries int
	unknown int
	batches tallySum
	rows    map[string]*tallySum // by book: a request counts in several, so there is no sum over all
}

type tallySum struct {
	entries         int
	units, requests big.Int
}

// Add adds what the entry counts.
func (t *Tally) Add(q *pgstore.Quarantined) {
	t.Entries++
	sum := &t.batches
	switch {
	case !CountsKnown(q):
		t.unknown++
		return
	case q.Kind == "row":
		if t.rows == nil {
			t.rows = map[string]*tallySum{}
		}
		if t.rows[q.Book] == nil {
			t.rows[q.Book] = &tallySum{}
		}
		sum = t.rows[q.Book]
	}
	sum.entries++
	hi, lo := q.Counters.Spend.Units()
	units := new(big.Int).Lsh(big.NewInt(hi), 64)
	sum.units.Add(&sum.units, units.Add(units, new(big.Int).SetUint64(lo)))
	sum.requests.Add(&sum.requests, big.NewInt(RequestsOf(q)))
}

func (s *tallySum) String() string {
	dollars := new(big.Rat).SetFrac(&s.units, big.NewInt(1e12)).FloatString(spend.AmountScale)
	return fmt.Sprintf("%d of %s dollars in %s requests", s.entries, strings.TrimSuffix(strings.TrimRight(dollars, "0"), "."), &s.requests)
}

// String says in a line what was added.
func (t *Tally) String() string {
	var parts []string
	if t.batches.entries > 0 {
		parts = append(parts, "batches: "+t.batches.String())
	}
	if t.unknown > 0 {
		parts = append(parts, fmt.Sprintf("batches of which it can't be told: %d", t.unknown))
	}
	for _, book := range slices.Sorted(maps.Keys(t.rows)) {
		parts = append(parts, "rows of "+book+": "+t.rows[book].String())
	}
	noun := "entries"
	if t.Entries == 1 {
		noun = "entry"
	}
	return fmt.Sprintf("%d %s; %s", t.Entries, noun, strings.Join(parts, "; "))
}

// Entry is an entry as programs see it. Names are those of the HTTP API.
type Entry struct {
	ID        int64     `json:"id"`
	Kind      string    `json:"kind"`
	State     string    `json:"state"`
	CreatedAt time.Time `json:"created_at"`
	SettledAt time.Time `json:"settled_at,omitzero"`
	SettledBy string    `json:"settled_by,omitempty"`
	Shard     int       `json:"shard"`
	Reason    string    `json:"reason"`

	// of a batch
	Producer string `json:"producer,omitempty"`
	Sequence uint64 `json:"sequence,omitempty"`
	Size     int    `json:"size,omitempty"`
	Updates  *int64 `json:"updates,omitempty"` // missing, as spend is, where the header can't be read

	// of a row
	Book   string        `json:"book,omitempty"`
	Entity *entityJSON   `json:"entity,omitempty"`
	Series *spend.Series `json:"series,omitempty"`
	Hour   time.Time     `json:"hour,omitzero"`

	Spend *spend.Amount `json:"spend,omitempty"`
	*Counts
}

type entityJSON struct {
	Type   string `json:"entity_type"`
	ID     string `json:"entity_id"`
	TeamID string `json:"team_id,omitempty"`
}

// Counts are the sums beside the spend, with the names of the HTTP API. Where it is embedded, the
// spend is what stands beside it.
type Counts struct {
	APIRequests int64 `json:"api_requests"`
	*spend.Counters
}

func entityJSONOf(e *spend.Entity) *entityJSON {
	return &entityJSON{Type: e.Type.String(), ID: e.ID, TeamID: e.TeamID}
}

// CountsOf returns the sums for JSON. It keeps c.
func CountsOf(c *spend.Counters) *Counts { return &Counts{c.APIRequests(), c} }

// EntryOf returns the entry as programs see it.
func EntryOf(q *pgstore.Quarantined) *Entry {
	e := &Entry{
		ID: q.ID, Kind: q.Kind, State: q.State, CreatedAt: q.CreatedAt.UTC(), Shard: q.Shard, Reason: q.Reason,
		Sequence: q.Sequence, Size: q.Size, Book: q.Book, Series: q.Series, Hour: q.Hour,
	}
	if !q.SettledAt.IsZero() {
		e.SettledAt, e.SettledBy = q.SettledAt.UTC(), q.SettledBy
	}
	if q.Sequence > 0 {
		e.Producer = q.Producer.String()
	}
	if CountsKnown(q) {
		e.Spend = &q.Counters.Spend
	}
	if q.Kind == "row" {
		e.Counts = CountsOf(&q.Counters)
	} else if q.Counted {
		e.Updates = &q.Updates
	}
	if q.Entity != nil {
		e.Entity = entityJSONOf(q.Entity)
	}
	return e
}
