package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/internal/lab/load"
	"github.com/spendflush/spendflush/lockers/memlock"
	"github.com/spendflush/spendflush/queues/memqueue"
	"github.com/spendflush/spendflush/spend"
)

// idOf is the id of an update by its number: 25 bytes in an order of chance, each number another
// one.
func idOf(number uint64) string {
	const digits = "0123456789abcdef"
	id := [25]byte{'c', 'h', 'a', 't', 'c', 'm', 'p', 'l', '-'}
	number *= 0x9e3779b97f4a7c15 // odd, so that no two become one
	for i := range 16 {
		id[9+i] = digits[number>>(60-4*i)&15]
	}
	return string(id[:])
}

// factStore commits everything, ids too, and keeps only the marks.
type factStore struct{ takingStore }

func (*factStore) Fact(context.Context, spend.FactID) ([]spend.CommittedFact, error) { return nil, nil }

func (*factStore) Outcomes(context.Context, int, spend.ProducerID, []uint64) ([]spend.TakenOut, error) {
	return nil, nil
}

func (*factStore) TendFacts(context.Context, time.Duration) error { return nil }

// recordIDs times Record of updates with or without ids, in an instance that seals and commits them
// to nowhere.
func (r *run) recordIDs(ctx context.Context, keys int, ids bool) (_ map[string]float64, err error) {
	p, err := spendflush.New(spendflush.Config{
		Store: &factStore{}, Queue: memqueue.New(memqueue.Options{}), Locker: memlock.New("bench"), DirectLocker: memlock.New("bench"),
		MaxKeys: 4*keys + 1000, SealInterval: 50 * time.Millisecond, FlushInterval: 50 * time.Millisecond, MaxUnconfirmedBytes: 1 << 30,
	})
	if err != nil {
		return nil, err
	}
	ran := make(chan error, 1)
	go func() { ran <- p.Run(ctx) }()
	defer func() { err = errors.Join(err, p.Shutdown(ctx), <-ran) }()
	updates, err := ring(keys)
	if err != nil {
		return nil, err
	}
	mask, number := len(updates)-1, uint64(0)
	return r.timed(ctx, func(i int) error {
		u := &updates[i&mask]
		number++
		if id := idOf(number); ids { // made in both cases
			u.ID = id
		}
		err := p.Record(u)
		for errors.Is(err, spendflush.ErrBufferFull) && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
			err = p.Record(u)
		}
		return err
	})
}

// identified floods one instance with updates that have ids, with so many other ids in the window.
func (r *run) identified(ctx context.Context, w *load.Workload, others int) (map[string]float64, error) {
	numbers, err := r.play(ctx, w, episode{prepare: func(ctx context.Context, g *group) error {
		g.ids = true
		return r.env.fillIDs(ctx, others)
	}})
	if err != nil {
		return nil, err
	}
	return numbers, r.weighIDs(ctx, numbers, others)
}

// weighIDs checks how many ids are kept, and adds the bytes that each takes.
func (r *run) weighIDs(ctx context.Context, numbers map[string]float64, others int) error {
	var count, bytes float64
	err := r.env.pool.QueryRow(ctx, "SELECT count(*), pg_total_relation_size('spendflush.ids_0') FROM spendflush.ids_0").Scan(&count, &bytes)
	if err != nil {
		return fmt.Errorf("count the ids: %w", err)
	}
	count -= float64(others - 3*(others/4)) // those of the current part
	if count != numbers["recorded"] {
		return fmt.Errorf("%w: %.0f updates with ids were recorded, and %.0f ids are kept", ErrWrongBooks, numbers["recorded"], count)
	}
	if others == 0 {
		numbers["bytes"] = bytes / count
	}
	return nil
}

const mostIDs = 1_000_000_000

