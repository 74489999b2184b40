package overview

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spendflush/spendflush/internal/clocks"
	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/lockers/memlock"
	"github.com/spendflush/spendflush/queues/redisqueue"
)

// turnedHeartbeats are those of a Redis whose clock is turned, as it looks to an instance that
// writes there.
type turnedHeartbeats struct {
	*redisqueue.Heartbeats
	ahead atomic.Int64
}

func (r *turnedHeartbeats) Put(ctx context.Context, id string, record []byte) (time.Time, error) {
	now, err := r.Heartbeats.Put(ctx, id, record)
	return now.Add(time.Duration(r.ahead.Load())), err
}

func TestAClockOfRedisThatIsWrongForAWhileIsToldAsLongAsItIs(t *testing.T) {
	databaseURL := testserver.Postgres(t)
	s := newSite(t, databaseURL, testserver.Redis(t))
	s.migrate(databaseURL)
	p := s.pod("a")
	p.leave()
	heartbeats := &turnedHeartbeats{Heartbeats: s.heartbeats}
	sources := s.sources(memlock.New("a"))
	sources.Heartbeats = heartbeats
	var log bytes.Buffer
	live := NewLive(sources, p.pipeline, LiveOptions{Clocks: clocks.New(slog.New(slog.NewTextHandler(&log, nil)))})
	for _, step := range []struct {
		ahead        time.Duration
		want, logged string
	}{
		{0, "Books exact and up to date.", ""},
		{365 * 24 * time.Hour, "The clock of instance a is 8760 h behind that of Redis.", "level=WARN"},
		{-365 * 24 * time.Hour, "The clock of instance a is 8760 h ahead of that of Redis.", "level=WARN"},
		{0, "Books exact and up to date.", "agree again"},
	} {
		heartbeats.ahead.Store(int64(step.ahead))
		live.put(t.Context(), heartbeats, p.pipeline.Status().Producer)
		live.put(t.Context(), heartbeats, p.pipeline.Status().Producer) // with what the first has found
		if said := log.String(); strings.Count(said, "\n") != min(1, len(step.logged)) || !strings.Contains(said, step.logged) {
			t.Errorf("%s: %q is logged, want one line with %q", step.ahead, said, step.logged)
		}
		log.Reset()
		r := Collect(t.Context(), sources) // by another process
		if r.Sentence != step.want {
			t.Errorf("%s: %q, want %q", step.ahead, r.Sentence, step.want)
		}
	}
}
