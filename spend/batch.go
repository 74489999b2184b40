package spend

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"time"
)

// BatchVersion is the newest batch format that this package reads. A batch without facts is written
// in format 1, which programs of before read, too.
const BatchVersion = 2

// The formats that are written.
const (
	plainVersion = 1 // sums alone
	factVersion  = 2 // sums, and behind them the pieces that they are of: see pieces.go
)

// The layout of a batch, all numbers big-endian. The header keeps its meaning in every later
// version, so that a batch of a newer format can be told apart, waited for and counted without
// knowing its rows.
//
//	0  magic "SF"                  40  sealed at, Unix milliseconds, 64 bits
//	2  version, 8 bits             48  updates, 64 bits
//	3  1 if signed, else 0         56  amount, 128 bits
//	4  CRC-32C of all other bytes  72  number of totals, 32 bits
//	8  length of the whole         76  number of rollup rows, 32 bits
//	12 shard, 16 bits              80  prior updates, 64 bits
//	14 zero, 16 bits               88  prior amount, 128 bits
//	16 producer                    104 prior digest
//	32 sequence, 64 bits           120 books
//	                               136 payload; behind it 32 bytes of signature, if signed
//
// The payload of version 1 holds the control sums, a table of the texts used, the totals by key,
// and the rollup rows by hour and key. That of version 2 has the pieces of facts behind them. Texts
// are places in the table; counters are written as a mask of those that aren't zero and then these,
// as varints.
const (
	batchMagic      = "SF"
	batchHeaderSize = 136
	batchBooksAt    = 120
	batchSignedAt   = 3
)

// MaxShards is the largest number of shards.
const MaxShards = 64

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// batchChecksum covers the version too: a flipped bit there would make every flusher leave the
// batch for a newer one, and the producer, which sees its entry in the queue, would never send it
// again.
func batchChecksum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:4], castagnoli), castagnoli, b[8:])
}

var (
	// ErrCorruptBatch is wrapped by errors about bytes that aren't a batch, or not a whole one.
	ErrCorruptBatch = errors.New("corrupt batch")
	// ErrNewerBatch is wrapped by errors about a batch of a format that only a newer program reads.
	ErrNewerBatch = errors.New("batch of a newer format")
)

// Header says what a batch is, apart from its rows.
type Header struct {
	Version  uint8
	Shard    int
	Producer ProducerID
	Sequence uint64    // place among the batches of the producer in the shard, from 1
	SealedAt time.Time // to the millisecond
	Updates  int64     // updates counted in the rollup rows
	Amount   Amount    // and their sum
	Totals   int       // number of total rows
	Rollups  int       // number of rollup rows

	// The sums over all earlier batches of the producer in the shard. They tell how much is missing
	// where batches are.
	PriorUpdates int64
	PriorAmount  Amount
	PriorDigest  Digest // of the batch before it, zero for the first one

	// Books names the books that the batch belongs to. Zero while its producer doesn't know them
	// yet.
	Books BooksID
}

// Digest stands for what a batch holds, and all batches of its producer and shard before it: the
// first 16 bytes of the SHA-256 of its bytes, which contain the digest of the batch before it. Left
// out are the checksum, the books and the signature, so that a batch keeps its digest when it
// learns which books it is for.
type Digest [16]byte

// BooksID names the books of one database.
type BooksID [16]byte

// Batch is the sealed sums of one producer for one shard. Its bytes are frozen: every push sends
// the same ones.
type Batch struct {
	Header
	digest Digest
	bytes  []byte
}

// Digest returns what the batch is known by, besides its producer, shard and sequence.
func (b *Batch) Digest() Digest { return b.digest }

// Checksum returns the CRC-32C in the header, which covers all other bytes of the batch. It tells
// batches apart that have the same producer, shard and sequence, but by chance not.
func (b *Batch) Checksum() uint32 { return binary.BigEndian.Uint32(b.bytes[4:]) }

// payloadOf returns what is between the header and the signature, if there is one.
func payloadOf(b []byte) []byte {
	if isSigned(b) {
		return b[batchHeaderSize : len(b)-signatureSize]
	}
	return b[batchHeaderSize:]
}

func digestOf(b []byte) (d Digest) {
	h := sha256.New()
	payload := payloadOf(b)
	h.Write(b[:batchSignedAt])
	h.Write([]byte{0}) // that it is signed is part of the signature, as is the length of that
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(batchHeaderSize+len(payload))))
	h.Write(b[12:batchBooksAt])
	h.Write(payload)
	copy(d[:], h.Sum(nil))
	return d
}

// Bytes returns the frozen bytes. They must not be changed.
func (b *Batch) Bytes() []byte { return b.bytes }

