package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush/internal/lab/faultproxy"
	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/internal/servers"
)

// topology is what a torture runs on.
type topology string

const (
	aloneServers topology = "one Redis, one Postgres"
	ofCluster    topology = "Redis Cluster"
	ofSentinels  topology = "Redis Sentinel"
	ofStandby    topology = "Postgres with a standby"
)

// fits says whether the fault can be applied on the topology: one of a single server needs that
// server, and its proxies.
func (k *faultKind) fits(where topology) bool {
	switch {
	case k.on != nil:
		return slices.Contains(k.on, where)
	case strings.Contains(k.of, ofRedis), strings.HasPrefix(k.name, "replies to push"), strings.HasPrefix(k.name, "replies to ack"):
		return where == aloneServers || where == ofStandby
	case strings.Contains(k.of, ofPostgres), strings.HasPrefix(k.name, "replies to COMMIT"):
		return where != ofStandby
	default:
		return true
	}
}

// openServers starts the servers of the topology and says how instances come to them.
func (x *rig) openServers() {
	x.t.Helper()
	x.shards = 1
	if x.options.where == ofStandby {
		x.openCouple()
	} else {
		dir := x.disk
		if dir == "" {
			dir = x.directory()
		}
		x.server.postgres = testserver.NewPostgresIn(x.t, dir, map[string]string{
			"max_connections": "60", "max_wal_size": "64MB", "min_wal_size": "32MB", "shared_buffers": "32MB",
		})
		x.postgresURL = x.server.postgres.URL("postgres")
	}
	redisURL := ""
	switch x.options.where {
	case ofCluster:
		x.shards = clusterShards
		x.cluster = testserver.NewRedisCluster(x.t)
		redisURL = x.cluster.URL()
	case ofSentinels:
		x.sentinels = testserver.NewRedisSentinels(x.t)
		redisURL = x.sentinels.URL()
	default:
		x.server.redis = testserver.NewRedis(x.t)
		redisURL = x.server.redis.URL()
	}
	x.stack = stackOn(x.t, x.postgresURL, redisURL)
	if x.couple != nil {
		x.stack.postgres += "&target_session_attrs=read-write" // of connections that nobody watches over
	}
	if x.server.redis != nil {
		x.single = x.redisClient()
	}
}

// openCouple starts a primary and a standby, each behind a proxy of its own, which leads to
// whatever server is there.
func (x *rig) openCouple() {
	x.couple = newCouple(x.t, testserver.NewPostgres(x.t))
	var hosts []string
	for i, server := range []*servers.Postgres{x.couple.primary, x.couple.standby} {
		x.fronts[i] = faultproxy.New(x.t, hostOf(x.t, server.URL("")))
		hosts = append(hosts, x.fronts[i].Addr())
	}
	x.server.postgres, x.behind = x.couple.primary, x.couple.standby
	url := x.couple.primary.URL("postgres")
	x.postgresURL = strings.Replace(url, hostOf(x.t, url), strings.Join(hosts, ","), 1)
}

// frontOf returns the proxy that leads to the server.
func (x *rig) frontOf(server *servers.Postgres) *faultproxy.Proxy {
	if x.behind == server {
		return x.fronts[1]
	}
	return x.fronts[0]
}

