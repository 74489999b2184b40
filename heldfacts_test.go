package spendflush

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spendflush/spendflush/spend"
)

func TestAnIDThatIsHeldTakesNoMoreThanItIsChargedFor(t *testing.T) {
	const ids = 300_000
	p := newTestPipeline(t, Config{Store: newTestStore(), DirectLocker: newTestLocker(), MaxUnconfirmedBytes: 1 << 30})
	ring := make([]spend.Update, 100)
	before := heapNow()
	for i := range ids {
		ring[i%100] = dollar(fmt.Sprint("key", i%100), strconv.Itoa(i))
		if err := p.Record(&ring[i%100]); err != nil {
			t.Fatal(err)
		}
	}
	for _, when := range []string{"open", "sealed"} {
		if used := (heapNow() - before) / ids; used > factBytes || used < factBytes/4 {
			t.Errorf("%s, an id takes %d bytes; charged are %d", when, used, factBytes)
		} else {
			t.Logf("%s, an id takes %d bytes", when, used)
		}
		p.seal(false)
	}
	if _, held := p.open.facts.size(); held != ids*factBytes {
		t.Errorf("charged are %d bytes for %d ids", held, ids)
	}
	runtime.KeepAlive(p)
}

func TestIDsThatWaitForPostgresAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, 1, &faults{})
		c := r.cfg
		c.MaxUnconfirmedBytes = 1 << 20
		r.Pipeline = newTestPipeline(t, c)
		lease, _ := r.locker.Acquire(t.Context(), "flush/0")
		r.start(t)
		n := 0
		record := func() error {
			u := dollar("a", strconv.Itoa(n+1))
			return r.Record(&u)
		}
		for ; ; n++ {
			if err := record(); errors.Is(err, ErrBufferFull) {
				break
			} else if err != nil || n > 1<<20/factBytes {
				t.Fatalf("%d ids are held, %v", n, err)
			}
			if n%100 == 0 {
				time.Sleep(200 * time.Millisecond)
			}
		}
		if n < 1<<20/factBytes/2 {
			t.Errorf("only %d ids are held", n)
		}
		u, plain := dollar("a", "1"), dollar("a", "")
		if err := errors.Join(r.Record(&u), r.Record(&plain)); err != nil {
			t.Errorf("a repeat of what is held, and an update without an id: %v", err)
		}
		lease.Release(t.Context())
		eventually(t, "there is room again", func() bool { return record() == nil })
		r.end0(t)
		if booked := r.store.recordedOn("a"); booked != int64(n)+2 {
			t.Errorf("%d updates are booked, want %d", booked, n+2)
		}
	})
}

// However much is held, more fits than that, if it is in one call.
func TestOneCallOfIDsAlwaysHasRoom(t *testing.T) {
	r := newRig(t, true, 1, &faults{})
	r.open.facts.most = 1
	if _, err := r.RecordAll([]spend.Update{dollar("a", "1"), dollar("a", "2")}); err != nil {
		t.Error(err)
	}
	if _, err := r.RecordAll([]spend.Update{dollar("a", "3")}); !errors.Is(err, ErrBufferFull) {
		t.Errorf("%v; want ErrBufferFull", err)
	}
}

// poisoned refuses flushes of an entity.
type poisoned struct{ *testStore }

func (s poisoned) Apply(ctx context.Context, f *spend.Flush) error {
	for i := range f.Totals {
		if f.Totals[i].Entity.ID == "poison" {
			return fmt.Errorf("numeric field overflow: %w", spend.ErrRefused)
		}
	}
	return s.testStore.Apply(ctx, f)
}

// What repeats an id of a batch in quarantine is recorded: whether it counts beside it the books
// know, once that is applied.
func TestIDsOfABatchInQuarantineAreHeldNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, 1, &faults{})
		c := r.cfg
		c.Store = poisoned{r.store}
		r.Pipeline = newTestPipeline(t, c)
		r.start(t)
		bad := r.all(t, dollar("poison", "1"), dollar("a", "2"))
		eventually(t, "it is in quarantine", func() bool { return len(r.store.quarantined()) == 1 })
		eventually(t, "its ids are held no more", func() bool { ids, _ := r.open.facts.size(); return ids == 0 })
		r.mustCount(t, r.all(t, dollar("a", "2")), 1, 0, 0)
		if counts := r.Counts(bad); counts.Final {
			t.Errorf("what is in quarantine counts for sure: %+v", counts)
		}
		r.end0(t)
	})
}

