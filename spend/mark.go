package spend

import (
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// MaxPublishedLost is how many ranges of lost batches a mark may have to be published, and how many
// batches in quarantine. A mark with more is left to Postgres.
const MaxPublishedLost = 64

// ErrMarkText is wrapped by the errors of Mark.AppendText and Mark.UnmarshalText.
var ErrMarkText = errors.New("bad text of a mark")

// AppendText appends the compact form in which a mark is published: the sequence, the digest in
// hexadecimal, the lost sequences, where those in quarantine stand by themselves with a "q" behind,
// and Recent in unpadded URL-safe base64, such as
//
//	17 00112233445566778899aabbccddeeff 3-9,10q,15 AAAAAAARIjM
//
// Where nothing is lost there is a "-", and the last words that have nothing to say are left out.
//
// Updates and Amount are left out. The error wraps ErrMarkText: a list is longer than
// MaxPublishedLost, or the lists aren't as the fields of Mark say. Nothing is appended then.
func (m Mark) AppendText(b []byte) ([]byte, error) {
	if err := m.checkLists(); err != nil {
		return b, err
	}
	b = strconv.AppendUint(b, m.Sequence, 10)
	b = append(b, ' ')
	b = hex.AppendEncode(b, m.Digest[:])
	b = m.appendLost(b)
	if len(m.Recent) > 0 {
		if len(m.Lost) == 0 {
			b = append(b, " -"...)
		}
		b = append(b, ' ')
		b = base64.RawURLEncoding.AppendEncode(b, m.Recent)
	}
	return b, nil
}

// appendLost appends the word of what is lost, behind a space. It appends nothing where nothing is.
func (m *Mark) appendLost(b []byte) []byte {
	before := byte(' ')
	part := func(first, last uint64) {
		b = strconv.AppendUint(append(b, before), first, 10)
		if first < last {
			b = strconv.AppendUint(append(b, '-'), last, 10)
		}
		before = ','
	}
	quarantined := m.Quarantined
	for _, r := range m.Lost {
		for ; len(quarantined) > 0 && quarantined[0] <= r.Last; quarantined = quarantined[1:] {
			q := quarantined[0]
			if r.First < q {
				part(r.First, q-1)
			}
			part(q, q)
			b = append(b, 'q')
			r.First = q + 1
		}
		if r.First <= r.Last {
			part(r.First, r.Last)
		}
	}
	return b
}

// TooLong says whether the lists are too long to be published.
func (m *Mark) TooLong() bool {
	return len(m.Lost) > MaxPublishedLost || len(m.Quarantined) > MaxPublishedLost
}

func (m *Mark) checkLists() error {
	if m.Sequence > math.MaxInt64 {
		return fmt.Errorf("%w: sequence %d is more than %d", ErrMarkText, m.Sequence, int64(math.MaxInt64))
	}
	if m.TooLong() {
		return fmt.Errorf("%w: %d ranges are lost, and %d batches quarantined; allowed are %d each",
			ErrMarkText, len(m.Lost), len(m.Quarantined), MaxPublishedLost)
	}
	if n := len(m.Recent); n%recentBytes != 0 || n > recentBatches*recentBytes || uint64(n/recentBytes) > m.Sequence {
		return fmt.Errorf("%w: %d bytes of recent digests up to sequence %d; allowed are %d for each batch and %d batches",
			ErrMarkText, n, m.Sequence, recentBytes, recentBatches)
	}
	var before uint64
	for i, r := range m.Lost {
		// What is missing in a row is one range: there is one in the books between two of them.
		if r.First <= before || i > 0 && r.First == before+1 || r.Last < r.First || r.Last > m.Sequence {
			return fmt.Errorf("%w: lost sequences %d to %d after %d; allowed are ascending ranges up to %d that don't meet",
				ErrMarkText, r.First, r.Last, before, m.Sequence)
		}
		before = r.Last
	}
	before = 0
	for _, sequence := range m.Quarantined {
		if !m.Lacks(sequence) || sequence <= before {
			return fmt.Errorf("%w: quarantined sequence %d; allowed are ascending ones that are lost", ErrMarkText, sequence)
		}
		before = sequence
	}
	return nil
}

// UnmarshalText reads what AppendText has written, and nothing else. The error wraps ErrMarkText; m
// isn't changed then.
func (m *Mark) UnmarshalText(text []byte) error {
	read, ok := parseMark(string(text))
	if !ok {
		return fmt.Errorf("%w: %.60q", ErrMarkText, text)
	}
	again, err := read.AppendText(nil)
	if err != nil {
		return err
	}
	if string(again) != string(text) {
		return fmt.Errorf("%w: %.60q instead of %.60q", ErrMarkText, text, again)
	}
	*m = read
	return nil
}

// parseMark is lenient: UnmarshalText compares with what AppendText would write.
func parseMark(text string) (m Mark, ok bool) {
	if len(text) > MaxMarkText {
		return Mark{}, false
	}
	words := strings.Split(text, " ")
	if len(words) < 2 || len(words) > 4 {
		return Mark{}, false
	}
	sequence, err := strconv.ParseUint(words[0], 10, 63)
	if err != nil || len(words[1]) != hex.EncodedLen(len(m.Digest)) {
		return Mark{}, false
	}
	m.Sequence = sequence
	if _, err := hex.Decode(m.Digest[:], []byte(words[1])); err != nil {
		return Mark{}, false
	}
	if len(words) == 4 {
		recent, err := base64.RawURLEncoding.DecodeString(words[3])
		if err != nil {
			return Mark{}, false
		}
		m.Recent = recent
	}
	if len(words) == 2 || words[2] == "-" {
		return m, true
	}
	for word := range strings.SplitSeq(words[2], ",") {
		numbers, isQuarantined := strings.CutSuffix(word, "q")
		from, to, isRange := strings.Cut(numbers, "-")
		first, err := strconv.ParseUint(from, 10, 63)
		last := first
		if err == nil && isRange {
			last, err = strconv.ParseUint(to, 10, 63)
		}
		if err != nil {
			return Mark{}, false
		}
		if n := len(m.Lost); n > 0 && m.Lost[n-1].Last+1 == first {
			m.Lost[n-1].Last = last
		} else {
			m.Lost = append(m.Lost, SequenceRange{first, last})
		}
		if isQuarantined {
			m.Quarantined = append(m.Quarantined, first)
		}
	}
	return m, true
}

// MaxMarkText is how many bytes a text of Mark.AppendText has at most, about: each one in
// quarantine parts a range, and stands by itself. What is longer is none.
const MaxMarkText = 20 + 1 + 32 + 3*MaxPublishedLost*41 + 1 + recentBatches*recentBytes*4/3 + 1

// SequenceRange is the sequences from First to Last, both included.
type SequenceRange struct{ First, Last uint64 }

// Len returns how many sequences the range has. First must be 1 at least and at most Last.
func (r SequenceRange) Len() uint64 { return r.Last - r.First + 1 }

// FindRange returns the place of the first of ascending ranges that doesn't end before the
// sequence, and whether that range has it.
func FindRange(ranges []SequenceRange, sequence uint64) (place int, has bool) {
	place, _ = slices.BinarySearchFunc(ranges, sequence, func(r SequenceRange, s uint64) int { return cmp.Compare(r.Last, s) })
	return place, place < len(ranges) && ranges[place].First <= sequence
}
