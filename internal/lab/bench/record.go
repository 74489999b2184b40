package bench

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"time"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/internal/lab/load"
	"github.com/spendflush/spendflush/lockers/memlock"
	"github.com/spendflush/spendflush/queues/memqueue"
	"github.com/spendflush/spendflush/spend"
)

const recordAbout = `One goroutine, an instance whose batches go nowhere. The updates were made beforehand. **handle** is a series resolved once with
Pipeline.Handle. "while sealing" is a million updates a second over %s keys, each Record timed by itself, while the pipeline seals every
200 ms; the clock's own time is in it, and whatever else the machine does with the core meanwhile.`

func recordSteps(r *run) int { return 5*r.Rounds + 1 }

func measureRecord(ctx context.Context, r *run) error {
	keys := r.sized(10_000, 1000)
	got, err := r.compare(ctx, r.Rounds, []variant{
		{"Record, one key", func(ctx context.Context) (map[string]float64, error) { return r.recordKeys(ctx, 1) }},
		{fmt.Sprintf("Record, %s keys in turn", number(float64(keys))), func(ctx context.Context) (map[string]float64, error) { return r.recordKeys(ctx, keys) }},
		{"handle, one key", func(ctx context.Context) (map[string]float64, error) { return r.recordHandles(ctx, 1) }},
		{fmt.Sprintf("handle, %s keys in turn", number(float64(keys))), func(ctx context.Context) (map[string]float64, error) { return r.recordHandles(ctx, keys) }},
		{"Record, while sealing", func(ctx context.Context) (map[string]float64, error) { return r.recordWhileSealing(ctx, keys) }},
	})
	if err != nil {
		return err
	}
	t := Table{Part: "record", Title: "Record", About: spelled(recordAbout, keys),
		Columns: []string{"ns", "allocations", "p50 ns", "p99 µs", "p99.99 µs", "longest µs"}}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		m := got[name]
		t.row(name, m["ns"], m["allocations"], m["p50"], m["p99"], m["p9999"], m["max"])
	}
	r.report.Tables = append(r.report.Tables, t)
	one, handle := got["Record, one key"], got["handle, one key"]
	r.report.atMost("record", "Record with string ids, one goroutine", "ns", 120, one["ns"])
	r.report.atMost("record", "allocations of Record", "", 0, one["allocations"])
	r.report.atMost("record", "Record with a handle", "ns", 25, handle["ns"])
	r.report.atMost("record", "p99.99 of Record with sealing going on", "µs", 100, got["Record, while sealing"]["p9999"])
	return r.memory(ctx)
}

// startPipeline runs a pipeline for that many keys whose queue and store are memory and take
// everything. end ends it.
func startPipeline(ctx context.Context, keys int, seal time.Duration) (p *spendflush.Pipeline, end func() error, err error) {
	p, err = spendflush.New(spendflush.Config{
		Store: &takingStore{}, Queue: memqueue.New(memqueue.Options{}), Locker: memlock.New("bench"),
		DirectLocker: memlock.New("bench"), MaxKeys: 4*keys + 1000, SealInterval: seal,
	})
	if err != nil {
		return nil, nil, err
	}
	ran := make(chan error, 1)
	go func() { ran <- p.Run(ctx) }()
	return p, func() error { return errors.Join(p.Shutdown(ctx), <-ran) }, nil
}

const never = time.Minute // as good as, for a measurement

// timed calls do with numbers from 0 on for as long as a measurement takes, and returns what a call
// takes and allocates.
func (r *run) timed(ctx context.Context, do func(i int) error) (map[string]float64, error) {
	const group = 10_000
	for i := range 2 * group {
		if err := do(i); err != nil {
			return nil, err
		}
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	n := 0
	begun := time.Now()
	for n == 0 || time.Since(begun) < r.Duration && ctx.Err() == nil {
		for range group {
			if err := do(n); err != nil {
				return nil, err
			}
			n++
		}
	}
	took := time.Since(begun)
	runtime.ReadMemStats(&after)
	// A few allocations of the runtime's own are not those of the calls.
	allocations := float64((after.Mallocs - before.Mallocs) / uint64(n))
	return map[string]float64{"ns": float64(took.Nanoseconds()) / float64(n), "allocations": allocations}, nil
}

// ring is updates made beforehand, a power of two of them.
func ring(keys int) ([]spend.Update, error) {
	w, err := load.New(load.Shape{Seed: 1, Keys: keys})
	if err != nil {
		return nil, err
	}
	n := 1
	for n < keys {
		n *= 2
	}
	updates := make([]spend.Update, n)
	for i := range updates {
		updates[i] = w.Update(uint64(i))
	}
	return updates, nil
}

// timedOnRing is timed with a pipeline that runs, and the updates of a ring, of which prepare makes
// what is called.
func (r *run) timedOnRing(
	ctx context.Context, keys int, prepare func(p *spendflush.Pipeline, updates []spend.Update) (func(i int) error, error),
) (_ map[string]float64, err error) {
	p, end, err := startPipeline(ctx, keys, never)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, end()) }()
	updates, err := ring(keys)
	if err != nil {
		return nil, err
	}
	do, err := prepare(p, updates)
	if err != nil {
		return nil, err
	}
	return r.timed(ctx, do)
}