func TestIDsOfBatchesSetAsideForANewIdentityAreHeldNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, 1, &faults{})
		lease, _ := r.locker.Acquire(t.Context(), "flush/0")
		r.start(t)
		r.all(t, dollar("a", "1"))
		eventually(t, "it is sealed", func() bool { return len(r.sealedBatches(0)) > 0 })
		r.relays[0].changeIdentity(r.relays[0].identity(), spend.Mark{}, errPruned)
		again := r.all(t, dollar("a", "1"))
		if got := r.Counts(again); got.Duplicates > 0 {
			t.Errorf("what repeats an id that was set aside counts as %+v", got)
		}
		lease.Release(t.Context())
		if _, err := r.Wait(t.Context(), again, Committed); err != nil {
			t.Fatal(err)
		}
		r.end0(t)
		if n := r.store.recordedOn("a"); n != 1 {
			t.Errorf("%d updates are booked, want 1", n)
		}
	})
}

func TestIDsAreTendedEachMinuteAndForgottenAfterTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, 1, &faults{name: "Store.TendFacts", failing: 2})
		c := r.cfg
		c.IDWindow = 2 * time.Hour
		r.Pipeline = newTestPipeline(t, c)
		r.start(t)
		r.mustCount(t, r.all(t, dollar("a", "1")), 1, 0, 0)
		time.Sleep(119 * time.Minute)
		r.mustCount(t, r.all(t, dollar("a", "1")), 0, 1, 0)
		time.Sleep(2 * time.Minute)
		r.mustCount(t, r.all(t, dollar("a", "1")), 1, 0, 0)
		if r.faults.calls < 120 {
			t.Errorf("ids were tended %d times in two hours", r.faults.calls)
		}
		r.end0(t)
	})
}

func TestWhatIsHeldOfAnEntityHasThatUnderIDs(t *testing.T) {
	r := newRig(t, true, 3, &faults{})
	r.all(t, dollar("a", "1"), dollar("a", ""))
	r.once(t, "k", dollar("a", ""), dollar("b", ""))
	for range 2 {
		sum := r.Held(spend.Entity{Type: spend.APIKey, ID: "a"}).NotIn(nil)
		if sum.APIRequests() != 3 || sum.Spend != spend.Dollars(3) {
			t.Errorf("held are %d updates of %s, want 3 of 3 dollars", sum.APIRequests(), sum.Spend)
		}
		r.seal(false)
	}
	if s := r.Status(); s.Accepted != 4 || s.Shards[0].Updates+s.Shards[1].Updates+s.Shards[2].Updates != 4 {
		t.Errorf("status: %+v", s)
	}
}

// The books decide while two goroutines ask: the flusher, which knows, and the relay. Each batch is
// settled once.
func TestABatchIsSettledOnce(t *testing.T) {
	r := newRig(t, true, 1, &faults{})
	receipt := r.all(t, dollar("a", "1"), dollar("a", "2"))
	r.seal(false)
	b := r.relays[0].outbox.batches[0]
	ranges := []spend.TakenRange{{First: 1, Last: 1, Updates: 1}}
	held := b.held
	r.open.facts.settle(held, ranges)
	r.open.facts.settle(held, ranges)
	if got := r.Counts(receipt); got.Duplicates != 1 || got.New != 1 {
		t.Errorf("counts are %+v", got)
	}
}

// The books forget what they took out of a batch that was committed long ago.
func TestCountsOfABatchThatTookAnHourAreNotFinal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, 1, &faults{})
		r.start(t)
		r.faults.setAll(true)
		receipt := r.all(t, dollar("a", "1"))
		time.Sleep(outcomeKnown + time.Minute)
		b := r.relays[0].outbox.batches[0]
		if err := r.store.Apply(t.Context(), flushOfOne(t, b.Batch)); err != nil {
			t.Fatal(err)
		}
		r.faults.setAll(false)
		if stage, err := r.Wait(t.Context(), receipt, Committed); stage != Committed || err != nil {
			t.Fatalf("%s, %v", stage, err)
		}
		if got := r.Counts(receipt); got != (Counts{Updates: 1, New: 1}) {
			t.Errorf("counts are %+v; want one that isn't final", got)
		}
		r.end0(t)
	})
}

// flushOfOne is a flush of one batch, as another instance makes it.
func flushOfOne(t *testing.T, b *spend.Batch) *spend.Flush {
	t.Helper()
	plan := newPlan(b.Shard)
	plan.books = b.Books
	if b.Books.IsZero() {
		plan.books = testBooks
		b = b.ForBooks(testBooks, &spend.BatchKeys{})
	}
	plan.addEntry(spend.Entry{Bytes: b.Bytes()})
	plan.learn(plan.unknown(), spend.Marks{})
	return plan.next()
}

