package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush/internal/lab/testserver"
)

// appRole is the role of the instances where it isn't the owner of the tables.
const appRole = "spendflush_app"

// asAppRole returns the stack as a role without any rights sees it. The server is the test's own.
func asAppRole(t *testing.T, s *stack) *stack {
	t.Helper()
	return stackOn(t, testserver.Role(t, s.postgres, appRole), s.redis)
}

func grant(t *testing.T, s *stack) {
	t.Helper()
	testserver.Grant(t, s.postgres, "../docs/runbook.md", appRole)
}

// awaitState waits until /readyz answers with the status and a body that holds the text.
func (in *instance) awaitState(want int, text string) {
	in.t.Helper()
	eventually(in.t, fmt.Sprintf("/readyz of %s says %d %q", in.name, want, text), func() string {
		if status, body := in.get("/readyz"); status != want || !strings.Contains(body, text) {
			return fmt.Sprintf("%d %s", status, body)
		}
		return ""
	})
}

// launchOn starts an instance on a free port of its own and waits until it answers, ready or not.
func (s *stack) launchOn(name string, variables ...string) *instance {
	s.t.Helper()
	address := freeAddress(s.t)
	in := s.launch(name, append(variables, "SPENDFLUSH_LISTEN="+address)...)
	in.url = "http://" + address
	eventually(s.t, name+" answers", func() string {
		if _, _, err := s.do(http.MethodGet, in.url+"/healthz", "", nil); err != nil {
			return err.Error()
		}
		return ""
	})
	return in
}

func (in *instance) record(amount int) (status int, answer string) {
	in.t.Helper()
	status, answer, err := in.postUpdates("accepted", "application/json", fmt.Appendf(nil, `{"spend": %d, "team_id": "team"}`, amount))
	if err != nil {
		in.t.Fatal(err)
	}
	return status, answer
}

func TestADatabaseThatTheRoleCanNotMigrateSendsToItsOwnerAndIsNotWaitedForInMemory(t *testing.T) {
	t.Parallel()
	owner := stackOn(t, testserver.NewPostgres(t).URL(""), testserver.Redis(t))
	s := asAppRole(t, owner)
	in := s.launchOn("pod-0")
	const cure = "run `spendflush migrate up` as the owner"
	in.awaitState(http.StatusServiceUnavailable, cure)
	in.logged(cure)
	if n := in.metrics().sum("spendflush_ready"); n != 0 {
		t.Errorf("spendflush_ready is %v", n)
	}
	taken := 0
	eventually(t, "status says it", func() string {
		if text := mustRun(t, 0, s.variables(), "status"); !strings.Contains(text, cure) {
			return text
		}
		return ""
	})

	eventually(t, "updates are refused", func() string {
		status, answer := in.record(1)
		switch {
		case status == http.StatusAccepted:
			taken++
			return "they are taken"
		case status != http.StatusServiceUnavailable || !strings.Contains(answer, cure) || !strings.Contains(answer, "not-ready"):
			t.Fatalf("%d %s", status, answer)
		}
		return ""
	})
	if taken == 0 {
		t.Error("no update was taken, although the owner may have been about to migrate")
	}

	mustRun(t, 0, owner.variables(), "migrate", "up")
	grant(t, owner)
	in.awaitState(http.StatusOK, "ready")
	if status, answer := in.record(1); status != http.StatusAccepted {
		t.Errorf("after the cure: %d %s", status, answer)
	}
	in.stop(0)
	if got := owner.number("SELECT sum(updates)::bigint FROM spendflush.producers"); got != int64(taken+1) {
		t.Errorf("%d updates are booked, want %d", got, taken+1)
	}
}

func TestTheRightsOfTheRunbookSufficeAndALostOneIsNamedAndLosesNothing(t *testing.T) {
	t.Parallel()
	owner := stackOn(t, testserver.NewPostgres(t).URL(""), testserver.Redis(t))
	s := asAppRole(t, owner)
	mustRun(t, 0, owner.variables(), "migrate", "up")
	grant(t, owner)

	instances := s.startAll(2, "SPENDFLUSH_AUDIT_INTERVAL=1s")
	l := startLoad(t, instances, faultLoad())
	awaitMore(t, instances, "queue", 5)
	eventually(t, "one of the instances has audited the books", func() string {
		for _, in := range instances {
			if strings.Contains(in.stderr.String(), "the books add up") {
				return ""
			}
		}
		return "none has"
	})
	administer(t, owner.postgres, "REVOKE UPDATE ON spendflush.rollup FROM "+appRole)
	for _, in := range instances {
		in.awaitState(http.StatusServiceUnavailable, "UPDATE on spendflush.rollup")
		if n := in.metrics().sum("spendflush_ready"); n != 0 {
			t.Errorf("%s: spendflush_ready is %v", in.name, n)
		}
	}
	eventually(t, "status --check says it", func() string {
		status, text, _ := run(t, s.variables(), "status", "--check")
		if status != 1 || !strings.Contains(text, "UPDATE on spendflush.rollup") {
			return fmt.Sprintf("%d %s", status, text)
		}
		return ""
	})
	administer(t, owner.postgres, "GRANT UPDATE ON spendflush.rollup TO "+appRole)
	for _, in := range instances {
		in.awaitState(http.StatusOK, "ready")
	}
	awaitMore(t, instances, "queue", 5)
	s.finish(instances, l)
	for _, args := range [][]string{{"status"}, {"migrate", "status"}, {"migrate", "up"}, {"flush"}, {"quarantine", "list"}} {
		mustRun(t, 0, s.variables(), args...)
	}
}

