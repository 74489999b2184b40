package spendflush

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// testBatch is the batch of that sequence: one update of as many dollars on the key of its producer.
func testBatch(t testing.TB, producer int, sequence uint64) *Batch {
	t.Helper()
	u := Update{Spend: Dollars(int64(sequence)), Series: Series{APIKey: fmt.Sprint("key", producer)}}
	rows := sealUpdates(t, []Update{u}, 0)
	return NewBatch(testHeader(testProducer(producer), sequence), rows.totals, rows.rollups)
}

// offered is a plan that knows the marks of producers 1 and 2 and was offered these batches.
func offered(t *testing.T, marks map[int]uint64, batches ...*Batch) *plan {
	t.Helper()
	p := newPlan(0)
	for i, b := range batches {
		p.offer(Entry{ID: EntryID(fmt.Sprint("e", i)), Bytes: b.Bytes()})
	}
	learn(p, marks)
	return p
}

func learn(p *plan, marks map[int]uint64) {
	known := Marks{Of: map[ProducerID]Mark{}}
	for n, mark := range marks {
		known.Of[testProducer(n)] = Mark{Sequence: mark}
	}
	p.learn(p.unknown(), known)
}

func claims(f *Flush) string {
	if f == nil {
		return ""
	}
	var all []string
	for _, c := range f.Claims {
		all = append(all, fmt.Sprintf("%s:%d-%d $%s", c.Producer[12:], c.First, c.Last, c.Amount))
	}
	return strings.Join(all, " ")
}

