package spendflush

import (
	"slices"
)

// withRange returns a copy of ascending ranges that has these sequences, too. Ranges that meet become one.
func withRange(ranges []SequenceRange, add SequenceRange) []SequenceRange {
	from, _ := rangeOf(ranges, add.First-1) // also one that ends right before it
	to := from
	for ; to < len(ranges) && ranges[to].First-1 <= add.Last; to++ {
		add = SequenceRange{min(add.First, ranges[to].First), max(add.Last, ranges[to].Last)}
	}
	return slices.Replace(slices.Clone(ranges), from, to, add)
}

// withoutSequence returns a copy of ascending ranges that doesn't have this sequence. A range that has it in the middle
// becomes two.
func withoutSequence(ranges []SequenceRange, sequence uint64) []SequenceRange {
	i, has := rangeOf(ranges, sequence)
	if !has {
		return ranges
	}
	var left []SequenceRange
	if r := ranges[i]; r.First < sequence {
		left = append(left, SequenceRange{r.First, sequence - 1})
	}
	if r := ranges[i]; sequence < r.Last {
		left = append(left, SequenceRange{sequence + 1, r.Last})
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
