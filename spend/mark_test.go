package spend

import (
	"errors"
	"reflect"
	"testing"
)

func manyLost(n int) (lost []SequenceRange) {
	for i := range uint64(n) {
		lost = append(lost, SequenceRange{3*i + 1, 3*i + 2})
	}
	return lost
}

func firstOf(ranges []SequenceRange) (sequences []uint64) {
	for _, r := range ranges {
		sequences = append(sequences, r.First)
	}
	return sequences
}

func TestAMarkComesBackFromItsTextWithoutItsSums(t *testing.T) {
	digest := Digest{0, 1, 2, 0xfe, 15: 0xff}
	for _, c := range []struct {
		mark Mark
		text string // "" if it doesn't matter
	}{
		{Mark{}, "0 00000000000000000000000000000000"},
		{Mark{Sequence: 17, Digest: digest}, "17 000102fe0000000000000000000000ff"},
		{Mark{Sequence: 1<<63 - 1, Digest: digest, Lost: []SequenceRange{{1<<63 - 1, 1<<63 - 1}}}, "9223372036854775807 000102fe0000000000000000000000ff 9223372036854775807"},
		{Mark{Sequence: 17, Digest: digest, Lost: []SequenceRange{{3, 3}, {5, 5}, {17, 17}}, Quarantined: []uint64{5}}, "17 000102fe0000000000000000000000ff 3,5q,17"},
		{Mark{Sequence: 17, Digest: digest, Lost: []SequenceRange{{1, 9}, {11, 14}, {16, 17}}, Quarantined: []uint64{1, 4, 5, 9, 16}},
			"17 000102fe0000000000000000000000ff 1q,2-3,4q,5q,6-8,9q,11-14,16q,17"},
		{Mark{Sequence: 1<<63 - 1, Digest: digest, Lost: []SequenceRange{{1, 1<<63 - 2}}}, "9223372036854775807 000102fe0000000000000000000000ff 1-9223372036854775806"},
		{Mark{Sequence: 17, Digest: digest, Recent: Recent{0, 0, 0, 0, 0, 1, 2, 0xfe}}, "17 000102fe0000000000000000000000ff - AAAAAAABAv4"},
		{Mark{Sequence: 17, Digest: digest, Lost: []SequenceRange{{16, 16}}, Recent: Recent{0, 1, 2, 0xfe}}, "17 000102fe0000000000000000000000ff 16 AAEC_g"},
		{Mark{Sequence: 1<<63 - 1, Lost: manyLost(MaxPublishedLost), Recent: make(Recent, recentBatches*recentBytes)}, ""},
		{Mark{Sequence: 1<<63 - 1, Lost: []SequenceRange{{1, 1<<63 - 1}}, Quarantined: firstOf(manyLost(MaxPublishedLost))}, ""},
		{Mark{Sequence: 1000, Lost: manyLost(MaxPublishedLost), Quarantined: firstOf(manyLost(MaxPublishedLost))}, ""},
	} {
		sent := c.mark
		sent.Updates, sent.Amount = 7, Dollars(9)
		text, err := sent.AppendText([]byte("x"))
		if err != nil || text[0] != 'x' || c.text != "" && string(text[1:]) != c.text {
			t.Errorf("%+v is written as %q, %v; want %q", c.mark, text, err, c.text)
		}
		var got Mark
		if err := got.UnmarshalText(text[1:]); err != nil || !reflect.DeepEqual(got, c.mark) {
			t.Errorf("%q is read as %+v, %v; want %+v", text, got, err, c.mark)
		}
	}
}

