package pgstore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// keepFigures makes the figures of all days that lack them, and returns how many these were.
func keepFigures(t testing.TB, s *Store) (days int) {
	t.Helper()
	for {
		made, err := s.KeepFigures(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !made {
			return days
		}
		days++
	}
}

// spread moves traffic to hours of five days, the third of which is that of noon.
func spread(r *rand.Rand, requests []request) []request {
	for i := range requests {
		requests[i].hour = noon - 60 + spend.Hour(r.IntN(5*24))
	}
	return requests
}

// figureQueries are queries of all kinds about those five days, and a part of them.
func figureQueries(t *testing.T) (list []UsageQuery) {
	spans := [][2]time.Duration{{-72 * time.Hour, 96 * time.Hour}, {-50 * time.Hour, 31 * time.Hour}}
	n := 0
	add := func(q UsageQuery) { // in five of all ways to cut the time, each time other ones
		for range 5 {
			q.By, q.Location = Granularity(n%4), zoneOf(t, []string{"UTC", "America/New_York", "Asia/Kolkata"}[n%3])
			span := spans[n/12%2]
			q.From, q.To = at("2026-11-20T00:00Z").Add(span[0]), at("2026-11-20T00:00Z").Add(span[1])
			list = append(list, q)
			n++
		}
	}
	add(UsageQuery{})
	add(UsageQuery{OrderBy: "spend", Limit: 3, GroupBy: []string{"api_key"}})
	add(UsageQuery{Model: "model-1"})
	add(UsageQuery{Model: "model-1", GroupBy: []string{"model"}})
	add(UsageQuery{Provider: "p", GroupBy: []string{"model", "team_id"}})
	for _, group := range GroupNames() {
		add(UsageQuery{GroupBy: []string{group}})
	}
	add(UsageQuery{GroupBy: []string{"model", "tag"}})
	for _, kind := range spend.EntityTypes() {
		add(UsageQuery{EntityType: kind})
		add(UsageQuery{EntityType: kind, GroupBy: []string{"entity_id"}})
		add(UsageQuery{EntityType: kind, GroupBy: []string{"tag", "entity_id"}})
	}
	add(UsageQuery{EntityType: spend.Team, EntityID: "team-2"})
	add(UsageQuery{EntityType: spend.Team, EntityID: "team-2", GroupBy: []string{"model"}})
	add(UsageQuery{EntityType: spend.Team, GroupBy: []string{"entity_id", "team_id"}})
	add(UsageQuery{EntityType: spend.Tag, EntityID: "tag-b", GroupBy: []string{"entity_id"}})
	add(UsageQuery{EntityType: spend.TeamMember, GroupBy: []string{"entity_id", "team_id", "user_id"}})
	add(UsageQuery{EntityType: spend.TeamMember, TeamID: "team-3", GroupBy: []string{"user_id"}})
	add(UsageQuery{EntityType: spend.TeamMember, EntityID: "user-3", TeamID: "team-3"})
	return list
}

func reports(t *testing.T, s *Store, queries []UsageQuery) (all []string) {
	t.Helper()
	for _, q := range queries {
		all = append(all, strings.Join(usage(t, s, q), "\n"))
	}
	return all
}

func TestReportsSayTheSameWithFiguresAndWithout(t *testing.T) {
	s := open(t, database(t), Options{})
	r := rand.New(rand.NewPCG(21, 1))
	producer, sequence := newProducer(), uint64(0)
	flush := func(requests []request) {
		sequence++
		apply(t, s, flushOf(producer, sequence, sequence, requests...))
	}
	flush(spread(r, traffic(r, 300, 40)))
	flush([]request{{spend.Series{Model: "model-9"}, noon, one("1")}, {spend.Series{EndUserID: "e", AgentID: "a", Endpoint: "/x"}, noon + 7, one("2")}})
	queries := figureQueries(t)
	same := func(when string, want []string) {
		t.Helper()
		for i, got := range reports(t, s, queries) {
			if got != want[i] {
				t.Fatalf("%s: %+v:\n%s\nwant\n%s", when, queries[i], got, want[i])
			}
		}
	}

	rows := reports(t, s, queries)
	if n := keepFigures(t, s); n != 5 {
		t.Errorf("figures of %d days were made", n)
	}
	same("with figures", rows)

	late := spread(r, traffic(r, 30, 50))
	flush(late)
	execute(t, s.pool, "CREATE TABLE kept AS TABLE spendflush.figure_days; DELETE FROM spendflush.figure_days")
	rows = reports(t, s, queries)
	execute(t, s.pool, "INSERT INTO spendflush.figure_days TABLE kept")
	same("with figures that don't hold", rows)
	if n := keepFigures(t, s); n != 0 {
		t.Errorf("figures of %d days were made anew at once", n)
	}
	execute(t, s.pool, "UPDATE spendflush.figure_days SET made_at = made_at - interval '11 minutes'")
	if n := keepFigures(t, s); n == 0 {
		t.Error("no figures were made anew")
	}
	same("with new figures", rows)
	wantAudit(t, s)
}

// What a report is made of shows where figures say something else than rows.
func TestReportsReadFiguresWhereTheyHold(t *testing.T) {
	s := open(t, database(t), Options{})
	apply(t, s, flushOf(newProducer(), 1, 1, request{spend.Series{APIKey: "k", Model: "m"}, noon, one("1")}))
	keepFigures(t, s)
	execute(t, s.pool, "UPDATE spendflush.figure SET spend = 100; UPDATE spendflush.figure_hour SET spend = 1000")
	day := UsageQuery{From: at("2026-11-20T00:00Z"), To: at("2026-11-21T00:00Z"), By: Day}
	wide := UsageQuery{From: at("2026-11-19T05:00Z"), To: at("2026-11-22T05:00Z"), By: Day, Location: zoneOf(t, "America/New_York")}
	of := func(q UsageQuery, groups ...string) UsageQuery { q.GroupBy = groups; return q }
	for _, c := range []struct {
		query UsageQuery
		want  string
	}{
		{day, "100 1"}, {of(day, "model"), "m 100 1"}, {of(day, "api_key"), "k 100 1"}, {of(day, "api_key", "model"), "k m 1 1"},
		{wide, "1000 1"}, {of(wide, "model"), "m 1000 1"}, {of(wide, "api_key"), "k 1 1"},
	} {
		if got := usage(t, s, c.query); len(got) != 1 || !strings.HasSuffix(got[0], " "+c.want) {
			t.Errorf("%+v: %q, want %s", c.query, got, c.want)
		}
	}
}

func TestTheAuditFindsFiguresThatAreNotTheirRows(t *testing.T) {
	s := open(t, database(t), Options{})
	apply(t, s, flushOf(newProducer(), 1, 1, onDays(0, 1)...))
	keepFigures(t, s)
	wantAudit(t, s)
	for _, change := range []string{
		"UPDATE spendflush.figure SET spend = spend + 0.000000000001 WHERE kind = 3", "UPDATE spendflush.figure SET successful_requests = 2 WHERE kind = 0",
		"UPDATE spendflush.figure_hour SET prompt_tokens = 1 WHERE kind = 8", "DELETE FROM spendflush.figure WHERE kind = 12",
		"DELETE FROM spendflush.figure_hour WHERE kind = 2", "INSERT INTO spendflush.figure SELECT day, kind, 'more', '', 1, 0, 0, 0, 0, 0, 0 FROM spendflush.figure WHERE kind = 4",
	} {
		execute(t, s.pool, change+" AND day = '2026-11-20'")
		checks := failedChecks(t, s)
		if len(checks) != 1 || checks[0].Name != checkFigures || !slices.Equal(checks[0].Days, []string{"2026-11-20"}) {
			t.Errorf("%s: %+v", change, checks)
		}
		execute(t, s.pool, "DELETE FROM spendflush.figure_days WHERE day = '2026-11-20'")
		wantAudit(t, s)
		if n := keepFigures(t, s); n != 1 {
			t.Errorf("figures of %d days were made anew", n)
		}
		wantAudit(t, s)
	}
}

// Its fingerprint was added when it was set aside, so that it can't tell that the row is there now.
func TestARowAppliedByHandIsInTheReports(t *testing.T) {
	s := open(t, database(t), Options{})
	p := newProducer()
	full := request{spend.Series{APIKey: "full"}, noon, one("1")}
	apply(t, s, flushOf(p, 1, 1, full))
	execute(t, s.pool, "UPDATE spendflush.rollup SET prompt_tokens = 9223372036854775807")
	apply(t, s, flushOf(p, 2, 2, request{full.series, noon, spend.Counters{Spend: spend.Dollars(2), SuccessfulRequests: 1, PromptTokens: 1}}))
	execute(t, s.pool, "UPDATE spendflush.rollup SET prompt_tokens = 0")
	keepFigures(t, s)
	q := UsageQuery{From: at("2026-11-20T00:00Z"), To: at("2026-11-21T00:00Z"), By: Total}
	wantLines(t, usage(t, s, q), "2026-11-20T00:00Z 1 1")
	entry := query[int64](t, s, "SELECT id FROM spendflush.quarantine WHERE book = 'rollup'")
	if err := s.ApplyQuarantined(t.Context(), entry, "a test"); err != nil {
		t.Fatal(err)
	}
	wantLines(t, usage(t, s, q), "2026-11-20T00:00Z 3 2")
	keepFigures(t, s)
	wantLines(t, usage(t, s, q), "2026-11-20T00:00Z 3 2")
}

func TestFiguresOfADayThatChangesMeanwhileDoNotHold(t *testing.T) {
	databaseURL := database(t)
	s, other := open(t, databaseURL, Options{}), open(t, databaseURL, Options{})
	apply(t, s, flushOf(newProducer(), 1, 1, onDays(0)...))
	once := false
	onStatement(s, "figures_make", func(int) { // the fingerprint was read
		if !once {
			once = true
			apply(t, other, flushOf(newProducer(), 1, 1, onDays(0)...))
		}
	})
	if n := keepFigures(t, s); n != 1 || !once {
		t.Errorf("figures of %d days were made", n)
	}
	if n := query[int](t, s, "SELECT count(*) FROM spendflush.figure_days d WHERE fingerprint = (SELECT sum(fingerprint) FROM spendflush.day_fingerprint f WHERE f.day = d.day)"); n != 0 {
		t.Errorf("figures of %d days hold", n)
	}
	wantLines(t, usage(t, s, UsageQuery{From: at("2026-11-20T00:00Z"), To: at("2026-11-21T00:00Z"), By: Total}), "2026-11-20T00:00Z 2 2")
}

func TestTheDaysOfAReportAreThoseThatItTouches(t *testing.T) {
	day := at("2026-11-20T00:00Z")
	hour := int32(spend.HourOf(day))
	for _, c := range []struct {
		thresholds []int32
		whole      bool
	}{
		{[]int32{hour, hour + 24}, true}, {[]int32{hour - 5, hour + 30}, true}, {[]int32{hour - 5, hour, hour + 24, hour + 48}, true},
		{[]int32{hour + 1, hour + 30}, false}, {[]int32{hour, hour + 23}, false}, {[]int32{hour - 24, hour + 5, hour + 29}, false},
		{[]int32{hour + 24, hour + 48}, false}, {[]int32{hour - 24, hour}, false},
	} {
		if got := isWhole(day, c.thresholds); got != c.whole {
			t.Errorf("%v: %t", slices.Clone(c.thresholds), got)
		}
	}
}

// BenchmarkUsageOfAMonth reads a month by day and model, with figures and without, of 200,000 rows.
func BenchmarkUsageOfAMonth(b *testing.B) {
	s := open(b, database(b), Options{})
	makeParts(b, s, "2026-10-01", "2026-10-31")
	execute(b, s.pool, `INSERT INTO spendflush.series (key, api_key, model) SELECT md5(i::text)::uuid, 'key-' || i, 'model-' || i % 20 FROM generate_series(1, 300) AS i`)
	execute(b, s.pool, `INSERT INTO spendflush.rollup SELECT key, d::date, h, 0, 0, 0, 1, 10, 10, 0.001
		FROM spendflush.series, generate_series(date '2026-10-01', date '2026-10-30', '1 day') AS d, generate_series(0, 23) AS h`)
	execute(b, s.pool, "INSERT INTO spendflush.day_fingerprint SELECT DISTINCT 0, day, 1 FROM spendflush.rollup; ANALYZE")
	q := UsageQuery{From: at("2026-10-01T00:00Z"), To: at("2026-10-31T00:00Z"), By: Day, GroupBy: []string{"model"}}
	read := func(b *testing.B) {
		for b.Loop() {
			if err := s.Usage(context.WithoutCancel(b.Context()), q, func(UsageRow) error { return nil }); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("rows", read)
	if n := keepFigures(b, s); n != 30 {
		b.Fatal(fmt.Errorf("%d days", n))
	}
	b.Run("figures", read)
}

// changes audits what has changed, and returns the names of the checks that failed, and how many days
// weren't read.
func changes(t *testing.T, s *Store) (failed []string, unread int) {
	t.Helper()
	report, err := s.AuditChanges(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range report.Checks {
		if !c.OK {
			failed = append(failed, c.Name)
		}
	}
	if report.OK != (failed == nil) {
		t.Errorf("ok is %t, and %q failed", report.OK, failed)
	}
	return failed, report.DaysUnread
}

func TestAnAuditOfWhatHasChangedReadsFiguresOfTheOtherDays(t *testing.T) {
	s := open(t, database(t), Options{})
	p := newProducer()
	apply(t, s, flushOf(p, 1, 1, traffic(rand.New(rand.NewPCG(22, 1)), 100, 40)...))
	apply(t, s, flushOf(p, 2, 2, onDays(-2, -1, 0, 1)...))
	want := func(when string, unread int, want ...string) {
		t.Helper()
		if failed, n := changes(t, s); !slices.Equal(failed, want) || n != unread {
			t.Errorf("%s: %q failed, %d days weren't read; want %q and %d", when, failed, n, want, unread)
		}
	}
	want("without figures", 0)
	if n := keepFigures(t, s); n != 4 {
		t.Errorf("figures of %d days were made", n)
	}
	want("with figures", 4)

	execute(t, s.pool, "UPDATE spendflush.total SET spend = spend + 1 WHERE entity = (SELECT key FROM spendflush.entity WHERE entity_id = 'team-3' AND entity_type = 'team')")
	want("with another total", 4, "totals of team", checkEntities)
	execute(t, s.pool, "UPDATE spendflush.total SET spend = spend - 1 WHERE entity = (SELECT key FROM spendflush.entity WHERE entity_id = 'team-3' AND entity_type = 'team')")

	const tamper = "UPDATE spendflush.rollup SET spend = spend + 1 WHERE day = '2026-11-19'"
	execute(t, s.pool, tamper)
	want("with a row that was changed on a day that isn't read", 4)
	if checks := failedChecks(t, s); len(checks) != 4 { // rollups, each total, days, figures
		t.Errorf("a full audit says %+v", checks)
	}
	apply(t, s, flushOf(p, 3, 3, onDays(-1)...))
	want("once something was added to the day", 3, "rollups", checkEntities, checkDays)
	execute(t, s.pool, "UPDATE spendflush.figure_days SET made_at = made_at - interval '11 minutes'")
	keepFigures(t, s)
	want("once figures of it were made", 3, "rollups", checkEntities, checkDays)
	execute(t, s.pool, strings.Replace(tamper, "+", "-", 1))
	execute(t, s.pool, "UPDATE spendflush.figure_days SET made_at = made_at - interval '11 minutes'")
	keepFigures(t, s)
	want("put right", 4)
}
