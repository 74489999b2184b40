package spendflush

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/spendflush/spendflush/spend"
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
					order := make([]sortKey, n)
					for i := range order {
						order[i] = sortKey{k.high(), k.low(), spend.Hour(-r.IntN(hours)), uint32(i)}
					}
					got := slices.Clone(order)
					sortByKey(got)
					inOrder := func(a, b sortKey) int {
						return cmp.Or(cmp.Compare(a.hour, b.hour), cmp.Compare(a.high, b.high), cmp.Compare(a.low, b.low))
					}
					if !slices.IsSortedFunc(got, inOrder) {
						t.Error("they aren't in order")
					}
					byNumber := func(a, b sortKey) int { return cmp.Compare(a.of, b.of) }
					if slices.SortFunc(got, byNumber); !slices.Equal(got, order) {
						t.Error("they aren't those that were given")
					}
				})
			}
		}
	}
}

// The largest seals must pass what bounds forged batches.
func TestLargestSealsAreWithinTheBoundsOfABatch(t *testing.T) {
	var updates []spend.Update
	tags := make([]string, spend.MaxTags)
	for i := range spend.MaxBatchRows + 10 {
		for j := range tags {
			tags[j] = fmt.Sprint("t", i, "-", j)
		}
		u := spend.Update{Series: spend.Series{
			APIKey: fmt.Sprint("k", i), UserID: fmt.Sprint("u", i), EndUserID: fmt.Sprint("e", i), TeamID: fmt.Sprint("m", i),
			OrganizationID: fmt.Sprint("o", i), AgentID: fmt.Sprint("a", i),
		}}
		if i%7 == 0 { // few with many entities, many with few
			u.Tags = slices.Clone(tags)
		}
		updates = append(updates, u)
	}
	m, s := newOpenMap(1_000_000, spend.AllDimensions, 0), newSealer(1, 1_000_000)
	for i := range updates {
		if _, err := m.addUpdate(&updates[i], 0); err != nil {
			t.Fatal(err)
		}
	}
	seal, dirty, _ := m.swap(false)
	most := 0
	for _, b := range batches(s.parts(seal, dirty)[0], testHeader(testProducer(1), 1), &spend.BatchKeys{}) {
		if _, err := mustParse(t, b.Bytes()).Rows(); err != nil {
			t.Fatal(err)
		}
		most = max(most, b.Totals)
	}
	if most <= spend.MaxBatchRows {
		t.Errorf("no batch has more than %d totals; the test shows nothing", spend.MaxBatchRows)
	}
}
