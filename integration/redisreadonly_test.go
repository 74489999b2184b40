package integration

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush/internal/lab/faultproxy"
	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/internal/servers"
)

// redisPair is a master and its replica behind one address, as a service has them. Who is connected
// stays connected when they change places, to what is a replica then and answers READONLY.
type redisPair struct {
	t       testing.TB
	servers [2]*servers.Redis
	clients [2]*redis.Client
	address *faultproxy.Proxy
	master  int
}

func newRedisPair(t testing.TB) *redisPair {
	t.Helper()
	p := &redisPair{t: t}
	for n := range p.servers {
		p.servers[n] = testserver.NewRedis(t, "--repl-diskless-sync-delay", "0")
		p.clients[n] = stackOn(t, "", p.servers[n].URL()).redisClient()
		p.set(n, "masterauth", p.servers[0].Password())
	}
	p.set(1, "requirepass", p.servers[0].Password()) // the address has one password
	p.clients[1] = stackOn(t, "", through(t, p.servers[0].URL(), hostOf(t, p.servers[1].URL()), "")).redisClient()
	if err := p.clients[1].Do(t.Context(), "replicaof", "127.0.0.1", p.servers[0].Port()).Err(); err != nil {
		t.Fatal(err)
	}
	p.awaitReplica()
	p.address = faultproxy.New(t, hostOf(t, p.servers[0].URL()))
	return p
}

func (p *redisPair) set(n int, name, value string) {
	p.t.Helper()
	if err := p.clients[n].ConfigSet(p.t.Context(), name, value).Err(); err != nil {
		p.t.Fatal(err)
	}
}

func (p *redisPair) url() string { return through(p.t, p.servers[0].URL(), p.address.Addr(), "") }

func (p *redisPair) awaitReplica() {
	p.t.Helper()
	eventually(p.t, "the replica is in sync", func() string {
		info, err := p.clients[1-p.master].Info(p.t.Context(), "replication").Result()
		if err != nil || !strings.Contains(info, "master_link_status:up") {
			return fmt.Sprint(info, err)
		}
		return ""
	})
}

// change has the two change places. Connections, and where new ones go, are as before.
func (p *redisPair) change() {
	p.t.Helper()
	next := 1 - p.master
	to := []any{"failover", "to", "127.0.0.1", p.servers[next].Port()}
	if err := p.clients[p.master].Do(p.t.Context(), to...).Err(); err != nil {
		p.t.Fatal(err)
	}
	eventually(p.t, "the replica is master", func() string {
		role, err := p.clients[next].Do(p.t.Context(), "role").Slice()
		if err != nil || len(role) == 0 || role[0] != "master" {
			return fmt.Sprint(role, err)
		}
		return ""
	})
	p.master = next
}

// leadTo has new connections go to this server.
func (p *redisPair) leadTo(n int) { p.address.Lead(p.clients[n].Options().Addr) }

// The master becomes a replica, and nobody closes a connection to it. While the address leads to
// it, instances write directly; once it leads to the new one, the connections that are open stand
// in nobody's way.
func TestARedisThatBecomesAReplicaWithItsConnectionsOpenLosesNothing(t *testing.T) {
	t.Parallel()
	p := newRedisPair(t)
	s := stackOn(t, testserver.Postgres(t), p.url())
	instances := s.startAll(2, "SPENDFLUSH_SHARDS=2", "SPENDFLUSH_REWIND_WINDOW=60s")
	l := startLoad(t, instances, faultLoad())
	awaitMore(t, instances, "queue", 5)

	p.change()
	awaitMore(t, instances, "direct", 5)
	const words = "Redis answers READONLY: it is a replica."
	eventually(t, "the page, the command and /readyz name the cause", func() string {
		_, page := instances[0].get("/v1/pipeline")
		_, ready := instances[0].get("/readyz")
		_, stdout, stderr := run(t, s.variables(), "status")
		if !strings.Contains(page, words) || !strings.Contains(stdout, words) || !strings.Contains(ready, `"refused":"READONLY`) {
			return page + ready + stdout + stderr
		}
		return ""
	})
	p.leadTo(p.master)
	awaitMore(t, instances, "queue", 10)

	p.awaitReplica()
	p.leadTo(1 - p.master) // the address is quicker than the servers
	p.change()
	awaitMore(t, instances, "queue", 10)
	s.finish(instances, l)
	if n := turnedBack(instances); n != 0 {
		t.Errorf("%d lines say that Postgres was turned back, and it wasn't", n)
	}
}

// A Redis that evicts takes whole keys, the queue of a shard among them. What is committed,
// acknowledged as such and told as drained is in Postgres all the same, also where the instances
// stop while it evicts.
func TestARedisThatEvictsUnderLoadLosesNothing(t *testing.T) {
	t.Parallel()
	server := testserver.NewRedis(t)
	s := stackOn(t, testserver.Postgres(t), server.URL())
	client := s.redisClient()
	number := func(section, name string) (n int64) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if _, err := fmt.Sscan(client.InfoMap(ctx, section).Val()[section][name], &n); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return n
	}
	instances := s.startAll(2, "SPENDFLUSH_SHARDS=2", "SPENDFLUSH_REWIND_WINDOW=60s")
	l := startLoad(t, instances, faultLoad())
	awaitMore(t, instances, "queue", 5)
	for name, value := range map[string]any{"maxmemory-policy": "allkeys-random", "maxmemory": number("Memory", "used_memory") + 200_000} {
		if err := client.ConfigSet(t.Context(), name, fmt.Sprint(value)).Err(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "Redis evicts", func() string {
		if n := number("Stats", "evicted_keys"); n < 30 {
			return fmt.Sprintf("%d keys so far", n)
		}
		return ""
	})
	s.finish(instances, l)
}
