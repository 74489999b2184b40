package integration

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// tenOptions say how large a run of many instances is.
type tenOptions struct {
	updates, clients, most int
	settings               []string
}

func TestTenInstancesUnderMixedTrafficBookEveryUpdateOnce(t *testing.T) {
	tenInstances(t, tenOptions{updates: 60_000, clients: 16, most: 600})
}

func TestTenInstancesWithFourShardsBookEveryUpdateOnce(t *testing.T) {
	tenInstances(t, tenOptions{updates: 30_000, clients: 16, most: 200, settings: []string{"SPENDFLUSH_SHARDS=4"}})
}

func tenInstances(t *testing.T, o tenOptions) {
	const connections = 4
	s := newStack(t)
	// The lock of a holder that has to wait for a processor shouldn't expire: at most one instance
	// writes at a time.
	settings := append([]string{fmt.Sprint("SPENDFLUSH_MAX_CONNECTIONS=", connections), "SPENDFLUSH_LOCK_TTL=20s"}, o.settings...)
	instances := s.startAll(10, settings...)
	watch := observe(t, s, instances)

	start := time.Now()
	_, booked, _ := startLoad(t, instances, loadOptions{
		clients: o.clients, updates: o.updates, most: o.most, credits: true,
		acks: []string{"accepted", "accepted", "accepted", "queued", "committed"},
	}).stop()
	awaitCommitted(t, instances)
	took := time.Since(start)
	watch.stop()
	watch.checkOneHolder()
	shards := s.number("SELECT count(DISTINCT shard) FROM spendflush.producers")
	if watch.connections > int64(connections*len(instances)) {
		t.Errorf("%d connections to Postgres at a time; allowed are %d for each of %d instances", watch.connections, connections, len(instances))
	}
	if watch.writers > shards {
		t.Errorf("%d transactions wrote at a time, with %d shards", watch.writers, shards)
	}
	s.checkBatches(instances)
	for _, in := range instances {
		in.checkMetrics()
	}

	// What arrives in the last moment before the signal has to be drained too.
	_, last, _ := startLoad(t, instances, loadOptions{clients: 2, updates: 2000, most: 100, acks: []string{"accepted"}, prefix: "late-"}).stop()
	stopAll(instances)
	// A stop waits some seconds for commits, which a busy machine may not have made: what is in the
	// queue is safe there.
	mustRun(t, 0, append(s.variables(), o.settings...), "flush")
	booked.join(last)
	if booked.updates < int64(o.updates) {
		t.Errorf("only %d updates were sent", booked.updates)
	}
	s.check(booked)
	s.checkQuiet(int(shards))
	s.audit()
	for _, in := range instances {
		s.checkSecrets(in.process)
	}
	t.Logf("%d updates in %s; %d entities, %d series and hours, %d rows of daily_spend", booked.updates, took.Round(time.Millisecond),
		len(booked.entities), len(booked.hours), len(booked.days))
}

// checkBatches compares what the instances say they sealed and committed with the producers' marks:
// a batch that two flushers committed would be counted twice.
func (s *stack) checkBatches(instances []*instance) {
	s.t.Helper()
	var sealed, committed, fenced float64
	for _, in := range instances {
		m := in.metrics()
		sealed += m.sum("spendflush_batches_sealed_total")
		committed += m.sum("spendflush_batches_committed_total")
		fenced += m.sum("spendflush_flushes_fenced_total")
	}
	marks := float64(s.number("SELECT sum(sequence)::bigint FROM spendflush.producers"))
	if sealed != marks || committed != marks {
		s.t.Errorf("%v batches sealed, %v committed, and the marks add up to %v", sealed, committed, marks)
	}
	s.t.Logf("%v batches; %v flushes gave way to another", marks, fenced)
}

// checkQuiet checks what is left when all instances have stopped: no batch, no lock, no deadlock.
func (s *stack) checkQuiet(shards int) {
	s.t.Helper()
	client := s.redisClient()
	for shard := range shards {
		if n := client.XLen(s.t.Context(), s.queueKey(shard)).Val(); n != 0 {
			s.t.Errorf("%d batches are left in the queue of shard %d", n, shard)
		}
		if n := client.Exists(s.t.Context(), s.lockKey(shard)).Val(); n != 0 {
			s.t.Errorf("the lock of shard %d is left", shard)
		}
	}
	name := query(s.t, s.postgres, pgx.RowTo[string], "SELECT current_database()")[0]
	if n := s.number("SELECT deadlocks FROM pg_stat_database WHERE datname = $1", name); n != 0 {
		s.t.Errorf("%d deadlocks", n)
	}
	if n := s.number("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = $1)", name); n != 0 {
		s.t.Errorf("%d advisory locks are left", n)
	}
}

func TestInstancesWithDifferentShardCountsSideBySideBookEveryUpdateOnce(t *testing.T) {
	s := newStack(t)
	instances := []*instance{
		s.start("one", "SPENDFLUSH_SHARDS=1"), s.start("four", "SPENDFLUSH_SHARDS=4"), s.start("three", "SPENDFLUSH_SHARDS=3"),
	}
	_, booked, _ := startLoad(t, instances, loadOptions{clients: 12, updates: 20_000, most: 200}).stop()
	awaitCommitted(t, instances)
	stopAll(instances)
	s.check(booked)
	s.audit()
}

func TestTenInstancesThatStartAtOnceOnAnEmptyDatabaseAllBecomeReady(t *testing.T) {
	s := newStack(t)
	instances := s.startAll(10)
	_, booked, _ := startLoad(t, instances, loadOptions{clients: 2, updates: 1000, most: 20}).stop()
	// One that leaves early must not take the others' schema or lock with it.
	instances[0].signal(syscall.SIGTERM)
	stopAll(instances[1:])
	if status := instances[0].wait(); status != 0 {
		t.Errorf("the first: exit status %d", status)
	}
	s.check(booked)
	mustRun(t, 0, s.variables(), "migrate", "status")
	mustRun(t, 0, s.variables(), "migrate", "up")
}