func (r *run) recordKeys(ctx context.Context, keys int) (map[string]float64, error) {
	return r.timedOnRing(ctx, keys, func(p *spendflush.Pipeline, updates []spend.Update) (func(i int) error, error) {
		mask := len(updates) - 1
		return func(i int) error { return p.Record(&updates[i&mask]) }, nil
	})
}

func (r *run) recordHandles(ctx context.Context, keys int) (map[string]float64, error) {
	return r.timedOnRing(ctx, keys, func(p *spendflush.Pipeline, updates []spend.Update) (func(i int) error, error) {
		handles, costs, err := handlesOf(p, updates)
		mask := len(updates) - 1
		return func(i int) error { return handles[i&mask].Record(&costs[i&mask]) }, err
	})
}

// handlesOf returns a handle for the series of each update, and its cost.
func handlesOf(p *spendflush.Pipeline, updates []spend.Update) (handles []*spendflush.Handle, costs []spend.Cost, err error) {
	handles, costs = make([]*spendflush.Handle, len(updates)), make([]spend.Cost, len(updates))
	for i := range updates {
		u := &updates[i]
		if handles[i], err = p.Handle(&u.Series); err != nil {
			return nil, nil, err
		}
		costs[i] = u.Cost
		costs[i].Time = time.Time{}
	}
	return handles, costs, nil
}

// recordWhileSealing times every call at a million a second.
func (r *run) recordWhileSealing(ctx context.Context, keys int) (_ map[string]float64, err error) {
	p, end, err := startPipeline(ctx, keys, 200*time.Millisecond)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, end()) }()
	updates, err := ring(keys)
	if err != nil {
		return nil, err
	}
	const perSecond = 1_000_000
	took := make([]int64, 0, int(r.Duration.Seconds()*perSecond)+perSecond)
	mask := len(updates) - 1
	begun := time.Now()
	for len(took) < cap(took) {
		elapsed := time.Since(begun)
		if elapsed > r.Duration || ctx.Err() != nil {
			break
		}
		for due := min(cap(took), int(elapsed.Seconds()*perSecond)); len(took) < due; {
			start := time.Now()
			if err := p.Record(&updates[len(took)&mask]); err != nil {
				return nil, err
			}
			took = append(took, int64(time.Since(start)))
		}
		time.Sleep(100 * time.Microsecond)
	}
	if len(took) == 0 {
		return nil, errors.New("nothing was recorded in time")
	}
	slices.Sort(took)
	at := func(part float64) float64 { return float64(quantile(took, part)) }
	return map[string]float64{"p50": at(0.5), "p99": at(0.99) / 1e3, "p9999": at(0.9999) / 1e3, "max": at(1) / 1e3}, nil
}

// takingStore commits everything, and keeps only the marks.
type takingStore struct{ capturingStore }

func (s *takingStore) Apply(ctx context.Context, f *spend.Flush) error {
	if err := s.capturingStore.Apply(ctx, f); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flushes = nil
	return nil
}

// memory weighs the keys in an open map.
func (r *run) memory(ctx context.Context) (err error) {
	keys := r.sized(1_000_000, 20_000)
	r.tell("memory of a live key")
	w, err := load.New(load.Shape{Seed: 1, Keys: keys})
	if err != nil {
		return err
	}
	p, end, err := startPipeline(ctx, keys, never)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	before := heap()
	var u spend.Update
	for number := range uint64(keys) {
		w.Fill(number, &u)
		if err := p.Record(&u); err != nil {
			return err
		}
	}
	each := float64(heap()-before) / float64(keys)
	runtime.KeepAlive(w)
	r.done++
	t := Table{Part: "record", Title: "Memory of a live key", Columns: []string{"bytes a key"},
		About: "What the heap has grown by after one update of every key: ids, user, team, organization, model, sums. The ids themselves are the caller's."}
	t.row(number(float64(keys))+" keys", []float64{each})
	r.report.Tables = append(r.report.Tables, t)
	r.report.atMost("record", "memory of a live key", "bytes", 500, []float64{each})
	return ctx.Err()
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
