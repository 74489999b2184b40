package testserver

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush/internal/servers"
)

const (
	clusterMasters = 3
	clusterSlots   = 16384

	// clusterNodeTimeout is how long a node of a cluster may be silent. Another takes over about a
	// second later.
	clusterNodeTimeout = time.Second
)

// RedisCluster is a Redis Cluster of six servers of this machine, for one test, which may do with
// it what it wants. Servers 0 to 2 are masters at first, and server n+3 replicates server n.
type RedisCluster struct {
	t        testing.TB
	Servers  []*servers.Redis
	password string
	tlsPorts []int // by server, if clients are to come with TLS
}

// NewRedisCluster starts a cluster and returns when all of its slots are served and each master has
// its replica. Args are more arguments of each server.
func NewRedisCluster(t testing.TB, args ...string) *RedisCluster {
	t.Helper()
	return newRedisCluster(t, nil, args)
}

// NewRedisClusterTLS is NewRedisCluster with TLS among the nodes and to clients, which must show a
// certificate. Clients of the test itself come without.
func NewRedisClusterTLS(t testing.TB, certificates *Certificates) *RedisCluster {
	t.Helper()
	return newRedisCluster(t, certificates, []string{
		"--tls-cluster", "yes", "--tls-replication", "yes", "--tls-auth-clients", "yes", "--tls-ca-cert-file", certificates.CA,
		"--tls-cert-file", certificates.ServerCert, "--tls-key-file", certificates.ServerKey,
		"--tls-client-cert-file", certificates.ClientCert, "--tls-client-key-file", certificates.ClientKey,
	})
}

func newRedisCluster(t testing.TB, certificates *Certificates, args []string) *RedisCluster {
	t.Helper()
	c := &RedisCluster{t: t, password: rand.Text(), Servers: make([]*servers.Redis, 2*clusterMasters)}
	if certificates != nil {
		for range c.Servers {
			c.tlsPorts = append(c.tlsPorts, freeTestPort())
		}
	}
	args = append([]string{
		"--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--appendfsync", "no",
		"--cluster-node-timeout", fmt.Sprint(clusterNodeTimeout.Milliseconds()), "--repl-diskless-sync-delay", "0",
	}, args...)
	var work sync.WaitGroup
	for n := range c.Servers {
		dir, own := privateDir(t), args
		if c.tlsPorts != nil {
			own = append([]string{"--tls-port", strconv.Itoa(c.tlsPorts[n])}, args...)
		}
		work.Go(func() { c.Servers[n] = startNode(t, dir, c.password, own) })
	}
	work.Wait()
	if t.Failed() {
		t.FailNow()
	}

	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	c.join(ctx)
	return c
}

// startNode starts a server on ports that nothing listens on. It may be called by another goroutine
// than the test's.
func startNode(t testing.TB, dir, password string, args []string) *servers.Redis {
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	var err error
	for range 5 {
		port, bus := freeTestPort(), freeTestPort()
		var r *servers.Redis
		r, err = servers.StartRedis(ctx, servers.RedisConfig{
			Dir: dir, Port: port, Password: password, Args: append([]string{"--cluster-port", strconv.Itoa(bus)}, args...),
		})
		if err == nil {
			t.Cleanup(func() { stopServer(t, r, filepath.Join(dir, "redis.log")) })
			return r
		}
	}
	t.Errorf("testserver: %v", err)
	return nil
}

// freeTestPort returns a port that nothing listens on, clear of those that systems give to outgoing
// connections.
func freeTestPort() int {
	for {
		port := 10240 + mathrand.IntN(21000)
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			l.Close()
			return port
		}
	}
}

// stopServer ends a server whose data is of no use any more.
func stopServer(t testing.TB, s interface {
	Kill() error
	Stop(context.Context) error
}, log string) {
	showLog(t, log)
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if err := errors.Join(s.Kill(), s.Stop(ctx)); err != nil {
		t.Errorf("testserver: %v", err)
	}
}

// join makes a cluster of the servers.
func (c *RedisCluster) join(ctx context.Context) {
	c.t.Helper()
	const share = clusterSlots / clusterMasters
	for n := range c.Servers {
		client := c.Client(n)
		if n > 0 {
			c.try(client.Do(ctx, "cluster", "meet", "127.0.0.1", c.port(0), c.busPort(ctx, 0)))
		}
		if n < clusterMasters {
			last := (n+1)*share - 1
			if n == clusterMasters-1 {
				last = clusterSlots - 1
			}
			c.try(client.ClusterAddSlotsRange(ctx, n*share, last))
		}
	}
	for n := range clusterMasters {
		id := c.ID(n)
		c.await(ctx, "the nodes know of each other", func() error {
			return c.Client(n+clusterMasters).ClusterReplicate(ctx, id).Err()
		})
	}
	c.AwaitHealthy(ctx)
}

// AwaitHealthy waits until all nodes that run see all slots served, and each master has a replica
// in sync.
func (c *RedisCluster) AwaitHealthy(ctx context.Context) {
	c.t.Helper()
	for n := range c.Servers {
		client := c.Client(n)
		c.await(ctx, fmt.Sprintf("node %d sees a whole cluster", n), func() error {
			info, err := client.ClusterInfo(ctx).Result()
			if err != nil {
				return err
			}
			if !strings.Contains(info, "cluster_state:ok") || !strings.Contains(info, "cluster_slots_ok:16384") ||
				!strings.Contains(info, fmt.Sprint("cluster_known_nodes:", len(c.Servers))) {
				return fmt.Errorf("%s", info)
			}
			replication, err := client.Info(ctx, "replication").Result()
			if err != nil {
				return err
			}
			if !strings.Contains(replication, "master_link_status:up") && !strings.Contains(replication, "state=online") {
				return fmt.Errorf("%s", replication)
			}
			return nil
		})
	}
}

