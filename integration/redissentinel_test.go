package integration

import (
	"testing"

	"github.com/spendflush/spendflush/internal/lab/testserver"
)

func TestASentinelFailoverUnderLoadLosesNothing(t *testing.T) {
	t.Parallel()
	sentinels := testserver.NewRedisSentinels(t)
	s := stackOn(t, testserver.Postgres(t), sentinels.URL())
	instances := s.startAll(2, "SPENDFLUSH_LOCK_TTL=1s")
	l := startLoad(t, instances, faultLoad())
	awaitMore(t, instances, "queue", 5)

	// By agreement: the old master lives, and becomes a replica with its connections.
	sentinels.Failover(t.Context())
	sentinels.AwaitMaster(t.Context(), 1)
	awaitMore(t, instances, "queue", 10)
	sentinels.AwaitHealthy(t.Context())

	// By a crash, and one of the sentinels is frozen.
	for _, f := range []func() error{sentinels.Sentinels[0].Pause, sentinels.Servers[1].Kill} {
		if err := f(); err != nil {
			t.Fatal(err)
		}
	}
	sentinels.AwaitMaster(t.Context(), 0)
	awaitMore(t, instances, "queue", 10)
	if err := sentinels.Sentinels[0].Resume(); err != nil {
		t.Fatal(err)
	}
	s.finish(instances, l)
}
