package testserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

const (
	startTimeout = 2 * time.Minute // an image may have to be pulled first
	stopTimeout  = 30 * time.Second
)

// Main runs the tests of a package, stops the shared servers, fails if a goroutine is left, and exits.
func Main(m *testing.M) {
	code := m.Run()
	if err := stopShared(); err != nil {
		fmt.Fprintln(os.Stderr, "testserver:", err)
		code = max(code, 1)
	}
	if code == 0 {
		// After a failure a leak would only hide what failed.
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, "testserver: goroutines are left:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// shared is a server that the tests of a package share.
type shared struct {
	name   string
	local  func(ctx context.Context) (url string, stop func(context.Context) error, err error)
	docker func(ctx context.Context) (url string, stop func(context.Context) error, err error)

	once sync.Once
	url  string
	stop func(context.Context) error
	err  error
}

// get starts the server when first called. It blocks until the server answers, and fails the test if it doesn't.
func (s *shared) get(t testing.TB) string {
	t.Helper()
	s.once.Do(s.start)
	if s.err != nil {
		t.Fatalf("testserver: %s: %v", s.name, s.err)
	}
	return s.url
}

func (s *shared) start() {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	mode := strings.ToLower(os.Getenv("SPENDFLUSH_TEST_SERVERS"))
	switch mode {
	case "", "auto", "local", "docker":
	default:
		s.err = fmt.Errorf("SPENDFLUSH_TEST_SERVERS is %q; auto, local and docker are allowed", mode)
		return
	}
	note := "a local program, as SPENDFLUSH_TEST_SERVERS asks"
	if mode != "local" {
		if s.err = dockerAnswers(ctx); s.err == nil {
			s.url, s.stop, s.err = s.docker(ctx)
		}
		if s.err == nil {
			say(s.name, "a container")
			return
		}
		if mode == "docker" {
			return
		}
		note = fmt.Sprintf("a local program, for there is no container: %v", s.err)
	}
	say(s.name, note)
	s.url, s.stop, s.err = s.local(ctx)
}

// say writes a line that is seen whatever test runs.
func say(name, note string) { fmt.Fprintf(os.Stderr, "testserver: %s is %s\n", name, note) }

func stopShared() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	var errs []error
	for _, s := range []*shared{&sharedPostgres, &sharedRedis} {
		s.once.Do(func() {}) // from now on nobody starts it
		if s.stop != nil {
			errs = append(errs, s.stop(ctx))
		}
	}
	return errors.Join(errs...)
}

// tempDir makes a directory for a server. Not t.TempDir: a server of another account couldn't pass through it.
func tempDir() (string, error) { return os.MkdirTemp("", "spendflush-test-") }

// showLog puts the end of a server's log into the log of a test that failed.
func showLog(t testing.TB, path string) {
	const maxBytes = 8192
	if !t.Failed() {
		return
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Log(err)
		return
	}
	t.Logf("end of %s:\n%s", path, content[max(0, len(content)-maxBytes):])
}
