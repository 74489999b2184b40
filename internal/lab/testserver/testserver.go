package testserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

const (
	startTimeout = 2 * time.Minute // an image may have to be pulled first
	stopTimeout  = 30 * time.Second
)

// Main runs the tests of a package, stops the servers, calls each of after, fails if a goroutine is left, and
// exits.
func Main(m *testing.M, after ...func() error) {
	code := m.Run()
	errs := []error{end()}
	for _, f := range after {
		errs = append(errs, f())
	}
	if err := errors.Join(errs...); err != nil {
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
	name          string
	local, docker func(context.Context) (url string, err error)
	version       func(ctx context.Context, url string) (string, error)

	once sync.Once
	url  string
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
	mode := os.Getenv("SPENDFLUSH_TEST_SERVERS")
	switch mode {
	case "local":
		s.use("a program of this machine, as SPENDFLUSH_TEST_SERVERS asks", s.local)
	case "docker":
		s.use("a container, as SPENDFLUSH_TEST_SERVERS asks", s.docker)
	case "", "auto":
		if s.use("a container", s.docker); s.err != nil {
			s.use(fmt.Sprintf("a program of this machine, for want of a container: %v", s.err), s.local)
		}
	default:
		s.err = fmt.Errorf("SPENDFLUSH_TEST_SERVERS is %q; auto, local and docker are allowed", mode)
	}
}

// use starts the server in one way. What that is, is said where everybody sees it, whichever test comes first.
func (s *shared) use(what string, start func(context.Context) (string, error)) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if s.url, s.err = start(ctx); s.err != nil {
		return
	}
	version, err := s.version(ctx, s.url)
	if err != nil {
		s.err = fmt.Errorf("ask for the version: %w", err)
		return
	}
	fmt.Fprintf(os.Stderr, "testserver: %s %s is %s\n", s.name, version, what)
}

var (
	endsMu sync.Mutex
	ends   []func(context.Context) error
)

// atEnd has f called when all tests have run; the last one added is the first one called.
func atEnd(f func(context.Context) error) {
	endsMu.Lock()
	defer endsMu.Unlock()
	ends = append(ends, f)
}

func end() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	endsMu.Lock()
	defer endsMu.Unlock()
	var errs []error
	for _, f := range slices.Backward(ends) {
		errs = append(errs, f(ctx))
	}
	return errors.Join(errs...)
}

const tempPrefix = "spendflush-test-"

// tempDir makes a directory for a server. Not t.TempDir: a server of another account couldn't pass through it.
func tempDir() (string, error) {
	sweepOnce()
	return os.MkdirTemp("", tempPrefix)
}

// sweepOnce removes what tests left behind that were killed or ran out of time.
var sweepOnce = sync.OnceFunc(func() { sweep(os.TempDir(), time.Now().Add(-24*time.Hour)) })

// sweep removes our directories in dir that nobody has touched since then. Errors are ignored: they may belong to
// others.
func sweep(dir string, then time.Time) {
	old, _ := filepath.Glob(filepath.Join(dir, tempPrefix+"*")) // the pattern is well-formed
	for _, path := range old {
		if st, err := os.Stat(path); err == nil && st.ModTime().Before(then) {
			_ = os.RemoveAll(path)
		}
	}
}

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
