package spendflush

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// testBatch is the batch of that sequence: one update of as many dollars on the key of its
// producer. It goes on from the one before it, unless that is very far.
func testBatch(t testing.TB, producer int, sequence uint64) *spend.Batch {
	t.Helper()
	const far = 10_000
	testChains.Lock()
	defer testChains.Unlock()
	chain := testChains.of[producer]
	for next := uint64(len(chain)) + 1; next <= sequence && sequence <= far; next++ {
		h := testHeader(testProducer(producer), next)
		if next > 1 {
			last := chain[next-2]
			h.PriorUpdates, h.PriorAmount, h.PriorDigest = last.PriorUpdates+last.Updates, last.PriorAmount.Add(last.Amount), last.Digest()
		}
		chain = append(chain, oneUpdate(t, h))
	}
	testChains.of[producer] = chain
	if sequence > far {
		return oneUpdate(t, testHeader(testProducer(producer), sequence))
	}
	return chain[sequence-1]
}

// testChains are the batches that were made, from the first one on.
var testChains = struct {
	sync.Mutex
	of map[int][]*spend.Batch
}{of: map[int][]*spend.Batch{}}

func oneUpdate(t testing.TB, h spend.Header) *spend.Batch {
	u := spend.Update{Cost: spend.Cost{Spend: spend.Dollars(int64(h.Sequence))}, Series: spend.Series{APIKey: fmt.Sprint("key", int(h.Producer[15]-'0'))}}
	rows := sealUpdates(t, []spend.Update{u}, 0)
	return spend.NewBatch(h, rows.totals, rows.rollups)
}

// testMark is the mark of the producer when its batches up to that sequence are in the books, but
// for those lost.
func testMark(t testing.TB, producer int, sequence uint64, lost ...uint64) spend.Mark {
	if sequence == 0 {
		return spend.Mark{}
	}
	b := testBatch(t, producer, sequence)
	var ranges []spend.SequenceRange
	for _, s := range lost {
		ranges = withRange(ranges, spend.SequenceRange{First: s, Last: s})
	}
	return spend.Mark{
		Sequence: sequence, Digest: b.Digest(), Lost: ranges, Updates: b.PriorUpdates + b.Updates, Amount: b.PriorAmount.Add(b.Amount),
	}
}

// offered is a plan that knows the marks of producers 1 and 2 and was offered these batches.
func offered(t *testing.T, marks map[int]uint64, batches ...*spend.Batch) *plan {
	t.Helper()
	p := testPlan()
	for i, b := range batches {
		p.addEntry(spend.Entry{ID: spend.EntryID(fmt.Sprint("e", i)), Bytes: b.Bytes()})
	}
	learn(t, p, marks)
	return p
}

func learn(t *testing.T, p *plan, marks map[int]uint64) {
	known := spend.Marks{Of: map[spend.ProducerID]spend.Mark{}}
	for n, mark := range marks {
		known.Of[testProducer(n)] = testMark(t, n, mark)
	}
	p.learn(p.unknown(), known)
}

func claims(f *spend.Flush) string {
	if f == nil {
		return ""
	}
	var all []string
	for _, c := range f.Claims {
		all = append(all, fmt.Sprintf("%s:%d-%d $%s", c.Producer[12:], c.First, c.Last, c.Amount))
	}
	return strings.Join(all, " ")
}

