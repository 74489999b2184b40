package bench

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spendflush/spendflush/internal/lab/load"
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
			return r.play(ctx, w, episode{groupConfig: c, looks: 2 * time.Millisecond})
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
		t.row(v.name, m["rows"], m["looks"], m["at work"], m["lock waits"], m["log waits"], m["deadlocks"])
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

// keysRounds is how often that many keys are measured: a million only once, as it takes minutes to
// make their rows.
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
			return r.play(ctx, w, episode{groupConfig: groupConfig{instances: waysInstances}})
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
		return r.play(ctx, w, episode{groupConfig: groupConfig{maxKeys: r.sized(50_000, 2000)}, cold: true})
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
		t.row(v.name, m["updates"], m["p99"], m["flush ms"], m["transactions"], m["connections"], m["most at work"])
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
