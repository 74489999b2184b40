package spend

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"
)

func TestBatchGivesBackExactlyTheRowsAndHeaderItWasSealedWith(t *testing.T) {
	r := newRand(t)
	for round := range 100 {
		rows := randomRows(t, r, 1+r.IntN(200))
		h := Header{
			Shard: r.IntN(MaxShards), Producer: testProducer(round),
			Sequence: 1 + r.Uint64N(math.MaxInt64), SealedAt: testNow, PriorDigest: Digest{byte(round)}, Books: BooksID{1, byte(round)},
		}
		b := NewBatch(h, rows.totals, rows.rollups)
		got := mustParse(t, b.Bytes())
		if got.Header != b.Header {
			t.Fatalf("header is %+v, want %+v", got.Header, b.Header)
		}
		want := sumOf(rows.rollups)
		if got.Updates != want.APIRequests() || got.Amount != want.Spend || got.Totals != len(rows.totals) || got.Rollups != len(rows.rollups) {
			t.Fatalf("header counts %+v, want %d updates of %s", got.Header, want.APIRequests(), want.Spend)
		}
		decoded := mustRows(t, got)
		if !sameRows(decoded.Totals, rows.totals, decoded.Rollups, rows.rollups) {
			t.Fatal("other rows come back")
		}
		if again := NewBatch(got.Header, decoded.Totals, decoded.Rollups); !bytes.Equal(again.Bytes(), b.Bytes()) {
			t.Fatal("decoded rows encode to other bytes")
		}
	}
}

func TestBatchOfTheSameRowsHasTheSameBytes(t *testing.T) {
	r := newRand(t)
	rows := randomRows(t, r, 500)
	first := NewBatch(testHeader(testProducer(1), 1), rows.totals, rows.rollups)
	for range 20 {
		if again := NewBatch(testHeader(testProducer(1), 1), rows.totals, rows.rollups); !bytes.Equal(first.Bytes(), again.Bytes()) {
			t.Fatal("a batch isn't a function of its rows")
		}
	}
}

func TestBatchWithoutRowsIsStillABatch(t *testing.T) {
	b := mustParse(t, NewBatch(testHeader(testProducer(1), 1), nil, nil).Bytes())
	if rows := mustRows(t, b); len(rows.Totals)+len(rows.Rollups) != 0 || b.Updates != 0 || b.Amount != (Amount{}) {
		t.Fatalf("%+v %+v", b.Header, rows)
	}
}

func TestBatchWithAnyFlippedBitIsRefused(t *testing.T) {
	rows := randomRows(t, newRand(t), 10)
	whole := NewBatch(testHeader(testProducer(1), 1), rows.totals, rows.rollups).Bytes()
	for bit := range len(whole) * 8 {
		bad := bytes.Clone(whole)
		bad[bit/8] ^= 1 << (bit % 8)
		if b, err := ParseBatch(bad); b != nil || !errors.Is(err, ErrCorruptBatch) {
			t.Fatalf("bit %d flipped: %v, %v; want ErrCorruptBatch", bit, b, err)
		}
	}
}

func TestBatchCutShortOrLengthenedIsRefused(t *testing.T) {
	rows := randomRows(t, newRand(t), 10)
	whole := NewBatch(testHeader(testProducer(1), 1), rows.totals, rows.rollups).Bytes()
	for n := range whole {
		if b, err := ParseBatch(whole[:n]); b != nil || !errors.Is(err, ErrCorruptBatch) {
			t.Fatalf("%d of %d bytes: %v, %v; want ErrCorruptBatch", n, len(whole), b, err)
		}
	}
	if _, err := ParseBatch(append(bytes.Clone(whole), 0)); !errors.Is(err, ErrCorruptBatch) {
		t.Fatalf("one byte more: %v; want ErrCorruptBatch", err)
	}
}

