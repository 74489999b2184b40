package pgstore

import (
	"github.com/spendflush/spendflush/spend"
)

// encodedFlush is what a flush is, beside its rows, as parameters of the statements. It is made
// once and sent at every try.
type encodedFlush struct {
	claims, lost, quarantine, control []param

	held, split, found []param // of what was lost and is found

	covered, twice []param // of what was applied by hand

	fingerprints []call

	look  *factLook // what the flush was decided by, if that was before its transaction
	facts []call    // ids and what was taken out
}

// encodeFlush encodes a flush that counts as so many changes of the books. taken is what was taken
// out of it, nil if it has no facts.
func encodeFlush(e *encoder, f *spend.Flush, taken *spend.Decision, changes int16) encodedFlush {
	parts := e.parts(
		func() { encodeClaims(e, f) }, func() { encodeLost(e, f) }, func() { encodeBad(e, f.Shard, f.Quarantine) },
		func() { encodeControl(e, f, taken, changes) }, func() { encodeFound(e, f) }, func() { encodeSplit(e, f.Shard, foundPlaces(f)) },
		func() { encodeHeld(e, f.Shard, foundPlaces(f)) }, func() { encodeCovered(e, f) }, func() { encodeTwice(e, f) })
	return encodedFlush{claims: parts[0], lost: parts[1], quarantine: parts[2], control: parts[3], found: parts[4], split: parts[5],
		held: parts[6], covered: parts[7], twice: parts[8], fingerprints: fingerprintCalls(f)}
}

func encodeClaims(e *encoder, f *spend.Flush) {
	n, at := len(f.Claims), func(i int) *spend.Claim { return &f.Claims[i] }
	e.int2(int16(f.Shard))
	e.keys(n, func(i int) *[16]byte { return (*[16]byte)(&at(i).Producer) })
	e.int8s(n, func(i int) int64 { return int64(at(i).First) })
	e.int8s(n, func(i int) int64 { return int64(at(i).Last) })
	e.keys(n, func(i int) *[16]byte { return (*[16]byte)(&at(i).Prior) })
	e.keys(n, func(i int) *[16]byte { return (*[16]byte)(&at(i).Digest) })
	e.byteas(n, func(i int) []byte { return at(i).Recent })
	e.int8s(n, func(i int) int64 { return at(i).Updates })
	e.amounts(n, func(i int) spend.Amount { return at(i).Amount })
	e.int8s(n, func(i int) int64 { return at(i).SealedUpdates })
	e.amounts(n, func(i int) spend.Amount { return at(i).SealedAmount })
}

func encodeLost(e *encoder, f *spend.Flush) {
	n, at := len(f.Lost), func(i int) *spend.LostRange { return &f.Lost[i] }
	e.int2(int16(f.Shard))
	e.keys(n, func(i int) *[16]byte { return (*[16]byte)(&at(i).Producer) })
	e.int8s(n, func(i int) int64 { return int64(at(i).First) })
	e.int8s(n, func(i int) int64 { return int64(at(i).Last) })
	e.texts(n, func(i int) string { return plainText(at(i).Reason) })
	e.bools(n, func(i int) bool { return at(i).Quarantined })
}

func encodeFound(e *encoder, f *spend.Flush) {
	n, at := len(f.Found), func(i int) *spend.FoundBatch { return &f.Found[i] }
	e.int2(int16(f.Shard))
	e.keys(n, func(i int) *[16]byte { return (*[16]byte)(&at(i).Producer) })
	e.int8s(n, func(i int) int64 { return int64(at(i).Sequence) })
	e.int8s(n, func(i int) int64 { return at(i).Updates })
	e.amounts(n, func(i int) spend.Amount { return at(i).Amount })
	e.keys(n, func(i int) *[16]byte { return (*[16]byte)(&at(i).Digest) })
	e.keys(n, func(i int) *[16]byte { return (*[16]byte)(&at(i).PriorDigest) })
}

func encodeCovered(e *encoder, f *spend.Flush) {
	n, at := len(f.ByHand), func(i int) *spend.ByHandBatch { return &f.ByHand[i] }
	e.int2(int16(f.Shard))
	e.keys(n, func(i int) *[16]byte { return (*[16]byte)(&at(i).Producer) })
	e.int8s(n, func(i int) int64 { return int64(at(i).Sequence) })
	e.keys(n, func(i int) *[16]byte { return (*[16]byte)(&at(i).Digest) })
}

