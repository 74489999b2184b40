package spendflush

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// MaxPublishedLost is how many lost batches a mark may have to be published. A mark with more is left to Postgres.
const MaxPublishedLost = 64

// ErrMarkText is wrapped by the errors of Mark.AppendText and Mark.UnmarshalText.
var ErrMarkText = errors.New("bad text of a mark")

// AppendText appends the compact form in which a mark is published: the sequence, the digest in hexadecimal, the lost
// sequences with a "q" behind those in quarantine, and Recent in unpadded URL-safe base64, such as
//
//	17 00112233445566778899aabbccddeeff 3,5q AAAAAAARIjM
//
// Where nothing is lost there is a "-", and the last words that have nothing to say are left out.
//
// Updates and Amount are left out. The error wraps ErrMarkText: more than MaxPublishedLost are lost, or the lists aren't
// as the fields of Mark say. Nothing is appended then.
func (m Mark) AppendText(b []byte) ([]byte, error) {
	if err := m.checkLists(); err != nil {
		return b, err
	}
	b = strconv.AppendUint(b, m.Sequence, 10)
	b = append(b, ' ')
	b = hex.AppendEncode(b, m.Digest[:])
	for i, lost := range m.Lost {
		if i == 0 {
			b = append(b, ' ')
		} else {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, lost, 10)
		if m.HasQuarantined(lost) {
			b = append(b, 'q')
		}
	}
	if len(m.Recent) > 0 {
		if len(m.Lost) == 0 {
			b = append(b, " -"...)
		}
		b = append(b, ' ')
		b = base64.RawURLEncoding.AppendEncode(b, m.Recent)
	}
	return b, nil
}

func (m *Mark) checkLists() error {
	if m.Sequence > math.MaxInt64 {
		return fmt.Errorf("%w: sequence %d is more than %d", ErrMarkText, m.Sequence, int64(math.MaxInt64))
	}
	if len(m.Lost) > MaxPublishedLost {
		return fmt.Errorf("%w: %d batches are lost; allowed are %d", ErrMarkText, len(m.Lost), MaxPublishedLost)
	}
	if n := len(m.Recent); n%recentBytes != 0 || n > recentBatches*recentBytes || uint64(n/recentBytes) > m.Sequence {
		return fmt.Errorf("%w: %d bytes of recent digests up to sequence %d; allowed are %d for each batch and %d batches",
			ErrMarkText, n, m.Sequence, recentBytes, recentBatches)
	}
	var before uint64
	for _, lost := range m.Lost {
		if lost <= before || lost > m.Sequence {
			return fmt.Errorf("%w: lost sequence %d after %d; allowed are ascending ones up to %d", ErrMarkText, lost, before, m.Sequence)
		}
		before = lost
	}
	before = 0
	for _, sequence := range m.Quarantined {
		if _, isLost := slices.BinarySearch(m.Lost, sequence); !isLost || sequence <= before {
			return fmt.Errorf("%w: quarantined sequence %d; allowed are ascending ones that are lost", ErrMarkText, sequence)
		}
		before = sequence
	}
	return nil
}

// UnmarshalText reads what AppendText has written, and nothing else. The error wraps ErrMarkText; m isn't changed then.
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
	if len(text) > maxMarkText {
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
		number, isQuarantined := strings.CutSuffix(word, "q")
		lost, err := strconv.ParseUint(number, 10, 63)
		if err != nil {
			return Mark{}, false
		}
		m.Lost = append(m.Lost, lost)
		if isQuarantined {
			m.Quarantined = append(m.Quarantined, lost)
		}
	}
	return m, true
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

// maxMarkText is more than the longest text has.
const maxMarkText = 20 + 1 + 32 + (MaxPublishedLost+1)*21 + 1 + recentBatches*recentBytes*4/3 + 1
