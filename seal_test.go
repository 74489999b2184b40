package spendflush

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestPlacesAreSortedByHourAndKeyWhateverTheKeys(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	random := r.Uint64
	keys := map[string]struct{ high, low func() uint64 }{
		"spread":              {random, random},
		"alike in front":      {func() uint64 { return 0xABCD<<48 | random()>>16 }, random},
		"alike for half":      {func() uint64 { return 7 }, random},
		"few, many times":     {func() uint64 { return uint64(r.IntN(3)) << 62 }, func() uint64 { return uint64(r.IntN(3)) }},
		"at one end or other": {func() uint64 { return -uint64(r.IntN(2)) }, random},
	}
	for name, k := range keys {
		for _, hours := range []int{1, 3} {
			for _, n := range []int{0, 1, 2, 3, 16, 17, 5000} {
				t.Run(fmt.Sprintf("%s/%d hours/%d", name, hours, n), func(t *testing.T) {
					places := make([]place, n)
					for i := range places {
						places[i] = place{k.high(), k.low(), Hour(-r.IntN(hours)), uint32(i)}
					}
					got := slices.Clone(places)
					sortPlaces(got)
					inOrder := func(a, b place) int {
						return cmp.Or(cmp.Compare(a.hour, b.hour), cmp.Compare(a.high, b.high), cmp.Compare(a.low, b.low))
					}
					if !slices.IsSortedFunc(got, inOrder) {
						t.Error("they aren't in order")
					}
					byNumber := func(a, b place) int { return cmp.Compare(a.of, b.of) }
					if slices.SortFunc(got, byNumber); !slices.Equal(got, places) {
						t.Error("they aren't those that were given")
					}
				})
			}
		}
	}
}
