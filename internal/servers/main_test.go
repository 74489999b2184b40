package servers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"
)

// parentVariable makes this test binary the parent of two servers, in the directory that it names.
const parentVariable = "SPENDFLUSH_TEST_PARENT"

func TestMain(m *testing.M) {
	if dir := os.Getenv(parentVariable); dir != "" {
		beParent(dir)
	}
	code := m.Run()
	if template.dir != "" {
		if err := os.RemoveAll(template.dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// template is the data that the tests' servers start with, made once.
var template struct {
	once sync.Once
	dir  string
	err  error
}

func makeTemplate() {
	if template.dir, template.err = os.MkdirTemp("", "spendflush-servers-"); template.err != nil {
		return
	}
	var p *Postgres
	p, template.err = StartPostgres(context.Background(), PostgresConfig{Dir: template.dir, Settings: quick})
	if template.err == nil {
		template.err = p.Stop(context.Background())
	}
}

// beParent starts two servers, says so, and waits to be killed.
func beParent(dir string) {
	p, err := StartPostgres(context.Background(), PostgresConfig{Dir: filepath.Join(dir, "postgres"), Settings: quick})
	if err == nil {
		var r *Redis
		if r, err = StartRedis(context.Background(), RedisConfig{Dir: filepath.Join(dir, "redis")}); err == nil {
			fmt.Println(p.PID(), r.PID())
			_, err = io.Copy(io.Discard, os.Stdin)
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// quick is for data that needn't survive the machine.
var quick = map[string]string{"fsync": "off"}

// tempDir makes a directory that other accounts can reach, unlike t.TempDir.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "spendflush-servers-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}

func startPostgres(t *testing.T, c PostgresConfig) *Postgres {
	t.Helper()
	c.Settings = quick
	if template.once.Do(makeTemplate); template.err != nil {
		t.Fatal(template.err)
	}
	c.Template = template.dir
	p, err := StartPostgres(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, p) })
	return p
}

func startRedis(t *testing.T, c RedisConfig) *Redis {
	t.Helper()
	r, err := StartRedis(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, r) })
	return r
}

func stop(t *testing.T, s interface{ Stop(context.Context) error }) {
	t.Helper()
	if err := s.Stop(context.Background()); err != nil {
		t.Error(err)
	}
}

func connect(t *testing.T, p *Postgres) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), p.URL(""))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func query[T any](t *testing.T, conn *pgx.Conn, sql string) (value T) {
	t.Helper()
	if err := conn.QueryRow(t.Context(), sql).Scan(&value); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return value
}

func client(t *testing.T, r *Redis) *redis.Client {
	t.Helper()
	o, err := redis.ParseURL(r.URL())
	if err != nil {
		t.Fatal(err)
	}
	c := redis.NewClient(o)
	t.Cleanup(func() { c.Close() })
	return c
}

// isGone reports whether the process has ended, waited for or not.
func isGone(t *testing.T, pid int) bool {
	t.Helper()
	out, err := exec.Command("ps", "-o", "stat=", "-p", fmt.Sprint(pid)).Output()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	}
	state := strings.TrimSpace(string(out))
	return state == "" || state[0] == 'Z'
}

func TestServersDieWithTheProcessThatStartedThemHoweverItDies(t *testing.T) {
	dir := tempDir(t)
	var stderr bytes.Buffer
	parent := exec.CommandContext(t.Context(), os.Args[0])
	parent.Env = append(os.Environ(), parentVariable+"="+dir)
	parent.Stderr = &stderr
	if _, err := parent.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	var postgres, redis int
	if _, err := fmt.Fscan(stdout, &postgres, &redis); err != nil {
		parent.Process.Kill()
		parent.Wait()
		t.Fatalf("the parent told no process ids: %v; it said %q", err, stderr.String())
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	parent.Wait()
	// Only the test's own time limit ends this: how long a server takes to end is its affair.
	for _, pid := range []int{postgres, redis} {
		for !isGone(t, pid) {
			time.Sleep(pollInterval)
		}
	}
	startPostgres(t, PostgresConfig{Dir: filepath.Join(dir, "postgres")})
	startRedis(t, RedisConfig{Dir: filepath.Join(dir, "redis")})
}

func TestServersAreInAProcessGroupOfTheirOwnSoThatCtrlCDoesNotReachThem(t *testing.T) {
	r := startRedis(t, RedisConfig{Dir: tempDir(t)})
	group, err := syscall.Getpgid(r.PID())
	if err != nil {
		t.Fatal(err)
	}
	if group != r.PID() {
		t.Errorf("process %d is in group %d", r.PID(), group)
	}
}

func TestAPortInUseIsNamed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	for _, start := range []func(dir string) error{
		func(dir string) error {
			_, err := StartPostgres(t.Context(), PostgresConfig{Dir: dir, Port: port, Settings: quick})
			return err
		},
		func(dir string) error {
			_, err := StartRedis(t.Context(), RedisConfig{Dir: dir, Port: port})
			return err
		},
	} {
		err := start(tempDir(t))
		if e, ok := errors.AsType[*PortInUseError](err); !ok || e.Port != port {
			t.Errorf("error %v, want a *PortInUseError with %d", err, port)
		}
	}
}

