package spend

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
)

// testFact is a fact as it is given to a FactBatch.
type testFact struct {
	id      FactID
	content Fingerprint
	single  bool
	parts   []FactPart
}

func factPart(s *Series, hour Hour, c Counters) FactPart {
	canonical := CanonicalSeries(s.AppendCanonical(nil, AllDimensions))
	return FactPart{canonical, canonical.Key(), hour, c}
}

// randomFacts returns facts that share series: two thirds of them single updates.
func randomFacts(r *rand.Rand, n int) []testFact {
	facts := make([]testFact, n)
	part := func() FactPart {
		s := Series{APIKey: fmt.Sprint("key", r.IntN(9)), UserID: fmt.Sprint("user", r.IntN(3)), TeamID: "team", Tags: []string{"a"}}
		return factPart(&s, Hour(r.IntN(3)-1), Counters{
			Spend: Picodollars(r.Int64N(2_000_000_000_000) - 100_000_000_000), SuccessfulRequests: 1, PromptTokens: r.Int64N(1000),
		})
	}
	for i := range facts {
		f := testFact{id: NewFactID(UpdateFact, fmt.Sprint(i)), content: Fingerprint(r.Uint64() >> 16), single: true, parts: []FactPart{part()}}
		if i%3 == 0 {
			f.single = false
			for range r.IntN(20) {
				f.parts = append(f.parts, part())
			}
		}
		facts[i] = f
	}
	return facts
}

// factBatchOf seals the facts as one batch.
func factBatchOf(t testing.TB, h Header, facts ...testFact) *Batch {
	t.Helper()
	var b FactBatch
	for _, f := range facts {
		if !b.Add(f.id, f.content, f.single, f.parts...) {
			t.Fatal("a fact doesn't fit")
		}
	}
	return b.Seal(&BatchKeys{}, h)
}

func TestABatchOfFactsGivesBackItsPiecesAndTheRowsThatTheyAddUpTo(t *testing.T) {
	r := newRand(t)
	for round := range 50 {
		facts := randomFacts(r, 1+r.IntN(200))
		b := mustParse(t, factBatchOf(t, testHeader(testProducer(round), 1), facts...).Bytes())
		rows := mustRows(t, b)
		var sum Counters
		for i, piece := range rows.Pieces.All() {
			f, want := facts[i], map[rollupPlace]Counters{}
			for _, part := range f.parts {
				c := want[rollupPlace{part.Hour, part.Key}]
				c.Add(&part.Counters)
				want[rollupPlace{part.Hour, part.Key}] = c
				sum.Add(&part.Counters)
			}
			got, mask := map[rollupPlace]Counters{}, uint64(0)
			for _, part := range piece.Parts {
				row := rows.Pieces.Row(part.Row)
				got[rollupPlace{row.Hour, row.Key}] = part.Counters
				mask |= 1 << row.Key.Bucket()
			}
			if piece.ID != f.id || piece.Content != f.content || piece.Single != f.single || !reflect.DeepEqual(got, want) ||
				rows.Pieces.BucketsOf(piece) != mask || piece.Updates() != int64(len(f.parts)) {
				t.Fatalf("piece %d is %+v, want %+v", i, piece, f)
			}
		}
		if rows.Pieces.Len() != len(facts) || b.Version != 2 || sum != sumOf(rows.Rollups) || b.Updates != sum.APIRequests() {
			t.Fatalf("%d pieces in %+v", rows.Pieces.Len(), b.Header)
		}
		if totals := totalsOf(rows.Rollups); !slices.Equal(totals, rows.Totals) {
			t.Fatal("the totals aren't what the rows count on")
		}
	}
}

func TestABatchOfFactsThatIsUsedAgainIsAsANewOne(t *testing.T) {
	r := newRand(t)
	var again FactBatch
	for round := range 100 {
		facts, header := randomFacts(r, 1+r.IntN(60)), testHeader(testProducer(round), 1)
		for _, f := range facts {
			if !again.Add(f.id, f.content, f.single, f.parts...) {
				t.Fatal("a fact doesn't fit")
			}
		}
		totals, rollups, _ := again.Size()
		got, want := again.Seal(&BatchKeys{}, header), factBatchOf(t, header, facts...)
		if !bytes.Equal(got.Bytes(), want.Bytes()) || totals != want.Totals || rollups != want.Rollups {
			t.Fatalf("round %d: %+v of %d totals and %d rollups, want %+v", round, got.Header, totals, rollups, want.Header)
		}
		again.Reset()
	}
}

