package spendflush

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// plan is the flusher's half of the protocol as pure steps: entries and marks go in, flushes and entries to settle
// come out. It does no I/O and knows no clock. A plan lives for one walk over the queue of a shard.
type plan struct {
	shard   int
	marks   map[ProducerID]Mark // as last read from Postgres; a producer read as unknown has the zero Mark
	wait    map[ProducerID][]entryBatch
	passing map[ProducerID]string // producers whose gaps are passed, and why
	newer   map[ProducerID]bool   // producers with batches of a newer format
	taken   []entryBatch          // the batches of the flush being committed
	single  bool                  // take one batch at a time
	rows    int                   // how many rows a flush may have before no more batches are added
	done    []EntryID             // entries that Postgres has no need of any more
	bad     []badEntry
	stats   planStats
}

type entryBatch struct {
	*Batch
	entry EntryID
}

type badEntry struct {
	BadBatch
	entry EntryID
}

type planStats struct {
	duplicates int // entries dropped because Postgres has them
	newer      int // entries of a format that this program doesn't read
}

func newPlan(shard int) *plan {
	return &plan{
		shard: shard, rows: flushRows, marks: map[ProducerID]Mark{}, wait: map[ProducerID][]entryBatch{},
		passing: map[ProducerID]string{}, newer: map[ProducerID]bool{},
	}
}

// offer takes an entry read from the queue.
func (p *plan) offer(e Entry) {
	if e.Fault != "" {
		p.reject(e.ID, e.Bytes, fmt.Errorf("%w: %s", ErrCorruptBatch, e.Fault))
		return
	}
	b, err := ParseBatch(e.Bytes)
	switch {
	case errors.Is(err, ErrNewerBatch):
		p.stats.newer++ // it stays in the queue for an instance that knows it
		p.newer[b.Producer] = true
		return
	case err == nil && b.Shard != p.shard:
		err = errors.New("corrupt batch: it is of another shard than the queue")
	}
	if err != nil {
		p.reject(e.ID, e.Bytes, err)
		return
	}
	p.add(entryBatch{b, e.ID})
}

func (p *plan) add(b entryBatch) { p.wait[b.Producer] = append(p.wait[b.Producer], b) }

func (p *plan) reject(entry EntryID, bytes []byte, err error) {
	p.bad = append(p.bad, badEntry{BadBatch{Shard: p.shard, Reason: err.Error(), Bytes: bytes}, entry})
}

