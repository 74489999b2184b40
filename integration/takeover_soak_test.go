//go:build soak

package integration

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spendflush/spendflush/internal/lab/testserver"
)

const takeovers = 10

// commitsOf returns when flushes of shard 0 were committed, and those by the queue alone, by the
// logs.
func commitsOf(instances []*instance) (all, queued []time.Time) {
	for _, in := range instances {
		for line := range strings.Lines(in.stderr.String()) {
			var entry struct {
				Time      time.Time
				Msg, Path string
				Shard     int
			}
			if !strings.Contains(line, `"msg":"flushed"`) || json.Unmarshal([]byte(line), &entry) != nil || entry.Shard != 0 {
				continue
			}
			all = append(all, entry.Time)
			if entry.Path == "queue" {
				queued = append(queued, entry.Time)
			}
		}
	}
	return all, queued
}

// gapAfter returns the longest time without a commit that began at most a second before the fault,
// and how long it took until batches came through the queue again. Zero: not yet.
func gapAfter(instances []*instance, fault time.Time) (gap, queue time.Duration) {
	all, queued := commitsOf(instances)
	slices.SortFunc(all, time.Time.Compare)
	for i := 1; i < len(all); i++ {
		if all[i].After(fault) && all[i-1].After(fault.Add(-time.Second)) {
			gap = max(gap, all[i].Sub(all[i-1]))
		}
	}
	slices.SortFunc(queued, time.Time.Compare)
	const underWay = 300 * time.Millisecond // what was read before the fault may be committed after it
	for _, at := range queued {
		if at.After(fault.Add(underWay)) {
			return gap, at.Sub(fault)
		}
	}
	return gap, 0
}

// measure makes the fault ten times and prints how long commits took to go on.
func measure(t *testing.T, name string, instances func() []*instance, fault, heal func()) {
	t.Helper()
	measureSince(t, name, instances, func() time.Time {
		at := time.Now()
		fault()
		return at
	}, heal)
}

// measureSince is measure where the time counts from the moment that fault returns.
func measureSince(t *testing.T, name string, instances func() []*instance, fault func() time.Time, heal func()) {
	t.Helper()
	var gaps, queues []time.Duration
	for range takeovers {
		at := fault()
		var gap, queue time.Duration
		eventually(t, "flushes by the queue", func() string {
			if gap, queue = gapAfter(instances(), at); queue == 0 {
				return "none"
			}
			return ""
		})
		gaps, queues = append(gaps, gap), append(queues, queue)
		t.Logf("%s, run %d: %.2f s without a commit, %.2f s until the queue", name, len(gaps), gap.Seconds(), queue.Seconds())
		heal()
	}
	t.Logf("| %s | %s | %s |", name, cells(gaps), cells(queues))
}

// cells returns the least, the median and the most, as cells of a table.
func cells(d []time.Duration) string {
	slices.Sort(d)
	return fmt.Sprintf("%.1f | %.1f | %.1f", d[0].Seconds(), d[len(d)/2].Seconds(), d[len(d)-1].Seconds())
}

func TestSoakTimeFromAFaultToTheNextCommitCluster(t *testing.T) {
	x := newClusterRig(t)
	killed := 0
	measure(t, "Cluster: master killed", func() []*instance { return x.instances }, func() {
		killed = x.cluster.MasterOf(x.tag(0))
		x.must(x.cluster.Servers[killed].Kill())
	}, func() {
		restart(t, x.cluster.Servers[killed].Restart)
		x.cluster.AwaitHealthy(t.Context())
		x.awaitAll()
	})
	x.end()
}

func TestSoakTimeFromAFaultToTheNextCommitSentinel(t *testing.T) {
	sentinels := testserver.NewRedisSentinels(t)
	s := stackOn(t, testserver.Postgres(t), sentinels.URL())
	instances := s.startAll(2, "SPENDFLUSH_LOCK_TTL=1s")
	l := startLoad(t, instances, faultLoad())
	awaitMore(t, instances, "queue", 5)
	master := 0
	measure(t, "Sentinel: master killed", func() []*instance { return instances }, func() {
		if err := sentinels.Servers[master].Kill(); err != nil {
			t.Fatal(err)
		}
	}, func() {
		sentinels.AwaitMaster(t.Context(), 1-master)
		restart(t, sentinels.Servers[master].Restart)
		sentinels.AwaitHealthy(t.Context())
		master = 1 - master
		awaitMore(t, instances, "queue", 5)
	})
	s.finish(instances, l)
}

// What is done on purpose leaves all connections to the old master open: it answers READONLY or
// MOVED.
func TestSoakTimeFromAFaultToTheNextCommitClusterOnPurpose(t *testing.T) {
	x := newClusterRig(t)
	replica := 0
	measure(t, "Cluster: CLUSTER FAILOVER", func() []*instance { return x.instances }, func() {
		replica = x.cluster.ReplicaOf(x.cluster.MasterOf(x.tag(0)))
		x.must(x.cluster.Client(replica).ClusterFailover(t.Context()).Err())
	}, func() {
		eventually(t, "the replica is master", func() string {
			if now := x.cluster.MasterOf(x.tag(0)); now != replica {
				return fmt.Sprintf("%d is", now)
			}
			return ""
		})
		x.cluster.AwaitHealthy(t.Context())
		x.awaitAll()
	})
	x.end()
}

func TestSoakTimeFromAFaultToTheNextCommitSentinelOnPurpose(t *testing.T) {
	sentinels := testserver.NewRedisSentinels(t)
	s := stackOn(t, testserver.Postgres(t), sentinels.URL())
	instances := s.startAll(2)
	l := startLoad(t, instances, faultLoad())
	awaitMore(t, instances, "queue", 5)
	master := 0
	measure(t, "Sentinel: SENTINEL FAILOVER", func() []*instance { return instances }, func() {
		sentinels.Failover(t.Context())
	}, func() {
		sentinels.AwaitMaster(t.Context(), 1-master)
		sentinels.AwaitHealthy(t.Context())
		master = 1 - master
		awaitMore(t, instances, "queue", 5)
	})
	s.finish(instances, l)
}

