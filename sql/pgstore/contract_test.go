package pgstore

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/spendflush/spendflush/spend"
)

// A process that was cloned, or put back, has another batch under a sequence that Postgres has.
func TestAClaimThatGoesOnFromAnotherBatchIsFencedAndWritesNothing(t *testing.T) {
	s := open(t, database(t), Options{})
	p := newProducer()
	apply(t, s, flushOf(p, 1, 1, costOne))
	other := flushOf(p, 2, 2, costOne)
	other.Claims[0].Prior = spend.Digest{0: 0xff}
	wantFenced(t, s, other)
	apply(t, s, flushOf(p, 2, 2, costOne))
	if mark := markOf(t, s, p); mark.Digest != digestAt(2) {
		t.Errorf("the mark has the digest %x", mark.Digest)
	}
	wantAudit(t, s)
}

func TestABatchIsSetAsideOnlyIfItsClaimIsCommitted(t *testing.T) {
	s := open(t, database(t), Options{})
	p := newProducer()
	batches := sequenceOf(p, 2)
	f := flushOf(p, 1, 2, costOne)
	f.Claims[0].SealedUpdates, f.Claims[0].SealedAmount = 2, dollars("2")
	f.Lost = []spend.LostRange{{Producer: p, First: 1, Last: 1, Reason: "refused", Quarantined: true}}
	f.Quarantine = []spend.BadBatch{{Reason: "refused", Bytes: batches[0].Bytes()}}
	stale := *f
	stale.Claims = []spend.Claim{f.Claims[0]}
	stale.Claims[0].First = 2
	stale.Lost = f.Lost
	wantFenced(t, s, &stale)
	if n := query[int](t, s, "SELECT (SELECT count(*) FROM spendflush.quarantine) + (SELECT count(*) FROM spendflush.lost_batches)"); n != 0 {
		t.Errorf("%d rows are left of a flush that lost its claim", n)
	}

	apply(t, s, f)
	mark := markOf(t, s, p)
	if mark.Sequence != 2 || mark.Has(1) || !mark.HasQuarantined(1) || mark.Updates != 2 {
		t.Errorf("the mark is %+v", mark)
	}
	wantAudit(t, s)
	open, err := s.Quarantined(t.Context(), false, 0, 10)
	if err != nil || len(open) != 1 || open[0].Updates != 1 {
		t.Fatalf("%+v, %v", open, err)
	}
	if err := s.ApplyQuarantined(t.Context(), open[0].ID, "a test"); err != nil {
		t.Fatal(err)
	}
	if mark := markOf(t, s, p); !mark.Has(1) || mark.HasQuarantined(1) {
		t.Errorf("after it was applied the mark is %+v", mark)
	}
	wantAudit(t, s)
}

// It was skipped as lost, turned up, and can't be booked.
func TestALostBatchIsFoundAndSetAsideInOneTransaction(t *testing.T) {
	s := open(t, database(t), Options{})
	p := newProducer()
	batches := sequenceOf(p, 4)
	apply(t, s, skippingGap(batches[3], 1))
	f := &spend.Flush{
		Books:      testBooks,
		Found:      []spend.FoundBatch{{Producer: p, Sequence: 2}},
		Lost:       []spend.LostRange{{Producer: p, First: 2, Last: 2, Reason: "refused", Quarantined: true}},
		Quarantine: []spend.BadBatch{{Reason: "refused", Bytes: batches[1].Bytes()}},
	}
	stale := *f
	stale.Found = []spend.FoundBatch{f.Found[0], {Producer: p, Sequence: 4}} // the fourth isn't missing
	wantFenced(t, s, &stale)
	if mark := markOf(t, s, p); len(mark.Quarantined) != 0 {
		t.Errorf("a flush that was fenced has set it aside: %+v", mark)
	}

	for range 2 { // as it is after a reply that was lost
		apply(t, s, f)
		if mark := markOf(t, s, p); !slices.Equal(mark.Lost, []spend.SequenceRange{{First: 1, Last: 3}}) || !slices.Equal(mark.Quarantined, []uint64{2}) {
			t.Errorf("the mark is %+v", mark)
		}
		wantLost(t, s, 2, "2")
	}
	open, err := s.Quarantined(t.Context(), false, 0, 10)
	if err != nil || len(open) != 1 || open[0].Sequence != 2 {
		t.Fatalf("%+v, %v", open, err)
	}
	if err := s.ApplyQuarantined(t.Context(), open[0].ID, "a test"); err != nil {
		t.Fatal(err)
	}
	if mark := markOf(t, s, p); !mark.Has(2) || len(mark.Quarantined) != 0 {
		t.Errorf("after it was applied the mark is %+v", mark)
	}
	wantLost(t, s, 2, "2")
}

