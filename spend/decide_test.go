package spend

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// flushOfFacts returns a flush that claims one batch of each producer, with the facts of each.
func flushOfFacts(t testing.TB, batches ...[]testFact) *Flush {
	t.Helper()
	f := &Flush{Books: BooksID{1}}
	totals, rollups := map[Key]TotalRow{}, map[rollupPlace]RollupRow{}
	for i, facts := range batches {
		b := mustParse(t, factBatchOf(t, testHeader(testProducer(i), 1), facts...).Bytes())
		rows := mustRows(t, b)
		claim := ClaimAfter(b.Producer, Mark{})
		claim.MoveTo(b)
		claim.Updates, claim.Amount = b.Updates, b.Amount
		f.Claims = append(f.Claims, claim)
		f.Facts = append(f.Facts, BatchFacts{b.Header, rows.Pieces})
		f.Control.Add(&rows.Control)
		for _, row := range rows.Totals {
			row.Counters.Add(ptr(totals[row.Key].Counters))
			totals[row.Key] = row
		}
		for _, row := range rows.Rollups {
			row.Counters.Add(ptr(rollups[rollupPlace{row.Hour, row.Key}].Counters))
			rollups[rollupPlace{row.Hour, row.Key}] = row
		}
	}
	f.Totals = slices.SortedFunc(maps.Values(totals), func(a, b TotalRow) int { return a.Key.Compare(b.Key) })
	f.Rollups = slices.SortedFunc(maps.Values(rollups), func(a, b RollupRow) int { return a.Compare(&b) })
	return f
}

func ptr[T any](v T) *T { return &v }

