package integration

import (
	"testing"
	"time"

	"github.com/spendflush/spendflush/internal/lab/testserver"
)

// A Postgres that is frozen neither answers nor refuses. What is sealed goes on to Redis all the
// same, at every seal: where pushes waited for Postgres, they came all together when a call to it
// had timed out.
func TestPushesGoOnWhilePostgresIsFrozen(t *testing.T) {
	t.Parallel()
	server := testserver.NewPostgres(t)
	s := stackOn(t, server.URL("postgres"), testserver.Redis(t))
	instances := s.startAll(1, "SPENDFLUSH_SHARDS=1")
	l := startLoad(t, instances, loadOptions{clients: 4, most: 20, pace: 10 * time.Millisecond, acks: []string{"queued"}})
	awaitMore(t, instances, "queue", 5)
	client, key := s.redisClient(), s.queueKey(0)
	entries := func() int64 {
		n, err := client.XLen(t.Context(), key).Result()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}

	if err := server.Freeze(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Thaw() }) // else it can't be stopped
	const looks = 20
	grown, before := 0, entries()
	for range 4 + looks {
		time.Sleep(500 * time.Millisecond)
		now := entries()
		if now > before {
			grown++
		}
		before = now
	}
	if grown < looks/2 {
		t.Errorf("while Postgres was frozen the queue had grown at %d of %d looks, and has %d batches", grown, 4+looks, before)
	}
	t.Logf("the queue had grown at %d of %d looks, and has %d batches", grown, 4+looks, before)
	if err := server.Thaw(); err != nil {
		t.Fatal(err)
	}
	awaitMore(t, instances, "queue", float64(before))
	s.finish(instances, l)
}
