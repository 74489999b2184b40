package spendflush

import (
	"errors"
	"fmt"
	"testing"

	"github.com/spendflush/spendflush/spend"
)

// tagged is an update of a key with some tags of its own.
func tagged(id string, tags int) spend.Update {
	u := key(id)
	for i := range tags {
		u.Tags = append(u.Tags, fmt.Sprintf("%s-%02d", id, i))
	}
	return u
}

func record(m *openMap, caller string, updates ...spend.Update) error {
	if len(updates) == 1 {
		_, err := m.add(caller, &updates[0].Series, &updates[0].Cost, 0)
		return err
	}
	_, err := m.addGroup(caller, updates, make([]slot, len(updates)))
	return err
}

// flood records new keys one by one, or in groups, until one is refused, and returns how many were
// taken.
func flood(t *testing.T, m *openMap, caller string, group, tags int) (taken int, err error) {
	t.Helper()
	for taken < 10_000 {
		var updates []spend.Update
		for i := range group {
			updates = append(updates, tagged(fmt.Sprint(caller, "-", taken+i), tags))
		}
		if err := record(m, caller, updates...); err != nil {
			return taken, err
		}
		taken += group
	}
	t.Fatal("it is never refused")
	return 0, nil
}

func TestOneCallerHasHalfOfThePlacesForNewKeysAndIsRefusedAlone(t *testing.T) {
	for _, group := range []int{1, 10} {
		m := newOpenMap(1000, spend.AllDimensions, 0)
		known := key("known")
		if err := record(m, "honest", known); err != nil {
			t.Fatal(err)
		}
		taken, err := flood(t, m, "greedy", group, 0)
		if !errors.Is(err, ErrShareFull) || !errors.Is(err, ErrBufferFull) || taken < 440 || taken > 450 {
			t.Errorf("groups of %d: %d taken, then %v; want about 450 and ErrShareFull", group, taken, err)
		}
		if err := record(m, "greedy", tagged("greedy-0", 0)); err != nil {
			t.Errorf("a key that it has: %v", err)
		}
		if err := record(m, "honest", known); err != nil {
			t.Errorf("another caller's known key: %v", err)
		}
		if taken, err := flood(t, m, "honest", group, 0); taken < 200 || !errors.Is(err, ErrShareFull) {
			t.Errorf("groups of %d: another caller has %d, then %v", group, taken, err)
		}
		sealed(m, newSealer(1, 1000))
		if err := record(m, "greedy", tagged("after the seal", 0)); err != nil {
			t.Errorf("after the seal: %v", err)
		}
	}
}

// One request with many tags makes many entities of few combinations.
func TestNewEntitiesCountAsKeysDo(t *testing.T) {
	for _, group := range []int{1, 10} {
		m := newOpenMap(1000, spend.AllDimensions, 0)
		taken, err := flood(t, m, "greedy", group, 9)
		if !errors.Is(err, ErrShareFull) || taken < 40 || taken > 45 {
			t.Errorf("groups of %d: %d updates of ten entities, then %v; want about 45", group, taken, err)
		}
		m = newOpenMap(1000, spend.AllDimensions, 0)
		taken, err = flood(t, m, "", group, 9)
		if !errors.Is(err, ErrBufferFull) || errors.Is(err, ErrShareFull) || taken != 90 {
			t.Errorf("groups of %d without callers: %d updates of ten entities, then %v; want 90", group, taken, err)
		}
	}
}

func TestATenthOfTheKeysIsKeptForEntitiesThatAreKnown(t *testing.T) {
	m := newOpenMap(1000, spend.AllDimensions, 0)
	if err := record(m, "", tagged("known", 5)); err != nil {
		t.Fatal(err)
	}
	sealed(m, newSealer(1, 1000))
	taken, err := flood(t, m, "", 1, 0)
	if taken != 900 || !errors.Is(err, ErrBufferFull) {
		t.Fatalf("%d taken, then %v", taken, err)
	}
	for i := range 100 { // combinations that are new, as in a new hour, of what was there before
		u := key("known")
		u.Model = fmt.Sprint(i)
		if err := record(m, "", u); err != nil {
			t.Fatalf("combination %d of a known key: %v", i, err)
		}
	}
	u := key("known")
	if err := record(m, "", u); !errors.Is(err, ErrBufferFull) {
		t.Errorf("one more than MaxKeys: %v", err)
	}
}

func TestWhatIsRefusedIsNotKnownByThat(t *testing.T) {
	m := newOpenMap(100, spend.AllDimensions, 0)
	flood(t, m, "greedy", 1, 0)
	for range 3 {
		if err := record(m, "greedy", key("new"), key("newer")); !errors.Is(err, ErrShareFull) {
			t.Fatal(err)
		}
	}
	if n := m.newcomers.total(); n != 45 {
		t.Errorf("%d new entities, want 45", n)
	}
}

func TestKnownEntitiesAreEvicted(t *testing.T) {
	m, s := newOpenMap(640, spend.AllDimensions, 0), newSealer(1, 640)
	for i := range 20_000 {
		if err := record(m, "", key(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
		if i%500 == 499 {
			sealed(m, s)
		}
	}
	if n := len(m.newcomers.known) + len(m.newcomers.older); n > 2*640+2 {
		t.Errorf("%d entities are remembered", n)
	}
	m.evictIdle()
	m.evictIdle()
	if n := len(m.newcomers.known) + len(m.newcomers.older); n != 0 {
		t.Errorf("%d entities are remembered", n)
	}
}

func TestOneCallerBringsNoMoreNewKeysInADayThanItMay(t *testing.T) {
	for _, group := range []int{1, 10} {
		m, s := newOpenMap(1000, spend.AllDimensions, 300), newSealer(1, 1000)
		taken := 0
		for ; taken < 10_000; taken += group {
			var updates []spend.Update
			for i := range group {
				updates = append(updates, key(fmt.Sprint("greedy-", taken+i)))
			}
			if err := record(m, "greedy", updates...); err != nil {
				if !errors.Is(err, ErrDayFull) || !errors.Is(err, ErrShareFull) || !errors.Is(err, ErrBufferFull) {
					t.Errorf("groups of %d: %v", group, err)
				}
				break
			}
			sealed(m, s)
		}
		if taken != 150 { // a combination and an entity each
			t.Errorf("groups of %d: %d taken, want 150", group, taken)
		}
		if err := record(m, "greedy", key("greedy-149")); err != nil {
			t.Errorf("a key that it has: %v", err)
		}
		if err := record(m, "honest", key("honest")); err != nil {
			t.Errorf("another caller's new key: %v", err)
		}
		for range ticksPerDay {
			m.evictIdle()
		}
		if err := record(m, "greedy", key("the next day")); err != nil {
			t.Errorf("the next day: %v", err)
		}
	}
}

func TestCallersBeyondThoseCountedShareOneDay(t *testing.T) {
	n := newNewcomers(1_000_000, 2)
	for i := range maxCallers + 2 {
		if err := n.chargeDay(fmt.Sprint(i), 1); err != nil {
			t.Fatalf("caller %d: %v", i, err)
		}
	}
	if err := n.chargeDay("one more", 1); !errors.Is(err, ErrDayFull) {
		t.Errorf("one more: %v", err)
	}
	if err := n.chargeDay("0", 1); err != nil || len(n.today) != maxCallers+1 {
		t.Errorf("%v; %d callers are counted", err, len(n.today))
	}
}
