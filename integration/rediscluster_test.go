package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/internal/overview"
)

const clusterShards = 4

// clusterRig is a Redis Cluster under load.
type clusterRig struct {
	*stack
	cluster   *testserver.RedisCluster
	instances []*instance
	load      *load
}

func newClusterRig(t *testing.T, args ...string) *clusterRig {
	t.Helper()
	c := testserver.NewRedisCluster(t, args...)
	x := &clusterRig{stack: stackOn(t, testserver.Postgres(t), c.URL()), cluster: c}
	x.instances = x.startAll(2, fmt.Sprint("SPENDFLUSH_SHARDS=", clusterShards), "SPENDFLUSH_LOCK_TTL=1s", "SPENDFLUSH_SHUTDOWN_TIMEOUT=60s")
	o := faultLoad()
	o.clients, o.most = 6, 10
	x.load = startLoad(t, x.instances, o)
	for shard := range clusterShards {
		awaitFlushes(t, x.instances, "queue", shard, 2)
	}
	return x
}

// flushes returns how often the instances have committed a flush of this shard in this way: "queue"
// or "direct".
func flushes(instances []*instance, path string, shard int) (n int) {
	for _, in := range instances {
		n += in.stderr.count(fmt.Sprintf(`"shard":%d,"path":%q,"producers"`, shard, path))
	}
	return n
}

// awaitFlushes waits until the instances have committed more flushes of the shard than at the call.
func awaitFlushes(t testing.TB, instances []*instance, path string, shard, more int) {
	t.Helper()
	before := flushes(instances, path, shard)
	eventually(t, fmt.Sprintf("flushes of shard %d by %s", shard, path), func() string {
		if now := flushes(instances, path, shard); now < before+more {
			return fmt.Sprintf("%d so far", now-before)
		}
		return ""
	})
}

// awaitAll waits until every shard goes through the queue again.
func (x *clusterRig) awaitAll() {
	x.t.Helper()
	for shard := range clusterShards {
		awaitFlushes(x.t, x.instances, "queue", shard, 2)
	}
}

func (x *clusterRig) must(err error) {
	x.t.Helper()
	if err != nil {
		x.t.Fatal(err)
	}
}

func (x *clusterRig) end() {
	x.t.Helper()
	x.finish(x.instances, x.load)
}

func TestARedisClusterThatFailsOverUnderLoadLosesNothing(t *testing.T) {
	t.Parallel()
	x := newClusterRig(t)
	c := x.cluster

	// The master is killed, and comes back as a replica.
	killed := c.MasterOf(x.tag(0))
	x.must(c.Servers[killed].Kill())
	c.MasterOf(x.tag(0), killed)
	x.awaitAll()
	restart(t, c.Servers[killed].Restart)
	c.AwaitHealthy(t.Context())

	// The master hangs, is replaced, and wakes up as an old one.
	frozen := c.MasterOf(x.tag(0))
	x.must(c.Servers[frozen].Pause())
	c.MasterOf(x.tag(0), frozen)
	x.awaitAll()
	x.must(c.Servers[frozen].Resume())
	x.awaitAll()
	c.AwaitHealthy(t.Context())

	// The replica takes over by agreement. All connections to the old master stay open.
	old := c.MasterOf(x.tag(0))
	replica := c.ReplicaOf(old)
	x.must(c.Client(replica).ClusterFailover(t.Context()).Err())
	eventually(t, "the replica is master", func() string {
		if now := c.MasterOf(x.tag(0)); now != replica {
			return fmt.Sprintf("%d is", now)
		}
		return ""
	})
	x.awaitAll()
	x.end()
}

func TestASlotThatMovesUnderLoadLosesNothing(t *testing.T) {
	t.Parallel()
	x := newClusterRig(t)
	c := x.cluster
	slot, err := c.Client(0).ClusterKeySlot(t.Context(), x.tag(0)).Result()
	x.must(err)
	from := c.MasterOf(x.tag(0))
	to := (from + 1) % 3
	for range 2 {
		c.Migrate(t.Context(), int(slot), from, to)
		x.awaitAll()
		from, to = to, from
	}
	x.end()
}

