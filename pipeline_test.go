package spendflush

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/memstore"
)

// Every run lets another call fail, the first, the second, … until a run has fewer calls than that.
func TestEverythingIsCommittedOnceWhateverSingleCallFails(t *testing.T) {
	direct := []string{"Store.Marks", "Store.Apply", "Locker.Acquire", "Lease.Release"}
	queue := append([]string{"Queue.Push", "Queue.Read", "Queue.Ack", "Queue.Mark", "Queue.Stats"}, direct...)
	for withQueue, names := range map[bool][]string{true: queue, false: direct} {
		for _, applied := range []bool{false, true} {
			for _, name := range names {
				t.Run(fmt.Sprintf("queue %v, %s, done %v", withQueue, name, applied), func(t *testing.T) {
					n := 0
					for injected := true; injected && !t.Failed(); {
						n++
						f := &faults{name: name, failing: n, applied: applied}
						synctest.Test(t, func(t *testing.T) { recordAndEnd(t, withQueue, f) })
						injected = f.injected
					}
					if n == 1 {
						t.Errorf("%s is never called", name)
					}
					if t.Failed() {
						t.Logf("call %d of %s failed", n, name)
					}
				})
			}
		}
	}
}

func recordAndEnd(t *testing.T, withQueue bool, f *faults) {
	r := newRig(t, withQueue, 2, f)
	r.start(t)
	random := rand.New(rand.NewPCG(5, 5))
	for range 4 {
		for range 5 {
			r.record(t, randomUpdate(random))
		}
		time.Sleep(700 * time.Millisecond)
	}
	r.record(t, randomUpdate(random))
	r.end(t)
}

func TestTwoInstancesOnOneQueueCommitEachUpdateOnce(t *testing.T) {
	for n := range 60 {
		synctest.Test(t, func(t *testing.T) {
			f := &faults{failing: 1 + 3*n, applied: n%2 == 0}
			a := newRig(t, true, 1, f)
			b := newRig(t, true, 1, f)
			b.Pipeline = newTestPipeline(t, a.cfg)
			b.store, b.want = a.store, a.want
			a.start(t)
			b.start(t)
			random := rand.New(rand.NewPCG(9, uint64(n)))
			for range 20 {
				a.record(t, randomUpdate(random))
				b.record(t, randomUpdate(random))
				time.Sleep(100 * time.Millisecond)
			}
			if err := a.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			b.end(t)
			if err := <-a.ran; err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestQueueThatLosesEverythingLosesNothingOfTheBooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, 1, &faults{})
		r.locker.Acquire(t.Context(), "flush/0") // nobody flushes
		r.start(t)
		receipt := r.record(t, key("a"))
		if _, err := r.Wait(t.Context(), receipt, Queued); err != nil {
			t.Fatal(err)
		}
		r.queue.lose()
		r.locker.Revoke("flush/0")
		if stage, err := r.Wait(t.Context(), receipt, Committed); stage != Committed || err != nil {
			t.Fatalf("%s, %v", stage, err)
		}
		r.end(t)
	})
}

func TestWaitTellsTheStagesApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, 1, &faults{})
		lease, _ := r.locker.Acquire(t.Context(), "flush/0")
		receipt := r.record(t, key("a")) // before Run: nothing is sealed
		wait := func(want, reached Stage, wantErr error) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if stage, err := r.Wait(ctx, receipt, want); stage != reached || !errors.Is(err, wantErr) {
				t.Fatalf("waiting for %s: %s, %v; want %s, %v", want, stage, err, reached, wantErr)
			}
		}
		wait(Accepted, Accepted, nil)
		wait(Queued, Accepted, context.DeadlineExceeded)
		r.start(t)
		wait(Queued, Queued, nil)
		wait(Committed, Queued, context.DeadlineExceeded)
		lease.Release(t.Context())
		wait(Committed, Committed, nil)
		wait(Queued, Committed, nil)
		r.end(t)
		receipt = Receipt{seal: receipt.seal + 100}
		wait(Committed, Accepted, ErrClosed)
	})
}

