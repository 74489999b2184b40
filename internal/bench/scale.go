package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush/internal/load"
)

const shardsAbout = `One instance, as fast as it can, over %s keys, 50 ms to the seal and to the flush, so that all shards flush all the time. Every 2 ms it is
looked what Postgres's connections wait for: none may wait for a row that another shard has locked. A part of the time waits for
Postgres's log, which all shards share.`

func shardsSteps(r *run) int { return 3 * r.Rounds }

func measureShards(ctx context.Context, r *run) error {
	keys := r.sized(50_000, 1000)
	w, err := load.New(load.Shape{Seed: 1, Keys: keys, Skew: 1})
	if err != nil {
		return err
	}
	var variants []variant
	for _, n := range []int{1, 2, 4} {
		variants = append(variants, variant{counted(n, "shard"), func(ctx context.Context) (map[string]float64, error) {
			c := groupConfig{shards: n, seal: 50 * time.Millisecond, flush: 50 * time.Millisecond}
			return r.flooded(ctx, w, c, false)
		}})
	}
	got, err := r.compare(ctx, r.Rounds, variants)
	if err != nil {
		return err
	}
	t := Table{Part: "shards", Title: "Shards", About: spelled(shardsAbout, keys),
		Columns: []string{"rows/s", "looks", "connections seen at work", "seen waiting for a lock", "seen waiting for the log", "deadlocks"}}
	var waits []float64
	for _, v := range variants {
		m := got[v.name]
		t.row(v.name, m["rows"], m["looks"], m["busy"], m["lock waits"], m["log waits"], m["deadlocks"])
		waits = append(waits, m["lock waits"]...)
	}
	r.report.Tables = append(r.report.Tables, t)
	r.report.atMost("shards", "looks that saw a connection wait for another's row lock, 1 to 4 shards", "", 0, []float64{slices.Max(waits)})
	return nil
}

const keysAbout = `Ten instances, as fast as they can, all rows there already; then everything is drained. A million keys are measured once. Fewer keys are more updates a row, so more updates a second for the
same work of Postgres.`

func keysOfRun(r *run) []int {
	if r.Quick {
		return []int{1000}
	}
	return []int{1000, 10_000, 100_000, 1_000_000}
}

// keysRounds is how often that many keys are measured: a million only once, as it takes minutes to make their rows.
func keysRounds(r *run, keys int) int {
	if keys >= 1_000_000 {
		return 1
	}
	return r.Rounds
}

func keysSteps(r *run) (n int) {
	for _, keys := range keysOfRun(r) {
		n += keysRounds(r, keys)
	}
	return n
}

func measureKeys(ctx context.Context, r *run) error {
	t := Table{Part: "keys", Title: "Keys", About: keysAbout, Columns: []string{"updates/s", "rows/s", "WAL bytes an update"}}
	for _, keys := range keysOfRun(r) {
		w, err := load.New(load.Shape{Seed: 1, Keys: keys, Skew: 1})
		if err != nil {
			return err
		}
		name := number(float64(keys)) + " keys"
		got, err := r.compare(ctx, keysRounds(r, keys), []variant{{name, func(ctx context.Context) (map[string]float64, error) {
			return r.flooded(ctx, w, groupConfig{instances: waysInstances}, false)
		}}})
		if err != nil {
			return err
		}
		t.row(name, got[name]["updates"], got[name]["rows"], got[name]["wal"])
	}
	r.report.Tables = append(r.report.Tables, t)
	return nil
}

const worstAbout = `One instance, every update of a key that no other had: nothing can be summed up, and every row and every text is new. The open map takes
50,000 keys; beyond that Record says ErrBufferFull, and the client waits.`

func worstSteps(r *run) int { return r.Rounds }

func measureWorst(ctx context.Context, r *run) error {
	w, err := load.New(load.Shape{Seed: 1, Keys: 3_000_000})
	if err != nil {
		return err
	}
	const name = "every update a new key"
	got, err := r.compare(ctx, r.Rounds, []variant{{name, func(ctx context.Context) (map[string]float64, error) {
		return r.flooded(ctx, w, groupConfig{maxKeys: r.sized(50_000, 2000)}, true)
	}}})
	if err != nil {
		return err
	}
	t := Table{Part: "worst", Title: "The worst case", About: worstAbout, Columns: []string{"updates/s", "rows/s", "WAL bytes an update"}}
	t.row(name, got[name]["updates"], got[name]["rows"], got[name]["wal"])
	r.report.Tables = append(r.report.Tables, t)
	return nil
}

const instancesAbout = `The same %s updates a second over %s keys on more and more instances, with the default intervals. Each instance of spendflush has its own
connections; they are opened when they are needed.`

func instancesSteps(r *run) int { return r.Rounds * len(instanceCounts(r)) }

func instanceCounts(r *run) []int {
	if r.Quick {
		return []int{1, 10}
	}
	return []int{1, 10, 100}
}

