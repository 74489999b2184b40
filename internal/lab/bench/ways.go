package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/spendflush/spendflush/internal/lab/load"
	"github.com/spendflush/spendflush/spend"
)

const waysAbout = `Ten instances in one process book the same traffic over %s keys, chosen at random, as fast as they can: what makes the updates, the
instances, Redis and Postgres fight for the same cores. The time runs until all is in Postgres. Where rows are written one by one, the tables are as narrow as spendflush's own, with the same keys and fillfactor.

- **direct**: each instance writes the ten updates that it has gathered in a transaction of row-by-row UPSERTs in the order of
  arrival; a transaction ended for a deadlock is tried again three times, and then lost. Postgres looks for deadlocks after
  100 ms instead of a second where the role may set that, which favours it.
- **direct, one by one**: the same with a transaction an update. As all write key, user, team, organization in this order, they hardly deadlock.
- **per-request**: ten connections, one autocommitted UPSERT an update: of its rollup row alone, the least that can be written.
- **drain-rows**: each instance sums up in memory, pushes its sums as JSON to a Redis list every 200 ms; one of them pops up to 100 of
  these every 500 ms (at once, where there are more), sums them up and writes row by row, in the order of the keys, in one transaction.
- **drain-bulk**: the same list; what is popped is written by multi-row UPSERTs of up to 100 rows. LiteLLM writes its daily rows like this
  since August 2026, the totals of keys, users and teams still one by one.
- **spendflush**: 200 ms to the seal, 500 ms to the flush, as it comes by default; every total and rollup is compared with the traffic afterwards.
- **one instance**: the same from one instance; **handles** with a handle for each series, and with updates made beforehand.
- **limit**: the rows of one flush over all keys as two bare UPSERTs from arrays on one connection, made beforehand, again and again.

The usual cure sums up in memory as spendflush does, so both write few rows for many updates; what spendflush saves beside is in what a core
does for an update, and against a statement a row also in the rows/s within a flush. Ten instances on the cores of one are at their limit not by Postgres but by
what each does for itself: it seals all keys five times a second.`

func waysSteps(r *run) int { return 11 * r.Rounds }

const waysInstances = 10

func measureWays(ctx context.Context, r *run) error {
	keys := r.sized(10_000, 1000)
	w, err := load.New(load.Shape{Seed: 1, Keys: keys, Skew: 1})
	if err != nil {
		return err
	}
	flushes, rows, err := captureFlushes(ctx, keys)
	if err != nil {
		return err
	}
	got, err := r.compare(ctx, r.Rounds, []variant{
		{"direct", func(ctx context.Context) (map[string]float64, error) { return r.direct(ctx, w, 10) }},
		{"direct, one by one", func(ctx context.Context) (map[string]float64, error) { return r.direct(ctx, w, 1) }},
		{"per-request", func(ctx context.Context) (map[string]float64, error) { return r.perRequest(ctx, w) }},
		{"drain-rows", func(ctx context.Context) (map[string]float64, error) {
			return r.drain(ctx, w, waysInstances, rowByRow)
		}},
		{"drain-rows, one instance", func(ctx context.Context) (map[string]float64, error) { return r.drain(ctx, w, 1, rowByRow) }},
		{"drain-bulk", func(ctx context.Context) (map[string]float64, error) { return r.drain(ctx, w, waysInstances, inBulk) }},
		{"drain-bulk, one instance", func(ctx context.Context) (map[string]float64, error) { return r.drain(ctx, w, 1, inBulk) }},
		{"spendflush", func(ctx context.Context) (map[string]float64, error) {
			return r.play(ctx, w, episode{groupConfig: groupConfig{instances: waysInstances}})
		}},
		{"spendflush, one instance", func(ctx context.Context) (map[string]float64, error) { return r.play(ctx, w, episode{}) }},
		{"spendflush, one instance, handles", func(ctx context.Context) (map[string]float64, error) {
			return r.play(ctx, w, episode{work: func(ctx context.Context, g *group) error { return g.floodHandles(ctx, w, r.Duration) }})
		}},
		{"limit", func(ctx context.Context) (map[string]float64, error) { return r.limit(ctx, flushes, rows) }},
	})
	if err != nil {
		return err
	}
	t := Table{Part: "ways", Title: "Ways to book the same traffic", About: spelled(waysAbout, keys),
		Columns: []string{"updates/s", "spendflush is times as fast", "rows/s", "rows/s within a flush", "deadlocks", "updates lost"}}
	ours := got["spendflush"]
	for _, name := range []string{"direct", "direct, one by one", "per-request", "drain-rows",
		"drain-rows, one instance", "drain-bulk", "drain-bulk, one instance", "spendflush",
		"spendflush, one instance", "spendflush, one instance, handles"} {
		m := got[name]
		t.row(name, m["updates"], ratios(ours["updates"], m["updates"]), m["rows"], m["flush"], m["deadlocks"], m["lost"])
	}
	t.row("limit", nil, nil, nil, got["limit"]["rows"], nil, nil)
	r.report.Tables = append(r.report.Tables, t)
	r.report.atLeast("ways", "spendflush / drain-rows, updates/s", "", 30, ratios(ours["updates"], got["drain-rows"]["updates"]))
	r.report.atLeast("ways", "spendflush with handles / drain-rows, one instance each, updates/s", "", 30,
		ratios(got["spendflush, one instance, handles"]["updates"], got["drain-rows, one instance"]["updates"]))
	r.report.atLeast("ways", "spendflush / drain-rows, rows/s within a flush", "", 30, ratios(ours["flush"], got["drain-rows"]["flush"]))
	r.report.atLeast("ways", "spendflush / direct with 10 instances, updates/s", "", 300, ratios(ours["updates"], got["direct"]["updates"]))
	r.report.atMost("ways", "deadlocks of spendflush", "", 0, ours["deadlocks"])
	r.report.atLeast("ways", "spendflush, one instance with handles / per-request, updates/s", "", 1000,
		ratios(got["spendflush, one instance, handles"]["updates"], got["per-request"]["updates"]))
	return nil
}