func mustDecide(t testing.TB, f *Flush, known ...KnownFact) *Decision {
	t.Helper()
	d, err := f.Decide(known)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// single returns a fact of one update of so many dollars.
func single(id string, key string, dollars int64) testFact {
	s, c := Series{APIKey: key, TeamID: "t"}, Cost{Spend: Dollars(dollars)}
	var sum Counters
	sum.AddCost(&c)
	return testFact{NewFactID(UpdateFact, id), ContentOf(&s, &c), true, []FactPart{factPart(&s, 0, sum)}}
}

func TestWhatTheBooksHaveIsTakenOutOfAllRows(t *testing.T) {
	first := flushOfFacts(t, []testFact{single("1", "a", 1), single("2", "b", 2)})
	d := mustDecide(t, first)
	if d.Flush != first || len(d.New) != 2 || len(d.Taken)+len(d.Aside) != 0 || d.Buckets != d.Seen || d.Buckets == 0 {
		t.Fatalf("%+v", d)
	}
	again := mustDecide(t, flushOfFacts(t, []testFact{single("2", "b", 2), single("3", "a", 4)}), d.New...)
	want := flushOfFacts(t, []testFact{single("3", "a", 4)})
	if !sameRows(again.Flush.Totals, want.Totals, again.Flush.Rollups, want.Rollups) || again.Flush.Control != want.Control {
		t.Errorf("%+v, want %+v", again.Flush, want)
	}
	if c := again.Flush.Claims[0]; c.Updates != 1 || c.Amount != Dollars(4) || c.Duplicates != (FactSum{1, Dollars(2)}) || c.Conflicts != (FactSum{}) ||
		c.SealedUpdates != 2 {
		t.Errorf("%+v", c)
	}
	if len(again.Taken) != 1 || !slices.Equal(again.Taken[0].Ranges, []TakenRange{{Updates: 1}}) || len(again.New) != 1 ||
		again.Duplicates.Spend != Dollars(2) {
		t.Errorf("%+v", again)
	}
}

func TestAFlushOfRepeatsAloneHasNoRow(t *testing.T) {
	var facts []testFact
	for i := range 100 {
		facts = append(facts, single(fmt.Sprint(i), fmt.Sprint(i%7), 1))
	}
	known := mustDecide(t, flushOfFacts(t, facts)).New
	d := mustDecide(t, flushOfFacts(t, facts), known...)
	if len(d.Flush.Totals)+len(d.Flush.Rollups)+len(d.New) != 0 || d.Flush.Control != (Control{}) || d.Buckets != 0 || d.Seen == 0 {
		t.Errorf("%+v", d.Flush)
	}
	if !slices.Equal(d.Taken[0].Ranges, []TakenRange{{0, 99, false, 100}}) {
		t.Errorf("%+v", d.Taken)
	}
}

func TestOfTwoPiecesOfAFlushTheFirstCounts(t *testing.T) {
	d := mustDecide(t, flushOfFacts(t, []testFact{single("1", "a", 1), single("1", "a", 1), single("1", "b", 5)}, []testFact{single("1", "a", 1)}))
	if len(d.New) != 1 || d.Flush.Control.Rollups.Spend != Dollars(1) || d.Duplicates.Spend != Dollars(2) || d.Conflicts.Spend != Dollars(5) {
		t.Errorf("%+v", d)
	}
	if len(d.Taken) != 2 || !slices.Equal(d.Taken[0].Ranges, []TakenRange{{1, 1, false, 1}, {2, 2, true, 1}}) {
		t.Errorf("%+v", d.Taken)
	}
	if len(d.Aside) != 1 || d.Aside[0].Batch.Amount != Dollars(5) || d.Aside[0].Batch.Sequence != 1 || d.Aside[0].Counters.Spend != Dollars(5) {
		t.Errorf("%+v", d.Aside)
	}
}

func TestAnotherContentIsAConflictWhereverItCounts(t *testing.T) {
	known := mustDecide(t, flushOfFacts(t, []testFact{single("1", "a", 1)})).New
	d := mustDecide(t, flushOfFacts(t, []testFact{single("1", "a", 2), single("1", "another series", 1)}), known...)
	if len(d.New) != 0 || d.Conflicts.APIRequests() != 2 || d.Duplicates.APIRequests() != 0 || len(d.Flush.Rollups) != 0 {
		t.Errorf("%+v", d)
	}
	rows := mustRows(t, mustParse(t, d.Aside[0].Batch.Bytes()))
	if rows.Pieces.Len() != 2 || rows.Control.Rollups.Spend != Dollars(3) {
		t.Errorf("%+v", rows)
	}
}

// An instance may leave out dimensions that another keeps: then an update's series has another key
// there.
func TestASingleUpdateIsTheSameInWhateverBucketItsSeriesIs(t *testing.T) {
	one := single("1", "a", 1)
	known := mustDecide(t, flushOfFacts(t, []testFact{one})).New
	if known[0].Buckets != AllBuckets {
		t.Errorf("%x", known[0].Buckets)
	}
	elsewhere := single("1", "b", 1)
	elsewhere.content = one.content
	if d := mustDecide(t, flushOfFacts(t, []testFact{elsewhere}), known...); len(d.New) != 0 || d.Duplicates.APIRequests() != 1 {
		t.Errorf("%+v", d)
	}
}

// What was committed of a request when there were other shards is less than its piece now, or more.
func TestOfARequestOnlyWhatTheBooksLackIsNew(t *testing.T) {
	request := testFact{id: NewFactID(RequestFact, "r"), content: 7}
	for i := range 10 {
		s := Series{APIKey: fmt.Sprint(i)}
		request.parts = append(request.parts, factPart(&s, 0, Counters{Spend: Dollars(1), SuccessfulRequests: 1}))
	}
	half := request
	half.parts = request.parts[:5]
	known := mustDecide(t, flushOfFacts(t, []testFact{half})).New
	d := mustDecide(t, flushOfFacts(t, []testFact{request}), known...)
	var lacking uint64
	want := int64(0)
	for _, part := range request.parts[5:] {
		if bit := uint64(1) << part.Key.Bucket(); known[0].Buckets&bit == 0 {
			lacking |= bit
			want++
		}
	}
	if want == 0 || len(d.New) != 1 || d.New[0].Buckets != lacking || d.Flush.Control.Rollups.APIRequests() != want ||
		!slices.Equal(d.Taken[0].Ranges, []TakenRange{{0, 0, false, 10 - want}}) || d.Buckets != lacking {
		t.Errorf("%+v; want %d new", d, want)
	}
}

// A model of what a flush comes to: it looks at each part of each piece by itself.
func TestADecisionIsWhatAModelSaysAndLosesNothing(t *testing.T) {
	r := newRand(t)
	for range 200 {
		f, batches := randomFlush(t, r)
		known := []KnownFact{}
		for i := range 20 {
			known = append(known, KnownFact{NewFactID(UpdateFact, fmt.Sprint(i)), Fingerprint(r.IntN(2)), r.Uint64() & r.Uint64()})
		}
		before := f.Control
		d := mustDecide(t, f, known...)
		counted := modelOf(batches, known)
		if d.Flush.Control.Rollups != counted {
			t.Fatalf("%+v counts, want %+v", d.Flush.Control.Rollups, counted)
		}
		if f.Control != before {
			t.Fatal("the flush was changed")
		}
		checkDecision(t, f, d)
	}
}

// randomFlush returns a flush of facts of few ids and two contents.
func randomFlush(t *testing.T, r *rand.Rand) (*Flush, [][]testFact) {
	t.Helper()
	batches := make([][]testFact, 1+r.IntN(3))
	for i := range batches {
		batches[i] = randomFacts(r, 1+r.IntN(30))
		for j := range batches[i] {
			fact := &batches[i][j]
			fact.content = Fingerprint(r.IntN(2))
			// An id is of one kind.
			n := r.IntN(20) * 2
			if fact.single {
				n++
			}
			fact.id = NewFactID(UpdateFact, fmt.Sprint(n))
		}
	}
	return flushOfFacts(t, batches...), batches
}

// modelOf returns what counts.
func modelOf(batches [][]testFact, known []KnownFact) (sum Counters) {
	for _, facts := range batches {
		for _, fact := range facts {
			conflict, have := false, uint64(0)
			for _, k := range known {
				if k.ID == fact.id && k.Content != fact.content {
					conflict = true
				} else if k.ID == fact.id {
					have |= k.Buckets
				}
			}
			fresh := uint64(0)
			for _, part := range fact.parts {
				bit := uint64(1) << part.Key.Bucket()
				if have&bit != 0 || fact.single && have != 0 || conflict {
					continue
				}
				fresh |= bit
				sum.Add(&part.Counters)
			}
			if fact.single && fresh != 0 {
				fresh = AllBuckets
			}
			if fresh != 0 {
				known = append(known, KnownFact{fact.id, fact.content, fresh})
			}
		}
	}
	return sum
}

// checkDecision checks that all books of the flush agree with each other, and with what was taken
// out.
func checkDecision(t *testing.T, f *Flush, d *Decision) {
	t.Helper()
	var sums Control
	for i := range d.Flush.Totals {
		sums.Of(d.Flush.Totals[i].Entity.Type).Add(&d.Flush.Totals[i].Counters)
	}
	sums.Rollups = sumOf(d.Flush.Rollups)
	var claimed, taken, aside FactSum
	for _, c := range d.Flush.Claims {
		claimed = claimed.Plus(FactSum{c.Updates, c.Amount})
		taken = taken.Plus(c.Duplicates)
		aside = aside.Plus(c.Conflicts)
	}
	if sums != d.Flush.Control || claimed != (FactSum{sums.Rollups.APIRequests(), sums.Rollups.Spend}) ||
		taken != (FactSum{d.Duplicates.APIRequests(), d.Duplicates.Spend}) || aside != (FactSum{d.Conflicts.APIRequests(), d.Conflicts.Spend}) {
		t.Fatalf("rows %+v, control %+v, claims %+v, %+v, %+v", sums, d.Flush.Control, claimed, taken, aside)
	}
	all := sums.Rollups
	all.Add(&d.Duplicates)
	all.Add(&d.Conflicts)
	var quarantined Counters
	for _, a := range d.Aside {
		quarantined.Add(&mustRows(t, mustParse(t, a.Batch.Bytes())).Control.Rollups)
	}
	if all != f.Control.Rollups || quarantined != d.Conflicts {
		t.Fatalf("%+v of %+v is left; %+v is in quarantine", all, f.Control.Rollups, quarantined)
	}
	for _, out := range d.Taken {
		if parsed, err := ParseTaken(AppendTaken(nil, out.Ranges)); err != nil || !slices.Equal(parsed, out.Ranges) {
			t.Fatalf("%+v, %v; want %+v", parsed, err, out.Ranges)
		}
	}
	if !slices.IsSortedFunc(d.New, func(a, b KnownFact) int {
		return cmp.Or(a.ID.Compare(b.ID), cmp.Compare(a.Content, b.Content), 1)
	}) {
		t.Fatal("an id is there twice")
	}
}

func TestAFlushWhoseRowsAreNotThoseOfItsPiecesIsRefused(t *testing.T) {
	facts := []testFact{single("1", "a", 1), single("2", "b", 2)}
	known := mustDecide(t, flushOfFacts(t, facts)).New
	for name, change := range map[string]func(f *Flush){
		"no totals":         func(f *Flush) { f.Totals = nil },
		"a total of less":   func(f *Flush) { f.Totals[0].Counters = Counters{} },
		"no rollups":        func(f *Flush) { f.Rollups = nil },
		"a rollup of less":  func(f *Flush) { f.Rollups[0].Counters.SuccessfulRequests = 0 },
		"control of less":   func(f *Flush) { f.Control.Rollups.SuccessfulRequests = 0 },
		"a batch unclaimed": func(f *Flush) { f.Claims[0].First++; f.Claims[0].Last++ },
	} {
		f := flushOfFacts(t, facts)
		change(f)
		if _, err := f.Decide(known); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v; want ErrRefused", name, err)
		}
	}
}

func TestOutcomesThatAreNoneAreRefused(t *testing.T) {
	for _, b := range []string{"\x00", "\x00\x00", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "\x00\xff\xff\xff\x7f\x00"} {
		if _, err := ParseTaken([]byte(b)); !errors.Is(err, ErrOutcome) {
			t.Errorf("%x: %v; want ErrOutcome", b, err)
		}
	}
}

// BenchmarkDecide decides 10,000 identified updates: new ones, and repeats.
func BenchmarkDecide(b *testing.B) {
	f := flushOfFacts(b, benchFacts())
	known := mustDecide(b, f).New
	for name, known := range map[string][]KnownFact{"new": nil, "repeats": known} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				mustDecide(b, f, known...)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/10_000, "ns/update")
		})
	}
}
