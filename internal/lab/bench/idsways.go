package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/spendflush/spendflush/internal/lab/load"
	"github.com/spendflush/spendflush/spend"
)

// identifiedLatency is latency at the default intervals, with ids.
func (r *run) identifiedLatency(ctx context.Context, w *load.Workload, rate int) (map[string]float64, error) {
	return r.latencyOf(ctx, w, episode{prepare: func(_ context.Context, g *group) error {
		g.ids = true
		return nil
	}}, rate)
}

const keyedSize = 100 // updates of a request with a key

// keyed floods an instance's HTTP server with requests that have a key each. The time runs until
// all is committed.
func (r *run) keyed(ctx context.Context, w *load.Workload, others int) (numbers map[string]float64, err error) {
	g, err := r.env.group(ctx, groupConfig{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, g.end(ctx)) }()
	if err := errors.Join(g.warm(ctx, w), r.env.fillIDs(ctx, others)); err != nil {
		return nil, err
	}
	server, done, err := g.api(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	requests, err := keyedRequests(w)
	if err != nil {
		return nil, err
	}

	begun := time.Now()
	_, sent, err := r.floodRequests(ctx, server, requests)
	if err != nil {
		return nil, err
	}
	if err := g.drain(ctx); err != nil {
		return nil, err
	}
	rate := float64(sent) / time.Since(begun).Seconds()
	if err := r.wantBooked(ctx, int64(g.sent)+sent*keyedSize); err != nil {
		return nil, err
	}
	return map[string]float64{"requests": rate, "updates": rate * keyedSize}, nil
}

// keyedRequests returns what makes the requests of a connection, each with a key that was never
// used.
func keyedRequests(w *load.Workload) (func() func() []byte, error) {
	updates := make([]spend.Update, keyedSize)
	for i := range updates {
		updates[i] = w.Update(uint64(i))
	}
	body, err := json.Marshal(updates)
	if err != nil {
		return nil, err
	}
	text := fmt.Appendf(nil, "POST /v1/updates HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nAuthorization: Bearer %s\r\n"+
		"User-Agent: bench\r\nAccept: */*\r\nIdempotency-Key: %s\r\nContent-Length: %d\r\n\r\n%s", httpToken, idOf(0), len(body), body)
	at := bytes.Index(text, []byte(idOf(0)))
	var keys atomic.Uint64
	return func() func() []byte {
		own := bytes.Clone(text)
		return func() []byte {
			copy(own[at:], idOf(keys.Add(1)))
			return own
		}
	}, nil
}

const repeatedAfter = 1000 // updates that are sent again after Redis is emptied

// onConflict writes each update by itself, and its id in the same statement.
func (r *run) onConflict(ctx context.Context, w *load.Workload) (map[string]float64, error) {
	tables, conns, done, err := r.directly(ctx)
	defer done()
	if err != nil {
		return nil, err
	}
	hour := spend.HourOf(time.Now())
	add := func(conn *pgx.Conn, number uint64) (bool, error) {
		var u spend.Update
		w.Fill(number, &u)
		c := load.Counters(&u)
		return tables.AddRollupOnce(ctx, conn, idOf(number), u.Series.Key(), hour, &c)
	}
	before, err := r.env.activity(ctx)
	if err != nil {
		return nil, err
	}

	var writers errgroup.Group
	var next atomic.Uint64
	begun := time.Now()
	for _, conn := range conns {
		writers.Go(func() error {
			for time.Since(begun) < r.Duration {
				if _, err := add(conn, next.Add(1)-1); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := writers.Wait(); err != nil {
		return nil, err
	}
	updates := float64(next.Load())
	rate := updates / time.Since(begun).Seconds()
	after, err := r.env.activity(ctx)
	if err != nil {
		return nil, err
	}
	tried, again := min(repeatedAfter, next.Load()), 0
	for number := range tried {
		added, err := add(conns[0], number)
		if err != nil {
			return nil, err
		}
		if added {
			again++
		}
	}
	return map[string]float64{"updates": rate, "wal": (after.wal - before.wal) / updates, "again": 100 * float64(again) / float64(tried)}, nil
}

const seenFor = 36 * 24 * time.Hour // as long as spendflush keeps an id

// setNX has Redis say which ids are new, and records these updates without ids.
func (r *run) setNX(ctx context.Context, w *load.Workload) (map[string]float64, error) {
	var rate, again float64
	numbers, err := r.play(ctx, w, episode{
		prepare: func(ctx context.Context, g *group) error { // those of the warm-up have ids, too
			_, err := r.env.unseen(ctx, 0, g.sent)
			return err
		},
		work: func(ctx context.Context, g *group) error {
			first, begun := g.sent, time.Now()
			if err := errors.Join(g.floodUnseen(ctx, w, r.Duration), g.settle(ctx)); err != nil {
				return err
			}
			rate = float64(g.sent-first) / time.Since(begun).Seconds()

			if err := r.env.client.FlushDB(ctx).Err(); err != nil {
				return fmt.Errorf("empty Redis: %w", err)
			}
			unseen, err := r.env.unseen(ctx, 0, repeatedAfter)
			if err != nil {
				return err
			}
			again, g.again = 100*float64(len(unseen))/repeatedAfter, uint64(len(unseen))
			return g.recordEach(ctx, w, unseen)
		},
	})
	if err != nil {
		return nil, err
	}
	return map[string]float64{"updates": rate, "wal": numbers["wal"], "again": again}, nil
}

// unseen sets the ids of n updates in Redis, and returns the numbers of those whose ids weren't
// there.
func (p *env) unseen(ctx context.Context, first, n uint64) (unseen []uint64, err error) {
	pipe := p.client.Pipeline()
	for number := first; number < first+n; number++ {
		pipe.SetNX(ctx, keyPrefix+":seen:"+idOf(number), 1, seenFor)
	}
	answers, err := pipe.Exec(ctx)
	if err != nil {
		return nil, fmt.Errorf("set ids in Redis: %w", err)
	}
	for i, a := range answers {
		if set, ok := a.(*redis.BoolCmd); ok && set.Val() {
			unseen = append(unseen, first+uint64(i))
		}
	}
	return unseen, nil
}

// recordEach records these updates of the workload.
func (g *group) recordEach(ctx context.Context, w *load.Workload, numbers []uint64) error {
	for _, number := range numbers {
		if err := g.record(ctx, w, number, 1); err != nil {
			return err
		}
	}
	return nil
}

// floodUnseen is flood of those updates whose ids are new to Redis: all of them.
func (g *group) floodUnseen(ctx context.Context, w *load.Workload, d time.Duration) error {
	return g.floodChunks(ctx, d, func(first uint64) error {
		unseen, err := g.env.unseen(ctx, first, chunk)
		if err != nil {
			return err
		}
		return g.recordEach(ctx, w, unseen)
	})
}