// Rows are the decoded rows of a batch, sorted as in a Flush.
type Rows struct {
	Totals  []TotalRow
	Rollups []RollupRow
	Control Control
	Pieces  Pieces // what the rows are the sums of; none in a batch of format 1
}

// NewBatch seals rows, which must be sorted as in a Flush and not repeat a key. It fills in the
// header's Version, Updates, Amount, Totals and Rollups; the rest is the caller's. The rows are not
// kept.
func NewBatch(h Header, totals []TotalRow, rollups []RollupRow) *Batch {
	return (&BatchKeys{}).NewBatch(h, totals, rollups)
}

// NewBatch does what the function NewBatch does, and signs the batch if there is a Key.
func (k *BatchKeys) NewBatch(h Header, totals []TotalRow, rollups []RollupRow) *Batch {
	return k.newBatch(h, totals, rollups, pieceSection{})
}

func (k *BatchKeys) newBatch(h Header, totals []TotalRow, rollups []RollupRow, pieces pieceSection) *Batch {
	e := batchEncoder{
		index: map[string]uint64{}, table: []string{""},
		rows: make([]byte, 0, 32*len(totals)+48*len(rollups)+len(pieces.encoded)), // about what they take
	}
	var control Control
	for i := range totals {
		e.total(&totals[i])
		control.Of(totals[i].Entity.Type).Add(&totals[i].Counters)
	}
	for i := range rollups {
		e.rollup(&rollups[i])
		control.Rollups.Add(&rollups[i].Counters)
	}
	h.Version = plainVersion
	if pieces.n > 0 {
		h.Version = factVersion
		e.rows = append(binary.AppendUvarint(e.rows, uint64(pieces.n)), pieces.encoded...)
	}
	h.SealedAt = time.UnixMilli(h.SealedAt.UnixMilli())
	h.Updates, h.Amount = control.Rollups.APIRequests(), control.Rollups.Spend
	h.Totals, h.Rollups = len(totals), len(rollups)
	bytes := k.sign(e.frame(&h, &control))
	return &Batch{Header: h, digest: digestOf(bytes), bytes: bytes}
}

// batchEncoder gathers the rows while it builds the table of texts that goes before them.
type batchEncoder struct {
	index map[string]uint64
	table []string
	rows  []byte
}

func (e *batchEncoder) text(text string) {
	if text == "" { // as most are
		e.rows = append(e.rows, 0)
		return
	}
	at, ok := e.index[text]
	if !ok {
		at = uint64(len(e.table))
		e.index[text] = at
		e.table = append(e.table, text)
	}
	e.rows = binary.AppendUvarint(e.rows, at)
}

func (e *batchEncoder) total(row *TotalRow) {
	e.rows = append(e.rows, row.Key[:]...)
	e.rows = append(e.rows, byte(row.Entity.Type))
	e.text(row.Entity.ID)
	e.text(row.Entity.TeamID)
	e.rows = appendCounters(e.rows, &row.Counters)
}

func (e *batchEncoder) rollup(row *RollupRow) {
	e.rows = append(e.rows, row.Key[:]...)
	e.rows = binary.AppendVarint(e.rows, int64(row.Hour))
	r := row.source.reader()
	for range seriesFields {
		e.text(r.text())
	}
	tags := r.count()
	e.rows = binary.AppendUvarint(e.rows, uint64(tags))
	for range tags {
		e.text(r.text())
	}
	e.rows = appendCounters(e.rows, &row.Counters)
}

func (e *batchEncoder) frame(h *Header, control *Control) []byte {
	size := batchHeaderSize + len(e.rows) + 32*(1+len(control.Totals)) + signatureSize
	for _, text := range e.table {
		size += 2 + len(text)
	}
	b := make([]byte, batchHeaderSize, size)
	copy(b, batchMagic)
	b[2] = h.Version
	binary.BigEndian.PutUint16(b[12:], uint16(h.Shard))
	copy(b[16:], h.Producer[:])
	binary.BigEndian.PutUint64(b[32:], h.Sequence)
	binary.BigEndian.PutUint64(b[40:], uint64(h.SealedAt.UnixMilli()))
	binary.BigEndian.PutUint64(b[48:], uint64(h.Updates))
	putAmount(b[56:], h.Amount)
	binary.BigEndian.PutUint32(b[72:], uint32(h.Totals))
	binary.BigEndian.PutUint32(b[76:], uint32(h.Rollups))
	binary.BigEndian.PutUint64(b[80:], uint64(h.PriorUpdates))
	putAmount(b[88:], h.PriorAmount)
	copy(b[104:], h.PriorDigest[:])
	copy(b[batchBooksAt:], h.Books[:])
	b = appendCounters(b, &control.Rollups)
	for i := range control.Totals {
		b = appendCounters(b, &control.Totals[i])
	}
	b = binary.AppendUvarint(b, uint64(len(e.table)))
	for _, text := range e.table {
		b = appendText(b, text)
	}
	b = append(b, e.rows...)
	closeFrame(b)
	return b
}

