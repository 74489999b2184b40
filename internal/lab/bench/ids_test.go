package bench

import "testing"

func TestEachUpdateHasAnIDOfItsOwn(t *testing.T) {
	seen := map[string]bool{}
	for number := range uint64(100_000) {
		seen[idOf(number)] = true
	}
	if len(seen) != 100_000 || len(idOf(1)) != 25 {
		t.Errorf("%d ids, such as %q", len(seen), idOf(1))
	}
}

func TestHowManyIDsAreInTheWindowHasBounds(t *testing.T) {
	for ids, want := range map[int]int{0: 3_000_000, 1: 1, mostIDs: mostIDs} {
		o := Options{IDs: ids}
		if err := o.Validate(); err != nil || o.IDs != want {
			t.Errorf("%d: %d, %v", ids, o.IDs, err)
		}
	}
	quick := Options{Quick: true}
	if err := quick.Validate(); err != nil || quick.IDs != 20_000 {
		t.Errorf("quick: %d, %v", quick.IDs, err)
	}
	for _, ids := range []int{-1, mostIDs + 1} {
		o := Options{IDs: ids}
		if err := o.Validate(); err == nil {
			t.Errorf("%d ids are taken", ids)
		}
	}
}
