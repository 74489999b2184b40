package spend

import (
	"cmp"
	"slices"
)

// FactBatch gathers facts until they are sealed as one batch: it makes the rows that they add up
// to. It is used by one goroutine. The zero value is empty, and can be used again after Reset.
type FactBatch struct {
	pieces []byte // encoded, with the places of rows as they were met
	n      int    // pieces
	rows   []RollupRow
	counts [][]*factTotal      // what each row counts on
	places map[rollupPlace]int // in rows
	totals []*factTotal
	texts  int
	parts  []PiecePart // of the piece that is being added

	// What is known of series from batches before this one, too: most come again.
	number   uint64 // of this batch
	series   map[Key][]*factTotal
	entities map[Entity]*factTotal
}

// factTotal is an entity, and what the batch of that number counts on it once that is sealed.
type factTotal struct {
	TotalRow

	batch uint64 // the last one that it's in
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
		b.number, b.places = 1, map[rollupPlace]int{}
		b.series, b.entities = map[Key][]*factTotal{}, map[Entity]*factTotal{}
	}
	if b.n > 0 && !b.fits(parts) {
		return false
	}

	b.parts = b.parts[:0]
	for i := range parts {
		b.parts = append(b.parts, PiecePart{b.row(&parts[i]), parts[i].Counters})
	}
	b.parts = inOrder(b.parts)
	b.n++
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
	if b.n >= MaxBatchPieces || len(b.pieces) >= MaxBatchTexts || rows > MaxBatchRows || texts > MaxBatchTexts {
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
		for _, total := range b.countsOf(&parts[i]) {
			if total.batch != b.number {
				totals++
			}
		}
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
	counts := b.countsOf(part)
	for _, total := range counts {
		if total.batch != b.number {
			total.batch = b.number
			b.totals = append(b.totals, total)
		}
	}
	row := part.Series.Row(part.Key, part.Hour, &part.Counters)
	place = len(b.rows)
	b.places[of] = place
	b.rows, b.counts, b.texts = append(b.rows, row), append(b.counts, counts), b.texts+row.Texts()
	return place
}

// countsOf returns the entities that the series of the part counts on.
func (b *FactBatch) countsOf(part *FactPart) []*factTotal {
	counts, there := b.series[part.Key]
	if there {
		return counts
	}
	series := part.Series.Series()
	series.EachEntity(func(e Entity) {
		total := b.entities[e]
		if total == nil {
			total = &factTotal{TotalRow: TotalRow{Key: e.Key(), Entity: e}}
			b.entities[e] = total
		}
		counts = append(counts, total)
	})
	b.series[part.Key] = counts
	return counts
}

// Len returns how many pieces were added.
func (b *FactBatch) Len() int { return b.n }

// Size returns the totals, the rollup rows and the bytes of texts, as MaxBatchRows and
// MaxBatchTexts count them.
func (b *FactBatch) Size() (totals, rollups, texts int) { return len(b.totals), len(b.rows), b.texts }

// Rows returns the rollup rows that the facts add up to, in no order. They are valid until anything
// is added, and must not be changed.
func (b *FactBatch) Rows() []RollupRow { return b.rows }

// Reset makes it empty. It remembers the series of this batch for the next one, and some more.
func (b *FactBatch) Reset() {
	if len(b.series) > 2*len(b.rows) {
		clear(b.series)
		clear(b.entities)
	}
	clear(b.rows)
	clear(b.counts)
	clear(b.places)
	clear(b.totals)
	b.pieces, b.rows, b.counts, b.totals = b.pieces[:0], b.rows[:0], b.counts[:0], b.totals[:0]
	b.n, b.texts = 0, 0
	b.number++
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

	encoded := make([]byte, 0, len(b.pieces)+b.n)
	for _, p := range (Pieces{string(b.pieces), b.n, b.rows}).All() {
		for i := range p.Parts {
			p.Parts[i].Row = placeOf[p.Parts[i].Row]
		}
		p.Parts = inOrder(p.Parts)
		encoded = appendPiece(encoded, p)
	}
	return k.newBatch(h, b.sumTotals(), rollups, pieceSection{encoded, b.n})
}

// pieceSection are the encoded pieces of a batch.
type pieceSection struct {
	encoded []byte
	n       int
}

// sumTotals returns what the rows count on entities, in the order of the keys.
func (b *FactBatch) sumTotals() []TotalRow {
	for _, total := range b.totals {
		total.Counters = Counters{}
	}
	for i, counts := range b.counts {
		for _, total := range counts {
			total.Counters.Add(&b.rows[i].Counters)
		}
	}
	totals := make([]TotalRow, len(b.totals))
	for i, total := range b.totals {
		totals[i] = total.TotalRow
	}
	slices.SortFunc(totals, func(a, b TotalRow) int { return a.Key.Compare(b.Key) })
	return totals
}
