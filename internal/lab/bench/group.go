package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/internal/lab/load"
	"github.com/spendflush/spendflush/lockers/pglock"
	"github.com/spendflush/spendflush/lockers/redislock"
	"github.com/spendflush/spendflush/queues/redisqueue"
	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/pgstore"
)

// groupConfig says what a group of instances is like. The zero value of a field stands for
// spendflush's default.
type groupConfig struct {
	instances, shards int
	seal, flush       time.Duration
	maxKeys           int
}

// group is some instances in this process, each with its own connections.
type group struct {
	env       *env
	instances []*member
	running   errgroup.Group
	drained   bool
	sent      uint64 // updates of the workload, the first ones
	again     uint64 // and the first ones again
	cycles    uint64 // and so often the first cycle of them

	ids     bool   // from now on updates have ids
	repeats uint64 // updates that were recorded again under their ids
}

type member struct {
	pipeline *spendflush.Pipeline
	store    *pgstore.Store
	flushes  *watchedStore
	client   redis.UniversalClient
	queue    *redisqueue.Queue
	locker   *redislock.Locker
}

// group starts the instances on fresh books.
func (p *env) group(ctx context.Context, c groupConfig) (g *group, err error) {
	if err := p.fresh(ctx); err != nil {
		return nil, err
	}
	g = &group{env: p}
	for i := range max(1, c.instances) {
		m, err := p.member(ctx, fmt.Sprintf("instance-%d", i+1), c)
		if err != nil {
			return nil, errors.Join(err, g.close())
		}
		g.instances = append(g.instances, m)
	}
	for _, m := range g.instances {
		g.running.Go(func() error { return m.pipeline.Run(ctx) })
	}
	return g, nil
}

func (p *env) member(ctx context.Context, name string, c groupConfig) (m *member, err error) {
	m = &member{}
	if m.store, err = pgstore.Open(ctx, p.databaseURL, pgstore.Options{}); err != nil {
		return nil, err
	}
	m.flushes = &watchedStore{Store: m.store}
	if m.client, err = redisqueue.Dial(p.redisURL); err != nil {
		m.store.Close()
		return nil, err
	}
	m.queue, err = redisqueue.New(m.client, redisqueue.Options{Prefix: keyPrefix})
	if err != nil {
		m.store.Close()
		return nil, errors.Join(err, m.client.Close())
	}
	m.locker, err = redislock.New(m.client, name, redislock.Options{Prefix: keyPrefix})
	if err != nil {
		m.store.Close()
		return nil, errors.Join(err, m.client.Close())
	}
	m.pipeline, err = spendflush.New(spendflush.Config{
		Store: m.flushes, Queue: m.queue, Locker: m.locker, DirectLocker: pglock.New(m.store.Pool(), name),
		Instance: name, Shards: c.shards, SealInterval: c.seal, FlushInterval: c.flush, MaxKeys: c.maxKeys,
	})
	if err != nil {
		return nil, errors.Join(err, m.close())
	}
	return m, nil
}

// watchedStore notes what is asked of Postgres, and how many rows are flushed.
type watchedStore struct {
	*pgstore.Store

	mu   sync.Mutex
	seen seen
}

// seen is what a watchedStore has noted.
type seen struct {
	transactions int // each call is one, but for what had to be tried again
	rows         int
	flushes      []time.Duration
}

func (s *watchedStore) Marks(ctx context.Context, shard int, producers []spend.ProducerID) (spend.Marks, error) {
	s.note(0, nil)
	return s.Store.Marks(ctx, shard, producers)
}

func (s *watchedStore) TouchMarks(ctx context.Context, living []spend.ProducerID, now time.Time, idle time.Duration) (int64, error) {
	s.note(0, nil)
	return s.Store.TouchMarks(ctx, living, now, idle)
}

func (s *watchedStore) Apply(ctx context.Context, f *spend.Flush) error {
	begun := time.Now()
	if err := s.Store.Apply(ctx, f); err != nil {
		s.note(0, nil)
		return err
	}
	s.note(len(f.Totals)+len(f.Rollups), []time.Duration{time.Since(begun)})
	return nil
}

func (s *watchedStore) note(rows int, flushes []time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen.transactions++
	s.seen.rows += rows
	s.seen.flushes = append(s.seen.flushes, flushes...)
}

// flushed returns what all instances have done since they were last asked.
func (g *group) flushed() (all seen) {
	for _, m := range g.instances {
		m.flushes.mu.Lock()
		all.transactions += m.flushes.seen.transactions
		all.rows += m.flushes.seen.rows
		all.flushes = append(all.flushes, m.flushes.seen.flushes...)
		m.flushes.seen = seen{}
		m.flushes.mu.Unlock()
	}
	return all
}

// flushing is how long all flushes took together.
func (s *seen) flushing() (sum time.Duration) {
	for _, took := range s.flushes {
		sum += took
	}
	return sum
}

func (m *member) close() error {
	err := m.client.Close()
	m.queue.Wait()
	m.locker.Wait()
	m.store.Close()
	return err
}