func TestNewerBatchIsToldApartAndKeepsItsHeader(t *testing.T) {
	rows := randomRows(t, newRand(t), 10)
	want := NewBatch(testHeader(testProducer(1), 7), rows.totals, rows.rollups)
	for _, version := range []byte{BatchVersion + 1, 255} {
		newer := bytes.Clone(want.Bytes())
		newer[2] = version
		b, err := ParseBatch(reframe(append(newer, "what only a newer version knows"...)))
		if !errors.Is(err, ErrNewerBatch) || errors.Is(err, ErrCorruptBatch) || b == nil {
			t.Fatalf("%v, %v; want ErrNewerBatch", b, err)
		}
		h := want.Header
		h.Version = version
		if b.Header != h {
			t.Fatalf("header is %+v, want %+v", b.Header, h)
		}
	}
	older := bytes.Clone(want.Bytes())
	older[2] = 0
	if _, err := ParseBatch(reframe(older)); !errors.Is(err, ErrCorruptBatch) {
		t.Fatalf("version 0: %v; want ErrCorruptBatch", err)
	}
}

func TestBatchWithAnImpossibleHeaderIsRefused(t *testing.T) {
	whole := NewBatch(testHeader(testProducer(1), 1), nil, nil).Bytes()
	for name, change := range map[string]func(b []byte){
		"no such shard":          func(b []byte) { b[13] = MaxShards },
		"sequence 0":             func(b []byte) { clear(b[32:40]) },
		"sequence too large":     func(b []byte) { b[32] = 0x80 },
		"negative updates":       func(b []byte) { b[48] = 0x80 },
		"too many updates":       func(b []byte) { b[49] = 1 },
		"an amount without them": func(b []byte) { b[71] = 1 },
		"negative prior updates": func(b []byte) { b[80] = 0x80 },
	} {
		bad := bytes.Clone(whole)
		change(bad)
		if _, err := ParseBatch(reframe(bad)); !errors.Is(err, ErrCorruptBatch) {
			t.Errorf("%s: %v; want ErrCorruptBatch", name, err)
		}
	}
}

// Damage that happened before the checksum was made: every change of a byte of the payload either
// can't be decoded, or fails the control sums, or concerns a text or key, which they don't count.
func TestBatchWhoseRowsDontAddUpIsRefused(t *testing.T) {
	rows := randomRows(t, newRand(t), 10)
	for name, change := range map[string]func(totals []TotalRow, rollups []RollupRow, h *Header){
		"amount of a rollup row": func(_ []TotalRow, rollups []RollupRow, _ *Header) {
			rollups[0].Counters.Spend = rollups[0].Counters.Spend.Add(Picodollars(1))
		},
		"requests of a total": func(totals []TotalRow, _ []RollupRow, _ *Header) {
			totals[0].Counters.FailedRequests++
		},
		"updates in the header": func(_ []TotalRow, _ []RollupRow, h *Header) { h.Updates++ },
		"amount in the header": func(_ []TotalRow, _ []RollupRow, h *Header) {
			h.Amount = h.Amount.Add(Picodollars(1))
		},
		"one total fewer": func(_ []TotalRow, _ []RollupRow, h *Header) { h.Totals-- },
		"one rollup more": func(_ []TotalRow, _ []RollupRow, h *Header) { h.Rollups++ },
	} {
		good := NewBatch(testHeader(testProducer(1), 1), rows.totals, rows.rollups)
		control := mustRows(t, good).Control
		totals, rollups, h := slices.Clone(rows.totals), slices.Clone(rows.rollups), good.Header
		change(totals, rollups, &h)
		e := batchEncoder{index: map[string]uint64{"": 0}, table: []string{""}}
		for i := range totals {
			e.total(&totals[i])
		}
		for i := range rollups {
			e.rollup(&rollups[i])
		}
		if _, err := mustParse(t, e.frame(&h, &control)).Rows(); !errors.Is(err, ErrCorruptBatch) {
			t.Errorf("%s changed: %v; want ErrCorruptBatch", name, err)
		}
	}
}

func TestBatchWithMoreBehindItsLastRowIsRefused(t *testing.T) {
	rows := randomRows(t, newRand(t), 10)
	whole := NewBatch(testHeader(testProducer(1), 1), rows.totals, rows.rollups).Bytes()
	if _, err := mustParse(t, reframe(append(bytes.Clone(whole), 0))).Rows(); !errors.Is(err, ErrCorruptBatch) {
		t.Fatalf("%v; want ErrCorruptBatch", err)
	}
}

