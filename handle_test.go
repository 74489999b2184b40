package spendflush

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spendflush/spendflush/spend"
)

func TestHandleCountsWhereRecordCountsWhateverIsSealedOrEvicted(t *testing.T) {
	p := newTestPipeline(t, Config{Store: newTestStore(), DirectLocker: newTestLocker()})
	want, got := newBooks(), newBooks()
	u := spend.Update{Cost: spend.Cost{Spend: spend.Dollars(1), Status: spend.Failure, PromptTokens: 7, CacheReadInputTokens: 2}, Series: spend.Series{
		APIKey: "k", UserID: "u", TeamID: "t", Model: "m", Tags: []string{"b", "a", "b"},
	}}
	h, err := p.Handle(&u.Series)
	if err != nil {
		t.Fatal(err)
	}
	seal := func() {
		if seal, dirty, _ := p.open.swap(false); seal != 0 {
			for _, part := range slices.Concat(p.sealer.parts(seal, dirty)...) {
				got.apply(part.totals, part.rollups)
			}
			p.open.recycle(dirty)
		}
	}
	for i := range 200 {
		u.Spend, u.Time = spend.Picodollars(int64(i)), time.Now().Add(-time.Duration(i/20)*time.Hour)
		cost := u.Cost
		for _, err := range []error{h.Record(&cost), p.Record(&u)} {
			if err != nil {
				t.Fatal(err)
			}
			want.book(&u, spend.HourOf(u.Time))
		}
		if i%7 == 0 {
			seal()
		}
		if i%11 == 0 {
			p.open.evictIdle()
			p.open.evictIdle()
		}
	}
	seal()
	got.mustEqual(t, want)
}

