package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/pgstore"
)

const yearsAbout = `Reports over %s combinations of key, user, team, organisation, model and provider, each with a rollup row in every hour of %d days and of today, made by SQL:
%s rows. **of rows** is before figures are made, **with figures** afterwards; today has none. New York's days are each of two days of UTC. Nothing else goes on. A row takes %.0f bytes
in the part of its day, its indexes included and before it is compacted; figures take %.0f bytes for each combination and day, and %.2f s of one connection to be made of a day.`

// mostYearsOfRows bounds the days of which reports are also made of rows: each takes longer than the
// one before it.
const mostYearsOfRows = 60

// yearsQuery is a report that is timed, and what it may take at most with figures.
type yearsQuery struct {
	name   string
	target float64 // ms
	query  func(today time.Time) pgstore.UsageQuery
}

func lastDays(n int, by pgstore.Granularity, groups ...string) func(time.Time) pgstore.UsageQuery {
	return func(today time.Time) pgstore.UsageQuery {
		return pgstore.UsageQuery{From: today.AddDate(0, 0, 1-n), To: today.AddDate(0, 0, 1), By: by, GroupBy: groups}
	}
}

func largest(group string) func(time.Time) pgstore.UsageQuery {
	return func(today time.Time) pgstore.UsageQuery {
		q := lastDays(30, pgstore.Total, group)(today)
		q.OrderBy, q.Limit = "spend", 10
		return q
	}
}

func yearsQueries(newYork *time.Location) []yearsQuery {
	return []yearsQuery{
		{"30 days by day", 100, lastDays(30, pgstore.Day)},
		{"30 days by day and model", 200, lastDays(30, pgstore.Day, "model")},
		{"30 days by day and model, New York", 200, func(today time.Time) pgstore.UsageQuery {
			q := lastDays(30, pgstore.Day, "model")(today)
			q.Location = newYork
			return q
		}},
		{"top ten models of 30 days", 200, largest("model")},
		{"top ten teams of 30 days", 200, largest("team_id")},
		{"top ten users of 30 days", 200, largest("user_id")},
		{"top ten keys of 30 days", 200, largest("api_key")},
		{"one team, 30 days by model", 50, func(today time.Time) pgstore.UsageQuery {
			q := lastDays(30, pgstore.Total, "model")(today)
			q.EntityType, q.EntityID = spend.Team, "team-7"
			return q
		}},
		{"a year by month and team", 2000, lastDays(365, pgstore.Month, "team_id")},
	}
}

func yearsSteps(r *run) int { return 2 * r.Rounds * len(yearsQueries(nil)) }

func measureYears(ctx context.Context, r *run) error {
	newYork, err := time.LoadLocation("America/New_York")
	if err != nil {
		return err
	}
	if err := r.env.fresh(ctx); err != nil {
		return err
	}
	keys, today := r.sized(10_000, 300), time.Now().UTC().Truncate(24*time.Hour)
	if err := r.env.fillYears(ctx, keys, r.Days, today); err != nil {
		return fmt.Errorf("make the rollups: %w", err)
	}
	store, err := pgstore.Open(ctx, r.env.databaseURL, pgstore.Options{})
	if err != nil {
		return err
	}
	defer store.Close()

	queries := yearsQueries(newYork)
	timed := func(suffix string) (map[string]measured, error) {
		var variants []variant
		for _, q := range queries {
			variants = append(variants, variant{q.name + suffix, func(ctx context.Context) (map[string]float64, error) {
				begun := time.Now()
				err := store.Usage(ctx, q.query(today), func(pgstore.UsageRow) error { return nil })
				return map[string]float64{"ms": float64(time.Since(begun).Microseconds()) / 1000}, err
			}})
		}
		return r.compare(ctx, r.Rounds, variants)
	}
	rows := map[string]measured{}
	if r.Days <= mostYearsOfRows {
		if rows, err = timed(", of rows"); err != nil {
			return err
		}
	}
	begun := time.Now()
	for made := true; made; {
		if made, err = store.KeepFigures(ctx); err != nil {
			return err
		}
	}
	each := time.Since(begun).Seconds() / float64(r.Days)
	if _, err := r.env.pool.Exec(ctx, "ANALYZE spendflush.figure, spendflush.figure_hour"); err != nil {
		return err
	}
	figures, err := timed(", with figures")
	if err != nil {
		return err
	}
	return r.reportYears(ctx, keys, each, queries, rows, figures)
}