// One address leads to the new master from the moment of the change; all connections lead to what
// is a replica then.
func TestSoakTimeFromAFaultToTheNextCommitReadOnly(t *testing.T) {
	p := newRedisPair(t)
	s := stackOn(t, testserver.Postgres(t), p.url())
	instances := s.startAll(2)
	l := startLoad(t, instances, faultLoad())
	awaitMore(t, instances, "queue", 5)
	measure(t, "Redis behind one address: the replica takes over, connections stay open", func() []*instance { return instances }, func() {
		p.leadTo(1 - p.master)
		p.change()
	}, func() {
		p.awaitReplica()
		awaitMore(t, instances, "queue", 5)
	})
	s.finish(instances, l)
}

// The time that the old primary takes to stop, and the standby to be promoted, is in the first row.
// The second one counts from the moment that the new primary takes writes: the five seconds of the
// contract do so.
func TestSoakTimeFromAFaultToTheNextCommitPostgres(t *testing.T) {
	c := newCouple(t, testserver.NewPostgres(t))
	s := stackOn(t, c.primary.URL(""), testserver.Redis(t))
	instances := s.startAll(2, "DATABASE_URL="+named(t, c.primary, c.standby))
	l := startLoad(t, instances, faultLoad())
	awaitMore(t, instances, "queue", 5)
	var promoted []time.Time
	measure(t, "Postgres: switched over", func() []*instance { return instances }, func() {
		begun := time.Now()
		promoted = append(promoted, c.stopAndPromote())
		t.Logf("the stop and the promotion took %d ms", time.Since(begun).Milliseconds())
	}, func() {
		c.follow()
		awaitCaughtUp(t, c)
		awaitMore(t, instances, "queue", 5)
	})
	all, _ := commitsOf(instances)
	slices.SortFunc(all, time.Time.Compare)
	var since []time.Duration
	for _, at := range promoted {
		next := slices.IndexFunc(all, at.Before) // there is one: measure has waited for it
		since = append(since, all[next].Sub(at))
	}
	t.Logf("| Postgres: switched over, since the new primary takes writes | %s |", cells(since))
	c.finish(s, instances, l)
}

func TestSoakTimeFromAFaultToTheNextCommitHolder(t *testing.T) {
	for _, ttl := range []string{"800ms", "3s", "1s", "500ms"} {
		s := newStack(t)
		client := s.redisClient()
		instances := s.startAll(3, "SPENDFLUSH_LOCK_TTL="+ttl)
		load := func() *load {
			o := faultLoad()
			o.mayFail = true
			l := startLoad(t, instances, o)
			awaitMore(t, instances, "queue", 5)
			return l
		}
		l, started := load(), 3
		measure(t, "lock holder killed, SPENDFLUSH_LOCK_TTL="+ttl, func() []*instance { return instances }, func() {
			holder := ""
			eventually(t, "a holder", func() string {
				value, err := client.Get(t.Context(), s.lockKey(0)).Result()
				holder, _, _ = strings.Cut(value, "#")
				return fmt.Sprint(map[bool]any{true: "", false: err}[holder != ""])
			})
			i := slices.IndexFunc(instances, func(in *instance) bool { return in.name == holder })
			instances[i].kill()
			instances = slices.Delete(slices.Clone(instances), i, i+1)
		}, func() {
			l.end()
			instances = append(slices.Clone(instances), s.start(fmt.Sprintf("pod-%d", started), "SPENDFLUSH_LOCK_TTL="+ttl))
			started++
			l = load()
		})
		l.end()
		stopAll(instances)
	}
}

// What a shorter lease costs: commands that Redis answers in ten seconds, and its processor time,
// under the same load.
func TestSoakCostOfALease(t *testing.T) {
	for _, shards := range []int{1, 4, 16} {
		for _, ttl := range []string{"3s", "800ms"} {
			s := stackOn(t, testserver.Postgres(t), testserver.NewRedis(t).URL())
			client := s.redisClient()
			instances := s.startAll(3, fmt.Sprint("SPENDFLUSH_SHARDS=", shards), "SPENDFLUSH_MAX_CONNECTIONS=40", "SPENDFLUSH_LOCK_TTL="+ttl)
			l := startLoad(t, instances, faultLoad())
			awaitMore(t, instances, "queue", 5)
			calls := func() (commands, renewals int64, cpu float64) {
				info := client.InfoMap(t.Context(), "stats", "cpu", "commandstats").Val()
				number := func(section, key string) (n float64) {
					_, err := fmt.Sscan(info[section][key], &n)
					if err != nil {
						t.Fatalf("%s %s: %v", section, key, err)
					}
					return n
				}
				var pexpires int64 // renewals call it, and heartbeats, twice a second for each instance
				fmt.Sscanf(info["Commandstats"]["cmdstat_pexpire"], "calls=%d", &pexpires)
				return int64(number("Stats", "total_commands_processed")), pexpires,
					number("CPU", "used_cpu_sys") + number("CPU", "used_cpu_user")
			}
			commands, renewals, cpu := calls()
			time.Sleep(10 * time.Second)
			commands2, renewals2, cpu2 := calls()
			t.Logf("| %d | %s | %.1f | %.0f | %.1f |", shards, ttl, float64(renewals2-renewals)/10-2*float64(len(instances)), float64(commands2-commands)/10, (cpu2-cpu)/10*100)
			l.end()
			stopAll(instances)
		}
	}
}
