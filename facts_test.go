package spendflush

import (
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// factsOf is a batch of facts of a producer of its own, of one update of a dollar under each of the
// ids from first on.
func factsOf(number, first, n int) *spend.Batch {
	series := spend.Series{APIKey: "key"}
	canonical := spend.CanonicalSeries(series.AppendCanonical(nil, spend.AllDimensions))
	now := time.Now()
	part := spend.FactPart{
		Series: canonical, Key: canonical.Key(), Hour: spend.HourOf(now),
		Counters: spend.Counters{Spend: spend.Dollars(1), SuccessfulRequests: 1},
	}

	var facts spend.FactBatch
	for i := range n {
		facts.Add(spend.NewFactID(spend.UpdateFact, strconv.Itoa(first+i)), 1, true, part)
	}
	return facts.Seal(&spend.BatchKeys{}, spend.Header{
		Producer: testProducers(number)[number-1], Sequence: 1, SealedAt: now, Books: testBooks,
	})
}

func TestWhatHasAnIDInBatchesOfTwoProducersCountsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, 1, &faults{})
		r.queue.Insert(0, factsOf(1, 1, 3).Bytes())
		r.queue.Insert(0, factsOf(2, 2, 3).Bytes())
		if err := r.DrainQueue(t.Context()); err != nil {
			t.Fatal(err)
		}
		if total := r.store.Total(spend.Entity{Type: spend.APIKey, ID: "key"}); total.SuccessfulRequests != 4 {
			t.Errorf("%d updates are booked, want 4", total.SuccessfulRequests)
		}
	})
}

// An id is a row of Postgres as any other.
func TestIDsCountForTheSizeOfAFlush(t *testing.T) {
	plan := newPlan(0)
	plan.books, plan.limit.rows = testBooks, 100
	for number := range 4 {
		plan.addEntry(spend.Entry{Bytes: factsOf(number+1, 1, 60).Bytes()})
	}
	plan.learn(plan.unknown(), spend.Marks{})
	if f := plan.next(); len(f.Claims) != 2 || len(f.Facts) != 2 {
		t.Errorf("a flush of 100 rows has %d batches of 60 ids, and hands on the ids of %d; want 2", len(f.Claims), len(f.Facts))
	}
}