func mustTake(t *testing.T, p *plan, want string) *spend.Flush {
	t.Helper()
	f := p.next()
	if got := claims(f); got != want {
		t.Fatalf("take claims %q, want %q", got, want)
	}
	if f != nil {
		if err := checkFlush(f); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func mustSettle(t *testing.T, p *plan, want ...spend.EntryID) {
	t.Helper()
	ids := p.ack().Entries
	slices.Sort(ids)
	if !slices.Equal(ids, want) {
		t.Fatalf("settles %v, want %v", ids, want)
	}
}

func TestPlanTakesEachProducersBatchesInSequence(t *testing.T) {
	p := offered(t, map[int]uint64{1: 4},
		testBatch(t, 1, 6), testBatch(t, 2, 1), testBatch(t, 1, 5), testBatch(t, 2, 2), testBatch(t, 1, 7))
	f := mustTake(t, p, "0001:5-7 $18 0002:1-2 $3")
	mustSettle(t, p) // nothing before the commit
	p.applied(f)
	mustSettle(t, p, "e0", "e1", "e2", "e3", "e4")
	mustSettle(t, p)
	mustTake(t, p, "")
}

func TestPlanCountsARepeatedBatchOnce(t *testing.T) {
	p := offered(t, map[int]uint64{1: 1},
		testBatch(t, 1, 1), testBatch(t, 1, 2), testBatch(t, 1, 2), testBatch(t, 1, 1), testBatch(t, 1, 3))
	f := mustTake(t, p, "0001:2-3 $5")
	mustSettle(t, p, "e0", "e3") // Postgres has these already
	p.applied(f)
	mustSettle(t, p, "e1", "e2", "e4")
	p.addEntry(spend.Entry{ID: "late", Bytes: testBatch(t, 1, 2).Bytes()})
	mustTake(t, p, "")
	mustSettle(t, p, "late")
	if p.stats.duplicates != 4 {
		t.Errorf("%d duplicates counted, want 4", p.stats.duplicates)
	}
}

func TestPlanWaitsBehindAGapUntilALaterEntryFillsIt(t *testing.T) {
	p := offered(t, nil, testBatch(t, 1, 2), testBatch(t, 1, 3), testBatch(t, 1, 5), testBatch(t, 2, 1), testBatch(t, 1, 7))
	f := mustTake(t, p, "0002:1-1 $1")
	p.applied(f)
	mustSettle(t, p, "e3")
	if n, size := p.waiting(); n != 4 || size == 0 {
		t.Fatalf("%d batches of %d bytes wait, want 4", n, size)
	}
	p.addEntry(spend.Entry{ID: "f", Bytes: testBatch(t, 1, 1).Bytes()})
	f = mustTake(t, p, "0001:1-3 $6")
	p.applied(f)
	mustSettle(t, p, "e0", "e1", "f")
	if n, _ := p.waiting(); n != 2 {
		t.Fatalf("%d batches wait, want the fifth and the seventh", n)
	}
	if left := p.evict(0); left != len(testBatch(t, 1, 7).Bytes()) {
		t.Fatalf("%d bytes are left for a later walk; want those of the seventh, for one batch has room in any case", left)
	}
	p.addEntry(spend.Entry{ID: "g", Bytes: testBatch(t, 1, 4).Bytes()})
	p.addEntry(spend.Entry{ID: "h", Bytes: testBatch(t, 1, 6).Bytes()})
	p.applied(mustTake(t, p, "0001:4-6 $15"))
	mustSettle(t, p, "e2", "g", "h") // the seventh stays in the queue
}

func TestPlanSetsACorruptBatchAsideAndTakesAHealthyCopy(t *testing.T) {
	good := testBatch(t, 1, 1)
	broken := bytes.Clone(good.Bytes())
	broken[len(broken)-1] ^= 1
	p := testPlan()
	p.addEntry(spend.Entry{ID: "broken", Bytes: broken})
	p.addEntry(spend.Entry{ID: "junk", Bytes: []byte("SET key value")})
	p.addEntry(spend.Entry{ID: "good", Bytes: good.Bytes()})
	p.addEntry(spend.Entry{ID: "next", Bytes: testBatch(t, 1, 2).Bytes()})
	learn(t, p, nil)
	f := mustTake(t, p, "0001:1-2 $3")
	p.applied(f)
	mustSettle(t, p, "good", "next")
	if len(p.bad) != 2 {
		t.Fatalf("%d entries are set aside, want 2", len(p.bad))
	}
	for i, want := range []spend.EntryID{"broken", "junk"} {
		if p.bad[i].entry != want || !strings.Contains(p.bad[i].Reason, "corrupt") || strings.Contains(p.bad[i].Reason, "\n") || len(p.bad[i].Bytes) == 0 {
			t.Errorf("set aside %d: %s %q", i, p.bad[i].entry, p.bad[i].Reason)
		}
	}
}

// The frame is whole, and the control sums are wrong: no copy is better. It is set aside by the
// claim itself, in its place.
func TestPlanSetsABatchAsideThatCanNotBeReadAndTakesThoseBehindIt(t *testing.T) {
	undecodable := bytes.Clone(testBatch(t, 1, 1).Bytes())
	undecodable[headerSize] ^= 1 << 2 // that a counter follows
	undecodable = reframe(undecodable)
	next := mustRows(t, testBatch(t, 1, 2))
	h := testBatch(t, 1, 2).Header
	h.PriorDigest = mustParse(t, undecodable).Digest()
	p := testPlan()
	p.addEntry(spend.Entry{ID: "a", Bytes: undecodable})
	p.addEntry(spend.Entry{ID: "b", Bytes: spend.NewBatch(h, next.Totals, next.Rollups).Bytes()})
	learn(t, p, nil)
	f := mustTake(t, p, "0001:1-2 $2")
	if len(f.Lost) != 1 || f.Lost[0].First != 1 || f.Lost[0].Last != 1 || !f.Lost[0].Quarantined || len(f.Quarantine) != 1 || string(f.Quarantine[0].Bytes) != string(undecodable) {
		t.Fatalf("lost %+v, quarantine %+v", f.Lost, f.Quarantine)
	}
	p.applied(f)
	mustSettle(t, p, "a", "b")
	if mark := p.marks[testProducer(1)]; mark.Sequence != 2 || !mark.HasQuarantined(1) || mark.Has(1) {
		t.Errorf("mark is %+v", mark)
	}
}

// Two processes with the same memory: what has another batch's place is neither booked nor dropped
// as a repetition.
func TestPlanSetsBatchesOfAnotherChainAside(t *testing.T) {
	b := chained(t, 1, 4)
	rows := mustRows(t, b[1])
	h := b[1].Header
	h.SealedAt = h.SealedAt.Add(time.Second)
	other := spend.NewBatch(h, rows.Totals, rows.Rollups) // of the same sums
	h = b[2].Header
	h.PriorDigest = other.Digest()
	behind := spend.NewBatch(h, rows.Totals, rows.Rollups)
	h = b[3].Header // its sums are those that the one behind a gap could have
	h.PriorDigest = behind.Digest()
	last := spend.NewBatch(h, rows.Totals, rows.Rollups)

	for what, c := range map[string]struct {
		mark    spend.Mark
		batches []*spend.Batch
		want    string
	}{
		"in one flush":                     {spend.Mark{}, []*spend.Batch{b[0], b[1], other, behind, last}, "0001:1-2 $3"},
		"at the mark":                      {testMark(t, 1, 2), []*spend.Batch{other, behind, last}, ""},
		"behind the mark":                  {testMark(t, 1, 2), []*spend.Batch{behind, last}, ""},
		"before the mark, as far as known": {recentMark(t, 1, 3), []*spend.Batch{other}, ""},
	} {
		p := testPlan()
		for i, b := range c.batches {
			p.addEntry(spend.Entry{ID: spend.EntryID(fmt.Sprint("e", i)), Bytes: b.Bytes()})
		}
		p.marks[testProducer(1)] = c.mark
		p.skipping[testProducer(1)] = "missing" // nor is it passed over to them
		f := mustTake(t, p, c.want)
		if f != nil {
			p.applied(f)
		}
		mustTake(t, p, "")
		want := 0
		for _, b := range c.batches {
			if b == other || b == behind || b == last {
				want++
			}
		}
		if n, _ := p.waiting(); len(p.bad) != want || n != 0 || p.stats.duplicates != 0 {
			t.Errorf("%s: %d set aside, %d wait, %d taken for repetitions; want %d set aside", what, len(p.bad), n, p.stats.duplicates, want)
		}
		for _, bad := range p.bad {
			if !strings.Contains(bad.Reason, spend.ErrDiverged.Error()) {
				t.Errorf("%s: %q", what, bad.Reason)
			}
		}
	}
}

// recentMark is the mark with the digests of the last batches.
func recentMark(t *testing.T, producer int, sequence uint64) spend.Mark {
	mark := testMark(t, producer, sequence)
	for i, b := range chained(t, producer, sequence) {
		mark.Recent = mark.Recent.Append(uint64(i), b)
	}
	return mark
}

func TestPlanLeavesANewerBatchToANewerProgram(t *testing.T) {
	newer := bytes.Clone(testBatch(t, 1, 1).Bytes())
	newer[2] = spend.BatchVersion + 1
	p := testPlan()
	p.addEntry(spend.Entry{ID: "a", Bytes: reframe(newer)})
	p.addEntry(spend.Entry{ID: "b", Bytes: testBatch(t, 1, 2).Bytes()})
	learn(t, p, nil)
	mustTake(t, p, "")
	mustSettle(t, p)
	if p.stats.newer != 1 || len(p.bad) != 0 {
		t.Fatalf("%+v, %d set aside; want one newer and none set aside", p.stats, len(p.bad))
	}
}

func TestPlanRejectsABatchOfAnotherShard(t *testing.T) {
	h := testHeader(testProducer(1), 1)
	h.Shard = 1
	p := testPlan()
	p.addEntry(spend.Entry{ID: "a", Bytes: spend.NewBatch(h, nil, nil).Bytes()})
	if len(p.bad) != 1 || !strings.Contains(p.bad[0].Reason, "another shard") || len(p.unknown()) != 0 {
		t.Fatalf("set aside: %+v", p.bad)
	}
}

func TestPlanReadsTheMarksAgainWhenItsClaimIsLost(t *testing.T) {
	p := offered(t, nil, testBatch(t, 1, 1), testBatch(t, 1, 2), testBatch(t, 1, 2), testBatch(t, 2, 1))
	f := mustTake(t, p, "0001:1-2 $3 0002:1-1 $1")
	p.fenced(f)
	mustSettle(t, p)
	mustTake(t, p, "") // not before the marks are known
	if got := p.unknown(); !slices.Equal(got, []spend.ProducerID{testProducer(1), testProducer(2)}) {
		t.Fatalf("marks to read are those of %v", got)
	}
	learn(t, p, map[int]uint64{1: 1}) // another flusher has committed the first
	f = mustTake(t, p, "0001:2-2 $2 0002:1-1 $1")
	p.applied(f)
	mustSettle(t, p, "e0", "e1", "e2", "e3")
}

func TestAFlushOfManyRowsIsCommittedBeforeMoreIsAdded(t *testing.T) {
	var batches []*spend.Batch
	for producer := 1; producer <= 3; producer++ {
		for sequence := uint64(1); sequence <= 4; sequence++ {
			batches = append(batches, testBatch(t, producer, sequence))
		}
	}
	all := offered(t, nil, batches...).next() // few rows, so all at once
	for rows := 1; rows <= len(all.Totals)+len(all.Rollups); rows++ {
		p := offered(t, nil, batches...)
		p.limit.rows = rows
		var claimed, flushes int
		var control spend.Control
		for f := p.next(); f != nil; f = p.next() {
			if err := checkFlush(f); err != nil {
				t.Fatal(err)
			}
			claimed += f.Batches()
			control.Add(&f.Control)
			p.applied(f)
			flushes++
		}
		if claimed != len(batches) || control != all.Control {
			t.Fatalf("with %d rows a flush %d of %d batches are committed, with %+v; want %+v", rows, claimed, len(batches), control, all.Control)
		}
		if rows == 1 && flushes != len(batches) {
			t.Errorf("with one row a flush there were %d flushes of %d batches", flushes, len(batches))
		}
	}
}

// A shard is chosen by the hash of the series, and each batch has the totals of its own rollup
// rows.
func TestShardsPartitionTheSeriesAndEachBatchIsWhole(t *testing.T) {
	r := newRand(t)
	m, want := newOpenMap(100_000, spend.AllDimensions, 0), newBooks()
	for range 2000 {
		u := randomUpdate(r)
		if _, err := m.addUpdate(&u, 0); err != nil {
			t.Fatal(err)
		}
		want.book(&u, 0)
	}
	const n = 5
	_, shards := sealed(m, newSealer(n, 100_000))
	got, seen := newBooks(), map[spend.Key]int{}
	for shard, parts := range shards {
		if len(parts) == 0 {
			t.Errorf("shard %d has no rows", shard)
		}
		for _, part := range parts {
			for _, row := range part.rollups {
				if s := row.Series(); row.Key != s.Key() || row.Key.Shard(n) != shard {
					t.Errorf("%+v is in shard %d", s, shard)
				}
				seen[row.Key]++
			}
			mustBeWhole(t, part)
			got.apply(part.totals, part.rollups)
		}
	}
	for key, times := range seen {
		if times != 1 {
			t.Errorf("row %x is there %d times", key, times)
		}
	}
	got.mustEqual(t, want)
}

// mustBeWhole sees that the totals of a batch are those of its rollup rows.
func mustBeWhole(t *testing.T, part rowsPart) {
	t.Helper()
	want := map[spend.Entity]spend.Counters{}
	for i := range part.rollups {
		series := part.rollups[i].Series()
		series.EachEntity(func(e spend.Entity) {
			sum := want[e]
			sum.Add(&part.rollups[i].Counters)
			want[e] = sum
		})
	}
	for _, row := range part.totals {
		if row.Key != row.Entity.Key() || want[row.Entity] != row.Counters {
			t.Fatalf("%+v has %+v, its rollup rows make %+v", row.Entity, row.Counters, want[row.Entity])
		}
	}
	if len(part.totals) != len(want) {
		t.Fatalf("%d totals for %d entities", len(part.totals), len(want))
	}
}

func TestLargeSealBecomesSeveralBatchesThatGoOnFromEachOther(t *testing.T) {
	const combinations = 2*spend.MaxBatchRows + 1
	m := newOpenMap(1_000_000, spend.AllDimensions, 0)
	for i := range combinations {
		u := spend.Update{Cost: spend.Cost{Spend: spend.Dollars(1)}, Series: spend.Series{APIKey: fmt.Sprint(i), TeamID: "t"}}
		if _, err := m.addUpdate(&u, 0); err != nil {
			t.Fatal(err)
		}
	}
	_, shards := sealed(m, newSealer(1, 1_000_000))
	h := testHeader(testProducer(1), 41)
	h.PriorUpdates, h.PriorAmount, h.PriorDigest = 7, spend.Dollars(9), spend.Digest{1}
	list := batches(shards[0], h, &spend.BatchKeys{})
	if len(list) < 3 {
		t.Fatalf("%d batches, want 3 at least", len(list))
	}
	var control spend.Control
	for i, b := range list {
		if b.Sequence != uint64(41+i) || b.Totals > spend.MaxBatchRows || b.Rollups > spend.MaxBatchRows {
			t.Errorf("batch %d is %+v", i, b.Header)
		}
		if b.PriorUpdates != h.PriorUpdates || b.PriorAmount != h.PriorAmount || b.PriorDigest != h.PriorDigest {
			t.Errorf("batch %d doesn't go on from the one before it: %+v", i, b.Header)
		}
		h.PriorUpdates, h.PriorAmount, h.PriorDigest = h.PriorUpdates+b.Updates, h.PriorAmount.Add(b.Amount), b.Digest()
		mustBeWhole(t, shards[0][i])
		rows := mustRows(t, b)
		control.Add(&rows.Control)
	}
	if updates, all := control.Rollups.APIRequests(), control.Rollups; updates != combinations || *control.Of(spend.APIKey) != all || *control.Of(spend.Team) != all {
		t.Errorf("the batches together have %+v", control)
	}
	o := newOutbox(testProducer(1), 0)
	o.next, o.digest = 41, spend.Digest{1}
	o.add(list, 8, testNow)
	last := list[len(list)-1]
	o.confirm(spend.Mark{Sequence: last.Sequence - 1, Digest: last.PriorDigest}, testNow)
	if stage := o.reached(8); stage == Committed {
		t.Error("the seal counts as committed before its last batch is")
	}
	if o.confirm(spend.Mark{Sequence: last.Sequence, Digest: last.Digest()}, testNow); o.reached(8) != Committed {
		t.Error("the seal doesn't count as committed after its last batch is")
	}
}
