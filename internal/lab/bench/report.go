package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Report is what a run has measured.
type Report struct {
	Version string    `json:"version"` // of spendflush
	Command string    `json:"command"` // that does it again
	Begun   time.Time `json:"begun"`
	Seconds float64   `json:"seconds"` // that it took
	Machine Machine   `json:"machine"`
	Targets []Target  `json:"targets"`
	Tables  []Table   `json:"tables"`
}

// Machine is what it ran on.
type Machine struct {
	Cores    int    `json:"cores"`
	CPU      string `json:"cpu"`
	OS       string `json:"os"`
	Go       string `json:"go"`
	Postgres string `json:"postgres"`
	Redis    string `json:"redis"`
}

// Value is what was measured in several rounds of one run.
type Value struct {
	Median  float64   `json:"median"`
	Low     float64   `json:"low"`
	High    float64   `json:"high"`
	Samples []float64 `json:"samples"`
}

// valueOf leaves out rounds in which there was nothing to divide by: in a time that short nothing
// may happen.
func valueOf(samples []float64) Value {
	samples = slices.DeleteFunc(slices.Clone(samples), func(s float64) bool { return math.IsNaN(s) || math.IsInf(s, 0) })
	if len(samples) == 0 {
		return Value{}
	}
	sorted := slices.Sorted(slices.Values(samples))
	middle := len(sorted) / 2
	median := sorted[middle]
	if len(sorted)%2 == 0 {
		median = (sorted[middle-1] + sorted[middle]) / 2
	}
	return Value{Median: median, Low: sorted[0], High: sorted[len(sorted)-1], Samples: samples}
}

// ratios divides round by round: both were measured one after the other, on the same machine in the
// same mood.
func ratios(of, by []float64) []float64 {
	quotients := make([]float64, min(len(of), len(by)))
	for i := range quotients {
		quotients[i] = of[i] / by[i]
	}
	return quotients
}

// Table is one comparison.
type Table struct {
	Part    string   `json:"part"`
	Title   string   `json:"title"`
	About   string   `json:"about"` // what was done, in sentences
	Columns []string `json:"columns"`
	Rows    []Row    `json:"rows"`
}

// Row is one of the things compared. It has a cell for each column, nil where nothing was measured.
type Row struct {
	Name  string   `json:"name"`
	Cells []*Value `json:"cells"`
}

func (t *Table) row(name string, cells ...[]float64) {
	r := Row{Name: name}
	for _, samples := range cells {
		var cell *Value
		if v := valueOf(samples); len(v.Samples) > 0 {
			cell = &v
		}
		r.Cells = append(r.Cells, cell)
	}
	t.Rows = append(t.Rows, r)
}

// Target is what was to be reached.
type Target struct {
	Part    string  `json:"part"`
	What    string  `json:"what"`
	Unit    string  `json:"unit"`
	Bound   float64 `json:"bound"`
	AtLeast bool    `json:"at_least"` // or else at most
	Got     Value   `json:"got"`
	Met     bool    `json:"met"` // by the median
}

func (r *Report) atLeast(part, what, unit string, bound float64, got []float64) {
	v := valueOf(got)
	r.Targets = append(r.Targets, Target{part, what, unit, bound, true, v, len(v.Samples) > 0 && v.Median >= bound})
}

func (r *Report) atMost(part, what, unit string, bound float64, got []float64) {
	v := valueOf(got)
	r.Targets = append(r.Targets, Target{part, what, unit, bound, false, v, len(v.Samples) > 0 && v.Median <= bound})
}

// WriteJSON writes the report for programs.
func (r *Report) WriteJSON(to io.Writer) error {
	e := json.NewEncoder(to)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// WriteMarkdown writes the report for people.
func (r *Report) WriteMarkdown(to io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# Benchmarks\n\n")
	fmt.Fprintf(&b, "Measured with `%s` on %s (spendflush %s), in %.0f s.\n\n", r.Command, r.Begun.UTC().Format(time.DateOnly), r.Version, r.Seconds)
	fmt.Fprintf(&b, "%d cores (%s), %s, %s, Postgres %s, Redis %s. Clients, instances, Postgres and Redis share these cores.\n",
		r.Machine.Cores, r.Machine.CPU, r.Machine.OS, r.Machine.Go, r.Machine.Postgres, r.Machine.Redis)
	fmt.Fprintf(&b, "Each number is the median of the rounds, with the lowest and the highest in brackets. What is compared was measured\n"+
		"in turns; a ratio is made round by round. Compare ratios: the numbers themselves are this machine's.\n")
	if len(r.Targets) > 0 {
		fmt.Fprintf(&b, "\n## Targets\n\n| what | target | measured | |\n|---|---|---|---|\n")
		for _, t := range r.Targets {
			sign, met := "≤", "met"
			if t.AtLeast {
				sign = "≥"
			}
			if !t.Met {
				met = "**missed**"
			}
			fmt.Fprintf(&b, "| %s | %s %s | %s | %s |\n", t.What, sign, withUnit(number(t.Bound), t.Unit), withUnit(t.Got.String(), t.Unit), met)
		}
	}
	for _, t := range r.Tables {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n| |", t.Title, t.About)
		for _, c := range t.Columns {
			fmt.Fprintf(&b, " %s |", c)
		}
		fmt.Fprintf(&b, "\n|---|%s\n", strings.Repeat("---:|", len(t.Columns)))
		for _, row := range t.Rows {
			fmt.Fprintf(&b, "| %s |", row.Name)
			for _, cell := range row.Cells {
				if cell == nil {
					fmt.Fprintf(&b, " %s |", nothing)
					continue
				}
				fmt.Fprintf(&b, " %s |", cell)
			}
			fmt.Fprintln(&b)
		}
	}
	_, err := io.WriteString(to, b.String())
	return err
}

func withUnit(text, unit string) string {
	if unit == "" || text == nothing {
		return text
	}
	return text + " " + unit
}

const nothing = "–" // was measured

// String returns the median, and the spread where there is one.
func (v Value) String() string {
	if len(v.Samples) == 0 {
		return nothing
	}
	median := number(v.Median)
	if len(v.Samples) < 2 || v.Low == v.High {
		return median
	}
	return fmt.Sprintf("%s (%s–%s)", median, number(v.Low), number(v.High))
}

// number writes three digits that count.
func number(x float64) string {
	switch size := math.Abs(x); {
	case size >= 999_500:
		return significant(x/1e6) + " M"
	case size >= 99_950:
		return significant(x/1e3) + " k"
	case size >= 1000:
		return strconv.FormatFloat(x, 'f', 0, 64)
	}
	return significant(x)
}

func significant(x float64) string {
	if x == math.Trunc(x) && math.Abs(x) < 1000 {
		return strconv.FormatFloat(x, 'f', 0, 64)
	}
	// The exponent of what it is rounded to: 99.95 is 100.
	_, exponent, _ := strings.Cut(strconv.FormatFloat(x, 'e', 2, 64), "e")
	size, _ := strconv.Atoi(exponent) // FormatFloat wrote it
	digits := 2 - size
	return strconv.FormatFloat(x, 'f', max(0, min(digits, 6)), 64)
}
