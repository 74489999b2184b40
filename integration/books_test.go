package integration

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/internal/servers"
	"github.com/spendflush/spendflush/spend"
)

// one is an update of that cost on the key, and safe is what of it must be in the books once it is
// acknowledged.
func one(key, cost string) string { return fmt.Sprintf(`{"spend":%q,"api_key":%q}`, cost, key) }

// send posts an update and wants this status.
func (in *instance) send(ack, update string, want int) {
	in.t.Helper()
	status, answer, err := in.postUpdates(ack, "application/json", []byte(update))
	if err != nil || status != want {
		in.t.Fatalf("%s: %s with ack=%s: %d %s, %v; want %d", in.name, update, ack, status, answer, err, want)
	}
}

// Two deployments with a database each and one Redis, and nothing set. Before books had an
// identity, all of the one was booked in the other's database.
func TestTwoDeploymentsOnOneRedisBookOnlyTheirOwn(t *testing.T) {
	t.Parallel()
	a := newStack(t)
	b := stackOn(t, testserver.Postgres(t), a.redis)
	shareRedis(t, a, b)
}

func shareRedis(t *testing.T, a, b *stack, variables ...string) {
	t.Helper()
	variables = append(variables, "SPENDFLUSH_SHUTDOWN_TIMEOUT=60s")
	ofA, ofB := a.startAll(3, variables...), b.startAll(3, variables...)
	loadA := startLoad(t, ofA, loadOptions{clients: 4, updates: 2000, most: 20, prefix: "a-"})
	loadB := startLoad(t, ofB, loadOptions{clients: 4, updates: 2000, most: 20, prefix: "b-"})
	_, recordedA, _ := loadA.stop()
	_, recordedB, _ := loadB.stop()
	awaitCommitted(t, ofA)
	awaitCommitted(t, ofB)
	if committed(ofA, "queue") == 0 || committed(ofB, "queue") == 0 {
		t.Error("one of them doesn't use the queue")
	}
	for _, in := range append(ofA, ofB...) { // although several of them began at once
		if n := in.count("the queue is used by another database"); n > 0 {
			t.Errorf("%s took another instance's witness for another database's %d times", in.name, n)
		}
	}
	for _, s := range []*stack{a, b} {
		if text := mustRun(t, 0, s.variables(variables...), "status", "--check"); !strings.HasPrefix(text, "Books exact") || strings.Count(text, "pod-") < 2 {
			t.Errorf("status: %s", text)
		}
	}
	stopAll(ofA)
	stopAll(ofB)
	a.check(recordedA)
	b.check(recordedB)
	for _, s := range []*stack{a, b} {
		s.checkNothingAside()
		s.audit()
	}
	if a.books() == b.books() {
		t.Errorf("both have the books %s", a.books())
	}
}

func TestTwoDeploymentsShareARedisCluster(t *testing.T) {
	t.Parallel()
	c := testserver.NewRedisCluster(t)
	a := stackOn(t, testserver.Postgres(t), c.URL())
	b := stackOn(t, testserver.Postgres(t), c.URL())
	shareRedis(t, a, b, "SPENDFLUSH_SHARDS=3")
}

// copyOf returns a stack whose database is a copy of another one's, as it is now. No connection may
// use that.
func copyOf(t *testing.T, server *servers.Postgres, s *stack, database string) *stack {
	t.Helper()
	eventually(t, "nobody uses the database", func() string {
		conn, err := pgx.Connect(t.Context(), server.URL("template1"))
		if err != nil {
			return err.Error()
		}
		defer conn.Close(t.Context())
		if _, err := conn.Exec(t.Context(), "CREATE DATABASE "+database+" TEMPLATE postgres"); err != nil {
			return err.Error()
		}
		return ""
	})
	return stackOn(t, server.URL(database), s.redis)
}

