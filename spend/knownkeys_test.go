package spend

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// Whoever can write to the queue could make a second entity of a name that is there already, or
// give an entity's spend to another one.
func TestBatchWhoseKeysArentTheHashesOfItsTextsIsRefused(t *testing.T) {
	key, user := Entity{Type: APIKey, ID: "victim"}, Entity{Type: User, ID: "victim"}
	c := Counters{Spend: Dollars(1), SuccessfulRequests: 1}
	rollup := NewRollupRow(&Series{APIKey: "victim", Tags: []string{"a", "b"}}, 0, c)
	total := TotalRow{Key: key.Key(), Entity: key, Counters: c}
	tagsTurned := rollup
	tagsTurned.source.encoded = strings.Replace(rollup.source.encoded, "\x01a\x01b", "\x01b\x01a", 1)
	for name, forged := range map[string]*Batch{
		"total under another entity's key": NewBatch(testHeader(testProducer(1), 1),
			[]TotalRow{{Key: Entity{Type: APIKey, ID: "other"}.Key(), Entity: key, Counters: c}}, []RollupRow{rollup}),
		"total under the key of another type": NewBatch(testHeader(testProducer(1), 1),
			[]TotalRow{{Key: user.Key(), Entity: key, Counters: c}}, []RollupRow{rollup}),
		"rollup under another series' key": NewBatch(testHeader(testProducer(1), 1), []TotalRow{total},
			[]RollupRow{{Key: (&Series{APIKey: "other"}).Key(), Counters: c, source: rollup.source}}),
		"tags in another order": NewBatch(testHeader(testProducer(1), 1), []TotalRow{total},
			[]RollupRow{{Key: hashKey([]byte("s" + tagsTurned.source.encoded)), Counters: c, source: tagsTurned.source}}),
		"no id": NewBatch(testHeader(testProducer(1), 1),
			[]TotalRow{{Key: Entity{Type: APIKey}.Key(), Entity: Entity{Type: APIKey}, Counters: c}}, []RollupRow{rollup}),
		"a key with a team": NewBatch(testHeader(testProducer(1), 1),
			[]TotalRow{{Key: Entity{APIKey, "victim", "t"}.Key(), Entity: Entity{APIKey, "victim", "t"}, Counters: c}}, []RollupRow{rollup}),
	} {
		known := NewKnownKeys(testSlots)
		honest := NewBatch(testHeader(testProducer(1), 1), []TotalRow{total}, []RollupRow{rollup})
		if _, err := honest.RowsKnowing(known); err != nil {
			t.Fatal(err)
		}
		for _, e := range []Entity{{Type: APIKey, ID: "other"}, user} {
			known.isHash(e.Key(), e.appendCanonical(nil))
		}
		other := Series{APIKey: "other"}
		known.isHash(other.Key(), other.AppendCanonical([]byte{'s'}, AllDimensions))
		for _, k := range []*KnownKeys{nil, known} { // also where the honest rows are known
			if _, err := mustParse(t, forged.Bytes()).RowsKnowing(k); !errors.Is(err, ErrCorruptBatch) {
				t.Errorf("%s: %v; want ErrCorruptBatch", name, err)
			}
		}
	}
}

func TestKnownKeysEvictRatherThanGrow(t *testing.T) {
	for _, shards := range []int{1, 3, MaxShards} {
		k := NewKnownKeys(testSlots / shards)
		k.use()()
		size := len(k.slots)
		if size*shards > testSlots || 2*size*shards <= testSlots/2 {
			t.Errorf("%d slots in each of %d shards", size, shards)
		}
		for i := range 3 * size {
			texts := []byte(fmt.Sprint(i))
			unknown, known := k.isHash(hashKey(texts), texts), k.isHash(hashKey(texts), texts)
			if !unknown || !known || k.isHash(hashKey(texts), texts[1:]) {
				t.Fatal(i)
			}
		}
		if len(k.slots) != size {
			t.Errorf("%d slots, before %d", len(k.slots), size)
		}
	}
}