func TestWithoutAQueueEveryInstanceWritesDirectly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, false, 3, &faults{})
		r.start(t)
		random := rand.New(rand.NewPCG(1, 1))
		var last Receipt
		for range 50 {
			last = r.record(t, randomUpdate(random))
			time.Sleep(50 * time.Millisecond)
		}
		if stage, err := r.Wait(t.Context(), last, Queued); stage != Committed || err != nil {
			t.Fatalf("%s, %v; want committed, as there is no queue between", stage, err)
		}
		r.end(t)
	})
}

func TestQueueThatFailsForASecondIsGoneRoundUntilItIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		queueFaults := &faults{}
		r := newRig(t, true, 1, queueFaults)
		r.store.commits = time.Millisecond                         // longer than a push, which ends the fallback
		r.cfg.Store, r.cfg.DirectLocker = r.store, newTestLocker() // only the queue and its lock fail
		r.start(t)
		r.record(t, key("a"))
		fallback := func() bool { return r.Status().Shards[0].Fallback }
		committed := func() bool { return r.Status().Shards[0].Unconfirmed == 0 && r.Status().Open.Updates == 0 }
		eventually(t, "the first update is committed", committed)
		if fallback() {
			t.Fatal("fallback while the queue works")
		}
		queueFaults.setAll(true)
		down := time.Now()
		r.record(t, key("b"))
		eventually(t, "the fallback is on", fallback)
		if since := time.Since(down); since < fallbackAfter {
			t.Errorf("fallback after %s; a queue may fail for %s", since, fallbackAfter)
		}
		eventually(t, "the second update is committed without the queue", committed)
		queueFaults.setAll(false)
		eventually(t, "the fallback is off", func() bool { // an instance without updates has no reason to try
			r.record(t, key("c"))
			return !fallback()
		})
		eventually(t, "all that was recorded is committed", committed)
		r.end(t)
	})
}

// Another flusher has committed the first of two batches, and the flusher doesn't know.
func TestFlushWhoseClaimIsLostCommitsTheRestAndNothingTwice(t *testing.T) {
	store := newTestStore()
	p := newTestPipeline(t, Config{Store: store, DirectLocker: newTestLocker()})
	if err := p.committer(0).commit(t.Context(), offered(t, nil, testBatch(t, 1, 1)), viaQueue); err != nil {
		t.Fatal(err)
	}
	stale := offered(t, nil, testBatch(t, 1, 1), testBatch(t, 1, 2))
	if err := p.committer(0).commit(t.Context(), stale, viaQueue); err != nil {
		t.Fatal(err)
	}
	mustSettle(t, stale, "e0", "e1")
	if mark := store.mark(0, testProducer(1)); mark.Sequence != 2 || store.Sum().Spend != spend.Dollars(3) || store.flushes.Load() != 2 {
		t.Errorf("mark %d and %s dollars after %d flushes; want 2, 3 and 2", mark.Sequence, store.Sum().Spend, store.flushes.Load())
	}
}

func TestIdleInstancePushesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, 1, &faults{})
		r.start(t)
		time.Sleep(time.Minute)
		if r.queue.pushes.Load() != 0 || r.store.flushes.Load() != 0 {
			t.Errorf("%d pushes and %d flushes of nothing", r.queue.pushes.Load(), r.store.flushes.Load())
		}
		r.end(t)
	})
}

func TestPostgresAwayForLongQueuesOnUpToTheBoundAndLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storeFaults := &faults{all: true}
		r := newRig(t, true, 1, &faults{})
		r.cfg.Store = faultyStore{r.store, storeFaults}
		const bound = 100_000
		r.cfg.MaxUnconfirmedBytes = bound
		storeFaults.setAll(false)
		r.start(t)
		eventually(t, "Postgres has told its books", func() bool { return r.books.current().fromPostgres })
		storeFaults.setAll(true)
		most := 0
		for i := range 2400 {
			r.record(t, key("a"))
			time.Sleep(50 * time.Millisecond)
			s := r.Status().Shards[0]
			most = max(most, s.Bytes)
			if i == 60 && (s.Unconfirmed <= maxAtRisk || s.Unqueued > 1) {
				t.Errorf("after 3s %d batches, %d of them not in the queue: what is open would be lost with the process", s.Unconfirmed, s.Unqueued)
			}
		}
		if most < bound-1000 || most > bound {
			t.Errorf("%d bytes of batches in memory; want %d at most, and one batch less at least", most, bound)
		}
		storeFaults.setAll(false)
		r.end(t)
	})
}

