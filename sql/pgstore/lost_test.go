package pgstore

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/spendflush/spendflush/spend"
)

var costOne = request{spend.Series{APIKey: "k", TeamID: "t"}, noon, one("1")}

// sequenceOf returns the batches 1 to n of a producer, of one dollar each.
func sequenceOf(p spend.ProducerID, n uint64) (batches []*spend.Batch) {
	for i := range n {
		f := flushOf(p, i+1, i+1, costOne)
		h := spend.Header{
			Books:    testBooks,
			Producer: p, Sequence: i + 1, PriorDigest: digestAt(i), PriorUpdates: int64(i), PriorAmount: spend.Dollars(int64(i)),
		}
		batches = append(batches, spend.NewBatch(h, f.Totals, f.Rollups))
	}
	return batches
}

// skippingGap returns the flush that commits this batch and passes those before it, from the first.
func skippingGap(b *spend.Batch, first uint64) *spend.Flush {
	f := flushOf(b.Producer, first, b.Sequence, costOne)
	f.Claims[0].SealedUpdates, f.Claims[0].SealedAmount = b.PriorUpdates+b.Updates, b.PriorAmount.Add(b.Amount)
	if first < b.Sequence {
		f.Lost = []spend.LostRange{{Producer: b.Producer, First: first, Last: b.Sequence - 1, Reason: "missing"}}
	}
	return f
}

func markOf(t testing.TB, s *Store, p spend.ProducerID) spend.Mark {
	t.Helper()
	marks, err := s.Marks(t.Context(), 0, []spend.ProducerID{p})
	if err != nil {
		t.Fatal(err)
	}
	return marks.Of[p]
}

func wantLost(t testing.TB, s *Store, batches int64, amount string) {
	t.Helper()
	report, err := s.Audit(t.Context())
	if err != nil || !report.OK {
		t.Errorf("audit: %+v, %v", report, err)
	}
	if report.LostBatches != batches || report.LostUpdates != batches || report.LostAmount != dollars(amount) {
		t.Errorf("lost are %d batches, %d updates, %s dollars; want %d and %s",
			report.LostBatches, report.LostUpdates, report.LostAmount, batches, amount)
	}
}

func TestAGapIsSkippedInTheTransactionThatSaysSoAndTheAuditKnowsTheAmount(t *testing.T) {
	s := open(t, database(t), Options{})
	p := newProducer()
	b := sequenceOf(p, 5)
	apply(t, s, flushOf(p, 1, 1, costOne))
	f := skippingGap(b[3], 2)
	// All or nothing: with a claim that is lost, nothing is noted as lost either.
	stale := *f
	stale.Claims = []spend.Claim{f.Claims[0], flushOf(newProducer(), 7, 7, costOne).Claims[0]}
	slices.SortFunc(stale.Claims, func(a, b spend.Claim) int { return a.Producer.Compare(b.Producer) })
	wantFenced(t, s, &stale)
	wantLost(t, s, 0, "0")
	apply(t, s, f)
	wantLost(t, s, 2, "2")
	mark := markOf(t, s, p)
	if mark.Sequence != 4 || !slices.Equal(mark.Lost, []spend.SequenceRange{{First: 2, Last: 3}}) || mark.Updates != 4 || mark.Amount != dollars("4") || mark.Contiguous() != 1 {
		t.Errorf("mark is %+v", mark)
	}
	wantFenced(t, s, f)
}

