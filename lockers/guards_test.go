package lockers_test

import (
	"testing"
	"time"

	"github.com/spendflush/spendflush/internal/lab/testserver"
)

// A guard whose loss no other test noticed; see internal/lab/mutants.
func TestARenewalLeavesAnothersLockAsItIs(t *testing.T) {
	client := dial(t, testserver.Redis(t))
	lease := acquire(t, openRedis(t, client, "a", time.Second))
	if err := client.Set(t.Context(), lockKey, "another", time.Hour).Err(); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for lost := false; !lost; {
		select {
		case <-lease.Lost():
			lost = true
		case <-tick.C:
		}
		if left, err := client.PTTL(t.Context(), lockKey).Result(); left < time.Minute || err != nil {
			t.Fatalf("another's lock ends in %s, %v", left, err)
		}
	}
}