// port returns the one that clients come to.
func (c *RedisCluster) port(n int) int {
	if c.tlsPorts != nil {
		return c.tlsPorts[n]
	}
	return c.Servers[n].Port()
}

// URL returns a URL that names all nodes, with these options besides.
func (c *RedisCluster) URL(options ...string) string {
	query := append([]string{"cluster=true"}, options...)
	for n := range c.Servers[1:] {
		query = append(query, fmt.Sprintf("addr=127.0.0.1:%d", c.port(n+1)))
	}
	scheme := "redis"
	if c.tlsPorts != nil {
		scheme = "rediss"
	}
	return fmt.Sprintf("%s://:%s@127.0.0.1:%d?%s", scheme, c.password, c.port(0), strings.Join(query, "&"))
}

// Client returns a client of one node, until the test ends.
func (c *RedisCluster) Client(n int) *redis.Client {
	return nodeClient(c.t, c.Servers[n].Port(), c.password)
}

func nodeClient(t testing.TB, port int, password string) *redis.Client {
	client := redis.NewClient(&redis.Options{
		Addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), Password: password, MaxRetries: -1, DialerRetries: 1,
		ContextTimeoutEnabled: true,
	})
	t.Cleanup(func() { client.Close() })
	return client
}

// ID returns the name of a node in its cluster.
func (c *RedisCluster) ID(n int) string {
	c.t.Helper()
	id, err := c.Client(n).ClusterMyID(c.t.Context()).Result()
	if err != nil {
		c.t.Fatalf("testserver: %v", err)
	}
	return id
}

// MasterOf returns the number of the server that says it is the master of the key's slot, and asks
// only servers other than those given. It waits until one is.
func (c *RedisCluster) MasterOf(key string, except ...int) int {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), startTimeout)
	defer cancel()
	master := -1
	c.await(ctx, "a master of "+key, func() error {
		for n := range c.Servers {
			if slices.Contains(except, n) {
				continue
			}
			try, cancel := context.WithTimeout(ctx, time.Second)
			err := c.Client(n).Set(try, key+":probe", 1, time.Minute).Err() // a replica and the wrong node say MOVED
			cancel()
			if err == nil {
				master = n
				return nil
			}
		}
		return fmt.Errorf("no node takes writes")
	})
	return master
}

// ReplicaOf returns the number of a server that replicates that one. It waits until there is one.
func (c *RedisCluster) ReplicaOf(master int) int {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), startTimeout)
	defer cancel()
	replica := -1
	c.await(ctx, fmt.Sprintf("a replica of %d", master), func() error {
		for n := range c.Servers {
			info, err := c.Client(n).Info(ctx, "replication").Result()
			if err == nil && strings.Contains(info, "role:slave") &&
				strings.Contains(info, fmt.Sprintf("master_port:%d\r", c.Servers[master].Port())) {
				replica = n
				return nil
			}
		}
		return errors.New("there is none")
	})
	return replica
}

// Migrate moves a slot from one master to another, key by key, as a resharding does.
func (c *RedisCluster) Migrate(ctx context.Context, slot, from, to int) {
	c.t.Helper()
	source, target := c.Client(from), c.Client(to)
	c.try(target.Do(ctx, "cluster", "setslot", slot, "importing", c.ID(from)))
	c.try(source.Do(ctx, "cluster", "setslot", slot, "migrating", c.ID(to)))
	for {
		keys, err := source.ClusterGetKeysInSlot(ctx, slot, 1).Result()
		if err != nil {
			c.t.Fatalf("testserver: %v", err)
		}
		if len(keys) == 0 {
			break
		}
		args := []any{"migrate", "127.0.0.1", c.Servers[to].Port(), "", 0, 10_000, "auth", c.password, "keys", keys[0]}
		c.try(source.Do(ctx, args...)) // one that has expired meanwhile is NOKEY, no error
	}
	for _, client := range []*redis.Client{target, source} {
		c.try(client.Do(ctx, "cluster", "setslot", slot, "node", c.ID(to)))
	}
}

func (c *RedisCluster) busPort(ctx context.Context, n int) int {
	c.t.Helper()
	text, err := c.Client(n).ConfigGet(ctx, "cluster-port").Result()
	if err != nil {
		c.t.Fatalf("testserver: %v", err)
	}
	port, err := strconv.Atoi(text["cluster-port"])
	if err != nil {
		c.t.Fatalf("testserver: %v", err)
	}
	return port
}

func (c *RedisCluster) try(cmd redis.Cmder) {
	c.t.Helper()
	if err := cmd.Err(); err != nil {
		c.t.Fatalf("testserver: %v", err)
	}
}

// await waits until met returns nil.
func (c *RedisCluster) await(ctx context.Context, what string, met func() error) {
	c.t.Helper()
	await(ctx, c.t, what, met)
}

func await(ctx context.Context, t testing.TB, what string, met func() error) {
	t.Helper()
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		err := met()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("testserver: %s: %v, last: %v", what, ctx.Err(), err)
		case <-ticker.C:
		}
	}
}
