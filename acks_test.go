package spendflush

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// usualAck is how long an acknowledgement "committed" may take in these tests while nothing is
// wrong: a seal, a push and a flush, each of which comes within half a second or so.
const usualAck = 3 * time.Second

// acknowledged records an update and waits until it is committed, no longer than usual.
func (r *rig) acknowledged(t *testing.T, when, id string) {
	t.Helper()
	receipt := r.record(t, key(id))
	begun := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), usualAck)
	defer cancel()
	if stage, err := r.Wait(ctx, receipt, Committed); err != nil {
		t.Fatalf("%s: an update has reached %s after %s: %v", when, stage, time.Since(begun), err)
	}
}

// wantLoggedOnce fails unless the log has the text in one line.
func wantLoggedOnce(t *testing.T, log *strings.Builder, text string) {
	t.Helper()
	if n := strings.Count(log.String(), text); n != 1 {
		t.Errorf("the log says %d times %q, want once:\n%s", n, text, log.String())
	}
}

// wantNothingHeld fails if the instance goes on holding anything.
func (r *rig) wantNothingHeld(t *testing.T) {
	t.Helper()
	eventually(t, "nothing is held any more", func() bool {
		status := r.Status()
		return status.OldestHeld.IsZero()
	})
}

// Postgres loses one commit, without a rewind window. Nobody is about to fill the gap, so nobody
// waits for the ten minutes of grace: neither others' acknowledgements nor those of the very
// producer, then or later.
func TestABatchThatPostgresLostHoldsUpNoAcknowledgement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		r := newRig(t, true, 1, &faults{})
		c := r.cfg
		c.Logger = logTo(&log)
		r.Pipeline = newTestPipeline(t, c)
		r.start(t)
		r.acknowledged(t, "before", "a")
		past, gone := r.store.Snapshot(), r.want
		r.want = newBooks()
		r.acknowledged(t, "before", "b") // will be gone
		r.store.Restore(past)
		r.want = gone

		for range 20 {
			r.acknowledged(t, "after Postgres was turned back", "c")
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if n := r.store.missing(); n != 1 {
			t.Errorf("%d batches are reported as lost, want 1", n)
		}
		r.wantNothingHeld(t)
		wantLoggedOnce(t, &log, "BATCHES ARE LOST")
		r.end(t)
	})
}

// Postgres refuses one batch as a whole. It goes to quarantine, is told once, and all others are
// confirmed as ever.
func TestABatchThatPostgresRefusesHoldsUpNoAcknowledgement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		r := newRig(t, true, 1, &faults{})
		c := r.cfg
		c.Store, c.Logger = refusingStore{r.store, Dollars(77)}, logTo(&log)
		r.Pipeline = newTestPipeline(t, c)
		r.start(t)
		r.acknowledged(t, "before", "a")
		if _, err := r.RecordAll([]Update{{Cost: Cost{Spend: Dollars(77)}, Series: Series{APIKey: "poison"}}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second) // it is a seal by itself
		for range 20 {
			r.acknowledged(t, "after a batch was refused", "c")
			time.Sleep(time.Second)
		}
		r.wantNothingHeld(t)
		wantLoggedOnce(t, &log, "batch quarantined")
		r.end(t)
	})
}
