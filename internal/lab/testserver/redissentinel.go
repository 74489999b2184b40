package testserver

import (
	"context"
	"crypto/rand"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush/internal/servers"
)

// MasterName is what the sentinels of RedisSentinels call the master.
const MasterName = "books"

const (
	sentinelServers = 2
	sentinelCount   = 3
	sentinelDown    = time.Second // how long a master may be silent
)

// RedisSentinels is a master with a replica, and three sentinels that watch them, for one test,
// which may do with them what it wants. Server 0 is master at first.
type RedisSentinels struct {
	t         testing.TB
	Servers   []*servers.Redis
	Sentinels []*servers.Sentinel
	password  string // of the servers; the sentinels have another
}

// NewRedisSentinels starts the servers and returns when the replica is in sync and all sentinels
// know of it and of each other.
func NewRedisSentinels(t testing.TB) *RedisSentinels {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	s := &RedisSentinels{t: t, password: rand.Text()}
	for n := range sentinelServers {
		args := []string{"--appendfsync", "no", "--repl-diskless-sync-delay", "0"}
		if n > 0 {
			args = append(args, "--replicaof", "127.0.0.1 "+strconv.Itoa(s.Servers[0].Port()))
		}
		dir := privateDir(t)
		server, err := servers.StartRedis(ctx, servers.RedisConfig{Dir: dir, Password: s.password, Args: args})
		if err != nil {
			t.Fatalf("testserver: %v", err)
		}
		t.Cleanup(func() { stopServer(t, server, filepath.Join(dir, "redis.log")) })
		s.Servers = append(s.Servers, server)
	}

	password := rand.Text()
	for range sentinelCount {
		dir := privateDir(t)
		sentinel, err := servers.StartSentinel(ctx, servers.SentinelConfig{
			Dir: dir, Password: password, Name: MasterName, Master: s.Servers[0], Quorum: 2, DownAfter: sentinelDown,
		})
		if err != nil {
			t.Fatalf("testserver: %v", err)
		}
		t.Cleanup(func() { stopServer(t, sentinel, filepath.Join(dir, "sentinel.log")) })
		s.Sentinels = append(s.Sentinels, sentinel)
	}
	s.AwaitHealthy(ctx)
	return s
}

// AwaitHealthy waits until the sentinels that run see one healthy replica and each other.
func (s *RedisSentinels) AwaitHealthy(ctx context.Context) {
	s.t.Helper()
	for n := range s.Sentinels {
		client := s.sentinel(n)
		await(ctx, s.t, fmt.Sprintf("sentinel %d sees all", n), func() error {
			master, err := client.Master(ctx, MasterName).Result()
			if err != nil {
				return err
			}
			replicas, err := client.Replicas(ctx, MasterName).Result()
			if err != nil {
				return err
			}
			if master["flags"] != "master" || master["num-other-sentinels"] != strconv.Itoa(sentinelCount-1) ||
				len(replicas) != sentinelServers-1 || replicas[0]["flags"] != "slave" || replicas[0]["master-link-status"] != "ok" {
				return fmt.Errorf("master %v, replicas %v", master, replicas)
			}
			return nil
		})
	}
}

// sentinel returns a client of one sentinel, until the test ends.
func (s *RedisSentinels) sentinel(n int) *redis.SentinelClient {
	client := redis.NewSentinelClient(&redis.Options{
		Addr: fmt.Sprintf("127.0.0.1:%d", s.Sentinels[n].Port()), Password: s.Sentinels[n].Password(), ContextTimeoutEnabled: true,
	})
	s.t.Cleanup(func() { client.Close() })
	return client
}

// Client returns a client of one server, until the test ends.
func (s *RedisSentinels) Client(n int) *redis.Client {
	return nodeClient(s.t, s.Servers[n].Port(), s.password)
}

// Failover asks the sentinels for another master, as one does before maintenance.
func (s *RedisSentinels) Failover(ctx context.Context) {
	s.t.Helper()
	await(ctx, s.t, "a failover begins", func() error { return s.sentinel(0).Failover(ctx, MasterName).Err() })
}

// AwaitMaster waits until most sentinels name this server.
func (s *RedisSentinels) AwaitMaster(ctx context.Context, n int) {
	s.t.Helper()
	await(ctx, s.t, fmt.Sprintf("server %d is master", n), func() error {
		named := 0
		for i := range s.Sentinels {
			try, cancel := context.WithTimeout(ctx, time.Second)
			told, err := s.sentinel(i).GetMasterAddrByName(try, MasterName).Result()
			cancel()
			if err == nil && told[1] == strconv.Itoa(s.Servers[n].Port()) {
				named++
			}
		}
		if named <= len(s.Sentinels)/2 {
			return fmt.Errorf("%d sentinels name it", named)
		}
		return nil
	})
}

// URL returns a URL that names all sentinels, with these options besides.
func (s *RedisSentinels) URL(options ...string) string {
	query := append([]string{"sentinel_password=" + s.Sentinels[0].Password()}, options...)
	for _, sentinel := range s.Sentinels[1:] {
		query = append(query, fmt.Sprintf("addr=127.0.0.1:%d", sentinel.Port()))
	}
	return fmt.Sprintf("redis+sentinel://:%s@127.0.0.1:%d/%s?%s", s.password, s.Sentinels[0].Port(), MasterName,
		strings.Join(query, "&"))
}
