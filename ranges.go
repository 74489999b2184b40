package spendflush

import (
	"slices"

	"github.com/spendflush/spendflush/spend"
)

// withRange returns a copy of ascending ranges that has these sequences, too. Ranges that meet
// become one.
func withRange(ranges []spend.SequenceRange, add spend.SequenceRange) []spend.SequenceRange {
	from, _ := spend.FindRange(ranges, add.First-1) // also one that ends right before it
	to := from
	for ; to < len(ranges) && ranges[to].First-1 <= add.Last; to++ {
		add = spend.SequenceRange{First: min(add.First, ranges[to].First), Last: max(add.Last, ranges[to].Last)}
	}
	return slices.Replace(slices.Clone(ranges), from, to, add)
}

// withoutSequence returns a copy of ascending ranges that doesn't have this sequence. A range that
// has it in the middle becomes two.
func withoutSequence(ranges []spend.SequenceRange, sequence uint64) []spend.SequenceRange {
	i, has := spend.FindRange(ranges, sequence)
	if !has {
		return ranges
	}
	var left []spend.SequenceRange
	if r := ranges[i]; r.First < sequence {
		left = append(left, spend.SequenceRange{First: r.First, Last: sequence - 1})
	}
	if r := ranges[i]; sequence < r.Last {
		left = append(left, spend.SequenceRange{First: sequence + 1, Last: r.Last})
	}
	return slices.Replace(slices.Clone(ranges), i, i+1, left...)
}

// with returns a copy of ascending sequences that has this one, too.
func with(sequences []uint64, sequence uint64) []uint64 {
	i, there := slices.BinarySearch(sequences, sequence)
	if there {
		return sequences
	}
	return slices.Insert(slices.Clone(sequences), i, sequence)
}

// without returns a copy of ascending sequences that doesn't have this one.
func without(sequences []uint64, sequence uint64) []uint64 {
	i, there := slices.BinarySearch(sequences, sequence)
	if !there {
		return sequences
	}
	return slices.Delete(slices.Clone(sequences), i, i+1)
}
