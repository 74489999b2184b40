package spendflush

import (
	"slices"
	"sort"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// outbox holds the batches of one producer and shard from their seal until Postgres is known to
// have them, and for as long after that as Postgres might be turned back. It does no I/O and reads
// no clock: it is the producer's half of the protocol as pure steps.
//
// A batch leaves by itself once Postgres is seen to have it, so that one that is lost holds up no
// other one.
type outbox struct {
	producer spend.ProducerID
	next     uint64 // sequence that the next batch gets, from 1
	seal     uint64 // the last seal whose batches are here, or were

	batches   []*outgoing // not known to be in Postgres, by sequence
	deciding  []*outgoing // batches of facts in Postgres of which it isn't known what they came to
	unpushed  int         // the batches before this place are in the queue as far as known
	confirmed uint64      // the highest sequence that Postgres was seen to be at

	// The sums over all batches sealed, and the digest of the last one.
	updates int64
	amount  spend.Amount
	digest  spend.Digest

	// What was sealed and is never committed: how far the updates of its seals are. In quarantine
	// they are queued.
	setAside map[uint64]Stage

	retain   time.Duration // how long confirmed batches are retained, 0: not at all
	retained []*outgoing   // those, by sequence
	last     outboxPoint   // the last batch that was confirmed and not retained
}

// outgoing is a batch on its way.
type outgoing struct {
	*spend.Batch
	seal        uint64
	tried       bool          // it may have left this process for the queue or for Postgres
	entry       spend.EntryID // where it was last seen in the queue
	queued      bool          // it was there
	inDoubt     bool          // whether it still is must be looked at
	journaled   bool          // it is known to be in the journal
	lost        bool          // Postgres has skipped it as lost
	held        *heldPieces   // of a batch of facts that was sealed here
	since       time.Time     // its updates were accepted after it
	confirmedAt time.Time
}

// outboxPoint is a place in the chain of digests.
type outboxPoint struct {
	sequence uint64
	digest   spend.Digest
}

func newOutbox(producer spend.ProducerID, retain time.Duration) *outbox {
	return &outbox{producer: producer, next: 1, retain: retain, setAside: map[uint64]Stage{}}
}

// add takes the batches of a seal, whose sequences go on from next; there may be none for this
// shard.
func (o *outbox) add(batches []*spend.Batch, seal uint64, since time.Time) {
	o.seal = seal
	for _, b := range batches {
		if b.Sequence != o.next || b.Producer != o.producer || b.PriorDigest != o.digest {
			panic("spendflush: sealed out of sequence")
		}
		o.batches = append(o.batches, &outgoing{Batch: b, seal: seal, since: since})
		o.next++
		o.updates += b.Updates
		o.amount = o.amount.Add(b.Amount)
		o.digest = b.Digest()
	}
}

// toPush returns the batch to push next, nil if all are in the queue. The same one comes again
// until atQueue is told of it, so that a batch whose push has an unknown outcome is repeated before
// the next one goes.
func (o *outbox) toPush() *outgoing {
	for o.unpushed < len(o.batches) {
		if b := o.batches[o.unpushed]; !b.queued || b.inDoubt {
			return b
		}
		o.unpushed++
	}
	return nil
}

// toRetain returns a retained batch that the queue was never seen to have, nil if there is none:
// one that was written directly. The queue retains what went through it for the time after this
// process, and has to get this one for that.
func (o *outbox) toRetain() *outgoing {
	for _, b := range o.retained {
		if !b.queued || b.inDoubt {
			return b
		}
	}
	return nil
}

// atQueue notes that the batch is in the queue under this entry. It says whether the queue had it
// under another one before, which is gone.
func (o *outbox) atQueue(b *outgoing, entry spend.EntryID) (moved bool) {
	moved = b.entry != "" && b.entry != entry
	b.entry, b.queued, b.inDoubt = entry, true, false
	return moved
}

// toJournal returns the batches that aren't known to be in the journal.
func (o *outbox) toJournal() (batches []*outgoing) {
	for _, b := range o.batches {
		if !b.journaled {
			batches = append(batches, b)
		}
	}
	return batches
}

// atRisk returns how many batches would be lost with this process: those neither in the queue nor
// in the journal.
func (o *outbox) atRisk() (n int) {
	for _, b := range o.batches {
		if (!b.queued || b.inDoubt) && !b.journaled {
			n++
		}
	}
	return n
}

// anyQueued says whether a batch waits in the queue.
func (o *outbox) anyQueued() bool {
	return slices.ContainsFunc(o.batches, func(b *outgoing) bool { return b.queued })
}

// reached returns how far the updates of a seal have come.
func (o *outbox) reached(seal uint64) Stage {
	if seal > o.seal {
		return Accepted
	}
	stage := Committed
	if aside, ok := o.setAside[seal]; ok {
		stage = aside
	}
	first := sort.Search(len(o.batches), func(i int) bool { return o.batches[i].seal >= seal })
	for _, b := range o.batches[first:] {
		if b.seal != seal {
			break
		}
		if !b.queued && !b.journaled {
			return Accepted
		}
		stage = min(stage, Queued)
	}
	return stage
}

// follows says whether the mark belongs to the chain of this outbox: what is in Postgres under its
// producer is what it sealed. If another process with the same memory goes on under the same
// producer, it isn't.
func (o *outbox) follows(mark spend.Mark) bool {
	switch {
	case mark.Sequence == 0:
		return true
	case mark.Sequence >= o.next:
		return false
	case mark.Sequence == o.next-1 && mark.Digest != o.digest:
		return false
	case mark.Sequence == o.last.sequence && mark.Digest != o.last.digest:
		return false
	}
	for _, list := range [][]*outgoing{o.batches, o.retained} {
		// A mark that was moved over a gap is of the chain of its last batch alone. So each batch
		// is compared.
		next := 0
		for ; next < len(list) && list[next].Sequence <= mark.Sequence; next++ {
			if mark.IsAnother(list[next].Batch) {
				return false
			}
		}
		// What can't go on from the mark a flusher would set aside, and this process would not
		// know.
		if next < len(list) && !goesOn(list[next].Batch, mark.Sequence, mark.Digest, mark.Updates) {
			return false
		}
	}
	return true
}

func compareSequence(b *outgoing, sequence uint64) int {
	switch {
	case b.Sequence < sequence:
		return -1
	case b.Sequence > sequence:
		return 1
	}
	return 0
}

// taken is what a mark has brought.
type taken struct {
	confirmed   int           // batches that are in the books
	quarantined []*outgoing   // batches that Postgres keeps in quarantine
	released    []*heldPieces // of these
	restored    int           // batches retained that are sent again, because Postgres was turned back
	missing     uint64        // batches that Postgres had and has no more, and that aren't here any more
}

// confirm takes a mark that it follows. What is in the books or in quarantine leaves; what was
// skipped as lost stays, to be pushed once more.
func (o *outbox) confirm(mark spend.Mark, now time.Time) (t taken) {
	o.confirmed = max(o.confirmed, mark.Sequence)
	left := o.batches[:0]
	for _, b := range o.batches {
		switch {
		case mark.Has(b.Sequence):
			b.confirmedAt = now
			t.confirmed++
			o.decide(b)
			o.drop(b)
		case mark.HasQuarantined(b.Sequence):
			b.confirmedAt = now
			t.quarantined = append(t.quarantined, b)
			t.released = append(t.released, b.held)
			b.held = nil
			o.noteAside(b.seal, Queued)
			o.drop(b) // a Postgres that is turned back has it in quarantine no more
		case b.Sequence <= mark.Sequence && !b.lost:
			b.lost, b.queued, b.entry = true, false, ""
			left = append(left, b)
		default:
			left = append(left, b)
		}
	}

	clear(o.batches[len(left):])
	o.batches, o.unpushed = left, 0
	return t
}

// noteAside notes that a batch of the seal is set aside, and how far it is. A seal is as far as the
// last of its batches.
func (o *outbox) noteAside(seal uint64, stage Stage) {
	if before, ok := o.setAside[seal]; ok {
		stage = min(stage, before)
	}
	o.setAside[seal] = stage
}

// drop takes out a batch that Postgres has, and retains it if there is a window.
func (o *outbox) drop(b *outgoing) {
	if b.Sequence > o.last.sequence {
		o.last = outboxPoint{b.Sequence, b.Digest()}
	}
	if o.retain == 0 {
		return
	}
	i, _ := slices.BinarySearchFunc(o.retained, b.Sequence, compareSequence)
	o.retained = slices.Insert(o.retained, i, b)
}

// outboxView is which batches an outbox has at one moment.
type outboxView struct {
	next    uint64
	present []uint64 // ascending
}

// view is to be taken before a mark is read: what leaves meanwhile is no sign of a Postgres that
// was turned back.
func (o *outbox) view() outboxView {
	v := outboxView{next: o.next}
	for _, list := range [][]*outgoing{o.retained, o.batches} {
		for _, b := range list {
			v.present = append(v.present, b.Sequence)
		}
	}
	slices.Sort(v.present)
	return v
}

// missing returns how many of the batches that had left are not in Postgres.
func (v outboxView) missing(mark spend.Mark) (n uint64) {
	if mark.Sequence+1 < v.next {
		from, _ := slices.BinarySearch(v.present, mark.Sequence+1)
		n = v.next - 1 - mark.Sequence - uint64(len(v.present)-from)
	}
	for _, r := range mark.Lost {
		if r.First >= v.next {
			break
		}
		r.Last = min(r.Last, v.next-1)
		from, _ := slices.BinarySearch(v.present, r.First)
		to, _ := slices.BinarySearch(v.present, r.Last+1)
		n += r.Len() - uint64(to-from)
	}
	for _, sequence := range mark.Quarantined { // they are among the lost
		if _, present := slices.BinarySearch(v.present, sequence); !present && sequence < v.next {
			n--
		}
	}
	return n
}

// confirmStored takes the producer's mark as Postgres has it, read when the outbox was as in the
// view. If Postgres was turned back, the batches retained that it lacks are on their way again.
func (o *outbox) confirmStored(mark spend.Mark, before outboxView, began time.Time) taken {
	t := o.confirm(mark, began)
	t.missing = before.missing(mark)
	retained := o.retained[:0]
	for _, b := range o.retained {
		_, present := slices.BinarySearch(before.present, b.Sequence)
		if mark.Has(b.Sequence) || mark.HasQuarantined(b.Sequence) || !present || !b.confirmedAt.Before(began) {
			retained = append(retained, b)
			continue
		}
		b.entry, b.queued, b.lost = "", false, b.Sequence <= mark.Sequence
		o.undecide(b)
		o.batches = append(o.batches, b)
		t.restored++
	}
	clear(o.retained[len(retained):])
	o.retained = retained
	if t.restored > 0 {
		slices.SortFunc(o.batches, func(a, b *outgoing) int { return compareSequence(a, b.Sequence) })
		o.unpushed, o.confirmed = 0, mark.Sequence
	}
	return t
}

// expire drops the batches retained for long enough. It may only be called right after Postgres was
// seen to have them.
func (o *outbox) expire(now time.Time) {
	n := 0
	for n < len(o.retained) && now.Sub(o.retained[n].confirmedAt) >= o.retain {
		n++
	}
	clear(o.retained[:n])
	o.retained = o.retained[n:]
}

// gapAfter returns whether the next batch that Postgres could book waits for ones that have left
// the outbox, so that nothing brings them any more.
func (o *outbox) gapAfter(mark spend.Mark) bool {
	for _, b := range o.batches {
		if b.Sequence > mark.Sequence {
			return b.Sequence > mark.Sequence+1
		}
	}
	return false
}

// dropped returns the sequence up to which the outbox has no need of any batch.
func (o *outbox) dropped() uint64 {
	first := o.next
	for _, list := range [][]*outgoing{o.batches, o.retained} {
		if len(list) > 0 {
			first = min(first, list[0].Sequence)
		}
	}
	return first - 1
}

// resetPushed has each batch that is in the queue pushed again, which adds nothing while its entry
// is there.
func (o *outbox) resetPushed() {
	for _, b := range o.batches {
		b.inDoubt = b.queued
	}
	o.unpushed = 0
}

// bytes returns the size of all batches that wait for Postgres.
func (o *outbox) bytes() int { return sizeOf(o.batches) }

func sizeOf(batches []*outgoing) (n int) {
	for _, b := range batches {
		n += len(b.Bytes())
	}
	return n
}

// oldest returns when the first batch was sealed, zero if there is none.
func (o *outbox) oldest() time.Time {
	if len(o.batches) == 0 {
		return time.Time{}
	}
	return o.batches[0].SealedAt
}