func TestRedisAndPostgresAwayBoundTheBatchesAndLoseNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &faults{all: true}
		r := newRig(t, true, 1, f)
		r.start(t)
		for range 600 {
			r.record(t, key("a"))
			time.Sleep(100 * time.Millisecond)
		}
		if s := r.Status().Shards[0]; s.Unconfirmed != maxAtRisk {
			t.Errorf("%d unconfirmed batches; want %d", s.Unconfirmed, maxAtRisk)
		}
		f.setAll(false)
		r.end(t)
	})
}

func TestHeldAndCommittedAddUpToWhatWasAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, 2, &faults{})
		r.start(t)
		e := spend.Entity{Type: spend.Team, ID: "t"}
		for i := range 100 {
			r.record(t, spend.Update{Cost: spend.Cost{Spend: spend.Dollars(1)}, Series: spend.Series{APIKey: fmt.Sprint(i), TeamID: "t"}})
			held := r.Held(e)
			if i%3 == 0 {
				time.Sleep(time.Second) // what is held now is committed and confirmed before the books are read
			}
			books := r.store.Snapshot()
			sum := books.Totals[e]
			marks := map[int]spend.Mark{}
			for shard, id := range held.Producers() {
				marks[shard] = books.Producers[memstore.ProducerKey{Shard: shard, ID: id}].Mark
			}
			beyond := held.NotIn(marks)
			sum.Add(&beyond)
			if sum.Spend != spend.Dollars(int64(i+1)) || sum.APIRequests() != int64(i+1) {
				t.Fatalf("committed and held are %s dollars, want %d", sum.Spend, i+1)
			}
			time.Sleep(37 * time.Millisecond)
		}
		r.end(t)
	})
}

func TestCorruptQueueEntryIsQuarantinedAndItsBatchSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, 1, &faults{})
		lease, _ := r.locker.Acquire(t.Context(), "flush/0")
		r.start(t)
		receipt := r.record(t, key("a"))
		if _, err := r.Wait(t.Context(), receipt, Queued); err != nil {
			t.Fatal(err)
		}
		r.queue.entries(0)[0].Bytes[2] ^= 2 // the version: not to be taken for a newer one
		lease.Release(t.Context())
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if stage, err := r.Wait(ctx, receipt, Committed); stage != Committed {
			t.Fatalf("%s, %v", stage, err)
		}
		if len(r.store.quarantined()) != 1 {
			t.Errorf("%d batches in quarantine, want 1", len(r.store.quarantined()))
		}
		r.end(t)
	})
}