func encodeTwice(e *encoder, f *spend.Flush) {
	claims, found := len(f.Claims), len(f.Found)
	e.int2(int16(f.Shard))
	e.keys(claims, func(i int) *[16]byte { return (*[16]byte)(&f.Claims[i].Producer) })
	e.int8s(claims, func(i int) int64 { return int64(f.Claims[i].First) })
	e.int8s(claims, func(i int) int64 { return int64(f.Claims[i].Last) })
	e.byteas(claims, func(i int) []byte { return f.Claims[i].Recent })
	e.keys(found, func(i int) *[16]byte { return (*[16]byte)(&f.Found[i].Producer) })
	e.int8s(found, func(i int) int64 { return int64(f.Found[i].Sequence) })
	e.keys(found, func(i int) *[16]byte { return (*[16]byte)(&f.Found[i].Digest) })
}

func encodeTotals(e *encoder, shard int, rows []spend.TotalRow, places []int) {
	e.keys(len(places), func(i int) *[16]byte { return (*[16]byte)(&rows[places[i]].Key) })
	e.int2(int16(shard))
	e.counters(len(places), func(i int) *spend.Counters { return &rows[places[i]].Counters })
}

// encodeFreshTotals encodes rows that are perhaps not in the table, and notes them.
func (t *transaction) encodeFreshTotals(e *encoder, shard int, rows []spend.TotalRow, places []int) {
	encodeTotals(e, shard, rows, places)
	for _, i := range places {
		t.written = append(t.written, totalOf(shard, &rows[i]))
	}
}

func encodeRollups(e *encoder, rows []spend.RollupRow, places []int) {
	n, at := len(places), func(i int) *spend.RollupRow { return &rows[places[i]] }
	e.dates(n, func(i int) int32 { day, _ := split(at(i).Hour); return day })
	e.int2s(n, func(i int) int16 { _, hour := split(at(i).Hour); return hour })
	e.keys(n, func(i int) *[16]byte { return (*[16]byte)(&at(i).Key) })
	e.counters(n, func(i int) *spend.Counters { return &at(i).Counters })
}

// encodeFreshRollups encodes rows that are perhaps not in the table, and notes them.
func (t *transaction) encodeFreshRollups(e *encoder, rows []spend.RollupRow, places []int) {
	encodeRollups(e, rows, places)
	for _, i := range places {
		t.written = append(t.written, rollupOf(&rows[i]))
	}
}

// totalOf names the row of a total. There is one in each shard, under a key of its own.
func totalOf(shard int, r *spend.TotalRow) row {
	key := r.Key
	key[len(key)-1] ^= byte(shard)
	return row{key, 0}
}

func rollupOf(r *spend.RollupRow) row { return row{r.Key, r.Hour} }

// split returns the day of the hour, counted from 1970-01-01, and the hour of that day.
func split(h spend.Hour) (day int32, hour int16) {
	day, rest := int32(h)/24, int32(h)%24
	if rest < 0 {
		day, rest = day-1, rest+24
	}
	return day, int16(rest)
}

// rollupBook is how the book of the rollups is named in the database. The totals of an entity type
// are a book of its name.
const rollupBook = "rollup"

// The books of what was taken out before it was booked.
const (
	bookDuplicate = "duplicate"
	bookConflict  = "conflict"
)

// encodeControl encodes the control sums, what was taken out, and how many changes of the books
// they are.
func encodeControl(e *encoder, f *spend.Flush, taken *spend.Decision, changes int16) {
	books := []string{rollupBook} // always: it counts the changes
	sums := []*spend.Counters{&f.Control.Rollups}
	add := func(book string, c *spend.Counters) {
		if *c != (spend.Counters{}) {
			books, sums = append(books, book), append(sums, c)
		}
	}
	for _, t := range spend.EntityTypes() {
		add(t.String(), f.Control.Of(t))
	}
	if taken != nil {
		add(bookDuplicate, &taken.Duplicates)
		add(bookConflict, &taken.Conflicts)
	}
	e.int2(int16(f.Shard))
	e.texts(len(books), func(i int) string { return books[i] })
	e.int2(changes)
	e.counters(len(books), func(i int) *spend.Counters { return sums[i] })
}
