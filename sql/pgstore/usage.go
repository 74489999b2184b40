package pgstore

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush/spend"
)

// Granularity says how long the stretches of time are that a usage report adds up.
type Granularity uint8

// The granularities.
const (
	Hour  Granularity = iota // each UTC hour
	Day                      // each day of UsageQuery.Location
	Month                    // each month of UsageQuery.Location
	Total                    // all of UsageQuery.From to To
)

func (g Granularity) String() string {
	switch g {
	case Hour:
		return "hour"
	case Day:
		return "day"
	case Month:
		return "month"
	case Total:
		return "total"
	default:
		return fmt.Sprintf("granularity(%d)", uint8(g))
	}
}

// UsageQuery asks for a report over the rollups.
type UsageQuery struct {
	// EntityType is whose usage is asked for: that of all entities of the type, or of one by its
	// EntityID (and, of a team_member, TeamID, which alone stands for all members of the team). An
	// update that counts on two tags counts on each. 0: all updates, each once.
	EntityType       spend.EntityType
	EntityID, TeamID string

	// The report covers From ≤ t < To. Both must be whole UTC hours, at most 10 years apart.
	From, To time.Time

	// By and Location cut the time. The books know whole UTC hours; an hour counts on the day, or in
	// the month, of the Location in which it starts. So a day of Asia/Kolkata, which is half an hour
	// off, begins with the hour from 00:30, which DayShift tells, and days on which the clock changes
	// have 23 or 25 hours. nil: UTC.
	By       Granularity
	Location *time.Location

	// GroupBy are names out of GroupNames. Grouped by tag, an update counts in full on each of its
	// tags, and on '' if it has none.
	GroupBy []string

	// Model and Provider leave out the updates of others; "": of all.
	Model, Provider string

	// OrderBy is the sum, out of OrderNames, whose largest come first. "": the rows are in the
	// order of time and groups.
	OrderBy string

	// Limit is how many rows there are at most; 0: all.
	Limit int
}

// UsageRow is one row of a usage report.
type UsageRow struct {
	// Start is when the stretch begins, in the Location; of a day or a month its first moment, also
	// where From is later.
	Start time.Time
	Group []string // the names that GroupBy asked for, in its order
	Spend spend.Amount

	// Counts are the decimal texts of the sums, which have no bound of 64 bits, in the order of
	// CountNames.
	Counts [1 + spend.Counts]string
}

// CountNames returns the names of UsageRow.Counts.
func CountNames() []string { return append([]string{"api_requests"}, spend.CountNames()...) }

var groupNames = []string{
	"entity_id", "team_id", "api_key", "user_id", "end_user_id", "organization_id", "agent_id",
	"model", "model_group", "custom_llm_provider", "mcp_namespaced_tool_name", "endpoint", "tag",
}

// GroupNames returns what a usage report can be grouped by. entity_id is the entity's own id;
// team_id is the team that the request was made in.
func GroupNames() []string { return slices.Clone(groupNames) }

var orderNames = []string{"spend", "api_requests", "prompt_tokens", "completion_tokens"}

// OrderNames returns what a usage report can be ordered by.
func OrderNames() []string { return slices.Clone(orderNames) }

// ErrQuery is wrapped by errors about what a UsageQuery asks for.
var ErrQuery = errors.New("not a usage query")

const maxUsageSpan = 10 * 366 * 24 * time.Hour

func (q *UsageQuery) validate() error {
	if q.EntityType == 0 && (q.EntityID != "" || q.TeamID != "") {
		return fmt.Errorf("%w: an entity without its type", ErrQuery)
	}
	if int(q.EntityType) > len(spend.EntityTypes()) {
		return fmt.Errorf("%w: %s", ErrQuery, q.EntityType)
	}
	if q.TeamID != "" && q.EntityType != spend.TeamMember {
		return fmt.Errorf("%w: a team besides an entity of type %s; only a team_member has one", ErrQuery, q.EntityType)
	}
	if !q.From.Truncate(time.Hour).Equal(q.From) || !q.To.Truncate(time.Hour).Equal(q.To) {
		return fmt.Errorf("%w: from %s to %s; both must be whole UTC hours", ErrQuery, q.From, q.To)
	}
	if span := q.To.Sub(q.From); span <= 0 || span > maxUsageSpan {
		return fmt.Errorf("%w: from %s to %s; allowed are an hour to 10 years", ErrQuery, q.From, q.To)
	}
	if q.By > Total {
		return fmt.Errorf("%w: by %s", ErrQuery, q.By)
	}
	if q.OrderBy != "" && !slices.Contains(orderNames, q.OrderBy) {
		return fmt.Errorf("%w: order by %.40q; allowed are %s", ErrQuery, q.OrderBy, strings.Join(orderNames, ", "))
	}
	if q.Limit < 0 || q.Limit > math.MaxInt32 {
		return fmt.Errorf("%w: limit %d", ErrQuery, q.Limit)
	}
	for _, name := range q.GroupBy {
		if !slices.Contains(groupNames, name) {
			return fmt.Errorf("%w: group by %.40q; allowed are %s", ErrQuery, name, strings.Join(groupNames, ", "))
		}
	}
	return nil
}

// bucket is a stretch of hours that goes to the start of the next one.
type bucket struct {
	hour  int32     // the first hour
	start time.Time // what the row says
}