func TestALostBatchThatTurnsUpIsCountedOnceWhoeverFindsIt(t *testing.T) {
	s := open(t, database(t), Options{MaxConns: 8})
	p := newProducer()
	b := sequenceOf(p, 5)
	apply(t, s, skippingGap(b[3], 1))
	wantLost(t, s, 3, "3")
	stale := markOf(t, s, p)
	var group errgroup.Group
	counted := make([]error, 4)
	for i := range counted {
		group.Go(func() error {
			f, err := b[1].Flush(stale)
			if err != nil {
				return err
			}
			counted[i] = s.Apply(t.Context(), f)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	won := 0
	for _, err := range counted {
		if err == nil {
			won++
		} else if !errors.Is(err, spend.ErrFenced) {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("it was counted %d times", won)
	}
	wantLost(t, s, 2, "2")
	// Together with the next one of the producer.
	next := flushOf(p, 5, 5, costOne, costOne)
	next.Claims[0].Updates, next.Claims[0].Amount = 1, dollars("1")
	next.Claims[0].SealedUpdates, next.Claims[0].SealedAmount = 5, dollars("5")
	next.Found = []spend.FoundBatch{{Producer: p, Sequence: 3, Updates: 1, Amount: dollars("1")}}
	apply(t, s, next)
	wantLost(t, s, 1, "1")
	wantFenced(t, s, next)
	if got := query[string](t, s, "SELECT spend::text FROM spendflush.spend WHERE entity_type = 'team'"); got != "4.000000000000" {
		t.Errorf("spend is %s", got)
	}
}

func TestAQuarantinedBatchThatWasSkippedAsLostIsAppliedAsFound(t *testing.T) {
	s := open(t, database(t), Options{MaxConns: 1})
	p := newProducer()
	b := sequenceOf(p, 2)
	if err := s.Quarantine(t.Context(), []spend.BadBatch{{Reason: "refused by an older program", Bytes: b[0].Bytes()}}); err != nil {
		t.Fatal(err)
	}
	apply(t, s, skippingGap(b[1], 1))
	wantLost(t, s, 1, "1")
	open, err := s.Quarantined(t.Context(), false, 0, 10)
	if err != nil || len(open) != 1 {
		t.Fatalf("%+v, %v", open, err)
	}
	if err := s.ApplyQuarantined(t.Context(), open[0].ID, "a test"); err != nil {
		t.Fatal(err)
	}
	if err := s.ApplyQuarantined(t.Context(), open[0].ID, "a test"); !errors.Is(err, ErrNotQuarantined) {
		t.Errorf("a second time: %v", err)
	}
	wantLost(t, s, 0, "0")
}

func TestMarksCountEveryChangeOfTheShard(t *testing.T) {
	s := open(t, database(t), Options{})
	p := newProducer()
	set := func(f *spend.Flush) *spend.Flush { // all of it is set aside
		f.Totals, f.Rollups, f.Control = nil, nil, spend.Control{}
		f.Claims[0].Updates, f.Claims[0].Amount = 0, spend.Amount{}
		return f
	}
	var want int64
	for name, change := range map[string]func() error{
		"a flush":                          func() error { return s.Apply(t.Context(), flushOf(newProducer(), 1, 1, costOne)) },
		"one that books no update":         func() error { return s.Apply(t.Context(), set(flushOf(newProducer(), 1, 1, costOne))) },
		"a quarantine":                     func() error { return s.Quarantine(t.Context(), []spend.BadBatch{{Reason: "r", Bytes: p[:]}}) },
		"what is in quarantine, once more": func() error { return s.Quarantine(t.Context(), []spend.BadBatch{{Reason: "r", Bytes: p[:]}}) },
	} {
		if err := change(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want++
		marks, err := s.Marks(t.Context(), 0, nil)
		if err != nil || marks.Changes != want || !marks.Horizon.IsZero() {
			t.Errorf("%s: %+v, %v; want %d changes", name, marks, err, want)
		}
	}
	if marks, err := s.Marks(t.Context(), 1, nil); err != nil || marks.Changes != 0 {
		t.Errorf("another shard: %+v, %v", marks, err)
	}
}

// An operator may apply what is in quarantine after a restore and before any instance has looked.
func TestWhatIsAppliedByHandMakesUpForNoChangeThatIsMissing(t *testing.T) {
	s := open(t, database(t), Options{})
	for _, producer := range []spend.ProducerID{newProducer(), bornAgo(40 * 24 * time.Hour)} {
		b := sequenceOf(producer, 1)
		bad := quarantine(t, s, s, b[0].Bytes())
		before, err := s.Marks(t.Context(), 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.ApplyQuarantined(t.Context(), bad.ID, "a test"); err != nil {
			t.Fatal(err)
		}
		after, err := s.Marks(t.Context(), 0, nil)
		if err != nil || after.Changes != before.Changes {
			t.Errorf("%d changes were counted, and are %d now; %v", before.Changes, after.Changes, err)
		}
	}
	wantAudit(t, s)
}

const month = 30 * 24 * time.Hour

// age makes all marks look as if nobody had moved them for that long.
func age(t testing.TB, s *Store, by time.Duration) {
	t.Helper()
	execute(t, s.pool, fmt.Sprintf("BEGIN READ WRITE; SET LOCAL search_path = pg_catalog; UPDATE spendflush.producers SET seen_at = seen_at - interval '%d seconds'; COMMIT",
		int(by.Seconds())))
}

// touch touches the mark of a producer, and of one beside it that has been there for a day: without
// such a one nothing is pruned.
func touch(t testing.TB, s *Store, p spend.ProducerID, want int64) {
	t.Helper()
	touchAt(t, s, p, time.Now(), want)
}

func touchAt(t testing.TB, s *Store, p spend.ProducerID, now time.Time, want int64) {
	t.Helper()
	veteran := newProducer()
	execute(t, s.pool, `INSERT INTO spendflush.producers (producer, shard, first_seen, claimed_from, sequence, claims, updates, seen_at,
			amount, sealed_updates, sealed_amount, prior_digest, digest, recent)
		VALUES ($1, 1, now() - interval '1 day', 1, 0, 1, 0, now(), 0, 0, 0, $2, $2, '')`, [16]byte(veteran), [16]byte{})
	if pruned, err := s.TouchMarks(t.Context(), []spend.ProducerID{p, veteran}, now, month); err != nil || pruned != want {
		t.Errorf("pruned are %d, %v; want %d", pruned, err, want)
	}
	execute(t, s.pool, "DELETE FROM spendflush.producers WHERE producer = $1", [16]byte(veteran))
}

func bornAgo(by time.Duration) spend.ProducerID {
	return spend.NewProducerID(time.Now().Add(-by))
}

func TestIdleMarksAreSummedUpAndTheBooksStillAddUp(t *testing.T) {
	s := open(t, database(t), Options{})
	gone, alsoGone, fresh := bornAgo(40*24*time.Hour), bornAgo(50*24*time.Hour), bornAgo(60*24*time.Hour)
	apply(t, s, flushOf(gone, 1, 1, costOne))
	apply(t, s, skippingGap(sequenceOf(alsoGone, 3)[2], 1)) // with two that are lost
	age(t, s, 31*24*time.Hour)
	apply(t, s, flushOf(fresh, 1, 1, costOne))
	apply(t, s, flushOf(bornAgo(45*24*time.Hour), 1, 1, costOne))
	wantLost(t, s, 2, "2")
	touch(t, s, newProducer(), 2)
	touch(t, s, newProducer(), 0)
	wantLost(t, s, 2, "2")
	marks, err := s.Marks(t.Context(), 0, []spend.ProducerID{gone, alsoGone, fresh})
	if err != nil || len(marks.Of) != 1 || marks.Of[fresh].Sequence != 1 {
		t.Errorf("%+v, %v", marks, err)
	}
	if want := gone.Born().Add(time.Millisecond); !marks.Horizon.Equal(want) { // the younger one of the two
		t.Errorf("the horizon is %s, want %s", marks.Horizon, want)
	}
	if !marks.Pruned(gone) || marks.Pruned(fresh) || marks.Pruned(bornAgo(35*24*time.Hour)) {
		t.Error("it isn't told apart who may have been cleaned up")
	}
	// Once more, onto the same row.
	age(t, s, 31*24*time.Hour)
	touch(t, s, newProducer(), 2)
	wantLost(t, s, 2, "2")
	if n := query[int64](t, s, "SELECT sum(marks)::bigint FROM spendflush.pruned_marks"); n != 4 {
		t.Errorf("%d marks are counted as cleaned up, want 4", n)
	}
	if c, err := s.Counts(t.Context()); err != nil || c.Producers != 0 || c.Updates != 4 {
		t.Errorf("%+v, %v", c, err)
	}
}

// A clock that is ahead makes a producer look young: its mark stays until it is old by Postgres's
// clock.
func TestAMarkOfAProducerThatSeemsYoungIsKept(t *testing.T) {
	s := open(t, database(t), Options{})
	apply(t, s, flushOf(bornAgo(10*24*time.Hour), 1, 1, costOne))
	apply(t, s, flushOf(bornAgo(-24*time.Hour), 1, 1, costOne))
	age(t, s, 31*24*time.Hour)
	touch(t, s, newProducer(), 0)
}

func TestALivingProducerKeepsItsMarkHoweverIdleItIs(t *testing.T) {
	s := open(t, database(t), Options{})
	idle, silent := bornAgo(90*24*time.Hour), bornAgo(80*24*time.Hour) // silent has nothing in the books at all
	apply(t, s, flushOf(idle, 1, 1, costOne))
	for range 4 {
		age(t, s, 20*24*time.Hour)
		touch(t, s, idle, 0)
		touch(t, s, silent, 0)
		touch(t, s, newProducer(), 0)
	}
	wantAudit(t, s)
	marks, err := s.Marks(t.Context(), 0, []spend.ProducerID{idle, silent})
	if err != nil || len(marks.Of) != 2 {
		t.Fatalf("%+v, %v", marks, err)
	}
	apply(t, s, flushOf(idle, 2, 2, costOne))
	apply(t, s, flushOf(silent, 1, 1, costOne))
	wantFenced(t, s, flushOf(silent, 1, 1, costOne))
	wantAudit(t, s)
}

func TestMarksMoveWhileTheyAreCleanedUp(t *testing.T) {
	s := open(t, database(t), Options{MaxConns: 8})
	var producers []spend.ProducerID
	for i := range 20 {
		p := bornAgo(time.Duration(40+i) * 24 * time.Hour)
		producers = append(producers, p)
		apply(t, s, flushOf(p, 1, 1, costOne))
	}
	age(t, s, 31*24*time.Hour)
	var group errgroup.Group
	for range 3 {
		group.Go(func() error {
			_, err := s.TouchMarks(t.Context(), []spend.ProducerID{newProducer()}, time.Now(), month)
			return err
		})
	}
	for _, p := range producers {
		group.Go(func() error {
			if err := s.Apply(t.Context(), flushOf(p, 2, 2, costOne)); err != nil && !errors.Is(err, spend.ErrFenced) {
				return err
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	wantAudit(t, s)
}

func TestABatchOfAPrunedProducerIsAppliedByHandOnce(t *testing.T) {
	s := open(t, database(t), Options{})
	p := bornAgo(40 * 24 * time.Hour)
	apply(t, s, flushOf(p, 1, 1, costOne))
	age(t, s, 31*24*time.Hour)
	touch(t, s, newProducer(), 1)
	b := sequenceOf(p, 2)[1]
	// That it was lost is known, but not that its producer was.
	execute(t, s.pool, "INSERT INTO spendflush.lost_batches (producer, shard, first_sequence, last_sequence, reason) VALUES ($1, 0, 2, 9, 'missing')", [16]byte(p))
	execute(t, s.pool, "UPDATE spendflush.pruned_marks SET sealed_updates = 9, sealed_amount = 9")
	wantLost(t, s, 8, "8")
	for range 2 { // it is sent again
		if err := s.Quarantine(t.Context(), []spend.BadBatch{{Reason: "forgotten", Bytes: b.Bytes()}}); err != nil {
			t.Fatal(err)
		}
	}
	open, err := s.Quarantined(t.Context(), false, 0, 10)
	if err != nil || len(open) != 1 {
		t.Fatalf("%+v, %v", open, err)
	}
	if err := s.ApplyQuarantined(t.Context(), open[0].ID, "a test"); err != nil {
		t.Fatal(err)
	}
	if err := s.ApplyQuarantined(t.Context(), open[0].ID, "a test"); !errors.Is(err, ErrNotQuarantined) {
		t.Errorf("a second time: %v", err)
	}
	if err := s.Quarantine(t.Context(), []spend.BadBatch{{Reason: "forgotten", Bytes: b.Bytes()}}); err != nil {
		t.Fatal(err)
	}
	if open, err := s.Quarantined(t.Context(), false, 0, 10); err != nil || len(open) != 0 {
		t.Errorf("after it was applied it is open again: %+v, %v", open, err)
	}
	wantLost(t, s, 7, "7")
	wantAudit(t, s)
	if got := query[string](t, s, "SELECT spend::text FROM spendflush.spend WHERE entity_type = 'team'"); got != "2.000000000000" {
		t.Errorf("spend is %s", got)
	}
}

func TestAPrunedProducerIsNotTakenForANewOne(t *testing.T) {
	s := open(t, database(t), Options{})
	gone, never := bornAgo(40*24*time.Hour), bornAgo(45*24*time.Hour)
	apply(t, s, flushOf(gone, 1, 1, costOne))
	age(t, s, 31*24*time.Hour)
	touch(t, s, newProducer(), 1)
	// It has been out of touch for all that time, and touches its mark, or its first batch is still
	// on its way.
	for _, p := range []spend.ProducerID{gone, never} {
		touch(t, s, p, 0)
		marks, err := s.Marks(t.Context(), 0, []spend.ProducerID{p})
		if err != nil || !marks.Pruned(p) {
			t.Errorf("%+v, %v", marks, err)
		}
		wantFenced(t, s, flushOf(p, 1, 1, costOne))
	}
	apply(t, s, flushOf(newProducer(), 1, 1, costOne))
	wantAudit(t, s)
}