func TestACopyOfADatabaseInUseIsToldAndBooksNothingAstray(t *testing.T) {
	t.Parallel()
	server := testserver.NewPostgres(t)
	s := stackOn(t, server.URL("postgres"), testserver.Redis(t))
	first := s.start("original-0")
	first.send("committed", one("before", "1"), http.StatusOK)
	first.stop(0)
	clone := copyOf(t, server, s, "clone")

	original := s.start("original")
	original.send("committed", one("of the original", "2"), http.StatusOK)
	copied := clone.start("copied")
	for range 10 {
		original.send("committed", one("of the original", "0.1"), http.StatusOK)
		copied.send("committed", one("of the copy", "0.01"), http.StatusOK)
	}
	copied.logged("TWO DATABASES USE THE SAME BOOKS' ID")
	if status, body := copied.get("/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, "spendflush books new-id") {
		t.Errorf("the copy's /readyz: %d %s", status, body)
	}
	if status, body := original.get("/readyz"); status != http.StatusOK {
		t.Errorf("the original's /readyz: %d %s", status, body)
	}
	if n := copied.metrics().sum("spendflush_books_conflict"); n != 1 {
		t.Errorf("the metric is %v", n)
	}
	if text := mustRun(t, 1, clone.variables(), "status", "--check"); !strings.Contains(text, "books new-id") {
		t.Errorf("status of the copy: %s", text)
	}

	// The remedy needs no restart.
	id := strings.TrimSpace(mustRun(t, 0, clone.variables(), "books", "new-id", "--yes"))
	if shown := strings.TrimSpace(mustRun(t, 0, clone.variables(), "books")); shown != id || id == s.books().String() {
		t.Errorf("new-id says %s, and books %s; the original has %s", id, shown, s.books())
	}
	eventually(t, "the copy is ready", func() string {
		status, body := copied.get("/readyz")
		return map[bool]string{false: body}[status == http.StatusOK]
	})
	copied.send("committed", one("of the copy", "1"), http.StatusOK)
	original.send("committed", one("of the original", "1"), http.StatusOK)
	copied.stop(0)
	original.stop(0)
	wantSpend(t, s, map[string]string{"before": "1", "of the original": "4", "of the copy": ""})
	wantSpend(t, clone, map[string]string{"before": "1", "of the original": "", "of the copy": "1.1"})
	s.audit()
	clone.audit()
}

// wantSpend wants these totals of keys in the books; "" is none.
func wantSpend(t *testing.T, s *stack, want map[string]string) {
	t.Helper()
	for key, spend := range want {
		got := query(t, s.postgres, pgx.RowTo[string], "SELECT trim_scale(spend)::text FROM spendflush.spend WHERE entity_type = 'api_key' AND entity_id = $1", key)
		if strings.Join(got, " ") != spend {
			t.Errorf("%s: %q in the books, want %q", key, got, spend)
		}
	}
}

func TestPostgresAwayAtTheStartAnInstanceThatWasInTouchPushesAtOnce(t *testing.T) {
	t.Parallel()
	postgres := testserver.NewPostgres(t)
	s := stackOn(t, postgres.URL("postgres"), testserver.Redis(t))
	first := s.start("first")
	first.send("committed", one("k", "1"), http.StatusOK)
	first.stop(0)
	id := s.books()
	if err := postgres.Kill(); err != nil {
		t.Fatal(err)
	}
	second := s.launchOn("second")
	second.send("queued", one("k", "2"), http.StatusOK)
	if n := s.redisClient().XLen(t.Context(), s.queueKey(0)).Val(); n == 0 || s.id != id {
		t.Errorf("%d batches are in the queue of its books", n)
	}
	text := strings.Join(s.redisClient().Keys(t.Context(), "{spendflush:books:*").Val(), " ")
	if secret := passwordOf(t, s.postgres); text == "" || secret != "" && strings.Contains(text, secret) {
		t.Errorf("the note's key is %q", text)
	}
	restart(t, postgres.Restart)
	second.awaitReady()
	second.send("committed", one("k", "4"), http.StatusOK)
	second.stop(0)
	wantSpend(t, s, map[string]string{"k": "7"})
	s.audit()
}

