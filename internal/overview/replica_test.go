package overview

import (
	"strings"
	"testing"

	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/lockers/memlock"
)

// The master becomes the replica of another one, which is away, and is read as before.
func TestARedisThatBecomesAReplicaIsNamedAsTheCause(t *testing.T) {
	databaseURL := testserver.Postgres(t)
	s := newSite(t, databaseURL, testserver.NewRedis(t).URL())
	s.migrate(databaseURL)
	p := s.pod("a")
	p.leave()
	sources := s.sources(memlock.New("a"))
	sources.Server = s.queue.Info
	for _, step := range []struct {
		replicaOf         []any
		sentence, refused string
	}{
		{[]any{"replicaof", "no", "one"}, "Books exact and up to date.", ""},
		{[]any{"replicaof", "127.0.0.1", "1"}, "Redis answers READONLY: it is a replica. Instances write directly to Postgres, and what is queued waits.", "READONLY"},
		{[]any{"replicaof", "no", "one"}, "Books exact and up to date.", ""},
	} {
		if err := s.client.Do(t.Context(), step.replicaOf...).Err(); err != nil {
			t.Fatal(err)
		}
		p.put(t.Context(), s.heartbeats, p.pipeline.Status().Producer)
		if got := p.Refused(); got != step.refused && (step.refused == "" || !strings.HasPrefix(got, step.refused)) {
			t.Errorf("%v: refused is %q, want %q", step.replicaOf, got, step.refused)
		}
		if r := Collect(t.Context(), sources); r.Sentence != step.sentence {
			t.Errorf("%v: %q, want %q", step.replicaOf, r.Sentence, step.sentence)
		}
	}
}
