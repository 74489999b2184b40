package spend

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"time"
)

// Claim moves a producer's mark from First-1, where it must have the digest Prior, to Last.
type Claim struct {
	Producer    ProducerID
	First, Last uint64
	Prior       Digest // what the mark was read with; zero for a producer without a mark, or one of sequence 0
	Digest      Digest // of the batch Last
	Recent      Recent // of the batches up to Last
	Updates     int64  // updates in the claimed batches that are booked, those lost and quarantined left out
	Amount      Amount // and their sum

	// The sums over all batches of the producer up to Last, whether or not they were found, from
	// its header. What they are above the sums in the books is lost.
	SealedUpdates int64
	SealedAmount  Amount

	// What Flush.Decide has taken out of the claimed batches; it is no more in Updates and Amount.
	Duplicates, Conflicts FactSum
}

// ClaimAfter returns a claim of the producer that begins behind the mark, and is moved to batches
// by MoveTo.
func ClaimAfter(id ProducerID, mark Mark) Claim {
	return Claim{
		Producer: id, First: mark.Sequence + 1, Last: mark.Sequence, Prior: mark.Digest, Digest: mark.Digest, Recent: mark.Recent,
		SealedUpdates: mark.Updates, SealedAmount: mark.Amount,
	}
}

// MoveTo moves the claim to the batch.
func (c *Claim) MoveTo(b *Batch) {
	c.Recent = c.Recent.Append(c.Last, b)
	c.Last, c.Digest = b.Sequence, b.digest
	c.SealedUpdates, c.SealedAmount = b.PriorUpdates+b.Updates, b.PriorAmount.Add(b.Amount)
}

// LostRange is batches that a claim skips without booking them, or one that was skipped and found,
// and can't be booked.
type LostRange struct {
	Producer    ProducerID
	First, Last uint64 // their sequences, from 1
	Reason      string // one line
	Quarantined bool   // it is one batch whose bytes are among Flush.Quarantine; else nothing is known of them
}

// Len returns how many batches these are.
func (l *LostRange) Len() uint64 { return SequenceRange{l.First, l.Last}.Len() }

// FoundBatch is a batch that was skipped as lost and has turned up. One that can't be booked has no
// updates, and is among Flush.Lost as quarantined.
type FoundBatch struct {
	Producer    ProducerID
	Sequence    uint64
	Digest      Digest
	PriorDigest Digest // of the batch that it goes on from
	Updates     int64
	Amount      Amount

	// What Flush.Decide has taken out of it; it is no more in Updates and Amount.
	Duplicates, Conflicts FactSum
}

// ByHandBatch is a batch that an operator has booked out of quarantine beside all claims.
type ByHandBatch struct {
	Producer ProducerID
	Sequence uint64
	Digest   Digest
}

// TotalRow is what a flush adds to the total of one entity.
type TotalRow struct {
	Key      Key // Entity.Key()
	Entity   Entity
	Counters Counters
}

// Texts returns how many bytes the ids of the entity take.
func (r *TotalRow) Texts() int { return len(r.Entity.ID) + len(r.Entity.TeamID) }

// RollupRow is what a flush adds to one series in one hour.
type RollupRow struct {
	Key      Key // Series.Key()
	Hour     Hour
	texts    uint32 // bytes of the texts of the series, about
	Counters Counters

	source seriesSource
}

// Series returns the series that Key stands for. It is decoded anew at each call: most rows are of
// a series that Postgres has already, and never need it.
func (r *RollupRow) Series() Series { return r.source.series() }

// Texts returns how many bytes the ids, tags and dimensions of the series take, about.
func (r *RollupRow) Texts() int { return int(r.texts) }

// Control holds, for one shard, the sums that its rows must have. They are made when a batch is
// sealed, apart from the rows, so that the books can be checked against them.
type Control struct {
	Rollups Counters              // of all rollup rows
	Totals  [entityTypes]Counters // of all totals of each entity type, in the order of EntityTypes
}

// Of returns the sums of all totals of an entity type, which must be one of EntityTypes.
func (c *Control) Of(t EntityType) *Counters { return &c.Totals[t-1] }

// Add adds d to c.
func (c *Control) Add(d *Control) {
	c.Rollups.Add(&d.Rollups)
	for i := range c.Totals {
		c.Totals[i].Add(&d.Totals[i])
	}
}

// Bound returns a number that no whole number of the sums is above, and that is less than twice the
// largest.
func (c *Control) Bound() uint64 {
	bound := c.Rollups.Bound()
	for i := range c.Totals {
		bound |= c.Totals[i].Bound()
	}
	return bound
}

