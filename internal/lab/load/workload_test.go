package load

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/spendflush/spendflush/spend"
)

func newWorkload(t testing.TB, s Shape) *Workload {
	t.Helper()
	w, err := New(s)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// shapes are of all kinds of choice.
var shapes = []Shape{{Keys: 100, Skew: 0, Models: 3}, {Keys: 100, Skew: 1}, {Keys: 100, Skew: 3, Models: 2}, {Seed: 9}}

func TestEveryUpdateIsOneThatAnInstanceAccepts(t *testing.T) {
	for _, shape := range shapes {
		w := newWorkload(t, shape)
		for number := range uint64(2000) {
			u := w.Update(number)
			if err := u.Check(0); err != nil {
				t.Fatalf("%+v: update %d: %v", shape, number, err)
			}
		}
	}
}

func TestSumsAreThoseOfTheUpdatesOneByOne(t *testing.T) {
	for _, shape := range shapes {
		w := newWorkload(t, shape)
		const first, count = 17, 3000
		want := Sums{Entities: map[spend.Entity]spend.Counters{}}
		for number := uint64(first); number < first+count; number++ {
			u := w.Update(number)
			c := Counters(&u)
			want.Updates.Add(&c)
			for _, e := range Entities(&u.Series) {
				sum := want.Entities[e]
				sum.Add(&c)
				want.Entities[e] = sum
			}
		}
		got := w.Sums(first, count)
		if got.Updates != want.Updates || !maps.Equal(got.Entities, want.Entities) {
			t.Fatalf("%+v: sums differ: %+v instead of %+v", shape, got.Updates, want.Updates)
		}
		if n := got.Updates.APIRequests(); n != count {
			t.Fatalf("%+v: %d requests instead of %d", shape, n, count)
		}
	}
}

// What makes traffic real must be in it: whoever books it wrongly shall be seen.
func TestTrafficHasFailuresTagsAndAllDigits(t *testing.T) {
	w := newWorkload(t, Shape{Keys: 1000, Skew: 3})
	sums := w.Sums(0, 20_000)
	c := &sums.Updates
	if c.FailedRequests == 0 || c.CacheReadInputTokens == 0 || c.CacheCreationInputTokens == 0 || c.CompletionTokens == 0 {
		t.Errorf("a counter is never used: %+v", *c)
	}
	if strings.HasSuffix(c.Spend.String(), "0000") {
		t.Errorf("the sum is %s: the last digits are of no use", c.Spend)
	}
	types := map[spend.EntityType]int{}
	for e := range sums.Entities {
		types[e.Type]++
	}
	if len(types) != len(spend.EntityTypes()) {
		t.Errorf("entities are of the types %v", slices.Sorted(maps.Keys(types)))
	}
	if types[spend.User] <= types[spend.Team] || types[spend.Team] <= types[spend.Organization] {
		t.Errorf("there are %v", types)
	}
}

func TestSkewedKeysHaveAFifthOfTheUpdatesInTheirBusiestHundredth(t *testing.T) {
	w := newWorkload(t, Shape{Keys: 10_000, Skew: 3})
	const count = 100_000
	busy := map[string]bool{}
	for _, key := range w.keys[:100] {
		busy[key] = true
	}
	n := 0
	for number := range uint64(count) {
		if busy[w.Update(number).APIKey] {
			n++
		}
	}
	if n < count/6 || n > count/4 {
		t.Errorf("the busiest hundredth has %d of %d updates", n, count)
	}
}

func TestSeedsMakeDifferentTraffic(t *testing.T) {
	a, b := newWorkload(t, Shape{Skew: 1}), newWorkload(t, Shape{Skew: 1, Seed: 1})
	if again := newWorkload(t, Shape{Skew: 1}); a.Sums(0, 100).Updates != again.Sums(0, 100).Updates {
		t.Error("the same seed makes different traffic")
	}
	if a.Sums(0, 100).Updates == b.Sums(0, 100).Updates {
		t.Error("two seeds make the same traffic")
	}
}

func TestAShapeOutOfBoundsIsNamed(t *testing.T) {
	for field, shape := range map[string]Shape{"Keys": {Keys: -1}, "Skew": {Skew: 11}, "Models": {Models: 9}} {
		if _, err := New(shape); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: the error is %v", field, err)
		}
	}
}

func TestAnUpdateAllocatesNothing(t *testing.T) {
	w := newWorkload(t, Shape{Skew: 3})
	var u spend.Update
	var number uint64
	if n := testing.AllocsPerRun(100, func() { number++; w.Fill(number, &u) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
