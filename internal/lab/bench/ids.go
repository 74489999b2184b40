package bench

import (
	"context"
	"fmt"

	"github.com/spendflush/spendflush/internal/lab/load"
)

const idsAbout = `One instance books updates that each have an id, over %s series, as fast as it can; the time runs until all is in Postgres, and all sums
are compared with the traffic, and the number of ids, afterwards. Traffic, instance, Redis and Postgres share the cores.

- **without ids**: the same traffic without ids.
- **new ids**: every update has an id that was never used.
- **with %s others**: as many other ids are in the window, made by SQL: a quarter in each of three full parts, and the rest in the current one.
- **repeats only**: updates that were just booked, all again under the same ids, after Redis was emptied. None may count.
- **Idempotency-Key**: over HTTP, as above, arrays of 100 updates that have a key together, over 100 series; once more with the other ids in the window.
- **INSERT of the ids**, **COPY**: the ids alone, %s a transaction, on one connection, into the table in which spendflush keeps them, and nothing else. The INSERT is the
  statement of a flush, made beforehand.
- **ON CONFLICT a request**: ten connections, each update an autocommitted statement: its id is inserted, and only if it is new its rollup row is added to.
- **SETNX, then count**: the id is set in Redis if it isn't there, 500 at once, and only if it wasn't the update is recorded, without an id, as in **without ids**.

"Counted again" is how many hundredths of updates count a second time that are sent again with the ids that they had, after Redis lost everything (FLUSHDB, as FLUSHALL for all
databases). SETNX forgets with Redis, and an instance that dies between the two loses the update: its id is there, so that it never counts.`

const recordIDsAbout = `Record, and a flush, without ids beside Record with them. Record is called by one goroutine over %s series, in an instance that commits to nowhere, 20 times a
second; the text of an id is made in both cases. The flush has no ids, and is compared with the two bare UPSERTs of its rows as in the table of flushes.`

const idsLatencyAbout = `One instance with its default intervals records %s updates a second that each have an id. Every 5 ms one is waited for, from before Record to its commit.`

const (
	newIDs, withoutIDs, onlyRepeats = "new ids", "without ids", "repeats only"
	keyedIDs, keyedFull             = "Idempotency-Key, arrays of 100", "Idempotency-Key, arrays of 100, with the others"
	insertIDs, copyIDs              = "INSERT of the ids", "COPY of the ids"
	onConflict, setNX               = "ON CONFLICT a request", "SETNX, then count"

	recordWithout, recordWith     = "Record without an id", "Record with an id"
	flushWithout, flushWithoutMax = "flush without ids", "its limit"
	latencyIDs                    = "identified, accepted to committed"
)

func idsSteps(r *run) int { return 15 * r.Rounds }

func measureIDs(ctx context.Context, r *run) error {
	keys := r.sized(10_000, 1000)
	w, err := load.New(load.Shape{Seed: 1, Keys: keys})
	if err != nil {
		return err
	}
	few, err := load.New(load.Shape{Seed: 1, Keys: 100})
	if err != nil {
		return err
	}
	flushes, rows, err := captureFlushes(ctx, keys)
	if err != nil {
		return err
	}
	rate, full := r.sized(20_000, 2000), fmt.Sprintf("with %s others", number(float64(r.IDs)))
	type numbers = map[string]float64
	got, err := r.compare(ctx, r.Rounds, []variant{
		{newIDs, func(ctx context.Context) (numbers, error) { return r.identified(ctx, w, 0) }},
		{insertIDs, func(ctx context.Context) (numbers, error) { return r.bareInsert(ctx, false) }},
		{copyIDs, func(ctx context.Context) (numbers, error) { return r.bareInsert(ctx, true) }},
		{onlyRepeats, func(ctx context.Context) (numbers, error) { return r.repeated(ctx, w) }},
		{full, func(ctx context.Context) (numbers, error) { return r.identified(ctx, w, r.IDs) }},
		{withoutIDs, func(ctx context.Context) (numbers, error) { return r.play(ctx, w, episode{}) }},
		{setNX, func(ctx context.Context) (numbers, error) { return r.setNX(ctx, w) }},
		{onConflict, func(ctx context.Context) (numbers, error) { return r.onConflict(ctx, w) }},
		{keyedIDs, func(ctx context.Context) (numbers, error) { return r.keyed(ctx, few, 0) }},
		{keyedFull, func(ctx context.Context) (numbers, error) { return r.keyed(ctx, few, r.IDs) }},
		{recordWithout, func(ctx context.Context) (numbers, error) { return r.recordIDs(ctx, keys, false) }},
		{recordWith, func(ctx context.Context) (numbers, error) { return r.recordIDs(ctx, keys, true) }},
		{flushWithout, func(ctx context.Context) (numbers, error) { return r.apply(ctx, flushes, rows, false) }},
		{flushWithoutMax, func(ctx context.Context) (numbers, error) { return r.limit(ctx, flushes, rows) }},
		{latencyIDs, func(ctx context.Context) (numbers, error) { return r.identifiedLatency(ctx, w, rate) }},
	})
	if err != nil {
		return err
	}
	r.reportIDs(got, keys, full)
	r.reportWithoutIDs(got, keys)
	t := Table{Part: "ids", Title: "From accepted to committed, with ids", About: fmt.Sprintf(idsLatencyAbout, number(float64(rate))),
		Columns: []string{"p50 ms", "p99 ms", "longest ms"}}
	m := got[latencyIDs]
	t.row(number(float64(rate))+" updates/s", m["p50"], m["p99"], m["max"])
	r.report.Tables = append(r.report.Tables, t)
	r.report.atMost("ids", "accepted to committed with ids at "+number(float64(rate))+" updates/s, p99", "ms", 1200, m["p99"])
	return nil
}