func TestHandleIsSharedByGoroutines(t *testing.T) {
	p := newTestPipeline(t, Config{Store: newTestStore(), DirectLocker: newTestLocker()})
	h, err := p.Handle(&spend.Series{APIKey: "k"})
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	for g := range 4 {
		work.Go(func() {
			for i := range 1000 {
				if err := h.Record(&spend.Cost{Spend: spend.Dollars(1), Time: time.Now().Add(-time.Duration((i+g)%3) * time.Hour)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 50 {
		p.seal(false)
	}
	work.Wait()
	if held := p.Held(spend.Entity{Type: spend.APIKey, ID: "k"}).NotIn(nil); held.Spend != spend.Dollars(4000) || held.SuccessfulRequests != 4000 {
		t.Errorf("held: %+v; want 4000 requests of a dollar", held)
	}
}

func TestHandleRefusesWhatRecordRefuses(t *testing.T) {
	p := newTestPipeline(t, Config{Store: newTestStore(), DirectLocker: newTestLocker(), MaxKeys: 1})
	var refused *spend.UpdateError
	for field, s := range map[string]spend.Series{"": {Model: "m"}, "model": {APIKey: "k", Model: "\xff"}, "tags": {Tags: []string{""}}} {
		if _, err := p.Handle(&s); !errors.As(err, &refused) || refused.Field != field {
			t.Errorf("%+v: %v; want the field %q refused", s, err, field)
		}
	}
	a, err := p.Handle(&spend.Series{APIKey: "a"})
	if err != nil {
		t.Fatal(err)
	}
	b, err := p.Handle(&spend.Series{APIKey: "b"})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Record(&spend.Cost{PromptTokens: -1}); !errors.As(err, &refused) || refused.Field != "prompt_tokens" {
		t.Errorf("-1 tokens: %v", err)
	}
	if err := a.Record(&spend.Cost{Time: time.Now().Add(time.Hour)}); !errors.As(err, &refused) || refused.Field != "time" {
		t.Errorf("an hour ahead: %v", err)
	}
	for range 2 {
		if err := a.Record(&spend.Cost{}); err != nil {
			t.Errorf("the one key that there may be: %v", err)
		}
	}
	if err := b.Record(&spend.Cost{}); !errors.Is(err, ErrBufferFull) {
		t.Errorf("one key too many: %v; want ErrBufferFull", err)
	}
	p.seal(true)
	if err := a.Record(&spend.Cost{}); !errors.Is(err, ErrClosed) {
		t.Errorf("after the last seal: %v; want ErrClosed", err)
	}
}

func TestHandleCostsNoAllocation(t *testing.T) {
	p := newTestPipeline(t, Config{Store: newTestStore(), DirectLocker: newTestLocker()})
	h, err := p.Handle(&spend.Series{APIKey: "k"})
	if err != nil {
		t.Fatal(err)
	}
	p.hours.keep()
	cost := spend.Cost{Spend: spend.Picodollars(1), PromptTokens: 1}
	if err := h.Record(&cost); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(1000, func() {
		if err := h.Record(&cost); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("Record of a handle makes %v allocations", n)
	}
}

func TestUpdateWithoutTimeCountsInTheHourThatHasBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, false, 1, &faults{})
		hourOf := func() spend.Hour {
			hour, err := r.check(&spend.Cost{})
			if err != nil {
				t.Fatal(err)
			}
			return hour
		}
		expect := func(when string) {
			t.Helper()
			if got, want := hourOf(), spend.HourOf(time.Now()); got != want {
				t.Errorf("%s: counted in hour %d; want %d", when, got, want)
			}
		}
		expect("before it runs")
		time.Sleep(time.Hour)
		expect("an hour later, before it runs")
		r.start(t)
		for range 3 {
			next := (spend.HourOf(time.Now()) + 1).Time()
			time.Sleep(time.Until(next) - time.Millisecond)
			expect("just before the hour")
			time.Sleep(2 * time.Millisecond)
			expect("just after the hour")
		}
		if err := r.Shutdown(context.WithoutCancel(t.Context())); err != nil {
			t.Fatal(err)
		}
		<-r.ran
		time.Sleep(time.Hour)
		expect("after it ran")
	})
}

// A known cell tells that its texts were checked, but nothing of what isn't part of its key.
func TestKnownCellSkipsNoValidationOfWhatIsNotInItsKey(t *testing.T) {
	p := newTestPipeline(t, Config{Store: newTestStore(), DirectLocker: newTestLocker(), RollupDimensions: []string{"model"}})
	all := newTestPipeline(t, Config{Store: newTestStore(), DirectLocker: newTestLocker()})
	repeated := make([]string, spend.MaxTags+1)
	for i := range repeated {
		repeated[i] = "x"
	}
	for _, c := range []struct {
		p         *Pipeline
		known, no spend.Series
		field     string
	}{
		{p, spend.Series{APIKey: "k"}, spend.Series{APIKey: "k", Endpoint: "\xff"}, "endpoint"},
		{all, spend.Series{Tags: []string{"x"}}, spend.Series{Tags: repeated}, "tags"},
	} {
		if err := c.p.Record(&spend.Update{Series: c.known}); err != nil {
			t.Fatal(err)
		}
		var refused *spend.UpdateError
		if err := c.p.Record(&spend.Update{Series: c.no}); !errors.As(err, &refused) || refused.Field != c.field {
			t.Errorf("%s of a known cell: %v", c.field, err)
		}
		group := []spend.Update{{Series: c.known}, {Series: c.no}}
		if _, err := c.p.RecordAll(group); !errors.As(err, &refused) || refused.Field != c.field || refused.Index != 1 {
			t.Errorf("%s of a known cell in a group: %v", c.field, err)
		}
		if got := c.p.open.sums().updates; got != 1 {
			t.Errorf("%d updates are counted, want 1", got)
		}
	}
}

func TestGroupNamesTheFirstUpdateThatIsRefused(t *testing.T) {
	p := newTestPipeline(t, Config{Store: newTestStore(), DirectLocker: newTestLocker()})
	good, badSeries, badCost := key("k"), key("\xff"), key("k")
	badCost.PromptTokens = -1
	for _, group := range [][]spend.Update{{good, badSeries, badCost}, {good, badCost, badSeries}, {good, badSeries, badSeries}} {
		var refused *spend.UpdateError
		if _, err := p.RecordAll(group); !errors.As(err, &refused) || refused.Index != 1 {
			t.Errorf("%v; want update 1 refused", err)
		}
	}
}

func TestKeysOfOneHashAreCountedApart(t *testing.T) {
	m, want := newOpenMap(100, spend.AllDimensions, 0), newBooks()
	s := &m.stripes[7]
	for _, id := range []string{"a", "b", "a", "b", "b"} {
		u := key(id)
		cellKey := appendCellKey(nil, 0, &u.Series, spend.AllDimensions)
		if _, err := m.countOne(s, s.find(7, cellKey), 7, cellKey, &spend.Cost{Spend: u.Spend}); err != nil {
			t.Fatal(err)
		}
		want.book(&u, 0)
	}
	got := newBooks()
	_, shards := sealed(m, newSealer(1, 100))
	got.apply(shards[0][0].totals, shards[0][0].rollups)
	got.mustEqual(t, want)
}
