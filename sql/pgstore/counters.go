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

// render returns a statement with what its file leaves to fileFuncs.
func render(name, text string) string {
	var b strings.Builder
	err := template.Must(template.New(name).Funcs(fileFuncs).Parse(text)).Execute(&b, nil)
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
