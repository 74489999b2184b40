package spendflush

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// plan is the flusher's half of the protocol as pure steps: entries and marks go in, flushes and
// entries to ack come out. It does no I/O and knows no clock. A plan lives for one walk over the
// queue of a shard.
type plan struct {
	shard     int
	begun     time.Time     // when the walk began, for the tracer alone
	books     spend.BooksID // whose batches are taken
	keys      *spend.BatchKeys
	known     *spend.KnownKeys
	marks     map[spend.ProducerID]spend.Mark // as last read from Postgres; a producer read as unknown has the zero Mark
	wait      map[spend.ProducerID][]entryBatch
	skipping  map[spend.ProducerID]string // producers whose gaps are skipped, and why
	newer     map[spend.ProducerID]bool   // producers with batches of a newer format
	taken     []entryBatch                // the batches of the flush being committed
	single    bool                        // take one batch at a time
	limit     flushLimit
	trouble   trouble               // producers whose batches can't be committed even by themselves
	failure   error                 // why something of this walk is left, though the walk goes on
	refusals  map[batchName]error   // batches that the store refuses for what they are
	divergent map[spend.Digest]bool // batches of another chain than that in the books
	done      []spend.EntryID       // entries that Postgres has no need of any more
	bad       []badEntry
	compared  bool // whether marks were read, and with them whether Postgres was turned back
	stats     planStats
}

// batchName is under which name a batch is claimed.
type batchName struct {
	producer spend.ProducerID
	sequence uint64
	digest   spend.Digest
}

type entryBatch struct {
	*spend.Batch
	entry spend.EntryID
}

func batchNameOf(b *spend.Batch) batchName { return batchName{b.Producer, b.Sequence, b.Digest()} }

type badEntry struct {
	spend.BadBatch
	entry spend.EntryID
}

type planStats struct {
	duplicates int // entries dropped because Postgres has them
	newer      int // entries of a format that this program doesn't read
	unsigned   int // entries without signature that were accepted
	left       int // entries that can't be booked and that quarantine has no room for
	leftBytes  int
}

func newPlan(shard int) *plan {
	return &plan{
		shard: shard, keys: &spend.BatchKeys{}, limit: largestFlush, marks: map[spend.ProducerID]spend.Mark{}, wait: map[spend.ProducerID][]entryBatch{},
		skipping: map[spend.ProducerID]string{}, newer: map[spend.ProducerID]bool{}, refusals: map[batchName]error{}, divergent: map[spend.Digest]bool{},
		trouble: newTrouble(nil),
	}
}

// addEntry takes an entry read from the queue.
func (p *plan) addEntry(e spend.Entry) {
	if e.Fault != "" {
		err := fmt.Errorf("%w: %s", spend.ErrCorruptBatch, e.Fault)
		if len(p.keys.Key) > 0 { // whatever its first bytes are signed by
			err = fmt.Errorf("%w: %w", spend.ErrNotSigned, err)
		}
		p.refuse(e, err)
		return
	}

	b, err := p.keys.ParseBatch(e.Bytes)
	switch {
	case b != nil && b.Books != p.books:
		err = otherBooks(b, p.books)
	case errors.Is(err, spend.ErrNewerBatch):
		p.stats.newer++ // it stays in the queue for an instance that knows it
		p.newer[b.Producer] = true
		return
	case err == nil && b.Shard != p.shard:
		err = errors.New("corrupt batch: it is of another shard than the queue")
	}

	if err != nil {
		p.refuse(e, err)
		return
	}
	if len(p.keys.Key) > 0 && !b.IsSigned() {
		p.stats.unsigned++
	}

	p.add(entryBatch{b, e.ID})
}

func (p *plan) add(b entryBatch) { p.wait[b.Producer] = append(p.wait[b.Producer], b) }

func (p *plan) reject(entry spend.EntryID, bytes []byte, err error) {
	b := spend.BadBatch{Shard: p.shard, Reason: err.Error(), Bytes: bytes, Unclaimed: errors.Is(err, spend.ErrDiverged), Foreign: errors.Is(err, spend.ErrNotSigned)}
	p.bad = append(p.bad, badEntry{b, entry})
}

