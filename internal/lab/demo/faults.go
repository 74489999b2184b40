package demo

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/lockers/redislock"
	"github.com/spendflush/spendflush/queues/redisqueue"
	"github.com/spendflush/spendflush/spend"
)

// faults are what goes wrong while the traffic goes on.
type faults struct {
	d        *demo
	lastKill time.Time // when the last process was killed

	kills, flushes, freezes int
}

const (
	flushAt  = 1 // the number of the fault that empties Redis
	freezeAt = 3 // and of the one that freezes the lock holder; all others kill it

	lookEvery = 20 * time.Millisecond
	downFor   = 500 * time.Millisecond // from a kill to the start of the next process
)

// run makes one fault after the other until ctx ends. Each begins when everybody has come round
// from the one before. When run returns, all instances are there, unless hard has ended.
func (f *faults) run(ctx, hard context.Context) error {
	for i := 0; ; i++ {
		if err := sleep(ctx, f.d.faultEvery()); err != nil {
			return nil
		}
		var err error
		switch i {
		case flushAt:
			err = f.emptyRedis(ctx)
		case freezeAt:
			err = f.freezeHolder(ctx)
		default:
			err = f.killHolder(ctx, hard)
		}
		if err != nil && ctx.Err() == nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}

// sleep returns the error of ctx if that ends first.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// until looks again and again until what is looked for is there.
func until(ctx context.Context, look func() (bool, error)) error {
	for {
		if there, err := look(); err != nil || there {
			return err
		}
		if err := sleep(ctx, lookEvery); err != nil {
			return err
		}
	}
}

// holder waits until an instance that is there holds the lock, other than the process named.
func (f *faults) holder(ctx context.Context, but string) (holder *instance, err error) {
	err = until(ctx, func() (bool, error) {
		owner, err := f.d.redis.holder(ctx)
		if err != nil || owner == but {
			return false, err
		}
		for _, in := range f.d.instances {
			if in.name() == owner && in.address() != "" {
				holder = in
				return true, nil
			}
		}
		return false, nil
	})
	return holder, err
}

func (f *faults) killHolder(ctx, hard context.Context) error {
	in, err := f.holder(ctx, "")
	if err != nil {
		return err
	}
	name, start := in.name(), time.Now()
	f.d.event(f.d.out.Bad("kill -9")+" of %s, which holds the lock", in)
	if err := in.kill(); err != nil {
		return err
	}
	f.kills++
	f.lastKill = time.Now()
	_ = sleep(ctx, downFor)
	if err := in.start(); err != nil {
		return err
	}
	if err := in.awaitReady(hard); err != nil {
		return err
	}
	f.d.event("%s is back, as a new process", in)
	next, err := f.holder(ctx, name)
	if err != nil {
		return err
	}
	f.d.event("%s holds the lock now, %s after the kill", next, tenths(time.Since(start)))
	return nil
}

// emptyRedis is FLUSHALL: queue, lock and all are gone. What was acknowledged is still with the
// instances that sent it, if they live; so it is done when nothing of one that was killed is left
// in the queue.
func (f *faults) emptyRedis(ctx context.Context) error {
	err := until(ctx, func() (bool, error) {
		stats, err := f.d.redis.queue.Stats(ctx, 0)
		return stats.Batches > 0 && stats.Oldest.After(f.lastKill), err
	})
	if err != nil {
		return err
	}
	lost, err := f.d.redis.flushAll(ctx)
	if err != nil {
		return err
	}
	at := time.Now()
	f.flushes++
	f.d.event(f.d.out.Bad("FLUSHALL")+": Redis is emptied of the lock and all batches (%d a moment before)", lost)
	for _, in := range f.d.instances {
		err := until(ctx, func() (bool, error) {
			oldest, err := f.oldestUnconfirmed(ctx, in)
			return oldest.IsZero() || oldest.After(at), err
		})
		if err != nil {
			return err
		}
	}
	f.d.event("the instances have sent it all again: what was in Redis is in Postgres, %s after", tenths(time.Since(at)))
	return nil
}

// oldestUnconfirmed returns when the oldest batch was sealed that the instance doesn't know to be
// in Postgres.
func (f *faults) oldestUnconfirmed(ctx context.Context, in *instance) (oldest time.Time, err error) {
	shard, err := f.shard(ctx, in)
	return shard.Oldest, err
}

// shard returns how the one shard stands in an instance.
func (f *faults) shard(ctx context.Context, in *instance) (shard spendflush.ShardStatus, err error) {
	var status struct{ Shards []spendflush.ShardStatus }
	err = f.get(ctx, in, "/v1/status", func(r io.Reader) error { return json.NewDecoder(r).Decode(&status) })
	if err == nil && len(status.Shards) != 1 {
		err = fmt.Errorf("%s tells of %d shards", in, len(status.Shards))
	}
	if err != nil {
		return shard, err
	}
	return status.Shards[0], nil
}

// freezeHolder stops the lock holder where it is, perhaps in the middle of a flush, until another
// one has the lock, and lets it go on.
func (f *faults) freezeHolder(ctx context.Context) error {
	in, err := f.holder(ctx, "")
	if err != nil {
		return err
	}
	before, err := f.fenced(ctx, in)
	if err != nil {
		return err
	}
	start := time.Now()
	f.d.event(f.d.out.Bad("SIGSTOP")+": %s, which holds the lock, is frozen", in)
	if err := in.freeze(); err != nil {
		return err
	}
	f.freezes++
	next, err := f.holder(ctx, in.name())
	if err == nil {
		f.d.event("%s holds the lock now, %s after", next, tenths(time.Since(start)))
		err = sleep(ctx, time.Second) // both have something to flush
	}
	thawed := time.Now()
	if err := errors.Join(in.thaw(), err); err != nil {
		return err
	}
	f.d.event("SIGCONT: %s goes on, and believes that it holds the lock", in)
	err = until(ctx, func() (bool, error) {
		shard, err := f.shard(ctx, in)
		return !shard.HoldsLock || shard.HeldSince.After(thawed), err
	})
	if err == nil {
		err = sleep(ctx, time.Second) // a flush that it was in goes on, too
	}
	if err != nil {
		return err
	}
	after, err := f.fenced(ctx, in)
	if err != nil {
		return err
	}
	found := "its lock is lost"
	if after > before {
		found += fmt.Sprintf("; flushes of it that Postgres has fenced off: %d", after-before)
	}
	f.d.event("%s has found out: %s", in, found)
	return nil
}

// fenced returns how often a flush of the process was rolled back because another one had claimed
// its batches.
func (f *faults) fenced(ctx context.Context, in *instance) (n int, err error) {
	err = f.get(ctx, in, "/metrics", func(r io.Reader) error {
		lines := bufio.NewScanner(r)
		for lines.Scan() {
			if value, found := strings.CutPrefix(lines.Text(), "spendflush_flushes_fenced_total "); found {
				n, err = strconv.Atoi(value)
				return err
			}
		}
		return errors.Join(lines.Err(), errors.New("it has no metric of fenced flushes"))
	})
	return n, err
}

func (f *faults) get(ctx context.Context, in *instance, path string, read func(io.Reader) error) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, in.address()+path, nil)
	if err != nil {
		return err
	}
	response, err := f.d.clients.http.Do(r)
	if err != nil {
		return fmt.Errorf("%s: %w", in, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: GET %s: %s", in, path, response.Status)
	}
	return read(response.Body)
}

