package integration

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/internal/servers"
)

// documentedRights returns the rights in docs/security.md as arguments of ACL SETUSER.
func documentedRights(t *testing.T) (args []string) { return rightsInBlock(t, 0) }

// documentedSentinelRights is documentedRights of the user for the sentinels.
func documentedSentinelRights(t *testing.T) (args []string) { return rightsInBlock(t, 1) }

func rightsInBlock(t *testing.T, n int) (args []string) {
	t.Helper()
	blocks := regexp.MustCompile("(?s)```\nACL SETUSER spendflush on (.*?)```").FindAllStringSubmatch(readText(t, "../docs/security.md"), -1)
	if len(blocks) != 2 {
		t.Fatalf("docs/security.md has ACL SETUSER %d times", len(blocks))
	}
	return strings.Fields(strings.Replace(blocks[n][1], ">PASSWORD", ">acl-password-7c2f", 1))
}

// setUser gives the user these rights alone, and returns its URL.
func setUser(t *testing.T, server *servers.Redis, rights []string) string {
	t.Helper()
	s := stackOn(t, "", server.URL())
	args := []any{"acl", "setuser", "spendflush", "reset", "on"}
	for _, right := range rights {
		args = append(args, right)
	}
	if err := s.redisClient().Do(t.Context(), args...).Err(); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("spendflush", "acl-password-7c2f")
	return u.String()
}

func TestARedisUserWithTheDocumentedRightsDoesEverything(t *testing.T) {
	t.Parallel()
	server := testserver.NewRedis(t)
	s := stackOn(t, testserver.Postgres(t), setUser(t, server, documentedRights(t)))
	instances := s.startAll(2, "SPENDFLUSH_REWIND_WINDOW=30s", "SPENDFLUSH_SHARDS=2")
	l := startLoad(t, instances, faultLoad())
	awaitMore(t, instances, "queue", 10)
	s.runAll([]string{"SPENDFLUSH_REWIND_WINDOW=30s", "SPENDFLUSH_SHARDS=2"})
	s.finish(instances, l)

	// Whatever was refused, also where nobody said so.
	denied, err := stackOn(t, "", server.URL()).redisClient().Do(t.Context(), "acl", "log").Slice()
	if err != nil || len(denied) > 0 {
		t.Errorf("Redis has refused: %v, %v", denied, err)
	}
}