func TestBatchWithRowsOutOfOrderOrRepeatedIsRefused(t *testing.T) {
	rows := randomRows(t, newRand(t), 10)
	swapped, twice := slices.Clone(rows.totals), slices.Clone(rows.rollups)
	swapped[0], swapped[1] = swapped[1], swapped[0]
	twice[1] = twice[0]
	for name, b := range map[string]*Batch{
		"totals swapped": NewBatch(testHeader(testProducer(1), 1), swapped, rows.rollups),
		"rollup twice":   NewBatch(testHeader(testProducer(1), 1), rows.totals, twice),
	} {
		if _, err := b.Rows(); !errors.Is(err, ErrCorruptBatch) {
			t.Errorf("%s: %v; want ErrCorruptBatch", name, err)
		}
	}
}

func TestKeysOfIDsWithSeparatorsDontCollide(t *testing.T) {
	keys := map[Key]Series{}
	for _, s := range []Series{
		{APIKey: "a", UserID: "bc"}, {APIKey: "ab", UserID: "c"}, {APIKey: "abc"}, {UserID: "abc"},
		{APIKey: "a::b", UserID: "c"}, {APIKey: "a", UserID: "b::c"}, {APIKey: "a::b::c"},
		{APIKey: "a_b", UserID: "c"}, {APIKey: "a", UserID: "b_c"}, {APIKey: "a", UserID: "\x01b"}, {APIKey: "a\x01b"},
		{APIKey: "a", Model: "m"}, {APIKey: "a", ModelGroup: "m"}, {APIKey: "a", Endpoint: "m"}, {APIKey: "a", Tags: []string{"m"}},
		{Tags: []string{"a", "bc"}}, {Tags: []string{"ab", "c"}}, {Tags: []string{"a,bc"}}, {Tags: []string{"a", "b", "c"}},
		{APIKey: strings.Repeat("a", 127), UserID: "b"}, {APIKey: strings.Repeat("a", 128), UserID: "b"},
	} {
		if other, ok := keys[s.Key()]; ok {
			t.Errorf("%+v and %+v have one key", s, other)
		}
		keys[s.Key()] = s
	}
	entities := map[Key]Entity{}
	for _, e := range []Entity{
		{TeamMember, "a", "bc"}, {TeamMember, "ab", "c"}, {TeamMember, "c", "ab"}, {TeamMember, "abc", ""},
		{TeamMember, "a::b", "c"}, {TeamMember, "a", "b::c"}, {TeamMember, "a_b", "c"}, {TeamMember, "a", "b_c"},
	} {
		if other, ok := entities[e.Key()]; ok {
			t.Errorf("%+v and %+v have one key", e, other)
		}
		entities[e.Key()] = e
	}
}

func TestEntitiesOfDifferentTypesWithOneIDDontCollide(t *testing.T) {
	keys := map[Key]EntityType{}
	for _, typ := range EntityTypes() {
		key := Entity{Type: typ, ID: "same"}.Key()
		if other, ok := keys[key]; ok {
			t.Errorf("%s and %s have one key", typ, other)
		}
		keys[key] = typ
	}
}

func TestOrderAndRepetitionOfTagsDontMakeAnotherSeries(t *testing.T) {
	want := Series{APIKey: "k", Tags: []string{"a", "b", "c"}}
	for _, tags := range [][]string{{"c", "b", "a"}, {"a", "a", "b", "c", "c"}, {"b", "c", "a", "b"}} {
		s := Series{APIKey: "k", Tags: slices.Clone(tags)}
		if s.Key() != want.Key() {
			t.Errorf("tags %v make another key", tags)
		}
		if !slices.Equal(s.Tags, tags) {
			t.Errorf("tags %v of the caller were changed to %v", tags, s.Tags)
		}
		row := NewRollupRow(&s, 0, Counters{})
		if got := row.Series(); !slices.Equal(got.Tags, want.Tags) || row.Key != want.Key() {
			t.Errorf("tags %v come back as %v", tags, got.Tags)
		}
	}
}

func TestProducerIDKeepsItsBirthAndText(t *testing.T) {
	id := NewProducerID(testNow)
	if !id.Born().Equal(testNow) || id[6]>>4 != 7 || id[8]>>6 != 2 {
		t.Fatalf("%s born %s", id, id.Born())
	}
	if got, err := ParseProducerID(id.String()); err != nil || got != id {
		t.Fatalf("%s, %v", got, err)
	}
	text := id.String()
	for _, bad := range []string{"", text[1:], text + "0", strings.ReplaceAll(text, "-", "_"), "-" + text[:35], text[:35] + "g", "--------" + text[8:]} {
		if _, err := ParseProducerID(bad); !errors.Is(err, ErrProducerID) {
			t.Errorf("ParseProducerID(%q): %v; want ErrProducerID", bad, err)
		}
	}
}

