package pgstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// signedTwin returns the batch as it is with a signature, of a key that nobody looks at here.
func signedTwin(t *testing.T, batch []byte) []byte {
	t.Helper()
	twin := altered(append(append([]byte(nil), batch...), make([]byte, 32)...), func(b []byte) {
		b[3] = 1
		binary.BigEndian.PutUint32(b[8:], uint32(len(b)))
	})
	if _, err := spend.ParseBatch(twin); err != nil {
		t.Fatal(err)
	}
	return twin
}

// besideClaims puts each of the bytes into quarantine as a batch that has no place among the
// claims.
func besideClaims(t *testing.T, s *Store, batches ...[]byte) (ids []int64) {
	t.Helper()
	for _, bytes := range batches {
		err := s.Quarantine(t.Context(), []spend.BadBatch{{Reason: "perhaps booked", Bytes: bytes, Unclaimed: true}})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, query[int64](t, s, "SELECT pg_catalog.max(id) FROM spendflush.quarantine"))
	}
	return ids
}

// chainOf returns the batches 1 to n of a producer, of one dollar each, each of which goes on from
// the one before.
func chainOf(p spend.ProducerID, n uint64) (batches []*spend.Batch) {
	var prior spend.Digest
	for i := range n {
		f := flushOf(p, i+1, i+1, costOne)
		batches = append(batches, spend.NewBatch(spend.Header{
			Books: testBooks, Producer: p, Sequence: i + 1, PriorDigest: prior, PriorUpdates: int64(i), PriorAmount: spend.Dollars(int64(i)),
		}, f.Totals, f.Rollups))
		prior = batches[i].Digest()
	}
	return batches
}

func wantRequests(t *testing.T, s *Store, want int) {
	t.Helper()
	if got := query[int](t, s, "SELECT coalesce(sum(successful_requests), 0) FROM spendflush.rollup"); got != want {
		t.Errorf("%d requests are booked, want %d", got, want)
	}
	wantAudit(t, s)
}

func TestABatchThatLiesInQuarantineTwiceIsAppliedByHandOnce(t *testing.T) {
	for name, place := range map[string]func(t *testing.T, s *Store, b *spend.Batch){
		"of a forgotten producer": func(t *testing.T, s *Store, b *spend.Batch) {
			execute(t, s.pool, "INSERT INTO spendflush.pruned_marks VALUES (0, 0, now(), 0, 0, 0, 0)")
		},
		"of another chain": func(t *testing.T, s *Store, b *spend.Batch) {
			apply(t, s, flushOf(b.Producer, 1, 1, costOne))
		},
		"by a claim": func(*testing.T, *Store, *spend.Batch) {},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, database(t), Options{MaxConns: 4})
			b := chainOf(newProducer(), 1)[0]
			place(t, s, b)
			before := query[int](t, s, "SELECT coalesce(sum(successful_requests), 0) FROM spendflush.rollup")
			ids := besideClaims(t, s, b.Bytes(), signedTwin(t, b.Bytes()))
			if ids[0] == ids[1] {
				t.Fatal("it lies there once")
			}
			var group sync.WaitGroup
			errs := make([]error, len(ids))
			for i, id := range ids {
				group.Go(func() { errs[i] = s.ApplyQuarantined(t.Context(), id, "a test") })
			}
			group.Wait()
			late := errors.Join(errs...)
			if (errs[0] == nil) == (errs[1] == nil) || !errors.Is(late, ErrByHand) && !errors.Is(late, spend.ErrFenced) {
				t.Fatalf("both at once: %v, %v", errs[0], errs[1])
			}
			done := ids[0]
			for i, id := range ids {
				if errs[i] == nil {
					done = id
				}
			}
			for i, id := range ids {
				if errs[i] == nil {
					continue
				}
				err := s.ApplyQuarantined(t.Context(), id, "a test")
				if !errors.Is(err, ErrByHand) || !strings.Contains(err.Error(), entryText(done)) {
					t.Errorf("again: %v, want it to name entry %d", err, done)
				}
			}
			wantRequests(t, s, before+1)
		})
	}
}