// unknown returns the producers that wait and whose marks are to be read.
func (p *plan) unknown() []ProducerID {
	var ids []ProducerID
	for id := range p.wait {
		if _, ok := p.marks[id]; !ok {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, ProducerID.Compare)
	return ids
}

// learn takes the marks of the producers asked for. Batches of an unknown producer that is so old that its mark may
// have been cleaned up are set aside: nobody can tell whether they were applied.
func (p *plan) learn(asked []ProducerID, marks Marks) {
	for _, id := range asked {
		p.marks[id] = marks.Of[id]
		if !marks.Forgotten(id) {
			continue
		}
		for _, b := range p.wait[id] {
			p.reject(b.entry, b.bytes, fmt.Errorf("producer %s sequence %d: it was born at %s, and marks of such producers have been "+
				"cleaned up: it can't be told whether this batch was applied", id, b.Sequence, id.Born().UTC().Format(time.RFC3339)))
		}
		p.wait[id] = nil
	}
}

// take returns what to commit next: for every producer whose mark is known, its batches that go on from the mark
// without a gap, or with one that is being passed. Duplicates are marked done, corrupt batches are set aside, the rest
// goes on waiting. It returns nil if nothing can be committed. Applied or fenced must be called before the next take.
func (p *plan) take() *Flush {
	f := &Flush{Shard: p.shard}
	sums := newSums()
	for _, id := range slices.SortedFunc(maps.Keys(p.marks), ProducerID.Compare) {
		if len(p.wait[id]) > 0 && !p.enough(sums) {
			p.takeFrom(id, f, sums)
		}
	}
	if len(f.Claims)+len(f.Found) == 0 {
		return nil
	}
	f.Totals, f.Rollups, f.Control = sums.totals.rows(), sums.rollups.rows(), sums.control
	return f
}

// enough says whether a flush of these sums should be committed before more is added to it. What is left waits for the
// next take.
func (p *plan) enough(sums *sums) bool {
	return sums.batches > 0 && (p.single || sums.rows() >= p.rows)
}

// takeFrom adds to the flush what can be taken of one producer, and to the sums the rows of the batches taken.
func (p *plan) takeFrom(id ProducerID, f *Flush, sums *sums) {
	mark, batches := p.marks[id], p.wait[id]
	slices.SortStableFunc(batches, func(a, b entryBatch) int { return cmp.Compare(a.Sequence, b.Sequence) })
	claim := Claim{
		Producer: id, First: mark.Sequence + 1, Last: mark.Sequence, Prior: mark.Digest, Digest: mark.Digest,
		SealedUpdates: mark.Updates, SealedAmount: mark.Amount,
	}
	lost := mark.Lost // those still missing, beginning with the next one that the batches may fill
	p.wait[id] = nil
	for _, b := range batches {
		for len(lost) > 0 && lost[0] < b.Sequence {
			lost = lost[1:]
		}
		found := len(lost) > 0 && lost[0] == b.Sequence
		if b.Sequence <= claim.Last && !found {
			// Postgres has it, or will have with this flush. In either case this entry isn't needed: should the
			// flush fail, the entry taken is still there.
			p.dropDuplicate(b, mark)
			continue
		}
		gap := b.Sequence > claim.Last+1
		if gap && p.passing[id] == "" || p.enough(sums) {
			p.add(b)
			continue
		}
		r, err := b.Rows()
		if err == nil && gap {
			err = p.passTo(b.Batch, &claim, f)
		}
		if err != nil {
			p.reject(b.entry, b.bytes, err)
			continue
		}
		sums.add(r)
		p.taken = append(p.taken, b)
		if found {
			lost = lost[1:]
			f.Found = append(f.Found, FoundBatch{Producer: id, Sequence: b.Sequence, Updates: b.Updates, Amount: b.Amount})
		} else {
			claim.extend(b.Batch)
		}
	}
	if claim.Last >= claim.First {
		f.Claims = append(f.Claims, claim)
	}
}

// extend takes the next batch, or one behind a gap that was passed, into the claim.
func (c *Claim) extend(b *Batch) {
	c.Last, c.Digest = b.Sequence, b.digest
	c.Updates += b.Updates
	c.Amount = c.Amount.Add(b.Amount)
	c.SealedUpdates, c.SealedAmount = b.PriorUpdates+b.Updates, b.PriorAmount.Add(b.Amount)
}

// maxGap bounds the batches that one claim may pass as lost. A month of seals every 200ms has more than twelve times as
// many, but no producer goes on for long behind a gap.
const maxGap = 1_000_000

// passTo adds to the flush, as lost, what is missing between the claim and the batch.
func (p *plan) passTo(b *Batch, claim *Claim, f *Flush) error {
	if b.Sequence-claim.Last > maxGap {
		return fmt.Errorf("producer %s sequence %d: too far behind the last batch applied, %d, for those between to be passed as lost",
			b.Producer, b.Sequence, claim.Last)
	}
	reason := fmt.Sprintf("batches %d to %d, with %d updates of %s dollars: %s", claim.Last+1, b.Sequence-1,
		b.PriorUpdates-claim.SealedUpdates, b.PriorAmount.Sub(claim.SealedAmount), p.passing[b.Producer])
	for sequence := claim.Last + 1; sequence < b.Sequence; sequence++ {
		f.Lost = append(f.Lost, LostBatch{Producer: b.Producer, Sequence: sequence, Reason: reason})
	}
	return nil
}

var (
	// ErrApplied is wrapped by Batch.Flush where the batch is in the books already.
	ErrApplied = errors.New("batch is in the books already")
	// ErrGap is wrapped by Batch.Flush where an earlier batch of the producer isn't in the books yet.
	ErrGap = errors.New("an earlier batch of the producer isn't in the books")
)

// Flush returns the flush that commits this batch alone, given the mark of its producer in its shard: by a claim if it
// is the next one, or as found if it was passed as lost. The error wraps ErrApplied, ErrGap or ErrCorruptBatch.
func (b *Batch) Flush(mark Mark) (*Flush, error) {
	if _, err := b.Rows(); err != nil {
		return nil, err
	}
	p := newPlan(b.Shard)
	p.marks[b.Producer] = mark
	p.add(entryBatch{Batch: b})
	f := p.take()
	switch {
	case f != nil:
		return f, nil
	case len(p.done) > 0:
		return nil, fmt.Errorf("producer %s sequence %d: %w", b.Producer, b.Sequence, ErrApplied)
	default:
		return nil, fmt.Errorf("producer %s sequence %d: %w: it is at %d", b.Producer, b.Sequence, ErrGap, mark.Sequence)
	}
}

// dropDuplicate settles an entry that repeats a batch. One that repeats a batch of the very flush being made is only
// settled with that flush.
func (p *plan) dropDuplicate(b entryBatch, mark Mark) {
	p.stats.duplicates++
	if mark.Has(b.Sequence) {
		p.done = append(p.done, b.entry)
		return
	}
	p.taken = append(p.taken, b)
}

// applied notes that the flush of the last take is committed.
func (p *plan) applied(f *Flush) {
	for _, c := range f.Claims {
		mark := p.marks[c.Producer]
		mark.Sequence, mark.Digest, mark.Updates, mark.Amount = c.Last, c.Digest, c.SealedUpdates, c.SealedAmount
		p.marks[c.Producer] = mark
	}
	for _, l := range f.Lost {
		mark := p.marks[l.Producer]
		mark.Lost = append(slices.Clip(mark.Lost), l.Sequence)
		p.marks[l.Producer] = mark
	}
	for _, b := range f.Found {
		mark := p.marks[b.Producer]
		mark.Lost = slices.DeleteFunc(slices.Clone(mark.Lost), func(s uint64) bool { return s == b.Sequence })
		p.marks[b.Producer] = mark
	}
	for _, b := range p.taken {
		p.done = append(p.done, b.entry)
	}
	p.taken = nil
}

// fenced notes that the flush of the last take wasn't committed because a claim was lost: its batches wait again, and
// the marks of its producers are unknown.
func (p *plan) fenced(f *Flush) {
	for _, c := range f.Claims {
		delete(p.marks, c.Producer)
	}
	for _, b := range f.Found {
		delete(p.marks, b.Producer)
	}
	for _, b := range p.taken {
		p.add(b)
	}
	p.taken = nil
}

// refused notes that the store refuses the flush of the last take for what it is. Its batches are taken one at a time from
// now on, so that the one at fault is found, and set aside.
func (p *plan) refused(reason error) {
	taken := p.taken
	p.taken = nil
	if p.single {
		// The first one; others in the same flush can only be copies of it.
		p.reject(taken[0].entry, taken[0].bytes, reason)
		taken = taken[1:]
	}
	for _, b := range taken {
		p.add(b)
	}
	p.single = true
}

// settle returns the entries to take out of the queue, which it forgets, and the marks to publish with them.
func (p *plan) settle() (ids []EntryID, marks map[ProducerID]Mark) {
	ids, p.done = p.done, nil
	return ids, maps.Clone(p.marks)
}

// trim leaves batches that wait in the queue, to be met again in a later walk, until those kept have no more bytes than
// allowed. It keeps the oldest producers' batches, nearest to their marks first, so that whoever's gap is passed has
// them. It returns the bytes left out.
func (p *plan) trim(allowed int) (left int) {
	for _, id := range slices.SortedFunc(maps.Keys(p.wait), ProducerID.Compare) {
		batches := p.wait[id]
		slices.SortStableFunc(batches, func(a, b entryBatch) int { return cmp.Compare(a.Sequence, b.Sequence) })
		kept := 0
		for _, b := range batches {
			if allowed -= len(b.bytes); allowed >= 0 {
				kept++
			} else {
				left += len(b.bytes)
			}
		}
		p.wait[id] = slices.Clip(batches[:kept])
	}
	return left
}

// gaps returns the producers whose batches wait for an earlier one, and the last sequence before the gap of each.
// Those that are known to have a newer program are left out: what is missing may be in its format.
func (p *plan) gaps() map[ProducerID]uint64 {
	gaps := map[ProducerID]uint64{}
	for id, batches := range p.wait {
		if mark, known := p.marks[id]; known && len(batches) > 0 && !p.newer[id] {
			gaps[id] = mark.Sequence
		}
	}
	return gaps
}

// waiting returns how many batches wait for an earlier one, and the size of their bytes.
func (p *plan) waiting() (batches, bytes int) {
	for _, list := range p.wait {
		for _, b := range list {
			batches++
			bytes += len(b.bytes)
		}
	}
	return batches, bytes
}

// gapWatch remembers since when gaps have been there, over the walks of one flusher.
type gapWatch map[ProducerID]gap

type gap struct {
	after uint64 // the mark before it
	since time.Time
}

// overdue takes the gaps at the end of a walk over the whole queue, and returns the producers whose gap has been there
// for the grace. Marks only move forward, so a gap behind the same mark has been there all the while.
func (w gapWatch) overdue(gaps map[ProducerID]uint64, now time.Time, grace time.Duration) (ids []ProducerID) {
	maps.DeleteFunc(w, func(id ProducerID, g gap) bool {
		after, there := gaps[id]
		return !there || after != g.after
	})
	for id, after := range gaps {
		if _, seen := w[id]; !seen {
			w[id] = gap{after, now}
		}
		if now.Sub(w[id].since) >= grace {
			ids = append(ids, id)
		}
	}
	return ids
}