func TestMetricsAreConsistentAndToldTruthfully(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	p := newTestPipeline(t, Config{
		Store: newTestStore(), DirectLocker: newTestLocker(), Queue: newTestQueue(), Locker: newTestLocker(),
		Shards: 2, Registerer: registry, LiteLLMMetrics: true, MaxKeys: 1,
	})
	u := key("a")
	if err := errors.Join(p.Record(&u), p.Record(&u)); err != nil {
		t.Fatal(err)
	}
	b, bad := key("b"), spend.Update{}
	if err := p.Record(&b); !errors.Is(err, ErrBufferFull) {
		t.Fatal(err)
	}
	if err := p.Record(&bad); !errors.Is(err, spend.ErrInvalidUpdate) {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			name := family.GetName()
			for _, label := range m.GetLabel() {
				name += "," + label.GetValue()
			}
			got[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"litellm_pod_lock_manager_size,flush/0:test": 0, "litellm_pod_lock_manager_size,flush/1:test": 0,
		"litellm_in_memory_spend_update_queue_size": 1, "litellm_in_memory_daily_spend_update_queue_size": 1,
		"litellm_redis_spend_update_queue_size": 0, "litellm_redis_daily_spend_update_queue_size": 0,
		"spendflush_updates_accepted_total": 2, "spendflush_open_updates": 2, "spendflush_open_keys": 1, "spendflush_open_keys_limit": 1,
		"spendflush_updates_refused_total,buffer_full": 1, "spendflush_updates_refused_total,invalid": 1,
		"spendflush_unconfirmed_amount_dollars,open": 2, "spendflush_queue_up": 1, "spendflush_fallback_active,0": 0,
	} {
		if value, ok := got[name]; !ok || value != want {
			t.Errorf("%s is %v (there: %v), want %v", name, value, ok, want)
		}
	}
	if _, err := New(p.cfg); err == nil {
		t.Error("a second pipeline on one registry is taken, and one of the two would be hidden")
	}
}

func TestALockLostBetweenTwoFlushesIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, 1, &faults{})
		r.start(t)
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(r.metrics.locksLost)
		lost := func() float64 {
			families, err := registry.Gather()
			if err != nil {
				t.Fatal(err)
			}
			return families[0].GetMetric()[0].GetCounter().GetValue()
		}
		for lost() == 0 {
			if time.Since(r.started) > time.Minute {
				t.Fatal("a lock that was lost between two flushes isn't counted")
			}
			r.record(t, key("k"))
			time.Sleep(r.cfg.SealInterval)
			if since, held := r.flushers[0].holds(); held && time.Since(since) > r.cfg.FlushInterval/2 { // it pauses
				r.locker.Revoke("flush/0")
			}
			synctest.Wait()
		}
		r.end(t)
	})
}

func TestConfigNamesAllItsFaultsAtOnce(t *testing.T) {
	_, err := New(Config{
		Queue: newTestQueue(), Shards: 65, SealInterval: time.Microsecond, FlushInterval: time.Hour, MaxKeys: -1,
		RollupDimensions: []string{"model", "colour"},
	})
	if err == nil {
		t.Fatal("a bad configuration is taken")
	}
	for _, want := range []string{
		"Store:", "DirectLocker:", "Queue and Locker:", "Shards: 65", "SealInterval: 1µs", "FlushInterval: 1h;", "MaxKeys: -1", `"colour"`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
	ok := Config{Store: newTestStore(), DirectLocker: newTestLocker(), Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}
	if err := ok.WithDefaults().Validate(); err != nil {
		t.Errorf("the defaults are refused: %v", err)
	}
	if ok.WithDefaults().keep() != spend.AllDimensions || (Config{RollupDimensions: []string{}}).WithDefaults().keep() != 0 {
		t.Error("nil must mean all dimensions, an empty list none")
	}
}

func TestLoweringTheNumberOfShardsLeavesNoBatchBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, 1, &faults{})
		// An instance with four shards pushed and died.
		producer := spend.NewProducerID(time.Now())
		var want spend.Amount
		for shard := range 4 {
			row := spend.NewRollupRow(&spend.Series{APIKey: fmt.Sprint("key-", shard)}, 1, spend.Counters{Spend: spend.Dollars(1), SuccessfulRequests: 1})
			b := spend.NewBatch(spend.Header{Books: testBooks, Shard: shard, Producer: producer, Sequence: 1}, nil, []spend.RollupRow{row})
			if _, err := r.queue.Push(t.Context(), b, ""); err != nil {
				t.Fatal(err)
			}
			want = want.Add(spend.Dollars(1))
		}
		r.start(t)
		eventually(t, "all four lanes are empty", func() bool {
			return r.queue.len(0)+r.queue.len(1)+r.queue.len(2)+r.queue.len(3) == 0
		})
		var got spend.Amount
		for shard := range 4 {
			marks, err := r.store.Marks(t.Context(), shard, []spend.ProducerID{producer})
			if err != nil || marks.Of[producer].Sequence != 1 {
				t.Errorf("shard %d: marks %v, %v", shard, marks, err)
			}
			got = got.Add(spend.Dollars(int64(marks.Of[producer].Sequence)))
		}
		if got != want {
			t.Errorf("%s dollars are committed; want %s", got, want)
		}
		if err := r.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}