// It was found, so that another one for the same place is none.
func TestAMarkKnowsTheDigestOfWhatWasFound(t *testing.T) {
	s := open(t, database(t), Options{})
	p := newProducer()
	b := sequenceOf(p, 6)
	f := skippingGap(b[5], 1)
	f.Claims[0].Recent = slices.Concat(make(spend.Recent, 4*4), spend.Recent{0xff, 1, 2, 3})
	apply(t, s, f) // it knows of the last five
	digest := func(n byte) spend.Digest { return spend.Digest{n, n, n, n, 9} }
	apply(t, s, &spend.Flush{
		Books: testBooks,
		Found: []spend.FoundBatch{{Producer: p, Sequence: 1, Digest: digest(1)}, {Producer: p, Sequence: 3, Digest: digest(3)}, {Producer: p, Sequence: 5, Digest: digest(5), PriorDigest: digest(4)}},
		Lost: []spend.LostRange{
			{Producer: p, First: 1, Last: 1, Reason: "refused", Quarantined: true}, {Producer: p, First: 3, Last: 3, Reason: "refused", Quarantined: true},
			{Producer: p, First: 5, Last: 5, Reason: "refused", Quarantined: true},
		},
		Quarantine: []spend.BadBatch{{Bytes: b[0].Bytes()}, {Bytes: b[2].Bytes()}, {Bytes: b[4].Bytes()}},
	})
	want := spend.Recent{0, 0, 0, 0, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0xff, 1, 2, 3}
	if mark := markOf(t, s, p); !slices.Equal(mark.Recent, want) {
		t.Errorf("the mark knows % x, want % x", mark.Recent, want)
	}
}

func TestAuditTellsOfACloneThatWasMovedOverAGap(t *testing.T) {
	s := open(t, database(t), Options{})
	p := newProducer()
	b := sequenceOf(p, 3)
	apply(t, s, skippingGap(b[2], 1))
	told := func() bool {
		report, err := s.Audit(t.Context())
		if err != nil || !report.OK {
			t.Fatalf("%+v, %v", report, err)
		}
		return strings.Contains(fmt.Sprint(report.Checks), "1 producers were cloned or put back, and passed over gaps")
	}
	if told() {
		t.Error("before it is known that it was cloned")
	}
	err := s.Quarantine(t.Context(), []spend.BadBatch{{Reason: "another", Bytes: b[0].Bytes(), Unclaimed: true}})
	if err != nil {
		t.Fatal(err)
	}
	if !told() {
		t.Error("nothing is said of it")
	}
}

// The batch of a clone lies in quarantine. That says nothing of the one that was passed in the same
// place: its producer would let go of it.
func TestAnUnclaimedBatchInQuarantineIsNotTheLostOneInItsPlace(t *testing.T) {
	for _, last := range []uint64{1, 2} { // it would be all of what is lost there, or a part
		s := open(t, database(t), Options{})
		p := newProducer()
		batches := sequenceOf(p, last+1)
		apply(t, s, skippingGap(batches[last], 1))
		err := s.Quarantine(t.Context(), []spend.BadBatch{{Reason: "another", Bytes: batches[0].Bytes(), Unclaimed: true}})
		if err != nil {
			t.Fatal(err)
		}
		if mark := markOf(t, s, p); !slices.Equal(mark.Lost, []spend.SequenceRange{{First: 1, Last: last}}) || len(mark.Quarantined) != 0 {
			t.Errorf("%d lost: the mark is %+v", last, mark)
		}
		wantLost(t, s, int64(last), fmt.Sprint(last))
		if last == 1 {
			continue
		}
		if err := s.Quarantine(t.Context(), []spend.BadBatch{{Reason: "refused", Bytes: batches[1].Bytes()}}); err != nil {
			t.Fatal(err)
		}
		if mark := markOf(t, s, p); !slices.Equal(mark.Quarantined, []uint64{2}) {
			t.Errorf("the mark is %+v", mark)
		}
		wantAudit(t, s)
	}
}

