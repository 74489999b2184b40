package integration

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush/spend"
)

// clearing is what takes a bar away.
const clearing = lineUp + "\r\x1b[J"

// shows waits for a text on the terminal.
func (s *seated) shows(text string) {
	s.t.Helper()
	s.said(&s.stdout, text, func(string) bool { return strings.Contains(s.stdout.String(), text) })
}

// ends waits for exit status 0, and for the last line, before which the bar must be gone.
func (s *seated) ends(last string) {
	s.t.Helper()
	if status := s.wait(); status != 0 {
		s.t.Errorf("%s: exit status %d instead of 0", s.name, status)
	}
	s.shows(last)
	text := s.stdout.String()
	if end := text[strings.LastIndex(text, clearing)+len(clearing):]; strings.Contains(end, "[ ") || strings.Contains(end, "[=") {
		s.t.Errorf("%s: the bar is left: %q", s.name, end)
	}
}

// blocked runs statements in a transaction that is open until the returned function is called.
func (s *stack) blocked(statement string) (release func()) {
	s.t.Helper()
	conn, err := pgx.Connect(s.t.Context(), s.postgres)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := conn.Exec(s.t.Context(), "BEGIN; "+statement); err != nil {
		s.t.Fatal(err)
	}
	return func() {
		if err := conn.Close(s.t.Context()); err != nil {
			s.t.Error(err)
		}
	}
}

// undoLastMigration returns the statements that undo the last one of the migrations.
func undoLastMigration(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob("../migrations/*.sql")
	if err != nil || len(files) == 0 {
		t.Fatalf("the migrations: %d files, %v", len(files), err)
	}
	text, err := os.ReadFile(slices.Max(files))
	if err != nil {
		t.Fatal(err)
	}
	_, down, found := strings.Cut(string(text), "-- +goose Down")
	if !found {
		t.Fatalf("%s can't be undone", slices.Max(files))
	}
	return down
}

func TestMigrateAndAuditTellOnATerminalHowLongTheyTake(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	mustRun(t, 0, s.variables(), "migrate", "up")
	// Its last migration is to be applied once more.
	conn, err := pgx.Connect(t.Context(), s.postgres)
	if err != nil {
		t.Fatal(err)
	}
	_, err = conn.Exec(t.Context(), undoLastMigration(t)+`
		DELETE FROM spendflush.migrations WHERE version_id = (SELECT max(version_id) FROM spendflush.migrations)`)
	if err := errors.Join(err, conn.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
	release := s.blocked("SELECT pg_advisory_xact_lock(x'7370656e64666c75'::bigint # salt) FROM spendflush.lock_salt")
	p := launchOnTerminal(t, s.variables("TERM=xterm"), "migrate", "up")
	p.shows("waiting for another program, which migrates: ")
	release()
	p.ends("the schema is up to date")

	for _, bar := range []string{"audit: 0 s", "audit ["} { // at the second time it is known how long one takes
		release = s.blocked("LOCK spendflush.rollup")
		p = launchOnTerminal(t, s.variables("TERM=xterm"), "audit")
		p.shows(bar)
		release()
		p.ends(inGreen + "the books add up")
	}
}

func TestFlushAndApplyShowABarOnATerminal(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	queueOfTheDead(s)
	queued := s.redisClient().XLen(t.Context(), s.queueKey(0)).Val()
	if err := s.redisClient().Set(t.Context(), s.lockKey(0), "somebody", time.Hour).Err(); err != nil {
		t.Fatal(err)
	}
	p := launchOnTerminal(t, s.variables("TERM=xterm"), "flush")
	bar := fmt.Sprintf("flush [                        ] 0 of %d batches", queued)
	p.shows(bar)
	if err := s.redisClient().Del(t.Context(), s.lockKey(0)).Err(); err != nil {
		t.Fatal(err)
	}
	p.ends(fmt.Sprintf("batches in the queue: %d before, 0 after", queued))
	// What is logged meanwhile doesn't get lost with the bar.
	if text := p.stdout.String(); strings.Index(text, `"msg":"flushed"`) < strings.Index(text, clearing) {
		t.Errorf("the log isn't above the bar: %q", text)
	}

	store := s.openStore()
	s.setAside(store, s.handMade(spend.NewProducerID(time.Now()), 1, spent{"key", "1"}))
	s.setAside(store, s.handMade(spend.NewProducerID(time.Now()), 1, spent{"key", "1"}))
	// The first one has to wait for a row, long enough for the bar to be due.
	release := s.blocked("SELECT FROM spendflush.quarantine WHERE id = 1 FOR UPDATE")
	p = launchOnTerminal(t, s.variables("TERM=xterm"), "quarantine", "apply", "--all")
	eventually(t, "the first entry is waited for", func() string {
		if s.number("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'") == 0 {
			return "nobody waits"
		}
		return ""
	})
	time.Sleep(200 * time.Millisecond)
	release()
	p.shows("apply [============            ] 1 of 2 entries")
	p.ends("applied: 2; applied before: 0; not applied: 0")
	for id := 1; id <= 2; id++ {
		p.shows(fmt.Sprintf("%d: applied: producer ", id))
	}
}
