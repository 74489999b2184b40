package bench

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/spendflush/spendflush/lockers/pglock"
	"github.com/spendflush/spendflush/lockers/redislock"
	"github.com/spendflush/spendflush/spend"
)

const locksAbout = `One client, one call after the other over loopback. **won** is a lock acquired and given up again; **refused** is one that another
instance has, which is what all instances but one get. docs/locks.md compares what they promise.`

func locksSteps(r *run) int { return 4 * r.Rounds }

func measureLocks(ctx context.Context, r *run) error {
	// A Postgres lock's key is salted from a table of the schema.
	if err := r.env.fresh(ctx); err != nil {
		return err
	}
	redis := func(owner string) (spend.Locker, error) {
		return redislock.New(r.env.client, owner, redislock.Options{Prefix: keyPrefix})
	}
	postgres := func(owner string) (spend.Locker, error) { return pglock.New(r.env.pool, owner), nil }
	var variants []variant
	for _, kind := range []struct {
		name string
		open func(owner string) (spend.Locker, error)
	}{{"Redis", redis}, {"Postgres advisory", postgres}} {
		variants = append(variants,
			variant{kind.name + ", won", func(ctx context.Context) (map[string]float64, error) {
				l, err := kind.open("bench")
				if err != nil {
					return nil, err
				}
				return r.lockTimes(ctx, func() error {
					lease, err := l.Acquire(ctx, "bench")
					if err != nil {
						return err
					}
					return lease.Release(ctx)
				})
			}},
			variant{kind.name + ", refused", func(ctx context.Context) (_ map[string]float64, err error) {
				holder, err := kind.open("holder")
				if err != nil {
					return nil, err
				}
				lease, err := holder.Acquire(ctx, "bench")
				if err != nil {
					return nil, err
				}
				defer func() { err = errors.Join(err, lease.Release(ctx)) }()
				l, err := kind.open("bench")
				if err != nil {
					return nil, err
				}
				return r.lockTimes(ctx, func() error {
					if _, err := l.Acquire(ctx, "bench"); !errors.Is(err, spend.ErrHeld) {
						return errors.Join(errors.New("a lock that is held was not refused"), err)
					}
					return nil
				})
			}})
	}
	got, err := r.compare(ctx, r.Rounds, variants)
	if err != nil {
		return err
	}
	t := Table{Part: "locks", Title: "Locks", About: locksAbout, Columns: []string{"p50 µs", "p99 µs"}}
	for _, v := range variants {
		t.row(v.name, got[v.name]["p50"], got[v.name]["p99"])
	}
	r.report.Tables = append(r.report.Tables, t)
	return nil
}

func (r *run) lockTimes(ctx context.Context, once func() error) (map[string]float64, error) {
	var took []time.Duration
	for begun := time.Now(); len(took) == 0 || time.Since(begun) < r.Duration && ctx.Err() == nil; {
		start := time.Now()
		if err := once(); err != nil {
			return nil, err
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	at := func(part float64) float64 { return float64(quantile(took, part).Nanoseconds()) / 1e3 }
	return map[string]float64{"p50": at(0.5), "p99": at(0.99)}, nil
}
