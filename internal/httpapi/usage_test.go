package httpapi

import (
	"archive/zip"
	"encoding/csv"
	"encoding/json"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/pgstore"
)

func usageQuery(t testing.TB, query string, now time.Time) (pgstore.UsageQuery, bool, *problem) {
	t.Helper()
	q, form, p := usageOf(httptest.NewRequest("GET", "/v1/usage?"+query, nil), now)
	return q, form != nil, p
}

func TestTheRangeOfAReportIsWhatItsReaderMeans(t *testing.T) {
	now := time.Date(2026, 3, 29, 22, 30, 0, 0, time.UTC) // the 30th in Berlin, where summer time began the day before
	for name, c := range map[string]struct{ query, from, to string }{
		"the last seven days":              {"", "2026-03-23T00:00:00Z", "2026-03-30T00:00:00Z"},
		"the last seven days of a zone":    {"tz=Europe/Berlin", "2026-03-23T23:00:00Z", "2026-03-30T22:00:00Z"},
		"dates include the last day":       {"from=2026-01-01&to=2026-01-31", "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"},
		"one day":                          {"from=2026-01-31&to=2026-01-31", "2026-01-31T00:00:00Z", "2026-02-01T00:00:00Z"},
		"a day of 23 hours":                {"from=2026-03-29&to=2026-03-29&tz=Europe/Berlin", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"},
		"a day that begins at one":         {"from=2018-11-04&to=2018-11-04&tz=America/Sao_Paulo", "2018-11-04T03:00:00Z", "2018-11-05T02:00:00Z"},
		"times are exact":                  {"from=2026-01-31T12:00:00Z&to=2026-01-31T14:00:00%2B01:00", "2026-01-31T12:00:00Z", "2026-01-31T13:00:00Z"},
		"half-hour zones by the full hour": {"from=2026-01-31&to=2026-01-31&tz=Asia/Kolkata", "2026-01-30T19:00:00Z", "2026-01-31T19:00:00Z"},
		"a from alone":                     {"from=2026-03-01", "2026-03-01T00:00:00Z", "2026-03-30T00:00:00Z"},
		"a to alone":                       {"to=2026-03-07", "2026-03-01T00:00:00Z", "2026-03-08T00:00:00Z"},
		"a to at a time":                   {"to=2026-03-07T05:00:00Z", "2026-03-01T00:00:00Z", "2026-03-07T05:00:00Z"},
		"a month":                          {"from=2026-02&to=2026-02", "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"},
		"months include the last one":      {"from=2025-11&to=2026-01", "2025-11-01T00:00:00Z", "2026-02-01T00:00:00Z"},
		"a month of a zone":                {"from=2026-03&to=2026-03&tz=Europe/Berlin", "2026-02-28T23:00:00Z", "2026-03-31T22:00:00Z"},
		"a month of a half-hour zone":      {"from=2026-10&to=2026-10&tz=Asia/Kolkata", "2026-09-30T19:00:00Z", "2026-10-31T19:00:00Z"},
		"a month and a day":                {"from=2026-02&to=2026-03-02", "2026-02-01T00:00:00Z", "2026-03-03T00:00:00Z"},
		"twelve months":                    {"by=month", "2025-04-01T00:00:00Z", "2026-03-30T00:00:00Z"},
		"twelve months to a month":         {"by=month&to=2026-02", "2025-03-01T00:00:00Z", "2026-03-01T00:00:00Z"},
		"a leap year and more by day":      {"from=2024-01-01&to=2026-12-31", "2024-01-01T00:00:00Z", "2027-01-01T00:00:00Z"},
	} {
		t.Run(name, func(t *testing.T) {
			q, _, p := usageQuery(t, c.query, now)
			if p != nil {
				t.Fatal(p.Detail)
			}
			if got := [2]string{formatTime(q.From, time.UTC), formatTime(q.To, time.UTC)}; got != [2]string{c.from, c.to} {
				t.Errorf("got %s to %s, want %s to %s", got[0], got[1], c.from, c.to)
			}
		})
	}
}

func TestAReportSaysByHowManyMinutesItsDaysAreShifted(t *testing.T) {
	for query, want := range map[string]int{
		"tz=UTC": 0, "tz=Europe/Berlin": 0, "tz=Asia/Kolkata": 30, "tz=Asia/Kathmandu": 45, "tz=Asia/Kathmandu&by=total": 45,
		"tz=America/St_Johns": 30, "tz=Australia/Adelaide": 30,
		"tz=Australia/Lord_Howe&from=2026-01-01&to=2026-01-31":          0, // in summer, 11 hours ahead
		"tz=Australia/Lord_Howe&from=2026-06-01&to=2026-06-30":          30,
		"tz=Australia/Lord_Howe&from=2026-01-01&to=2026-04-05":          30, // which ends in winter
		"tz=Australia/Lord_Howe&from=2026-01-01&to=2026-12-31&by=total": 0,
		"tz=Australia/Lord_Howe&from=2026-01&to=2026-12&by=month":       30,
		// Times are exact, but the days between them aren't.
		"tz=Asia/Kolkata&from=2026-01-01T00:00:00Z&to=2026-01-03T00:00:00Z&by=total": 0,
		"tz=Asia/Kolkata&from=2026-01-01T00:00:00Z&to=2026-01-03T00:00:00Z&by=hour":  0,
		"tz=Asia/Kolkata&from=2026-01-01T00:00:00Z&to=2026-01-03T00:00:00Z&by=day":   30,
		"tz=Asia/Kolkata&from=2026-01-01T00:00:00Z&to=2026-01-01T09:00:00Z&by=day":   0,
	} {
		a, _ := newAPI(t, func(c *Config) { c.Reader = &failingReader{rows: 2} })
		var report struct {
			Minutes int `json:"day_shift_minutes"`
		}
		if err := json.Unmarshal(do(a, "GET", "/v1/usage?"+query, "").Body.Bytes(), &report); err != nil || report.Minutes != want {
			t.Errorf("%s: %d minutes, %v; want %d", query, report.Minutes, err, want)
		}
		records, err := csv.NewReader(do(a, "GET", "/v1/usage?format=csv&"+query, "").Body).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		last := len(records[0]) - 1
		if told := records[0][last] == "day_shift_minutes"; told != (want > 0) || told && records[2][last] != strconv.Itoa(want) {
			t.Errorf("%s: the last column of the CSV is %s, %s", query, records[0][last], records[2][last])
		}
	}
}

func TestARowByMonthIsNamedByIt(t *testing.T) {
	a, _ := newAPI(t, func(c *Config) { c.Reader = &failingReader{rows: 1} })
	var report struct {
		By   string
		Rows []struct{ Month string }
	}
	w := do(a, "GET", "/v1/usage?by=month&tz=Asia/Kolkata&from=2026-10&to=2026-11", "")
	if err := json.Unmarshal(w.Body.Bytes(), &report); err != nil || report.By != "month" || report.Rows[0].Month != "2026-10" {
		t.Errorf("%v %+v", err, report)
	}
	if text := do(a, "GET", "/v1/usage?by=month&format=csv", "").Body.String(); !strings.HasPrefix(text, "month,spend,") {
		t.Errorf("the CSV is %q", text)
	}
}

func TestParametersOfAReportAreReadIntoTheQuery(t *testing.T) {
	q, asCSV, p := usageQuery(t, "entity_type=team_member&entity_id=u%2F1&team_id=t&by=hour&tz=Asia/Tokyo&group_by=model,tag&format=csv", time.Now())
	if p != nil {
		t.Fatal(p.Detail)
	}
	if q.EntityType != spend.TeamMember || q.EntityID != "u/1" || q.TeamID != "t" || q.By != pgstore.Hour || !asCSV ||
		q.Location.String() != "Asia/Tokyo" || !reflect.DeepEqual(q.GroupBy, []string{"model", "tag"}) {
		t.Errorf("got %+v, csv %t", q, asCSV)
	}
}

func TestAParameterThatIsNotUnderstoodIsRefusedAndNeverIgnored(t *testing.T) {
	for _, query := range []string{
		"entity=team", "From=2026-01-01", "from=2026-01-01&from=2026-01-02", "from=", "by=", "by=week", "by=Day", "tz=Mars/Olympus",
		"tz=Local", "tz=../../etc/passwd", "group_by=colour", "group_by=model,", "group_by=model,model", "group_by=model%20,tag",
		"format=xml", "bom=true", "formulas=raw", "format=json&bom=false", "format=csv&bom=1", "format=csv&bom=", "format=csv&formulas=run", "format=csv&formulas=",
		"entity_type=teams", "entity_type=", "entity_id=t", "team_id=t", "entity_type=team&team_id=t",
		"entity_type=team&entity_id=%00", "entity_type=team&entity_id=%ff", "entity_type=team&entity_id=" + strings.Repeat("a", 257),
		"from=yesterday", "from=2026-02-30", "from=2026-13", "from=2026-00", "from=2026", "from=2026-1", "to=2026-1", "by=Month", "by=year", "from=2026-03&to=2026-02", "from=2026-01-31T12:30:00Z", "from=2026-01-31T12:00:00", "from=1769860800",
		"from=2026-01-02&to=2026-01-01", "from=2026-01-01T00:00:00Z&to=2026-01-01T00:00:00Z", "from=2020-01-01&to=2026-01-01",
		"by=hour&from=2026-01-01&to=2026-06-01", "%zz",
	} {
		if _, _, p := usageQuery(t, query, time.Now()); p == nil || p.Type != typeOf(invalidRequest) || p.Detail == "" {
			t.Errorf("%s: problem %+v", query, p)
		}
	}
}

func TestTheFormatFollowsTheParameterAndThenTheAcceptHeader(t *testing.T) {
	for _, c := range []struct {
		query, accept string
		want          bool
	}{
		{"", "", false}, {"", "*/*", false}, {"", "text/csv", true}, {"", "Text/CSV; q=0.9", true}, {"", "application/json, text/csv", false},
		{"", "text/html, text/csv", true}, {"format=json", "text/csv", false}, {"format=csv", "application/json", true},
	} {
		r := httptest.NewRequest("GET", "/v1/usage?"+c.query, nil)
		r.Header.Set("Accept", c.accept)
		if _, form, p := usageOf(r, time.Now()); p != nil || (form != nil) != c.want {
			t.Errorf("%q, Accept %q: %+v, problem %v", c.query, c.accept, form, p)
		}
	}
}

func TestAReportLongerThanAllowedIsRefusedWithAdvice(t *testing.T) {
	reader := &failingReader{rows: 11}
	a, _ := newAPI(t, func(c *Config) { c.Reader, c.MaxRows, c.MaxCSVRows = reader, 10, 10 })
	if p := wantProblem(t, do(a, "GET", "/v1/usage", ""), tooManyRows); !strings.Contains(p.Detail, "more than 10 rows; narrow") {
		t.Errorf("detail is %q", p.Detail)
	}
	wantProblem(t, do(a, "GET", "/v1/usage?format=csv", ""), tooManyRows)
	if reader.left == nil {
		t.Error("the database goes on with the report that nobody wants")
	}
}

func TestNoFormulaReachesASpreadsheetAndJSONHasTheTextAsItIs(t *testing.T) {
	a, _ := newAPI(t, func(c *Config) { c.Reader = &failingReader{rows: 2} })
	w := do(a, "GET", "/v1/usage?group_by=model,tag&format=csv", "")
	records, err := csv.NewReader(w.Body).ReadAll()
	if err != nil || len(records) != 3 {
		t.Fatal(err, records)
	}
	head := []string{"date", "model", "tag", "spend", "api_requests", "successful_requests", "failed_requests",
		"prompt_tokens", "completion_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"}
	if !reflect.DeepEqual(records[0], head) || records[1][1] != `'=1+1,"é"` {
		t.Errorf("got %q", records[:2])
	}
	w = do(a, "GET", "/v1/usage?group_by=model", "")
	var report struct{ Rows []map[string]any }
	if err := json.Unmarshal(w.Body.Bytes(), &report); err != nil || report.Rows[1]["model"] != `=1+1,"é"` {
		t.Errorf("%v %+v", err, report)
	}
	for text, want := range map[string]string{"": "", "gpt-5": "gpt-5", "=A1": "'=A1", "+1": "'+1", "-1": "'-1", "@x": "'@x", "\t=": "'\t=", "\r=": "'\r=", "a=": "a=",
		"\n=1+1": "'\n=1+1", "\nplain": "'\nplain", "＝1": "'＝1", "＋1": "'＋1", "－1": "'－1", "＠x": "'＠x", " =1": "' =1",
		"\u200b=1": "'\u200b=1", "\u00a0@x": "'\u00a0@x", "'=x": "''=x", "''=x": "'''=x", "'x": "'x", "'": "'", " a": " a", "\u200b": "\u200b"} {
		if got := escapeFormula(text); got != want {
			t.Errorf("%q became %q", text, got)
		}
	}
}

func TestTheGuardAgainstFormulasCanBeTurnedOffAndAMarkOfTheByteOrderAskedFor(t *testing.T) {
	a, _ := newAPI(t, func(c *Config) { c.Reader = &failingReader{rows: 1} })
	const mark = "\xef\xbb\xbf"
	for query, want := range map[string]struct{ begin, text string }{
		"": {"date,", "'=1+1"}, "&formulas=escaped&bom=false": {"date,", "'=1+1"}, "&formulas=raw": {"date,", "=1+1"},
		"&bom=true": {mark + "date,", "'=1+1"}, "&bom=true&formulas=raw": {mark + "date,", "=1+1"},
	} {
		text := do(a, "GET", "/v1/usage?group_by=model&format=csv"+query, "").Body.String()
		if !strings.HasPrefix(text, want.begin) || !strings.Contains(text, `,"`+want.text+`,""é""",`) {
			t.Errorf("%s: %q", query, text)
		}
	}
}

func TestTheNameOfACSVSaysWhatItHolds(t *testing.T) {
	a, _ := newAPI(t, nil)
	for query, want := range map[string]string{
		"from=2026-10-01&to=2026-10-31":                                                        "all-by-day-from-2026-10-01-to-2026-10-31",
		"from=2026-01&to=2026-03&by=month&entity_type=team&group_by=entity_id":                 "team-by-month-entity_id-from-2026-01-01-to-2026-03-31",
		"from=2026-10&to=2026-10&tz=Asia/Kolkata&by=total&group_by=model,team_id":              "all-by-total-model-team_id-from-2026-10-01-to-2026-10-31",
		"from=2026-10&to=2026-10&tz=Europe/Berlin&entity_type=api_key&entity_id=%22a%0D%0Ab":   "api_key-by-day-from-2026-10-01-to-2026-10-31",
		"from=2026-10-01T05:00:00Z&to=2026-10-02T05:00:00Z&by=hour":                            "all-by-hour-from-2026-10-01T05Z-to-2026-10-02T05Z",
		"from=2026-10-01T22:00:00Z&to=2026-10-02T05:00:00Z&by=hour&tz=Europe/Berlin":           "all-by-hour-from-2026-10-02-to-2026-10-02T05Z",
		"from=2018-11-04&to=2018-11-04&tz=America/Sao_Paulo&entity_type=user":                  "user-by-day-from-2018-11-04-to-2018-11-04",
		"from=2026-10-25&to=2026-10-25&tz=Europe/Berlin&by=hour&entity_type=team&group_by=tag": "team-by-hour-tag-from-2026-10-25-to-2026-10-25",
	} {
		w := do(a, "GET", "/v1/usage?format=csv&"+query, "")
		if got := w.Header().Get("Content-Disposition"); got != `attachment; filename="spendflush-`+want+`.csv"` {
			t.Errorf("%s: %s", query, got)
		}
	}
}

func TestTextsThatDifferInOneByteDifferInCSV(t *testing.T) {
	texts := []string{"ab", "a\rb", "a\nb", "a\r\nb", `a"b`, "a,b", " ab", "ab ", `"`, "", "a\r", "a\n", "=x", "'=x", "''=x", "é\r"}
	seen := map[string]string{}
	for _, text := range texts {
		line := string(appendLine(nil, []string{escapeFormula(text), "2"}))
		if other, ok := seen[line]; ok {
			t.Errorf("%q and %q are both %q", text, other, line)
		}
		seen[line] = text
		// What RFC 4180 says of it: quotes around, those within doubled, all else as it is.
		field, ok := strings.CutSuffix(line, ",2\r\n")
		if quoted, is := strings.CutPrefix(field, `"`); is {
			field = strings.ReplaceAll(strings.TrimSuffix(quoted, `"`), `""`, `"`)
		}
		if !ok || field != escapeFormula(text) {
			t.Errorf("%q became %q", text, line)
		}
		if again, err := csv.NewReader(strings.NewReader(line)).Read(); err != nil || len(again) != 2 {
			t.Errorf("%q can't be read: %v", line, err)
		}
	}
}

func TestOnlyZonesThatTheProgramBringsAlongAreTaken(t *testing.T) {
	for _, name := range []string{"localtime", "posixrules", "right/UTC", "posix/UTC", "Local", "../UTC", "/etc/localtime", "zone.tab", "europe/berlin", "Europe/Berlin ", "Europe"} {
		if _, _, p := usageQuery(t, "tz="+url.QueryEscape(name), time.Now()); p == nil || !strings.Contains(p.Detail, "IANA name") {
			t.Errorf("%s: problem %v", name, p)
		}
	}
	for name := range zoneNames() {
		if _, err := time.LoadLocation(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The list is that of the Go that builds the program.
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	archive, err := zip.OpenReader(strings.TrimSpace(string(root)) + "/lib/time/zoneinfo.zip")
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	for _, file := range archive.File {
		if !strings.HasSuffix(file.Name, "/") && !zoneNames()[file.Name] {
			t.Errorf("assets/zones.txt lacks %s: it has the names in lib/time/zoneinfo.zip of Go, a line each, sorted", file.Name)
		}
	}
}

func TestIdsOfAnyTextCanBeAskedForByPath(t *testing.T) {
	for _, id := range []string{
		"plain", "a/b", "/", "a//b", "..", ".", "%2F", "%", "a b", "a+b", "ключ", "😀", "a?b#c", "a;b=c", "\n", `"'\`, "team_member/x", strings.Repeat("é", 128),
	} {
		for _, kind := range spend.EntityTypes() {
			path, want := kind.String()+"/"+url.PathEscape(id), spend.Entity{Type: kind, ID: id}
			if kind == spend.TeamMember {
				path, want.TeamID = kind.String()+"/"+url.PathEscape(id)+"/"+url.PathEscape(id), id
			}
			r := httptest.NewRequest("GET", spendPrefix+path, nil)
			rest, ok := strings.CutPrefix(r.URL.EscapedPath(), spendPrefix)
			got, p := entityOf(rest)
			if !ok || p != nil || got != want {
				t.Errorf("%s: got %+v, problem %v", path, got, p)
			}
		}
	}
}

func TestAPathThatNamesNoEntityIsRefused(t *testing.T) {
	a, _ := newAPI(t, nil)
	for _, path := range []string{"", "team", "teams/t", "Team/t", "team/a/b", "team_member/u", "team_member/t/u/x", "key%2Fk"} {
		wantProblem(t, do(a, "GET", spendPrefix+path, ""), notFound)
	}
	for _, path := range []string{"team/", "team_member//u", "team_member/t/", "team/%00", "team/%ff", "team/" + strings.Repeat("a", 257), "team/t?x=1"} {
		wantProblem(t, do(a, "GET", spendPrefix+path, ""), invalidRequest)
	}
	wantProblem(t, do(a, "GET", spendPrefix+"team/nobody", ""), notFound)
}