func mustTake(t *testing.T, p *plan, want string) *Flush {
	t.Helper()
	f := p.take()
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

func mustSettle(t *testing.T, p *plan, want ...EntryID) {
	t.Helper()
	ids, _ := p.settle()
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
	p.offer(Entry{ID: "late", Bytes: testBatch(t, 1, 2).Bytes()})
	mustTake(t, p, "")
	mustSettle(t, p, "late")
	if p.stats.duplicates != 4 {
		t.Errorf("%d duplicates counted, want 4", p.stats.duplicates)
	}
}

func TestPlanWaitsBehindAGapUntilALaterEntryFillsIt(t *testing.T) {
	p := offered(t, nil, testBatch(t, 1, 2), testBatch(t, 1, 3), testBatch(t, 1, 5), testBatch(t, 2, 1))
	f := mustTake(t, p, "0002:1-1 $1")
	p.applied(f)
	mustSettle(t, p, "e3")
	if n, size := p.waiting(); n != 3 || size == 0 {
		t.Fatalf("%d batches of %d bytes wait, want 3", n, size)
	}
	p.offer(Entry{ID: "f", Bytes: testBatch(t, 1, 1).Bytes()})
	f = mustTake(t, p, "0001:1-3 $6")
	p.applied(f)
	mustSettle(t, p, "e0", "e1", "f")
	if n, _ := p.waiting(); n != 1 {
		t.Fatalf("%d batches wait, want only the fifth", n)
	}
	if p.trim(0) == 0 {
		t.Fatal("nothing is left for a later walk")
	}
	p.offer(Entry{ID: "g", Bytes: testBatch(t, 1, 4).Bytes()})
	p.applied(mustTake(t, p, "0001:4-4 $4"))
	mustSettle(t, p, "g") // the fifth stays in the queue
}

func TestPlanSetsACorruptBatchAsideAndTakesAHealthyCopy(t *testing.T) {
	good := testBatch(t, 1, 1)
	broken := bytes.Clone(good.Bytes())
	broken[len(broken)-1] ^= 1
	undecodable := bytes.Clone(good.Bytes())
	undecodable[batchHeaderSize] ^= hasFailed // the frame is whole, the control sums are wrong
	p := newPlan(0)
	p.offer(Entry{ID: "broken", Bytes: broken})
	p.offer(Entry{ID: "undecodable", Bytes: reframe(undecodable)})
	p.offer(Entry{ID: "junk", Bytes: []byte("SET key value")})
	p.offer(Entry{ID: "good", Bytes: good.Bytes()})
	p.offer(Entry{ID: "next", Bytes: testBatch(t, 1, 2).Bytes()})
	learn(p, nil)
	f := mustTake(t, p, "0001:1-2 $3")
	p.applied(f)
	mustSettle(t, p, "good", "next")
	if len(p.bad) != 3 {
		t.Fatalf("%d entries are set aside, want 3", len(p.bad))
	}
	for i, want := range []EntryID{"broken", "junk", "undecodable"} {
		if p.bad[i].entry != want || !strings.Contains(p.bad[i].Reason, "corrupt") || strings.Contains(p.bad[i].Reason, "\n") || len(p.bad[i].Bytes) == 0 {
			t.Errorf("set aside %d: %s %q", i, p.bad[i].entry, p.bad[i].Reason)
		}
	}
}

func TestPlanStopsBeforeACorruptBatchWithoutCopy(t *testing.T) {
	undecodable := bytes.Clone(testBatch(t, 1, 1).Bytes())
	undecodable[batchHeaderSize] ^= hasFailed
	p := newPlan(0)
	p.offer(Entry{ID: "a", Bytes: reframe(undecodable)})
	p.offer(Entry{ID: "b", Bytes: testBatch(t, 1, 2).Bytes()})
	learn(p, nil)
	mustTake(t, p, "")
	mustSettle(t, p)
	if n, _ := p.waiting(); n != 1 || len(p.bad) != 1 {
		t.Fatalf("%d wait and %d are set aside, want 1 and 1", n, len(p.bad))
	}
}

func TestPlanLeavesANewerBatchToANewerProgram(t *testing.T) {
	newer := bytes.Clone(testBatch(t, 1, 1).Bytes())
	newer[2] = BatchVersion + 1
	p := newPlan(0)
	p.offer(Entry{ID: "a", Bytes: reframe(newer)})
	p.offer(Entry{ID: "b", Bytes: testBatch(t, 1, 2).Bytes()})
	learn(p, nil)
	mustTake(t, p, "")
	mustSettle(t, p)
	if p.stats.newer != 1 || len(p.bad) != 0 {
		t.Fatalf("%+v, %d set aside; want one newer and none set aside", p.stats, len(p.bad))
	}
}

func TestPlanRejectsABatchOfAnotherShard(t *testing.T) {
	h := testHeader(testProducer(1), 1)
	h.Shard, h.Shards = 1, 2
	p := newPlan(0)
	p.offer(Entry{ID: "a", Bytes: NewBatch(h, nil, nil).Bytes()})
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
	if got := p.unknown(); !slices.Equal(got, []ProducerID{testProducer(1), testProducer(2)}) {
		t.Fatalf("marks to read are those of %v", got)
	}
	learn(p, map[int]uint64{1: 1}) // somebody else has committed the first
	f = mustTake(t, p, "0001:2-2 $2 0002:1-1 $1")
	p.applied(f)
	mustSettle(t, p, "e0", "e1", "e2", "e3")
}

func TestAFlushOfManyRowsIsCommittedBeforeMoreIsAdded(t *testing.T) {
	var batches []*Batch
	for producer := 1; producer <= 3; producer++ {
		for sequence := uint64(1); sequence <= 4; sequence++ {
			batches = append(batches, testBatch(t, producer, sequence))
		}
	}
	all := offered(t, nil, batches...).take() // few rows, so all at once
	for rows := 1; rows <= len(all.Totals)+len(all.Rollups); rows++ {
		p := offered(t, nil, batches...)
		p.rows = rows
		var claimed, flushes int
		var control Control
		for f := p.take(); f != nil; f = p.take() {
			if err := checkFlush(f); err != nil {
				t.Fatal(err)
			}
			claimed += f.batches()
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

func TestShardsPartitionTheRows(t *testing.T) {
	r := newRand(t)
	m, want := newOpenMap(100_000, allDimensions), newBooks()
	for range 2000 {
		u := randomUpdate(r)
		if _, err := m.addUpdate(&u, 0); err != nil {
			t.Fatal(err)
		}
		want.book(&u, 0)
	}
	const shards = 5
	_, lanes := sealed(m, newSealer(shards, 100_000))
	got, seen := newBooks(), map[Key]int{}
	for shard, lane := range lanes {
		if len(lane.totals) == 0 || len(lane.rollups) == 0 {
			t.Errorf("shard %d has no rows", shard)
		}
		for _, row := range lane.totals {
			if row.Key != row.Entity.Key() || row.Key.shard(shards) != shard {
				t.Errorf("%+v is in shard %d", row.Entity, shard)
			}
			seen[row.Key]++
		}
		for _, row := range lane.rollups {
			if s := row.Series(); row.Key != s.Key() || row.Key.shard(shards) != shard {
				t.Errorf("%+v is in shard %d", s, shard)
			}
			seen[row.Key]++
		}
		got.apply(lane.totals, lane.rollups)
	}
	for key, n := range seen {
		if n != 1 {
			t.Errorf("row %x is there %d times", key, n)
		}
	}
	got.mustEqual(t, want)
}

func TestLargeSealBecomesSeveralBatchesOfWhichOnlyTheLastCompletesIt(t *testing.T) {
	const combinations = 2*maxBatchRows + 1
	m := newOpenMap(1_000_000, allDimensions)
	for i := range combinations {
		u := Update{Spend: Dollars(1), Series: Series{APIKey: fmt.Sprint(i), TeamID: "t"}}
		if _, err := m.addUpdate(&u, 0); err != nil {
			t.Fatal(err)
		}
	}
	seal, lanes := sealed(m, newSealer(1, 1_000_000))
	h := testHeader(testProducer(1), 41)
	batches := lanes[0].batches(h, seal+8, testNow)
	if len(batches) != 3 {
		t.Fatalf("%d batches, want 3", len(batches))
	}
	var control Control
	seen := map[Key]bool{}
	for i, b := range batches {
		wantSeal := seal + 8
		if i < 2 {
			wantSeal--
		}
		if b.Sequence != uint64(41+i) || b.Seal != wantSeal || b.Totals > maxBatchRows || b.Rollups > maxBatchRows {
			t.Errorf("batch %d is %+v", i, b.Header)
		}
		rows := mustRows(t, b)
		control.Add(&rows.Control)
		for i := range rows.Totals {
			seen[rows.Totals[i].Key] = true
		}
		for i := range rows.Rollups {
			seen[rows.Rollups[i].Key] = true
		}
	}
	if n := control[0].APIRequests(); n != combinations || control[APIKey] != control[0] || control[Team] != control[0] {
		t.Errorf("the batches together have %+v", control)
	}
	if len(seen) != 2*combinations+1 {
		t.Errorf("the batches together have %d keys; want a series and a key each, and the team", len(seen))
	}
	w := newWindow(0)
	w.next, w.confirmed = 41, 40
	w.add(batches)
	w.confirm(42, testNow)
	if w.committed >= seal+8 {
		t.Error("the seal counts as committed before its last batch is")
	}
	if w.confirm(43, testNow); w.committed != seal+8 {
		t.Error("the seal doesn't count as committed after its last batch is")
	}
}