// fillIDs puts random ids into the window: a quarter into each of three full parts, and the rest
// into the current one.
func (p *env) fillIDs(ctx context.Context, n int) error {
	if n == 0 {
		return nil
	}
	_, err := p.pool.Exec(ctx, "UPDATE spendflush.id_parts SET state = 'full', opened = '0', closed = '0' WHERE part BETWEEN 1 AND 3")
	for part := 0; part < 4 && err == nil; part++ {
		rows := n / 4
		if part == 0 {
			rows = n - 3*rows
		}
		_, err = p.pool.Exec(ctx, fmt.Sprintf(`
INSERT INTO spendflush.ids_%d (high, low, said)
SELECT hashint8extended(i, %[1]d), hashint8extended(i, 10 + %[1]d), i << 16 FROM generate_series(1, $1::bigint) AS i`, part), rows)
	}
	if err == nil {
		_, err = p.pool.Exec(ctx, "ANALYZE spendflush.ids_0, spendflush.ids_1, spendflush.ids_2, spendflush.ids_3")
	}
	if err == nil {
		_, _ = p.pool.Exec(ctx, "CHECKPOINT") // who may not do that has to live with the servers' own
		return nil
	}
	return fmt.Errorf("fill the window of ids: %w", err)
}

// repeated records updates with ids for as long as a measurement takes, empties Redis, and measures
// the same ones again.
func (r *run) repeated(ctx context.Context, w *load.Workload) (map[string]float64, error) {
	var from uint64
	numbers, err := r.play(ctx, w, episode{
		prepare: func(ctx context.Context, g *group) error {
			from, g.ids = g.sent, true
			if err := errors.Join(g.flood(ctx, w, r.Duration), g.settle(ctx)); err != nil {
				return err
			}
			return r.env.client.FlushDB(ctx).Err()
		},
		work: func(ctx context.Context, g *group) error { return g.repeat(ctx, w, from, g.sent) },
	})
	if err == nil {
		numbers["again"] = 0 // or else the books were wrong
	}
	return numbers, err
}

// repeat records these updates of the workload again, all of which had ids.
func (g *group) repeat(ctx context.Context, w *load.Workload, from, to uint64) error {
	var next atomic.Uint64
	next.Store(from)
	var work errgroup.Group
	for range runtime.GOMAXPROCS(0) {
		work.Go(func() error {
			for ctx.Err() == nil {
				first := next.Add(chunk) - chunk
				if first >= to {
					return nil
				}
				if err := g.record(ctx, w, first, min(chunk, to-first)); err != nil {
					return err
				}
			}
			return ctx.Err()
		})
	}
	g.repeats += to - from
	return work.Wait()
}

const bareIDs = 20_000 // of one statement

// bareInsert keeps ids by the statement that a flush uses for them, made beforehand, one
// transaction each; or by COPY.
func (r *run) bareInsert(ctx context.Context, copying bool) (map[string]float64, error) {
	if err := r.env.fresh(ctx); err != nil {
		return nil, err
	}
	conn, err := r.env.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var took time.Duration
	n := 0
	for number := uint64(0); n == 0 || took < r.Duration; number += bareIDs {
		high, low, said, all := make([]int64, bareIDs), make([]int64, bareIDs), make([]int64, bareIDs), make([]int64, bareIDs)
		for i := range high {
			id := spend.NewFactID(spend.UpdateFact, idOf(number+uint64(i)))
			high[i], low[i] = int64(binary.BigEndian.Uint64(id[:8])), int64(binary.BigEndian.Uint64(id[8:]))
			said[i], all[i] = int64(i)<<16, -1
		}
		statement, err := encodeStatement(conn, "fact_add", []any{high, low, said, all})
		if err != nil {
			return nil, err
		}

		begun := time.Now()
		if copying {
			rows := pgx.CopyFromSlice(bareIDs, func(i int) ([]any, error) { return []any{high[i], low[i], said[i], nil}, nil })
			_, err = conn.CopyFrom(ctx, pgx.Identifier{"spendflush", "ids_0"}, []string{"high", "low", "said", "buckets"}, rows)
		} else {
			_, err = conn.PgConn().ExecParams(ctx, statement.text, statement.values, statement.oids, statement.formats, nil).Close()
		}
		if err != nil {
			return nil, fmt.Errorf("keep ids: %w", err)
		}
		took += time.Since(begun)
		n += bareIDs
	}
	return map[string]float64{"updates": float64(n) / took.Seconds()}, nil
}