func TestABatchWithoutFactsIsOfTheFormatThatOldProgramsRead(t *testing.T) {
	rows := randomRows(t, newRand(t), 10)
	if b := NewBatch(testHeader(testProducer(1), 1), rows.totals, rows.rollups); b.Version != 1 {
		t.Errorf("version %d", b.Version)
	}
}

// withPieces returns the batch with other pieces behind its rows, in a frame that is right.
func withPieces(t *testing.T, b *Batch, n uint64, pieces ...Piece) *Batch {
	t.Helper()
	rows := mustRows(t, b)
	section := []byte{}
	for i := range pieces {
		section = appendPiece(section, &pieces[i])
	}
	had := len(rows.Pieces.encoded) + len(binary.AppendUvarint(nil, uint64(rows.Pieces.n)))
	other := append(bytes.Clone(b.Bytes()[:len(b.Bytes())-had]), binary.AppendUvarint(nil, n)...)
	return mustParse(t, reframe(append(other, section...)))
}

func TestABatchWhosePiecesAreNotItsRowsIsCorrupt(t *testing.T) {
	one := func(n int64) Counters { return Counters{Spend: Dollars(n), SuccessfulRequests: 1} }
	a, b := Series{APIKey: "a"}, Series{APIKey: "b"}
	good := factBatchOf(t, testHeader(testProducer(1), 1), testFact{FactID{1}, 1, true, []FactPart{factPart(&a, 0, one(1))}},
		testFact{FactID{2}, 2, false, []FactPart{factPart(&a, 0, one(2)), factPart(&b, 0, one(4))}})
	var pieces []Piece
	rows := mustRows(t, good)
	for _, p := range rows.Pieces.All() {
		pieces = append(pieces, Piece{p.ID, p.Content, p.Single, slices.Clone(p.Parts)})
	}
	if _, err := withPieces(t, good, 2, pieces...).Rows(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(p []Piece) (n uint64, pieces []Piece){
		"an amount":               func(p []Piece) (uint64, []Piece) { p[0].Parts[0].Counters.Spend = Dollars(2); return 2, p },
		"tokens":                  func(p []Piece) (uint64, []Piece) { p[0].Parts[0].Counters.PromptTokens++; return 2, p },
		"one fewer":               func(p []Piece) (uint64, []Piece) { return 1, p[:1] },
		"none":                    func(p []Piece) (uint64, []Piece) { return 0, nil },
		"one more than there are": func(p []Piece) (uint64, []Piece) { return 3, p },
		"one that isn't counted":  func(p []Piece) (uint64, []Piece) { return 1, p },
		"the row of another":      func(p []Piece) (uint64, []Piece) { p[0].Parts[0].Row ^= 1; return 2, p },
		"a row that isn't there":  func(p []Piece) (uint64, []Piece) { p[0].Parts[0].Row = 2; return 2, p },
		"rows out of order":       func(p []Piece) (uint64, []Piece) { slices.Reverse(p[1].Parts); return 2, p },
		"a row twice": func(p []Piece) (uint64, []Piece) {
			p[1].Parts = append(p[1].Parts[:1], p[1].Parts[0])
			return 2, p
		},
		"without an update": func(p []Piece) (uint64, []Piece) {
			p[1].Parts[0].Counters.SuccessfulRequests, p[0].Parts[0].Counters.SuccessfulRequests = 0, 2
			return 2, p
		},
		"a single one of two updates": func(p []Piece) (uint64, []Piece) {
			p[0].Parts[0].Counters = rows.Rollups[p[0].Parts[0].Row].Counters
			return 2, []Piece{p[0], {p[1].ID, p[1].Content, false, slices.DeleteFunc(p[1].Parts, func(x PiecePart) bool { return x.Row == p[0].Parts[0].Row })}}
		},
		"a single one of two rows": func(p []Piece) (uint64, []Piece) { p[1].Single = true; return 2, p },
		"without a row":            func(p []Piece) (uint64, []Piece) { return 3, append(p, Piece{ID: FactID{3}}) },
	} {
		changed := make([]Piece, len(pieces))
		for i, p := range pieces {
			changed[i] = p
			changed[i].Parts = slices.Clone(p.Parts)
		}
		n, changed := change(changed)
		if _, err := withPieces(t, good, n, changed...).Rows(); !errors.Is(err, ErrCorruptBatch) {
			t.Errorf("%s: %v; want ErrCorruptBatch", name, err)
		}
	}
}

func TestAFactThatDoesNotFitIsLeftForTheNextBatch(t *testing.T) {
	var b FactBatch
	sealed, total := 0, 0
	seal := func() {
		batch := mustParse(t, b.Seal(&BatchKeys{}, testHeader(testProducer(1), 1)).Bytes())
		rows := mustRows(t, batch)
		if len(rows.Rollups) > MaxBatchRows || len(rows.Totals) > MaxBatchRows || rows.Pieces.Len() > MaxBatchPieces || b.Len() != rows.Pieces.Len() {
			t.Fatalf("%d totals, %d rollups, %d pieces", len(rows.Totals), len(rows.Rollups), rows.Pieces.Len())
		}
		sealed, total = sealed+1, total+rows.Pieces.Len()
		b.Reset()
	}
	const facts, parts = 50, 1500
	for i := range facts {
		fact := make([]FactPart, parts)
		for j := range fact {
			s := Series{APIKey: fmt.Sprint("k", i, "-", j)}
			fact[j] = factPart(&s, 0, Counters{SuccessfulRequests: 1})
		}
		for !b.Add(FactID{byte(i)}, 0, false, fact...) {
			seal()
		}
	}
	seal()
	if total != facts || sealed != 4 { // of 13 facts each
		t.Errorf("%d facts in %d batches", total, sealed)
	}
	s := Series{APIKey: "k"}
	part := factPart(&s, 0, Counters{SuccessfulRequests: 1})
	for i := range MaxBatchPieces + 1 {
		if fits := b.Add(FactID{byte(i)}, 0, true, part); fits != (i < MaxBatchPieces) {
			t.Fatalf("piece %d fits: %t", i, fits)
		}
	}
	seal()
}

func TestAnIdentifiedUpdateTakesFewBytesOfABatch(t *testing.T) {
	r := newRand(t)
	var facts []testFact
	s := Series{APIKey: "k"}
	for range 10_000 {
		var id FactID
		binary.BigEndian.PutUint64(id[:], r.Uint64())
		facts = append(facts, testFact{id, Fingerprint(r.Uint64() >> 16), true, []FactPart{factPart(&s, 0, Counters{
			Spend: Picodollars(r.Int64N(100_000_000_000)), SuccessfulRequests: 1, PromptTokens: r.Int64N(10_000), CompletionTokens: r.Int64N(1000)})}})
	}
	b := factBatchOf(t, testHeader(testProducer(1), 1), facts...)
	if each := float64(len(b.Bytes())) / 10_000; each > 42 {
		t.Errorf("%.1f bytes each", each)
	}
}

func benchFacts() []testFact {
	r := rand.New(rand.NewPCG(1, 1))
	facts := make([]testFact, 10_000)
	for i := range facts {
		s := Series{APIKey: fmt.Sprintf("sk-%032d", r.IntN(2000)), UserID: fmt.Sprintf("user-%d", r.IntN(500)), TeamID: "team", Model: "model"}
		facts[i] = testFact{NewFactID(UpdateFact, fmt.Sprint(i)), Fingerprint(r.Uint64() >> 16), true, []FactPart{factPart(&s, 0, Counters{
			Spend: Picodollars(r.Int64N(100_000_000_000)), SuccessfulRequests: 1, PromptTokens: r.Int64N(10_000)})}}
	}
	return facts
}

// BenchmarkSealFacts makes batches of 10,000 identified updates, one after the other.
func BenchmarkSealFacts(b *testing.B) {
	facts := benchFacts()
	b.ReportAllocs()
	var size int
	var batch FactBatch
	for b.Loop() {
		for _, f := range facts {
			batch.Add(f.id, f.content, f.single, f.parts...)
		}
		size = len(batch.Seal(&BatchKeys{}, testHeader(testProducer(1), 1)).Bytes())
		batch.Reset()
	}
	b.ReportMetric(float64(size)/float64(len(facts)), "B/update")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(facts)), "ns/update")
}

// BenchmarkReadFacts decodes it.
func BenchmarkReadFacts(b *testing.B) {
	batch := factBatchOf(b, testHeader(testProducer(1), 1), benchFacts()...)
	known := NewKnownKeys(testSlots)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := batch.RowsKnowing(known); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/10_000, "ns/update")
}

// totalsOf returns what rollup rows count on entities, in the order of the keys.
func totalsOf(rollups []RollupRow) []TotalRow {
	sums := map[Entity]*Counters{}
	for i := range rollups {
		series := rollups[i].Series()
		series.EachEntity(func(e Entity) {
			if sums[e] == nil {
				sums[e] = &Counters{}
			}
			sums[e].Add(&rollups[i].Counters)
		})
	}
	var totals []TotalRow
	for e, sum := range sums {
		totals = append(totals, TotalRow{Key: e.Key(), Entity: e, Counters: *sum})
	}
	slices.SortFunc(totals, func(a, b TotalRow) int { return a.Key.Compare(b.Key) })
	return totals
}
