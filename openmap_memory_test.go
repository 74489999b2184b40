package spendflush

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/spendflush/spendflush/spend"
)

// heapNow returns the bytes that are in use after a collection.
func heapNow() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// longTags returns as many tags of the largest size as an update may have, which no other number
// has.
func longTags(number int) []string {
	tags := make([]string, spend.MaxTags)
	for i := range tags {
		tags[i] = fmt.Sprintf("%08d%04d%s", number, i, strings.Repeat("x", spend.MaxIDBytes-12))
	}
	return tags
}

// Seals follow each other, each as full as it may be, and none of the combinations comes again. A
// key has 16 KB.
func TestLongCombinationsTakeNoMoreMemoryThanAsManyShortOnes(t *testing.T) {
	const most, bytesPerPlace = 64 * 200, 2500
	before := heapNow()
	m, s := newOpenMap(most, spend.AllDimensions, 0), newSealer(1, most)
	number, known := 0, longTags(0) // no bound on new entities is met
	for range 6 {
		for {
			number++
			u := spend.Update{Cost: spend.Cost{Spend: spend.Dollars(1)}, Series: spend.Series{APIKey: fmt.Sprint("k", number), Tags: known}}
			if _, err := m.addUpdate(&u, 0); errors.Is(err, ErrBufferFull) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			if number > 6*most {
				t.Fatalf("%d combinations fit into seals of %d places", number, most)
			}
		}
		if used := heapNow() - before; used > most*bytesPerPlace {
			t.Fatalf("%d combinations take %d bytes a place; allowed are %d", number, used/most, bytesPerPlace)
		}
		sealed(m, s)
	}
	if keys := m.keys.Load(); keys != 0 {
		t.Errorf("%d places are taken after the last seal", keys)
	}
	runtime.KeepAlive(s)
}

func TestRememberedEntityDoesntKeepTheKeyItWasMetIn(t *testing.T) {
	const combinations = 500
	m, s := newOpenMap(1_000_000, spend.AllDimensions, 0), newSealer(1, 1_000_000)
	before, known := heapNow(), longTags(0)
	for i := range combinations {
		u := spend.Update{Cost: spend.Cost{Spend: spend.Dollars(1)}, Series: spend.Series{APIKey: fmt.Sprint("k", i), Tags: known}}
		if _, err := m.addUpdate(&u, 0); err != nil {
			t.Fatal(err)
		}
	}
	sealed(m, s)
	m.evictIdle()
	m.evictIdle()
	m.recycle(make([][]*cell, stripeCount))
	if used := (heapNow() - before) / combinations; used > 2000 {
		t.Errorf("an entity takes %d bytes once the cells are forgotten; its id has 4", used)
	}
	runtime.KeepAlive(m)
	runtime.KeepAlive(s)
}

func TestGroupOfLongCombinationsTakesTheirPlacesAndGivesThemBack(t *testing.T) {
	m, s := newOpenMap(150, spend.AllDimensions, 0), newSealer(1, 150)
	group := make([]spend.Update, 3)
	for i := range group {
		group[i] = spend.Update{Cost: spend.Cost{Spend: spend.Dollars(1)}, Series: spend.Series{Tags: longTags(i % 2)}}
	}
	group[2].Series.Tags = group[0].Series.Tags // two combinations, one of them twice
	if _, err := m.addGroup("", group, make([]slot, 3)); err != nil {
		t.Fatal(err)
	}
	want := 2 * places(len(appendCellKey(nil, 0, &group[0].Series, m.keep)))
	if got := m.keys.Load(); got != want || want < 2*32 {
		t.Fatalf("two long combinations take %d places, want %d", got, want)
	}
	group[1].Series.Tags, group[2].Series.Tags = longTags(5), longTags(6)
	if _, err := m.addGroup("", group, make([]slot, 3)); !errors.Is(err, ErrBufferFull) {
		t.Fatalf("a group without room: %v", err)
	}
	if got := m.keys.Load(); got != want {
		t.Fatalf("a refused group leaves %d places taken, want %d", got, want)
	}
	sealed(m, s)
	if got := m.keys.Load(); got != 0 {
		t.Errorf("%d places are taken after the seal", got)
	}
}

func TestNewCombinationsOfKnownEntitiesAreBoundedToo(t *testing.T) {
	m := newOpenMap(3, spend.AllDimensions, 0)
	update := func(tags ...string) spend.Update {
		return spend.Update{Cost: spend.Cost{Spend: spend.Dollars(1)}, Series: spend.Series{Tags: tags}}
	}
	for _, tag := range []string{"a", "b", "c"} {
		u := update(tag)
		if _, err := m.addUpdate(&u, 0); err != nil {
			t.Fatal(err)
		}
	}
	u := update("a", "b")
	if _, err := m.addUpdate(&u, 0); !errors.Is(err, ErrBufferFull) {
		t.Errorf("a fourth combination: %v; want ErrBufferFull", err)
	}
	group := []spend.Update{update("a", "c"), update("b", "c")}
	if _, err := m.addGroup("", group, make([]slot, 2)); !errors.Is(err, ErrBufferFull) {
		t.Errorf("a group of two more: %v; want ErrBufferFull", err)
	}
	if got := m.keys.Load(); got != 3 {
		t.Errorf("%d places are taken, want 3", got)
	}
}
