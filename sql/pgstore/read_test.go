package pgstore

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/spendflush/spendflush/spend"
)

func TestViewsHaveExactlyTheColumnsOfTheContract(t *testing.T) {
	s := open(t, database(t), Options{})
	counters := "spend,api_requests,successful_requests,failed_requests,prompt_tokens,completion_tokens," +
		"cache_read_input_tokens,cache_creation_input_tokens"
	for view, want := range map[string]string{
		"spend": "entity_type,entity_id,team_id," + counters + ",updated_at",
		"daily_spend": "date,entity_type,entity_id,team_id,api_key,model,model_group,custom_llm_provider," +
			"mcp_namespaced_tool_name,endpoint," + counters,
	} {
		got := query[string](t, s, `SELECT string_agg(column_name, ',' ORDER BY ordinal_position)
			FROM information_schema.columns WHERE table_schema = 'spendflush' AND table_name = $1`, view)
		if got != want {
			t.Errorf("%s has the columns %s, want %s", view, got, want)
		}
		got = query[string](t, s, `SELECT data_type || numeric_precision || ',' || numeric_scale
			FROM information_schema.columns WHERE table_schema = 'spendflush' AND table_name = $1 AND column_name = 'spend'`, view)
		if got != "numeric50,12" {
			t.Errorf("spend of %s is a %s", view, got)
		}
	}
}

func TestDailySpendSpendAndRollupsAreThreeViewsOfTheSameSums(t *testing.T) {
	s := open(t, database(t), Options{})
	p := newProducer()
	r := rand.New(rand.NewPCG(11, 1))
	for n := range uint64(5) {
		requests := traffic(r, 100, 40)
		for i := range requests {
			requests[i].hour += spend.Hour(r.IntN(60)) // several days
		}
		apply(t, s, flushOf(p, n+1, n+1, requests...))
	}
	differing := query[int](t, s, `
		WITH daily AS (
			SELECT entity_type, entity_id, team_id, sum(spend) AS spend, sum(api_requests) AS requests, sum(prompt_tokens) AS tokens
			FROM spendflush.daily_spend GROUP BY 1, 2, 3)
		SELECT count(*) FROM daily d FULL JOIN spendflush.spend s USING (entity_type, entity_id, team_id)
		WHERE (d.spend, d.requests, d.tokens) IS DISTINCT FROM (s.spend, s.api_requests, s.prompt_tokens)`)
	if differing != 0 {
		t.Errorf("%d entities differ between spend and daily_spend", differing)
	}
	if n := query[int](t, s, "SELECT count(*) FROM spendflush.spend"); n < 60 {
		t.Errorf("only %d entities were compared", n)
	}
	repeated := query[int](t, s, `SELECT count(*) FROM (SELECT FROM spendflush.daily_spend GROUP BY date, entity_type, entity_id,
		team_id, api_key, model, model_group, custom_llm_provider, mcp_namespaced_tool_name, endpoint HAVING count(*) > 1) AS r`)
	if repeated != 0 {
		t.Errorf("%d keys of daily_spend have several rows", repeated)
	}
	wantAudit(t, s)
}

