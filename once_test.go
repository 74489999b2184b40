package spendflush

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// dollar is an update of a dollar on a key, under an id.
func dollar(key, id string) spend.Update {
	return spend.Update{ID: id, Cost: spend.Cost{Spend: spend.Dollars(1)}, Series: spend.Series{APIKey: key}}
}

// recordedOn says how many updates the store has on a key.
func (s *testStore) recordedOn(key string) int64 {
	total := s.Total(spend.Entity{Type: spend.APIKey, ID: key})
	return total.APIRequests()
}

// mustCount waits until the receipt is committed, and compares what became of it.
func (r *rig) mustCount(t *testing.T, receipt Receipt, fresh, duplicates, conflicts int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if stage, err := r.Wait(ctx, receipt, Committed); stage != Committed || err != nil {
		t.Fatalf("%s, %v", stage, err)
	}
	want := Counts{fresh + duplicates + conflicts, fresh, duplicates, conflicts, true}
	if got := r.Counts(receipt); got != want {
		t.Errorf("counts are %+v, want %+v", got, want)
	}
}

// all records updates by RecordAll.
func (r *rig) all(t *testing.T, updates ...spend.Update) Receipt {
	t.Helper()
	receipt, err := r.RecordAll(updates)
	if err != nil {
		t.Fatal(err)
	}
	return receipt
}

// once records updates by RecordOnce.
func (r *rig) once(t *testing.T, key string, updates ...spend.Update) Receipt {
	t.Helper()
	receipt, err := r.RecordOnce(key, updates)
	if err != nil {
		t.Fatal(err)
	}
	return receipt
}

// newPair returns two instances on the same servers. Only the first one runs.
func newPair(t *testing.T, shards int) (a, b *rig) {
	a, b = newRig(t, true, shards, &faults{}), newRig(t, true, shards, &faults{})
	c := a.cfg
	c.Instance = "other"
	b.Pipeline = newTestPipeline(t, c)
	b.store, b.queue, b.locker = a.store, a.queue, a.locker
	a.start(t)
	return a, b
}

func TestARepeatIsKnownAtOnceAndIsCommittedWhenTheFirstOneIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, 2, &faults{})
		lease, _ := r.locker.Acquire(t.Context(), "flush/0")
		other, _ := r.locker.Acquire(t.Context(), "flush/1")
		r.start(t)
		first := r.all(t, dollar("a", "1"), dollar("b", "2"))
		again := r.all(t, dollar("a", "1"), dollar("c", "3"), dollar("c", "3"), dollar("d", ""))
		if got, want := r.Counts(again), (Counts{Updates: 4, New: 2, Duplicates: 2}); got != want {
			t.Errorf("counts are %+v at once, want %+v", got, want)
		}
		if open := r.Status().Open.Updates; open != 4 {
			t.Errorf("%d updates are open, want 4", open)
		}
		if stage, err := r.Wait(t.Context(), again, Queued); stage != Queued || err != nil {
			t.Errorf("%s, %v", stage, err)
		}
		later := r.all(t, dollar("b", "2"))
		if stage, err := r.Wait(t.Context(), later, Queued); stage != Queued || err != nil {
			t.Errorf("what repeats one that is queued is %s, %v", stage, err)
		}
		lease.Release(t.Context())
		other.Release(t.Context())
		r.mustCount(t, first, 2, 0, 0)
		r.mustCount(t, again, 2, 2, 0)
		r.mustCount(t, later, 0, 1, 0)
		for _, key := range []string{"a", "b", "c", "d"} {
			if n := r.store.recordedOn(key); n != 1 {
				t.Errorf("%d updates are booked on %s, want 1", n, key)
			}
		}
		if ids, bytes := r.open.facts.size(); ids+int(bytes) != 0 {
			t.Errorf("%d ids are held once all is committed, %d bytes", ids, bytes)
		}
	})
}

