package spend

import (
	"cmp"
	"fmt"
	"slices"
)

// Decision is what a flush with facts comes to, given what the books have.
type Decision struct {
	// Flush is what is to be written. Its Facts are those of the flush that was decided.
	Flush *Flush

	// New are the ids to be kept, in the order of their identities, each content once.
	New []KnownFact

	// Buckets are those that New counts in, and Seen those of all pieces, as masks.
	Buckets, Seen uint64

	// Taken says what was taken out of which batch, in the order of Facts.
	Taken []TakenOut

	// Duplicates and Conflicts are the sums of what was taken out.
	Duplicates, Conflicts Counters

	// Aside has the conflicts as batches of facts, for the quarantine.
	Aside []ConflictBatch
}

// ConflictBatch has the pieces of a batch that were taken out because the books have another
// content under their ids.
type ConflictBatch struct {
	Batch    *Batch // with the header of the batch that they are of, but for the sums. It isn't signed
	Counters Counters
}

// FactIDs returns the ids of a flush, sorted, each once.
func (f *Flush) FactIDs() []FactID {
	ids := make([]FactID, 0, f.pieces())
	for i := range f.Facts {
		for _, piece := range f.Facts[i].Pieces.All() {
			ids = append(ids, piece.ID)
		}
	}
	slices.SortFunc(ids, FactID.Compare)
	return slices.Compact(ids)
}

func (f *Flush) pieces() (n int) {
	for i := range f.Facts {
		n += f.Facts[i].Pieces.Len()
	}
	return n
}

// FactBuckets returns the buckets that the facts of a flush count in, as a mask.
func (f *Flush) FactBuckets() (mask uint64) {
	for i := range f.Facts {
		pieces := f.Facts[i].Pieces
		for _, piece := range pieces.All() {
			mask |= pieces.BucketsOf(piece)
		}
	}
	return mask
}

// Decide says which pieces of the flush are duplicates of what the books have, or of one before
// them in the flush; which have another content than these, a conflict; and takes both out of its
// rows, control sums, claims and batches found. known has all that the books have of the ids of the
// flush. A piece of which the books have some buckets loses these. Decide doesn't change the flush.
// The error wraps ErrRefused: the rows aren't what the pieces say.
func (f *Flush) Decide(known []KnownFact) (*Decision, error) {
	d := decider{flush: f, facts: make(map[FactID]factState, f.pieces()), rows: map[rollupPlace]takenRow{}}
	d.Flush = f
	for _, k := range known {
		d.learn(k)
	}
	for i := range f.Facts {
		d.batch(&f.Facts[i])
	}
	d.sortNew()
	if len(d.Taken) == 0 {
		return &d.Decision, nil
	}
	if err := d.reduce(); err != nil {
		return nil, fmt.Errorf("%w: shard %d: %w", ErrRefused, f.Shard, err)
	}
	return &d.Decision, nil
}

type decider struct {
	Decision
	flush *Flush
	facts map[FactID]factState
	also  map[FactID][]factState // other contents than facts has; hardly ever any
	rows  map[rollupPlace]takenRow
	sums  []batchTaken
}

// factState is what is known of one id.
type factState struct {
	content Fingerprint
	buckets uint64
}

// takenRow is what is taken out of a rollup row.
type takenRow struct {
	row      *RollupRow // of a batch; its counters are the batch's
	counters Counters
}

// batchTaken is what is taken out of a batch.
type batchTaken struct {
	producer              ProducerID
	sequence              uint64
	duplicates, conflicts FactSum
}

func (d *decider) learn(k KnownFact) {
	s, there := d.facts[k.ID]
	switch {
	case !there:
		s = factState{k.Content, k.Buckets}
	case s.content == k.Content:
		s.buckets |= k.Buckets
	default:
		if d.also == nil {
			d.also = map[FactID][]factState{}
		}
		d.also[k.ID] = append(d.also[k.ID], factState{k.Content, k.Buckets})
		return
	}
	d.facts[k.ID] = s
}

// known returns in which buckets the fact counts with that content, and whether another one is
// known.
func (d *decider) known(id FactID, content Fingerprint) (buckets uint64, another bool) {
	s, there := d.facts[id]
	if !there {
		return 0, false
	}
	see := func(s factState) {
		if s.content == content {
			buckets |= s.buckets
		} else {
			another = true
		}
	}
	see(s)
	for _, s := range d.also[id] {
		see(s)
	}
	return buckets, another
}