func TestAQueryForOneEntityGoesByIndexesAndNotOverTheBooks(t *testing.T) {
	s := open(t, database(t), Options{})
	// Enough that reading everything would be the worse plan.
	execute(t, s.pool, `INSERT INTO spendflush.series (key, api_key, user_id, end_user_id, team_id, organization_id, agent_id, model, tags)
		SELECT md5(i::text)::uuid, 'key-' || i, 'user-' || i, 'end-' || i, 'team-' || i % 3000, 'org-' || i % 3000, 'agent-' || i % 3000,
			'model-' || i % 5, ARRAY['tag-' || i % 3000] FROM generate_series(1, 20000) AS i`)
	dropParts(t, s) // the empty ones are read as a whole
	makeParts(t, s, "2026-11-01", "2026-11-10")
	execute(t, s.pool, `INSERT INTO spendflush.rollup SELECT key, date '2026-11-01' + d, 0, 0, 0, 0, 1, 0, 0, 1
		FROM spendflush.series, generate_series(0, 9) AS d`)
	execute(t, s.pool, `INSERT INTO spendflush.entity SELECT md5('e' || i)::uuid, 'team', 'team-' || i FROM generate_series(1, 20000) AS i`)
	execute(t, s.pool, `INSERT INTO spendflush.total (entity, shard, failed_requests, cache_creation_input_tokens, cache_read_input_tokens,
		successful_requests, prompt_tokens, completion_tokens, updated_at, spend)
		SELECT key, s, 0, 0, 0, 1, 0, 0, now(), 1 FROM spendflush.entity, generate_series(0, 3) AS s`)
	execute(t, s.pool, `INSERT INTO spendflush.figure SELECT date '2026-11-01' + i / 500, i % 15, i::text, '', 1, 1, 0, 0, 0, 0, 0 FROM generate_series(1, 5000) AS i`)
	execute(t, s.pool, `INSERT INTO spendflush.figure_hour SELECT date '2026-11-01' + i / 500, 8, i % 24, i::text, 1, 1, 0, 0, 0, 0, 0 FROM generate_series(1, 5000) AS i`)
	execute(t, s.pool, "ANALYZE")
	for _, where := range []string{
		"entity_type = 'api_key' AND entity_id = 'key-7'", "entity_type = 'user' AND entity_id = 'user-7'",
		"entity_type = 'end_user' AND entity_id = 'end-7'", "entity_type = 'team' AND entity_id = 'team-7'",
		"entity_type = 'team_member' AND entity_id = 'user-7' AND team_id = 'team-7'",
		"entity_type = 'organization' AND entity_id = 'org-7'", "entity_type = 'tag' AND entity_id = 'tag-7'",
		"entity_type = 'agent' AND entity_id = 'agent-7'",
	} {
		for _, text := range []string{
			"SELECT * FROM spendflush.daily_spend WHERE " + where,
			"SELECT sum(spend) FROM spendflush.daily_spend WHERE date >= '2026-11-03' AND date < '2026-11-05' AND " + where,
			"SELECT * FROM spendflush.spend WHERE " + where,
			"SELECT s.* FROM (VALUES ('team-7'), ('team-8')) AS w (id) JOIN spendflush.spend s ON s.entity_id = w.id AND s.entity_type = 'team'",
		} {
			wantIndexes(t, s, text)
		}
	}
	for _, kind := range spend.EntityTypes() {
		id, team := map[spend.EntityType]string{
			spend.APIKey: "key-7", spend.EndUser: "end-7", spend.Organization: "org-7",
			spend.User: "user-7", spend.TeamMember: "user-7", spend.Team: "team-7",
			spend.Tag: "tag-7", spend.Agent: "agent-7",
		}[kind], ""
		if kind == spend.TeamMember {
			team = "team-7"
		}
		day := at("2026-11-03T00:00Z")
		hour := int32(spend.HourOf(day))
		wantIndexes(t, s, s.statement("usage"), kind.String(), id, team, []int32{hour, hour + 24}, []time.Time{day}, []time.Time{}, make([]bool, 13),
			"", "", "spend", 10, []time.Time{}, noFigures, "", "", true, make([]bool, 13), make([]bool, 13))
	}
	wantIndexes(t, s, s.statement("entities"), []string{"team", "user"}, "team-19", 20, "team-19"+behindAll)
}

func wantIndexes(t *testing.T, s *Store, text string, args ...any) {
	t.Helper()
	rows, err := s.pool.Query(t.Context(), "EXPLAIN "+text, args...)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	whole := strings.Join(plan, "\n")
	if strings.Contains(whole, "Seq Scan") || !strings.Contains(whole, "Index") {
		t.Errorf("%s %v reads whole tables:\n%s", text, args, whole)
	}
}

