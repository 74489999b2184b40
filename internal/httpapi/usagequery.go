package httpapi

import (
	_ "embed"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
	_ "time/tzdata" // time zones are there wherever this runs

	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/pgstore"
)

// Defaults and bounds of a usage report.
const (
	defaultDays = 7
	maxHourDays = 62   // by hour
	maxDays     = 1100 // by day or month, or in total

	defaultMonths = 12 // by month
)

var granularities = []pgstore.Granularity{pgstore.Hour, pgstore.Day, pgstore.Month, pgstore.Total}

// usageOf reads the query of GET /v1/usage. now decides what the last days are. form is nil if JSON
// is wanted.
func usageOf(r *http.Request, now time.Time) (q pgstore.UsageQuery, form *csvForm, p *problem) {
	values, p := params(r, "entity_type", "entity_id", "team_id", "from", "to", "by", "tz", "group_by", "format", "model",
		"custom_llm_provider", "order_by", "limit", "bom", "formulas")
	if p != nil {
		return q, nil, p
	}
	for name, given := range values {
		if given[0] == "" {
			return q, nil, invalidRequest.because("parameter %s is empty; leave it out, or say what it is", name)
		}
	}
	q = pgstore.UsageQuery{By: pgstore.Day, Location: time.UTC}
	if form, p = csvFormOf(r, values); p != nil {
		return q, nil, p
	}
	for _, read := range []func(*pgstore.UsageQuery, url.Values) *problem{readEntity, readBy, readZone, readGroups, readTop} {
		if p := read(&q, values); p != nil {
			return q, nil, p
		}
	}
	return q, form, readRange(&q, values, now)
}

// csvFormOf reads how a report is written as CSV; nil if JSON is wanted.
func csvFormOf(r *http.Request, values url.Values) (*csvForm, *problem) {
	asCSV, p := wantsCSV(r, values)
	switch {
	case p != nil:
		return nil, p
	case !asCSV && (values.Has("bom") || values.Has("formulas")):
		return nil, invalidRequest.because("bom and formulas go with format=csv; JSON has texts as they are")
	case !asCSV:
		return nil, nil
	}

	form := new(csvForm)
	switch bom := values.Get("bom"); bom {
	case "true":
		form.bom = true
	case "", "false":
	default:
		return nil, invalidRequest.because("bom is %.40q; allowed are true and false", bom)
	}
	switch formulas := values.Get("formulas"); formulas {
	case "raw":
		form.raw = true
	case "", "escaped":
	default:
		return nil, invalidRequest.because("formulas is %.40q; allowed are escaped and raw", formulas)
	}
	return form, nil
}

// wantsCSV looks at format and, without it, at which of the two formats Accept names first.
func wantsCSV(r *http.Request, values url.Values) (bool, *problem) {
	switch format := values.Get("format"); format {
	case "csv":
		return true, nil
	case "json":
		return false, nil
	case "":
	default:
		return false, invalidRequest.because("format is %.40q; allowed are json and csv", format)
	}
	for accepted := range strings.SplitSeq(strings.Join(r.Header.Values("Accept"), ","), ",") {
		media, _, _ := strings.Cut(accepted, ";")
		switch strings.ToLower(strings.TrimSpace(media)) {
		case "text/csv":
			return true, nil
		case "application/json", "*/*":
			return false, nil
		}
	}
	return false, nil
}

func readEntity(q *pgstore.UsageQuery, values url.Values) *problem {
	name := values.Get("entity_type")
	if name == "" {
		if values.Has("entity_id") || values.Has("team_id") {
			return invalidRequest.because("entity_id and team_id need an entity_type")
		}
		return nil
	}
	kind, err := spend.ParseEntityType(name)
	if err != nil {
		return invalidRequest.because("entity_type: %v", err)
	}
	if values.Has("team_id") && kind != spend.TeamMember {
		return invalidRequest.because("team_id goes with entity_type=team_member; of a team, the id is given as entity_id")
	}
	for _, id := range []string{"entity_id", "team_id"} {
		if values.Has(id) {
			if p := checkID(id, values.Get(id)); p != nil {
				return p
			}
		}
	}
	q.EntityType, q.EntityID, q.TeamID = kind, values.Get("entity_id"), values.Get("team_id")
	return nil
}

func readBy(q *pgstore.UsageQuery, values url.Values) *problem {
	if !values.Has("by") {
		return nil
	}
	by := slices.IndexFunc(granularities, func(g pgstore.Granularity) bool { return g.String() == values.Get("by") })
	if by < 0 {
		return invalidRequest.because("by is %.40q; allowed are hour, day, month and total", values.Get("by"))
	}
	q.By = granularities[by]
	return nil
}

//go:embed assets/zones.txt
var zoneList string