// batch decides the pieces of a batch, in their order.
func (d *decider) batch(b *BatchFacts) {
	sum := batchTaken{producer: b.Header.Producer, sequence: b.Header.Sequence}
	var taken takenRanges
	aside := conflictBatches{header: b.Header}
	for place, piece := range b.Pieces.All() {
		real := b.Pieces.BucketsOf(piece)
		d.Seen |= real
		of := real
		if piece.Single {
			of = AllBuckets
		}
		duplicate, conflict := d.piece(piece, of)

		if duplicate != 0 {
			out := d.takeOut(b.Pieces, piece, duplicate, &sum.duplicates, &d.Duplicates)
			taken.add(TakenRange{First: place, Last: place, Updates: out}, duplicate == of)
		}
		if conflict != 0 {
			out := d.takeOut(b.Pieces, piece, conflict, &sum.conflicts, &d.Conflicts)
			taken.add(TakenRange{First: place, Last: place, Conflict: true, Updates: out}, conflict == of)
			aside.add(b.Pieces, piece, conflict)
		}
		if duplicate|conflict != of {
			d.Buckets |= real &^ (duplicate | conflict)
		}
	}
	if len(taken.list) > 0 {
		d.Taken = append(d.Taken, TakenOut{b.Header.Producer, b.Header.Sequence, taken.list})
		d.sums = append(d.sums, sum)
		d.Aside = append(d.Aside, aside.seal()...)
	}
}

// piece returns which buckets of the piece are a duplicate and which are in conflict. The others
// are new.
func (d *decider) piece(piece *Piece, of uint64) (duplicate, conflict uint64) {
	buckets, another := d.known(piece.ID, piece.Content)
	duplicate = of & buckets
	if piece.Single && buckets != 0 {
		duplicate = of
	}
	if another {
		conflict = of &^ duplicate
	}
	if fresh := of &^ (duplicate | conflict); fresh != 0 {
		k := KnownFact{piece.ID, piece.Content, fresh}
		d.learn(k)
		d.New = append(d.New, k)
	}
	return duplicate, conflict
}

// takeOut notes that the parts of the piece in these buckets don't count, and returns how many
// updates they are.
func (d *decider) takeOut(pieces Pieces, piece *Piece, buckets uint64, sum *FactSum, all *Counters) (updates int64) {
	for i := range piece.Parts {
		part := &piece.Parts[i]
		row := pieces.Row(part.Row)
		if buckets&(1<<row.Key.Bucket()) == 0 {
			continue
		}
		of := rollupPlace{row.Hour, row.Key}
		taken := d.rows[of]
		taken.row = row
		taken.counters.Add(&part.Counters)
		d.rows[of] = taken
		sum.add(&part.Counters)
		all.Add(&part.Counters)
		updates += part.Counters.APIRequests()
	}
	return updates
}

// takenRanges are the ranges of one batch.
type takenRanges struct {
	list  []TakenRange
	whole bool // the last one has pieces as a whole, and may have more
}

// add adds a piece. One that was taken out as a whole may go on from the range before it.
func (t *takenRanges) add(r TakenRange, whole bool) {
	if n := len(t.list); n > 0 && whole && t.whole {
		if last := &t.list[n-1]; last.Last+1 == r.First && last.Conflict == r.Conflict {
			last.Last, last.Updates = r.Last, last.Updates+r.Updates
			return
		}
	}
	t.list, t.whole = append(t.list, r), whole
}

func (d *decider) sortNew() {
	slices.SortFunc(d.New, func(a, b KnownFact) int {
		return cmp.Or(a.ID.Compare(b.ID), cmp.Compare(a.Content, b.Content))
	})
	n := 0
	for _, k := range d.New {
		if n > 0 && d.New[n-1].ID == k.ID && d.New[n-1].Content == k.Content {
			d.New[n-1].Buckets |= k.Buckets
			continue
		}
		d.New[n] = k
		n++
	}
	d.New = d.New[:n]
}

// conflictBatches gathers the conflicts of one batch.
type conflictBatches struct {
	header   Header
	facts    FactBatch
	counters Counters
	sealed   []ConflictBatch
	parts    []FactPart
}

func (c *conflictBatches) add(pieces Pieces, piece *Piece, buckets uint64) {
	c.parts = c.parts[:0]
	for i := range piece.Parts {
		row := pieces.Row(piece.Parts[i].Row)
		if buckets&(1<<row.Key.Bucket()) != 0 {
			series := row.Series()
			canonical := CanonicalSeries(series.AppendCanonical(nil, AllDimensions))
			c.parts = append(c.parts, FactPart{canonical, row.Key, row.Hour, piece.Parts[i].Counters})
		}
	}
	if !c.facts.Add(piece.ID, piece.Content, piece.Single, c.parts...) {
		c.cut()
		c.facts.Add(piece.ID, piece.Content, piece.Single, c.parts...)
	}
	for i := range c.parts {
		c.counters.Add(&c.parts[i].Counters)
	}
}

func (c *conflictBatches) cut() {
	if c.facts.Len() > 0 {
		c.sealed = append(c.sealed, ConflictBatch{c.facts.Seal(&BatchKeys{}, c.header), c.counters})
	}
	c.facts.Reset()
	c.counters = Counters{}
}

func (c *conflictBatches) seal() []ConflictBatch {
	c.cut()
	return c.sealed
}
