package integration

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush/spend"
)

// sums are the columns that every row of the books has.
type sums struct {
	Spend                                                  spend.Amount
	Requests, Successful, Failed                           int64
	Prompt, Completion, CacheReadInput, CacheCreationInput int64
}

func (s sums) add(d sums) sums {
	return sums{
		s.Spend.Add(d.Spend), s.Requests + d.Requests, s.Successful + d.Successful, s.Failed + d.Failed,
		s.Prompt + d.Prompt, s.Completion + d.Completion, s.CacheReadInput + d.CacheReadInput,
		s.CacheCreationInput + d.CacheCreationInput,
	}
}

// atMost reports whether no column of s is above that of d.
func (s sums) atMost(d sums) bool {
	return s.Spend.Cmp(d.Spend) <= 0 && s.Requests <= d.Requests && s.Successful <= d.Successful && s.Failed <= d.Failed &&
		s.Prompt <= d.Prompt && s.Completion <= d.Completion && s.CacheReadInput <= d.CacheReadInput &&
		s.CacheCreationInput <= d.CacheCreationInput
}

// entity is a row of spendflush.spend.
type entity struct{ Type, ID, TeamID string }

// daily is the primary key of spendflush.daily_spend.
type daily struct {
	Date string
	entity
	APIKey string
	dimensions
}

// hourly is a combination of ids, tags and dimensions in an hour.
type hourly struct {
	Hour time.Time // UTC
	ids
	Tags string // sorted, quoted
	dimensions
}

type ids struct{ APIKey, UserID, EndUserID, TeamID, OrganizationID, AgentID string }

type dimensions struct{ Model, ModelGroup, Provider, Tool, Endpoint string }

// book is what the books have to say, kept apart from the program under test.
type book struct {
	updates  int64
	entities map[entity]sums
	days     map[daily]sums // nil: not kept
	hours    map[hourly]sums
}

func newBook() *book {
	return &book{entities: map[entity]sums{}, days: map[daily]sums{}, hours: map[hourly]sums{}}
}

// add counts an update.
func (b *book) add(u *update) {
	d := u.sums()
	b.updates++
	at := u.at.UTC()
	dims := dimensions{u.Model, u.ModelGroup, u.Provider, u.Tool, u.Endpoint}
	tags := slices.Compact(slices.Sorted(slices.Values(u.Tags)))
	hour := hourly{at.Truncate(time.Hour), u.ids(), fmt.Sprintf("%q", tags), dims}
	b.hours[hour] = b.hours[hour].add(d)
	for _, e := range u.entities(tags) {
		b.entities[e] = b.entities[e].add(d)
		if b.days == nil {
			continue
		}
		day := daily{at.Format(time.DateOnly), e, u.APIKey, dims}
		b.days[day] = b.days[day].add(d)
	}
}

// join adds other's sums.
func (b *book) join(other *book) *book {
	b.updates += other.updates
	joinMap(b.entities, other.entities)
	if b.days != nil {
		joinMap(b.days, other.days)
	}
	joinMap(b.hours, other.hours)
	return b
}

func joinMap[K comparable](to, from map[K]sums) {
	for k, d := range from {
		to[k] = to[k].add(d)
	}
}

const sumColumns = `spend::text, api_requests::bigint, successful_requests::bigint, failed_requests::bigint,
	prompt_tokens::bigint, completion_tokens::bigint, cache_read_input_tokens::bigint, cache_creation_input_tokens::bigint`

// readEntities reads spendflush.spend.
func (s *stack) readEntities() map[entity]sums {
	s.t.Helper()
	return readMap(s.t, s.postgres, "SELECT entity_type::text, entity_id, team_id, "+sumColumns+" FROM spendflush.spend",
		func(k *entity) []any { return []any{&k.Type, &k.ID, &k.TeamID} })
}

// check compares everything in the books with b.
func (s *stack) check(b *book) {
	s.t.Helper()
	compare(s.t, "spend", b.entities, s.readEntities())
	compare(s.t, "daily_spend", b.days, readMap(s.t, s.postgres, `SELECT date::text, entity_type::text, entity_id, team_id,
		model, model_group, custom_llm_provider, mcp_namespaced_tool_name, endpoint, api_key, `+sumColumns+`
		FROM spendflush.daily_spend`, func(k *daily) []any {
		return []any{&k.Date, &k.Type, &k.ID, &k.TeamID, &k.Model, &k.ModelGroup, &k.Provider, &k.Tool, &k.Endpoint, &k.APIKey}
	}))
	s.checkHours(b)
	if got := s.number("SELECT coalesce(sum(updates), 0)::bigint FROM spendflush.producers"); got != b.updates {
		s.t.Errorf("the producers' marks count %d updates instead of %d", got, b.updates)
	}
	s.checkNothingAside()
}

// checkNothingAside fails if anything was quarantined or given up.
func (s *stack) checkNothingAside() {
	s.t.Helper()
	for _, table := range []string{"quarantine", "lost_batches"} {
		if n := s.number("SELECT count(*) FROM spendflush." + table); n != 0 {
			s.t.Errorf("%d rows in %s", n, table)
		}
	}
}

// readMap reads rows whose last columns are sumColumns. A key that comes twice is an error.
func readMap[K comparable](t testing.TB, url, statement string, fields func(*K) []any) map[K]sums {
	t.Helper()
	type row struct {
		key K
		sums
	}
	rows := query(t, url, func(r pgx.CollectableRow) (row, error) {
		var x row
		return x, r.Scan(append(fields(&x.key), &x.Spend, &x.Requests, &x.Successful, &x.Failed, &x.Prompt, &x.Completion,
			&x.CacheReadInput, &x.CacheCreationInput)...)
	}, statement)
	result := make(map[K]sums, len(rows))
	for _, x := range rows {
		if _, twice := result[x.key]; twice {
			t.Errorf("row %+v is there twice", x.key)
		}
		result[x.key] = x.sums
	}
	return result
}

// compare fails for every key whose sums differ, and shows the first few.
func compare[K comparable](t testing.TB, name string, want, got map[K]sums) {
	t.Helper()
	const shown = 5
	keys := maps.Clone(want)
	maps.Copy(keys, got)
	wrong := 0
	for k := range keys {
		w, wanted := want[k]
		g, there := got[k]
		if w == g && wanted == there {
			continue
		}
		if wrong++; wrong <= shown {
			t.Errorf("%s %+v:\n got %v %+v\nwant %v %+v", name, k, there, g, wanted, w)
		}
	}
	if wrong > 0 {
		t.Errorf("%s: %d of %d rows are wrong", name, wrong, len(keys))
	}
}

func passwordOf(t testing.TB, text string) string {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	return password
}