// FuzzParseBatch puts a right frame around the payload, so that the fuzzer reaches the decoder of
// the rows.
func FuzzParseBatch(f *testing.F) {
	rows := randomRows(f, newRand(f), 5)
	f.Add(NewBatch(testHeader(testProducer(1), 1), rows.totals, rows.rollups).Bytes())
	f.Add(NewBatch(testHeader(testProducer(1), 1), nil, nil).Bytes())
	f.Add(factBatchOf(f, testHeader(testProducer(1), 1), randomFacts(newRand(f), 5)...).Bytes())
	f.Add([]byte(batchMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := ParseBatch(b); err != nil && !errors.Is(err, ErrCorruptBatch) && !errors.Is(err, ErrNewerBatch) {
			t.Fatal(err)
		}
		if len(b) < batchHeaderSize {
			return
		}
		b = bytes.Clone(b)
		copy(b, batchMagic)
		b[2] = BatchVersion - b[2]%BatchVersion
		batch, err := ParseBatch(reframe(b))
		if err != nil {
			return
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		decoded, err := batch.RowsKnowing(OwnKeys) // the fuzzer makes no hashes
		runtime.ReadMemStats(&after)
		if most := uint64(10*len(b) + 64<<10); after.TotalAlloc-before.TotalAlloc > most {
			t.Fatalf("%d bytes made the decoder allocate %d, more than %d", len(b), after.TotalAlloc-before.TotalAlloc, most)
		}
		if err != nil {
			if !errors.Is(err, ErrCorruptBatch) {
				t.Fatal(err)
			}
			return
		}
		if whole, err := batch.Rows(); err == nil {
			for i := range whole.Totals {
				if whole.Totals[i].Entity.Key() != whole.Totals[i].Key {
					t.Fatalf("the key of %+v isn't its own", whole.Totals[i])
				}
			}
			for i := range whole.Rollups {
				if series := whole.Rollups[i].Series(); series.Key() != whole.Rollups[i].Key {
					t.Fatalf("the key of %+v isn't its own", series)
				}
			}
		}
		pieces := pieceSection{[]byte(decoded.Pieces.encoded), decoded.Pieces.n}
		again, err := mustParse(t, (&BatchKeys{}).newBatch(batch.Header, decoded.Totals, decoded.Rollups, pieces).Bytes()).RowsKnowing(OwnKeys)
		if err != nil || decoded.Pieces.encoded != again.Pieces.encoded || !sameRows(decoded.Totals, again.Totals, decoded.Rollups, again.Rollups) {
			t.Fatalf("what was decoded comes back otherwise: %v", err)
		}
	})
}

func TestBatchOfMoreDollarsThanItsUpdatesCanHaveIsRefused(t *testing.T) {
	for spend, ok := range map[Amount]bool{
		MaxSpend: true, MaxSpend.Neg(): true, MaxSpend.Add(Picodollars(1)): false, MaxSpend.Neg().Sub(Picodollars(1)): false,
	} {
		rollup := NewRollupRow(&Series{APIKey: "a"}, 0, Counters{Spend: spend, SuccessfulRequests: 1})
		_, err := ParseBatch(NewBatch(testHeader(testProducer(1), 1), nil, []RollupRow{rollup}).Bytes())
		if (err == nil) != ok || err != nil && !errors.Is(err, ErrCorruptBatch) {
			t.Errorf("one update of %s dollars: %v", spend, err)
		}
	}
}

// The checksum is right: such bytes don't come from damage but from a program that is wrong.
func TestBatchThatLiesAboutItsLengthIsRefused(t *testing.T) {
	for _, off := range []int{-1, 1} {
		b := append([]byte{}, NewBatch(testHeader(testProducer(1), 1), nil, nil).Bytes()...)
		binary.BigEndian.PutUint32(b[8:], uint32(len(b)+off))
		binary.BigEndian.PutUint32(b[4:], batchChecksum(b))
		if _, err := ParseBatch(b); !errors.Is(err, ErrCorruptBatch) {
			t.Errorf("a length that is off by %d: %v; want ErrCorruptBatch", off, err)
		}
	}
}