// What a Postgres that is turned back took out of a batch says nothing of what it takes out when
// the batch comes again.
func TestABatchThatIsTurnedBackIsDecidedAgain(t *testing.T) {
	now := time.Now()
	b := chained(t, 1, 1)[0]
	o := newOutbox(b.Producer, time.Hour)
	o.add([]*spend.Batch{b}, 1, now)
	o.hold([]*heldPieces{{}})
	mark := spend.Mark{Sequence: 1, Digest: b.Digest()}
	o.confirm(mark, now)
	if len(o.deciding) != 1 || o.reachedOfFacts([]uint64{1}) != Queued {
		t.Errorf("%d batches are to be decided once it is committed, and it is %s", len(o.deciding), o.reachedOfFacts([]uint64{1}))
	}
	o.confirmStored(spend.Mark{}, o.view(), now.Add(time.Second))
	if len(o.deciding) != 0 || len(o.batches) != 1 {
		t.Errorf("%d batches are to be decided and %d on their way once it is turned back, want 0 and 1", len(o.deciding), len(o.batches))
	}
	o.confirm(mark, now)
	if len(o.deciding) != 1 {
		t.Errorf("%d batches are to be decided once it is committed again, want 1", len(o.deciding))
	}
}

// Each of many goroutines records each id, some by themselves and some in one call, while all is
// sealed all the time.
func TestEachIDIsSealedOnceHoweverManyGoroutinesRecordIt(t *testing.T) {
	const ids, writers = 2000, 8
	r := newRig(t, true, 3, &faults{})
	var writing sync.WaitGroup
	for writer := range writers {
		writing.Go(func() {
			for i := 0; i < ids; {
				n := 1 + (writer+i)%5
				var call []spend.Update
				for ; n > 0 && i < ids; n, i = n-1, i+1 {
					call = append(call, dollar(fmt.Sprint("key", i%50), strconv.Itoa(i)))
				}
				call = append(call, dollar("plain", ""))
				if _, err := r.RecordAll(call); err != nil {
					t.Error(err)
				}
				if i%100 == 0 {
					r.open.evictIdle()
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { defer close(done); writing.Wait() }()
	for sealing := true; sealing; {
		select {
		case <-done:
			sealing = false
		default:
		}
		r.seal(!sealing)
	}
	var updates int64
	pieces := map[spend.FactID]bool{}
	for shard := range r.relays {
		for _, b := range r.sealedBatches(shard) {
			rows := mustRows(t, b)
			for _, piece := range rows.Pieces.All() {
				if pieces[piece.ID] {
					t.Errorf("id %s is sealed twice", piece.ID)
				}
				pieces[piece.ID] = true
				updates += piece.Updates()
			}
		}
	}
	if len(pieces) != ids || updates != ids || r.open.keys.Load() != 0 {
		t.Errorf("%d ids with %d updates are sealed, want %d; %d places are taken", len(pieces), updates, ids, r.open.keys.Load())
	}
	u := dollar("a", "late")
	if err := r.Record(&u); !errors.Is(err, ErrClosed) {
		t.Errorf("after the last seal: %v; want ErrClosed", err)
	}
}

// Every run lets another call fail, as TestEverythingIsCommittedOnceWhateverSingleCallFails does.
func TestIDsCountOnceWhateverSingleCallFails(t *testing.T) {
	for _, withQueue := range []bool{true, false} {
		for _, applied := range []bool{false, true} {
			for _, name := range []string{"Store.Marks", "Store.Apply", "Store.Outcomes", "Queue.Mark"} {
				if !withQueue && (name == "Queue.Mark" || name == "Store.Outcomes") {
					continue
				}
				n := 0
				for injected := true; injected && !t.Failed(); {
					n++
					f := &faults{name: name, failing: n, applied: applied}
					synctest.Test(t, func(t *testing.T) { repeatAndEnd(t, withQueue, f) })
					injected = f.injected
				}
				if t.Failed() || n == 1 && name != "Store.Outcomes" {
					t.Errorf("queue %v, call %d of %s, done %v", withQueue, n, name, applied)
				}
			}
		}
	}
}

func repeatAndEnd(t *testing.T, withQueue bool, f *faults) {
	r := newRig(t, withQueue, 2, f)
	r.start(t)
	for i := range 12 {
		r.all(t, dollar("a", strconv.Itoa(i)), dollar("b", strconv.Itoa(i+100)))
		r.once(t, strconv.Itoa(i/2), dollar("c", ""), dollar("d", ""))
		time.Sleep(150 * time.Millisecond)
		r.all(t, dollar("a", strconv.Itoa(i/2)), dollar("b", strconv.Itoa(i/2+100)))
	}
	last := r.all(t, dollar("a", "11"), dollar("e", "e"))
	r.end0(t)
	if got := r.Counts(last); got != (Counts{2, 1, 1, 0, true}) {
		t.Errorf("the last call counts as %+v", got)
	}
	for key, want := range map[string]int64{"a": 12, "b": 12, "c": 6, "d": 6, "e": 1} {
		if n := r.store.recordedOn(key); n != want {
			t.Errorf("%d updates are booked on %s, want %d", n, key, want)
		}
	}
}
