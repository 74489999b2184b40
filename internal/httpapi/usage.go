package httpapi

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/spendflush/spendflush/sql/pgstore"
)

// errTooManyRows ends a report that is longer than it may be.
var errTooManyRows = errors.New("too many rows")

// countNames are the columns behind spend.
var countNames = pgstore.CountNames()

// usage tells what was spent by time and group.
func (a *API) usage(w http.ResponseWriter, r *http.Request) *problem {
	q, form, p := usageOf(r, time.Now())
	if p != nil {
		return p
	}
	ctx, end, p := a.begin(a.reports, w, r)
	if p != nil {
		return p
	}
	defer end()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// A report that is not wanted to its end must not be read to its end, as the database would
	// without this.
	read := func(yield func(pgstore.UsageRow) error) error {
		return a.cfg.Reader.Usage(ctx, q, func(row pgstore.UsageRow) error {
			err := yield(row)
			if err != nil {
				cancel()
			}
			return err
		})
	}
	if form != nil {
		return a.usageCSV(w, r, &q, *form, read)
	}
	return a.usageJSON(w, &q, read)
}

// usageRows calls yield for each row of a report.
type usageRows func(yield func(pgstore.UsageRow) error) error

// timeName returns the name of the column that says when; "" if there is none.
func timeName(by pgstore.Granularity) string {
	switch by {
	case pgstore.Hour:
		return "hour"
	case pgstore.Day:
		return "date"
	case pgstore.Month:
		return "month"
	default:
		return ""
	}
}

// appendStart appends what that column says of the row.
func appendStart(to []byte, q *pgstore.UsageQuery, start time.Time) []byte {
	layout := time.RFC3339
	switch q.By {
	case pgstore.Day:
		layout = time.DateOnly
	case pgstore.Month:
		layout = monthOnly
	}
	return start.In(q.Location).AppendFormat(to, layout)
}

// usageJSON answers with the whole report at once, so that a failure never leaves half of one.
func (a *API) usageJSON(w http.ResponseWriter, q *pgstore.UsageQuery, read usageRows) *problem {
	body := appendUsageHead(nil, q)
	rows := 0
	err := read(func(row pgstore.UsageRow) error {
		if rows == a.cfg.MaxRows {
			return errTooManyRows
		}
		if rows > 0 {
			body = append(body, ',')
		}
		rows++
		body = appendUsageRow(append(body, '\n'), q, &row)
		return nil
	})
	if err != nil {
		return a.usageProblem(err, a.cfg.MaxRows, ", or ask for CSV")
	}
	writeBody(w, "application/json", http.StatusOK, append(body, "\n]}\n"...))
	return nil
}

func (a *API) usageProblem(err error, most int, advice string) *problem {
	if errors.Is(err, errTooManyRows) {
		return tooManyRows.because("there are more than %d rows; narrow the time or the entity, group by less%s", most, advice)
	}
	return databaseProblem(err)
}

func appendUsageHead(to []byte, q *pgstore.UsageQuery) []byte {
	member := func(name, value string) {
		to = append(to, '"')
		to = append(to, name...)
		to = append(to, `":`...)
		to = appendJSONString(to, value)
		to = append(to, ',')
	}
	to = append(to, '{')
	if q.EntityType != 0 {
		member("entity_type", q.EntityType.String())
	}
	if q.EntityID != "" {
		member("entity_id", q.EntityID)
	}
	if q.TeamID != "" {
		member("team_id", q.TeamID)
	}
	member("by", q.By.String())
	member("tz", q.Location.String())
	member("from", formatTime(q.From, q.Location))
	member("to", formatTime(q.To, q.Location))
	to = append(to, `"day_shift_minutes":`...)
	to = strconv.AppendInt(to, shiftMinutes(q), 10)
	to = append(to, `,"group_by":[`...)
	for i, name := range q.GroupBy {
		if i > 0 {
			to = append(to, ',')
		}
		to = appendJSONString(to, name)
	}
	return append(to, `],"rows":[`...)
}

// shiftMinutes is by how much days of the report begin later than those of its zone, rounded up.
func shiftMinutes(q *pgstore.UsageQuery) int64 {
	return int64((q.DayShift() + time.Minute - 1) / time.Minute)
}

