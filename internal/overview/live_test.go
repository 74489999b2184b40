package overview

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/lockers/memlock"
	"github.com/spendflush/spendflush/lockers/pglock"
	"github.com/spendflush/spendflush/lockers/redislock"
	"github.com/spendflush/spendflush/migrations"
	"github.com/spendflush/spendflush/queues/redisqueue"
	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/pgstore"
)

func TestMain(m *testing.M) { testserver.Main(m) }

// site is a Postgres and a Redis that instances run on.
type site struct {
	t          testing.TB
	store      *pgstore.Store
	client     redis.UniversalClient
	queue      *redisqueue.Queue
	heartbeats *redisqueue.Heartbeats
	id         spend.BooksID
}

func newSite(t testing.TB, databaseURL, redisURL string) *site {
	t.Helper()
	store, err := pgstore.Open(t.Context(), databaseURL, pgstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	client, err := redisqueue.Dial(redisURL)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{
		t: t, store: store, client: client,
		queue: testserver.Must(redisqueue.New(client, redisqueue.Options{})), heartbeats: testserver.Must(redisqueue.NewHeartbeats(client, redisqueue.HeartbeatOptions{})),
	}
	t.Cleanup(func() {
		client.Close()
		s.queue.Wait()
		s.heartbeats.Wait()
		store.Close()
	})
	return s
}

func (s *site) migrate(databaseURL string) {
	s.t.Helper()
	if _, err := migrations.Up(s.t.Context(), databaseURL); err != nil {
		s.t.Fatal(err)
	}
	var err error
	if s.id, err = s.store.Books(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	s.queue, s.heartbeats = s.queue.Of(s.id), s.heartbeats.ForBooks(s.id) // also for pods that don't run, and so don't ask
}

// pod is an instance.
type pod struct {
	*Live
	pipeline *spendflush.Pipeline
	run      func()
	leave    func() // a clean stop of Publish
}

func (s *site) pod(name string) *pod {
	s.t.Helper()
	locker := testserver.Must(redislock.New(s.client, name, redislock.Options{}))
	pipeline, err := spendflush.New(spendflush.Config{
		Store: s.store, Queue: s.queue, Locker: locker, DirectLocker: pglock.New(s.store.Pool(), name), Instance: name,
		SealInterval: 5 * time.Millisecond, FlushInterval: 10 * time.Millisecond,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	live := NewLive(s.sources(locker), pipeline, LiveOptions{Version: "v1", Deadlocks: func() int64 { return s.store.Stats().Deadlocks }})
	ctx, cancel := context.WithCancel(context.Background())
	publishCtx, leave := context.WithCancel(ctx)
	published, ran := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(published)
		live.Publish(publishCtx)
	}()
	p := &pod{Live: live, pipeline: pipeline}
	started := false
	p.run = func() {
		started = true
		go func() {
			defer close(ran)
			_ = pipeline.Run(ctx)
		}()
	}
	p.leave = func() {
		leave()
		<-published
	}
	s.t.Cleanup(func() {
		cancel()
		<-published
		if started {
			<-ran
		}
		locker.Wait()
	})
	return p
}

func (s *site) sources(locker spend.Locker) Sources {
	return Sources{Books: s.store, Queue: s.queue, Locker: locker, Heartbeats: s.heartbeats, Shards: 1, QueueMaxBytes: 1 << 20}
}

func (p *pod) record(t testing.TB, n int) {
	t.Helper()
	for range n {
		u := spend.Update{Cost: spend.Cost{Spend: spend.Dollars(2)}, Series: spend.Series{TeamID: "t"}}
		if err := p.pipeline.Record(&u); err != nil {
			t.Fatal(err)
		}
	}
}

// await looks until what is wanted is so.
func await(t testing.TB, live *Live, what string, is func(r *Report) bool) *Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var last *Report
	for ctx.Err() == nil {
		r, err := live.Report(ctx)
		if err != nil {
			break
		}
		if last = r; is(r) {
			return r
		}
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
	text, _ := json.MarshalIndent(last, "", " ")
	t.Fatalf("not within 20 s: %s\n%s", what, text)
	return nil
}

func (r *Report) instance(name string) *Instance {
	for i := range r.Instances {
		if r.Instances[i].Instance == name {
			return &r.Instances[i]
		}
	}
	return &Instance{}
}

func TestEveryInstanceTellsOfAllInstancesTheirFlushesAndTheBooks(t *testing.T) {
	databaseURL := testserver.Postgres(t)
	s := newSite(t, databaseURL, testserver.Redis(t))
	a := s.pod("a")
	await(t, a.Live, "Postgres without tables", func(r *Report) bool {
		return r.Postgres.Up && !r.Postgres.Migrated && r.State == Bad && strings.Contains(r.Sentence, "tables are missing")
	})
	s.migrate(databaseURL)
	b := s.pod("b")
	b.record(t, 3)

	// Nothing runs yet: what b holds is seen by a, and gets older.
	r := await(t, a.Live, "b's updates", func(r *Report) bool { return r.instance("b").HeldUpdates == 3 && r.Behind > 0 })
	own, other := r.instance("a"), r.instance("b")
	if !own.Self || other.Self || !own.Alive || !other.Alive || !r.InstancesComplete || len(r.Instances) != 2 || other.Version != "v1" {
		t.Errorf("instances: %+v", r.Instances)
	}
	if other.HeldAmount != spend.Dollars(6) || other.Keys != 1 || other.Producer != b.pipeline.Producer().String() || other.StartedAt.IsZero() {
		t.Errorf("b: %+v", other)
	}
	if !r.Queue.Used || !r.Queue.Up || len(r.Queue.Shards) != 1 || r.Queue.MaxBytes != 1<<20 || len(r.Locks) != 1 {
		t.Errorf("queue %+v, locks %+v", r.Queue, r.Locks)
	}
	b.run()
	r = await(t, a.Live, "the flush by b, and up-to-date books", func(r *Report) bool {
		return len(r.Flushes) > 0 && r.Postgres.Updates == 3 && r.instance("b").HeldUpdates == 0 && r.State == OK
	})
	if f := r.Flushes[0]; f.Instance != "b" || f.Updates != 3 || f.Amount != spend.Dollars(6) || f.Batches < 1 || f.Rows < 2 || f.Path != "queue" {
		t.Errorf("flush: %+v", f)
	}
	if r.Postgres.Amount != spend.Dollars(6) || r.Postgres.Version == "" || r.Postgres.Connections < 1 || r.Postgres.MaxConnections < 1 {
		t.Errorf("Postgres: %+v", r.Postgres)
	}

	// An audit is known to all, whoever made it; quarantined entries are counted.
	if _, err := s.store.Pool().Exec(t.Context(), "INSERT INTO spendflush.last_audit (claimed_at, as_of, ok, seconds, failed) VALUES (now(), now(), true, 0.5, '')"); err != nil {
		t.Fatal(err)
	}
	if err := s.store.Quarantine(t.Context(), []spend.BadBatch{{Reason: "for the test", Bytes: []byte("x")}}); err != nil {
		t.Fatal(err)
	}
	await(t, a.Live, "the audit and the quarantined entry", func(r *Report) bool {
		return r.LastAudit != nil && r.LastAudit.OK && r.LastAudit.Took == 0.5 && r.Quarantined == 1 && r.State == Warn
	})

	// Another instance holds the lock, and says since when.
	held, err := testserver.Must(redislock.New(s.client, "b", redislock.Options{})).Of(s.id).Acquire(t.Context(), "flush/0")
	if err != nil {
		t.Fatal(err)
	}
	await(t, a.Live, "the holder", func(r *Report) bool { return r.Locks[0].Holder == "b" && r.Locks[0].Held == nil })
	if err := held.Release(t.Context()); err != nil {
		t.Fatal(err)
	}

	// Who stops in an orderly way isn't missed.
	b.leave()
	await(t, a.Live, "b left", func(r *Report) bool { return len(r.Instances) == 1 && r.InstancesComplete })
}

func TestAnInstanceThatIsNotHeardFromIsMissedUnlessItsSuccessorRuns(t *testing.T) {
	s := newSite(t, testserver.Postgres(t), testserver.Redis(t))
	a := s.pod("a")
	a.leave()
	old := &record{Instance: Instance{Instance: "b", Producer: "1", StartedAt: time.Now().Add(-time.Hour), HeldUpdates: 4}}
	entry := func(one *record, age time.Duration) redisqueue.Heartbeat {
		text, err := json.Marshal(one)
		if err != nil {
			t.Fatal(err)
		}
		return redisqueue.Heartbeat{ID: one.Instance.Producer, Age: age, Record: text}
	}
	heartbeats := &fixedHeartbeats{list: []redisqueue.Heartbeat{entry(old, AliveFor), {ID: "x", Record: []byte(`{"instance": 7}`)}}}
	sources := s.sources(nil)
	sources.Heartbeats = heartbeats
	r := Collect(t.Context(), sources)
	if in := r.instance("b"); in.Alive || len(r.Instances) != 1 || !r.InstancesComplete || len(r.Locks) != 0 {
		t.Errorf("instances %+v", r.Instances)
	}
	if p := r.Problems[len(r.Problems)-1]; p.Runbook != runGone || !strings.Contains(p.What, "4 updates held") {
		t.Errorf("problems %+v", r.Problems)
	}
	// Newer versions may tell more.
	locker := memlock.New("b")
	if _, err := locker.Acquire(t.Context(), "flush/0"); err != nil {
		t.Fatal(err)
	}
	sources.Locker = locker
	next := redisqueue.Heartbeat{ID: "2", Age: time.Second, Record: fmt.Appendf(nil,
		`{"instance":{"instance":"b","producer":"2","started_at":%q,"held_updates":1,"holds_shards":null,"new":{}},"newer":[1],"holds":[{"shard":0,"held_seconds":3},{"shard":9,"held_seconds":3}]}`,
		time.Now().Format(time.RFC3339))}
	heartbeats.list = append(heartbeats.list, next)
	r = Collect(t.Context(), sources)
	if in := r.instance("b"); !in.Alive || in.HeldUpdates != 1 || len(r.Instances) != 1 || in.HoldsShards == nil {
		t.Errorf("instances %+v", r.Instances)
	}
	if l := r.Locks; len(l) != 1 || l[0].Holder != "b" || l[0].Held == nil || *l[0].Held != 4 {
		t.Errorf("locks %+v", l)
	}
}

// fixedHeartbeats has what a test wants: a real one would take its time.
type fixedHeartbeats struct {
	Heartbeats
	list []redisqueue.Heartbeat
}

func (f *fixedHeartbeats) List(context.Context) ([]redisqueue.Heartbeat, time.Time, error) {
	return f.list, time.Now(), nil
}

func TestWithRedisOrPostgresAwayTheReportSaysSoAndKnowsTheRest(t *testing.T) {
	databaseURL := testserver.Postgres(t)
	s := newSite(t, databaseURL, testserver.Redis(t))
	s.migrate(databaseURL)
	away := newSite(t, "postgres://nobody:hunter2@127.0.0.1:1/nothing", "redis://:hunter2@127.0.0.1:1")

	sources := s.sources(nil)
	sources.Books = away.store
	r := Collect(t.Context(), sources)
	if r.Postgres.Up || r.Postgres.Error == "" || !r.Queue.Up || r.State != Bad || !r.InstancesComplete {
		t.Errorf("without Postgres: %+v", r)
	}
	sources = away.sources(memlock.New("x"))
	sources.Books = s.store
	r = Collect(t.Context(), sources)
	if !r.Postgres.Up || !r.Queue.Used || r.Queue.Up || r.Queue.Error == "" || r.InstancesComplete || r.State != Bad || len(r.Locks) != 0 {
		t.Errorf("without Redis: %+v", r)
	}
	text, err := json.Marshal(r)
	if err != nil || strings.Contains(string(text), "hunter2") {
		t.Errorf("%v %s", err, text)
	}
	for _, list := range []string{"instances", "locks", "flushes", "problems", "shards"} {
		if !strings.Contains(string(text), `"`+list+`":[`) {
			t.Errorf("%s is no list: %s", list, text)
		}
	}
	// Only Postgres is needed.
	r = Collect(t.Context(), Sources{Books: s.store})
	if r.State != OK || r.Queue.Used || r.InstancesComplete || r.Sentence != "Books exact and up to date." {
		t.Errorf("without a queue: %+v", r)
	}
}
