package spend

import (
	"cmp"
	"slices"
)

// FactBatch gathers facts until they are sealed as one batch: it makes the rows that they add up
// to. It is used by one goroutine. The zero value is empty, and can be used again after Reset.
type FactBatch struct {
	pieces []byte // encoded, with the places of rows as they were met
	starts []int  // of the pieces
	rows   []RollupRow
	places map[rollupPlace]int // in rows
	totals map[Entity]struct{}
	texts  int
	parts  []PiecePart // of the piece that is being added
}

// rollupPlace names a rollup row.
type rollupPlace struct {
	hour Hour
	key  Key
}

// FactPart is what a fact counts for one series in one hour.
type FactPart struct {
	Series   CanonicalSeries
	Key      Key // of the series
	Hour     Hour
	Counters Counters
}

// Add adds what a fact has in the shard of the batch: one part at least, each with an update at
// least. single says that the fact is one update, by its own id. The parts are not kept. It says
// whether the fact fits into the batch; if it doesn't, nothing is added, and the batch is to be
// sealed first. Into an empty one every fact fits that has at most MaxBatchRows totals and as many
// rows, and MaxBatchTexts bytes of texts.
func (b *FactBatch) Add(id FactID, content Fingerprint, single bool, parts ...FactPart) (fits bool) {
	if b.places == nil {
		b.places, b.totals = map[rollupPlace]int{}, map[Entity]struct{}{}
	}
	if len(b.starts) > 0 && !b.fits(parts) {
		return false
	}

	b.parts = b.parts[:0]
	for i := range parts {
		b.parts = append(b.parts, PiecePart{b.row(&parts[i]), parts[i].Counters})
	}
	b.parts = inOrder(b.parts)
	b.starts = append(b.starts, len(b.pieces))
	b.pieces = appendPiece(b.pieces, &Piece{id, content, single, b.parts})
	return true
}

// inOrder sorts the parts, and makes one of those of the same row.
func inOrder(parts []PiecePart) []PiecePart {
	slices.SortFunc(parts, func(a, b PiecePart) int { return cmp.Compare(a.Row, b.Row) })
	n := 0
	for i := range parts {
		if n > 0 && parts[n-1].Row == parts[i].Row {
			parts[n-1].Counters.Add(&parts[i].Counters)
			continue
		}
		parts[n] = parts[i]
		n++
	}
	return parts[:n]
}

// fits says whether the batch has room for a fact. It counts what the parts have in common as often
// as they have it.
func (b *FactBatch) fits(parts []FactPart) bool {
	rows, texts := len(b.rows), b.texts
	for i := range parts {
		if !b.has(&parts[i]) {
			rows, texts = rows+1, texts+len(parts[i].Series)
		}
	}
	if len(b.starts) >= MaxBatchPieces || len(b.pieces) >= MaxBatchTexts || rows > MaxBatchRows || texts > MaxBatchTexts {
		return false
	}

	totals := len(b.totals)
	if totals+maxSeriesEntities*(rows-len(b.rows)) <= MaxBatchRows {
		return true
	}
	for i := range parts {
		if b.has(&parts[i]) {
			continue
		}
		series := parts[i].Series.Series()
		series.EachEntity(func(e Entity) {
			if _, there := b.totals[e]; !there {
				totals++
			}
		})
	}
	return totals <= MaxBatchRows
}

// has says whether there is a row for the part.
func (b *FactBatch) has(part *FactPart) bool {
	_, there := b.places[rollupPlace{part.Hour, part.Key}]
	return there
}

// row adds to the row of the part, and returns its place.
func (b *FactBatch) row(part *FactPart) int {
	of := rollupPlace{part.Hour, part.Key}
	place, there := b.places[of]
	if there {
		b.rows[place].Counters.Add(&part.Counters)
		return place
	}
	row := part.Series.Row(part.Key, part.Hour, &part.Counters)
	series := row.Series()
	series.EachEntity(func(e Entity) { b.totals[e] = struct{}{} })
	place = len(b.rows)
	b.places[of] = place
	b.rows, b.texts = append(b.rows, row), b.texts+row.Texts()
	return place
}

// Len returns how many pieces were added.
func (b *FactBatch) Len() int { return len(b.starts) }

// Size returns the totals, the rollup rows and the bytes of texts, as MaxBatchRows and
// MaxBatchTexts count them.
func (b *FactBatch) Size() (totals, rollups, texts int) { return len(b.totals), len(b.rows), b.texts }

// Rows returns the rollup rows that the facts add up to, in no order. They are valid until anything
// is added, and must not be changed.
func (b *FactBatch) Rows() []RollupRow { return b.rows }

// Reset makes it empty.
func (b *FactBatch) Reset() {
	clear(b.rows)
	clear(b.places)
	clear(b.totals)
	b.pieces, b.starts, b.rows, b.texts = b.pieces[:0], b.starts[:0], b.rows[:0], 0
}

// Seal seals what was added, at least one fact, as a batch of format 2, and signs it if there is a
// Key. It fills in what NewBatch does.
func (b *FactBatch) Seal(k *BatchKeys, h Header) *Batch {
	order := make([]int, len(b.rows)) // the places as they were met, in the order of the rows
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int { return b.rows[i].Compare(&b.rows[j]) })
	rollups, placeOf := make([]RollupRow, len(order)), make([]int, len(order))
	for place, met := range order {
		rollups[place], placeOf[met] = b.rows[met], place
	}

	encoded := make([]byte, 0, len(b.pieces)+len(b.starts))
	for _, p := range (Pieces{string(b.pieces), len(b.starts), b.rows}).All() {
		for i := range p.Parts {
			p.Parts[i].Row = placeOf[p.Parts[i].Row]
		}
		p.Parts = inOrder(p.Parts)
		encoded = appendPiece(encoded, p)
	}
	return k.newBatch(h, totalsOf(rollups), rollups, pieceSection{encoded, len(b.starts)})
}

// pieceSection are the encoded pieces of a batch.
type pieceSection struct {
	encoded []byte
	n       int
}

// totalsOf returns what rollup rows count on entities, in the order of the keys.
func totalsOf(rollups []RollupRow) []TotalRow {
	sums := map[Entity]*TotalRow{}
	for i := range rollups {
		series := rollups[i].Series()
		series.EachEntity(func(e Entity) {
			total := sums[e]
			if total == nil {
				total = &TotalRow{Key: e.Key(), Entity: e}
				sums[e] = total
			}
			total.Counters.Add(&rollups[i].Counters)
		})
	}
	totals := make([]TotalRow, 0, len(sums))
	for _, total := range sums {
		totals = append(totals, *total)
	}
	slices.SortFunc(totals, func(a, b TotalRow) int { return a.Key.Compare(b.Key) })
	return totals
}