// makeSynchronous has the primary acknowledge nothing that the standby doesn't have.
func (x *rig) makeSynchronous() {
	x.t.Helper()
	administer(x.t, x.couple.primary.URL(""), "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
	x.await("the standby is synchronous", patience, func() string {
		if query(x.t, x.couple.primary.URL(""), pgx.RowTo[int64], "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'")[0] == 0 {
			return "it isn't"
		}
		return ""
	})
	administer(x.t, x.couple.primary.URL(""), "SELECT pg_logical_emit_message(true, 'torture', '')") // all before it is there too
}

// promoteStandby makes the standby the primary, which waits for no other one.
func (x *rig) promoteStandby() (old *servers.Postgres) {
	x.t.Helper()
	old = x.couple.primary
	x.couple.promote()
	administer(x.t, x.couple.primary.URL(""), "ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")
	x.server.postgres = x.couple.primary
	return old
}

// replace has a fresh standby take the place of a server that is of no more use.
func (x *rig) replace(old *servers.Postgres) {
	x.t.Helper()
	front := x.frontOf(old)
	x.couple.standby = testserver.NewStandby(x.t, x.couple.primary.URL(""))
	front.Lead(hostOf(x.t, x.couple.standby.URL("")))
	front.Drop()
	if front == x.fronts[1] {
		x.behind = x.couple.standby
	}
}

// pastFailover is longer than others need to notice that a server is gone, and to take its place.
func pastFailover(rng *rand.Rand, _ bool) time.Duration {
	return 4*time.Second + time.Duration(rng.Int64N(int64(2*time.Second)))
}

// placeFaults are those of topologies with several servers.
var placeFaults = []faultKind{
	{name: "switchover", of: ofPostgres, on: []topology{ofStandby}, fresh: func() fault { return &switchover{} }},
	{name: "failover", of: ofPostgres, on: []topology{ofStandby}, fresh: func() fault { return &postgresFailover{} }},
	{name: "primary frozen and woken up", of: ofPostgres, on: []topology{ofStandby}, fresh: func() fault { return &postgresFailover{freeze: true} }},
	{name: "standby restarted", of: ofPostgres, on: []topology{ofStandby}, fresh: func() fault { return &standbyRestarted{} }},

	{name: "master killed", of: ofRedis, on: []topology{ofCluster, ofSentinels}, fresh: func() fault { return &masterGone{} }, hold: pastFailover},
	{name: "master frozen and woken up", of: ofRedis, on: []topology{ofCluster, ofSentinels}, fresh: func() fault { return &masterGone{freeze: true} }, hold: pastFailover},
	{name: "master replaced on purpose", of: ofRedis, on: []topology{ofCluster, ofSentinels}, fresh: func() fault { return &masterReplaced{} }},
	{name: "slot moved", of: ofRedis, on: []topology{ofCluster}, fresh: func() fault { return &slotMoved{} }},
	{name: "all nodes killed", of: ofRedis, on: []topology{ofCluster, ofSentinels}, fresh: func() fault { return &allNodesKilled{} }},
	{name: "sentinel frozen", of: ofRedis, on: []topology{ofSentinels}, fresh: func() fault { return &sentinelFrozen{} }},
}

// switchover is a clean stop of the primary, whose standby is promoted; the old one follows it.
type switchover struct{}

func (f *switchover) begin(x *rig) {
	x.note("Postgres is switched over")
	x.watch.countDeadlocks()
	ctx, cancel := x.couple.within()
	defer cancel()
	x.try("stop the primary", x.couple.primary.Stop(ctx))
	x.promoteStandby()
}

func (f *switchover) end(x *rig) { x.couple.follow() }

// postgresFailover is a primary that is killed, or frozen and woken up once its standby was
// promoted. That one has all that was ever acknowledged.
type postgresFailover struct {
	freeze bool
	old    *servers.Postgres
}

func (f *postgresFailover) begin(x *rig) {
	x.makeSynchronous()
	x.watch.countDeadlocks()
	x.note("the primary of Postgres is lost; frozen: %t", f.freeze)
	if f.freeze {
		x.try("freeze the primary", x.couple.primary.Freeze())
		old := x.couple.primary
		thaw := sync.OnceFunc(func() { _ = old.Thaw() })
		x.t.Cleanup(thaw) // it couldn't be stopped
	} else {
		x.try("kill the primary", x.couple.primary.Kill())
	}
	f.old = x.promoteStandby()
}

func (f *postgresFailover) end(x *rig) {
	if f.freeze {
		x.try("wake the old primary up", f.old.Thaw())
		time.Sleep(time.Duration(x.rng.Int64N(int64(4 * time.Second)))) // for so long there are two that take writes
		x.try("kill the old primary", f.old.Kill())
	}
	x.replace(f.old)
}

// standbyRestarted is a standby that comes and goes: nothing of it matters.
type standbyRestarted struct{}

func (f *standbyRestarted) begin(x *rig) {
	x.note("kill -9 the standby")
	x.try("kill the standby", x.couple.standby.Kill())
}

func (f *standbyRestarted) end(x *rig) { restart(x.t, x.couple.standby.Restart) }

// masterGone is a master that is killed, or frozen and woken up as an old one. The replica that
// takes its place may lack what the master acknowledged last.
type masterGone struct {
	freeze bool
	server *servers.Redis
}

func (f *masterGone) begin(x *rig) {
	x.losesRedis()
	n := x.masterServer()
	f.server = x.redisServers()[n]
	x.note("master %d is lost; frozen: %t", n, f.freeze)
	if f.freeze {
		x.try("pause the master", f.server.Pause())
		return
	}
	x.try("kill the master", f.server.Kill())
}

func (f *masterGone) end(x *rig) {
	if f.freeze {
		x.try("wake the master up", f.server.Resume())
	} else {
		restart(x.t, f.server.Restart)
	}
	x.awaitRedis()
}

// masterReplaced is a failover that an operator asks for. In a cluster the replica has everything
// then; behind sentinels it may lack the last.
type masterReplaced struct{}

func (f *masterReplaced) begin(x *rig) {
	if x.sentinels != nil {
		x.losesRedis()
		x.note("SENTINEL FAILOVER")
		x.sentinels.Failover(x.t.Context())
		return
	}
	replica := x.cluster.ReplicaOf(x.masterServer())
	x.note("CLUSTER FAILOVER to %d", replica)
	x.try("fail over", x.cluster.Client(replica).ClusterFailover(x.t.Context()).Err())
}

func (f *masterReplaced) end(x *rig) { x.awaitRedis() }

// slotMoved moves the slot of a shard to another master, key by key.
type slotMoved struct{}

func (f *slotMoved) begin(x *rig) {
	shard := x.rng.IntN(x.shards)
	from, to := x.cluster.MasterOf(x.tag(shard)), -1
	for other := range 3 { // each of these or its replica is a master
		for _, n := range []int{other, other + 3} {
			info, err := x.cluster.Client(n).Info(x.t.Context(), "replication").Result()
			x.try("ask a node", err)
			if n != from && strings.Contains(info, "role:master") {
				to = n
			}
		}
	}
	slot, err := x.cluster.Client(from).ClusterKeySlot(x.t.Context(), x.tag(shard)).Result()
	x.try("ask for the slot", err)
	x.note("the slot of shard %d moves from %d to %d", shard, from, to)
	x.cluster.Migrate(x.t.Context(), int(slot), from, to)
}

func (f *slotMoved) end(x *rig) { x.awaitRedis() }

// allNodesKilled is kill -9 of every server and a new start of all.
type allNodesKilled struct{}

func (f *allNodesKilled) begin(x *rig) {
	x.losesRedis() // a replica may be quicker than its master
	x.note("kill -9 all servers of Redis")
	for _, server := range x.redisServers() {
		x.try("kill", server.Kill())
	}
}

func (f *allNodesKilled) end(x *rig) {
	var work sync.WaitGroup
	all := x.redisServers()
	errs := make([]error, len(all))
	for i, server := range all {
		work.Go(func() {
			ctx, cancel := context.WithTimeout(x.t.Context(), patience)
			defer cancel()
			errs[i] = server.Restart(ctx)
		})
	}
	work.Wait()
	for _, err := range errs {
		x.try("restart", err)
	}
	x.awaitRedis()
}

// sentinelFrozen is one of three sentinels that hangs.
type sentinelFrozen struct{ which int }

func (f *sentinelFrozen) begin(x *rig) {
	f.which = x.rng.IntN(len(x.sentinels.Sentinels))
	x.note("SIGSTOP sentinel %d", f.which)
	x.try("pause a sentinel", x.sentinels.Sentinels[f.which].Pause())
}

func (f *sentinelFrozen) end(x *rig) {
	x.try("wake the sentinel up", x.sentinels.Sentinels[f.which].Resume())
	x.awaitRedis()
}

func (x *rig) redisServers() []*servers.Redis {
	if x.sentinels != nil {
		return x.sentinels.Servers
	}
	return x.cluster.Servers
}

// masterServer returns the number of the master, of one shard by the schedule in a cluster.
func (x *rig) masterServer() (master int) {
	x.t.Helper()
	if x.cluster != nil {
		return x.cluster.MasterOf(x.tag(x.rng.IntN(x.shards)))
	}
	x.await("there is a master", patience, func() string {
		for n := range x.sentinels.Servers {
			ctx, cancel := context.WithTimeout(x.t.Context(), time.Second)
			info, err := x.sentinels.Client(n).Info(ctx, "replication").Result()
			cancel()
			if err == nil && strings.Contains(info, "role:master") {
				master = n
				return ""
			}
		}
		return "none"
	})
	return master
}

// awaitRedis waits until every master has its replica, so that the next fault finds what it needs.
func (x *rig) awaitRedis() {
	x.t.Helper()
	ctx, cancel := context.WithTimeout(x.t.Context(), recoveryPatience)
	defer cancel()
	if x.cluster != nil {
		x.cluster.AwaitHealthy(ctx)
		return
	}
	x.sentinels.AwaitHealthy(ctx)
}

// eachQueue calls f with every entry in the queues.
func (x *rig) eachQueue(ctx context.Context, f func(shard int, e redis.XMessage)) error {
	for shard := range x.shards {
		entries, err := x.client.XRange(ctx, x.queueKey(shard), "-", "+").Result()
		if err != nil {
			return fmt.Errorf("shard %d: %w", shard, err)
		}
		for _, e := range entries {
			f(shard, e)
		}
	}
	return nil
}
