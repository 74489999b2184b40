package spendflush

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spendflush/spendflush/lockers/memlock"
	"github.com/spendflush/spendflush/spend"
)

// rig is a pipeline on stores in memory, all of whose calls can be made to fail.
type rig struct {
	*Pipeline
	store  *testStore
	queue  *testQueue
	locker *memlock.Locker
	faults *faults // of store, queue and locker
	want   *books
	ran    chan error
	cancel context.CancelFunc
}

// newRig starts a pipeline in the bubble of a synctest. Without withQueue there is none.
func newRig(t *testing.T, withQueue bool, shards int, f *faults) *rig {
	t.Helper()
	r := &rig{store: newTestStore(), queue: newTestQueue(), locker: newTestLocker(), faults: f, want: newBooks()}
	c := Config{Store: faultyStore{r.store, f}, DirectLocker: faultyLocker{newTestLocker(), f}, Shards: shards}
	if withQueue {
		c.Queue, c.Locker = faultyQueue{r.queue, f}, faultyLocker{r.locker, f}
	}
	r.Pipeline = newTestPipeline(t, c)
	return r
}

func (r *rig) start(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r.cancel, r.ran = cancel, make(chan error, 1)
	go func() { r.ran <- r.Run(ctx) }()
	t.Cleanup(func() { // a test that has failed: it drains for a while
		cancel()
		<-r.stopped
	})
	synctest.Wait() // Shutdown wants to be called after Run
}

// record books the update in the pipeline and in the oracle.
func (r *rig) record(t *testing.T, u spend.Update) Receipt {
	t.Helper()
	receipt, err := r.RecordAll([]spend.Update{u})
	if err != nil {
		t.Fatal(err)
	}
	r.want.book(&u, spend.HourOf(time.Now()))
	return receipt
}

// end shuts down, which must succeed, and checks the books.
func (r *rig) end(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if err := r.Shutdown(ctx); err != nil {
		t.Fatalf("Shutdown: %v", err)
	}
	if err := <-r.ran; err != nil {
		t.Fatalf("Run: %v", err)
	}
	if diff := r.store.diff(r.want); diff != "" {
		t.Fatal(diff)
	}
}

// eventually is for what happens some time later, on the bubble's clock.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for range 6000 {
		if synctest.Wait(); is() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("a minute went by, and not: %s", what)
}