// direct is load.Direct.
func (r *run) direct(ctx context.Context, w *load.Workload, buffer int) (_ map[string]float64, err error) {
	if err := r.env.fresh(ctx); err != nil {
		return nil, err
	}
	c := load.DirectConfig{DatabaseURL: r.env.databaseURL, Schema: directSchema, Writers: waysInstances, Buffer: buffer}
	var superuser bool
	if err := r.env.pool.QueryRow(ctx, "SELECT current_setting('is_superuser') = 'on'").Scan(&superuser); err != nil {
		return nil, fmt.Errorf("ask Postgres for the role: %w", err)
	}
	if superuser {
		c.DeadlockTimeout = 100 * time.Millisecond
	}
	d, err := load.OpenDirect(ctx, c)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.Close(context.WithoutCancel(ctx))) }()
	timed, cancel := context.WithTimeout(ctx, r.Duration)
	defer cancel()
	if err := d.Run(timed, w, 0, 0); err != nil {
		return nil, err
	}
	s := d.Stats()
	return map[string]float64{
		"updates": float64(s.Updates) / s.Elapsed.Seconds(), "rows": float64(s.Rows) / s.Elapsed.Seconds(),
		"deadlocks": float64(s.Deadlocks), "lost": float64(s.Lost),
	}, nil
}

// directly returns fresh tables for updates that are written without spendflush, and a connection
// for each instance. done closes these, also after an error.
func (r *run) directly(ctx context.Context) (tables *load.Tables, conns []*pgx.Conn, done func(), err error) {
	done = func() {
		for _, conn := range conns {
			conn.Close(context.WithoutCancel(ctx))
		}
	}
	if err := r.env.fresh(ctx); err != nil {
		return nil, nil, done, err
	}
	if tables, err = load.MakeTables(ctx, r.env.pool, directSchema); err != nil {
		return nil, nil, done, err
	}
	for range waysInstances {
		conn, err := r.env.connect(ctx)
		if err != nil {
			return nil, nil, done, err
		}
		conns = append(conns, conn)
	}
	return tables, conns, done, nil
}

// perRequest writes each update by itself.
func (r *run) perRequest(ctx context.Context, w *load.Workload) (map[string]float64, error) {
	tables, conns, done, err := r.directly(ctx)
	defer done()
	if err != nil {
		return nil, err
	}
	var writers errgroup.Group
	var counts [waysInstances]uint64
	begun := time.Now()
	for i, conn := range conns {
		writers.Go(func() error {
			var u spend.Update
			for number := uint64(i); counts[i] == 0 || time.Since(begun) < r.Duration; number += waysInstances {
				w.Fill(number, &u)
				c := load.Counters(&u)
				if err := tables.AddRollup(ctx, conn, u.Series.Key(), spend.HourOf(begun), &c); err != nil {
					return err
				}
				counts[i]++
			}
			return nil
		})
	}
	if err := writers.Wait(); err != nil {
		return nil, err
	}
	var updates uint64
	for _, n := range counts {
		updates += n
	}
	rate := float64(updates) / time.Since(begun).Seconds()
	return map[string]float64{"updates": rate, "rows": rate, "deadlocks": 0, "lost": 0}, nil
}
