package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/internal/lab/load"
	"github.com/spendflush/spendflush/spend"
)

const latencyAbout = `One instance with Redis and Postgres records %s updates a second over %s keys, every one of them in every flush; all totals and rollups are
written, and compared afterwards. Every 5 ms one update is waited for: from before Record to its commit. The first column is the seal
interval and the flush interval. "transactions/s" counts flushes and readings of marks: all that is asked of Postgres while Redis is there.`

// intervals are what decides about the latency.
type intervals struct{ seal, flush time.Duration }

func latencyPaces(r *run) []intervals {
	if r.Quick {
		return []intervals{{50 * time.Millisecond, 100 * time.Millisecond}}
	}
	return []intervals{
		{5 * time.Millisecond, 5 * time.Millisecond}, {20 * time.Millisecond, 20 * time.Millisecond},
		{50 * time.Millisecond, 100 * time.Millisecond}, {50 * time.Millisecond, 500 * time.Millisecond}, {200 * time.Millisecond, 500 * time.Millisecond},
		{200 * time.Millisecond, time.Second}, {time.Second, 5 * time.Second},
	}
}

func latencySteps(r *run) int { return r.Rounds * len(latencyPaces(r)) }

func measureLatency(ctx context.Context, r *run) error {
	keys, rate := r.sized(10_000, 1000), r.sized(1_000_000, 100_000)
	w, err := load.New(load.Shape{Seed: 1, Keys: keys})
	if err != nil {
		return err
	}
	var variants []variant
	for _, c := range latencyPaces(r) {
		variants = append(variants, variant{c.String(), func(ctx context.Context) (map[string]float64, error) {
			return r.latency(ctx, w, groupConfig{seal: c.seal, flush: c.flush}, rate)
		}})
	}
	got, err := r.compare(ctx, r.Rounds, variants)
	if err != nil {
		return err
	}
	t := Table{Part: "latency", Title: "From accepted to committed", About: fmt.Sprintf(latencyAbout, number(float64(rate)), number(float64(keys))),
		Columns: []string{"p50 ms", "p99 ms", "longest ms", "updates/s", "flushes/s", "rows/s", "ms a flush", "WAL bytes an update", "transactions/s"}}
	var best []float64
	for _, v := range variants {
		m := got[v.name]
		t.row(v.name, m["p50"], m["p99"], m["max"], m["updates"], m["flushes"], m["rows"], m["flush ms"], m["wal"], m["transactions"])
		if best == nil || valueOf(m["p99"]).Median < valueOf(best).Median {
			best = m["p99"]
		}
	}
	r.report.Tables = append(r.report.Tables, t)
	r.report.atMost("latency", "accepted to committed at "+number(float64(rate))+" updates/s, p99 at the best intervals", "ms", 500, best)
	if wal, ok := got[intervals{200 * time.Millisecond, time.Second}.String()]; ok {
		r.report.atMost("latency", "WAL an update with a flush a second", "bytes", 6, wal["wal"])
	}
	return nil
}

func (c intervals) String() string { return fmt.Sprintf("%s, %s", c.seal, c.flush) }

// latency lets a group work at a rate, and waits for a sample of its updates.
func (r *run) latency(ctx context.Context, w *load.Workload, c groupConfig, rate int) (map[string]float64, error) {
	return r.latencyOf(ctx, w, episode{groupConfig: c}, rate)
}

// latencyOf is latency in an episode, whose work it is.
func (r *run) latencyOf(ctx context.Context, w *load.Workload, e episode, rate int) (map[string]float64, error) {
	var took []time.Duration
	e.work = func(ctx context.Context, g *group) (err error) {
		took, err = g.paceAndWait(ctx, w, rate, max(r.Duration, 3*e.flush, min(10*e.flush, 10*time.Second)))
		return err
	}
	numbers, err := r.play(ctx, w, e)
	if err != nil {
		return nil, err
	}
	slices.Sort(took)
	for name, part := range map[string]float64{"p50": 0.5, "p99": 0.99, "max": 1} {
		numbers[name] = float64(quantile(took, part)) / float64(time.Millisecond)
	}
	return numbers, nil
}

const sampleEvery = 5 * time.Millisecond

// paceAndWait is pace, and how long a sample of updates takes from before it is recorded until it
// is committed. The samples go to the first instance.
func (g *group) paceAndWait(ctx context.Context, w *load.Workload, rate int, d time.Duration) ([]time.Duration, error) {
	var mu sync.Mutex // guards took
	var took []time.Duration
	var waiting errgroup.Group
	over := make(chan struct{})
	pacing := make(chan error, 1)
	go func() {
		defer close(over)
		pacing <- g.pace(ctx, w, rate, d)
	}()
	p := g.instances[0].pipeline
	ticker := time.NewTicker(sampleEvery)
	defer ticker.Stop()
sampling:
	for {
		select {
		case <-over:
			break sampling
		case <-ticker.C:
		}
		u := w.Update(g.again)
		if g.ids {
			u.ID = fmt.Sprintf("again-%d", g.again)
		}
		begun := time.Now()
		receipt, err := p.RecordAll([]spend.Update{u})
		if errors.Is(err, spendflush.ErrBufferFull) {
			continue
		}
		if err != nil {
			return nil, errors.Join(err, <-pacing)
		}
		g.again++
		waiting.Go(func() error {
			if _, err := p.Wait(ctx, receipt, spendflush.Committed); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, time.Since(begun))
			return nil
		})
	}
	if err := errors.Join(<-pacing, waiting.Wait()); err != nil {
		return nil, err
	}
	if len(took) == 0 {
		return nil, errors.New("no update was waited for")
	}
	return took, nil
}
