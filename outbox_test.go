package spendflush

import (
	"slices"
	"testing"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// testOutbox returns an outbox with the first n batches of producer 1, each of a seal of its own.
func testOutbox(t *testing.T, n uint64, retain time.Duration) *outbox {
	t.Helper()
	o := newOutbox(testProducer(1), retain)
	for _, b := range chained(t, 1, n) {
		o.add([]*spend.Batch{b}, b.Sequence, testNow)
	}
	return o
}

func sequences(batches []*outgoing) (list []uint64) {
	for _, b := range batches {
		list = append(list, b.Sequence)
	}
	return list
}

func mustPush(t *testing.T, o *outbox, want uint64) *outgoing {
	t.Helper()
	b := o.toPush()
	if b == nil || b.Sequence != want {
		t.Fatalf("to push is %v, want sequence %d", b, want)
	}
	return b
}

func TestOutboxRepeatsABatchUntilItIsKnownToBeQueued(t *testing.T) {
	o := testOutbox(t, 3, 0)
	first := mustPush(t, o, 1)
	if again := mustPush(t, o, 1); again != first {
		t.Fatal("after an unknown outcome another batch is pushed")
	}
	o.atQueue(first, "e1")
	second := mustPush(t, o, 2)
	o.atQueue(first, "e1") // a late reply
	mustPush(t, o, 2)
	o.atQueue(second, "e2")
	o.atQueue(mustPush(t, o, 3), "e3")
	if b := o.toPush(); b != nil {
		t.Fatalf("all are queued, but %d is to be pushed", b.Sequence)
	}
	for seal := uint64(1); seal <= 3; seal++ {
		if stage := o.reached(seal); stage != Queued {
			t.Errorf("seal %d is %s", seal, stage)
		}
	}
	if stage := o.reached(4); stage != Accepted {
		t.Errorf("what isn't sealed yet is %s", stage)
	}
}

func TestOutboxDropsWhatIsConfirmedAndNothingElse(t *testing.T) {
	o := testOutbox(t, 3, 0)
	if taken := o.confirm(spend.Mark{}, testNow); taken.confirmed != 0 || len(o.batches) != 3 {
		t.Fatalf("a mark at 0 confirms %d batches", taken.confirmed)
	}
	o.atQueue(mustPush(t, o, 1), "e1")
	second := mustPush(t, o, 2)
	if taken := o.confirm(testMark(t, 1, 2), testNow); taken.confirmed != 2 || o.reached(2) != Committed || o.reached(3) != Accepted {
		t.Fatalf("mark 2 confirms %d: seal 2 is %s, seal 3 %s", taken.confirmed, o.reached(2), o.reached(3))
	}
	o.atQueue(second, "e2") // the reply of a push that was confirmed meanwhile
	mustPush(t, o, 3)
	if taken := o.confirm(testMark(t, 1, 1), testNow); taken.confirmed != 0 || o.confirmed != 2 {
		t.Fatalf("an older mark moves the outbox back to %d", o.confirmed)
	}
	if taken := o.confirm(testMark(t, 1, 3), testNow); taken.confirmed != 1 || o.bytes() != 0 || !o.oldest().IsZero() {
		t.Fatalf("mark 3 confirms %d: %+v", taken.confirmed, o)
	}
	o.add(chained(t, 1, 4)[3:], 4, testNow)
	mustPush(t, o, 4)
}

// One batch that is lost, refused or in quarantine holds up no other one.
func TestOutboxConfirmsEachBatchByItself(t *testing.T) {
	o := testOutbox(t, 6, 0)
	for n := uint64(1); n <= 5; n++ {
		o.atQueue(mustPush(t, o, n), "e")
	}
	mark := testMark(t, 1, 5, 2, 4)
	mark.Quarantined = []uint64{4}
	taken := o.confirm(mark, testNow)
	if taken.confirmed != 3 || !slices.Equal(sequences(taken.quarantined), []uint64{4}) || !slices.Equal(sequences(o.batches), []uint64{2, 6}) {
		t.Fatalf("%d confirmed, %v in quarantine, %v left", taken.confirmed, sequences(taken.quarantined), sequences(o.batches))
	}
	for seal, want := range map[uint64]Stage{1: Committed, 2: Accepted, 3: Committed, 4: Queued, 5: Committed, 6: Accepted} {
		if got := o.reached(seal); got != want {
			t.Errorf("seal %d is %s, want %s", seal, got, want)
		}
	}
	b := mustPush(t, o, 2) // once more, and not under its old entry
	if b.entry != "" {
		t.Errorf("the lost batch is pushed under %q", b.entry)
	}
	o.atQueue(b, "again")
	if o.confirm(mark, testNow); o.toPush().Sequence != 6 {
		t.Error("the lost batch is pushed a third time")
	}
	if taken := o.confirm(spend.Mark{Sequence: 5, Digest: mark.Digest, Lost: []spend.SequenceRange{{First: 4, Last: 4}}, Quarantined: []uint64{4}}, testNow); taken.confirmed != 1 {
		t.Errorf("%d confirmed after it was found", taken.confirmed)
	}
}

func TestOutboxInDoubtPushesAllAgainUnderTheirEntries(t *testing.T) {
	o := testOutbox(t, 2, 0)
	o.atQueue(mustPush(t, o, 1), "e1")
	o.atQueue(mustPush(t, o, 2), "e2")
	o.resetPushed()
	if stage := o.reached(2); stage != Queued {
		t.Errorf("a batch in doubt is %s: what was said once is taken back", stage)
	}
	if o.atRisk() != 2 {
		t.Errorf("%d batches in doubt are exposed, want 2", o.atRisk())
	}
	b := mustPush(t, o, 1)
	if b.entry != "e1" {
		t.Fatalf("batch 1 is pushed again without its entry: %q", b.entry)
	}
	if !o.atQueue(b, "e7") {
		t.Error("it isn't noticed that its entry is gone")
	}
	b = mustPush(t, o, 2)
	if b.entry != "e2" {
		t.Fatalf("batch 2 is pushed again without its entry: %q", b.entry)
	}
	if o.atQueue(b, "e2") {
		t.Error("an entry that is there is taken for gone")
	}
	o.resetPushed()
	if b := mustPush(t, o, 1); b.entry != "e7" {
		t.Fatalf("batch 1 keeps the entry %q that the queue lost", b.entry)
	}
}

func TestOutboxRefusesWhatDoesNotGoOnFromItsLastBatch(t *testing.T) {
	b := chained(t, 1, 2)
	h := b[1].Header
	h.PriorDigest = spend.Digest{1}
	for what, batches := range map[string][]*spend.Batch{
		"a sequence left out": b[1:], "another producer": chained(t, 2, 1), "another chain": {b[0], spend.NewBatch(h, nil, nil)},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s was taken", what)
				}
			}()
			newOutbox(testProducer(1), 0).add(batches, 1, testNow)
		}()
	}
}

