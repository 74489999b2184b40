package spendflush

import (
	"time"
)

// window holds the batches of one producer and shard from their seal until Postgres is known to have them. It does no
// I/O and knows no clock: it is the producer's half of the protocol as pure steps.
//
// The batches in it are confirmed+1 … next-1 without a gap. The first pushed of them are known to have reached the
// queue; they are pushed in order, so what is in the queue has no gap either, unless the queue loses some.
type window struct {
	next      uint64 // sequence that the next batch gets, from 1
	confirmed uint64 // Postgres has everything up to here
	batches   []*windowBatch
	pushed    int // how many of the batches, from the first, are in the queue as far as known
	queued    uint64
	committed uint64
}

// windowBatch is a batch and where it was last seen in the queue.
type windowBatch struct {
	*Batch
	entry EntryID
}

// newWindow returns an empty window.
func newWindow() *window { return &window{next: 1} }

// add takes sealed batches, whose sequences go on from next.
func (w *window) add(batches []*Batch) {
	for _, b := range batches {
		if b.Sequence != w.next {
			panic("spendflush: sealed out of sequence")
		}
		w.batches = append(w.batches, &windowBatch{Batch: b})
		w.next++
	}
}

// toPush returns the batch to push next, nil if all are in the queue. The same one comes again until atQueue is told
// of it, so that a batch whose push has an unknown outcome is repeated before the next one goes.
func (w *window) toPush() *windowBatch {
	if w.pushed == len(w.batches) {
		return nil
	}
	return w.batches[w.pushed]
}

// atQueue notes that the batch of that sequence is in the queue under this entry. What is confirmed meanwhile or
// isn't the one to push next is ignored.
func (w *window) atQueue(sequence uint64, entry EntryID) {
	if b := w.toPush(); b != nil && b.Sequence == sequence {
		b.entry = entry
		w.pushed++
		w.queued = max(w.queued, b.Seal)
	}
}

// confirm notes that Postgres has everything up to mark, drops those batches and returns how many. A mark behind
// the last one, or before a batch that this producer never sealed, changes nothing.
func (w *window) confirm(mark uint64) int {
	if mark <= w.confirmed || mark >= w.next {
		return 0
	}
	n := int(mark - w.confirmed)
	w.committed = w.batches[n-1].Seal
	w.queued = max(w.queued, w.committed)
	clear(w.batches[:n])
	w.batches = w.batches[n:]
	w.pushed = max(0, w.pushed-n)
	w.confirmed = mark
	return n
}

// doubt forgets that batches are in the queue: each is pushed again, which adds nothing while its entry is there.
func (w *window) doubt() { w.pushed = 0 }

// bytes returns the size of all batches.
func (w *window) bytes() (n int) {
	for _, b := range w.batches {
		n += len(b.bytes)
	}
	return n
}

// oldest returns when the first batch was sealed, zero if there is none.
func (w *window) oldest() time.Time {
	if len(w.batches) == 0 {
		return time.Time{}
	}
	return w.batches[0].SealedAt
}
