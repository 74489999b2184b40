package spendflush

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/spendflush/spendflush/spend"
)

// tracerNotes is a Tracer that keeps what it is told.
type tracerNotes struct {
	mu      sync.Mutex
	seals   []SealEvent
	pushes  []PushEvent
	flushes []FlushEvent
	traceID string // what Flushed answers
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
	return n.traceID
}

// tracedRig is a pipeline with a queue and a tracer.
func tracedRig(t *testing.T, f *faults, tracer Tracer, registry prometheus.Registerer) *rig {
	t.Helper()
	r := &rig{store: newTestStore(), queue: newTestQueue(), locker: newTestLocker(), faults: f, want: newBooks()}
	r.Pipeline = newTestPipeline(t, Config{
		Store: faultyStore{r.store, f}, DirectLocker: faultyLocker{newTestLocker(), f}, Queue: faultyQueue{r.queue, f},
		Locker: faultyLocker{r.locker, f}, Tracer: tracer, Registerer: registry,
	})
	return r
}

// commitOne records an update, waits until it is committed, and shuts down.
func commitOne(t *testing.T, r *rig) Receipt {
	t.Helper()
	r.start(t)
	receipt := r.record(t, spend.Update{Series: spend.Series{APIKey: "k"}, Cost: spend.Cost{Spend: spend.Dollars(1)}})
	if stage, err := r.Wait(t.Context(), receipt, Committed); err != nil {
		t.Fatal(stage, err)
	}
	r.end(t)
	return receipt
}

func TestATracerIsToldOfABatchFromItsSealToItsCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		notes := &tracerNotes{}
		// Time goes by in what the tracer tells of, as in reality.
		f := &faults{disturb: func(name string, do func() error) error {
			if name == "Queue.Push" || name == "Queue.Read" || name == "Store.Apply" {
				time.Sleep(time.Millisecond)
			}
			return do()
		}}
		receipt := commitOne(t, tracedRig(t, f, notes, nil))
		if len(notes.seals) != 1 || len(notes.pushes) != 1 || len(notes.flushes) != 1 {
			t.Fatalf("it is told of %d seals, %d pushes and %d flushes", len(notes.seals), len(notes.pushes), len(notes.flushes))
		}
		seal, push, flush := notes.seals[0], notes.pushes[0], notes.flushes[0]
		if seal.Seal != receipt.Seal() || len(seal.Batches) != 1 || seal.Batches[0].Updates != 1 || seal.Began.IsZero() || seal.Ended.Before(seal.Began) {
			t.Errorf("the seal of %d: %+v", receipt.Seal(), seal)
		}
		digest := seal.Batches[0].Digest()
		if push.Batch.Digest() != digest || push.Err != nil || push.Began.Before(seal.Ended) || !push.Ended.After(push.Began) {
			t.Errorf("the push: %+v", push)
		}
		if len(flush.Batches) != 1 || flush.Batches[0].Digest() != digest || flush.Updates != 1 || flush.Rows == 0 || flush.Path != "queue" || flush.Err != nil {
			t.Errorf("the flush: %+v", flush)
		}
		if flush.Gathered.IsZero() || !flush.Began.After(flush.Gathered) || !flush.Ended.After(flush.Began) {
			t.Errorf("the flush gathered at %s, from %s to %s", flush.Gathered, flush.Began, flush.Ended)
		}
	})
}

func TestTheTraceOfAFlushIsAnExemplarOfItsSecondsAndItsRows(t *testing.T) {
	for _, id := range []string{"4bf92f3577b34da6a3ce929d0e0e4736", ""} { // "": it isn't traced
		synctest.Test(t, func(t *testing.T) {
			registry := prometheus.NewPedanticRegistry()
			commitOne(t, tracedRig(t, &faults{}, &tracerNotes{traceID: id}, registry))
			for _, name := range []string{"spendflush_flush_seconds", "spendflush_flush_rows"} {
				if got := exemplars(t, registry, name); id == "" && len(got) != 0 || id != "" && !slices.Equal(got, []string{id}) {
					t.Errorf("%s has the exemplars %q, the trace is %q", name, got, id)
				}
			}
		})
	}
}

// exemplars are the ids of the traces at the buckets of a histogram.
func exemplars(t *testing.T, registry *prometheus.Registry, name string) (ids []string) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, bucket := range family.GetMetric()[0].GetHistogram().GetBucket() {
			if e := bucket.GetExemplar(); e != nil {
				ids = append(ids, e.GetLabel()[0].GetValue())
			}
		}
		return ids
	}
	t.Fatalf("there is no %s", name)
	return nil
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
		commitOne(t, tracedRig(t, f, notes, nil))
		if len(notes.pushes) != 2 || !errors.Is(notes.pushes[0].Err, errInjected) || notes.pushes[1].Err != nil {
			t.Errorf("it is told of the pushes %+v", notes.pushes)
		}
		if len(notes.flushes) != 2 || !errors.Is(notes.flushes[0].Err, errInjected) || notes.flushes[1].Err != nil {
			t.Errorf("it is told of the flushes %+v", notes.flushes)
		}
	})
}

// Without a tracer what would be told isn't made, and no clock is looked at: there is none here.
func TestWithoutATracerNothingIsDoneForOne(t *testing.T) {
	batch := (&spend.BatchKeys{}).NewBatch(spend.Header{Sequence: 1}, nil, nil)
	p := &Pipeline{}
	c := &committer{cfg: &p.cfg}
	plan := &plan{taken: []entryBatch{{Batch: batch}}}
	flush := &spend.Flush{}
	sealed := [][]*spend.Batch{{batch}}
	allocated := testing.AllocsPerRun(100, func() {
		began := p.cfg.traceClock(nil)
		p.traceSeal(1, sealed, began)
		p.tracePush(batch, began, nil)
		if id := c.traceFlush(plan, flush, viaQueue, began, began, nil); id != "" || !began.IsZero() {
			t.Errorf("at %s the trace is %q", began, id)
		}
	})
	if allocated != 0 {
		t.Errorf("it takes %v allocations", allocated)
	}
}
