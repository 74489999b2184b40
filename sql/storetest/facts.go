package storetest

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// Books is a store that keeps ids.
type Books interface {
	spend.Store
	spend.FactStore
}

// RunFacts runs the suite of ids. open is as for Run. check, if it isn't nil, is called at the end
// of each test.
func RunFacts(t *testing.T, open func(t *testing.T) Books, check func(t *testing.T, s Books)) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, s Books)
	}{
		{"AnIDCountsOnceWhicheverBatchHasIt", testRepeat},
		{"ARepeatInTheSameFlushCountsOnce", testRepeatAtOnce},
		{"AnotherContentUnderAnIDIsSetAside", testConflict},
		{"ARepeatedFlushIsFencedAndNoDuplicate", testRepeatedFlush},
		{"AFencedFlushKeepsNoID", testFencedFacts},
		{"EqualIDsOfAnUpdateAndARequestAreTwo", testKinds},
		{"ARequestOverTwoShardsCountsInEach", testTwoShards},
		{"ARequestCountsOnceWhenThereAreOtherShards", testOtherShards},
		{"AFoundBatchOfRepeatsCountsNothing", testFoundFacts},
		{"AFoundBatchWhoseIDsAreNewCounts", testFoundNew},
		{"OfFlushesOfOneIDAtOnceOneCounts", testFactsAtOnce},
		{"AnIDThatIsTendedStays", testTendFacts},
		{"ALookupTellsWhatIsKnown", testLookup},
		{"RepeatsOfManyBatchesAddUp", testManyRepeats},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := open(t)
			test.run(t, s)
			if check != nil {
				check(t, s)
			}
		})
	}
}

// fact is a fact of one dollar for each of the keys.
type fact struct {
	id      spend.FactID
	content spend.Fingerprint
	single  bool
	keys    []string
}

func update(id string, content spend.Fingerprint) fact {
	return fact{spend.NewFactID(spend.UpdateFact, id), content, true, []string{"storetest"}}
}

func request(id string, keys ...string) fact {
	return fact{spend.NewFactID(spend.RequestFact, id), 1, false, keys}
}

// part is what the key counts of a fact.
func part(key string) spend.FactPart {
	series := spend.Series{APIKey: key}
	canonical := spend.CanonicalSeries(series.AppendCanonical(nil, spend.AllDimensions))
	return spend.FactPart{Series: canonical, Key: canonical.Key(), Hour: spend.HourOf(time.Now()),
		Counters: spend.Counters{Spend: spend.Dollars(1), SuccessfulRequests: 1, PromptTokens: 3}}
}

// factChain is the batches of facts of one producer in one shard.
type factChain struct {
	t *testing.T
	s Books
	h spend.Header
}

func newChain(t *testing.T, s Books, shard int) *factChain {
	t.Helper()
	books, err := s.Books(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	return &factChain{t, s, spend.Header{Shard: shard, Producer: spend.NewProducerID(now), SealedAt: now, Books: books}}
}

// seal returns the next batch: what the facts have in the shard, where there are so many.
func (c *factChain) seal(shards int, facts ...fact) *spend.Batch {
	c.t.Helper()
	var b spend.FactBatch
	for _, f := range facts {
		var parts []spend.FactPart
		for _, key := range f.keys {
			if p := part(key); shards == 1 || p.Key.Shard(shards) == c.h.Shard {
				parts = append(parts, p)
			}
		}
		if len(parts) > 0 && !b.Add(f.id, f.content, f.single, parts...) {
			c.t.Fatal("a fact doesn't fit")
		}
	}
	c.h.Sequence++
	sealed := b.Seal(&spend.BatchKeys{}, c.h)
	c.h.PriorDigest, c.h.PriorUpdates, c.h.PriorAmount = sealed.Digest(), c.h.PriorUpdates+sealed.Updates, c.h.PriorAmount.Add(sealed.Amount)
	return sealed
}

// commit seals facts and commits them. It returns what was taken out.
func (c *factChain) commit(facts ...fact) []spend.TakenRange {
	c.t.Helper()
	return c.apply(c.seal(1, facts...))
}

// apply commits a batch, and looks whether the outcome is the same wherever it is read.
func (c *factChain) apply(b *spend.Batch) []spend.TakenRange {
	c.t.Helper()
	f := flushOf(c.t, b, markOf(c.t, c.s, b))
	var told []spend.TakenOut
	f.Outcome = &told
	apply(c.t, c.s, f)
	kept, err := c.s.Outcomes(c.t.Context(), b.Shard, b.Producer, []uint64{b.Sequence})
	if err != nil {
		c.t.Fatal(err)
	}
	if fmt.Sprint(kept) != fmt.Sprint(told) {
		c.t.Errorf("the outcome is %v, and kept is %v", told, kept)
	}
	if len(told) == 0 {
		return nil
	}
	if len(told) != 1 || told[0].Producer != b.Producer || told[0].Sequence != b.Sequence {
		c.t.Errorf("the outcome of batch %d of %s is %v", b.Sequence, b.Producer, told)
	}
	return told[0].Ranges
}

func wantTaken(t *testing.T, got []spend.TakenRange, want ...spend.TakenRange) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%+v was taken out, want %+v", got, want)
	}
}

