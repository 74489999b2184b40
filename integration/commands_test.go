package integration

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/spendflush/spendflush/internal/lab/testserver"
)

func TestWrongSettingsAreAllNamedAtOnceAndSecretsNotShown(t *testing.T) {
	t.Parallel()
	status, stdout, stderr := run(t, []string{
		"REDIS_URL=http://user:hunter2@example.com",
		"USE_REDIS_TRANSACTION_BUFFER=perhaps",
		"SPENDFLUSH_LISTEN=0.0.0.0:80",
		"SPENDFLUSH_INSTANCE=two words",
		"SPENDFLUSH_SEAL_INTERVAL=soon",
		"SPENDFLUSH_FLUSH_INTERVAL=0s",
		"SPENDFLUSH_LOCK_TTL=1h",
		"SPENDFLUSH_SHARDS=65",
		"SPENDFLUSH_MAX_KEYS=-1",
		"SPENDFLUSH_ROLLUP_DIMENSIONS=model,colour",
		"SPENDFLUSH_LOG_LEVEL=loud",
	}, "serve")
	if status != 2 || stdout != "" {
		t.Errorf("exit status %d instead of 2; stdout %q", status, stdout)
	}
	for name, value := range map[string]string{
		"DATABASE_URL": "not set", "USE_REDIS_TRANSACTION_BUFFER": `"perhaps"`, "SPENDFLUSH_LISTEN": `"0.0.0.0:80"`,
		"SPENDFLUSH_INSTANCE": `"two words"`, "SPENDFLUSH_SEAL_INTERVAL": `"soon"`, "SPENDFLUSH_FLUSH_INTERVAL": `"0s"`,
		"SPENDFLUSH_LOCK_TTL": `"1h"`, "SPENDFLUSH_SHARDS": `"65"`, "SPENDFLUSH_MAX_KEYS": `"-1"`,
		"SPENDFLUSH_ROLLUP_DIMENSIONS": `"model,colour"`, "SPENDFLUSH_LOG_LEVEL": `"loud"`,
	} {
		found := 0
		for line := range strings.Lines(stderr) {
			if strings.Contains(line, name+":") {
				found++
				if !strings.Contains(line, value) || !strings.Contains(line, "allowed: ") {
					t.Errorf("%s: the message doesn't show %s and what is allowed: %s", name, value, line)
				}
			}
		}
		if found != 1 {
			t.Errorf("%s is named in %d lines instead of 1", name, found)
		}
	}
	if t.Failed() {
		t.Log(stderr)
	}
}

func TestSecretsThatCannotBeUsedAreNotShown(t *testing.T) {
	t.Parallel()
	for _, variables := range [][]string{
		{"DATABASE_URL=postgres://user:hunter2@[bad/db", "REDIS_URL=redis://localhost:1"},
		{"DATABASE_URL=postgres://user:hunter2@localhost:notaport/db", "REDIS_URL=redis://localhost:1"},
		{"DATABASE_URL=postgres://localhost:1/db", "REDIS_URL=http://user:hunter2@localhost"},
		{"DATABASE_URL=postgres://localhost:1/db", "REDIS_URL=redis://:hunter2@localhost:notaport"},
		{"DATABASE_URL=postgres://localhost:1/db", "REDIS_URL=redis://localhost:1", "SPENDFLUSH_TOKENS=hunter2"},
	} {
		status, stdout, stderr := run(t, append(variables, "SPENDFLUSH_LISTEN=127.0.0.1:0"), "serve")
		if status != 2 {
			t.Errorf("exit status %d instead of 2: %s", status, stderr)
		}
		if strings.Contains(stdout+stderr, "hunter2") || !strings.Contains(stderr, "_") {
			t.Errorf("the message shows a secret, or no name of a variable: %s", stderr)
		}
	}
}

func TestAVariableThatIsNoSettingEndsEveryCommandWithTheNearestName(t *testing.T) {
	t.Parallel()
	variables := []string{"DATABASE_URL=postgres://localhost:1/db", "REDIS_URL=redis://localhost:1", "SPENDFLUSH_TOKEN=hunter2", "SPENDFLUSH_PORT_4180_TCP_ADDR=10.0.0.1"}
	for _, args := range [][]string{
		{"serve"}, {"dev"}, {"migrate", "up"}, {"migrate", "status"}, {"flush"}, {"status"}, {"audit"}, {"books"}, {"books", "new-id", "--yes"},
		{"quarantine", "list"}, {"quarantine", "show", "1"}, {"quarantine", "apply", "1"}, {"quarantine", "drop", "1", "--yes"},
	} {
		const want = "  SPENDFLUSH_TOKEN: there is no such setting; the nearest is SPENDFLUSH_TOKENS, and `spendflush env` lists all\n"
		status, _, stderr := run(t, variables, args...)
		if status != 2 || stderr != "spendflush: settings:\n"+want {
			t.Errorf("%q: exit status %d, %s", args, status, stderr)
		}
	}
}

