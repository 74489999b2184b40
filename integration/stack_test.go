package integration

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/pgstore"
)

// token is what the instances want to see of clients. It must not be in any log.
const token = "integration-token-7b1f3c"

// stack is what instances share.
type stack struct {
	t               testing.TB
	postgres, redis string // URLs
	id              spend.BooksID
	http            *http.Client
}

// newStack returns an empty database and an empty Redis on servers that the tests share.
func newStack(t testing.TB) *stack { return stackOn(t, testserver.Postgres(t), testserver.Redis(t)) }

func stackOn(t testing.TB, postgresURL, redisURL string) *stack {
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	t.Cleanup(transport.CloseIdleConnections)
	return &stack{t: t, postgres: postgresURL, redis: redisURL, http: &http.Client{Transport: transport, Timeout: patience}}
}

// openStore opens the books for the time of the test.
func (s *stack) openStore() *pgstore.Store {
	s.t.Helper()
	store, err := pgstore.Open(s.t.Context(), s.postgres, pgstore.Options{})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(store.Close)
	return store
}

// variables returns the settings of an instance or command on this stack. Those given come last and
// win.
func (s *stack) variables(more ...string) []string {
	return append([]string{
		"DATABASE_URL=" + s.postgres,
		"REDIS_URL=" + s.redis,
		"SPENDFLUSH_LISTEN=127.0.0.1:0",
		"SPENDFLUSH_TOKENS=" + token,
		"SPENDFLUSH_LOG_FORMAT=json",
		"SPENDFLUSH_LOG_LEVEL=debug",
		"SPENDFLUSH_DRAIN_DELAY=0s", // no balancer is before them
	}, more...)
}

// instance is a process that serves.
type instance struct {
	*process
	stack *stack
	url   string
}

// launch starts an instance and doesn't wait for it.
func (s *stack) launch(name string, variables ...string) *instance {
	s.t.Helper()
	variables = append([]string{"SPENDFLUSH_INSTANCE=" + name}, variables...)
	return &instance{process: launch(s.t, name, s.variables(variables...), "serve"), stack: s}
}

// awaitReady waits until the instance says that it is ready, in its log and over HTTP.
func (in *instance) awaitReady() *instance {
	in.t.Helper()
	in.said(&in.stderr, "that it is ready", func(line string) bool {
		var entry struct{ Msg, Listen, URL string }
		if json.Unmarshal([]byte(line), &entry) != nil || entry.Msg != "ready" {
			return false
		}
		in.url = cmp.Or(entry.URL, "http://"+entry.Listen) // older releases don't tell their URL
		return true
	})
	if status, body := in.get("/readyz"); status != http.StatusOK {
		in.t.Fatalf("%s: /readyz: %d %s", in.name, status, body)
	}
	return in
}

// start starts an instance and waits until it is ready.
func (s *stack) start(name string, variables ...string) *instance {
	s.t.Helper()
	return s.launch(name, variables...).awaitReady()
}

// startAll starts n instances at the same moment and waits until all are ready.
func (s *stack) startAll(n int, variables ...string) []*instance {
	s.t.Helper()
	all := make([]*instance, n)
	for i := range all {
		all[i] = s.launch(fmt.Sprintf("pod-%d", i), variables...)
	}
	for _, in := range all {
		in.awaitReady()
	}
	return all
}

// stopAll asks all instances to stop at the same moment and checks that each has drained.
func stopAll(instances []*instance) {
	for _, in := range instances {
		in.signal(syscall.SIGTERM)
	}
	for _, in := range instances {
		if status := in.wait(); status != 0 {
			in.t.Errorf("%s: exit status %d instead of 0", in.name, status)
		}
	}
}

func (in *instance) get(path string) (status int, body string) {
	in.t.Helper()
	status, body, err := in.stack.do(http.MethodGet, in.url+path, "", nil)
	if err != nil {
		in.t.Fatalf("%s: GET %s: %v", in.name, path, err)
	}
	return status, body
}

// do makes a request and reads the whole answer.
func (s *stack) do(method, url, contentType string, body io.Reader) (status int, answer string, err error) {
	request, err := http.NewRequestWithContext(context.Background(), method, url, body)
	if err != nil {
		return 0, "", err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	response, err := s.http.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	return response.StatusCode, string(content), err
}

// awaitCommitted waits until none of the instances holds anything that Postgres hasn't confirmed.
func awaitCommitted(t testing.TB, instances []*instance) {
	t.Helper()
	eventually(t, "all is committed", func() string {
		for _, in := range instances {
			m := in.metrics()
			if open := m.sum("spendflush_open_updates"); open > 0 {
				return fmt.Sprintf("%s has %v open updates", in.name, open)
			}
			if n := m.sum("spendflush_unconfirmed_batches"); n > 0 {
				return fmt.Sprintf("%s has %v unconfirmed batches", in.name, n)
			}
		}
		return ""
	})
}

// audit checks that the program finds the books in order, and says so to people and to programs.
func (s *stack) audit() {
	s.t.Helper()
	mustRun(s.t, 0, s.variables(), "audit")
	var report map[string]any
	text := mustRun(s.t, 0, s.variables(), "audit", "--json")
	if err := json.Unmarshal([]byte(text), &report); err != nil {
		s.t.Errorf("audit --json: %v\n%s", err, text)
	}
}

// checkSecrets fails if what a process has written holds a password or a token.
func (s *stack) checkSecrets(p *process) {
	s.t.Helper()
	secrets := []string{token}
	for _, u := range []string{s.postgres, s.redis} {
		if password := passwordOf(s.t, u); password != "" {
			secrets = append(secrets, password)
		}
	}
	for _, o := range []*output{&p.stdout, &p.stderr} {
		for line := range strings.Lines(o.String()) {
			for _, secret := range secrets {
				if strings.Contains(line, secret) {
					s.t.Errorf("%s writes a secret: %s", p.name, strings.ReplaceAll(line, secret, "<the secret>"))
				}
			}
		}
	}
}

// query returns the rows of a query, each scanned by position into a T, or into its fields.
func query[T any](t testing.TB, url string, to pgx.RowToFunc[T], statement string, args ...any) []T {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, statement, args...)
	if err != nil {
		t.Fatalf("%v\n%s", err, statement)
	}
	result, err := pgx.CollectRows(rows, to)
	if err != nil {
		t.Fatalf("%v\n%s", err, statement)
	}
	return result
}

// number returns the one number that a query yields.
func (s *stack) number(statement string, args ...any) int64 {
	s.t.Helper()
	return query(s.t, s.postgres, pgx.RowTo[int64], statement, args...)[0]
}