// closeFrame fills in what depends on all other bytes.
func closeFrame(b []byte) {
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)))
	binary.BigEndian.PutUint32(b[4:], batchChecksum(b))
}

// maxBatchUpdates bounds the updates of a batch: months of a million a second in one.
const maxBatchUpdates = 1e13

// plausible says whether so many updates can have cost so much. It keeps made-up bytes from
// overflowing a sum, after which nothing more could be booked.
func (h *Header) plausible() bool {
	most := MaxSpend.mulSmall(uint64(h.Updates))
	return h.Amount.Cmp(most) <= 0 && h.Amount.Cmp(most.Neg()) >= 0
}

func putAmount(b []byte, a Amount) {
	binary.BigEndian.PutUint64(b, uint64(a.hi))
	binary.BigEndian.PutUint64(b[8:], a.lo)
}

func amountAt(b []byte) Amount {
	return Amount{int64(binary.BigEndian.Uint64(b)), binary.BigEndian.Uint64(b[8:])}
}

// ParseBatch checks the frame of the bytes, which it keeps, and reads the header. The error wraps
// ErrCorruptBatch or, with a Batch whose header can be used, ErrNewerBatch.
func ParseBatch(b []byte) (*Batch, error) {
	if len(b) < batchHeaderSize || string(b[:2]) != batchMagic {
		return nil, fmt.Errorf("%w: %d bytes without a batch header", ErrCorruptBatch, len(b))
	}
	if length := binary.BigEndian.Uint32(b[8:]); uint64(length) != uint64(len(b)) {
		return nil, fmt.Errorf("%w: %d bytes instead of %d", ErrCorruptBatch, len(b), length)
	}
	if want, got := binary.BigEndian.Uint32(b[4:]), batchChecksum(b); want != got {
		return nil, fmt.Errorf("%w: CRC-32C is %08x instead of %08x", ErrCorruptBatch, got, want)
	}
	if b[batchSignedAt] > 1 || isSigned(b) && len(b) < batchHeaderSize+signatureSize {
		return nil, fmt.Errorf("%w: %d bytes with signature %d", ErrCorruptBatch, len(b), b[batchSignedAt])
	}
	batch := &Batch{bytes: b, digest: digestOf(b), Header: Header{
		Version:  b[2],
		Shard:    int(binary.BigEndian.Uint16(b[12:])),
		Producer: ProducerID(b[16:32]),
		Sequence: binary.BigEndian.Uint64(b[32:]),
		SealedAt: time.UnixMilli(int64(binary.BigEndian.Uint64(b[40:]))),
		Updates:  int64(binary.BigEndian.Uint64(b[48:])),
		Amount:   amountAt(b[56:]),
		Totals:   int(binary.BigEndian.Uint32(b[72:])),
		Rollups:  int(binary.BigEndian.Uint32(b[76:])),

		PriorUpdates: int64(binary.BigEndian.Uint64(b[80:])),
		PriorAmount:  amountAt(b[88:]),
		PriorDigest:  Digest(b[104:120]),
		Books:        BooksID(b[batchBooksAt:batchHeaderSize]),
	}}
	h := &batch.Header
	if h.Version == 0 || h.Shard >= MaxShards || h.Sequence == 0 || h.Sequence > math.MaxInt64 ||
		h.Updates < 0 || h.Updates > maxBatchUpdates || h.PriorUpdates < 0 || !h.plausible() {
		return nil, fmt.Errorf("%w: impossible header %+v", ErrCorruptBatch, *h)
	}
	if h.Version > BatchVersion {
		return batch, fmt.Errorf("%w: version %d, this program reads up to %d", ErrNewerBatch, h.Version, BatchVersion)
	}
	return batch, nil
}

// MaxBatchRows bounds the totals, about, and the rollup rows of one batch; a seal with more becomes
// several batches.
const MaxBatchRows = 20_000

// MaxBatchTexts bounds the bytes of the ids, tags and dimensions of one batch, as they are without
// its table of texts. A batch has at least one series.
const MaxBatchTexts = 8 << 20

// smallest sizes of encoded rows, which bound what a header can make the decoder allocate
const (
	minTotalSize  = 16 + 1 + 1 + 1 + 1
	minRollupSize = 16 + 1 + seriesFields + 1 + 1
	minTextSize   = 2 // of one that isn't empty, in the table
)

// What a batch that was sealed has at most. Texts are counted as often as a row has them.
const (
	maxSeriesTexts    = (seriesFields + MaxTags) * MaxIDBytes
	maxSeriesEntities = seriesIDs + 1 + MaxTags // the member of a team is one more

	maxBatchTotals     = MaxBatchRows + maxSeriesEntities
	maxBatchTotalTexts = 2 * (MaxBatchTexts + maxSeriesTexts) // the member of a team has two that the series has once
)