// A mark that doesn't belong to the chain says that another process has the same memory.
func TestOutboxKnowsAMarkOfAnotherChain(t *testing.T) {
	o := testOutbox(t, 4, 0)
	o.confirm(testMark(t, 1, 2), testNow)
	other := func(m spend.Mark) spend.Mark {
		m.Digest[0]++
		return m
	}
	more := testMark(t, 1, 1)
	more.Updates = o.batches[0].PriorUpdates
	for what, c := range map[string]struct {
		mark spend.Mark
		want bool
	}{
		"long gone, and no update can be between": {more, false},
		"nothing": {spend.Mark{}, true}, "the last one": {testMark(t, 1, 4), true}, "one on its way": {testMark(t, 1, 3), true},
		"the last confirmed": {testMark(t, 1, 2), true}, "long gone": {testMark(t, 1, 1), true}, "beyond": {testMark(t, 1, 5), false},
		"another last one": {other(testMark(t, 1, 4)), false}, "another on its way": {other(testMark(t, 1, 3)), false},
		"another last confirmed": {other(testMark(t, 1, 2)), false},
	} {
		if got := o.follows(c.mark); got != c.want {
			t.Errorf("%s: follows %t", what, got)
		}
	}
}

// The batch before isn't here any more, and so can't be compared.
func TestOutboxKnowsAMarkThatItsNextBatchDoesNotGoOnFrom(t *testing.T) {
	o := testOutbox(t, 3, time.Minute)
	o.confirm(testMark(t, 1, 1), testNow)
	o.confirm(testMark(t, 1, 3), testNow.Add(time.Minute))
	o.expire(testNow.Add(time.Minute))
	mark := testMark(t, 1, 1)
	if got := sequences(o.retained); !slices.Equal(got, []uint64{2, 3}) || !o.follows(mark) {
		t.Fatalf("retained are %v", got)
	}
	mark.Digest[0]++
	if o.follows(mark) {
		t.Error("it follows a batch that isn't its own")
	}
}

