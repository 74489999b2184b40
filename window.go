package spendflush

import (
	"slices"
	"time"
)

// window holds the batches of one producer and shard from their seal until Postgres is known to have them, or for as
// long after that as Postgres might be turned back. It does no I/O and reads no clock: it is the producer's half of the
// protocol as pure steps.
//
// The batches in it are confirmed+1 … next-1 without a gap, and those kept are the ones before, up to confirmed. The
// first pushed of the batches are known to have reached the queue; they are pushed in order, so what is in the queue has
// no gap either, unless the queue loses some.
type window struct {
	next      uint64 // sequence that the next batch gets, from 1
	confirmed uint64 // Postgres has everything up to here
	batches   []*windowBatch
	pushed    int // how many of the batches, from the first, are in the queue as far as known
	queued    uint64
	committed uint64

	// The sums over all batches sealed.
	updates int64
	amount  Amount
	digest  Digest // of the last one

	keep time.Duration  // how long confirmed batches are kept, 0: not at all
	kept []*windowBatch // those, up to confirmed
}

// windowBatch is a batch and where it was last seen in the queue.
type windowBatch struct {
	*Batch
	entry       EntryID
	journaled   bool // it is known to be in the journal
	seal        uint64
	since       time.Time // its updates were accepted after it
	confirmedAt time.Time
}

// newWindow returns an empty window.
func newWindow(keep time.Duration) *window { return &window{next: 1, keep: keep} }

// add takes sealed batches, whose sequences go on from next.
func (w *window) add(batches []*Batch) {
	for _, b := range batches {
		if b.Sequence != w.next {
			panic("spendflush: sealed out of sequence")
		}
		w.batches = append(w.batches, &windowBatch{Batch: b})
		w.next++
		w.updates += b.Updates
		w.amount = w.amount.Add(b.Amount)
		w.digest = b.digest
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
		w.queued = max(w.queued, b.seal)
	}
}

// toJournal returns the batches that aren't known to be in the journal.
func (w *window) toJournal() (batches []*windowBatch) {
	for _, b := range w.batches {
		if !b.journaled {
			batches = append(batches, b)
		}
	}
	return batches
}

// inJournal notes that these batches, which toJournal has returned, are in the journal, and so all before them.
func (w *window) inJournal(batches []*windowBatch) {
	for _, b := range batches {
		b.journaled = true
		w.queued = max(w.queued, b.seal)
	}
}

// exposed returns the batches that would be lost with this process: those neither in the queue nor in the journal.
func (w *window) exposed() (batches []*windowBatch) {
	for _, b := range w.batches[w.pushed:] {
		if !b.journaled {
			batches = append(batches, b)
		}
	}
	return batches
}

// confirm notes that Postgres has everything up to mark, and returns how many batches that confirms. Those are dropped,
// or kept for a while. A mark behind the last one, or before a batch that this producer never sealed, changes nothing.
func (w *window) confirm(mark uint64, now time.Time) int {
	if mark <= w.confirmed || mark >= w.next {
		return 0
	}
	n := int(mark - w.confirmed)
	w.committed = max(w.committed, w.batches[n-1].seal)
	w.queued = max(w.queued, w.committed)
	if w.keep > 0 {
		for _, b := range w.batches[:n] {
			b.confirmedAt = now
			w.kept = append(w.kept, b)
		}
	}
	clear(w.batches[:n])
	w.batches = w.batches[n:]
	w.pushed = max(0, w.pushed-n)
	w.confirmed = mark
	return n
}

// confirmStored takes the producer's mark as Postgres has it. It confirms what is neither before a batch that was passed
// as lost and is here, nor that batch. If that is less than was confirmed before, because Postgres was turned back, it
// takes the batches kept back into the window. missing is how many batches Postgres has lost and the window doesn't have
// any more.
func (w *window) confirmStored(mark Mark, now time.Time) (confirmed, restored int, missing uint64) {
	whole := mark.Sequence
	if i, _ := slices.BinarySearch(mark.Lost, w.dropped()+1); i < len(mark.Lost) {
		whole = mark.Lost[i] - 1
	}
	if whole < w.confirmed {
		restored, missing = w.rewind(whole)
		return 0, restored, missing
	}
	return w.confirm(whole, now), 0, 0
}

// rewind takes the batches kept behind the mark back.
func (w *window) rewind(mark uint64) (restored int, missing uint64) {
	restored = int(min(w.confirmed-mark, uint64(len(w.kept))))
	missing = w.confirmed - mark - uint64(restored)
	from := len(w.kept) - restored
	w.batches = slices.Concat(w.kept[from:], w.batches)
	w.kept = slices.Clip(w.kept[:from])
	w.confirmed -= uint64(restored)
	w.pushed = 0
	return restored, missing
}

// expire drops the batches kept for long enough. It may only be called right after Postgres was seen to have them.
func (w *window) expire(now time.Time) {
	n := 0
	for n < len(w.kept) && now.Sub(w.kept[n].confirmedAt) >= w.keep {
		n++
	}
	clear(w.kept[:n])
	w.kept = w.kept[n:]
}

// dropped returns the last sequence that the window has no need of any more.
func (w *window) dropped() uint64 { return w.confirmed - uint64(len(w.kept)) }

// doubt forgets that batches are in the queue: each is pushed again, which adds nothing while its entry is there.
func (w *window) doubt() { w.pushed = 0 }

// bytes returns the size of all batches that wait for Postgres.
func (w *window) bytes() int { return sizeOf(w.batches) }

func sizeOf(batches []*windowBatch) (n int) {
	for _, b := range batches {
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