// wantFact checks how many rows the books have of an id, and in how many buckets it counts.
func wantFact(t *testing.T, s Books, id spend.FactID, content ...spend.Fingerprint) {
	t.Helper()
	facts, err := s.Fact(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	var got []spend.Fingerprint
	for _, f := range facts {
		got = append(got, f.Content)
		if age := time.Since(f.At); age < -time.Minute || age > 5*time.Minute {
			t.Errorf("committed at %s", f.At)
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, content) {
		t.Errorf("the books have %v of %s, want %v", got, id, content)
	}
}

func testRepeat(t *testing.T, s Books) {
	a, b := newChain(t, s, 0), newChain(t, s, 0)
	wantTaken(t, a.commit(update("1", 1), update("2", 2)))
	wantTaken(t, b.commit(update("3", 3), update("2", 2), update("1", 1)), spend.TakenRange{First: 1, Last: 2, Updates: 2})
	wantTaken(t, b.commit(update("3", 3)), spend.TakenRange{Updates: 1})
	wantTaken(t, a.commit(update("3", 3), update("4", 4)), spend.TakenRange{Updates: 1})
	if mark := marks(t, s, 0, b.h.Producer).Of[b.h.Producer]; mark.Sequence != 2 || mark.Updates != 4 || len(mark.Lost) != 0 {
		t.Errorf("%+v", mark)
	}
	wantFact(t, s, spend.NewFactID(spend.UpdateFact, "1"), 1)
}

func testRepeatAtOnce(t *testing.T, s Books) {
	a := newChain(t, s, 0)
	wantTaken(t, a.commit(update("1", 1), update("2", 1), update("1", 1), update("1", 2)),
		spend.TakenRange{First: 2, Last: 2, Updates: 1}, spend.TakenRange{First: 3, Last: 3, Conflict: true, Updates: 1})
	wantFact(t, s, spend.NewFactID(spend.UpdateFact, "1"), 1)
}

func testConflict(t *testing.T, s Books) {
	a, b := newChain(t, s, 0), newChain(t, s, 0)
	a.commit(update("1", 1))
	other := update("1", 2)
	other.keys = []string{"another key"}
	wantTaken(t, b.commit(update("2", 1), other), spend.TakenRange{First: 1, Last: 1, Conflict: true, Updates: 1})
	wantTaken(t, b.commit(update("1", 1)), spend.TakenRange{Updates: 1}) // the first content stays
	wantFact(t, s, other.id, 1)
}

func testRepeatedFlush(t *testing.T, s Books) {
	a := newChain(t, s, 0)
	f := flushOf(t, a.seal(1, update("1", 1)), spend.Mark{})
	apply(t, s, f)
	mustFence(t, s, f)
	wantTaken(t, newChain(t, s, 0).commit(update("1", 1)), spend.TakenRange{Updates: 1})
}

func testFencedFacts(t *testing.T, s Books) {
	a := newChain(t, s, 0)
	a.seal(1, update("1", 1))
	second := a.seal(1, update("2", 1))
	mustFence(t, s, flushOf(t, second, spend.Mark{Sequence: 1, Digest: second.PriorDigest, Updates: 1, Amount: spend.Dollars(1)}))
	wantFact(t, s, spend.NewFactID(spend.UpdateFact, "2"))
	wantTaken(t, newChain(t, s, 0).commit(update("2", 1)))
}

func testKinds(t *testing.T, s Books) {
	a := newChain(t, s, 0)
	wantTaken(t, a.commit(update("1", 1), request("1", "storetest")))
	wantTaken(t, a.commit(request("1", "storetest")), spend.TakenRange{Updates: 1})
}

// manyKeys are so many that each shard has some.
func manyKeys() (keys []string) {
	for i := range 40 {
		keys = append(keys, fmt.Sprint("key", i))
	}
	return keys
}

func testTwoShards(t *testing.T, s Books) {
	r := request("r", manyKeys()...)
	booked := int64(0)
	for shard := range 2 {
		b := newChain(t, s, shard)
		wantTaken(t, b.apply(b.seal(2, r)))
		booked += b.h.PriorUpdates
	}
	if booked != 40 {
		t.Errorf("%d updates are booked", booked)
	}
	for shard := range 2 {
		b := newChain(t, s, shard)
		sealed := b.seal(2, r)
		wantTaken(t, b.apply(sealed), spend.TakenRange{Updates: sealed.Updates})
	}
}

// testOtherShards commits what a request has in one of two shards, and then all of it in one of
// three: as it is when a caller sends it again after a time-out while instances are restarted with
// other shards.
func testOtherShards(t *testing.T, s Books) {
	r := request("r", manyKeys()...)
	first := newChain(t, s, 0)
	half := first.seal(2, r)
	wantTaken(t, first.apply(half))
	total, taken := int64(0), int64(0)
	for shard := range 3 {
		b := newChain(t, s, shard)
		sealed := b.seal(3, r)
		total += sealed.Updates
		for _, out := range b.apply(sealed) {
			if out.Conflict {
				t.Errorf("%+v", out)
			}
			taken += out.Updates
		}
	}
	if total != 40 || taken != half.Updates || half.Updates == 0 {
		t.Errorf("%d of %d updates are taken out, want %d", taken, total, half.Updates)
	}
}

func testFoundFacts(t *testing.T, s Books) {
	a := newChain(t, s, 0)
	lost, next := a.seal(1, update("1", 1)), a.seal(1, update("2", 1))
	apply(t, s, skippingGap(t, next, spend.Mark{}))
	newChain(t, s, 0).commit(update("1", 1)) // the caller has sent it again
	wantTaken(t, a.apply(lost), spend.TakenRange{Updates: 1})
	if mark := markOf(t, s, lost); !mark.Has(1) {
		t.Errorf("%+v", mark)
	}
}

func testFoundNew(t *testing.T, s Books) {
	a := newChain(t, s, 0)
	lost, next := a.seal(1, update("1", 1)), a.seal(1, update("2", 1))
	apply(t, s, skippingGap(t, next, spend.Mark{}))
	wantTaken(t, a.apply(lost))
	wantTaken(t, a.commit(update("1", 1)), spend.TakenRange{Updates: 1})
}

func testFactsAtOnce(t *testing.T, s Books) {
	const flushes = 8
	outcomes := make([][]spend.TakenOut, flushes)
	errs := make([]error, flushes)
	var all sync.WaitGroup
	for i := range flushes {
		f := flushOf(t, newChain(t, s, 0).seal(1, update("1", 1), update(fmt.Sprint("own ", i), 1)), spend.Mark{})
		f.Outcome = &outcomes[i]
		all.Go(func() { errs[i] = s.Apply(t.Context(), f) })
	}
	all.Wait()
	first := 0
	for i := range flushes {
		if errs[i] != nil {
			t.Error(errs[i])
		}
		if len(outcomes[i]) == 0 {
			first++
		} else {
			wantTaken(t, outcomes[i][0].Ranges, spend.TakenRange{Updates: 1})
		}
	}
	if first != 1 {
		t.Errorf("%d flushes have booked it", first)
	}
	wantFact(t, s, spend.NewFactID(spend.UpdateFact, "1"), 1)
}

func testTendFacts(t *testing.T, s Books) {
	a := newChain(t, s, 0)
	a.commit(update("1", 1))
	for range 3 {
		if err := s.TendFacts(t.Context(), 36*24*time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	wantTaken(t, a.commit(update("1", 1)), spend.TakenRange{Updates: 1})
}

func testLookup(t *testing.T, s Books) {
	wantFact(t, s, spend.NewFactID(spend.UpdateFact, "1"))
	newChain(t, s, 0).commit(update("1", 7), request("r", "a", "b"))
	wantFact(t, s, spend.NewFactID(spend.UpdateFact, "1"), 7)
	wantFact(t, s, spend.NewFactID(spend.RequestFact, "1"))
	facts, err := s.Fact(t.Context(), spend.NewFactID(spend.RequestFact, "r"))
	a, b := part("a"), part("b")
	if want := uint64(1)<<a.Key.Bucket() | 1<<b.Key.Bucket(); err != nil || len(facts) != 1 || facts[0].Buckets != want {
		t.Errorf("%+v, %v; want the buckets %x", facts, err, want)
	}
	if facts, err := s.Fact(t.Context(), spend.NewFactID(spend.UpdateFact, "1")); err != nil || facts[0].Buckets != spend.AllBuckets {
		t.Errorf("%+v, %v", facts, err)
	}
}

func testManyRepeats(t *testing.T, s Books) {
	a, b := newChain(t, s, 0), newChain(t, s, 0)
	var facts []fact
	for i := range 500 {
		f := update(fmt.Sprint(i), 1)
		f.keys = []string{fmt.Sprint("key", i%7)}
		facts = append(facts, f)
	}
	wantTaken(t, a.commit(facts...))
	wantTaken(t, b.commit(facts...), spend.TakenRange{Last: 499, Updates: 500})
	wantTaken(t, b.commit(append(facts[250:], update("one more", 1))...), spend.TakenRange{Last: 249, Updates: 250})
}