func TestABatchWhosePlaceAnotherOneHasIsBookedByHandBesideIt(t *testing.T) {
	for name, unclaimed := range map[string]bool{"known to be another": true, "told by its digest": false} {
		s := open(t, database(t), Options{})
		p := newProducer()
		// Two processes with the same memory have sealed a batch each.
		header := spend.Header{Books: testBooks, Producer: p, Sequence: 1}
		one, other := flushOf(p, 1, 1, costOne), flushOf(newProducer(), 1, 1, request{spend.Series{APIKey: "other"}, noon, one("5")})
		booked, second := spend.NewBatch(header, one.Totals, one.Rollups), spend.NewBatch(header, other.Totals, other.Rollups)
		f, err := booked.Flush(spend.Mark{})
		if err != nil {
			t.Fatal(err)
		}
		apply(t, s, f)
		err = s.Quarantine(t.Context(), []spend.BadBatch{
			{Reason: "another", Bytes: second.Bytes(), Unclaimed: unclaimed}, {Reason: "the same", Bytes: booked.Bytes()},
		})
		if err != nil {
			t.Fatal(err)
		}
		open, err := s.Quarantined(t.Context(), false, 0, 10)
		if err != nil || len(open) != 2 {
			t.Fatalf("%+v, %v", open, err)
		}
		if err := s.ApplyQuarantined(t.Context(), open[1].ID, "a test"); !errors.Is(err, spend.ErrApplied) {
			t.Errorf("%s: the one that is booked: %v", name, err)
		}
		if err := s.ApplyQuarantined(t.Context(), open[0].ID, "a test"); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := s.ApplyQuarantined(t.Context(), open[0].ID, "a test"); !errors.Is(err, ErrNotQuarantined) {
			t.Errorf("%s: a second time: %v", name, err)
		}
		if got := query[string](t, s, "SELECT sum(spend)::text FROM spendflush.rollup"); got != "6.000000000000" {
			t.Errorf("%s: spend is %s", name, got)
		}
		if mark := markOf(t, s, p); mark.Sequence != 1 || mark.Digest != booked.Digest() {
			t.Errorf("%s: the mark is %+v", name, mark)
		}
		if marks, err := s.Marks(t.Context(), 0, nil); err != nil || !marks.Horizon.IsZero() {
			t.Errorf("%s: the horizon is %s, %v", name, marks.Horizon, err)
		}
		wantAudit(t, s)
	}
}

func TestShardsHaveTotalsOfTheirOwnForAnEntity(t *testing.T) {
	s := open(t, database(t), Options{})
	for shard := range 3 {
		for n := range uint64(2) { // fresh, and known
			f := flushOf(newProducer(), 1, 1, costOne)
			f.Shard = shard
			apply(t, s, f)
			if got := s.Stats(); got.Relearned != 0 {
				t.Fatalf("shard %d, flush %d: %+v", shard, n, got)
			}
		}
	}
	if n := query[int](t, s, "SELECT count(*) FROM spendflush.total WHERE spend = 2"); n != 6 {
		t.Errorf("%d totals of two dollars, want one for each of two entities and three shards", n)
	}
	wantAudit(t, s)
}

// A control sum is over all tenants of a shard. It has room where each row of it has.
func TestSumsOverAllTenantsHaveRoomWhereEachRowHas(t *testing.T) {
	s := open(t, database(t), Options{})
	full := func(key string) request {
		return request{spend.Series{APIKey: key}, noon, spend.Counters{
			Spend: dollars("99999999999999999999999999"), SuccessfulRequests: 1, PromptTokens: math.MaxInt64, CompletionTokens: math.MaxInt64,
		}}
	}
	for _, key := range []string{"a", "b", "c"} {
		apply(t, s, flushOf(newProducer(), 1, 1, full(key)))
	}
	if n := query[int](t, s, "SELECT count(*) FROM spendflush.quarantine"); n != 0 {
		t.Errorf("%d rows are set aside", n)
	}
	wantAudit(t, s)
	// A row that has no room for more is set aside alone.
	apply(t, s, flushOf(newProducer(), 1, 1, request{spend.Series{APIKey: "a"}, noon, one("1")}, costOne))
	if n := query[int](t, s, "SELECT count(*) FROM spendflush.quarantine"); n != 2 {
		t.Errorf("%d rows are set aside, want a total and a rollup row", n)
	}
	if got := query[string](t, s, "SELECT spend::text FROM spendflush.spend WHERE entity_id = 't'"); got != "1.000000000000" {
		t.Errorf("the other one's spend is %s", got)
	}
}