func TestAnotherContentUnderAHeldIDIsRefusedAndNothingOfTheCallIsRecorded(t *testing.T) {
	r := newRig(t, true, 2, &faults{})
	if err := r.Record(&spend.Update{ID: "1", Cost: spend.Cost{Spend: spend.Dollars(1)}, Series: spend.Series{APIKey: "a"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.RecordOnce("1", []spend.Update{dollar("k", "")}); err != nil {
		t.Fatalf("a request has the id of an update: %v", err)
	}
	before, keys, held := r.Status().Open, r.open.keys.Load(), len(r.open.facts.held)
	other := dollar("b", "1")
	for name, call := range map[string]func() (Receipt, error){
		"1 id": func() (Receipt, error) { return r.RecordAll([]spend.Update{dollar("x", ""), dollar("y", "2"), other}) },
		"2 id": func() (Receipt, error) {
			return r.RecordAll([]spend.Update{dollar("a", "1"), dollar("y", "2"), dollar("z", "2")})
		},
		"-1 key": func() (Receipt, error) { return r.RecordOnce("1", []spend.Update{dollar("k", ""), dollar("k", "")}) },
	} {
		_, err := call()
		reused, ok := errors.AsType[*IDReusedError](err)
		if !ok || !errors.Is(err, ErrIDReused) {
			t.Errorf("%s: %v; want an *IDReusedError", name, err)
			continue
		}
		if at := fmt.Sprintf("%d %s", reused.Index, reused.Field); name == "1 id" && at != "2 id" || name != "1 id" && at != name {
			t.Errorf("it is about %s, want %s", at, name)
		}
	}
	if after := r.Status().Open; after != before || r.open.keys.Load() != keys || len(r.open.facts.held) != held {
		t.Errorf("open are %+v and %d ids, and before %+v and %d", after, len(r.open.facts.held), before, held)
	}
	if _, err := r.RecordAll([]spend.Update{dollar("z", "2")}); err != nil {
		t.Errorf("an id of a call that was refused is held: %v", err)
	}
}

func TestBadIDsAreRefused(t *testing.T) {
	r := newRig(t, true, 1, &faults{})
	for name, id := range map[string]string{"long": strings.Repeat("x", 257), "NUL": "a\x00b", "UTF-8": "\xff"} {
		_, err := r.RecordAll([]spend.Update{dollar("a", "1"), dollar("a", id)})
		if e, ok := errors.AsType[*spend.UpdateError](err); !ok || e.Index != 1 || e.Field != "id" || !strings.Contains(e.Reason, name) {
			t.Errorf("id that is %s: %v", name, err)
		}
		if u := dollar("a", id); u.Check(0) == nil {
			t.Errorf("Check takes an id that is %s", name)
		}
		if _, err := r.RecordOnce(id, []spend.Update{dollar("a", "")}); !errors.Is(err, ErrInvalidKey) || !strings.Contains(err.Error(), name) {
			t.Errorf("key that is %s: %v", name, err)
		}
	}
	if _, err := r.RecordOnce("", []spend.Update{dollar("a", "")}); !errors.Is(err, ErrInvalidKey) {
		t.Errorf("no key: %v", err)
	}
	_, err := r.RecordOnce("k", []spend.Update{dollar("a", ""), dollar("a", "1")})
	if e, ok := errors.AsType[*spend.UpdateError](err); !ok || e.Index != 1 || e.Field != "id" {
		t.Errorf("an id in a call that has a key: %v", err)
	}
	if _, err := r.RecordOnce("k", nil); err != nil {
		t.Errorf("a call without updates: %v", err)
	}
	if r.open.keys.Load() != 0 || len(r.open.facts.held) != 0 {
		t.Error("something of what was refused is left")
	}
}

// noFacts is a store that keeps no ids.
type noFacts struct{ spend.Store }

func TestAStoreThatKeepsNoIDsGetsNone(t *testing.T) {
	p := newTestPipeline(t, Config{Store: noFacts{newTestStore()}, DirectLocker: newTestLocker()})
	u := dollar("a", "1")
	_, keyErr := p.RecordOnce("k", []spend.Update{dollar("a", "")})
	_, findErr := p.FindID(t.Context(), spend.UpdateFact, "1")
	for _, err := range []error{p.Record(&u), keyErr, findErr} {
		if !errors.Is(err, ErrNoIDs) {
			t.Errorf("%v; want ErrNoIDs", err)
		}
	}
	u = dollar("a", "")
	if err := p.Record(&u); err != nil {
		t.Error(err)
	}
}

// What another instance has committed is known once the books have decided.
func TestWhoWaitsForTheCommitLearnsHowManyWereNew(t *testing.T) {
	for _, flushes := range []string{"this one", "the other one"} {
		synctest.Test(t, func(t *testing.T) {
			a, b := newPair(t, 3)
			array := []spend.Update{dollar("a", "1"), dollar("b", "2"), dollar("c", "3")}
			a.mustCount(t, a.all(t, array...), 3, 0, 0)
			request := []spend.Update{dollar("a", ""), dollar("b", ""), dollar("c", ""), dollar("d", ""), dollar("a", "")}
			a.mustCount(t, a.once(t, "k", request...), 5, 0, 0)

			if flushes == "this one" {
				a.Shutdown(t.Context())
			}
			b.start(t)
			b.mustCount(t, b.all(t, append(array, dollar("c", "4"))...), 1, 3, 0)
			slices.Reverse(request)
			b.mustCount(t, b.once(t, "k", request...), 0, 5, 0)
			b.mustCount(t, b.all(t, dollar("e", "1"), dollar("e", "9")), 1, 0, 1)
			b.mustCount(t, b.once(t, "k", request[1:]...), 0, 0, 4)
			b.mustCount(t, b.once(t, "l", request...), 5, 0, 0)
			if a, c := b.store.recordedOn("a"), b.store.recordedOn("c"); a != 5 || c != 4 {
				t.Errorf("%d and %d updates are booked on a and c, want 5 and 4", a, c)
			}
		})
	}
}

// The series of a request are in all buckets. Sent again to an instance with another number of
// shards, it has other pieces.
func TestARequestCountsOnceHoweverManyShardsThereAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newRig(t, true, 1, &faults{})
		var request []spend.Update
		for i := range 200 {
			request = append(request, dollar(fmt.Sprint("key", i), ""))
		}
		a.start(t)
		a.mustCount(t, a.once(t, "k", request...), 200, 0, 0)
		a.end0(t)
		for _, shards := range []int{5, 64, 2} {
			c := a.cfg
			c.Shards = shards
			b := &rig{Pipeline: newTestPipeline(t, c), store: a.store}
			b.start(t)
			b.mustCount(t, b.once(t, "k", request...), 0, 200, 0)
			b.end0(t)
		}
		if sum := a.store.Sum(); sum.APIRequests() != 200 {
			t.Errorf("%d updates are booked, want 200", sum.APIRequests())
		}
	})
}