// close closes the connections of instances that have ended.
func (g *group) close() error {
	var errs []error
	for _, m := range g.instances {
		errs = append(errs, m.close())
	}
	return errors.Join(errs...)
}

// drain has everything committed, ends the instances and closes their connections. Shutdown alone
// wouldn't wait for long once all is in the queue, where it is safe.
func (g *group) drain(ctx context.Context) error {
	settled := g.settle(ctx)
	var drains errgroup.Group
	for _, m := range g.instances {
		drains.Go(func() error { return m.pipeline.Shutdown(ctx) })
	}
	err := errors.Join(settled, drains.Wait(), g.running.Wait())
	g.drained = true
	return errors.Join(err, g.close())
}

// end drains what wasn't drained, after a failure.
func (g *group) end(ctx context.Context) error {
	if g.drained {
		return nil
	}
	return g.drain(ctx)
}

const chunk = 500 // updates that a goroutine takes at once

// flood records updates of the workload for that long, as fast as this machine does, each instance
// in its turn.
func (g *group) flood(ctx context.Context, w *load.Workload, d time.Duration) error {
	return g.floodChunks(ctx, d, func(first uint64) error { return g.record(ctx, w, first, chunk) })
}

// floodChunks calls record for that long, on all cores, with the first update of each chunk.
func (g *group) floodChunks(ctx context.Context, d time.Duration, record func(first uint64) error) error {
	var next atomic.Uint64
	next.Store(g.sent)
	end := time.Now().Add(d)
	var work errgroup.Group
	for range runtime.GOMAXPROCS(0) {
		work.Go(func() error {
			for ctx.Err() == nil && time.Now().Before(end) {
				if err := record(next.Add(chunk) - chunk); err != nil {
					return err
				}
			}
			return ctx.Err()
		})
	}
	err := work.Wait()
	g.sent = next.Load()
	return err
}

// cycle is how many updates floodHandles repeats.
const cycle = 1 << 15

// floodHandles is flood with a handle for each series. It repeats the first cycle of the workload,
// made beforehand.
func (g *group) floodHandles(ctx context.Context, w *load.Workload, d time.Duration) error {
	updates := make([]spend.Update, cycle)
	for i := range updates {
		updates[i] = w.Update(uint64(i))
	}
	handles, costs, err := handlesOf(g.instances[0].pipeline, updates)
	if err != nil {
		return err
	}
	var cycles atomic.Uint64
	end := time.Now().Add(d)
	var work errgroup.Group
	for range runtime.GOMAXPROCS(0) {
		work.Go(func() error {
			for ctx.Err() == nil && time.Now().Before(end) {
				for i := range costs {
					if err := handles[i].Record(&costs[i]); err != nil {
						return err
					}
				}
				cycles.Add(1)
			}
			return ctx.Err()
		})
	}
	err = work.Wait()
	g.cycles += cycles.Load()
	return err
}

// all is how many updates were recorded.
func (g *group) all() uint64 { return g.sent + g.again + g.cycles*cycle + g.repeats }

// pace records so many updates a second of the workload for that long. A goroutine that was held up
// catches up.
func (g *group) pace(ctx context.Context, w *load.Workload, rate int, d time.Duration) error {
	begun, first := time.Now(), g.sent
	for {
		elapsed := time.Since(begun)
		if elapsed >= d || ctx.Err() != nil {
			return ctx.Err()
		}
		due := first + uint64(elapsed.Seconds()*float64(rate))
		for g.sent < due {
			n := min(chunk, due-g.sent)
			if err := g.record(ctx, w, g.sent, n); err != nil {
				return err
			}
			g.sent += n
		}
		time.Sleep(time.Millisecond)
	}
}

// warm records every key once, and returns when all that is committed: then the rows are there, as
// they are in a database in use.
func (g *group) warm(ctx context.Context, w *load.Workload) error {
	for end := g.sent + uint64(w.Shape().Keys); g.sent < end; {
		n := min(chunk, end-g.sent)
		if err := g.record(ctx, w, g.sent, n); err != nil {
			return err
		}
		g.sent += n
	}
	return g.settle(ctx)
}

// settle waits until nothing is held.
func (g *group) settle(ctx context.Context) error {
	for _, m := range g.instances {
		for {
			s := m.pipeline.Status()
			held := s.Open.Updates
			for _, shard := range s.Shards {
				held += shard.Updates
			}
			if held == 0 {
				break
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			time.Sleep(2 * time.Millisecond)
		}
	}
	return nil
}

// record records a chunk of updates by number, in the instance whose turn it is. Where that can't
// take more, it waits as a client would.
func (g *group) record(ctx context.Context, w *load.Workload, first, n uint64) error {
	p := g.instances[first/chunk%uint64(len(g.instances))].pipeline
	var u spend.Update
	for number := first; number < first+n; number++ {
		w.Fill(number, &u)
		if g.ids {
			u.ID = idOf(number)
		}
		for {
			err := p.Record(&u)
			if err == nil {
				break
			}
			if !errors.Is(err, spendflush.ErrBufferFull) || ctx.Err() != nil {
				return err
			}
			time.Sleep(time.Millisecond)
		}
	}
	return nil
}
