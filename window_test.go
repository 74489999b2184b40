package spendflush

import (
	"testing"
)

func mustPush(t *testing.T, w *window, want uint64) *windowBatch {
	t.Helper()
	b := w.toPush()
	if b == nil || b.Sequence != want {
		t.Fatalf("to push is %v, want sequence %d", b, want)
	}
	return b
}

func TestWindowRepeatsABatchUntilItIsKnownToBeQueued(t *testing.T) {
	w := newWindow(0)
	w.add([]*Batch{testBatch(t, 1, 1), testBatch(t, 1, 2), testBatch(t, 1, 3)})
	first := mustPush(t, w, 1)
	if again := mustPush(t, w, 1); again != first {
		t.Fatal("after an unknown outcome another batch is pushed")
	}
	w.atQueue(1, "e1")
	mustPush(t, w, 2)
	w.atQueue(1, "e1 again") // a late reply
	w.atQueue(3, "e3")       // never asked for
	mustPush(t, w, 2)
	w.atQueue(2, "e2")
	mustPush(t, w, 3)
	w.atQueue(3, "e3")
	if b := w.toPush(); b != nil {
		t.Fatalf("all are queued, but %d is to be pushed", b.Sequence)
	}
	if w.queued != 3 || w.committed != 0 {
		t.Fatalf("queued seal %d, committed %d; want 3 and 0", w.queued, w.committed)
	}
}

func TestWindowDropsWhatIsConfirmedAndNothingElse(t *testing.T) {
	w := newWindow(0)
	w.add([]*Batch{testBatch(t, 1, 1), testBatch(t, 1, 2), testBatch(t, 1, 3)})
	for _, mark := range []uint64{0, 4, 100, 1 << 63} {
		if n := w.confirm(mark, testNow); n != 0 || len(w.batches) != 3 {
			t.Fatalf("mark %d dropped %d batches", mark, n)
		}
	}
	w.atQueue(1, "e1")
	if n := w.confirm(2, testNow); n != 2 || w.committed != 2 || w.queued != 2 || w.pushed != 0 {
		t.Fatalf("mark 2 dropped %d: %+v", n, w)
	}
	w.atQueue(2, "e2") // the reply of a push that was confirmed meanwhile
	mustPush(t, w, 3)
	if n := w.confirm(1, testNow); n != 0 || w.confirmed != 2 {
		t.Fatalf("an older mark moved the window back to %d", w.confirmed)
	}
	if n := w.confirm(3, testNow); n != 1 || w.bytes() != 0 || !w.oldest().IsZero() {
		t.Fatalf("mark 3 dropped %d: %+v", n, w)
	}
	w.add([]*Batch{testBatch(t, 1, 4)})
	mustPush(t, w, 4)
}

func TestWindowInDoubtPushesAllAgainUnderTheirEntries(t *testing.T) {
	w := newWindow(0)
	w.add([]*Batch{testBatch(t, 1, 1), testBatch(t, 1, 2)})
	w.atQueue(1, "e1")
	w.atQueue(2, "e2")
	w.doubt()
	if b := mustPush(t, w, 1); b.entry != "e1" {
		t.Fatalf("batch 1 is pushed again without its entry: %q", b.entry)
	}
	w.atQueue(1, "e7")
	if b := mustPush(t, w, 2); b.entry != "e2" {
		t.Fatalf("batch 2 is pushed again without its entry: %q", b.entry)
	}
	w.atQueue(2, "e2")
	w.doubt()
	if b := mustPush(t, w, 1); b.entry != "e7" {
		t.Fatalf("batch 1 keeps the entry %q that the queue lost", b.entry)
	}
}

func TestWindowRefusesASequenceOutOfLine(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a batch out of sequence was taken")
		}
	}()
	newWindow(0).add([]*Batch{testBatch(t, 1, 2)})
}
