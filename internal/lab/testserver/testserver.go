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
	startTimeout = 2 * time.Minute
	stopTimeout  = 30 * time.Second
	pollInterval = 50 * time.Millisecond
)

// Main runs the tests of a package, stops the servers, calls each of after, fails if a goroutine is
// left, and exits.
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

// PostgresVariable and RedisVariable name the variables with the URLs of servers that the tests are
// to use.
const (
	PostgresVariable = "SPENDFLUSH_TEST_POSTGRES_URL"
	RedisVariable    = "SPENDFLUSH_TEST_REDIS_URL"
)

// shared is a server that the tests of a package share.
type shared struct {
	name     string
	variable string // has the URL of one that runs already
	local    func(context.Context) (url string, err error)
	inspect  func(ctx context.Context, url string) (inspection, error)

	once sync.Once
	url  string
	err  error
}

// get starts the server when first called. It blocks until the server answers, and fails the test
// if it doesn't.
func (s *shared) get(t testing.TB) string {
	t.Helper()
	s.once.Do(s.start)
	if s.err != nil {
		t.Fatalf("testserver: %s: %v", s.name, s.err)
	}
	return s.url
}

// inspection is what a server tells of itself.
type inspection struct {
	version string
	holds   string // what is in it, "" if it is empty
}

func (s *shared) start() {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	given := os.Getenv(s.variable)
	switch mode := os.Getenv("SPENDFLUSH_TEST_SERVERS"); {
	case mode == "local" || given == "" && (mode == "" || mode == "auto"):
		s.err = s.useLocal(ctx)
	case given != "" && (mode == "" || mode == "auto" || mode == "docker"):
		s.err = s.useGiven(ctx, given)
	case mode == "docker":
		s.err = fmt.Errorf("SPENDFLUSH_TEST_SERVERS asks for a container, and %s isn't set: make containers starts one and sets it", s.variable)
	default:
		s.err = fmt.Errorf("SPENDFLUSH_TEST_SERVERS is %q; auto, local and docker are allowed", mode)
	}
}

func (s *shared) useLocal(ctx context.Context) (err error) {
	if s.url, err = s.local(ctx); err != nil {
		return err
	}
	is, err := s.inspect(ctx, s.url)
	if err != nil {
		return err
	}
	s.tell(is, "a program of this machine")
	return nil
}

// useGiven uses a server that runs already. Tests delete what is in it, so there must be nothing.
func (s *shared) useGiven(ctx context.Context, url string) error {
	is, err := s.inspect(ctx, url)
	if err != nil {
		return fmt.Errorf("the one that %s names: %w", s.variable, err)
	}
	if is.holds != "" {
		return fmt.Errorf("the one that %s names isn't empty: it has %s; tests use only an empty one, and one package at a time", s.variable, is.holds)
	}
	s.url = url
	s.tell(is, "the one that "+s.variable+" names")
	return nil
}

// tell says what the tests use where everybody sees it, whichever test comes first.
func (s *shared) tell(is inspection, what string) {
	fmt.Fprintf(os.Stderr, "testserver: %s %s is %s\n", s.name, is.version, what)
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

// tempDir makes a directory for a server. Not t.TempDir: a server of another account couldn't pass
// through it.
func tempDir() (string, error) {
	sweepOnce()
	return os.MkdirTemp("", tempPrefix)
}

// sweepOnce removes what tests left behind that were killed or ran out of time.
var sweepOnce = sync.OnceFunc(func() { sweep(os.TempDir(), time.Now().Add(-24*time.Hour)) })

// sweep removes our directories in dir that nobody has touched since then. Errors are ignored: they
// may belong to others.
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

// Must returns what a constructor has made, and panics if it failed: what a test gives it is right.
func Must[T any](made T, err error) T {
	if err != nil {
		panic(err)
	}
	return made
}
