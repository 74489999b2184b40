package integration

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/migrations"
	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/pgstore"
)

// faultLoad is traffic that goes on while something breaks. Every request has to succeed, however
// long it takes.
func faultLoad() loadOptions { return loadOptions{clients: 8, most: 20, pace: 10 * time.Millisecond} }

// committed returns how many batches the instances have committed in this way: "queue" or "direct".
func committed(instances []*instance, path string) (batches float64) {
	for _, in := range instances {
		batches += in.metrics().sum("spendflush_batches_committed_total", fmt.Sprintf("path=%q", path))
	}
	return batches
}

// awaitMore waits until the instances have committed more batches in this way than at the call.
func awaitMore(t testing.TB, instances []*instance, path string, more float64) {
	t.Helper()
	before := committed(instances, path)
	eventually(t, "batches are committed by "+path, func() string {
		if now := committed(instances, path); now < before+more {
			return fmt.Sprintf("%v so far", now-before)
		}
		return ""
	})
}

// finish ends the loads, drains the instances and compares the books.
func (s *stack) finish(instances []*instance, loads ...*load) {
	s.t.Helper()
	recorded := newBook()
	for _, l := range loads {
		_, r, _ := l.stop()
		recorded.join(r)
	}
	stopAll(instances)
	s.check(recorded)
	s.audit()
	for _, in := range instances {
		s.checkSecrets(in.process)
	}
	s.t.Logf("%d updates", recorded.updates)
}

func TestRedisAbsentAtTheStartDelaysNothing(t *testing.T) {
	t.Parallel()
	server := testserver.NewRedis(t)
	s := stackOn(t, testserver.Postgres(t), server.URL())
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	instances := s.startAll(2)
	l := startLoad(t, instances, faultLoad())
	awaitMore(t, instances, "direct", 5)
	restart(t, server.Restart)
	awaitMore(t, instances, "queue", 5)
	s.finish(instances, l)
}

func TestRedisKilledUnderLoadAndBackLosesNothing(t *testing.T) {
	t.Parallel()
	server := testserver.NewRedis(t)
	s := stackOn(t, testserver.Postgres(t), server.URL())
	instances := s.startAll(3)
	l := startLoad(t, instances, faultLoad())
	for range 2 {
		awaitMore(t, instances, "queue", 5)
		if err := server.Kill(); err != nil {
			t.Fatal(err)
		}
		awaitMore(t, instances, "direct", 5)
		restart(t, server.Restart)
	}
	awaitMore(t, instances, "queue", 5)
	eventually(t, "nobody writes directly any more", func() string {
		for _, in := range instances {
			if in.metrics().sum("spendflush_fallback_active") != 0 {
				return in.name + " does"
			}
		}
		return ""
	})
	s.finish(instances, l)
}

func TestRedisThatHangsUnderLoadLosesNothing(t *testing.T) {
	t.Parallel()
	server := testserver.NewRedis(t)
	s := stackOn(t, testserver.Postgres(t), server.URL())
	instances := s.startAll(2, "SPENDFLUSH_LOCK_TTL=1s")
	l := startLoad(t, instances, faultLoad())
	awaitMore(t, instances, "queue", 5)
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	awaitMore(t, instances, "direct", 1)
	if err := server.Resume(); err != nil {
		t.Fatal(err)
	}
	awaitMore(t, instances, "queue", 5)
	s.finish(instances, l)
}

func TestRedisSwitchedOffWritesDirectlyAndExactly(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	instances := s.startAll(3, "USE_REDIS_TRANSACTION_BUFFER=false", "REDIS_URL=")
	l := startLoad(t, instances, loadOptions{clients: 6, updates: 6000, most: 200})
	_, recorded, _ := l.stop()
	if n := committed(instances, "queue"); n != 0 {
		t.Errorf("%v batches came out of a queue", n)
	}
	stopAll(instances)
	s.check(recorded)
	s.audit()
	if n := s.redisClient().DBSize(t.Context()).Val(); n != 0 {
		t.Errorf("%d keys in Redis", n)
	}
}

func TestFlushAllUnderLoadLosesNothing(t *testing.T) {
	t.Parallel()
	flushAllUnderLoad(t, 20, 200*time.Millisecond)
}

