package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush/internal/lab/faultproxy"
	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/internal/servers"
	"github.com/spendflush/spendflush/queues/redisqueue"
)

const (
	tortureTTL         = time.Second     // of the lock
	tortureGapGrace    = 5 * time.Second // after which a gap that nobody fills is passed, where the program can do that
	tortureConnections = 5               // of an instance to Postgres
)

// rig is what a torture runs on: servers that it may break, and places for instances, each behind
// proxies of its own. Only the test's goroutine uses it; clients and watchers get at a place's run,
// and at the URLs.
type rig struct {
	t       testing.TB
	options tortureOptions
	rng     *rand.Rand // what the schedule is made of, and nothing else
	*stack             // past the proxies
	server  struct {
		postgres *servers.Postgres
		redis    *servers.Redis
	}
	disk        string // the small disk that Postgres is on, "" if it couldn't be mounted
	noDisk      error  // and why
	shards      int
	postgresURL string // of instances, but for what proxies are in between
	cluster     *testserver.RedisCluster
	sentinels   *testserver.RedisSentinels
	couple      *couple
	fronts      [2]*faultproxy.Proxy // before the servers of the couple
	behind      *servers.Postgres    // what the second of them leads to
	client      redis.UniversalClient
	single      *redis.Client // of the one Redis, nil if there are several
	places      []*place
	runs        []*podRun // all there ever were
	started     time.Time
	alone       bool // the fault being applied is the only one
	clients     *tortureLoad
	watch       *tortureWatch
	tally       map[string]*tally
	takeover    []time.Duration
	midFlush    [2]int         // holders killed in mid-flush, and otherwise
	lostReplies map[string]int // by what they were to
	gapGrace    bool           // the program under test knows of it
}

// place is where one instance at a time runs.
type place struct {
	number          int
	postgres, redis *faultproxy.Proxy // nil where there are several servers
	count           int
	run             atomic.Pointer[podRun] // the last one started
}

// podRun is an instance from its start to its end: a producer. All ids of the updates sent to it
// begin with its name.
type podRun struct {
	*instance
	place    *place
	gone     atomic.Bool // no more requests are to be sent
	inFlight atomic.Int64
	killed   bool
	// exposed: Redis lost its data while what this run had in there may not have been in Postgres
	// yet.
	exposed bool
	// settled: it has ended, and nothing of it is in Redis any more.
	settled bool

	producer string // as it has logged; see producerID
}

func newRig(t testing.TB, o tortureOptions, instances int) *rig {
	t.Helper()
	x := &rig{
		t: t, options: o, rng: rand.New(rand.NewPCG(o.seed, 0)), started: time.Now(), tally: map[string]*tally{}, lostReplies: map[string]int{},
	}
	t.Logf("seed %d; to run it again: %s", o.seed, o.command())
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("FAILED with seed %d; to run it again: %s", o.seed, o.command())
		}
	})
	if o.where != ofStandby {
		x.mountDisk()
	}
	x.openServers()
	client, err := redisqueue.Dial(x.stack.redis)
	x.try("dial Redis", err)
	t.Cleanup(func() { client.Close() })
	x.client = client
	x.gapGrace = strings.Contains(mustRun(t, 0, nil, "env"), "SPENDFLUSH_GAP_GRACE")
	for n := range instances {
		p := &place{number: n}
		if x.couple == nil {
			p.postgres = faultproxy.New(t, hostOf(t, x.stack.postgres))
		}
		if x.single != nil {
			p.redis = faultproxy.New(t, hostOf(t, x.stack.redis))
		}
		x.places = append(x.places, p)
	}
	for _, p := range x.places {
		x.start(p)
	}
	x.recover()
	return x
}

// note says what happens, with the time since the start.
func (x *rig) note(format string, args ...any) {
	x.t.Helper()
	x.t.Logf("%7.2fs %s", time.Since(x.started).Seconds(), fmt.Sprintf(format, args...))
}