// redisView is Redis as the instances use it.
type redisView struct {
	client redis.UniversalClient
	root   *redisqueue.Queue
	queue  *redisqueue.Queue // of the books
	locker *redislock.Locker // of the books
}

func viewRedis(url string) (*redisView, error) {
	client, err := redisqueue.Dial(url)
	if err != nil {
		return nil, err
	}
	queue, err := redisqueue.New(client, redisqueue.Options{})
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	locker, err := redislock.New(client, "demo", redislock.Options{})
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	return &redisView{client, queue, queue, locker}, nil
}

// of has it look at these books.
func (v *redisView) of(id spend.BooksID) { v.queue, v.locker = v.root.Of(id), v.locker.Of(id) }

func (v *redisView) close() {
	_ = v.client.Close()
	v.queue.Wait()
	v.locker.Wait()
}

// holder returns the name of the process that holds the lock, "" if none does.
func (v *redisView) holder(ctx context.Context) (string, error) {
	holder, err := v.locker.Holder(ctx, "flush/0")
	return holder.Owner, err
}

// flushAll empties Redis and returns how many batches were in it.
func (v *redisView) flushAll(ctx context.Context) (batches int64, err error) {
	stats, err := v.queue.Stats(ctx, 0)
	if err != nil {
		return 0, err
	}
	return stats.Batches, v.client.FlushAll(ctx).Err()
}

func tenths(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }
