package spendflush

import (
	"errors"
	"slices"
)

// plan is the flusher's half of the protocol as pure steps: entries and marks go in, flushes and entries to settle
// come out. It does no I/O and knows no clock. A plan lives for one walk over the queue of a shard.
type plan struct {
	shard int
	marks map[ProducerID]uint64 // as last read from Postgres; a producer read as unknown has 0
	wait  map[ProducerID][]entryBatch
	taken []entryBatch // the batches of the flush being committed
	done  []EntryID    // entries that Postgres has no need of any more
	bad   []badEntry
	stats planStats
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
	return &plan{shard: shard, marks: map[ProducerID]uint64{}, wait: map[ProducerID][]entryBatch{}}
}

// offer takes an entry read from the queue.
func (p *plan) offer(e Entry) {
	b, err := ParseBatch(e.Bytes)
	switch {
	case errors.Is(err, ErrNewerBatch):
		p.stats.newer++ // it stays in the queue for an instance that knows it
		return
	case err == nil && b.Shard != p.shard:
		err = errors.New("corrupt batch: it is of another shard than the queue")
	}
	if err != nil {
		p.reject(e.ID, e.Bytes, err)
		return
	}
	p.wait[b.Producer] = append(p.wait[b.Producer], entryBatch{b, e.ID})
}

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

// learn takes the marks of the producers asked for; one that isn't in marks is unknown to Postgres.
func (p *plan) learn(asked []ProducerID, marks map[ProducerID]uint64) {
	for _, id := range asked {
		p.marks[id] = marks[id]
	}
}

// take returns what to commit next: for every producer whose mark is known, its batches that go on from the mark
// without a gap. Duplicates are marked done, corrupt batches are set aside, the rest goes on waiting. It returns nil
// if nothing can be committed. Applied or fenced must be called before the next take.
func (p *plan) take() *Flush {
	f := &Flush{Shard: p.shard}
	var totals [][]TotalRow
	var rollups [][]RollupRow
	for id, mark := range p.marks {
		batches := p.wait[id]
		if len(batches) == 0 {
			continue
		}
		slices.SortStableFunc(batches, func(a, b entryBatch) int { return int(int64(a.Sequence) - int64(b.Sequence)) })
		claim := Claim{Producer: id, First: mark + 1, Last: mark}
		var later []entryBatch
		for _, b := range batches {
			switch {
			case b.Sequence <= claim.Last:
				// Postgres has it, or will have with this flush. In either case this entry isn't needed: should the
				// flush fail, the entry taken is still there.
				p.dropDuplicate(b, mark)
			case b.Sequence > claim.Last+1:
				later = append(later, b)
			default:
				rows, err := b.Rows()
				if err != nil {
					p.reject(b.entry, b.bytes, err)
					continue
				}
				totals, rollups = append(totals, rows.Totals), append(rollups, rows.Rollups)
				f.Control.Add(&rows.Control)
				claim.Last = b.Sequence
				claim.Shards, claim.Seal, claim.PriorSeal = b.Shards, b.Seal, claim.Seal
				claim.Updates += b.Updates
				claim.Amount = claim.Amount.Add(b.Amount)
				p.taken = append(p.taken, b)
			}
		}
		p.wait[id] = later
		if claim.Last >= claim.First {
			f.Claims = append(f.Claims, claim)
		}
	}
	if len(f.Claims) == 0 {
		return nil
	}
	slices.SortFunc(f.Claims, func(a, b Claim) int { return a.Producer.Compare(b.Producer) })
	f.Totals = mergeRuns(totals, totalRows)
	f.Rollups = mergeRuns(rollups, rollupRows)
	return f
}

// dropDuplicate settles an entry that repeats a batch. One that repeats a batch of the very flush being made is only
// settled with that flush.
func (p *plan) dropDuplicate(b entryBatch, mark uint64) {
	p.stats.duplicates++
	if b.Sequence <= mark {
		p.done = append(p.done, b.entry)
		return
	}
	p.taken = append(p.taken, b)
}

// applied notes that the flush of the last take is committed.
func (p *plan) applied(f *Flush) {
	for _, c := range f.Claims {
		p.marks[c.Producer] = c.Last
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
	for _, b := range p.taken {
		p.wait[b.Producer] = append(p.wait[b.Producer], b)
	}
	p.taken = nil
}

// settle returns the entries to take out of the queue, which it forgets, and the marks to publish with them. The marks
// go on being the plan's.
func (p *plan) settle() (ids []EntryID, marks map[ProducerID]uint64) {
	ids, p.done = p.done, nil
	return ids, p.marks
}

// forgetWaiting leaves the batches that wait in the queue, to be met again in a later walk.
func (p *plan) forgetWaiting() { clear(p.wait) }

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