// buckets cuts From to To. The last one only marks the end.
func (q *UsageQuery) buckets(zone *time.Location) []bucket {
	from, to := int32(spend.HourOf(q.From)), int32(spend.HourOf(q.To))
	var cut []bucket
	switch q.By {
	case Hour:
		for h := from; h < to; h++ {
			cut = append(cut, bucket{h, spend.Hour(h).Time().In(zone)})
		}
	case Day, Month:
		of := dayOf
		if q.By == Month {
			of = monthOf
		}
		for h := from; h < to; {
			start, next := of(spend.Hour(h).Time().In(zone))
			cut = append(cut, bucket{h, start})
			h = int32(spend.HourOf(FirstHour(next)))
		}
	default:
		cut = append(cut, bucket{from, q.From.In(zone)})
	}
	return append(cut, bucket{hour: to})
}

// FirstHour returns the start of the first whole UTC hour at or after t: where the day that begins
// at t begins in the books.
func FirstHour(t time.Time) time.Time {
	return t.Add(time.Hour - time.Nanosecond).Truncate(time.Hour)
}

// DayShift returns by how much days and months of the report begin later than those of the
// Location: the most of all that it has, less than an hour; 0 if they are exact. From and To count
// where they are within an hour of the start of a day; reports by Hour and Total have no others.
func (q *UsageQuery) DayShift() time.Duration {
	zone := q.zone()
	var most time.Duration
	look := func(hour time.Time) {
		hour = hour.In(zone)
		if start, _ := dayOf(hour); hour.Sub(start) < time.Hour {
			most = max(most, hour.Sub(start))
		}
	}
	look(q.From)
	look(q.To)
	if q.By == Day || q.By == Month {
		for _, b := range q.buckets(zone) {
			look(spend.Hour(b.hour).Time())
		}
	}
	return most
}

func (q *UsageQuery) zone() *time.Location {
	if q.Location == nil {
		return time.UTC
	}
	return q.Location
}

// dayOf returns the first moments of t's day and of the next one in t's zone.
func dayOf(t time.Time) (start, next time.Time) {
	year, month, day := t.Date()
	return StartOfDay(year, month, day, t.Location()), StartOfDay(year, month, day+1, t.Location())
}

// monthOf returns the first moments of t's month and of the next one in t's zone.
func monthOf(t time.Time) (start, next time.Time) {
	year, month, _ := t.Date()
	return StartOfDay(year, month, 1, t.Location()), StartOfDay(year, month+1, 1, t.Location())
}

// StartOfDay returns the first moment of a day; day and month may be out of their ranges, as in
// time.Date. Where the clock is put forward at midnight, that isn't 00:00, and time.Date may answer
// with a moment of the day before; where it is put back over midnight, there are two.
func StartOfDay(year int, month time.Month, day int, zone *time.Location) time.Time {
	want := time.Date(year, month, day, 0, 0, 0, 0, time.UTC) // normalizes day 32 and the like
	t := time.Date(year, month, day, 0, 0, 0, 0, zone)
	for range 96 {
		if !civil(t).Before(want) {
			return t
		}
		t = t.Add(15 * time.Minute) // no zone's clock is off by less
	}
	return t
}

// civil returns midnight UTC of t's date.
func civil(t time.Time) time.Time {
	year, month, day := t.Date()
	return time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
}

// Usage calls yield for each row of the report, in the order of OrderBy, then of Start and, as
// bytes, of the groups in the order of GroupNames. It streams: a connection is in use until the
// last row is read. Rows that would be all zero are left out. yield must not keep the row's Group.
// An error of yield ends the report and is returned as it is; errors about the query wrap ErrQuery.
func (s *Store) Usage(ctx context.Context, q UsageQuery, yield func(UsageRow) error) error {
	if err := q.validate(); err != nil {
		return err
	}
	buckets := q.buckets(q.zone())
	thresholds := make([]int32, len(buckets))
	for i, b := range buckets {
		thresholds[i] = b.hour
	}
	grouped := make([]bool, len(groupNames))
	places := make([]int, len(q.GroupBy))
	for i, name := range q.GroupBy {
		places[i] = slices.Index(groupNames, name)
		grouped[places[i]] = true
	}
	kind := ""
	if q.EntityType != 0 {
		kind = q.EntityType.String()
	}
	var limit *int
	if q.Limit > 0 {
		limit = &q.Limit
	}
	name := "usage"
	if q.EntityID == "" && q.TeamID == "" && q.Model == "" && q.Provider == "" {
		name = "usage_whole"
	}
	figures := q.figures()
	return s.readSnapshot(ctx, func(tx querier) error {
		days, err := s.usageDays(ctx, tx, &q, figures, thresholds)
		if err != nil {
			return fmt.Errorf("read usage: %w", err)
		}
		if name == "usage_whole" {
			if _, err := tx.Exec(ctx, s.statement("usage_settings")); err != nil {
				return fmt.Errorf("read usage: %w", err)
			}
		}
		rows, err := tx.Query(ctx, s.statement(name), kind, q.EntityID, q.TeamID, thresholds, days.rows, days.days, grouped,
			q.Model, q.Provider, q.OrderBy, limit, days.hours, figures.kind, figures.name, figures.team, q.EntityType != 0,
			figures.named(grouped), figures.teamed(grouped))
		if err != nil {
			return fmt.Errorf("read usage: %w", err)
		}
		return yieldUsage(rows, buckets, places, yield)
	})
}

func yieldUsage(rows pgx.Rows, buckets []bucket, places []int, yield func(UsageRow) error) error {
	defer rows.Close()
	row := UsageRow{Group: make([]string, len(places))}
	var at int32
	var names []string
	into := []any{&at, &names, (*anyAmount)(&row.Spend)}
	for i := range row.Counts {
		into = append(into, &row.Counts[i])
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return fmt.Errorf("read usage: %w", err)
		}
		row.Start = buckets[at-1].start
		for i, place := range places {
			row.Group[i] = names[place]
		}
		if err := yield(row); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read usage: %w", err)
	}
	return nil
}
