// Package journaltest says in tests what a spend.Journal must do.
package journaltest

import (
	"bytes"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// Open opens a journal as the next process does: the one that was opened before has ended. It is
// empty at first.
type Open func(t *testing.T) spend.Journal

// Run runs the suite. make is called for each test and returns how its journal is opened.
func Run(t *testing.T, make func(t *testing.T) Open) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, open Open)
	}{
		{"AnUnusedJournalHasNothingLeft", testUnused},
		{"WhatWasAppendedIsLeftToTheNextProcess", testLeft},
		{"WhatThisProcessAppendsIsNotLeftToItself", testOwn},
		{"BatchesComeBackAsTheyWere", testBytes},
		{"EachProducersBatchesComeInOrder", testOrder},
		{"WhatIsTruncatedIsNotRecovered", testTruncate},
		{"ForgettingGoesByShardAndProducer", testForgetOne},
		{"WhatIsRecoveredStaysUntilItIsTruncated", testStays},
		{"WhatIsNotThereCanBeTruncated", testTruncateUnknown},
		{"AppendingAgainDoesNoHarm", testAgain},
		{"AppendingNothingDoesNothing", testNothing},
		{"ManyMayAppendAtOnce", testConcurrent},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, make(t)) })
	}
}

// chain returns batches of a new producer, whose sequences are from 1 to n.
func chain(shard, n int) (batches []*spend.Batch) {
	now := time.Now()
	h := spend.Header{Shard: shard, Producer: spend.NewProducerID(now), SealedAt: now, Books: spend.BooksID{1}}
	for range n {
		h.Sequence++
		c := spend.Counters{Spend: spend.Dollars(int64(h.Sequence)), SuccessfulRequests: 1}
		b := spend.NewBatch(h, nil, []spend.RollupRow{spend.NewRollupRow(&spend.Series{APIKey: "journaltest"}, 0, c)})
		h.PriorDigest, h.PriorUpdates, h.PriorAmount = b.Digest(), h.PriorUpdates+1, h.PriorAmount.Add(c.Spend)
		batches = append(batches, b)
	}
	return batches
}

func appendTo(t *testing.T, j spend.Journal, batches ...*spend.Batch) {
	t.Helper()
	if err := j.Append(batches); err != nil {
		t.Fatal(err)
	}
}

func truncate(t *testing.T, j spend.Journal, of *spend.Batch, mark uint64) {
	t.Helper()
	if err := j.Truncate(of.Shard, of.Producer, mark); err != nil {
		t.Fatal(err)
	}
}

func recovered(t *testing.T, j spend.Journal) []*spend.Batch {
	t.Helper()
	batches, err := j.Recovered()
	if err != nil {
		t.Fatal(err)
	}
	return batches
}

// mustLeave fails the test if other batches are left than these. Producers may come in any order.
func mustLeave(t *testing.T, j spend.Journal, want ...*spend.Batch) {
	t.Helper()
	got := recovered(t, j)
	same := func(a, b *spend.Batch) int {
		if c := a.Producer.Compare(b.Producer); c != 0 {
			return c
		}
		return a.Shard - b.Shard
	}
	slices.SortStableFunc(got, same)
	want = slices.Clone(want)
	slices.SortStableFunc(want, same)
	if !slices.EqualFunc(got, want, func(a, b *spend.Batch) bool { return bytes.Equal(a.Bytes(), b.Bytes()) }) {
		t.Errorf("%d batches are left, want %d, in their order", len(got), len(want))
	}
}

func testUnused(t *testing.T, open Open) { mustLeave(t, open(t)) }

func testLeft(t *testing.T, open Open) {
	b := chain(0, 3)
	appendTo(t, open(t), b...)
	mustLeave(t, open(t), b...)
	mustLeave(t, open(t), b...) // nor does the next one lose them
}

func testOwn(t *testing.T, open Open) {
	before, own := chain(0, 1), chain(0, 1)
	appendTo(t, open(t), before...)
	j := open(t)
	appendTo(t, j, own...)
	mustLeave(t, j, before...)
}

func testBytes(t *testing.T, open Open) {
	b := chain(3, 1)[0]
	appendTo(t, open(t), b)
	if got := recovered(t, open(t)); len(got) != 1 || got[0].Header != b.Header || got[0].Digest() != b.Digest() {
		t.Errorf("%+v; want %+v", got, b.Header)
	}
}

func testOrder(t *testing.T, open Open) {
	one, two := chain(0, 3), chain(0, 3)
	j := open(t)
	for i := range one {
		appendTo(t, j, one[i], two[i])
	}
	mustLeave(t, open(t), append(one, two...)...)
}

func testTruncate(t *testing.T, open Open) {
	b := chain(0, 3)
	j := open(t)
	appendTo(t, j, b...)
	truncate(t, j, b[0], 2)
	// More may be left than is needed, never less.
	if got := recovered(t, open(t)); len(got) == 0 || !bytes.Equal(got[len(got)-1].Bytes(), b[2].Bytes()) {
		t.Errorf("%d batches are left; want the last one among them", len(got))
	}
	j = open(t)
	truncate(t, j, b[0], 3)
	mustLeave(t, j)
	mustLeave(t, open(t))
}

func testForgetOne(t *testing.T, open Open) {
	one, otherShard, otherProducer := chain(0, 1)[0], chain(1, 1)[0], chain(0, 1)[0]
	appendTo(t, open(t), one, otherShard, otherProducer)
	j := open(t)
	truncate(t, j, one, 1)
	mustLeave(t, j, otherShard, otherProducer)
}

func testStays(t *testing.T, open Open) {
	b := chain(0, 2)
	appendTo(t, open(t), b...)
	j := open(t)
	mustLeave(t, j, b...)
	mustLeave(t, j, b...)
	truncate(t, j, b[0], 1)
	mustLeave(t, j, b[1])
}

func testTruncateUnknown(t *testing.T, open Open) {
	b := chain(0, 1)
	appendTo(t, open(t), b...)
	j := open(t)
	truncate(t, j, chain(7, 1)[0], 99)
	mustLeave(t, j, b...)
}

func testAgain(t *testing.T, open Open) {
	b := chain(0, 1)[0]
	j := open(t)
	appendTo(t, j, b)
	appendTo(t, j, b)
	for _, got := range recovered(t, open(t)) {
		if !bytes.Equal(got.Bytes(), b.Bytes()) {
			t.Errorf("%+v is left", got.Header)
		}
	}
	j = open(t)
	truncate(t, j, b, 1)
	mustLeave(t, j)
}

func testNothing(t *testing.T, open Open) {
	appendTo(t, open(t))
	mustLeave(t, open(t))
}

func testConcurrent(t *testing.T, open Open) {
	const writers, each = 8, 20
	j := open(t)
	var all sync.WaitGroup
	var want []*spend.Batch
	for i := range writers {
		b := chain(i, each)
		want = append(want, b...)
		all.Go(func() {
			for _, b := range b {
				if err := j.Append([]*spend.Batch{b}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	mustLeave(t, open(t), want...)
}