func TestAPortThatSomebodyElseIsQuickerToTakeIsReplacedByAnother(t *testing.T) {
	r := startRedis(t, RedisConfig{Dir: tempDir(t)})
	stop(t, r)
	r.port = 0 // as before the first start
	command, taken := r.command, 0
	r.command = func(port int) (*exec.Cmd, error) {
		if taken == 0 {
			taken = port
			l, err := net.Listen("tcp", address(port))
			if err != nil {
				return nil, err
			}
			t.Cleanup(func() { l.Close() })
		}
		return command(port)
	}
	if err := r.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer stop(t, r)
	if r.Port() == taken || r.Port() == 0 {
		t.Errorf("the server is on port %d, and %d was taken", r.Port(), taken)
	}
	if err := client(t, r).Ping(t.Context()).Err(); err != nil {
		t.Error(err)
	}
}

func TestTwoServersCanNotShareADirectory(t *testing.T) {
	dir := tempDir(t)
	r := startRedis(t, RedisConfig{Dir: dir})
	_, err := StartRedis(t.Context(), RedisConfig{Dir: dir})
	if e, ok := errors.AsType[*DirInUseError](err); !ok || e.Dir != dir {
		t.Errorf("error %v, want a *DirInUseError with %s", err, dir)
	}
	if err := client(t, r).Ping(t.Context()).Err(); err != nil {
		t.Errorf("the first server after that: %v", err)
	}
}

func TestAServerLeftRunningIsEndedBeforeItsDirectoryIsUsedAgain(t *testing.T) {
	t.Run("postgres", func(t *testing.T) {
		dir := tempDir(t)
		left := startPostgres(t, PostgresConfig{Dir: dir})
		connect(t, left) // a client doesn't hold it up
		left.unlock()    // as the death of its parent would
		startPostgres(t, PostgresConfig{Dir: dir})
		<-left.Done()
	})
	t.Run("redis, paused", func(t *testing.T) {
		dir := tempDir(t)
		left := startRedis(t, RedisConfig{Dir: dir})
		if err := left.Pause(); err != nil {
			t.Fatal(err)
		}
		left.unlock()
		startRedis(t, RedisConfig{Dir: dir})
		<-left.Done()
	})
}

func TestAPidFileThatNamesSomebodyElseHarmsNobody(t *testing.T) {
	dir := tempDir(t)
	stranger := startPostgres(t, PostgresConfig{Dir: tempDir(t)})
	stop(t, startPostgres(t, PostgresConfig{Dir: dir}))
	// The machine went down, and now another process has the number.
	pidFile := filepath.Join(dir, "data", "postmaster.pid")
	if err := os.WriteFile(pidFile, fmt.Appendf(nil, "%d\n", stranger.PID()), 0o644); err != nil {
		t.Fatal(err)
	}
	startPostgres(t, PostgresConfig{Dir: dir})
	query[int](t, connect(t, stranger), "SELECT 1")
}

func TestAServerThatRefusesToStartIsQuotedAndLeavesItsDirectoryFree(t *testing.T) {
	t.Run("postgres", func(t *testing.T) {
		dir := tempDir(t)
		_, err := StartPostgres(t.Context(), PostgresConfig{
			Dir: dir, Settings: map[string]string{"fsync": "off", "work_mem": "a lot"}})
		if !errors.Is(err, ErrEnded) || !strings.Contains(err.Error(), "a lot") {
			t.Errorf("error %v, want ErrEnded with what the server said", err)
		}
		startPostgres(t, PostgresConfig{Dir: dir})
	})
	t.Run("redis", func(t *testing.T) {
		dir := tempDir(t)
		_, err := StartRedis(t.Context(), RedisConfig{Dir: dir, Args: []string{"--databases", "none"}})
		if !errors.Is(err, ErrEnded) || !strings.Contains(err.Error(), "databases") {
			t.Errorf("error %v, want ErrEnded with what the server said", err)
		}
		startRedis(t, RedisConfig{Dir: dir})
	})
}

func TestAStartThatIsGivenUpLeavesNothingRunning(t *testing.T) {
	dir := tempDir(t)
	r := startRedis(t, RedisConfig{Dir: dir})
	stop(t, r)
	ctx, cancel := context.WithCancel(t.Context())
	probe := r.probe
	r.probe = func(context.Context, int) error {
		cancel() // while the server starts
		return errors.New("no answer")
	}
	if err := r.Restart(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that of the context", err)
	}
	<-r.Done()
	r.probe = probe
	if err := r.Restart(t.Context()); err != nil {
		t.Errorf("the next start: %v", err)
	}
}

func TestTheLogGoesToTheWriterToo(t *testing.T) {
	var log lockedBuffer
	r := startRedis(t, RedisConfig{Dir: tempDir(t), Log: &log})
	stop(t, r)
	file, err := os.ReadFile(filepath.Join(r.Dir(), "redis.log"))
	if err != nil {
		t.Fatal(err)
	}
	if log.String() != string(file) || len(file) == 0 {
		t.Errorf("the writer got %q, the file has %q", log.String(), file)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
