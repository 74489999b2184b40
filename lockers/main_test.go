package lockers_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/lockers/pglock"
	"github.com/spendflush/spendflush/lockers/redislock"
	"github.com/spendflush/spendflush/migrations"
	"github.com/spendflush/spendflush/spend"
)

// childEnv makes this program a process that holds a lock: "URL TTL NAME".
const childEnv = "SPENDFLUSH_TEST_LOCK_HOLDER"

const childOwner = "child"

func TestMain(m *testing.M) {
	if told := os.Getenv(childEnv); told != "" {
		if err := hold(strings.Fields(told)); err != nil {
			fmt.Println("failed:", err)
			os.Exit(1)
		}
		return
	}
	testserver.Main(m)
}

// database returns the URL of a new database with the tables in it.
func database(t testing.TB) string {
	t.Helper()
	url := testserver.Postgres(t)
	if _, err := migrations.Up(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	return url
}

// hold takes a lock and says on standard output when it has it and when it has lost it. It ends
// with its parent.
func hold(told []string) error {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}()
	ctx, url, name := context.Background(), told[0], told[2]
	ttl, err := time.ParseDuration(told[1])
	if err != nil {
		return err
	}
	var locker spend.Locker
	if strings.HasPrefix(url, "redis") {
		o, err := redis.ParseURL(url)
		if err != nil {
			return err
		}
		o.ContextTimeoutEnabled = true
		locker = testserver.Must(redislock.New(redis.NewClient(o), childOwner, redislock.Options{TTL: ttl}))
	} else {
		pool, err := pgxpool.New(ctx, url)
		if err != nil {
			return err
		}
		locker = pglock.New(pool, childOwner).WithTTL(ttl)
	}
	lease, err := locker.Acquire(ctx, name)
	if err != nil {
		return err
	}
	fmt.Println("held")
	<-lease.Lost()
	fmt.Println("lost")
	return lease.Release(ctx)
}

// child is a process that holds a lock.
type child struct {
	cmd    *exec.Cmd
	output *bufio.Reader
}

// startChild returns when the child holds the lock. It is killed when the test ends, if it isn't
// gone.
func startChild(t testing.TB, url string, ttl time.Duration, name string) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %s", childEnv, url, ttl, name))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{cmd, bufio.NewReader(output)}
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	c.expect(t, "held")
	return c
}

// expect waits for the next line that the child says.
func (c *child) expect(t testing.TB, want string) {
	t.Helper()
	if line, err := c.output.ReadString('\n'); strings.TrimSpace(line) != want {
		t.Fatalf("the holder said %q, %v; want %q", line, err, want)
	}
}

func (c *child) signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	if err := c.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// acquireSoon tries until the lock is won.
func acquireSoon(t testing.TB, l spend.Locker, name string) spend.Lease {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		lease, err := l.Acquire(ctx, name)
		if err == nil {
			t.Cleanup(func() { _ = lease.Release(context.Background()) })
			return lease
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("the lock can't be won: %v", err)
		}
	}
}