func TestABatchThatTheFlusherHasBookedIsNotAppliedByHandBesideIt(t *testing.T) {
	s := open(t, database(t), Options{})
	p := newProducer()
	batches := chainOf(p, 3)
	ids := besideClaims(t, s, batches[0].Bytes(), batches[1].Bytes(), batches[2].Bytes())
	for i, b := range batches[:2] {
		f, err := b.Flush(markOf(t, s, p))
		if err != nil {
			t.Fatal(err)
		}
		apply(t, s, f)
		if err := s.ApplyQuarantined(t.Context(), ids[i], "a test"); !errors.Is(err, spend.ErrApplied) {
			t.Errorf("batch %d: %v", i+1, err)
		}
	}
	// The next one has its place, whatever is said of it: the flusher drops what comes later.
	if err := s.ApplyQuarantined(t.Context(), ids[2], "a test"); err != nil {
		t.Fatal(err)
	}
	if mark := markOf(t, s, p); mark.Sequence != 3 || mark.Digest != batches[2].Digest() {
		t.Errorf("the mark is %+v", mark)
	}
	wantRequests(t, s, 3)
}

func TestABatchThatWasAppliedByHandIsNotBookedAgainByTheFlusherThatMeetsIt(t *testing.T) {
	s := open(t, database(t), Options{})
	p := newProducer()
	batches := chainOf(p, 4)
	apply(t, s, flushOf(p, 1, 1, costOne)) // another process with the same memory has the first place
	ids := besideClaims(t, s, batches[1].Bytes(), batches[3].Bytes())
	for _, id := range ids {
		if err := s.ApplyQuarantined(t.Context(), id, "a test"); err != nil {
			t.Fatal(err)
		}
	}
	mark := markOf(t, s, p)
	if len(mark.ByHand) != 2 {
		t.Fatalf("the mark is %+v", mark)
	}

	// A flusher that doesn't know of it passes the gap. All of that is undone.
	past := skippingGap(batches[3], 2)
	past.Claims[0].Prior, past.Claims[0].SealedUpdates = mark.Digest, 4
	past.Claims[0].Recent = append(append(spend.Recent{}, make([]byte, 8)...), append(prefix(batches[2]), prefix(batches[3])...)...)
	wantFenced(t, s, past)

	// One that does claims it without its sums, and then the one before it.
	covering := skippingGap(batches[3], 2)
	covering.Claims[0].Prior, covering.Claims[0].Recent = mark.Digest, past.Claims[0].Recent
	covering.Totals, covering.Rollups, covering.Control = nil, nil, spend.Control{}
	covering.ByHand = []spend.ByHandBatch{{Producer: p, Sequence: 4, Digest: batches[3].Digest()}}
	apply(t, s, covering)
	wantRequests(t, s, 3)
	wantLost(t, s, 2, "2")

	found := spend.FoundBatch{
		Producer: p, Sequence: 2, Digest: batches[1].Digest(), PriorDigest: batches[1].PriorDigest, Updates: 1, Amount: dollars("1"),
	}
	again, err := batches[1].Alone()
	if err != nil {
		t.Fatal(err)
	}
	again.Found = []spend.FoundBatch{found}
	wantFenced(t, s, again)
	apply(t, s, &spend.Flush{
		Books: testBooks, Found: []spend.FoundBatch{found},
		ByHand: []spend.ByHandBatch{{Producer: p, Sequence: 2, Digest: batches[1].Digest()}},
	})
	if mark := markOf(t, s, p); !mark.Has(2) || mark.Has(3) || !mark.Has(4) || len(mark.ByHand) != 0 {
		t.Errorf("the mark is %+v", mark)
	}
	wantLost(t, s, 1, "1")
	wantRequests(t, s, 3)
}

func prefix(b *spend.Batch) []byte {
	d := b.Digest()
	return d[:4]
}

func TestWhatWasAppliedByHandIsKnownAfterItsEntryIsGone(t *testing.T) {
	s := open(t, database(t), Options{})
	b := chainOf(bornAgo(40*24*time.Hour), 1)[0]
	execute(t, s.pool, "INSERT INTO spendflush.pruned_marks VALUES (0, 0, now(), 0, 0, 0, 0)")
	first := besideClaims(t, s, b.Bytes())[0]
	if err := s.ApplyQuarantined(t.Context(), first, "a test"); err != nil {
		t.Fatal(err)
	}
	execute(t, s.pool, "DELETE FROM spendflush.quarantine")
	second := besideClaims(t, s, b.Bytes())[0]
	if err := s.ApplyQuarantined(t.Context(), second, "a test"); !errors.Is(err, ErrByHand) || !strings.Contains(err.Error(), entryText(first)) {
		t.Errorf("%v", err)
	}
	if q, err := s.QuarantinedEntry(t.Context(), second); err != nil || q.State != "open" {
		t.Errorf("%+v, %v", q, err)
	}
	wantRequests(t, s, 1)
}

func entryText(id int64) string { return fmt.Sprintf("as entry %d,", id) }