// What a batch says of itself makes the decoder take no more memory than ten bytes for each of it.
func TestMonstrousBatchesTakeMemoryInProportionToTheirBytes(t *testing.T) {
	frame := func(totals, rollups int, payload []byte) []byte {
		e := batchEncoder{index: map[string]uint64{"": 0}, table: []string{""}}
		b := e.frame(&Header{Version: plainVersion, Sequence: 1, SealedAt: testNow, Totals: totals, Rollups: rollups}, &Control{})
		return reframe(append(b[:batchHeaderSize:batchHeaderSize], payload...))
	}
	const size = 1 << 20
	control := make([]byte, 1+entityTypes)
	table := func(texts uint64, of string) []byte {
		b := binary.AppendUvarint(slices.Clone(control), texts)
		return append(append(b, 0), strings.Repeat(of, (size-len(b))/len(of))...)
	}
	for name, b := range map[string][]byte{
		"zeros":                     frame(0, 0, make([]byte, size)),
		"a table of empty texts":    frame(maxBatchTotals, MaxBatchRows, table(size-100, "\x00")),
		"a table of short texts":    frame(maxBatchTotals, MaxBatchRows, table(size/2-100, "\x01a")),
		"more texts than rows have": frame(1, 1, table(size/2-100, "\x01a")),
		"more rows than a seal has": frame(1<<31, 1<<31, table(1, "\x00")),
		"totals of zeros":           frame(maxBatchTotals, 0, table(1, "\x00")),
		"rollups of zeros":          frame(0, MaxBatchRows, table(1, "\x00")),
		"a piece of all rows":       onePiece(t),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := mustParse(t, b).Rows()
		runtime.ReadMemStats(&after)
		took := after.TotalAlloc - before.TotalAlloc
		if !errors.Is(err, ErrCorruptBatch) {
			t.Errorf("%s: %v; want ErrCorruptBatch", name, err)
		}
		if took > uint64(10*len(b)) {
			t.Errorf("%s: %d bytes made the decoder allocate %d", name, len(b), took)
		}
	}
}

// A row of a few bytes can name long texts of the table again and again, and each row's are hashed.
func TestBatchWithMoreTextsThanASealHasIsRefused(t *testing.T) {
	tags := make([]string, MaxTags)
	for i := range tags {
		tags[i] = fmt.Sprintf("%0*d", MaxIDBytes, i)
	}
	c := Counters{SuccessfulRequests: 1}
	var rollups []RollupRow
	for hour := range 2 * MaxBatchTexts / (MaxTags * MaxIDBytes) {
		rollups = append(rollups, NewRollupRow(&Series{Tags: tags}, Hour(hour), c))
	}
	half := NewBatch(testHeader(testProducer(1), 1), nil, rollups[:len(rollups)/2])
	if _, err := half.Rows(); err != nil {
		t.Error(err)
	}
	whole := NewBatch(testHeader(testProducer(1), 1), nil, rollups)
	if _, err := whole.Rows(); !errors.Is(err, ErrCorruptBatch) || !strings.Contains(err.Error(), "bytes of ids, tags and dimensions") {
		t.Errorf("%d bytes with %d bytes of texts: %v", len(whole.Bytes()), 2*MaxBatchTexts, err)
	}

	var totals []TotalRow
	long := strings.Repeat("x", 255) // in the table once
	for i := range 40 {
		e := Entity{Type: TeamMember, ID: long + string(rune('a'+i)), TeamID: strings.Repeat("t", maxBatchTotalTexts/39)}
		totals = append(totals, TotalRow{Key: e.Key(), Entity: e, Counters: c})
	}
	slices.SortFunc(totals, func(a, b TotalRow) int { return a.Key.Compare(b.Key) })
	if _, err := NewBatch(testHeader(testProducer(1), 1), totals, nil).Rows(); !errors.Is(err, ErrCorruptBatch) ||
		!strings.Contains(err.Error(), "bytes of ids up to total row") {
		t.Errorf("totals: %v", err)
	}
}

// onePiece returns a batch of as many short rows as there may be, and of one piece that begins with
// all of them and ends wrong.
func onePiece(t *testing.T) []byte {
	t.Helper()
	s := Series{APIKey: "k"}
	parts := make([]FactPart, MaxBatchRows)
	for i := range parts {
		parts[i] = factPart(&s, Hour(i), Counters{SuccessfulRequests: 1})
	}
	b := bytes.Clone(factBatchOf(t, testHeader(testProducer(1), 1), testFact{parts: parts}).Bytes())
	b[len(b)-1]++
	return reframe(b)
}