func TestViewsCanBeJoinedWithTextsOfAnyOtherTable(t *testing.T) {
	s := open(t, database(t), Options{})
	apply(t, s, flushOf(newProducer(), 1, 1, request{spend.Series{TeamID: "t", Tags: []string{"t"}}, noon, one("1")}))
	execute(t, s.pool, "CREATE TABLE teams (id text PRIMARY KEY, name varchar(20)); INSERT INTO teams VALUES ('t', 't')")
	for _, view := range []string{"spend", "daily_spend"} {
		n := query[int](t, s, "SELECT count(*) FROM spendflush."+view+" s JOIN teams ON teams.id = s.entity_id AND s.entity_id LIKE teams.name || '%'")
		if n != 2 {
			t.Errorf("%d rows of %s were joined", n, view)
		}
	}
}

func TestSpendAndMarksAreOfOneSnapshot(t *testing.T) {
	s := open(t, database(t), Options{})
	p := newProducer()
	e := spend.Entity{Type: spend.TeamMember, ID: "u", TeamID: "t"}
	report, err := s.Spend(t.Context(), e, []spend.ProducerID{p})
	if err != nil || report.Found || len(report.Marks) != 0 || !report.UpdatedAt.IsZero() || report.AsOf.IsZero() {
		t.Fatalf("of an unknown entity: %+v, %v", report, err)
	}
	r := request{spend.Series{UserID: "u", TeamID: "t"}, noon, one("0.25")}
	done := make(chan error, 1)
	go func() {
		for n := range uint64(50) {
			if err := s.Apply(context.WithoutCancel(t.Context()), flushOf(p, n+1, n+1, r)); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for {
		report, err = s.Spend(t.Context(), e, []spend.ProducerID{p})
		if err != nil {
			t.Fatal(err)
		}
		if uint64(report.Committed.SuccessfulRequests) != report.Marks[0].Sequence {
			t.Errorf("%d requests at mark %d", report.Committed.SuccessfulRequests, report.Marks[0].Sequence)
		}
		if report.Marks[0].Sequence == 50 {
			break
		}
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			done <- nil
		default:
		}
	}
	if report.Committed.Spend != dollars("12.5") || report.UpdatedAt.IsZero() {
		t.Errorf("%+v", report)
	}
	if other, err := s.Spend(t.Context(), spend.Entity{Type: spend.User, ID: "u"}, []spend.ProducerID{newProducer()}); err != nil ||
		len(other.Marks) != 0 || !other.Found {
		t.Errorf("asked by another producer: %+v, %v", other, err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestSumsOfAllShardsAreReadAsOne(t *testing.T) {
	s := open(t, database(t), Options{})
	producers := []spend.ProducerID{newProducer(), newProducer(), newProducer()}
	book := func(shard int, sequence uint64, tokens int64) *spend.Flush {
		f := flushOf(producers[shard], sequence, sequence, request{
			spend.Series{TeamID: "t", Model: fmt.Sprint(shard)}, noon,
			spend.Counters{Spend: dollars("0.5"), SuccessfulRequests: 1, PromptTokens: tokens},
		})
		f.Shard = shard
		return f
	}
	const much = math.MaxInt64/2 - 5
	apply(t, s, book(0, 1, much))
	apply(t, s, book(1, 1, much))
	gap := book(1, 3, 0)
	gap.Claims[0].First, gap.Claims[0].Prior = 2, digestAt(1)
	gap.Claims[0].SealedUpdates, gap.Claims[0].SealedAmount = 3, dollars("1.5")
	gap.Lost = []spend.LostRange{{Producer: producers[1], First: 2, Last: 2, Reason: "gone"}}
	apply(t, s, gap)
	team := spend.Entity{Type: spend.Team, ID: "t"}
	report, err := s.Spend(t.Context(), team, producers)
	if err != nil || report.Committed.Spend != dollars("1.5") || report.Committed.SuccessfulRequests != 3 || report.Committed.PromptTokens != 2*much {
		t.Errorf("%+v, %v", report, err)
	}
	if m := report.Marks; len(m) != 2 || m[0].Sequence != 1 || m[0].Lost != nil || m[1].Sequence != 3 || !slices.Equal(m[1].Lost, []spend.SequenceRange{{First: 2, Last: 2}}) {
		t.Errorf("marks are %+v", m)
	}
	// The marks are those of the producers in their own shards.
	if other, err := s.Spend(t.Context(), team, []spend.ProducerID{producers[1], producers[0]}); err != nil || len(other.Marks) != 0 {
		t.Errorf("%+v, %v", other, err)
	}
	for _, begin := range []string{"", "t"} {
		wantLines(t, namesOf(t, s, begin, 10), "team t 1.5 3")
	}
	wantLines(t, []string{query[string](t, s, "SELECT trim_scale(spend) || ' ' || api_requests || ' ' || updated_at::date FROM spendflush.spend")},
		"1.5 3 "+query[string](t, s, "SELECT current_date::text"))

	// Each row has room for its sum, and the sum of all rows has none in 64 bits.
	apply(t, s, book(2, 1, much))
	if _, err := s.Spend(t.Context(), team, producers); !errors.Is(err, ErrOutOfRange) {
		t.Errorf("a sum beyond 64 bits: %v", err)
	}
	var tokens string
	q := UsageQuery{From: at("2026-11-20T00:00Z"), To: at("2026-11-21T00:00Z"), By: Total, OrderBy: "prompt_tokens"}
	if err := s.Usage(t.Context(), q, func(r UsageRow) error { tokens = r.Counts[3]; return nil }); err != nil || tokens != "13835058055282163694" {
		t.Errorf("the report says %s, %v", tokens, err)
	}
	for _, view := range []string{"spend", "daily_spend"} {
		if got := query[string](t, s, "SELECT max(total)::text FROM (SELECT sum(prompt_tokens) AS total FROM spendflush."+view+") AS v"); got != tokens {
			t.Errorf("%s says %s", view, got)
		}
	}
	wantAudit(t, s)
}

func TestWhatPostgresRefusesIsExplainedAndAnOutageIsNot(t *testing.T) {
	s := open(t, database(t), Options{})
	execute(t, s.pool, "ALTER TABLE spendflush.total RENAME TO elsewhere")
	_, err := s.Spend(t.Context(), spend.Entity{Type: spend.Team, ID: "t"}, nil)
	if why, ok := Explain(err); !ok || !strings.Contains(why, "42P01") {
		t.Errorf("a missing table: %q, %t", why, ok)
	}
	for code, want := range map[string]bool{"22003": true, "22P02": true, "42501": true, "42883": true, "57P01": false, "40P01": false, "53300": false} {
		if why, ok := Explain(fmt.Errorf("read: %w", &pgconn.PgError{Code: code})); ok != want || ok != strings.Contains(why, code) {
			t.Errorf("%s: %q, %t", code, why, ok)
		}
	}
	if why, ok := Explain(errors.New("connection refused")); ok {
		t.Errorf("an outage is explained with %q", why)
	}
}

func TestAnEntryOfTheQueueIsQuarantinedOnceHoweverOftenItComes(t *testing.T) {
	s := open(t, database(t), Options{})
	p := newProducer()
	batch := spend.NewBatch(spend.Header{Books: testBooks, Producer: p, Sequence: 9}, nil, nil)
	bad := []spend.BadBatch{
		{Shard: 0, Reason: "first\x00\xff", Bytes: []byte("one")}, {Shard: 0, Reason: "second", Bytes: []byte("two")},
		{Shard: 1, Reason: "another shard", Bytes: []byte("one")}, {Shard: 0, Reason: "no bytes"},
		{Shard: 0, Reason: "parsable", Bytes: batch.Bytes()},
	}
	for range 2 {
		if err := s.Quarantine(t.Context(), bad); err != nil {
			t.Fatal(err)
		}
	}
	if n := query[int](t, s, "SELECT count(*) FROM spendflush.quarantine WHERE state = 'open' AND kind = 'batch'"); n != len(bad) {
		t.Errorf("%d entries are kept, want %d", n, len(bad))
	}
	if n := query[int64](t, s, "SELECT sequence FROM spendflush.quarantine WHERE producer = $1", [16]byte(p)); n != 9 {
		t.Errorf("the sequence of the batch is %d", n)
	}
	counts, err := s.Counts(t.Context())
	if err != nil || counts.QuarantineOpen != int64(len(bad)) || counts.SchemaMigration == 0 || counts.Bytes == 0 {
		t.Errorf("%+v, %v", counts, err)
	}
}

// usage collects a report as lines of start, groups, spend and requests.
func usage(t *testing.T, s *Store, q UsageQuery) (lines []string) {
	t.Helper()
	err := s.Usage(t.Context(), q, func(r UsageRow) error {
		line := []string{r.Start.Format("2006-01-02T15:04Z07:00")}
		line = append(line, r.Group...)
		lines = append(lines, strings.Join(append(line, r.Spend.String(), r.Counts[0]), " "))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func at(text string) time.Time {
	t, err := time.Parse("2006-01-02T15:04Z07:00", text)
	if err != nil {
		panic(err)
	}
	return t
}

func hour(text string) spend.Hour { return spend.HourOf(at(text)) }

func wantLines(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestUsageCountsAnUpdateOnEachOfItsEntitiesAndWithoutATypeOnce(t *testing.T) {
	s := open(t, database(t), Options{})
	apply(t, s, flushOf(newProducer(), 1, 1,
		request{spend.Series{APIKey: "k", UserID: "u1", TeamID: "t1", Model: "m1", Tags: []string{"a", "b"}}, noon, one("1")},
		request{spend.Series{APIKey: "k", UserID: "u2", TeamID: "t1", Model: "m2", Tags: []string{"b"}}, noon, one("2")},
		request{spend.Series{APIKey: "k", UserID: "u1", TeamID: "t2", Model: "m1"}, noon + 1, one("4")},
	))
	q := UsageQuery{From: at("2026-11-20T00:00Z"), To: at("2026-11-21T00:00Z"), By: Total}
	wantLines(t, usage(t, s, q), "2026-11-20T00:00Z 7 3")
	with := func(change func(*UsageQuery)) UsageQuery {
		q := q
		change(&q)
		return q
	}
	tag := []string{"tag"}
	wantLines(t, usage(t, s, with(func(q *UsageQuery) { q.GroupBy = tag })),
		"2026-11-20T00:00Z  4 1", "2026-11-20T00:00Z a 1 1", "2026-11-20T00:00Z b 3 2")
	wantLines(t, usage(t, s, with(func(q *UsageQuery) { q.EntityType, q.GroupBy = spend.Tag, []string{"entity_id"} })),
		"2026-11-20T00:00Z a 1 1", "2026-11-20T00:00Z b 3 2")
	wantLines(t, usage(t, s, with(func(q *UsageQuery) { q.EntityType, q.EntityID = spend.Tag, "b" })), "2026-11-20T00:00Z 3 2")
	wantLines(t, usage(t, s, with(func(q *UsageQuery) {
		q.EntityType, q.TeamID, q.GroupBy = spend.TeamMember, "t1", []string{"entity_id"}
	})), "2026-11-20T00:00Z u1 1 1", "2026-11-20T00:00Z u2 2 1")
	wantLines(t, usage(t, s, with(func(q *UsageQuery) {
		q.EntityType, q.TeamID, q.EntityID = spend.TeamMember, "t2", "u1"
	})), "2026-11-20T00:00Z 4 1")
	wantLines(t, usage(t, s, with(func(q *UsageQuery) {
		q.EntityType, q.EntityID, q.GroupBy, q.By = spend.APIKey, "k", []string{"model", "team_id"}, Hour
	})), "2026-11-20T12:00Z m1 t1 1 1", "2026-11-20T12:00Z m2 t1 2 1", "2026-11-20T13:00Z m1 t2 4 1")
	wantLines(t, usage(t, s, with(func(q *UsageQuery) { q.From = at("2026-11-20T13:00Z") })), "2026-11-20T13:00Z 4 1")
	wantLines(t, usage(t, s, with(func(q *UsageQuery) { q.To = at("2026-11-20T13:00Z") })), "2026-11-20T00:00Z 3 2")
	wantLines(t, usage(t, s, with(func(q *UsageQuery) { q.EntityType, q.EntityID = spend.User, "nobody" })))
	wantLines(t, usage(t, s, with(func(q *UsageQuery) {
		q.GroupBy, q.OrderBy, q.By = []string{"model", "team_id"}, "spend", Hour
	})), "2026-11-20T13:00Z m1 t2 4 1", "2026-11-20T12:00Z m2 t1 2 1", "2026-11-20T12:00Z m1 t1 1 1")
	wantLines(t, usage(t, s, with(func(q *UsageQuery) { q.GroupBy, q.OrderBy, q.Limit = []string{"user_id"}, "api_requests", 1 })),
		"2026-11-20T00:00Z u1 5 2")
	wantLines(t, usage(t, s, with(func(q *UsageQuery) { q.GroupBy, q.Limit, q.By = []string{"model"}, 2, Hour })),
		"2026-11-20T12:00Z m1 1 1", "2026-11-20T12:00Z m2 2 1")
	wantLines(t, usage(t, s, with(func(q *UsageQuery) { q.Model = "m1" })), "2026-11-20T00:00Z 5 2")
	wantLines(t, usage(t, s, with(func(q *UsageQuery) { q.Model, q.EntityType, q.EntityID = "m2", spend.APIKey, "k" })), "2026-11-20T00:00Z 2 1")
	wantLines(t, usage(t, s, with(func(q *UsageQuery) { q.Provider = "none of them" })))
	for _, order := range OrderNames() {
		if got := usage(t, s, with(func(q *UsageQuery) { q.OrderBy = order })); len(got) != 1 {
			t.Errorf("ordered by %s: %q", order, got)
		}
	}
	for _, wrong := range []func(*UsageQuery){
		func(q *UsageQuery) { q.OrderBy = "date" }, func(q *UsageQuery) { q.Limit = -1 }, func(q *UsageQuery) { q.Limit = 1 << 40 },
	} {
		if err := s.Usage(t.Context(), with(wrong), nil); !errors.Is(err, ErrQuery) {
			t.Errorf("a wrong order or limit: %v", err)
		}
	}
	stop := errors.New("enough")
	if err := s.Usage(t.Context(), q, func(UsageRow) error { return stop }); err != stop {
		t.Errorf("yield's error came back as %v", err)
	}
}

func TestADayOfUsageIsTheLocalDayInWhichItsHoursStart(t *testing.T) {
	s := open(t, database(t), Options{})
	var requests []request
	for _, text := range []string{
		// Berlin put the clock back in this night: its day had 25 hours, from 22:00 to 23:00 UTC a
		// day later.
		"2026-10-24T21:00Z", "2026-10-24T22:00Z", "2026-10-25T22:00Z", "2026-10-25T23:00Z",
		// India's days begin at 18:30 UTC.
		"2026-11-10T18:00Z", "2026-11-10T19:00Z",
	} {
		requests = append(requests, request{spend.Series{APIKey: "k"}, hour(text), one("1")})
	}
	apply(t, s, flushOf(newProducer(), 1, 1, requests...))
	wantLines(t, usage(t, s, UsageQuery{
		From: at("2026-10-24T20:00Z"), To: at("2026-10-27T00:00Z"), By: Day, Location: zoneOf(t, "Europe/Berlin"),
	}), "2026-10-24T00:00+02:00 1 1", "2026-10-25T00:00+02:00 2 2", "2026-10-26T00:00+01:00 1 1")
	wantLines(t, usage(t, s, UsageQuery{
		From: at("2026-11-10T00:00Z"), To: at("2026-11-12T00:00Z"), By: Day, Location: zoneOf(t, "Asia/Kolkata"),
	}), "2026-11-10T00:00+05:30 1 1", "2026-11-11T00:00+05:30 1 1")
	wantLines(t, usage(t, s, UsageQuery{
		From: at("2026-11-10T00:00Z"), To: at("2026-11-12T00:00Z"), By: Hour, Location: zoneOf(t, "Asia/Kolkata"),
	}), "2026-11-10T23:30+05:30 1 1", "2026-11-11T00:30+05:30 1 1")
}

func TestEveryHourBelongsToOneDayAndOneMonthInEveryZone(t *testing.T) {
	from, to := at("2025-12-01T00:00Z"), at("2027-01-10T00:00Z")
	for _, name := range []string{
		"UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe", "Africa/Cairo",
		"America/Santiago", "Australia/Adelaide", "Pacific/Chatham", "Pacific/Kiritimati", "America/St_Johns", "Asia/Beirut", "Atlantic/Azores",
	} {
		zone := zoneOf(t, name)
		for by, c := range map[Granularity]struct {
			layout      string
			least, most int32 // hours
		}{Day: {time.DateOnly, 1, 25}, Month: {"2006-01", 1, 31*24 + 1}} {
			q := UsageQuery{From: from, To: to, By: by}
			buckets := q.buckets(zone)
			for i := range len(buckets) - 1 {
				b, next := buckets[i], buckets[i+1]
				if n := next.hour - b.hour; n < c.least || n > c.most {
					t.Errorf("%s: the %s of %s has %d hours", name, by, b.start, n)
				}
				for h := b.hour; h < next.hour; h++ {
					start := spend.Hour(h).Time().In(zone)
					if start.Format(c.layout) != b.start.Format(c.layout) {
						t.Errorf("%s: the hour from %s is counted in the %s of %s", name, start, by, b.start)
					}
				}
			}
		}
	}
}

func TestAUsageQueryThatCanNotBeAnsweredExactlyIsRefused(t *testing.T) {
	s := open(t, database(t), Options{})
	good := UsageQuery{From: at("2026-11-20T00:00Z"), To: at("2026-11-21T00:00Z")}
	for name, change := range map[string]func(*UsageQuery){
		"half an hour":        func(q *UsageQuery) { q.From = q.From.Add(30 * time.Minute) },
		"nothing":             func(q *UsageQuery) { q.To = q.From },
		"backwards":           func(q *UsageQuery) { q.From, q.To = q.To, q.From },
		"too long":            func(q *UsageQuery) { q.To = q.To.AddDate(11, 0, 0) },
		"entity without type": func(q *UsageQuery) { q.EntityID = "k" },
		"unknown type":        func(q *UsageQuery) { q.EntityType = 99 },
		"team of a key":       func(q *UsageQuery) { q.EntityType, q.TeamID = spend.APIKey, "t" },
		"unknown group":       func(q *UsageQuery) { q.GroupBy = []string{"shoe_size"} },
		"unknown granularity": func(q *UsageQuery) { q.By = 9 },
	} {
		q := good
		change(&q)
		if err := s.Usage(t.Context(), q, func(UsageRow) error { return nil }); !errors.Is(err, ErrQuery) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