// zoneNames are the names of time zones that may be asked for: those that the program brings along,
// which the page lists too.
// Looked up by itself, any file below the directory of zones of this machine would do, such as the
// one that says where it stands.
var zoneNames = sync.OnceValue(func() map[string]bool {
	names := map[string]bool{}
	for name := range strings.FieldsSeq(zoneList) {
		names[name] = true
	}
	return names
})

func readZone(q *pgstore.UsageQuery, values url.Values) *problem {
	if !values.Has("tz") {
		return nil
	}
	name := values.Get("tz")
	zone, err := time.LoadLocation(name)
	if err != nil || !zoneNames()[name] {
		return invalidRequest.because("tz is %.64q; want the IANA name of a time zone, such as Europe/Berlin", name)
	}
	q.Location = zone
	return nil
}

func readGroups(q *pgstore.UsageQuery, values url.Values) *problem {
	if !values.Has("group_by") {
		return nil
	}
	allowed := pgstore.GroupNames()
	for name := range strings.SplitSeq(values.Get("group_by"), ",") {
		switch {
		case !slices.Contains(allowed, name):
			return invalidRequest.because("group_by: unknown name %.64q; allowed are %s", name, strings.Join(allowed, ", "))
		case slices.Contains(q.GroupBy, name):
			return invalidRequest.because("group_by: %s is given twice", name)
		}
		q.GroupBy = append(q.GroupBy, name)
	}
	return nil
}

// readRange reads from and to. A date stands for the whole of its day in the zone, a month for the
// whole of it; a time must be a full hour of UTC, because that is what the books are kept by.
func readRange(q *pgstore.UsageQuery, values url.Values, now time.Time) *problem {
	var p *problem
	year, month, day := now.In(q.Location).Date()
	q.To = firstHour(year, month, day+1, q.Location)
	if values.Has("to") {
		if q.To, p = readBound("to", values.Get("to"), 1, q.Location); p != nil {
			return p
		}
	}
	year, month, day = q.To.Add(-time.Hour).In(q.Location).Date()
	q.From = firstHour(year, month, day-defaultDays+1, q.Location)
	if q.By == pgstore.Month {
		q.From = firstHour(year, month-defaultMonths+1, 1, q.Location)
	}
	if values.Has("from") {
		if q.From, p = readBound("from", values.Get("from"), 0, q.Location); p != nil {
			return p
		}
	}
	most := maxDays
	if q.By == pgstore.Hour {
		most = maxHourDays
	}
	switch days := q.To.Sub(q.From).Hours() / 24; {
	case days <= 0:
		return invalidRequest.because("from, %s, is not before to, %s", formatTime(q.From, q.Location), formatTime(q.To, q.Location))
	case days > float64(most)+1: // a day of leeway, for changes of the clock
		return invalidRequest.because("from and to are %.0f days apart; allowed are %d", days, most)
	}
	return nil
}

// readBound reads a time, or a date or month that stands for the start of the day or month that
// comes so many of them after it.
func readBound(name, text string, after int, zone *time.Location) (time.Time, *problem) {
	if date, err := time.Parse(time.DateOnly, text); err == nil {
		year, month, day := date.Date()
		return firstHour(year, month, day+after, zone), nil
	}
	if date, err := time.Parse(monthOnly, text); err == nil {
		year, month, _ := date.Date()
		return firstHour(year, month+time.Month(after), 1, zone), nil
	}
	var t time.Time
	if err := t.UnmarshalText([]byte(text)); err != nil {
		return t, invalidRequest.because("%s is %.40q; want a date such as 2026-01-31, a month such as 2026-01 or a time such as 2026-01-31T12:00:00Z (a + is written as %%2B)",
			name, text)
	}
	if !t.Equal(t.Truncate(time.Hour)) {
		return t, invalidRequest.because("%s is %.40q; want a full hour of UTC, which is what the books are kept by", name, text)
	}
	return t, nil
}

const monthOnly = "2006-01"

// firstHour returns the first full hour of UTC of a day. Where a day doesn't begin with such an
// hour, as in India, an hour counts on the day in which it begins.
func firstHour(year int, month time.Month, day int, zone *time.Location) time.Time {
	return pgstore.FirstHour(pgstore.StartOfDay(year, month, day, zone))
}

func formatTime(t time.Time, zone *time.Location) string { return t.In(zone).Format(time.RFC3339) }

// readTop reads which updates count, and how many of the largest rows are wanted.
func readTop(q *pgstore.UsageQuery, values url.Values) *problem {
	q.Model, q.Provider, q.OrderBy = values.Get("model"), values.Get("custom_llm_provider"), values.Get("order_by")
	if q.OrderBy != "" && !slices.Contains(pgstore.OrderNames(), q.OrderBy) {
		return invalidRequest.because("order_by is %.40q; allowed are %s", q.OrderBy, strings.Join(pgstore.OrderNames(), ", "))
	}
	var p *problem
	q.Limit, p = limitOf(values, 0, 1000)
	return p
}