// What Postgres itself answers is the sentence, and not that it can't be reached.
func TestAPostgresThatRefusesIsNotSaidToBeAway(t *testing.T) {
	t.Parallel()
	owner := stackOn(t, testserver.NewPostgres(t).URL(""), testserver.Redis(t))
	s := asAppRole(t, owner)
	mustRun(t, 0, owner.variables(), "migrate", "up")
	status, text, _ := run(t, s.variables(), "status", "--check")
	if status != 1 || !strings.Contains(text, "Postgres refuses: permission denied") {
		t.Errorf("%d\n%s", status, text)
	}
	status, _, text = run(t, s.variables(), "audit")
	if status != 1 || !strings.Contains(text, "the role lacks a right") {
		t.Errorf("audit: %d\n%s", status, text)
	}
}

func TestStatusCheckFailsWhereNoInstanceLivesOrRedisCanNotBeReached(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	mustRun(t, 0, s.variables(), "migrate", "up")
	if text := mustRun(t, 1, s.variables(), "status", "--check"); !strings.Contains(text, "No instance is heard from") {
		t.Error(text)
	}
	in := s.startHeard("pod-0")
	text := mustRun(t, 1, s.variables("REDIS_URL=redis://127.0.0.1:1"), "status", "--check")
	if !strings.Contains(text, "Redis can't be reached from here") || strings.Contains(text, "Instances write directly to Postgres, one") {
		t.Error(text)
	}
	in.stop(0)
	mustRun(t, 1, s.variables(), "status", "--check")
}

func TestCommandsOnADatabaseWithoutTablesSaySo(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	for _, args := range [][]string{{"audit"}, {"quarantine", "list"}, {"quarantine", "drop", "1", "--yes"}} {
		status, _, text := run(t, s.variables(), args...)
		if status != 1 || !strings.Contains(text, "no tables of spendflush") || !strings.Contains(text, "spendflush migrate up") {
			t.Errorf("%s: %d %s", strings.Join(args, " "), status, text)
		}
	}
}

func TestMigrateUpNamesWhatItRuns(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	status, stdout, stderr := run(t, s.variables(), "migrate", "up")
	if status != 0 || !strings.Contains(stderr, "applying 00001_books.sql") || !strings.Contains(stdout, "applied 00001_books.sql") {
		t.Errorf("%d\n%s\n%s", status, stdout, stderr)
	}
}

func TestAPasswordThatIsNotEncodedIsNotShown(t *testing.T) {
	t.Parallel()
	for _, password := range []string{"hunter@two", "hunter/two", "hunter%two"} {
		for _, args := range [][]string{{"serve"}, {"status"}, {"migrate", "up"}} {
			variables := []string{"DATABASE_URL=postgres://user:" + password + "@127.0.0.1:1/db", "REDIS_URL=redis://127.0.0.1:1"}
			status, stdout, stderr := run(t, variables, args...)
			if status != 2 || !strings.Contains(strings.ToLower(stderr), "percent-encode") {
				t.Errorf("%s: %d %s", args, status, stderr)
			}
			if strings.Contains(stdout+stderr, "hunter") || strings.Contains(stdout+stderr, "two") {
				t.Errorf("%s shows the password: %s", args, stderr)
			}
		}
	}
}

// The page and /readyz say what a starting instance waits for. It goes on once it may.
func TestAnInstanceThatWaitsForAMigrationSaysSo(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	mustRun(t, 0, s.variables(), "migrate", "up")
	s.execute("DELETE FROM spendflush.migrations WHERE version_id = (SELECT max(version_id) FROM spendflush.migrations)")
	release := holdMigrationLock(t, s)
	in := s.launchOn("pod-0")
	in.awaitState(http.StatusServiceUnavailable, "waiting for another program, which migrates")

	var report struct {
		Sentence  string `json:"sentence"`
		Instances []struct {
			NotReady string `json:"not_ready"`
		} `json:"instances"`
	}
	_, body := in.get("/v1/pipeline")
	if err := json.Unmarshal([]byte(body), &report); err != nil {
		t.Fatal(err)
	}
	if len(report.Instances) != 1 || !strings.Contains(report.Instances[0].NotReady, "waiting for another program") ||
		!strings.Contains(report.Sentence, "is not ready: ") {
		t.Errorf("the page says %+v", report)
	}
	release("INSERT INTO spendflush.migrations (version_id, is_applied) SELECT max(version_id) + 1, true FROM spendflush.migrations")
	in.awaitState(http.StatusOK, "ready")
	in.stop(0)
}

// holdMigrationLock holds what another program holds while it migrates. release runs the statement
// and lets go.
func holdMigrationLock(t *testing.T, s *stack) (release func(statement string)) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.postgres)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	if _, err := conn.Exec(t.Context(), "BEGIN"); err != nil {
		t.Fatal(err)
	}
	const key = 0x7370656e64666c75 // as package migrations has it
	if _, err := conn.Exec(t.Context(), "SELECT pg_advisory_xact_lock($1::bigint # salt) FROM spendflush.lock_salt", int64(key)); err != nil {
		t.Fatal(err)
	}
	return func(statement string) {
		t.Helper()
		for _, one := range []string{statement, "COMMIT"} {
			if _, err := conn.Exec(t.Context(), one); err != nil {
				t.Fatal(err)
			}
		}
	}
}
