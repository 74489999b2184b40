package spendflush

import (
	"math/rand/v2"
	"testing"

	"github.com/spendflush/spendflush/spend"
)

func TestMergedRowsDontDependOnSplitOrderOrRepetition(t *testing.T) {
	r := newRand(t)
	for range 15 {
		updates := make([]spend.Update, 1+r.IntN(300))
		want := newBooks()
		for i := range updates {
			updates[i] = randomUpdate(r)
			want.book(&updates[i], 0)
		}
		var first *spend.Flush
		for range 4 {
			f := flushOf(t, r, updates)
			got := newBooks()
			got.apply(f.Totals, f.Rollups)
			got.mustEqual(t, want)
			if first == nil {
				first = f
			}
			if !sameRows(first.Totals, f.Totals, first.Rollups, f.Rollups) || first.Control != f.Control {
				t.Fatal("another split makes other rows")
			}
		}
	}
}

// flushOf splits the updates into batches of several producers at random, offers these in any
// order, some of them more than once, and returns the one flush that comes of it.
func flushOf(t *testing.T, r *rand.Rand, updates []spend.Update) *spend.Flush {
	t.Helper()
	r.Shuffle(len(updates), func(i, j int) { updates[i], updates[j] = updates[j], updates[i] })
	var batches []*spend.Batch
	next := map[int]spend.Header{}
	for rest := updates; len(rest) > 0; {
		n, producer := 1+r.IntN(len(rest)), r.IntN(4)
		h := next[producer]
		h.Producer, h.Books = testProducer(producer), testBooks
		h.Sequence++
		rows := sealUpdates(t, rest[:n], 0)
		b := spend.NewBatch(h, rows.totals, rows.rollups)
		batches = append(batches, b)
		h.PriorUpdates, h.PriorAmount, h.PriorDigest = h.PriorUpdates+b.Updates, h.PriorAmount.Add(b.Amount), b.Digest()
		next[producer] = h
		rest = rest[n:]
	}
	for range r.IntN(3) {
		batches = append(batches, batches[r.IntN(len(batches))])
	}
	r.Shuffle(len(batches), func(i, j int) { batches[i], batches[j] = batches[j], batches[i] })
	f := offered(t, nil, batches...).next()
	if err := checkFlush(f); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestMergeAddsUpAnyNumberOfRuns(t *testing.T) {
	empty := merger[spend.TotalRow]{kind: totalRows}
	if got := empty.rows(); got != nil {
		t.Fatalf("no runs make %d rows", len(got))
	}
	row := func(key byte, n int64) spend.TotalRow {
		return spend.TotalRow{Key: spend.Key{key}, Counters: spend.Counters{SuccessfulRequests: n}}
	}
	for n := 1; n <= 9; n++ {
		var runs [][]spend.TotalRow
		for i := range n {
			runs = append(runs, []spend.TotalRow{row(0, 1), row(byte(1+i), 10)})
		}
		m := merger[spend.TotalRow]{kind: totalRows}
		for _, run := range append(runs, nil) {
			m.add(run)
		}
		got := m.rows()
		if len(got) != n+1 || got[0] != row(0, int64(n)) || got[n] != row(byte(n), 10) {
			t.Errorf("%d runs make %v", n, got)
		}
	}
}

func TestMergeHoldsLittleMoreThanTheDistinctRows(t *testing.T) {
	const distinct = 1000
	run := func() []spend.TotalRow {
		rows := make([]spend.TotalRow, distinct)
		for i := range rows {
			rows[i] = spend.TotalRow{Key: spend.Key{byte(i >> 8), byte(i)}, Counters: spend.Counters{SuccessfulRequests: 1}}
		}
		return rows
	}
	m := merger[spend.TotalRow]{kind: totalRows}
	for n := range 100 {
		m.add(run())
		held := 0
		for _, r := range m.runs {
			held += len(r.rows)
		}
		if held > 2*distinct {
			t.Fatalf("after %d runs of the same %d rows, %d are held", n+1, distinct, held)
		}
	}
	got := m.rows()
	if len(got) != distinct || got[7].Counters.SuccessfulRequests != 100 {
		t.Fatalf("%d rows, the eighth %+v", len(got), got[7])
	}
}
