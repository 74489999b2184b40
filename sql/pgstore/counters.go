package pgstore

import (
	"fmt"
	"strconv"
	"strings"
	"text/template"

	"github.com/spendflush/spendflush/spend"
)

// columns are those of the counters, in the order of all statements and parameters.
var columns = append([]string{"spend"}, spend.CountNames()...)

// The functions that files of statements have, so that a new counter changes none of them.
var fileFuncs = template.FuncMap{
	// each "t.% = u.%" writes the pattern for each column of the counters; % is its name.
	"each": Columns,
	// whole does it for all but the spend.
	"whole": func(pattern string) string { return forEach(columns[1:], pattern) },

	// arrays, texts and values write the parameters from a number on that have the counters: arrays
	// of them, arrays of their texts, and one row of them.
	"arrays": func(first int) string { return parameters(first, "numeric[]", "bigint[]") },
	"texts":  func(first int) string { return parameters(first, "text[]", "text[]") },
	"values": func(first int) string { return parameters(first, "numeric", "bigint") },

	// held writes the query for the days whose figures hold, and the kinds that have hours on them. A
	// condition on d.day may follow.
	"held": func() string {
		return `SELECT d.day, d.hourly
    FROM spendflush.figure_days d
    WHERE d.fingerprint = (SELECT sum(f.fingerprint) FROM spendflush.day_fingerprint f WHERE f.day = d.day)`
	},

	// totalOf writes the query for the total of an entity over all shards: no row if it has none.
	"totalOf": func(key string) string {
		return `SELECT sum(t.spend) AS spend, sum(t.successful_requests::numeric + t.failed_requests)::bigint AS requests,
        max(t.updated_at) AS updated_at
    FROM spendflush.total t
    WHERE t.entity = ` + key + `
    HAVING count(*) > 0`
	},

	// parts writes the query for each table that ids lie in, as one; % is its number.
	"parts": func(query string) string {
		list := make([]string, factParts)
		for part := range list {
			list[part] = strings.ReplaceAll(query, "%", strconv.Itoa(part))
		}
		return strings.Join(list, "\nUNION ALL\n")
	},
}

// Columns writes the pattern for each column of the counters, the spend first, with commas between;
// % in it is the column's name.
func Columns(pattern string) string { return forEach(columns, pattern) }

func forEach(names []string, pattern string) string {
	list := make([]string, len(names))
	for i, name := range names {
		list[i] = strings.ReplaceAll(pattern, "%", name)
	}
	return strings.Join(list, ", ")
}

func parameters(first int, amount, count string) string {
	list := make([]string, len(columns))
	for i := range list {
		list[i] = fmt.Sprintf("$%d::%s", first+i, count)
	}
	list[0] = fmt.Sprintf("$%d::%s", first, amount)
	return strings.Join(list, ", ")
}

// render returns a statement with what its file leaves to fileFuncs. What a file has in {{if .}} is
// for its variant about the whole of the books.
func render(name, text string, whole bool) string {
	var b strings.Builder
	err := template.Must(template.New(name).Funcs(fileFuncs).Parse(text)).Execute(&b, whole)
	if err != nil {
		panic("spendflush/sql: " + err.Error())
	}
	return b.String()
}

// countsOf returns where a row is scanned into that has the whole numbers among the counters.
func countsOf(c *spend.Counters) []any {
	into := make([]any, spend.Counts)
	for i := range into {
		into[i] = c.Count(i)
	}
	return into
}
