package spend

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
)

// A batch of facts (format 2) has its pieces behind the rows that they add up to:
//
//	number of pieces, varint; then for each
//	identity, 16 bytes
//	fingerprint, 6 bytes
//	twice the number of its rows, and 1 more if the fact is a single update; varint
//	for each row: its place among the rollup rows, varint, and the counters
//
// A piece that is one update takes about 40 bytes.

// MaxBatchPieces bounds the pieces of one batch. One of a single update takes about 40 bytes in it.
const MaxBatchPieces = 20_000

// minPieceSize is the least that a piece takes in a batch.
const minPieceSize = 16 + fingerprintSize + 1 + minPartSize

const minPartSize = 1 + 1 + 1 // of a row of a piece: its place, the mask of the counters, one of them

// AllBuckets is the mask of a fact that is known by its id alone, wherever it counts.
const AllBuckets = ^uint64(0)

// Piece is what a fact has in one shard.
type Piece struct {
	ID      FactID
	Content Fingerprint

	// Single says that the fact is one update. It has one part then.
	Single bool

	// Parts are what it counts, in the order of the rows. The slice is valid until the next piece
	// is read.
	Parts []PiecePart
}

// PiecePart is what a piece adds to one rollup row of its batch.
type PiecePart struct {
	Row      int // place among the rollup rows, from 0
	Counters Counters
}

// Updates returns how many updates the piece has.
func (p *Piece) Updates() (n int64) {
	for i := range p.Parts {
		n += p.Parts[i].Counters.APIRequests()
	}
	return n
}

// Pieces are those of one batch, in the order in which they were sealed. They lie as they are in
// the batch, whose texts and rollup rows they keep in memory, and are decoded each time that they
// are read. The zero value has none.
type Pieces struct {
	encoded string
	n       int
	rows    []RollupRow
}

// Len returns how many pieces there are.
func (p Pieces) Len() int { return p.n }

// Row returns the rollup row of that place in the batch. Its counters are the sums of all pieces.
func (p Pieces) Row(place int) *RollupRow { return &p.rows[place] }

// All yields the pieces with their places, from 0. A piece is valid until the next one.
func (p Pieces) All() iter.Seq2[int, *Piece] {
	return func(yield func(int, *Piece) bool) {
		d := decoder{rest: p.encoded}
		var piece Piece
		add := func(part PiecePart) { piece.Parts = append(piece.Parts, part) }
		for i := range p.n {
			piece.Parts = piece.Parts[:0]
			d.piece(&piece, len(p.rows), add)
			if d.bad || !yield(i, &piece) {
				return
			}
		}
	}
}

// BucketsOf returns the buckets that a piece counts in, as a mask, bit i for bucket i.
func (p Pieces) BucketsOf(piece *Piece) (mask uint64) {
	for i := range piece.Parts {
		mask |= 1 << p.rows[piece.Parts[i].Row].Key.Bucket()
	}
	return mask
}

// piece reads a piece of a batch that has so many rows. Its parts go to visit, and not into the
// piece.
func (d *decoder) piece(p *Piece, rows int, visit func(PiecePart)) {
	copy(p.ID[:], d.take(uint64(len(p.ID))))
	p.Content = 0
	for range fingerprintSize {
		p.Content = p.Content<<8 | Fingerprint(d.byte())
	}
	n := d.uvarint()
	p.Single = n&1 == 1
	if n >>= 1; n == 0 || p.Single && n > 1 || n > uint64(rows) || n > uint64(len(d.rest)/minPartSize) {
		d.fail()
		n = 0
	}
	last := int64(-1)
	for range n {
		row := d.count63()
		counters := d.counters()
		if row <= last || row >= int64(rows) { // each row once
			d.fail()
		}
		if d.bad {
			return
		}
		visit(PiecePart{int(row), counters})
		last = row
	}
}

func appendPiece(to []byte, p *Piece) []byte {
	to = append(to, p.ID[:]...)
	for i := range fingerprintSize {
		to = append(to, byte(p.Content>>(8*(fingerprintSize-1-i))))
	}
	n := uint64(len(p.Parts)) << 1
	if p.Single {
		n |= 1
	}
	to = binary.AppendUvarint(to, n)
	for i := range p.Parts {
		to = binary.AppendUvarint(to, uint64(p.Parts[i].Row))
		to = appendCounters(to, &p.Parts[i].Counters)
	}
	return to
}

// pieces reads what is behind the rows, and checks that the pieces are the rows, counter by
// counter. It counts the rows down, and up again.
func (d *decoder) pieces(rows *Rows) error {
	n := d.uvarint()
	if n == 0 || n > MaxBatchPieces || n > uint64(len(d.rest)/minPieceSize) {
		return fmt.Errorf("%d pieces in %d bytes; allowed are %d", n, len(d.rest), MaxBatchPieces)
	}
	rows.Pieces = Pieces{encoded: d.rest, n: int(n), rows: rows.Rollups}
	sums := make([]Counters, len(rows.Rollups))
	var p Piece
	var fault error
	for i := range int(n) {
		d.piece(&p, len(sums), func(part PiecePart) {
			if part.Counters.APIRequests() < 1 || p.Single && part.Counters.APIRequests() != 1 {
				fault = fmt.Errorf("piece %d counts %d updates in rollup row %d", i, part.Counters.APIRequests(), part.Row)
			}
			sums[part.Row].Add(&part.Counters)
		})
		if d.bad {
			return fmt.Errorf("piece %d can't be read", i)
		}
		if fault != nil {
			return fault
		}
	}
	rows.Pieces.encoded = rows.Pieces.encoded[:len(rows.Pieces.encoded)-len(d.rest)]
	for i := range sums {
		if sums[i] != rows.Rollups[i].Counters {
			return errors.New("the pieces don't add up to the rows")
		}
	}
	return nil
}
