package integration

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const dashboardFile = "../deploy/grafana/spendflush.json"

// dashboard is what the tests look at of Grafana's format.
type dashboard struct {
	UID         string
	Panels      []panel
	Annotations struct{ List []annotation }
	Templating  struct{ List []variable }
}

type panel struct {
	ID          int
	Type, Title string
	GridPos     struct{ X, Y, W, H int }
	Datasource  source
	Targets     []struct {
		Datasource source
		Expr       string
	}
	FieldConfig struct{ Defaults struct{ Unit string } }
}

type source struct{ Type, UID string }

type annotation struct {
	Datasource source
	Expr       string
}

type variable struct {
	Name, Type string
	Datasource source
	Definition string
}

func readDashboard(t testing.TB) (d dashboard) {
	t.Helper()
	if err := json.Unmarshal([]byte(readText(t, dashboardFile)), &d); err != nil {
		t.Fatalf("%s: %v", dashboardFile, err)
	}
	if len(d.Panels) == 0 {
		t.Fatalf("%s has no panels", dashboardFile)
	}
	return d
}

// expression is one that Prometheus is asked, and where it stands.
type expression struct{ where, text string }

// expressions returns all of the dashboard with its variables replaced as if everything were
// chosen.
func (d *dashboard) expressions() (all []expression) {
	add := func(where, text string) {
		text = strings.NewReplacer("$job", ".*", "$instance", ".*", "$__rate_interval", "1m").Replace(text)
		all = append(all, expression{where, text})
	}
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			add("panel "+p.Title, target.Expr)
		}
	}
	for _, v := range d.Templating.List {
		if selector, ok := strings.CutPrefix(v.Definition, "label_values("); ok {
			at := strings.LastIndex(selector, ",")
			add("variable "+v.Name, "count by ("+strings.Trim(selector[at:], ", )")+") ("+selector[:at]+")")
		}
	}
	return all
}

func TestTheDashboardIsWellFormed(t *testing.T) {
	t.Parallel()
	d := readDashboard(t)
	ids := map[int]bool{}
	taken := map[[2]int]string{}
	ours := source{"prometheus", "${datasource}"}
	for _, p := range d.Panels {
		if ids[p.ID] || p.Title == "" {
			t.Errorf("panel %d %q: its id is taken, or it has no title", p.ID, p.Title)
		}
		ids[p.ID] = true
		if p.GridPos.W < 1 || p.GridPos.H < 1 || p.GridPos.X < 0 || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %q lies outside: %+v", p.Title, p.GridPos)
		}
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				cell := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if other, ok := taken[cell]; ok {
					t.Fatalf("panels %q and %q overlap", other, p.Title)
				}
				taken[cell] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		if len(p.Targets) == 0 || p.Datasource != ours || p.FieldConfig.Defaults.Unit == "" && p.Type != "table" {
			t.Errorf("panel %q: %d targets, unit %q, data source %+v", p.Title, len(p.Targets), p.FieldConfig.Defaults.Unit, p.Datasource)
		}
		for _, target := range p.Targets {
			if target.Datasource != ours {
				t.Errorf("panel %q asks %+v", p.Title, target.Datasource)
			}
		}
	}
	for _, a := range d.Annotations.List {
		if a.Datasource != ours {
			t.Errorf("an annotation asks %+v", a.Datasource)
		}
	}
	for _, v := range d.Templating.List {
		if v.Type != "datasource" && v.Datasource != ours {
			t.Errorf("variable %s asks %+v", v.Name, v.Datasource)
		}
	}
}

// wanted is what an expression takes for granted: labels by metric, and labels that one of its
// metrics must have.
type wanted struct {
	metrics  map[string][]string
	grouping []string
}

var (
	textPart     = regexp.MustCompile(`"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'`)
	rangePart    = regexp.MustCompile(`\[[^\]]*\]`)
	groupingPart = regexp.MustCompile(`\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)`)
	selectorPart = regexp.MustCompile(`([a-zA-Z_:][\w:]*)\s*\{([^}]*)\}`)
	matcherPart  = regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)`)
	namePart     = regexp.MustCompile(`\b([a-zA-Z_][\w:]*)(\s*\()?`)
	wordPart     = regexp.MustCompile(`\w+`)
	keywords     = []string{"and", "or", "unless", "bool", "offset", "by", "without"}
)

// namesIn finds metrics and labels in an expression of PromQL. It doesn't check the expression:
// Prometheus does.
func namesIn(text string) wanted {
	w := wanted{metrics: map[string][]string{}}
	text = rangePart.ReplaceAllString(textPart.ReplaceAllString(text, "0"), "")
	text = groupingPart.ReplaceAllStringFunc(text, func(part string) string {
		w.grouping = append(w.grouping, wordPart.FindAllString(groupingPart.FindStringSubmatch(part)[1], -1)...)
		return " "
	})
	text = selectorPart.ReplaceAllStringFunc(text, func(part string) string {
		m := selectorPart.FindStringSubmatch(part)
		for _, label := range matcherPart.FindAllStringSubmatch(m[2], -1) {
			w.metrics[m[1]] = append(w.metrics[m[1]], label[1])
		}
		return m[1] + " "
	})
	for _, m := range namePart.FindAllStringSubmatch(text, -1) {
		if m[2] == "" && !slices.Contains(keywords, m[1]) {
			w.metrics[m[1]] = append(w.metrics[m[1]], "__name__")
		}
	}
	return w
}

func TestNamesAreFoundInExpressions(t *testing.T) {
	t.Parallel()
	w := namesIn(`sum by (job, le) (rate(a_total{x="}b(", y!~'c'}[5m] offset 5m)) / on (job) group_left () min by (job) (b:c)
		> bool 1e3 and label_replace(d, "e", "f", "", "") or (g) unless h{}`)
	var names []string
	for name, labels := range w.metrics {
		slices.Sort(labels)
		names = append(names, name+" "+strings.Join(labels, ","))
	}
	slices.Sort(names)
	if want := []string{"a_total __name__,x,y", "b:c __name__", "d __name__", "g __name__", "h __name__"}; !slices.Equal(names, want) {
		t.Errorf("metrics are %q, want %q", names, want)
	}
	if want := []string{"job", "le", "job", "job"}; !slices.Equal(w.grouping, want) {
		t.Errorf("labels are %q, want %q", w.grouping, want)
	}
}
