package integration

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/internal/servers"
)

// documentedRights returns the rights in docs/security.md as arguments of ACL SETUSER.
func documentedRights(t *testing.T) (args []string) {
	t.Helper()
	block := regexp.MustCompile("(?s)```\nACL SETUSER spendflush on (.*?)```").FindStringSubmatch(readText(t, "../docs/security.md"))
	if block == nil {
		t.Fatal("docs/security.md has no ACL SETUSER")
	}
	return strings.Fields(strings.Replace(block[1], ">PASSWORD", ">acl-password-7c2f", 1))
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
	for _, command := range [][]string{{"status"}, {"status", "--json"}, {"flush"}, {"audit"}} {
		status, stdout, stderr := run(t, s.variables("SPENDFLUSH_REWIND_WINDOW=30s", "SPENDFLUSH_SHARDS=2"), command...)
		if status != 0 || strings.Contains(stdout+stderr, "NOPERM") {
			t.Errorf("spendflush %s: exit status %d\n%s%s", strings.Join(command, " "), status, stdout, stderr)
		}
	}
	s.finish(instances, l)

	// Whatever was refused, also where nobody said so.
	denied, err := stackOn(t, "", server.URL()).redisClient().Do(t.Context(), "acl", "log").Slice()
	if err != nil || len(denied) > 0 {
		t.Errorf("Redis has refused: %v, %v", denied, err)
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
			if strings.Contains(page, "spendflushaccessdenied") && strings.Contains(page, says) && strings.Contains(ready, `"denied":`) &&
				strings.Contains(ready, says) && in.metrics().sum("spendflush_access_denied") > 0 {
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
			if _, ready := in.get("/readyz"); strings.Contains(ready, "denied") {
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