// refuse sets an entry aside that no instance of these books is known to have made.
func (p *plan) refuse(e spend.Entry, err error) {
	p.reject(e.ID, e.Bytes, err)
	p.bad[len(p.bad)-1].Bounded = true
}

// divert sets a batch aside that is of another chain than that in the books.
func (p *plan) divert(b entryBatch) {
	p.reject(b.entry, b.Bytes(), diverged(b.Batch))
	p.divergent[b.Digest()] = true
}

// unknown returns the producers that wait and whose marks are to be read.
func (p *plan) unknown() []spend.ProducerID {
	var ids []spend.ProducerID
	for id := range p.wait {
		if _, ok := p.marks[id]; !ok {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, spend.ProducerID.Compare)
	return ids
}

// learn takes the marks of the producers asked for. Batches of an unknown producer that is so old
// that its mark may have been cleaned up are set aside: it isn't known whether they were applied.
func (p *plan) learn(asked []spend.ProducerID, marks spend.Marks) {
	p.compared = true
	for _, id := range asked {
		p.marks[id] = marks.Of[id]
		if !marks.Pruned(id) {
			continue
		}
		for _, b := range p.wait[id] {
			p.reject(b.entry, b.Bytes(), fmt.Errorf("producer %s sequence %d: it was born at %s, and marks of such producers have been "+
				"cleaned up: it can't be told whether this batch was applied", id, b.Sequence, id.Born().UTC().Format(time.RFC3339)))
		}
		p.wait[id] = nil
	}
}

// next returns what to commit next: for every producer whose mark is known, its batches that go on
// from the mark without a gap, or with one that is being skipped. Duplicates are marked done,
// corrupt batches are set aside, the rest goes on waiting. It returns nil if nothing can be
// committed. Applied or fenced must be called before the next take.
func (p *plan) next() *spend.Flush {
	f := &spend.Flush{Shard: p.shard, Books: p.books}
	sums := newSums()
	for _, id := range p.order() {
		if len(p.wait[id]) == 0 || p.enough(sums) || p.trouble.rests(id) {
			continue
		}
		single := p.single
		p.single = single || p.trouble.has(id) // it would have the others fail with it, and claims must be in order
		p.nextOf(id, f, sums)
		p.single = single
	}
	if len(f.Claims)+len(f.Found) == 0 {
		return nil
	}
	f.Totals, f.Rollups, f.Control = sums.totals.rows(), sums.rollups.rows(), sums.control
	return f
}

// order returns the producers whose marks are known, in order. Those whose batches can't be
// committed even by themselves come last, so that they hold up no other one.
func (p *plan) order() []spend.ProducerID {
	ids := slices.SortedFunc(maps.Keys(p.marks), spend.ProducerID.Compare)
	return p.trouble.last(ids)
}

// brimful says whether more batches could make a sum overflow: no sum of one batch is above 2^62.
func brimful(c *spend.Control) bool {
	const most = 1 << 61
	return c.Bound() >= most
}

// enough says whether a flush of these sums should be committed before more is added to it. What is
// left waits for the next take.
func (p *plan) enough(sums *sums) bool {
	return sums.batches > 0 && (p.single || sums.rows() >= p.limit.rows || sums.texts() >= p.limit.texts || brimful(&sums.control))
}

// nextOf adds to the flush what can be taken of one producer, and to the sums the rows of the
// batches taken.
func (p *plan) nextOf(id spend.ProducerID, f *spend.Flush, sums *sums) {
	mark, batches := p.marks[id], p.wait[id]
	slices.SortStableFunc(batches, func(a, b entryBatch) int { return cmp.Compare(a.Sequence, b.Sequence) })
	claim := spend.ClaimAfter(id, mark)
	lost := mark.Lost // those still missing, beginning with the next range that the batches may fill
	last := uint64(0) // the last one found
	p.wait[id] = nil
	for _, b := range batches {
		for len(lost) > 0 && lost[0].Last < b.Sequence {
			lost = lost[1:]
		}
		found := len(lost) > 0 && lost[0].First <= b.Sequence && b.Sequence != last && !mark.HasQuarantined(b.Sequence)
		switch {
		case p.divergent[b.PriorDigest]:
			p.divert(b) // it isn't to be taken for one behind a gap
		case found && mark.IsAnother(b.Batch):
			p.divert(b)
		case b.Sequence <= claim.Last && !found:
			// Postgres has it, or will have with this flush. In either case this entry isn't
			// needed: should the flush fail, the entry taken is still there.
			p.dropDuplicate(b, mark)
		case found:
			if p.enough(sums) {
				p.add(b)
			} else {
				p.claimFound(b, f, sums)
				last = b.Sequence
			}
		case b.Sequence > claim.Last+1 && p.skipping[id] == "" || p.enough(sums):
			p.add(b)
		default:
			p.claimNext(b, &claim, f, sums)
		}
	}

	if claim.Last >= claim.First {
		f.Claims = append(f.Claims, claim)
	}
}

// rowsOf returns the rows of a batch, or why it can't be booked.
func (p *plan) rowsOf(b *spend.Batch) (*spend.Rows, error) {
	if err := p.refusals[batchNameOf(b)]; err != nil {
		return nil, err
	}
	return b.RowsKnowing(p.known)
}

// claimNext takes the batch that the claim goes on with, or one behind a gap that is being skipped.
// A batch that can't be booked is set aside by the claim itself, so that those behind it needn't
// wait.
func (p *plan) claimNext(b entryBatch, claim *spend.Claim, f *spend.Flush, sums *sums) {
	if !goesOn(b.Batch, claim.Last, claim.Digest, claim.SealedUpdates) {
		p.divert(b)
		return
	}
	if b.Sequence > claim.Last+1 {
		p.skipGap(b.Batch, claim, f)
	}
	p.taken = append(p.taken, b)
	claim.MoveTo(b.Batch)
	if !p.addRows(b.Batch, f, sums) {
		return
	}
	claim.Updates += b.Updates
	claim.Amount = claim.Amount.Add(b.Amount)
}

// dropDuplicate is done with an entry that repeats a batch. One that repeats a batch of the very
// flush being made is only done with that flush. What has the place of a batch in the books and is
// another one is set aside.
func (p *plan) dropDuplicate(b entryBatch, mark spend.Mark) {
	inFlush, another := false, b.Sequence <= mark.Sequence && mark.IsAnother(b.Batch)
	if n := len(p.taken); n > 0 { // they come in order
		last := batchNameOf(p.taken[n-1].Batch)
		if inFlush = last.producer == b.Producer && last.sequence == b.Sequence; inFlush {
			another = last != batchNameOf(b.Batch)
		}
	}
	if another {
		p.divert(b)
		return
	}
	p.stats.duplicates++
	if inFlush {
		p.taken = append(p.taken, b)
	} else {
		p.done = append(p.done, b.entry)
	}
}

// applied notes that the flush of the last take is committed.
func (p *plan) applied(f *spend.Flush) {
	for _, c := range f.Claims {
		mark := p.marks[c.Producer]
		mark.Sequence, mark.Digest, mark.Updates, mark.Amount = c.Last, c.Digest, c.SealedUpdates, c.SealedAmount
		mark.Recent = c.Recent
		p.marks[c.Producer] = mark
		p.trouble.over(c.Producer)
	}

	for i := range f.Found {
		b := &f.Found[i]
		p.trouble.over(b.Producer)
		mark := p.marks[b.Producer]
		mark.Lost, mark.Quarantined = withoutSequence(mark.Lost, b.Sequence), without(mark.Quarantined, b.Sequence)
		mark.Recent = mark.Recent.Found(mark.Sequence, b)
		p.marks[b.Producer] = mark
	}

	for _, l := range f.Lost {
		mark := p.marks[l.Producer]
		mark.Lost = withRange(mark.Lost, spend.SequenceRange{First: l.First, Last: l.Last})
		if l.Quarantined {
			mark.Quarantined = with(mark.Quarantined, l.First)
		}
		p.marks[l.Producer] = mark
	}

	for _, b := range p.taken {
		p.done = append(p.done, b.entry)
	}
	p.taken = nil
}

// fenced notes that the flush of the last take wasn't committed because a claim was lost: its
// batches wait again, and the marks of its producers are unknown.
func (p *plan) fenced(f *spend.Flush) {
	for _, c := range f.Claims {
		delete(p.marks, c.Producer)
	}
	for _, b := range f.Found {
		delete(p.marks, b.Producer)
	}
	p.putBack()
}

func (p *plan) putBack() {
	for _, b := range p.taken {
		p.add(b)
	}
	p.taken = nil
}

// refused notes that the store refuses the flush of the last take for what it is. Its batches are
// taken one at a time from now on, so that the one at fault is found, and set aside.
func (p *plan) refused(reason error) {
	if p.single {
		// The first one; others in the same flush can only be copies of it.
		name := batchNameOf(p.taken[0].Batch)
		if p.refusals[name] != nil { // the store refuses even to set it aside that way
			p.reject(p.taken[0].entry, p.taken[0].Bytes(), reason)
			p.taken = p.taken[1:]
		}
		p.refusals[name] = reason
	}
	p.putBack()
	p.single = true
}

// failed notes that the flush of the last take may not have been committed: its batches wait again.
// It says whether the flush was a single batch, so that there is a point in going on with other
// producers'.
func (p *plan) failed(f *spend.Flush) (alone bool) {
	alone = len(f.Claims)+len(f.Found) == 1 && f.Batches()+len(f.Quarantine) <= 1
	if alone {
		p.trouble.note(p.taken[0].Producer)
	}
	p.fenced(f) // it may have been committed all the same
	return alone
}

// ack returns what to take out of the queue, once, and the marks to publish with it.
func (p *plan) ack() spend.Ack {
	a := spend.Ack{Entries: p.done, Marks: maps.Clone(p.marks)}
	p.done = nil
	// A producer with many gaps has to look into Postgres for itself.
	maps.DeleteFunc(a.Marks, func(_ spend.ProducerID, m spend.Mark) bool { return m.Sequence == 0 || m.TooLong() })
	return a
}

// evict leaves batches that wait in the queue, to be read again in a later walk, until those kept
// have no more bytes than allowed, but for one batch, which may be larger. It keeps the oldest
// producers' batches, nearest to their marks first, so that a producer whose gap is skipped has
// them. It returns the bytes left out. What can't be committed in this walk any more takes no room
// from it.
func (p *plan) evict(allowed int) (left int) {
	maps.DeleteFunc(p.wait, func(id spend.ProducerID, _ []entryBatch) bool { return p.trouble.failed[id] })
	first := true
	for _, id := range slices.SortedFunc(maps.Keys(p.wait), spend.ProducerID.Compare) {
		batches := p.wait[id]
		slices.SortStableFunc(batches, func(a, b entryBatch) int { return cmp.Compare(a.Sequence, b.Sequence) })
		kept := 0
		for _, b := range batches {
			if allowed -= len(b.Bytes()); allowed >= 0 || first {
				kept, first = kept+1, false
			} else {
				left += len(b.Bytes())
			}
		}
		p.wait[id] = slices.Clip(batches[:kept])
	}
	return left
}

// otherBooks says of which books a batch is.
func otherBooks(b *spend.Batch, here spend.BooksID) error {
	of := "books " + b.Books.String()
	if b.Books.IsZero() {
		of = "books that it doesn't name"
	}
	return fmt.Errorf("producer %s sequence %d: %w: it belongs to %s, and this database has the books %s", b.Producer, b.Sequence,
		spend.ErrOtherBooks, of, here)
}