func (r *run) reportYears(ctx context.Context, keys int, each float64, queries []yearsQuery, rows, figures map[string]measured) error {
	var row, figure float64
	err := r.env.pool.QueryRow(ctx, `
SELECT (SELECT sum(pg_total_relation_size(('spendflush.' || part)::regclass)) FROM spendflush.rollup_parts) / (SELECT count(*) FROM spendflush.rollup),
	(pg_total_relation_size('spendflush.figure') + pg_total_relation_size('spendflush.figure_hour')) / $1::float8`, keys*r.Days).Scan(&row, &figure)
	if err != nil {
		return err
	}
	t := Table{Part: "years", Title: "Reports at size", Columns: []string{"of rows, ms", "with figures, ms"},
		About: fmt.Sprintf(yearsAbout, number(float64(keys)), r.Days, number(float64(keys*24*(r.Days+1))), row, figure, each)}
	for _, q := range queries {
		with := figures[q.name+", with figures"]["ms"]
		t.row(q.name, rows[q.name+", of rows"]["ms"], with)
		r.report.atMost("years", q.name, "ms", q.target, with)
	}
	r.report.Tables = append(r.report.Tables, t)
	return nil
}

// fillYears makes the rollups of so many days before today, and of today, by SQL. Their fingerprints
// are made up: reports only compare them.
func (p *env) fillYears(ctx context.Context, keys, days int, today time.Time) error {
	for _, statement := range []string{
		fmt.Sprintf(`INSERT INTO spendflush.series (key, api_key, user_id, team_id, organization_id, model, model_group, custom_llm_provider, endpoint)
			SELECT md5(i::text)::uuid, 'sk-' || md5('key' || i), 'user-' || i %% 3000, 'team-' || i %% 300, 'org-' || i %% 30, 'model-' || i %% 50,
				'group-' || i %% 20, 'provider-' || i %% 5, '/v1/' || i %% 2 FROM generate_series(1, %d) AS i`, keys),
		"ANALYZE spendflush.series",
	} {
		if _, err := p.pool.Exec(ctx, statement); err != nil {
			return err
		}
	}
	for ago := days; ago >= 0; ago-- {
		day := today.AddDate(0, 0, -ago)
		if _, err := p.pool.Exec(ctx, "SELECT spendflush.make_rollup_part($1::date)", day); err != nil {
			return err
		}
		_, err := p.pool.Exec(ctx, `
INSERT INTO spendflush.rollup (series, day, hour, failed_requests, cache_creation_input_tokens, cache_read_input_tokens, successful_requests,
	prompt_tokens, completion_tokens, spend)
SELECT key, $1::date, hour, 0, 0, 0, 1 + hour, 1000 + hour, 200 + hour, (1 + abs(hashtext(api_key)) % 1000 + hour) * 0.000123456789
FROM generate_series(0, 23) AS hour, spendflush.series`, day)
		if err != nil {
			return err
		}
	}
	_, err := p.pool.Exec(ctx, "INSERT INTO spendflush.day_fingerprint (shard, day, fingerprint) SELECT 0, from_day, 1 FROM spendflush.rollup_parts")
	if err == nil {
		_, err = p.pool.Exec(ctx, "VACUUM (ANALYZE) spendflush.rollup, spendflush.day_fingerprint")
	}
	if err == nil {
		_, _ = p.pool.Exec(ctx, "CHECKPOINT") // who may not do that has to live with the servers' own
	}
	return err
}