// Rows decodes the rows and checks them: against the control sums, the header and the pieces, that
// each key is the hash of its texts, and that there is no more than one seal makes. What it
// allocates is less than ten bytes for each of the batch. The error wraps ErrCorruptBatch.
func (b *Batch) Rows() (*Rows, error) {
	return b.RowsKnowing(nil)
}

// RowsKnowing does what Rows does, but for the hashes of what is known.
func (b *Batch) RowsKnowing(known *KnownKeys) (*Rows, error) {
	rows, err := decodeRows(&b.Header, string(payloadOf(b.bytes)), known)
	if err != nil {
		return nil, fmt.Errorf("%w: producer %s shard %d sequence %d: %w", ErrCorruptBatch, b.Producer, b.Shard, b.Sequence, err)
	}
	return rows, nil
}

func decodeRows(h *Header, payload string, known *KnownKeys) (*Rows, error) {
	defer known.use()()
	if h.Totals > maxBatchTotals || h.Rollups > MaxBatchRows {
		return nil, fmt.Errorf("%d totals and %d rollup rows; allowed are %d and %d", h.Totals, h.Rollups, maxBatchTotals, MaxBatchRows)
	}
	d := decoder{rest: payload, known: known}
	rows := &Rows{}
	rows.Control.Rollups = d.counters()
	for i := range rows.Control.Totals {
		rows.Control.Totals[i] = d.counters()
	}
	table := d.table(1 + 2*h.Totals + (seriesFields+MaxTags)*h.Rollups)
	if d.bad {
		return nil, errors.New("the control sums or the table of texts can't be read")
	}
	if h.Totals > len(d.rest)/minTotalSize || h.Rollups > len(d.rest)/minRollupSize {
		return nil, fmt.Errorf("%d totals and %d rollup rows don't fit in %d bytes", h.Totals, h.Rollups, len(d.rest))
	}
	var sums Control
	if err := d.totals(rows, h.Totals, table, &sums); err != nil {
		return nil, err
	}
	if err := d.rollups(rows, h.Rollups, table, &sums); err != nil {
		return nil, err
	}
	if h.Version == factVersion {
		if err := d.pieces(rows); err != nil {
			return nil, err
		}
	}
	if len(d.rest) > 0 {
		return nil, fmt.Errorf("%d bytes behind the last row", len(d.rest))
	}
	if sums != rows.Control || sums.Rollups.APIRequests() != h.Updates || sums.Rollups.Spend != h.Amount {
		return nil, errors.New("the rows don't add up to the control sums")
	}
	return rows, nil
}

func (d *decoder) totals(rows *Rows, n int, table []string, sums *Control) error {
	rows.Totals = make([]TotalRow, n)
	texts := 0
	for i := range rows.Totals {
		row := &rows.Totals[i]
		d.total(row, table)
		if d.bad || i > 0 && rows.Totals[i-1].Key.Compare(row.Key) >= 0 {
			return fmt.Errorf("total row %d can't be read or is out of order", i)
		}
		if texts += row.Texts(); texts > maxBatchTotalTexts {
			return fmt.Errorf("more than %d bytes of ids up to total row %d", maxBatchTotalTexts, i)
		}
		if !d.known.isHash(row.Key, d.canonical) {
			return fmt.Errorf("the key of total row %d isn't that of %s %.80q", i, row.Entity.Type, row.Entity.ID)
		}
		sums.Of(row.Entity.Type).Add(&row.Counters)
	}
	return nil
}

func (d *decoder) rollups(rows *Rows, n int, table []string, sums *Control) error {
	rows.Rollups = make([]RollupRow, n)
	texts := 0
	for i := range rows.Rollups {
		row := &rows.Rollups[i]
		d.rollup(row, table)
		if d.bad || i > 0 && rows.Rollups[i-1].Compare(row) >= 0 {
			return fmt.Errorf("rollup row %d can't be read or is out of order", i)
		}
		if texts += row.Texts(); texts > MaxBatchTexts+maxSeriesTexts {
			return fmt.Errorf("more than %d bytes of ids, tags and dimensions up to rollup row %d", MaxBatchTexts+maxSeriesTexts, i)
		}
		if !d.known.isHash(row.Key, d.canonical) {
			return fmt.Errorf("the key of rollup row %d isn't that of its series", i)
		}
		sums.Rollups.Add(&row.Counters)
	}
	return nil
}

func (r *RollupRow) Compare(other *RollupRow) int {
	if r.Hour != other.Hour {
		return int(r.Hour) - int(other.Hour)
	}
	return r.Key.Compare(other.Key)
}
