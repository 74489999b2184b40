package bench

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/spendflush/spendflush/internal/lab/load"
)

// episode is what a group of instances does from its start to the comparison of its books.
type episode struct {
	groupConfig
	cold  bool                                // the books are empty; else all rows are there
	looks time.Duration                       // from one look at Postgres's connections to the next. Default: 20ms
	work  func(context.Context, *group) error // Default: flood

	prepare func(context.Context, *group) error // what comes before work, and isn't measured. Default: nothing
}

// play runs the episode and returns what is known of it: all over the time until everything was
// committed.
func (r *run) play(ctx context.Context, w *load.Workload, e episode) (numbers map[string]float64, err error) {
	if e.work == nil {
		e.work = func(ctx context.Context, g *group) error { return g.flood(ctx, w, r.Duration) }
	}
	g, err := r.env.group(ctx, e.groupConfig)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, g.end(ctx)) }()
	if !e.cold {
		if err := g.warm(ctx, w); err != nil {
			return nil, err
		}
	}
	if e.prepare != nil {
		if err := e.prepare(ctx, g); err != nil {
			return nil, err
		}
	}
	g.flushed() // those of the warm-up
	before, err := r.env.activity(ctx)
	if err != nil {
		return nil, err
	}
	watch := r.env.watch(ctx, cmp.Or(e.looks, 20*time.Millisecond))
	first, begun := g.all(), time.Now()
	err = errors.Join(e.work(ctx, g), g.drain(ctx))
	seconds := time.Since(begun).Seconds()
	if err := errors.Join(err, watch.end()); err != nil {
		return nil, err
	}
	after, err := r.env.activity(ctx)
	if err != nil {
		return nil, err
	}
	done := g.flushed()
	if err := g.check(ctx, w); err != nil {
		return nil, err
	}
	updates, rows, flushes := float64(g.all()-first), float64(done.rows), float64(len(done.flushes))
	return map[string]float64{
		"recorded": updates, "updates": updates / seconds, "lost": 0, "rows": rows / seconds, "flushes": flushes / seconds, "transactions": float64(done.transactions) / seconds,
		"flush": rows / done.flushing().Seconds(), "flush ms": done.flushing().Seconds() * 1000 / flushes,
		"wal": (after.wal - before.wal) / updates, "deadlocks": after.deadlocks - before.deadlocks,
		"looks": watch.looks, "connections": watch.connections, "at work": watch.busy, "most at work": watch.mostBusy,
		"lock waits": watch.lockWaits, "log waits": watch.logWaits,
	}, nil
}