// Redis acknowledges before a replica has what was written.
func TestAReplicaOfAClusterThatLacksTheTailLosesNothing(t *testing.T) {
	t.Parallel()
	x := newClusterRig(t, "--cluster-replica-validity-factor", "0")
	c := x.cluster
	master := c.MasterOf(x.tag(0))
	replica := c.ReplicaOf(master)
	x.must(c.Client(replica).ConfigSet(t.Context(), "masterauth", "another").Err())
	x.must(c.Client(master).ClientKillByFilter(t.Context(), "TYPE", "replica").Err())
	added := func(n int) string {
		info, err := c.Client(n).XInfoStream(t.Context(), x.queueKey(0)).Result()
		if err != nil && !errors.Is(err, redis.Nil) {
			return err.Error()
		}
		if info == nil {
			return ""
		}
		return info.LastGeneratedID
	}
	x.awaitAll()
	x.must(c.Client(replica).Do(t.Context(), "readonly").Err())
	if has, lacks := added(master), added(replica); has == lacks {
		t.Fatalf("the replica lacks nothing: its last entry is %s", lacks)
	}
	x.must(c.Servers[master].Kill())
	c.MasterOf(x.tag(0), master)
	x.awaitAll()
	x.end()
}

func TestAllNodesOfAClusterRestartedUnderLoadLoseNothing(t *testing.T) {
	t.Parallel()
	x := newClusterRig(t)
	c := x.cluster
	for _, server := range c.Servers {
		x.must(server.Kill())
	}
	awaitFlushes(t, x.instances, "direct", 0, 2)
	var work sync.WaitGroup
	errs := make(chan error, len(c.Servers))
	for _, server := range c.Servers {
		work.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			errs <- server.Restart(ctx)
		})
	}
	work.Wait()
	for range c.Servers {
		x.must(<-errs)
	}
	x.awaitAll()
	x.end()
}

// The shards of a node that never answers are written directly, and the others go on as ever.
func TestANodeOfAClusterThatNeverAnswersStopsNoOtherShard(t *testing.T) {
	t.Parallel()
	x := newClusterRig(t, "--cluster-require-full-coverage", "no", "--cluster-replica-no-failover", "yes")
	c := x.cluster
	silent := c.MasterOf(x.tag(0))
	var others []int
	for shard := range clusterShards {
		if c.MasterOf(x.tag(shard)) != silent {
			others = append(others, shard)
		}
	}
	if len(others) == 0 {
		t.Fatal("all shards are on one node")
	}
	x.must(c.Servers[silent].Pause())
	awaitFlushes(t, x.instances, "direct", 0, 2)
	for _, shard := range others {
		direct := flushes(x.instances, "direct", shard)
		awaitFlushes(t, x.instances, "queue", shard, 3)
		if n := flushes(x.instances, "direct", shard) - direct; n > 0 {
			t.Errorf("shard %d was written directly %d times, although its node answers", shard, n)
		}
	}
	x.wantTold(silent, others)
	x.must(c.Servers[silent].Resume())
	x.awaitAll()
	x.end()
}

// wantTold waits until an instance tells of each shard on its own: of those on the silent node that
// it doesn't answer, and of the others how they stand.
func (x *clusterRig) wantTold(silent int, others []int) {
	x.t.Helper()
	eventually(x.t, "each shard is told of on its own", func() string {
		_, body := x.instances[0].get("/v1/pipeline")
		var r overview.Report
		x.must(json.Unmarshal([]byte(body), &r))
		if !r.Queue.Up || len(r.Queue.Shards) != clusterShards || len(r.Locks) != len(others) {
			return body
		}
		for shard, q := range r.Queue.Shards {
			if away := !slices.Contains(others, shard); away != (q.Error != "") {
				return body
			}
		}
		if !strings.Contains(r.Sentence, "Redis doesn't answer for shard") && !strings.Contains(r.Sentence, "behind") {
			return r.Sentence
		}
		return ""
	})
	status, human, _ := run(x.t, x.variables(fmt.Sprint("SPENDFLUSH_SHARDS=", clusterShards)), "status")
	if status != 0 || !strings.Contains(human, "NOT REACHED for every shard") {
		x.t.Errorf("exit status %d: %s", status, human)
	}
	scraped, err := x.instances[0].scrape()
	x.must(err)
	up, told := scraped.sum("spendflush_queue_up"), 0
	for key := range scraped {
		if strings.HasPrefix(key, "spendflush_queue_batches{") {
			told++
		}
	}
	if up != 0 || told != len(others) {
		x.t.Errorf("metrics: up is %v, and %d shards are told of instead of %d", up, told, len(others))
	}
}