func appendUsageRow(to []byte, q *pgstore.UsageQuery, row *pgstore.UsageRow) []byte {
	to = append(to, '{')
	if name := timeName(q.By); name != "" {
		to = append(append(append(to, '"'), name...), `":"`...)
		to = append(appendStart(to, q, row.Start), `",`...)
	}
	for i, name := range q.GroupBy {
		to = append(append(append(to, '"'), name...), `":`...)
		to = append(appendJSONString(to, row.Group[i]), ',')
	}
	to = append(to, `"spend":"`...)
	to, _ = row.Spend.AppendText(to)
	to = append(to, '"')
	for i, n := range row.Counts {
		to = append(append(append(to, `,"`...), countNames[i]...), `":`...)
		to = append(to, n...)
	}
	return append(to, '}')
}

// appendJSONString appends text in quotes. Texts in the books are valid UTF-8; anything else would
// be replaced.
func appendJSONString(to []byte, text string) []byte {
	to, _ = jsontext.AppendQuote(to, text)
	return to
}

// usageCSV streams the report. When it fails halfway, the connection is cut, so that nobody takes a
// part for the whole.
func (a *API) usageCSV(w http.ResponseWriter, r *http.Request, q *pgstore.UsageQuery, form csvForm, read usageRows) *problem {
	out := &csvStream{w: w, name: fileName(q)}
	defer out.release()
	if form.bom {
		out.buffer.WriteString(byteOrderMark)
	}
	var head []string
	if name := timeName(q.By); name != "" {
		head = append(head, name)
	}
	head = append(append(append(head, q.GroupBy...), "spend"), countNames[:]...)
	shift := shiftText(q)
	if shift != "" {
		head = append(head, "day_shift_minutes")
	}
	_ = out.write(head) // it is too short to leave the buffer
	rows := 0
	record := make([]string, 0, len(head))
	err := read(func(row pgstore.UsageRow) error {
		if rows == a.cfg.MaxCSVRows {
			return errTooManyRows
		}
		rows++
		record = appendRecord(record[:0], q, form, &row)
		if shift != "" {
			record = append(record, shift)
		}
		return out.write(record)
	})
	if err == nil {
		err = out.end()
	}
	switch {
	case err == nil:
		return nil
	case !out.begun:
		return a.usageProblem(err, a.cfg.MaxCSVRows, "")
	case out.err == nil && r.Context().Err() == nil: // else the client is gone, which is its affair
		a.log.Warn("a CSV report was cut off", "rows", rows, "error", err)
	}
	panic(http.ErrAbortHandler)
}

// shiftText is what the last column of a CSV says; "" if days are exact, and there is no such
// column.
func shiftText(q *pgstore.UsageQuery) string {
	if minutes := shiftMinutes(q); minutes > 0 {
		return strconv.FormatInt(minutes, 10)
	}
	return ""
}

func appendRecord(to []string, q *pgstore.UsageQuery, form csvForm, row *pgstore.UsageRow) []string {
	if q.By != pgstore.Total {
		to = append(to, string(appendStart(nil, q, row.Start)))
	}
	for _, text := range row.Group {
		to = append(to, form.text(text))
	}
	return append(append(to, row.Spend.String()), row.Counts[:]...)
}

// fileName says what the CSV of a report holds: whose usage, by what, and its first and last day in
// the zone, or where it doesn't begin or end with a day, that hour of UTC.
func fileName(q *pgstore.UsageQuery) string {
	whose := "all"
	if q.EntityType != 0 {
		whose = q.EntityType.String()
	}
	from, to := q.From.In(q.Location), q.To.In(q.Location)
	bound := func(t, day time.Time) string {
		year, month, date := t.Date()
		if pgstore.FirstHour(pgstore.StartOfDay(year, month, date, q.Location)).Equal(t) {
			return day.Format(time.DateOnly)
		}
		return t.UTC().Format("2006-01-02T15Z")
	}
	parts := append([]string{"spendflush", whose, "by", q.By.String()}, q.GroupBy...)
	return strings.Join(append(parts, "from", bound(from, from), "to", bound(to, to.Add(-time.Hour))), "-") + ".csv"
}
