package integration

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/redis/go-redis/v9"
)

// losesRedis notes that Redis is about to lose all its data: what ended runs have in there can't
// come again, and what running ones have can't either if they end before they have sent it again.
func (x *rig) losesRedis() {
	for _, r := range x.runs {
		r.exposed = r.exposed || !r.settled
	}
}

// redis runs f on a client past the proxies, and goes on trying while Redis can't be reached.
func (x *rig) redisDo(what string, f func(ctx context.Context, client *redis.Client) error) {
	x.t.Helper()
	x.await(what, patience, func() string {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := f(ctx, x.single); err != nil {
			return err.Error()
		}
		return ""
	})
}

// redisKilled is kill -9 of Redis and a new start, with all that it had acknowledged or with
// nothing.
type redisKilled struct{ empty bool }

func (f *redisKilled) begin(x *rig) {
	x.note("kill -9 Redis; its data are lost: %t", f.empty)
	if f.empty {
		x.losesRedis()
	}
	x.try("kill Redis", x.server.redis.Kill())
}

func (f *redisKilled) end(x *rig) {
	if f.empty {
		dir := x.server.redis.Dir()
		for _, name := range []string{"appendonlydir", "appendonly.aof", "dump.rdb"} {
			x.try("remove Redis's data", os.RemoveAll(filepath.Join(dir, name)))
		}
	}
	restart(x.t, x.server.redis.Restart)
}

// redisFlushed is FLUSHALL, a few times.
type redisFlushed struct{}

func (f *redisFlushed) begin(x *rig) {
	x.losesRedis()
	for range 1 + x.rng.IntN(4) {
		// At some moment at which something is queued; clients go on sending, so there is one.
		var batches int64
		for deadline := time.Now().Add(2 * time.Second); batches == 0 && time.Now().Before(deadline); {
			batches = x.client.XLen(context.Background(), x.queueKey(0)).Val()
		}
		x.redisDo("FLUSHALL", func(ctx context.Context, c *redis.Client) error { return c.FlushAll(ctx).Err() })
		x.note("FLUSHALL with %d entries in the queue", batches)
	}
}

func (f *redisFlushed) end(*rig) {}

// gapLeft is FLUSHALL while a batch of an instance is in the queue, and kill -9 of that instance
// once its next batch is there, before it has sent the lost one again: the next one waits behind a
// gap that nobody can fill.
type gapLeft struct{ victim *podRun }

func (f *gapLeft) begin(x *rig) {
	x.losesRedis()
	for deadline := time.Now().Add(3 * time.Second); f.victim == nil && time.Now().Before(deadline); {
		f.victim = x.anyQueued()
	}
	if f.victim == nil {
		f.victim = x.anyRun()
	}
	x.redisDo("FLUSHALL", func(ctx context.Context, c *redis.Client) error { return c.FlushAll(ctx).Err() })
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline) && !x.queued()[f.victim.producerID()]; {
		time.Sleep(2 * time.Millisecond)
	}
	x.kill(f.victim)
	left, err := x.unbooked()
	x.note("FLUSHALL, then kill -9 %s; in the queue are %d later batches of it (%v)", f.victim.name, left[f.victim.producerID()], err)
}

func (f *gapLeft) end(x *rig) { x.start(f.victim.place) }

// queued returns which producers have batches in the queue.
func (x *rig) queued() map[string]bool {
	producers := map[string]bool{}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = x.eachQueue(ctx, func(_ int, e redis.XMessage) { // no matter: Redis may be away
		producer, _ := e.Values["p"].(string)
		producers[producer] = true
	})
	return producers
}

// anyQueued returns an instance that has batches in the queue, nil if none has.
func (x *rig) anyQueued() *podRun {
	queued := x.queued()
	for _, r := range x.alive() {
		if queued[r.producerID()] {
			return r
		}
	}
	return nil
}

// lockDeleted takes the lock away from its holders, again and again, while the way to Postgres is
// slow: several instances flush the same batches at the same time, and only the claim decides.
type lockDeleted struct{}

func (f *lockDeleted) begin(x *rig) {
	for _, p := range x.places {
		p.slowPostgres(25 * time.Millisecond)
	}
	holders := map[string]bool{}
	deadline := time.After(2500 * time.Millisecond)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for done := false; !done; {
		select {
		case <-tick.C:
		case <-deadline:
			done = true
		}
		if r := x.holder(); r != nil {
			holders[r.name] = true
		}
		x.redisDo("DEL", func(ctx context.Context, c *redis.Client) error { return c.Del(ctx, x.lockKey(0)).Err() })
	}
	x.note("lock deleted every 100ms; %d instances held it meanwhile", len(holders))
}

func (f *lockDeleted) end(x *rig) {
	for _, p := range x.places {
		p.slowPostgres(0)
	}
}

// redisConfig is a setting with which Redis refuses writes.
type redisConfig struct{ name, bad, good string }

func (f *redisConfig) begin(x *rig) { f.set(x, f.bad) }
func (f *redisConfig) end(x *rig)   { f.set(x, f.good) }

func (f *redisConfig) set(x *rig, value string) {
	x.note("Redis: CONFIG SET %s %s", f.name, value)
	x.redisDo("CONFIG SET", func(ctx context.Context, c *redis.Client) error { return c.ConfigSet(ctx, f.name, value).Err() })
}

// redisReadOnly makes Redis the replica of a dead master, as after a failover, and then a master
// again.
type redisReadOnly struct{}

func (f *redisReadOnly) begin(x *rig) {
	x.note("Redis: REPLICAOF a dead address")
	x.redisDo("REPLICAOF", func(ctx context.Context, c *redis.Client) error { return c.ReplicaOf(ctx, "127.0.0.1", "1").Err() })
}

func (f *redisReadOnly) end(x *rig) {
	x.note("Redis: REPLICAOF NO ONE")
	x.redisDo("REPLICAOF", func(ctx context.Context, c *redis.Client) error { return c.ReplicaOf(ctx, "NO", "ONE").Err() })
}

// redisLoading is a restart of a Redis that has much to read before it serves anybody: it answers
// LOADING.
type redisLoading struct{}

func (f *redisLoading) begin(x *rig) {
	const script = `for i = 1, 100000 do redis.call('SET', 'torture:filler', i) end return 0`
	x.note("Redis restarted, with a long file to read")
	for range 4 {
		x.redisDo("fill", func(ctx context.Context, c *redis.Client) error { return c.Eval(ctx, script, nil).Err() })
	}
	x.try("kill Redis", x.server.redis.Kill())
	start := time.Now()
	restart(x.t, x.server.redis.Restart)
	x.note("Redis serves again after %s", time.Since(start).Round(time.Millisecond))
}

func (f *redisLoading) end(x *rig) {
	x.redisDo("rewrite", func(ctx context.Context, c *redis.Client) error {
		return c.BgRewriteAOF(ctx).Err()
	})
}

// redisPaused is a Redis that hangs.
type redisPaused struct{}

func (f *redisPaused) begin(x *rig) {
	x.note("SIGSTOP Redis")
	x.try("pause Redis", x.server.redis.Pause())
}

func (f *redisPaused) end(x *rig) { x.try("resume Redis", x.server.redis.Resume()) }