// The journal has a note as well, so Redis may be empty.
func TestPostgresAwayAtTheStartANoteInTheJournalWillDo(t *testing.T) {
	t.Parallel()
	postgres, dir := testserver.NewPostgres(t), "SPENDFLUSH_JOURNAL_DIR="+filepath.Join(t.TempDir(), "journal")
	s := stackOn(t, postgres.URL("postgres"), testserver.Redis(t))
	first := s.start("first", dir)
	first.send("committed", one("k", "1"), http.StatusOK)
	first.stop(0)
	s.books()
	if err := postgres.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.redisClient().FlushDB(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	second := s.launchOn("second", dir)
	second.send("queued", one("k", "2"), http.StatusOK)
	eventually(t, "the batch is in the queue", func() string {
		return map[bool]string{true: "it isn't"}[s.redisClient().XLen(t.Context(), s.queueKey(0)).Val() == 0]
	})
	restart(t, postgres.Restart)
	second.awaitReady()
	second.send("committed", one("k", "4"), http.StatusOK)
	second.stop(0)
	wantSpend(t, s, map[string]string{"k": "7"})
}

func TestPostgresAwayAtTheStartWithoutANoteAnInstanceHoldsAndThenPushes(t *testing.T) {
	t.Parallel()
	postgres := testserver.NewPostgres(t)
	s := stackOn(t, postgres.URL("postgres"), testserver.Redis(t))
	s.books()
	if err := postgres.Kill(); err != nil {
		t.Fatal(err)
	}
	in := s.launchOn("held")
	in.send("accepted", one("k", "2"), http.StatusAccepted)
	for range 20 { // while it tries
		time.Sleep(50 * time.Millisecond)
		if keys := s.redisClient().Keys(t.Context(), "*:queue").Val(); len(keys) > 0 {
			t.Fatalf("something is pushed for books that nobody knows: %q", keys)
		}
	}
	restart(t, postgres.Restart)
	in.awaitReady()
	in.send("committed", one("k", "4"), http.StatusOK)
	if committed([]*instance{in}, "queue") == 0 {
		t.Error("nothing came through the queue")
	}
	in.stop(0)
	wantSpend(t, s, map[string]string{"k": "6"})
}

// Under the address of the database that was noted there is another one now.
func TestANoteThatIsWrongLosesNothingAndBooksNothingAstray(t *testing.T) {
	t.Parallel()
	postgres := testserver.NewPostgres(t)
	s := stackOn(t, postgres.URL("postgres"), testserver.Redis(t))
	other := stackOn(t, testserver.Postgres(t), s.redis)
	first := s.start("first")
	first.send("committed", one("k", "1"), http.StatusOK)
	first.stop(0)
	client := s.redisClient()
	notes := client.Keys(t.Context(), "{spendflush:books:*").Val()
	if len(notes) != 1 {
		t.Fatalf("notes: %q", notes)
	}
	if err := client.Set(t.Context(), notes[0], other.books().String(), 0).Err(); err != nil {
		t.Fatal(err)
	}
	if err := postgres.Kill(); err != nil {
		t.Fatal(err)
	}
	in := s.launchOn("misled")
	in.send("queued", one("misled", "2"), http.StatusOK)
	if n := client.XLen(t.Context(), other.queueKey(0)).Val(); n == 0 {
		t.Fatal("it isn't misled")
	}
	restart(t, postgres.Restart)
	in.awaitReady()
	in.logged("POSTGRES HAS OTHER BOOKS THAN BEFORE")
	in.send("committed", one("k", "4"), http.StatusOK)
	if got := client.Get(t.Context(), notes[0]).Val(); got != s.books().String() {
		t.Errorf("the note says %s", got)
	}
	in.stop(0)
	wantSpend(t, s, map[string]string{"k": "5", "misled": ""})

	// What was pushed for the other books waits for them, and a copy is in quarantine here, where
	// it can't be booked.
	list := s.quarantined()
	if len(list) != 1 || !strings.Contains(list[0].Reason, "other books") {
		t.Fatalf("quarantine: %+v", list)
	}
	s.wants(1, quarantine("apply", list[0].ID), "NOT applied", "other books")
	mustRun(t, 0, other.variables(), "flush")
	wantSpend(t, other, map[string]string{"k": "", "misled": "2"})
	wantSpend(t, s, map[string]string{"misled": ""})
	s.audit()
	other.audit()
}

func TestABatchOfOtherBooksInTheQueueIsSetAsideAndHoldsUpNobody(t *testing.T) {
	t.Parallel()
	s, other := newStack(t), newStack(t)
	producer := spend.NewProducerID(time.Now())
	foreign := other.handMade(producer, 1, spent{"foreign", "3"})
	in := s.start("pod")
	s.enqueue(producer, 1, foreign.Bytes())
	in.send("committed", one("own", "1"), http.StatusOK)
	s.awaitEmptyQueue()
	list := s.quarantined()
	if len(list) != 1 || !strings.Contains(list[0].Reason, other.books().String()) || !strings.Contains(list[0].Reason, s.books().String()) {
		t.Fatalf("quarantine: %+v", list)
	}
	s.wants(1, quarantine("apply", list[0].ID), "NOT applied", "other books")
	in.stop(0)

	// Nor does the command book it, from the queue.
	second := other.handMade(producer, 2, spent{"foreign", "5"})
	s.enqueue(producer, 2, second.Bytes())
	mustRun(t, 0, s.variables(), "flush")
	wantSpend(t, s, map[string]string{"own": "1", "foreign": ""})
	if list := s.quarantined(); len(list) != 2 {
		t.Errorf("quarantine: %+v", list)
	}
	s.audit()
}

func TestAJournalOfOtherBooksIsLeftForThem(t *testing.T) {
	t.Parallel()
	postgres, redis := testserver.NewPostgres(t), testserver.NewRedis(t)
	s := stackOn(t, postgres.URL("postgres"), redis.URL())
	dir := "SPENDFLUSH_JOURNAL_DIR=" + filepath.Join(t.TempDir(), "journal")
	first := s.start("first", dir)
	first.send("committed", one("k", "1"), http.StatusOK)
	for _, kill := range []func() error{redis.Kill, postgres.Kill} {
		if err := kill(); err != nil {
			t.Fatal(err)
		}
	}
	first.send("queued", one("k", "2"), http.StatusOK)
	first.kill()

	other := newStack(t)
	wrong := other.start("wrong", dir)
	wrong.logged("THE JOURNAL HAS BATCHES OF OTHER BOOKS")
	wrong.send("committed", one("k", "8"), http.StatusOK)
	wrong.stop(0)
	wantSpend(t, other, map[string]string{"k": "8"})

	restart(t, postgres.Restart)
	right := s.start("right", dir)
	right.logged("all batches that the journal had are in Postgres")
	right.stop(0)
	wantSpend(t, s, map[string]string{"k": "3"})
	s.audit()
	other.audit()
}
