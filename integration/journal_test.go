package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spendflush/spendflush/internal/lab/testserver"
)

// Redis and Postgres are both away, clients are told that their updates are queued, and the
// instance is killed.
func TestJournaledUpdatesSurviveTheDeathOfTheInstanceAndRedisTogether(t *testing.T) {
	t.Parallel()
	postgres, redis := testserver.NewPostgres(t), testserver.NewRedis(t)
	s := stackOn(t, postgres.URL("postgres"), redis.URL())
	dir := filepath.Join(t.TempDir(), "journal")
	first := s.start("first", "SPENDFLUSH_JOURNAL_DIR="+dir)
	before := startLoad(t, []*instance{first}, loadOptions{clients: 4, updates: 400, most: 20})
	_, recorded, _ := before.stop()
	awaitCommitted(t, []*instance{first})
	for _, kill := range []func() error{redis.Kill, postgres.Kill} {
		if err := kill(); err != nil {
			t.Fatal(err)
		}
	}
	during := startLoad(t, []*instance{first}, loadOptions{clients: 4, updates: 400, most: 20, acks: []string{"queued"}})
	_, _, safe := during.stop()
	if safe.updates == 0 {
		t.Fatal("nothing is acknowledged as queued, although there is a journal")
	}
	first.kill()
	recorded.join(safe)
	restart(t, postgres.Restart)

	// Redis stays away: the next process writes what the first one left directly.
	second := s.start("second", "SPENDFLUSH_JOURNAL_DIR="+dir)
	second.logged("all batches that the journal had are in Postgres")
	second.stop(0)
	s.check(recorded)
	s.audit()
	third := s.start("third", "SPENDFLUSH_JOURNAL_DIR="+dir)
	third.stop(0)
	s.check(recorded)
	if n := third.count("the journal has batches of earlier processes"); n != 0 {
		t.Error("what was brought to Postgres is in the journal still")
	}
}

func TestTwoInstancesOnOneJournalAreRefusedByName(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	dir := t.TempDir()
	first := s.start("first", "SPENDFLUSH_JOURNAL_DIR="+dir)
	second := s.launch("second", "SPENDFLUSH_JOURNAL_DIR="+dir)
	if status := second.wait(); status != 2 {
		t.Errorf("exit status %d instead of 2", status)
	}
	if text := second.stderr.String(); !strings.Contains(text, "SPENDFLUSH_JOURNAL_DIR") || !strings.Contains(text, dir) || !strings.Contains(text, "in use") {
		t.Errorf("it says %s", text)
	}
	first.stop(0)
}

func TestAJournalThatCanNotBeOpenedIsAClearError(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{file, filepath.Join(file, "below")} {
		in := s.launch("in", "SPENDFLUSH_JOURNAL_DIR="+dir)
		if status := in.wait(); status != 2 {
			t.Errorf("%s: exit status %d instead of 2", dir, status)
		}
		if text := in.stderr.String(); !strings.Contains(text, "SPENDFLUSH_JOURNAL_DIR") || !strings.Contains(text, file) {
			t.Errorf("%s: it says %s", dir, text)
		}
	}
}

// A stop while everything is away: what isn't drained is in the journal, and the exit status tells.
func TestStopWithEverythingAwayLeavesTheRestInTheJournalAndSaysSo(t *testing.T) {
	t.Parallel()
	postgres, redis := testserver.NewPostgres(t), testserver.NewRedis(t)
	s := stackOn(t, postgres.URL("postgres"), redis.URL())
	dir := t.TempDir()
	variables := []string{"SPENDFLUSH_JOURNAL_DIR=" + dir, "SPENDFLUSH_SHUTDOWN_TIMEOUT=3s"}
	first := s.start("first", variables...)
	without := s.start("without", "SPENDFLUSH_SHUTDOWN_TIMEOUT=3s")
	for _, kill := range []func() error{redis.Kill, postgres.Kill} {
		if err := kill(); err != nil {
			t.Fatal(err)
		}
	}
	l := startLoad(t, []*instance{first}, loadOptions{clients: 2, updates: 100, most: 20, acks: []string{"accepted"}})
	_, recorded, _ := l.stop()
	lost := startLoad(t, []*instance{without}, loadOptions{clients: 1, updates: 10, most: 10, acks: []string{"accepted"}, prefix: "lost-"})
	lost.stop()
	first.stop(1)
	without.stop(1)
	if !strings.Contains(first.stderr.String(), "they are in the journal") {
		t.Errorf("the first says\n%s", first.stderr.tail())
	}
	if !strings.Contains(without.stderr.String(), "they are lost") {
		t.Errorf("the one without a journal says\n%s", without.stderr.tail())
	}
	restart(t, postgres.Restart)
	restart(t, redis.Restart)
	second := s.start("second", variables...)
	second.logged("all batches that the journal had are in Postgres")
	second.stop(0)
	s.check(recorded)
	s.audit()
}