// reportIDs tells how fast updates with ids are.
func (r *run) reportIDs(got map[string]measured, keys int, full string) {
	t := Table{Part: "ids", Title: "Counted once by id", About: fmt.Sprintf(idsAbout, number(float64(keys)), number(float64(r.IDs)), number(bareIDs)),
		Columns: []string{"updates/s", "of new ids", "of INSERT of the ids", "requests/s", "WAL bytes an update", "bytes on disk an id", "counted again, %"}}
	fresh, bare := got[newIDs]["updates"], got[insertIDs]["updates"]
	for _, name := range []string{withoutIDs, newIDs, full, onlyRepeats, keyedIDs, keyedFull, insertIDs, copyIDs, onConflict, setNX} {
		m := got[name]
		t.row(name, m["updates"], ratios(m["updates"], fresh), ratios(m["updates"], bare), m["requests"], m["wal"], m["bytes"], m["again"])
	}
	r.report.Tables = append(r.report.Tables, t)

	r.report.atLeast("ids", "updates/s with ids, one instance", "", 100_000, fresh)
	r.report.atLeast("ids", "updates with ids / the bare INSERT of the ids", "", 0.6, ratios(fresh, bare))
	r.report.atLeast("ids", "updates with ids / the bare COPY of the ids", "", 0.6, ratios(fresh, got[copyIDs]["updates"]))
	r.report.atLeast("ids", "requests/s with Idempotency-Key, arrays of 100", "", 8000, got[keyedIDs]["requests"])
	r.report.atLeast("ids", full+" in the window / without them, updates/s", "", 0.5, ratios(got[full]["updates"], fresh))
	r.report.atLeast("ids", full+" in the window / without them, requests/s", "", 0.5, ratios(got[keyedFull]["requests"], got[keyedIDs]["requests"]))
	r.report.atLeast("ids", "repeats only / new ids, updates/s", "", 1, ratios(got[onlyRepeats]["updates"], fresh))
	r.report.atMost("ids", "repeats that counted again after Redis was emptied", "%", 0, got[onlyRepeats]["again"])
	r.report.atMost("ids", "on disk for an id, its index included", "bytes", 80, got[newIDs]["bytes"])
}

// reportWithoutIDs tells what updates without ids cost.
func (r *run) reportWithoutIDs(got map[string]measured, keys int) {
	t := Table{Part: "ids", Title: "Without ids, beside updates with them", About: spelled(recordIDsAbout, keys),
		Columns: []string{"ns", "allocations", "rows/s", "of limit"}}
	flush, limit := got[flushWithout]["rows"], got[flushWithoutMax]["rows"]
	for _, name := range []string{recordWithout, recordWith} {
		t.row(name, got[name]["ns"], got[name]["allocations"], nil, nil)
	}
	t.row(flushWithout, nil, nil, flush, ratios(flush, limit))
	t.row(flushWithoutMax, nil, nil, limit, nil)
	r.report.Tables = append(r.report.Tables, t)
	r.report.atLeast("ids", "flush without ids / limit", "", 0.9, ratios(flush, limit))
}