// try ends the test if a fault couldn't be applied or healed.
func (x *rig) try(what string, err error) {
	x.t.Helper()
	if err != nil {
		x.t.Fatalf("%7.2fs %s: %v", time.Since(x.started).Seconds(), what, err)
	}
}

// directory makes one that servers of other accounts can pass through.
func (x *rig) directory() string {
	x.t.Helper()
	dir, err := os.MkdirTemp("", "spendflush-test-torture-")
	x.try("directory", err)
	x.t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			x.t.Error(err)
		}
	})
	return dir
}

// mountDisk makes a small disk for Postgres, where we may.
func (x *rig) mountDisk() {
	dir := x.directory()
	size := "320m"
	if x.options.long {
		size = "1g"
	}
	if output, err := exec.Command("mount", "-t", "tmpfs", "-o", "mode=0755,size="+size, "tmpfs", dir).CombinedOutput(); err != nil {
		x.noDisk = fmt.Errorf("mount a tmpfs: %w: %s", err, strings.TrimSpace(string(output)))
		x.note("NO DISK WILL BE FULL IN THIS RUN, for that needs the right to mount: %v", x.noDisk)
		return
	}
	x.disk = dir
	x.t.Cleanup(func() {
		// Postgres's log is closed a moment after its end.
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			output, err := exec.Command("umount", dir).CombinedOutput()
			if err == nil {
				return
			}
			if time.Now().After(deadline) {
				x.t.Errorf("umount %s: %v: %s", dir, err, output)
				return
			}
		}
	})
}

func hostOf(t testing.TB, text string) string {
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}

// through returns the URL with another host, and an application name if one is given.
func through(t testing.TB, text, host, application string) string {
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = host
	if application != "" {
		q := u.Query()
		q.Set("application_name", application)
		u.RawQuery = q.Encode()
	}
	return u.String()
}

// start starts an instance and doesn't wait until it is ready, for that may take until a fault has
// ended. Its port is a fresh one, so that no request meant for an earlier run gets to it.
func (x *rig) start(p *place) *podRun {
	x.t.Helper()
	p.count++
	name := fmt.Sprintf("pod-%d.%d", p.number, p.count)
	postgresURL, redisURL := x.postgresURL+"&application_name="+name, x.stack.redis
	if p.postgres != nil {
		postgresURL = through(x.t, postgresURL, p.postgres.Addr(), "")
	}
	if p.redis != nil {
		redisURL = through(x.t, redisURL, p.redis.Addr(), "")
	}
	s := stackOn(x.t, postgresURL, redisURL)
	address := fmt.Sprintf("127.0.0.1:%d", freePort(x.t))
	r := &podRun{place: p, instance: s.launch(name,
		"SPENDFLUSH_LISTEN="+address, fmt.Sprint("SPENDFLUSH_LOCK_TTL=", tortureTTL), fmt.Sprint("SPENDFLUSH_SHARDS=", x.shards),
		fmt.Sprint("SPENDFLUSH_MAX_CONNECTIONS=", tortureConnections), fmt.Sprint("SPENDFLUSH_GAP_GRACE=", tortureGapGrace),
		"SPENDFLUSH_SHUTDOWN_TIMEOUT=2m")}
	r.url = "http://" + address
	x.runs = append(x.runs, r)
	p.run.Store(r)
	return r
}