// A gap was passed from one chain to the other, and the last batch is this one's.
func TestOutboxDoesNotTakeAMarkThatHasAnotherBatchInAnyPlaceOfItsOwn(t *testing.T) {
	one, other := twins(t, 5)
	o := newOutbox(testProducer(1), 0)
	o.add(other, 1, testNow)
	mark := recentMark(t, 1, 3)
	mark.Recent = mark.Recent.Append(3, other[4])
	mark.Sequence, mark.Digest, mark.Lost = 5, other[4].Digest(), []spend.SequenceRange{{First: 4, Last: 4}}
	text, err := mark.AppendText(nil)
	if err != nil {
		t.Fatal(err)
	}
	var published spend.Mark
	if err := published.UnmarshalText(text); err != nil {
		t.Fatal(err)
	}
	if o.follows(published) {
		t.Errorf("the third batch would be confirmed, and the books have %x", one[2].Digest())
	}
	for i, want := range []error{nil, nil, spend.ErrDiverged, errPerhapsBooked, nil} { // the last one is in the books
		if got := reasonAside(mark, other[i], spend.ErrDiverged); got != want {
			t.Errorf("batch %d is set aside for %v, want %v", i+1, got, want)
		}
	}
}

func TestOutboxTakesRetainedBatchesBackWhenPostgresIsTurnedBack(t *testing.T) {
	o := testOutbox(t, 5, time.Minute)
	later := testNow.Add(20 * time.Second)
	for n := uint64(1); n <= 5; n++ {
		o.atQueue(mustPush(t, o, n), "e")
	}
	o.confirm(testMark(t, 1, 2), testNow)
	o.confirm(testMark(t, 1, 4), testNow.Add(10*time.Second))
	if len(o.retained) != 4 || len(o.batches) != 1 || o.dropped() != 0 {
		t.Fatalf("%v retained and %v waiting", sequences(o.retained), sequences(o.batches))
	}
	if taken := o.confirmStored(testMark(t, 1, 1), o.view(), later); taken.restored != 3 || taken.missing != 0 {
		t.Fatalf("%d restored, %d missing; want 3 and none", taken.restored, taken.missing)
	}
	if o.confirmed != 1 || !slices.Equal(sequences(o.batches), []uint64{2, 3, 4, 5}) || !slices.Equal(sequences(o.retained), []uint64{1}) {
		t.Fatalf("confirmed is %d, %v wait, %v are retained", o.confirmed, sequences(o.batches), sequences(o.retained))
	}
	if b := mustPush(t, o, 2); b.entry != "" { // again
		t.Errorf("it is pushed under the entry %q that was acked", b.entry)
	}
	o.confirm(testMark(t, 1, 5), later)
	o.expire(testNow.Add(60 * time.Second))
	if len(o.retained) != 4 || o.dropped() != 1 {
		t.Fatalf("%v retained after the first minute, dropped up to %d", sequences(o.retained), o.dropped())
	}
	// Further back than what is retained.
	if taken := o.confirmStored(spend.Mark{}, o.view(), later.Add(time.Second)); taken.restored != 4 || taken.missing != 1 {
		t.Fatalf("%d restored, %d missing; want 4 and 1", taken.restored, taken.missing)
	}
	mustPush(t, o, 2)
	// What is missing was passed, or found elsewhere: it doesn't keep the others from being
	// confirmed.
	if taken := o.confirm(testMark(t, 1, 5, 1), later); taken.confirmed != 4 {
		t.Fatalf("%d confirmed, want 4", taken.confirmed)
	}
}

