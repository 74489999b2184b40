package integration

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spendflush/spendflush/internal/overview"
)

// statusJSON runs `status --json`, which has to end with this exit status.
func (s *stack) statusJSON(exit int, variables, args []string) (r overview.Report, text string) {
	s.t.Helper()
	text = mustRun(s.t, exit, s.variables(variables...), append([]string{"status", "--json"}, args...)...)
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		s.t.Fatalf("status --json: %v\n%s", err, text)
	}
	return r, text
}

func TestStatusSaysWhatThePageSays(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	in := s.start("pod-a", "SPENDFLUSH_SEAL_INTERVAL=20ms", "SPENDFLUSH_FLUSH_INTERVAL=50ms")
	_, recorded, _ := startLoad(t, []*instance{in}, loadOptions{clients: 1, updates: 60, most: 20, acks: []string{"committed"}}).stop()
	var mine, page map[string]any
	eventually(t, "status and page agree", func() string {
		_, text := s.statusJSON(0, nil, nil)
		status, body := in.get("/v1/pipeline")
		if status != http.StatusOK {
			t.Fatalf("/v1/pipeline: %d %s", status, body)
		}
		mine, page = nil, nil
		if err := json.Unmarshal([]byte(text), &mine); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(body), &page); err != nil {
			t.Fatal(err)
		}
		// The lock is held for a moment now and then: one of the two may have seen it.
		got, want := shape("", mine), shape("", page)
		if mine["sentence"] == page["sentence"] && maps.Equal(got, want) && got[".flushes[]"] {
			return ""
		}
		return fmt.Sprintf("%s\n%s\nstatus --json has\n%v\nand GET /v1/pipeline\n%v", text, body,
			slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	})
	text := mustRun(t, 0, s.variables(), "status", "--check")
	if !strings.HasPrefix(text, mine["sentence"].(string)) {
		t.Errorf("status doesn't begin with %q:\n%s", mine["sentence"], text)
	}
	squeezed := "\n" + squeeze(text)
	for _, want := range []string{
		"\npod-a alive 0 0 0 batches ", "\n0 0 0 B - ", "\nlast flush ", " by pod-a, from the queue: ", "\nPostgres ",
		fmt.Sprintf("\nbooks %d updates of ", recorded.updates), "\nquarantine nothing open\n", "\nlost batches none\n", "\nlast audit ",
	} {
		if !strings.Contains(squeezed, want) {
			t.Errorf("status doesn't say %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "\x1b") {
		t.Errorf("there are escape sequences where there is no terminal: %q", text)
	}
}

// shape returns the paths of all that is in a JSON value, with the elements of a list taken
// together.
func shape(path string, v any) map[string]bool {
	all := map[string]bool{path: true}
	switch v := v.(type) {
	case map[string]any:
		for name, inner := range v {
			maps.Copy(all, shape(path+"."+name, inner))
		}
	case []any:
		for _, inner := range v {
			maps.Copy(all, shape(path+"[]", inner))
		}
	}
	return all
}

func TestStatusChecksOnlyWhenAskedAndShowsNoSecret(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	queueOfTheDead(s)
	eventually(t, "status no longer takes the instance for alive", func() string {
		status, text, _ := run(t, s.variables(), "status", "--check")
		if status != 1 {
			return text
		}
		return ""
	})
	r, text := s.statusJSON(1, nil, []string{"--check"})
	if !r.Postgres.Up || !r.Queue.Up || len(r.Queue.Shards) != 1 || r.Queue.Batches == 0 || len(r.Locks) != 1 || r.Locks[0].Holder != "" {
		t.Errorf("status: %s", text)
	}
	noPostgres := []string{"DATABASE_URL=postgres://user:hunter2@127.0.0.1:1/db"}
	noRedis := []string{"REDIS_URL=redis://:hunter2@127.0.0.1:1"}
	for _, c := range []struct {
		variables    []string
		args         []string
		exit         int
		postgres, up bool
	}{
		{noPostgres, nil, 0, false, true},
		{noPostgres, []string{"--check"}, 1, false, true},
		{noRedis, nil, 0, true, false},
		{noRedis, []string{"--check"}, 1, true, false},
		{[]string{"USE_REDIS_TRANSACTION_BUFFER=false"}, []string{"--check"}, 1, true, false}, // batches lie in it
	} {
		r, text := s.statusJSON(c.exit, c.variables, c.args)
		human := mustRun(t, c.exit, s.variables(c.variables...), append([]string{"status"}, c.args...)...)
		if r.Postgres.Up != c.postgres || r.Queue.Up != c.up || !strings.HasPrefix(human, r.Sentence) || strings.Contains(text+human, "hunter2") {
			t.Errorf("%v %v: %s\n%s", c.variables, c.args, text, human)
		}
	}
	for _, args := range [][]string{{"--watch", "--check"}, {"--watch=1ms"}, {"--watch=2h"}, {"--watch=soon"}, {"--watch", "5s"}} {
		if status, stdout, stderr := run(t, s.variables(), append([]string{"status"}, args...)...); status != 2 || stdout != "" || stderr == "" {
			t.Errorf("%v: exit status %d instead of 2; %s%s", args, status, stdout, stderr)
		}
	}
}

// startHeard starts an instance and waits until commands know of it.
func (s *stack) startHeard(name string) *instance {
	s.t.Helper()
	in := s.start(name)
	eventually(s.t, "the instance is heard from", func() string {
		if status, text, _ := run(s.t, s.variables(), "status", "--check"); status != 0 {
			return text
		}
		return ""
	})
	return in
}

func TestStatusWatchesInLinesWhereThereIsNoTerminal(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	in := s.startHeard("pod-0")
	p := launch(t, "status --watch", s.variables(), "status", "--watch=100ms")
	lines := map[string]bool{}
	p.said(&p.stdout, "three lines", func(line string) bool {
		if strings.HasSuffix(line, "\n") { // it is whole
			lines[line] = true
		}
		return len(lines) == 3
	})
	for line := range lines {
		if !strings.Contains(line, " ok: Books exact and up to date. instances=1 held_updates=0 queued_batches=0 ") {
			t.Errorf("%q", line)
		}
	}
	p.signal(syscall.SIGINT)
	if status := p.wait(); status != 0 {
		t.Errorf("exit status %d instead of 0: %s", status, p.stderr.String())
	}

	p = launch(t, "status --watch --json", s.variables(), "status", "--watch=100ms", "--json")
	times := map[time.Time]bool{}
	p.said(&p.stdout, "two objects", func(line string) bool {
		var r overview.Report
		if !strings.HasSuffix(line, "\n") {
			return false
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil || r.State != overview.OK {
			t.Errorf("%v: %q", err, line)
		}
		times[r.AsOf] = true
		return len(times) == 2
	})
	p.stop(0)

	// With none that lives nothing is well, whatever the books are.
	in.stop(0)
	p = launch(t, "status --watch", s.variables(), "status", "--watch=100ms")
	p.said(&p.stdout, "that no instance lives", func(line string) bool { return strings.Contains(line, " bad: No instance is heard from") })
	p.stop(0)
}