// The user is made on every node, as services do. Nodes redirect (ASK, MOVED), are replaced and
// die: what is needed for that is among the rights, too.
func TestARedisUserWithTheDocumentedRightsDoesEverythingOnACluster(t *testing.T) {
	t.Parallel()
	c := testserver.NewRedisCluster(t)
	user := []any{"acl", "setuser", "spendflush", "reset", "on"}
	for _, right := range documentedRights(t) {
		user = append(user, right)
	}
	for n := range c.Servers {
		if err := c.Client(n).Do(t.Context(), user...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	u, err := url.Parse(c.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("spendflush", "acl-password-7c2f")
	x := &clusterRig{stack: stackOn(t, testserver.Postgres(t), u.String()), cluster: c}
	variables := []string{fmt.Sprint("SPENDFLUSH_SHARDS=", clusterShards), "SPENDFLUSH_REWIND_WINDOW=30s", "SPENDFLUSH_SHUTDOWN_TIMEOUT=60s"}
	x.instances = x.startAll(2, variables...)
	o := faultLoad()
	o.clients, o.most = 6, 10
	x.load = startLoad(t, x.instances, o)
	x.awaitAll()
	x.runAll(variables)

	slot, err := c.Client(0).ClusterKeySlot(t.Context(), x.tag(0)).Result()
	x.must(err)
	from := c.MasterOf(x.tag(0))
	to := (from + 1) % 3
	x.must(c.Client(to).Do(t.Context(), "cluster", "setslot", slot, "importing", c.ID(from)).Err())
	x.must(c.Client(from).Do(t.Context(), "cluster", "setslot", slot, "migrating", c.ID(to)).Err())
	x.asks(x.tag(0) + ":absent")
	c.Migrate(t.Context(), int(slot), from, to)
	x.awaitAll()
	replica := c.ReplicaOf(to)
	x.must(c.Client(replica).ClusterFailover(t.Context()).Err())
	c.MasterOf(x.tag(0), to)
	x.awaitAll()
	c.AwaitHealthy(t.Context())
	x.must(c.Servers[replica].Kill())
	c.MasterOf(x.tag(0), replica)
	x.awaitAll()
	x.end()

	for n := range c.Servers {
		if n == replica {
			continue
		}
		denied, err := c.Client(n).Do(t.Context(), "acl", "log").Slice()
		if err != nil || len(denied) > 0 {
			t.Errorf("node %d has refused: %v, %v", n, denied, err)
		}
	}
}

// asks reads, as the user of the stack's URL, a key that isn't there of a slot that is being moved:
// its node says where to ask for it.
func (x *clusterRig) asks(key string) {
	x.t.Helper()
	options, err := redis.ParseClusterURL(strings.Replace(x.redis, "cluster=true&", "", 1))
	x.must(err)
	client := redis.NewClusterClient(options)
	defer client.Close()
	if err := client.Get(x.t.Context(), key).Err(); !errors.Is(err, redis.Nil) {
		x.t.Errorf("of a slot that is being moved an absent key is read: %v, want that it is absent", err)
	}
}

// Both users have the documented rights alone: that of the servers and that of the sentinels.
func TestUsersWithTheDocumentedRightsDoEverythingBehindSentinels(t *testing.T) {
	t.Parallel()
	sentinels := testserver.NewRedisSentinels(t)
	user := func(rights []string) []any {
		args := []any{"acl", "setuser", "spendflush", "reset", "on"}
		for _, right := range rights {
			args = append(args, right)
		}
		return args
	}
	for n := range sentinels.Servers {
		if err := sentinels.Client(n).Do(t.Context(), user(documentedRights(t))...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	var watchers []*redis.Client
	for _, sentinel := range sentinels.Sentinels {
		client := redis.NewClient(&redis.Options{Addr: fmt.Sprintf("127.0.0.1:%d", sentinel.Port()), Password: sentinel.Password()})
		t.Cleanup(func() { client.Close() })
		if err := client.Do(t.Context(), user(documentedSentinelRights(t))...).Err(); err != nil {
			t.Fatal(err)
		}
		watchers = append(watchers, client)
	}
	u, err := url.Parse(sentinels.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("spendflush", "acl-password-7c2f")
	q := u.Query()
	q.Set("sentinel_username", "spendflush")
	q.Set("sentinel_password", "acl-password-7c2f")
	u.RawQuery = q.Encode()

	s := stackOn(t, testserver.Postgres(t), u.String())
	instances := s.startAll(2, "SPENDFLUSH_REWIND_WINDOW=30s")
	l := startLoad(t, instances, faultLoad())
	awaitMore(t, instances, "queue", 5)
	s.runAll([]string{"SPENDFLUSH_REWIND_WINDOW=30s"})
	sentinels.Failover(t.Context())
	sentinels.AwaitMaster(t.Context(), 1)
	awaitMore(t, instances, "queue", 10)
	s.finish(instances, l)

	for n := range sentinels.Servers {
		watchers = append(watchers, sentinels.Client(n))
	}
	for _, client := range watchers {
		denied, err := client.Do(t.Context(), "acl", "log").Slice()
		if err != nil || len(denied) > 0 {
			t.Errorf("%s has refused: %v, %v", client.Options().Addr, denied, err)
		}
	}
}

// runAll runs the commands that use Redis: nothing is denied to any of them.
func (s *stack) runAll(variables []string) {
	s.t.Helper()
	for _, command := range [][]string{{"status"}, {"status", "--json"}, {"flush"}, {"audit"}} {
		status, stdout, stderr := run(s.t, s.variables(variables...), command...)
		if status != 0 || strings.Contains(stdout+stderr, "NOPERM") {
			s.t.Errorf("spendflush %s: exit status %d\n%s%s", strings.Join(command, " "), status, stdout, stderr)
		}
	}
}

// refusal is something that a server refuses for as long as it lasts.
type refusal struct {
	name, says string
	path       string // how batches get to Postgres meanwhile: "direct", or "" if they can't
	begin, end func(t *testing.T, s *stack, server *servers.Redis)
}

func TestWhatIsDeniedIsNamedAndNothingIsLost(t *testing.T) {
	t.Parallel()
	but := func(rights ...string) func(t *testing.T, s *stack, server *servers.Redis) {
		return func(t *testing.T, _ *stack, server *servers.Redis) {
			setUser(t, server, append(documentedRights(t), rights...))
		}
	}
	all := func(t *testing.T, _ *stack, server *servers.Redis) { setUser(t, server, documentedRights(t)) }
	for _, r := range []refusal{
		{"NoEVALSHA", "NOPERM", "direct", but("-evalsha"), all},
		{"NoXADD", "script", "direct", but("-xadd"), all},
		{"NoXDEL", "script", "", but("-xdel"), all},
		{"NoKeys", "NOPERM", "direct", but("resetkeys"), all},
		{"AnotherPassword", "WRONGPASS", "direct", but("resetpass", ">another"), all},
		{"AnotherType", "WRONGTYPE", "direct",
			func(t *testing.T, s *stack, server *servers.Redis) {
				client := stackOn(t, "", server.URL()).redisClient()
				pipe := client.TxPipeline()
				pipe.Del(t.Context(), s.queueKey(0))
				pipe.Set(t.Context(), s.queueKey(0), "another's", 0)
				if _, err := pipe.Exec(t.Context()); err != nil {
					t.Fatal(err)
				}
			},
			func(t *testing.T, s *stack, server *servers.Redis) {
				if err := stackOn(t, "", server.URL()).redisClient().Del(t.Context(), s.queueKey(0)).Err(); err != nil {
					t.Fatal(err)
				}
			}},
	} {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			server := testserver.NewRedis(t)
			s := stackOn(t, testserver.Postgres(t), setUser(t, server, documentedRights(t)))
			r.check(t, s, server)
		})
	}
}

func (r *refusal) check(t *testing.T, s *stack, server *servers.Redis) {
	instances := s.startAll(2, "SPENDFLUSH_LOCK_TTL=1s")
	l := startLoad(t, instances, faultLoad())
	awaitMore(t, instances, "queue", 3)
	r.begin(t, s, server)
	// Rights count for connections made before; a password doesn't.
	if err := stackOn(t, "", server.URL()).redisClient().ClientKillByFilter(t.Context(), "TYPE", "normal").Err(); err != nil {
		t.Fatal(err)
	}
	if r.path != "" {
		awaitMore(t, instances, r.path, 3)
	}
	awaitDenial(t, instances, r.says)
	eventually(t, "the command tells what is denied", func() string {
		status, stdout, stderr := run(t, s.variables(), "status")
		if status != 0 || !strings.Contains(stdout, r.says) {
			return fmt.Sprintf("exit status %d\n%s%s", status, stdout, stderr)
		}
		return ""
	})

	r.end(t, s, server)
	awaitMore(t, instances, "queue", 3)
	awaitNoDenial(t, instances)
	s.finish(instances, l)
}

// awaitDenial waits until an instance tells everywhere what is denied.
func awaitDenial(t *testing.T, instances []*instance, says string) {
	t.Helper()
	eventually(t, "the page, /readyz and the metric tell what is denied", func() string {
		missing := ""
		for _, in := range instances {
			_, page := in.get("/v1/pipeline")
			_, ready := in.get("/readyz")
			// A role that lacks a right is noticed by being refused, and by a look every few
			// seconds that says what to grant.
			told := strings.Contains(ready, `"denied":`) && strings.Contains(ready, says) || strings.Contains(ready, "the role in Postgres lacks rights")
			if told && strings.Contains(page, "spendflushaccessdenied") && strings.Contains(page, says) && in.metrics().sum("spendflush_access_denied") > 0 {
				return ""
			}
			missing += fmt.Sprintf("%s: page %.300s, /readyz %s\n", in.name, page, ready)
		}
		return missing
	})
}

func awaitNoDenial(t *testing.T, instances []*instance) {
	t.Helper()
	eventually(t, "nothing is denied any more", func() string {
		for _, in := range instances {
			if _, ready := in.get("/readyz"); strings.Contains(ready, "denied") || strings.Contains(ready, "lacks rights") {
				return ready
			}
		}
		return ""
	})
}

func TestWhatPostgresDeniesIsNamedAndNothingIsLost(t *testing.T) {
	t.Parallel()
	server := testserver.NewPostgres(t)
	owner := stackOn(t, server.URL("postgres"), testserver.Redis(t))
	mustRun(t, 0, owner.variables(), "migrate", "up")
	change := func(statement string) {
		t.Helper()
		conn, err := pgx.Connect(t.Context(), owner.postgres)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(t.Context())
		if _, err := conn.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	change(`CREATE ROLE app LOGIN PASSWORD 'acl-password-7c2f';
		GRANT USAGE ON SCHEMA spendflush TO app;
		GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA spendflush TO app;
		GRANT USAGE ON ALL SEQUENCES IN SCHEMA spendflush TO app`)
	u, err := url.Parse(owner.postgres)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("app", "acl-password-7c2f")
	s := stackOn(t, u.String(), owner.redis)
	instances := s.startAll(2, "SPENDFLUSH_LOCK_TTL=1s")
	l := startLoad(t, instances, faultLoad())
	awaitMore(t, instances, "queue", 3)

	change("REVOKE INSERT ON spendflush.rollup FROM app")
	awaitDenial(t, instances, "42501")
	change("GRANT INSERT ON spendflush.rollup TO app")
	awaitMore(t, instances, "queue", 3)
	awaitNoDenial(t, instances)
	s.finish(instances, l)
}