// end0 shuts down, and compares nothing.
func (r *rig) end0(t *testing.T) {
	t.Helper()
	if err := r.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-r.ran; err != nil {
		t.Fatal(err)
	}
}

func TestARequestThatCouldNotBeWholeInABatchIsRefused(t *testing.T) {
	r := newRig(t, true, 4, &faults{})
	many := make([]spend.Update, MaxRequestTotals+1)
	for i := range many {
		many[i] = dollar(fmt.Sprint("key", i), "")
	}
	if _, err := r.RecordOnce("1", many); !errors.Is(err, ErrTooLarge) {
		t.Errorf("%d totals: %v; want ErrTooLarge", len(many), err)
	}
	long := make([]spend.Update, 600)
	for i := range long {
		long[i] = spend.Update{Cost: spend.Cost{Spend: spend.Dollars(1)}, Series: spend.Series{APIKey: fmt.Sprint(i), Tags: longTags(0)}}
	}
	if _, err := r.RecordOnce("1", long); !errors.Is(err, ErrTooLarge) {
		t.Errorf("%d combinations of 16 kB: %v; want ErrTooLarge", len(long), err)
	}
	if r.open.keys.Load() != 0 || len(r.open.facts.held)+len(r.open.facts.series) != 0 {
		t.Error("something of what was refused is left")
	}
	if _, err := r.RecordOnce("1", many[1:]); err != nil {
		t.Errorf("%d totals: %v", len(many)-1, err)
	}
	if _, err := r.RecordOnce("2", long[:500]); err != nil {
		t.Errorf("500 combinations of 16 kB: %v", err)
	}
	if _, err := r.RecordOnce("3", slices.Repeat(many[:3], 20_000)); err != nil {
		t.Errorf("60,000 updates of three combinations: %v", err)
	}
	r.seal(false)
	for shard := range r.relays {
		for _, b := range r.sealedBatches(shard) {
			if _, err := b.Rows(); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestFindIDTellsWhatBecameOfAnID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, 2, &faults{})
		lease, _ := r.locker.Acquire(t.Context(), "flush/0")
		other, _ := r.locker.Acquire(t.Context(), "flush/1")
		r.start(t)
		r.all(t, dollar("a", "1"))
		last := r.once(t, "k", dollar("a", ""))
		state := func(kind spend.FactKind, id string, want IDState) (at time.Time) {
			t.Helper()
			status, err := r.FindID(t.Context(), kind, id)
			if status.State != want || err != nil {
				t.Errorf("%s %s is %s, %v; want %s", kind, id, status.State, err, want)
			}
			return status.At
		}
		state(spend.UpdateFact, "1", IDHeld)
		state(spend.RequestFact, "k", IDHeld)
		state(spend.RequestFact, "1", IDUnknown)
		r.faults.setAll(true)
		if status, err := r.FindID(t.Context(), spend.UpdateFact, "1"); status.State != IDHeld || err == nil {
			t.Errorf("what is held while the books can't be asked is %s, %v", status.State, err)
		}
		r.faults.setAll(false)
		before := time.Now()
		lease.Release(t.Context())
		other.Release(t.Context())
		r.mustCount(t, last, 1, 0, 0)
		if at := state(spend.UpdateFact, "1", IDCommitted); at.Before(before) || at.After(time.Now()) {
			t.Errorf("it was committed at %s, want %s or a little later", at, before)
		}
		state(spend.RequestFact, "k", IDCommitted)
		if _, err := r.FindID(t.Context(), spend.UpdateFact, ""); !errors.Is(err, spend.ErrFactIDEmpty) {
			t.Errorf("no id: %v", err)
		}
	})
}

func TestTheLogTellsOfConflictsOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &logged{}
		r := newRig(t, true, 1, &faults{})
		c := r.cfg
		c.Logger = slog.New(slog.NewJSONHandler(log, nil))
		r.Pipeline = newTestPipeline(t, c)
		r.start(t)
		r.mustCount(t, r.all(t, dollar("a", "1")), 1, 0, 0)
		const message = "updates are in quarantine: the books have another content under their ids"
		for i, want := range []string{`"updates":1}`, "", `"updates":2}`} {
			before := len(log.errors(t, message))
			r.mustCount(t, r.all(t, dollar(fmt.Sprint("b", i), "1")), 0, 0, 1)
			synctest.Wait()
			told := len(log.errors(t, message)) - before
			if told != min(len(want), 1) || !strings.Contains(log.String(), want) {
				t.Errorf("conflict %d is told %d times: %s", i, told, log)
			}
			time.Sleep(35 * time.Second)
		}
	})
}