// Flush is what one transaction writes: for one shard, claims and the sums of the batches claimed
// or found. It has at least one of these. The slices are sorted, without repetition: Claims by
// producer, Lost, Found and Facts by producer and sequence, Totals by key, Rollups by hour and key.
type Flush struct {
	Shard  int
	Books  BooksID // those that all its batches belong to
	Claims []Claim
	Lost   []LostRange // within Claims or Found, disjoint
	// Quarantine has the whole batches that are set aside by this flush, in the order of those of
	// Lost that say so.
	Quarantine []BadBatch
	Found      []FoundBatch // at or before the marks, Claims included
	// ByHand has those within Claims or Found that are in Mark.ByHand. Their rows are in the books,
	// and not here.
	ByHand  []ByHandBatch
	Totals  []TotalRow
	Rollups []RollupRow
	Control Control

	// Facts has the pieces of those batches of format 2 whose rows are in Totals and Rollups. The
	// store decides, in the transaction, which of them count: see Decide. A batch of format 2 whose
	// pieces aren't here is booked as if its updates had no ids.
	Facts []BatchFacts

	// Outcome, if it isn't nil, gets what was taken out of Facts when Apply returns nil.
	Outcome *[]TakenOut
}

// Batches returns how many batches the flush commits.
func (f *Flush) Batches() int {
	n := uint64(len(f.Found)) // a sum that is taken modulo 2^64, and ends at what was read
	for _, c := range f.Claims {
		n += c.Last - c.First + 1
	}
	for i := range f.Lost {
		n -= f.Lost[i].Len()
	}
	return int(n)
}

// BadBatch is a queue entry that can't be applied.
type BadBatch struct {
	Shard  int
	Reason string // one line
	Bytes  []byte // as found in the queue

	// Unclaimed: it can't be claimed, because its process was cloned or put back to an earlier
	// state, and another batch may have its place. The reason says whether it is known not to be in
	// the books.
	Unclaimed bool

	// Foreign: it isn't signed by a key that is accepted, so nothing that its header says is to be
	// believed. A store must not note by it that a batch of the producer named there is in
	// quarantine.
	Foreign bool

	// Bounded: no instance of these books is known to have made it. A store keeps it only as long
	// as it has room, for another program that writes to the queue could fill the database with
	// them.
	Bounded bool
}

// ErrQuarantineFull is wrapped by the errors of Store.Quarantine where there is no room for batches
// that are Bounded. Nothing was kept.
var ErrQuarantineFull = errors.New("the quarantine is full")

// Mark is how far the batches of a producer in a shard are in the books.
type Mark struct {
	Sequence uint64 // every batch up to here was applied, or skipped as lost
	Digest   Digest // of the batch Sequence
	Recent   Recent // of the last batches up to Sequence

	// Those of them that were skipped and haven't been found since, ascending. No two ranges meet:
	// what is missing in a row is one range, however long.
	Lost        []SequenceRange
	Quarantined []uint64 // those of Lost whose bytes are in quarantine, ascending

	// ByHand has the producer's batches that were booked by hand, and that no claim covers.
	ByHand []ByHandBatch

	// The producer's own sums over all batches up to Sequence, those that are lost included.
	Updates int64
	Amount  Amount
}

// IsByHand says whether the batch was booked by hand, and no claim covers it yet.
func (m Mark) IsByHand(b *Batch) bool {
	return slices.Contains(m.ByHand, ByHandBatch{b.Producer, b.Sequence, b.digest})
}

// Contiguous returns the last sequence up to which no batch is missing.
func (m Mark) Contiguous() uint64 {
	if len(m.Lost) > 0 {
		return m.Lost[0].First - 1
	}
	return m.Sequence
}

// HasQuarantined says whether the bytes of the batch of that sequence are in quarantine instead of
// the books.
func (m Mark) HasQuarantined(sequence uint64) bool {
	_, found := slices.BinarySearch(m.Quarantined, sequence)
	return found
}

// Has says whether the batch of that sequence is in the books.
func (m Mark) Has(sequence uint64) bool {
	return sequence <= m.Sequence && !m.Lacks(sequence)
}

// Lacks says whether the batch of that sequence was skipped and hasn't been found since.
func (m Mark) Lacks(sequence uint64) bool {
	_, missing := FindRange(m.Lost, sequence)
	return missing
}

// IsAnother says whether the books are known to have another batch in the place of b, at or before
// the mark, or in the place of the one that b goes on from.
func (m Mark) IsAnother(b *Batch) bool {
	if b.Sequence == m.Sequence {
		return b.digest != m.Digest
	}
	is, known := m.Recent.Is(m.Sequence, b.Sequence, b.digest)
	goesOn, priorKnown := m.Recent.Is(m.Sequence, b.Sequence-1, b.PriorDigest)
	return known && !is || priorKnown && !goesOn
}

// Recent has the beginnings of the digests of the last batches up to a mark, the last one at the
// end: four bytes each, at most recentBatches of them. A batch that was skipped as lost has what
// the one behind it says of it, and zeros where that is lost, too, until it is found.
type Recent []byte

const (
	recentBatches = 64
	recentBytes   = 4
	unknownDigest = "\x00\x00\x00\x00"
)