// A list that is cut short would say of lost batches that they are in the books.
func TestAMarkThatCannotBeWrittenWholeIsNotWritten(t *testing.T) {
	for name, m := range map[string]Mark{
		"too many lost":           {Sequence: 1000, Lost: manyLost(MaxPublishedLost + 1)},
		"too many quarantined":    {Sequence: 1000, Lost: []SequenceRange{{1, 1000}}, Quarantined: firstOf(manyLost(MaxPublishedLost + 1))},
		"lost zero":               {Sequence: 9, Lost: []SequenceRange{{0, 3}}},
		"lost twice":              {Sequence: 9, Lost: []SequenceRange{{2, 2}, {2, 2}}},
		"lost ranges overlap":     {Sequence: 9, Lost: []SequenceRange{{2, 5}, {5, 6}}},
		"lost ranges meet":        {Sequence: 9, Lost: []SequenceRange{{2, 4}, {5, 6}}},
		"lost out of order":       {Sequence: 9, Lost: []SequenceRange{{4, 4}, {2, 2}}},
		"a range backwards":       {Sequence: 9, Lost: []SequenceRange{{4, 3}}},
		"lost behind the mark":    {Sequence: 9, Lost: []SequenceRange{{8, 10}}},
		"quarantined, not lost":   {Sequence: 9, Lost: []SequenceRange{{2, 2}}, Quarantined: []uint64{3}},
		"quarantined twice":       {Sequence: 9, Lost: []SequenceRange{{2, 3}}, Quarantined: []uint64{2, 2}},
		"sequence of no producer": {Sequence: 1 << 63},
		"a digest cut off":        {Sequence: 9, Recent: make(Recent, 7)},
		"more digests than are":   {Sequence: 1, Recent: make(Recent, 8)},
		"too many digests":        {Sequence: 100, Recent: make(Recent, 65*recentBytes)},
	} {
		if text, err := m.AppendText(nil); !errors.Is(err, ErrMarkText) || len(text) > 0 {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
}

func TestOnlyTheTextOfAMarkIsReadAsOne(t *testing.T) {
	const digest = "000102fe0000000000000000000000ff"
	before := Mark{Sequence: 5}
	for _, text := range []string{
		"", " ", "17", "17 ", "17 " + digest + " ", "17  " + digest, " 17 " + digest, "17 " + digest + "\n", "017 " + digest, "+17 " + digest, "-1 " + digest,
		"17 " + digest[1:], "17 0" + digest, "17 000102FE0000000000000000000000FF", "17 " + digest + " 3,", "17 " + digest + " ,3", "17 " + digest + " 3q,q",
		"17 " + digest + " 3qq", "17 " + digest + " 5,3", "17 " + digest + " 3,3q", "17 " + digest + " 0", "17 " + digest + " 18", "17 " + digest + " 03",
		"18446744073709551615 " + digest, "9223372036854775808 " + digest, "17 " + digest + " 3 5",
		"17 " + digest + " 3,4", "17 " + digest + " 3-4,5", "17 " + digest + " 3-3", "17 " + digest + " 4-3", "17 " + digest + " 3-", "17 " + digest + " -3",
		"17 " + digest + " 3-5q", "17 " + digest + " 3-4-5", "17 " + digest + " 3-18", "17 " + digest + " 0-3", "17 " + digest + " 3-05",
		"17 " + digest + " -", "17 " + digest + " - ", "17 " + digest + " - AAAA", "17 " + digest + " - AAEC_g==", "17 " + digest + " AAEC_g",
		"17 " + digest + " - AAEC_g 3", "17 " + digest + " - AAEC_h", "1 " + digest + " - AAAAAAABAv4",
	} {
		m := before
		if err := m.UnmarshalText([]byte(text)); !errors.Is(err, ErrMarkText) || !reflect.DeepEqual(m, before) {
			t.Errorf("%q is read as %+v, %v", text, m, err)
		}
	}
}

func FuzzOnlyTheTextOfAMarkIsReadAsOne(f *testing.F) {
	f.Add([]byte("17 000102fe0000000000000000000000ff 3,5q,17"))
	f.Add([]byte("17 000102fe0000000000000000000000ff 1q,2-3,4q,5q,6-8,9q,11-14,16q,17"))
	f.Add([]byte("17 000102fe0000000000000000000000ff - AAAAAAABAv4"))
	f.Add([]byte("0 00000000000000000000000000000000"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var m Mark
		err := m.UnmarshalText(text)
		if err != nil {
			if !errors.Is(err, ErrMarkText) || len(err.Error()) > 1000 {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		if again, err := m.AppendText(nil); err != nil || string(again) != string(text) {
			t.Fatalf("%q is written as %q, %v", text, again, err)
		}
		if c := m.Contiguous(); c > m.Sequence || c > 0 && !m.Has(c) {
			t.Fatalf("%q: contiguous up to %d", text, c)
		}
	})
}
