package spendflush

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/spendflush/spendflush/spend"
)

// tracerNotes is a Tracer that keeps what it is told.
type tracerNotes struct {
	mu      sync.Mutex
	seals   []SealEvent
	pushes  []PushEvent
	flushes []FlushEvent
}

func (n *tracerNotes) Sealed(e SealEvent) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seals = append(n.seals, e)
}

func (n *tracerNotes) Pushed(e PushEvent) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pushes = append(n.pushes, e)
}

func (n *tracerNotes) Flushed(e FlushEvent) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.flushes = append(n.flushes, e)
	return "4bf92f3577b34da6a3ce929d0e0e4736"
}

func TestATracerIsToldOfABatchFromItsSealToItsCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		notes, registry := &tracerNotes{}, prometheus.NewPedanticRegistry()
		f := &faults{}
		r := &rig{store: newTestStore(), queue: newTestQueue(), locker: newTestLocker(), faults: f, want: newBooks()}
		r.Pipeline = newTestPipeline(t, Config{
			Store: faultyStore{r.store, f}, DirectLocker: faultyLocker{newTestLocker(), f}, Queue: faultyQueue{r.queue, f},
			Locker: faultyLocker{r.locker, f}, Tracer: notes, Registerer: registry,
		})
		r.start(t)
		receipt := r.record(t, spend.Update{Series: spend.Series{APIKey: "k"}, Cost: spend.Cost{Spend: spend.Dollars(1)}})
		if stage, err := r.Wait(t.Context(), receipt, Committed); err != nil {
			t.Fatal(stage, err)
		}
		r.end(t)

		if len(notes.seals) != 1 || len(notes.pushes) != 1 || len(notes.flushes) != 1 {
			t.Fatalf("it is told of %d seals, %d pushes and %d flushes", len(notes.seals), len(notes.pushes), len(notes.flushes))
		}
		seal, push, flush := notes.seals[0], notes.pushes[0], notes.flushes[0]
		if seal.Seal != receipt.Seal() || len(seal.Batches) != 1 || seal.Batches[0].Updates != 1 || seal.Began.IsZero() || seal.Ended.Before(seal.Began) {
			t.Errorf("the seal of %d: %+v", receipt.Seal(), seal)
		}
		digest := seal.Batches[0].Digest()
		if push.Batch.Digest() != digest || push.Err != nil || push.Began.Before(seal.Ended) || push.Ended.Before(push.Began) {
			t.Errorf("the push: %+v", push)
		}
		if len(flush.Batches) != 1 || flush.Batches[0].Digest() != digest || flush.Updates != 1 || flush.Rows == 0 || flush.Path != "queue" || flush.Err != nil {
			t.Errorf("the flush: %+v", flush)
		}
		if flush.Gathered.IsZero() || flush.Began.Before(flush.Gathered) || flush.Ended.Before(flush.Began) {
			t.Errorf("the flush gathered at %s, from %s to %s", flush.Gathered, flush.Began, flush.Ended)
		}
		checkFlushExemplar(t, registry)
	})
}

// checkFlushExemplar looks for the id that the tracer has returned.
func checkFlushExemplar(t *testing.T, registry *prometheus.Registry) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != "spendflush_flush_seconds" {
			continue
		}
		for _, bucket := range family.GetMetric()[0].GetHistogram().GetBucket() {
			if e := bucket.GetExemplar(); e != nil && e.GetLabel()[0].GetValue() == "4bf92f3577b34da6a3ce929d0e0e4736" {
				return
			}
		}
	}
	t.Error("the flush is no exemplar")
}

func TestATracerIsToldOfWhatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		notes, failed := &tracerNotes{}, map[string]bool{}
		f := &faults{disturb: func(name string, do func() error) error {
			if (name == "Queue.Push" || name == "Store.Apply") && !failed[name] {
				failed[name] = true
				return errInjected
			}
			return do()
		}}
		r := &rig{store: newTestStore(), queue: newTestQueue(), locker: newTestLocker(), faults: f, want: newBooks()}
		r.Pipeline = newTestPipeline(t, Config{
			Store: faultyStore{r.store, f}, DirectLocker: faultyLocker{newTestLocker(), f}, Queue: faultyQueue{r.queue, f},
			Locker: faultyLocker{r.locker, f}, Tracer: notes,
		})
		r.start(t)
		receipt := r.record(t, spend.Update{Series: spend.Series{APIKey: "k"}, Cost: spend.Cost{Spend: spend.Dollars(1)}})
		if stage, err := r.Wait(t.Context(), receipt, Committed); err != nil {
			t.Fatal(stage, err)
		}
		r.end(t)
		if len(notes.pushes) != 2 || !errors.Is(notes.pushes[0].Err, errInjected) || notes.pushes[1].Err != nil {
			t.Errorf("it is told of the pushes %+v", notes.pushes)
		}
		if len(notes.flushes) != 2 || !errors.Is(notes.flushes[0].Err, errInjected) || notes.flushes[1].Err != nil {
			t.Errorf("it is told of the flushes %+v", notes.flushes)
		}
	})
}
