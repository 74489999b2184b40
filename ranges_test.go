package spendflush

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/spendflush/spendflush/spend"
)

// Ranges are compared with the sequences one by one.
func TestRangesAreTheSequencesThatWerePutInAndNotTakenOut(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	const most = 30
	for range 2000 {
		var ranges []spend.SequenceRange
		var in [most + 2]bool
		for range 12 {
			before := slices.Clone(ranges)
			kept := ranges
			first := 1 + random.Uint64N(most)
			if random.IntN(2) == 0 {
				last := min(most, first+random.Uint64N(6))
				ranges = withRange(ranges, spend.SequenceRange{First: first, Last: last})
				for s := first; s <= last; s++ {
					in[s] = true
				}
			} else {
				ranges = withoutSequence(ranges, first)
				in[first] = false
			}
			if !slices.Equal(before, kept) {
				t.Fatal("a list that others may have was changed")
			}
			var want []spend.SequenceRange
			for s := uint64(1); s <= most; s++ {
				switch {
				case in[s] && in[s-1]:
					want[len(want)-1].Last = s
				case in[s]:
					want = append(want, spend.SequenceRange{First: s, Last: s})
				}
				if _, has := spend.FindRange(ranges, s); has != in[s] {
					t.Fatalf("%v has %d: %t", ranges, s, has)
				}
			}
			if !slices.Equal(ranges, want) {
				t.Fatalf("%v, want %v", ranges, want)
			}
		}
	}
}

// What left the outbox and isn't in Postgres: of a range that was passed, but for what is there
// still, or in quarantine.
func TestOutboxCountsWhatIsMissingOfARange(t *testing.T) {
	for _, c := range []struct {
		view outboxView
		mark spend.Mark
		want uint64
	}{
		{outboxView{next: 4_000_000_001}, spend.Mark{Sequence: 4_000_000_000, Lost: []spend.SequenceRange{{First: 1, Last: 3_000_000_000}}}, 3_000_000_000},
		{outboxView{next: 4_000_000_001, present: []uint64{1, 7, 8, 5_000}}, spend.Mark{
			Sequence: 4_000_000_000, Lost: []spend.SequenceRange{{First: 2, Last: 3_000_000_000}}, Quarantined: []uint64{7, 9},
		}, 2_999_999_999 - 4},
		{outboxView{next: 10, present: []uint64{9}}, spend.Mark{Sequence: 20, Lost: []spend.SequenceRange{{First: 3, Last: 4}, {First: 8, Last: 15}, {First: 18, Last: 18}}, Quarantined: []uint64{12}}, 3},
		{outboxView{next: 5, present: []uint64{1, 2}}, spend.Mark{}, 2},
	} {
		if got := c.view.missing(c.mark); got != c.want {
			t.Errorf("%+v at %+v: %d are missing, want %d", c.view, c.mark, got, c.want)
		}
	}
}
