//go:build soak

package integration

import (
	"os"
	"strconv"
	"testing"
	"time"
)

// TestSoak is the first scenario for long. SPENDFLUSH_SOAK_UPDATES says how many updates, 5000000
// if it isn't set.
func TestSoak(t *testing.T) {
	updates := 5_000_000
	if text := os.Getenv("SPENDFLUSH_SOAK_UPDATES"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			t.Fatalf("SPENDFLUSH_SOAK_UPDATES: %q is not a number of updates", text)
		}
		updates = n
	}
	tenInstances(t, tenOptions{updates: updates, clients: 16, most: 1000})
}

// The next two are scenarios of "make test" that last longer here.

func TestSoakFlushAllEverySecondForAMinute(t *testing.T) {
	t.Parallel()
	flushAllUnderLoad(t, 60, time.Second)
}

func TestSoakPostgresRestoredToAMinuteAgo(t *testing.T) {
	t.Parallel()
	restoreBackup(t, time.Minute, "3m")
}