func flushAllUnderLoad(t *testing.T, times int, every time.Duration) {
	server := testserver.NewRedis(t)
	s := stackOn(t, testserver.Postgres(t), server.URL())
	instances := s.startAll(3)
	l := startLoad(t, instances, faultLoad())
	awaitMore(t, instances, "queue", 3)
	client := s.redisClient()
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	lost := int64(0)
	for range times {
		<-ticker.C
		lost += client.XLen(t.Context(), s.queueKey(0)).Val()
		if err := client.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if lost == 0 {
		t.Error("the queue was empty at each FLUSHALL: nothing was tried")
	}
	s.finish(instances, l)
	t.Logf("%d batches were in the queue when it was flushed", lost)
}

func TestKilledInstanceLosesAtMostItsOpenMap(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	instances := s.startAll(3, "SPENDFLUSH_LOCK_TTL=1s")
	victim, survivors := instances[1], instances[:1:1]
	survivors = append(survivors, instances[2])
	ofSurvivors := startLoad(t, survivors, faultLoad())
	options := faultLoad()
	options.prefix, options.mayFail = "victim-", true
	ofVictim := startLoad(t, []*instance{victim}, options)
	awaitMore(t, instances, "queue", 10)
	victim.kill()
	sent, recorded, safe := ofVictim.stop()
	if safe.updates == 0 {
		t.Error("nothing was acknowledged as queued before the kill")
	}
	awaitMore(t, survivors, "queue", 3)
	_, exact, _ := ofSurvivors.stop()
	stopAll(survivors)

	got := s.readEntities()
	victims := map[entity]sums{}
	for e, x := range got {
		if _, ok := sent.entities[e]; ok {
			victims[e] = x
			delete(got, e)
		}
	}
	compare(t, "spend of survivors", exact.entities, got)
	var requests int64
	for e, most := range sent.entities {
		least, x := safe.entities[e], victims[e]
		if !least.atMost(x) || !x.atMost(most) {
			t.Errorf("%+v:\nacknowledged as queued %+v\n             in books %+v\n                 sent %+v", e, least, x, most)
		}
		if e.Type == "api_key" {
			requests += x.Requests
		}
	}
	s.checkNothingAside()
	s.audit()
	t.Logf("the killed one: %d updates sent, %d acknowledged, %d of them as queued; %d are in the books",
		sent.updates, recorded.updates, safe.updates, requests)
}

func TestPostgresKilledAndRestartedUnderLoadLosesNothing(t *testing.T) {
	t.Parallel()
	server := testserver.NewPostgres(t)
	s := stackOn(t, server.URL("postgres"), testserver.Redis(t))
	instances := s.startAll(3, "SPENDFLUSH_SHUTDOWN_TIMEOUT=60s")
	// Those that wait for an acknowledgement send nothing meanwhile, so others don't wait.
	hasty, patient := faultLoad(), faultLoad()
	hasty.clients = 2
	hasty.acks, patient.acks = []string{"accepted"}, []string{"queued", "committed"}
	loads := []*load{startLoad(t, instances, hasty), startLoad(t, instances, patient)}
	for _, crash := range []bool{true, false} {
		awaitMore(t, instances, "queue", 5)
		if crash {
			if err := server.Kill(); err != nil {
				t.Fatal(err)
			}
			// Updates are taken while there is no Postgres.
			before := accepted(instances)
			eventually(t, "updates are accepted", func() string {
				if n := accepted(instances) - before; n < 200 {
					return fmt.Sprintf("%v so far", n)
				}
				return ""
			})
		}
		restart(t, server.Restart)
	}
	awaitMore(t, instances, "queue", 5)
	s.finish(instances, loads...)
}

func accepted(instances []*instance) (updates float64) {
	for _, in := range instances {
		updates += in.metrics().sum("spendflush_updates_accepted_total")
	}
	return updates
}

func restart(t testing.TB, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := f(ctx); err != nil {
		t.Fatal(err)
	}
}

// The names of our keys in Redis are documented for people who look, so they are written out here.
func (s *stack) queueKey(shard int) string { return s.tag(shard) + ":queue" }
func (s *stack) lockKey(shard int) string  { return s.tag(shard) + ":lock:flush" }
func (s *stack) tag(shard int) string      { return fmt.Sprintf("{spendflush:%s:%d}", s.books(), shard) }

// books returns which books the stack's database has, which is made for that if need be.
func (s *stack) books() spend.BooksID {
	s.t.Helper()
	if s.id.IsZero() {
		ctx := context.WithoutCancel(s.t.Context()) // also while a test is cleaned up
		if _, err := migrations.Up(ctx, s.postgres); err != nil {
			s.t.Fatal(err)
		}
		store, err := pgstore.Open(ctx, s.postgres, pgstore.Options{MaxConns: 1})
		if err != nil {
			s.t.Fatal(err)
		}
		defer store.Close()
		if s.id, err = store.Books(ctx); err != nil {
			s.t.Fatal(err)
		}
	}
	return s.id
}

// redisClient returns a client of the stack's Redis.
func (s *stack) redisClient() *redis.Client {
	s.t.Helper()
	o, err := redis.ParseURL(s.redis)
	if err != nil {
		s.t.Fatal(err)
	}
	client := redis.NewClient(o)
	s.t.Cleanup(func() { client.Close() })
	return client
}