func TestVersionEnvAndHelpNeedNoSettings(t *testing.T) {
	t.Parallel()
	if got := mustRun(t, 0, nil, "version"); got != "spendflush "+testVersion+"\n" {
		t.Errorf("version: %q", got)
	}
	table := mustRun(t, 0, nil, "env")
	for _, line := range []string{
		"DATABASE_URL ", "REDIS_URL ", "USE_REDIS_TRANSACTION_BUFFER true ", "SPENDFLUSH_LISTEN 127.0.0.1:4180 ",
		"SPENDFLUSH_TOKENS ", "SPENDFLUSH_INSTANCE ", "SPENDFLUSH_SEAL_INTERVAL 200ms ", "SPENDFLUSH_FLUSH_INTERVAL 500ms ",
		"SPENDFLUSH_LOCK_TTL 800ms ", "SPENDFLUSH_SHARDS 1 ", "SPENDFLUSH_MAX_KEYS 1000000 ", "SPENDFLUSH_QUEUE_MAX_BYTES ",
		"SPENDFLUSH_ROLLUP_DIMENSIONS ", "SPENDFLUSH_SHUTDOWN_TIMEOUT 30s ", "SPENDFLUSH_LOG_LEVEL info ", "SPENDFLUSH_LOG_FORMAT ",
	} {
		if !strings.Contains("\n"+squeeze(table), "\n"+line) {
			t.Errorf("env doesn't list %q", line)
		}
	}
	help := mustRun(t, 0, nil, "help")
	for _, command := range []string{"serve", "dev", "migrate", "flush", "status", "audit", "quarantine", "env", "completion", "version"} {
		if !strings.Contains(help, "\n  "+command+" ") {
			t.Errorf("help doesn't list %s", command)
		}
	}
	for _, args := range [][]string{{"sreve"}, {"serve", "--fast"}, {"serve", "now"}, {"migrate"}, {"version", "please"},
		{"help", "sreve"}, {"help", "migrate", "down"}, {"completion"}, {"completion", "csh"}, {"completion", "bash", "zsh"}} {
		if status, _, stderr := run(t, nil, args...); status != 2 || !strings.HasPrefix(stderr, "spendflush: ") {
			t.Errorf("%q: exit status %d instead of 2: %s", args, status, stderr)
		}
	}
}

// squeeze makes one space of many.
func squeeze(table string) string {
	var lines []string
	for line := range strings.Lines(table) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return strings.Join(lines, "\n") + "\n"
}

// queueOfTheDead leaves batches in the queue, and nobody who flushes them. They are few: an
// instance whose batches aren't confirmed doesn't seal more than eight.
func queueOfTheDead(s *stack) *book {
	s.t.Helper()
	in := s.start("dead", "SPENDFLUSH_FLUSH_INTERVAL=1m", "SPENDFLUSH_SEAL_INTERVAL=20ms")
	_, _, safe := startLoad(s.t, []*instance{in}, loadOptions{clients: 1, updates: 60, most: 40, acks: []string{"queued"}}).stop()
	in.kill()
	return safe
}

func TestFlushCommandDrainsWhatTheDeadHaveLeft(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	safe := queueOfTheDead(s)
	queued := s.redisClient().XLen(t.Context(), s.queueKey(0)).Val()
	if queued == 0 {
		t.Fatal("nothing is in the queue")
	}
	want := fmt.Sprintf("batches in the queue: %d before, 0 after\n", queued)
	if got := mustRun(t, 0, s.variables(), "flush"); got != want {
		t.Errorf("flush: %q instead of %q", got, want)
	}
	s.check(safe)
	if got := mustRun(t, 0, s.variables(), "flush"); got != "batches in the queue: 0 before, 0 after\n" {
		t.Errorf("the second flush: %q", got)
	}
	s.check(safe)
	s.checkQuiet(1)
	s.audit()
	mustRun(t, 2, s.variables("USE_REDIS_TRANSACTION_BUFFER=false", "REDIS_URL="), "flush")
}

// A shell seldom has the settings of the instances. What it flushes is retained for their window
// all the same.
func TestFlushCommandRetainsForTheWindowOfTheInstances(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	in := s.start("dead", "SPENDFLUSH_FLUSH_INTERVAL=1m", "SPENDFLUSH_SEAL_INTERVAL=20ms", "SPENDFLUSH_REWIND_WINDOW=1h")
	window := strings.Replace(s.queueKey(0), ":queue", ":lastwindow", 1)
	eventually(t, "the instance publishes its window", func() (missing string) {
		if s.redisClient().Exists(t.Context(), window).Val() == 0 {
			return "it is not there"
		}
		return ""
	})
	startLoad(t, []*instance{in}, loadOptions{clients: 1, updates: 60, most: 40, acks: []string{"queued"}}).stop()
	in.kill()
	queued := s.redisClient().XLen(t.Context(), s.queueKey(0)).Val()
	mustRun(t, 0, s.variables(), "flush")
	retained := s.redisClient().XLen(t.Context(), strings.Replace(s.queueKey(0), ":queue", ":retained", 1)).Val()
	if queued == 0 || retained != queued {
		t.Errorf("of %d batches that were flushed %d are retained", queued, retained)
	}
	if changes := s.redisClient().Exists(t.Context(), strings.Replace(s.queueKey(0), ":queue", ":changes", 1)).Val(); changes != 1 {
		t.Error("it isn't published how many changes the books have had")
	}
}

