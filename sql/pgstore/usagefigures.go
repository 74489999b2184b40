package pgstore

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush/spend"
)

// Figures are sums of a day, or of an hour of it, by one dimension, see docs/adr/0024-figures.md. A
// report reads those that hold, and rows for all else.

// The kinds of figures, as the tables have them: a dimension has its place in groupNames, from 1.
const (
	figuresOfAll     = 0
	figuresOfMembers = 14
	noFigures        = -1
)

// entityGroups is what an entity of a type is grouped by besides as entity_id.
var entityGroups = map[spend.EntityType]string{
	spend.APIKey: "api_key", spend.User: "user_id", spend.EndUser: "end_user_id", spend.Team: "team_id",
	spend.Organization: "organization_id", spend.Agent: "agent_id", spend.Tag: "tag",
}

// figures say which figures answer a query.
type figures struct {
	kind       int16
	name, team string   // only those of this name, "": all
	asName     []string // groups that read the name
	asTeam     []string
}

// figures returns those that answer the query; their kind is noFigures if none do, because it is
// about more than one dimension.
func (q *UsageQuery) figures() figures {
	none := figures{kind: noFigures}
	if q.EntityType == spend.TeamMember {
		f := figures{figuresOfMembers, q.EntityID, q.TeamID, []string{"entity_id", "user_id"}, []string{"team_id"}}
		return f.ofGroups(q)
	}
	if q.EntityType != 0 {
		group := entityGroups[q.EntityType]
		if group == "" {
			return none
		}
		f := figures{kindOf(group), q.EntityID, "", []string{"entity_id", group}, nil}
		if q.EntityType == spend.Tag { // grouped by tag, an update counts on all of its tags
			f.asName = f.asName[:1]
		}
		return f.ofGroups(q)
	}

	dimensions := slices.DeleteFunc(slices.Clone(q.GroupBy), func(group string) bool { return group == "entity_id" })
	only := ""
	for _, filter := range []struct{ group, name string }{{"model", q.Model}, {"custom_llm_provider", q.Provider}} {
		if filter.name != "" {
			dimensions, only = append(dimensions, filter.group), filter.name
		}
	}
	slices.Sort(dimensions)
	switch dimensions = slices.Compact(dimensions); len(dimensions) {
	case 0:
		return figures{kind: figuresOfAll}
	case 1:
		return figures{kind: kindOf(dimensions[0]), name: only, asName: dimensions}
	}
	return none
}

// ofGroups returns the figures if they have all groups of a query about entities, and it asks for
// all models and providers.
func (f figures) ofGroups(q *UsageQuery) figures {
	has := func(group string) bool { return slices.Contains(f.asName, group) || slices.Contains(f.asTeam, group) }
	if q.Model != "" || q.Provider != "" || slices.ContainsFunc(q.GroupBy, func(group string) bool { return !has(group) }) {
		return figures{kind: noFigures}
	}
	return f
}

func kindOf(group string) int16 { return int16(slices.Index(groupNames, group)) + 1 }

// named says of each group whether it reads the name, and teamed whether the team.
func (f *figures) named(grouped []bool) []bool { return groupsIn(f.asName, grouped) }

func (f *figures) teamed(grouped []bool) []bool { return groupsIn(f.asTeam, grouped) }

func groupsIn(list []string, grouped []bool) []bool {
	in := make([]bool, len(groupNames))
	for i, name := range groupNames {
		in[i] = grouped[i] && slices.Contains(list, name)
	}
	return in
}

// usageDays are the days of a report: those whose rows are read, and those whose figures are, of
// days or of hours.
type usageDays struct{ rows, days, hours []time.Time }

// usageDays reads which days are ready, and divides those of the query.
func (s *Store) usageDays(ctx context.Context, tx querier, q *UsageQuery, f figures, thresholds []int32) (d usageDays, err error) {
	first, last := q.From.UTC().Truncate(24*time.Hour), q.To.Add(-time.Hour).UTC().Truncate(24*time.Hour)
	ready := map[time.Time][]int16{}
	if f.kind != noFigures {
		rows, err := tx.Query(ctx, s.statement("figures_ready"), first, last)
		if err != nil {
			return d, err
		}
		var day time.Time
		var hourly []int16
		if _, err := pgx.ForEachRow(rows, []any{&day, &hourly}, func() error {
			ready[day] = slices.Clone(hourly)
			return nil
		}); err != nil {
			return d, err
		}
	}

	d = usageDays{[]time.Time{}, []time.Time{}, []time.Time{}}
	for day := first; !day.After(last); day = day.AddDate(0, 0, 1) {
		hourly, isReady := ready[day]
		switch {
		case isReady && isWhole(day, thresholds):
			d.days = append(d.days, day)
		case isReady && slices.Contains(hourly, f.kind):
			d.hours = append(d.hours, day)
		default:
			d.rows = append(d.rows, day)
		}
	}
	return d, nil
}

// isWhole says whether all hours of a day of UTC are in one bucket.
func isWhole(day time.Time, thresholds []int32) bool {
	hour := int32(spend.HourOf(day))
	at, starts := slices.BinarySearch(thresholds, hour)
	if !starts {
		at--
	}
	return at >= 0 && at+1 < len(thresholds) && thresholds[at+1] >= hour+24
}