func measureInstances(ctx context.Context, r *run) error {
	keys, rate := r.sized(10_000, 1000), 100_000
	w, err := load.New(load.Shape{Seed: 1, Keys: keys, Skew: 1})
	if err != nil {
		return err
	}
	var variants []variant
	for _, n := range instanceCounts(r) {
		variants = append(variants, variant{counted(n, "instance"), func(ctx context.Context) (map[string]float64, error) {
			return r.latency(ctx, w, groupConfig{instances: n}, rate)
		}})
	}
	got, err := r.compare(ctx, r.Rounds, variants)
	if err != nil {
		return err
	}
	t := Table{Part: "instances", Title: "Instances", About: fmt.Sprintf(instancesAbout, number(float64(rate)), number(float64(keys))),
		Columns: []string{"updates/s", "p99 ms", "ms a flush", "transactions/s", "most connections", "of them at work"}}
	for _, v := range variants {
		m := got[v.name]
		t.row(v.name, m["updates"], m["p99"], m["flush ms"], m["transactions"], m["connections"], m["busy"])
	}
	r.report.Tables = append(r.report.Tables, t)
	one, most := got[variants[0].name], got[variants[len(variants)-1].name]
	what := fmt.Sprintf("%s / 1 instance: ", variants[len(variants)-1].name)
	r.report.atMost("instances", what+"time of a flush", "", 1.5, ratios(most["flush ms"], one["flush ms"]))
	r.report.atMost("instances", what+"Postgres transactions", "", 1.5, ratios(most["transactions"], one["transactions"]))
	r.report.atMost("instances", what+"most connections at once", "", 1, ratios(most["connections"], one["connections"]))
	return nil
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// flooded is what a group does as fast as it can, on rows that are there or, if it is cold, on empty books.
func (r *run) flooded(ctx context.Context, w *load.Workload, c groupConfig, cold bool) (numbers map[string]float64, err error) {
	g, err := r.place.group(ctx, c)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, g.end(ctx)) }()
	if !cold {
		if err := g.warm(ctx, w); err != nil {
			return nil, err
		}
	}
	g.flushed() // those of the warm-up
	before, err := r.place.activity(ctx)
	if err != nil {
		return nil, err
	}
	watch := r.place.watch(ctx, 2*time.Millisecond)
	first, begun := g.sent, time.Now()
	if err := errors.Join(g.flood(ctx, w, r.Duration), g.drain(ctx)); err != nil {
		return nil, errors.Join(err, watch.end())
	}
	seconds := time.Since(begun).Seconds()
	if err := watch.end(); err != nil {
		return nil, err
	}
	after, err := r.place.activity(ctx)
	if err != nil {
		return nil, err
	}
	done := g.flushed()
	if err := g.check(ctx, w); err != nil {
		return nil, err
	}
	updates := float64(g.sent - first)
	return map[string]float64{
		"updates": updates / seconds, "rows": float64(done.rows) / seconds, "wal": (after.wal - before.wal) / updates,
		"deadlocks": after.deadlocks - before.deadlocks,
		"looks":     watch.looks, "busy": watch.busy, "lock waits": watch.lockWaits, "log waits": watch.logWaits,
	}, nil
}

// watch looks at what the connections of instances do.
type watch struct {
	every  time.Duration
	cancel context.CancelFunc
	ended  chan error

	looks               float64
	connections         float64 // the most at once
	busy, mostBusy      float64 // seen at work: in all, and the most at once
	lockWaits, logWaits float64
}

const look = `
SELECT count(*), count(*) FILTER (WHERE state = 'active'),
    count(*) FILTER (WHERE state = 'active' AND wait_event IN ('transactionid', 'tuple')),
    count(*) FILTER (WHERE state = 'active' AND (wait_event_type = 'LWLock' AND wait_event LIKE 'WAL%' OR wait_event_type = 'IO' AND wait_event LIKE 'WAL%'))
FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'spendflush'`

// watch begins to look this often.
func (p *place) watch(ctx context.Context, every time.Duration) *watch {
	ctx, cancel := context.WithCancel(ctx)
	w := &watch{every: every, cancel: cancel, ended: make(chan error, 1)}
	go func() { w.ended <- w.run(ctx, p) }()
	return w
}

func (w *watch) run(ctx context.Context, p *place) error {
	conn, err := p.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for {
		if err := w.look(ctx, conn); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("look at the connections: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(w.every):
		}
	}
}

func (w *watch) look(ctx context.Context, conn *pgx.Conn) error {
	var all, busy, lockWaits, logWaits float64
	if err := conn.QueryRow(ctx, look).Scan(&all, &busy, &lockWaits, &logWaits); err != nil {
		return err
	}
	w.looks++
	w.connections, w.mostBusy = max(w.connections, all), max(w.mostBusy, busy)
	w.busy += busy
	w.lockWaits += lockWaits
	w.logWaits += logWaits
	return nil
}

// end ends it. What it saw can be read then.
func (w *watch) end() error {
	w.cancel()
	return <-w.ended
}