func TestBatchesInARedisThatIsSwitchedOffAreToldOfAndCanBeFlushed(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	safe := queueOfTheDead(s)
	queued := s.redisClient().XLen(t.Context(), s.queueKey(0)).Val()
	off := []string{"USE_REDIS_TRANSACTION_BUFFER=false"}
	says := fmt.Sprintf("%d batches lie in the Redis that is switched off, and not in the books.", queued)

	in := s.start("direct", off...)
	in.said(&in.stderr, "that batches lie in Redis", func(line string) bool {
		return strings.Contains(line, `"level":"WARN"`) && strings.Contains(line, fmt.Sprintf(`"batches":%d,`, queued)) && strings.Contains(line, "spendflush flush")
	})
	if human := mustRun(t, 1, s.variables(off...), "status", "--check"); !strings.HasPrefix(human, says) || !strings.Contains(human, "spendflush flush") {
		t.Errorf("status: %s", human)
	}

	if got, want := mustRun(t, 0, s.variables(off...), "flush"), fmt.Sprintf("batches in the queue: %d before, 0 after\n", queued); got != want {
		t.Errorf("flush: %q instead of %q", got, want)
	}
	s.check(safe)
	s.audit()
	if human := mustRun(t, 0, s.variables(off...), "status", "--check"); !strings.HasPrefix(human, "Books exact") {
		t.Errorf("status: %s", human)
	}
	stopAll([]*instance{in})

	// A Redis that can't be reached, or a wrong URL, keeps nobody from starting without it.
	for _, url := range []string{"redis://:hunter2@127.0.0.1:1", "nonsense"} {
		in := s.start("direct", append(off, "REDIS_URL="+url)...)
		mustRun(t, 0, s.variables(append(off, "REDIS_URL="+url)...), "status", "--check")
		stopAll([]*instance{in})
	}
}

func TestAuditFindsATamperedBook(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	queueOfTheDead(s)
	mustRun(t, 0, s.variables(), "flush")
	s.audit()
	s.tamper()
	mustRun(t, 1, s.variables(), "audit")
	var report struct {
		OK *bool `json:"ok"`
	}
	text := mustRun(t, 1, s.variables(), "audit", "--json")
	if err := json.Unmarshal([]byte(text), &report); err != nil || report.OK == nil || *report.OK {
		t.Errorf("audit --json: %v\n%s", err, text)
	}
}

func TestDatabaseOfANewerProgramIsRefused(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	mustRun(t, 0, s.variables(), "migrate", "up")
	s.makeNewer()
	status, _, stderr := run(t, s.variables(), "serve")
	if status != 1 || !strings.Contains(stderr, "upgrade the program") {
		t.Errorf("exit status %d instead of 1: %s", status, stderr)
	}
}

func TestSigtermDrainsTheOpenMapAndExitsZero(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	in := s.start("only", "SPENDFLUSH_SEAL_INTERVAL=1m", "SPENDFLUSH_FLUSH_INTERVAL=100ms")
	_, recorded, _ := startLoad(t, []*instance{in}, loadOptions{clients: 1, updates: 500, most: 50, acks: []string{"accepted"}}).stop()
	if n := in.metrics().sum("spendflush_open_updates"); n != float64(recorded.updates) {
		t.Errorf("%v updates are open instead of %d: the test doesn't test what it says", n, recorded.updates)
	}
	in.stop(0)
	s.check(recorded)
	s.checkQuiet(1)
}

func TestSecondSignalStopsAtOnceAndSaysWhatIsLost(t *testing.T) {
	t.Parallel()
	postgres, redis := testserver.NewPostgres(t), testserver.NewRedis(t)
	s := stackOn(t, postgres.URL("postgres"), redis.URL())
	in := s.start("only", "SPENDFLUSH_SHUTDOWN_TIMEOUT=1h", "SPENDFLUSH_SEAL_INTERVAL=1m")
	for _, kill := range []func() error{postgres.Kill, redis.Kill} {
		if err := kill(); err != nil {
			t.Fatal(err)
		}
	}
	_, recorded, _ := startLoad(t, []*instance{in}, loadOptions{clients: 1, updates: 10, most: 5, acks: []string{"accepted"}}).stop()
	in.signal(syscall.SIGTERM)
	in.logged("another signal stops at once")
	in.signal(syscall.SIGTERM)
	if status := in.wait(); status != 1 {
		t.Errorf("exit status %d instead of 1", status)
	}
	in.logged(fmt.Sprintf(`"updates":%d,`, recorded.updates))
	s.checkSecrets(in.process)
}