// freePort finds a port to listen on, clear of those that systems give to outgoing connections.
func freePort(t testing.TB) int {
	t.Helper()
	for range 100 {
		port := 10240 + rand.IntN(20000)
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

// kill is kill -9. Nothing is waited for but the end of the process.
func (x *rig) kill(r *podRun) {
	r.gone.Store(true)
	r.killed = true
	r.process.kill()
	r.stack.http.CloseIdleConnections()
}

// askToStop sends SIGTERM. First takes the run out of the clients' sight, as one does with a load
// balancer, if so wanted.
func (x *rig) askToStop(r *podRun, announced bool) {
	x.t.Helper()
	r.gone.Store(announced)
	if announced {
		x.await(r.name+" has answered all requests", patience, func() string {
			if n := r.inFlight.Load(); n > 0 {
				return fmt.Sprint(n, " are under way")
			}
			return ""
		})
	}
	r.signal(syscall.SIGTERM)
}

// awaitStop waits for the end of a run that was asked to stop; it must have drained.
func (x *rig) awaitStop(r *podRun) {
	x.t.Helper()
	select {
	case <-r.done:
	case <-time.After(150 * time.Second):
		r.signal(syscall.SIGQUIT) // its goroutines get into its output
		x.t.Fatalf("%s doesn't stop", r.name)
	}
	r.gone.Store(true)
	r.stack.http.CloseIdleConnections()
	if status := r.cmd.ProcessState.ExitCode(); status != 0 {
		x.t.Errorf("%s: exit status %d instead of 0 after SIGTERM", r.name, status)
	}
}

// alive returns the runs that haven't ended.
func (x *rig) alive() (all []*podRun) {
	for _, p := range x.places {
		if r := p.run.Load(); r != nil && r.running() {
			all = append(all, r)
		}
	}
	return all
}

// holder returns the run that holds the lock as its status is stored in Redis, nil if nobody does
// or Redis is away.
func (x *rig) holder() *podRun {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	value, _ := x.client.Get(ctx, x.lockKey(0)).Result()
	name, _, _ := strings.Cut(value, "#")
	for _, r := range x.alive() {
		if r.name == name {
			return r
		}
	}
	return nil
}

// anyRun returns a run by the schedule.
func (x *rig) anyRun() *podRun {
	alive := x.alive()
	if len(alive) == 0 {
		x.t.Fatal("no instance runs")
	}
	return alive[x.rng.IntN(len(alive))]
}

// await waits until met returns "", and says how long that took.
func (x *rig) await(what string, most time.Duration, met func() (missing string)) time.Duration {
	x.t.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	last := ""
	for start := time.Now(); ; <-ticker.C {
		missing := met()
		took := time.Since(start)
		if missing == "" {
			if took > 5*time.Second {
				x.note("%s only after %s; before: %s", what, took.Round(time.Millisecond), last)
			}
			return took
		}
		last = missing
		if took > most {
			x.t.Fatalf("%7.2fs %s: not within %s: %s", time.Since(x.started).Seconds(), what, most, missing)
		}
	}
}

// status is of /v1/status what is needed here.
type tortureStatus struct {
	Producer string `json:"producer"`
	Shards   []struct {
		Confirmed uint64 `json:"confirmed_sequence"`
		Sealed    uint64 `json:"sealed_sequence"`
		Fallback  bool   `json:"fallback"`
	} `json:"shards"`
}

func (r *podRun) status(shards int) (s tortureStatus, err error) {
	code, body, err := r.stack.do(http.MethodGet, r.url+"/v1/status", "", nil)
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal([]byte(body), &s); err != nil || code != http.StatusOK || len(s.Shards) != shards {
		return s, fmt.Errorf("%d %.200s %w", code, body, err)
	}
	return s, nil
}

// database runs f on a connection past the proxies.
func (x *rig) database(f func(ctx context.Context, conn *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, x.stack.postgres)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return f(ctx, conn)
}

// sql runs statements one after the other, and goes on trying while Postgres can't be reached.
func (x *rig) sql(statements ...string) {
	x.t.Helper()
	x.await(statements[0], patience, func() string {
		err := x.database(func(ctx context.Context, conn *pgx.Conn) error {
			for _, statement := range statements {
				if _, err := conn.Exec(ctx, statement); err != nil {
					return fmt.Errorf("%s: %w", statement, err)
				}
			}
			return nil
		})
		if err != nil {
			return err.Error()
		}
		return ""
	})
}

// slowPostgres makes the place's way to Postgres slow, where it has one of its own.
func (p *place) slowPostgres(d time.Duration) {
	if p.postgres != nil {
		p.postgres.Delay(d)
	}
}