// Postgres may be turned back behind batches that were found again, or be passed over a gap by
// others before this producer looks. Its mark is no smaller then, and yet batches are missing that
// are retained here.
func TestOutboxTakesABatchBackThatIsLostToAPostgresWhoseMarkIsNoSmaller(t *testing.T) {
	o := testOutbox(t, 6, time.Minute)
	o.confirm(testMark(t, 1, 2), testNow)
	o.confirm(testMark(t, 1, 5), testNow.Add(time.Minute))
	o.expire(testNow.Add(time.Minute)) // 1 and 2
	taken := o.confirmStored(testMark(t, 1, 6, 1, 4), o.view(), testNow.Add(2*time.Minute))
	if taken.restored != 1 || taken.missing != 1 || taken.confirmed != 1 {
		t.Fatalf("%d restored, %d missing, %d confirmed; want one of each", taken.restored, taken.missing, taken.confirmed)
	}
	mustPush(t, o, 4)
	if taken := o.confirmStored(testMark(t, 1, 6, 1), o.view(), testNow.Add(2*time.Minute)); taken.confirmed != 1 || taken.restored != 0 {
		t.Fatalf("%d confirmed and %d restored after it was found, want one and none", taken.confirmed, taken.restored)
	}
}

func TestOutboxTakesBackWhatWasInQuarantineWhenPostgresIsTurnedBack(t *testing.T) {
	o := testOutbox(t, 2, time.Minute)
	mark := testMark(t, 1, 2, 1)
	mark.Quarantined = []uint64{1}
	if taken := o.confirm(mark, testNow); len(taken.quarantined) != 1 || taken.confirmed != 1 {
		t.Fatalf("%+v", taken)
	}
	if taken := o.confirmStored(mark, o.view(), testNow.Add(time.Second)); taken.restored != 0 || taken.missing != 0 {
		t.Fatalf("%d restored, %d missing while it is there", taken.restored, taken.missing)
	}
	if taken := o.confirmStored(spend.Mark{}, o.view(), testNow.Add(time.Second)); taken.restored != 2 || taken.missing != 0 {
		t.Fatalf("%d restored, %d missing; want both restored", taken.restored, taken.missing)
	}
	mustPush(t, o, 1)
}

// A commit that ends while the mark is read isn't in the mark, and is no sign of a Postgres that
// was turned back.
func TestOutboxTakesNothingBackThatWasConfirmedWhileTheMarkWasRead(t *testing.T) {
	o := testOutbox(t, 3, time.Minute)
	o.confirm(testMark(t, 1, 1), testNow)
	before, began := o.view(), testNow.Add(time.Second)
	o.add(chained(t, 1, 4)[3:], 4, testNow)
	o.confirm(testMark(t, 1, 4), testNow.Add(2*time.Second))
	if taken := o.confirmStored(testMark(t, 1, 1), before, began); taken.restored != 0 || taken.missing != 0 {
		t.Errorf("%d restored, %d missing; want none", taken.restored, taken.missing)
	}
	o = testOutbox(t, 3, 0)
	before = o.view()
	o.confirm(testMark(t, 1, 3), testNow)
	if taken := o.confirmStored(testMark(t, 1, 1), before, testNow); taken.missing != 0 {
		t.Errorf("%d missing; want none", taken.missing)
	}
}