// Append returns what follows r, which is up to the sequence last, when batch b comes next. Those
// in between are lost.
func (r Recent) Append(last uint64, b *Batch) Recent {
	lost := min(b.Sequence-last-1, recentBatches)
	r = slices.Concat(r, make(Recent, lost*recentBytes), b.digest[:recentBytes])
	if lost > 0 {
		copy(r[len(r)-2*recentBytes:], b.PriorDigest[:recentBytes])
	}
	return r[max(0, len(r)-recentBatches*recentBytes):]
}

// at returns what r, which is up to the sequence last, has for a batch, nil if nothing.
func (r Recent) at(last, sequence uint64) Recent {
	back := last - sequence + 1
	if sequence > last || back > uint64(len(r)/recentBytes) {
		return nil
	}
	return r[len(r)-int(back)*recentBytes:][:recentBytes]
}

// Found returns a copy of r, which is up to the sequence last, that knows of a batch that was lost
// before, and of the one that it goes on from.
func (r Recent) Found(last uint64, b *FoundBatch) Recent {
	r = slices.Clone(r)
	copy(r.at(last, b.Sequence), b.Digest[:recentBytes])
	if prior := r.at(last, b.Sequence-1); string(prior) == unknownDigest {
		copy(prior, b.PriorDigest[:recentBytes])
	}
	return r
}

// Is says whether the batch of that sequence, at or before the sequence last that r is up to, has
// this digest, if that is known.
func (r Recent) Is(last, sequence uint64, digest Digest) (is, known bool) {
	at := r.at(last, sequence)
	if at == nil || string(at) == unknownDigest {
		return false, false
	}
	return string(at) == string(digest[:recentBytes]), true
}

// Marks is what the database says of a shard in one snapshot.
type Marks struct {
	// Books is which books the database has, in the same snapshot.
	Books BooksID

	// Of has the producers asked for that the database knows.
	Of map[ProducerID]Mark

	// Horizon: marks of producers born before it may have been cleaned up. So it can't be told what
	// was applied of such a producer that is unknown.
	Horizon time.Time

	// Changes is how many times the books and the quarantine of the shard have changed: at every
	// Apply, also of a flush that books no update, and at every Quarantine. Only a database that
	// was turned back to an earlier state has fewer than before.
	Changes int64
}

// Pruned says whether the mark of the producer, one of those asked for, may have been cleaned up,
// so that it can't be told what was applied of it.
func (m Marks) Pruned(id ProducerID) bool {
	_, known := m.Of[id]
	return !known && id.Born().Before(m.Horizon)
}

// ErrFenced is returned by Store.Apply when a mark isn't where a claim says, or a batch found isn't
// missing: another flusher has committed one of these batches, or this one in a try whose reply was
// lost. Nothing was written. Read the marks again.
var ErrFenced = errors.New("claim lost: a batch of this flush is committed already")

// ErrRefused is wrapped by Store.Apply where the database refuses the flush for what it is, such as
// a sum out of range, and can't set the rows at fault aside. Nothing was written, and trying again
// can't help.
var ErrRefused = errors.New("refused")

// Store is the database that has the truth. Stores are safe for concurrent use. The suite in
// package storetest says what an implementation must do.
type Store interface {
	// Books returns which books the database has. Where there are several servers, it asks the one
	// that takes writes.
	Books(ctx context.Context) (BooksID, error)

	// Marks returns the marks of these producers in the shard.
	Marks(ctx context.Context, shard int, producers []ProducerID) (Marks, error)

	// Apply commits all of the flush or nothing. It returns ErrFenced if a claim doesn't fit,
	// ErrOtherBooks if the database has other books than the flush is of, and ErrRefused.
	// Deadlocks, serialization failures and the like are tried again inside. After any other error
	// the outcome is unknown: the same batches may be applied again, and the claim sees to it that
	// they count once. Apply doesn't change the flush. What it takes out of Facts it tells in
	// Outcome, and keeps for FactStore.Outcomes.
	Apply(ctx context.Context, f *Flush) error

	// Quarantine keeps entries that can't be applied, each once however often it is called with it.
	// It counts as a change in Marks.Changes every time. The error wraps ErrQuarantineFull if some
	// are Bounded and there is no room for these.
	Quarantine(ctx context.Context, bad []BadBatch) error

	// InQuarantine says of each of these entries of the shard, named by the SHA-256 of its bytes,
	// whether Quarantine or Apply has kept it, settled or not.
	InQuarantine(ctx context.Context, shard int, sums [][sha256.Size]byte) ([]bool, error)

	// TouchMarks keeps the marks of living producers, one for each shard from 0, from being pruned,
	// and prunes those that were neither moved nor touched for the given time. It returns how many
	// it has pruned.
	//
	// now is the caller's clock. The earlier of it and the store's own decides, and nothing is
	// pruned while the two differ by more than an hour. Marks.Horizon moves no further than to the
	// birth of the youngest producer pruned, so no clock can make a living producer's batches look
	// like those of a pruned one.
	TouchMarks(ctx context.Context, living []ProducerID, now time.Time, idle time.Duration) (pruned int64, err error)
}
