package pgstore

import (
	"encoding/binary"
	"math/bits"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/spendflush/spendflush/spend"
)

// param is one parameter in Postgres's binary format.
type param struct {
	oid   uint32
	value []byte // nil: NULL
}

// encoder writes parameters straight into one buffer in the binary format of the wire. Going
// through reflection and interfaces costs more than the database takes for a row.
//
// A parameter is a stretch of the buffer. The buffer may move while it grows, so the stretches are
// cut only at the end, by params.
type encoder struct {
	buf  []byte
	oids []uint32
	ends []int
}

func (e *encoder) reset() {
	e.buf, e.oids, e.ends = e.buf[:0], e.oids[:0], e.ends[:0]
}

// end closes a parameter of the type.
func (e *encoder) end(oid uint32) {
	e.oids, e.ends = append(e.oids, oid), append(e.ends, len(e.buf))
}

// params returns what was encoded since reset. It stays valid until the next reset.
func (e *encoder) params() []param {
	params := make([]param, len(e.ends))
	from := 0
	for i, end := range e.ends {
		params[i] = param{e.oids[i], e.buf[from:end:end]}
		from = end
	}
	return params
}

// parts encodes one part after the other into an empty buffer, and returns the parameters of each.
func (e *encoder) parts(encode ...func()) [][]param {
	e.reset()
	ends := make([]int, len(encode))
	for i := range encode {
		encode[i]()
		ends[i] = len(e.ends)
	}
	all, from := e.params(), 0
	parts := make([][]param, len(encode))
	for i, end := range ends {
		parts[i], from = all[from:end], end
	}
	return parts
}

// array begins a one-dimensional array of n elements without NULLs. An empty one has no dimension.
func (e *encoder) array(element uint32, n int) {
	dimensions := uint32(1)
	if n == 0 {
		dimensions = 0
	}
	e.buf = binary.BigEndian.AppendUint32(e.buf, dimensions)
	e.buf = binary.BigEndian.AppendUint32(e.buf, 0)
	e.buf = binary.BigEndian.AppendUint32(e.buf, element)
	if n > 0 {
		e.buf = binary.BigEndian.AppendUint32(e.buf, uint32(n))
		e.buf = binary.BigEndian.AppendUint32(e.buf, 1)
	}
}

func (e *encoder) int2(v int16) {
	e.buf = binary.BigEndian.AppendUint16(e.buf, uint16(v))
	e.end(pgtype.Int2OID)
}

func (e *encoder) int8(v int64) {
	e.buf = binary.BigEndian.AppendUint64(e.buf, uint64(v))
	e.end(pgtype.Int8OID)
}

func (e *encoder) date(day int32) {
	e.buf = binary.BigEndian.AppendUint32(e.buf, uint32(day-daysTo2000))
	e.end(pgtype.DateOID)
}

func (e *encoder) uuid(v [16]byte) {
	e.buf = append(e.buf, v[:]...)
	e.end(pgtype.UUIDOID)
}

func (e *encoder) amount(v spend.Amount) {
	e.buf = appendNumeric(e.buf, v)
	e.end(pgtype.NumericOID)
}

func (e *encoder) text(v string) {
	e.buf = append(e.buf, v...)
	e.end(pgtype.TextOID)
}

func (e *encoder) int8s(n int, at func(int) int64) {
	e.array(pgtype.Int8OID, n)
	for i := range n {
		e.buf = binary.BigEndian.AppendUint32(e.buf, 8)
		e.buf = binary.BigEndian.AppendUint64(e.buf, uint64(at(i)))
	}
	e.end(pgtype.Int8ArrayOID)
}

func (e *encoder) byteas(n int, at func(int) []byte) {
	e.array(pgtype.ByteaOID, n)
	for i := range n {
		e.buf = binary.BigEndian.AppendUint32(e.buf, uint32(len(at(i))))
		e.buf = append(e.buf, at(i)...)
	}
	e.end(pgtype.ByteaArrayOID)
}

// nullable encodes an array whose elements are NULL where is says so; element appends the value of
// one that isn't.
func (e *encoder) nullable(oid, arrayOID uint32, n int, is func(int) bool, element func(int)) {
	start := len(e.buf)
	e.array(oid, n)
	binary.BigEndian.PutUint32(e.buf[start+4:], 1) // there may be NULLs
	for i := range n {
		size := len(e.buf)
		e.buf = append(e.buf, 0xff, 0xff, 0xff, 0xff)
		if is(i) {
			element(i)
			binary.BigEndian.PutUint32(e.buf[size:], uint32(len(e.buf)-size-4))
		}
	}
	e.end(arrayOID)
}

func (e *encoder) bools(n int, at func(int) bool) {
	e.array(pgtype.BoolOID, n)
	for i := range n {
		e.buf = binary.BigEndian.AppendUint32(e.buf, 1)
		if at(i) {
			e.buf = append(e.buf, 1)
		} else {
			e.buf = append(e.buf, 0)
		}
	}
	e.end(pgtype.BoolArrayOID)
}

func (e *encoder) int2s(n int, at func(int) int16) {
	e.array(pgtype.Int2OID, n)
	for i := range n {
		e.buf = binary.BigEndian.AppendUint32(e.buf, 2)
		e.buf = binary.BigEndian.AppendUint16(e.buf, uint16(at(i)))
	}
	e.end(pgtype.Int2ArrayOID)
}

// dates encodes days counted from 1970-01-01.
func (e *encoder) dates(n int, at func(int) int32) {
	e.array(pgtype.DateOID, n)
	for i := range n {
		e.buf = binary.BigEndian.AppendUint32(e.buf, 4)
		e.buf = binary.BigEndian.AppendUint32(e.buf, uint32(at(i)-daysTo2000))
	}
	e.end(pgtype.DateArrayOID)
}

// daysTo2000 is the number of days from 1970-01-01, where hours are counted from, to Postgres's day
// 0.
const daysTo2000 = 10_957

func (e *encoder) keys(n int, at func(int) *[16]byte) {
	e.array(pgtype.UUIDOID, n)
	for i := range n {
		e.buf = binary.BigEndian.AppendUint32(e.buf, 16)
		e.buf = append(e.buf, at(i)[:]...)
	}
	e.end(pgtype.UUIDArrayOID)
}

func (e *encoder) texts(n int, at func(int) string) {
	e.array(pgtype.TextOID, n)
	for i := range n {
		text := at(i)
		e.buf = binary.BigEndian.AppendUint32(e.buf, uint32(len(text)))
		e.buf = append(e.buf, text...)
	}
	e.end(pgtype.TextArrayOID)
}

func (e *encoder) amounts(n int, at func(int) spend.Amount) {
	e.array(pgtype.NumericOID, n)
	for i := range n {
		size := len(e.buf)
		e.buf = append(e.buf, 0, 0, 0, 0)
		e.buf = appendNumeric(e.buf, at(i))
		binary.BigEndian.PutUint32(e.buf[size:], uint32(len(e.buf)-size-4))
	}
	e.end(pgtype.NumericArrayOID)
}

// counters encodes an array for each counter, in the order of the statements.
func (e *encoder) counters(n int, at func(int) *spend.Counters) {
	e.amounts(n, func(i int) spend.Amount { return at(i).Spend })
	for count := range spend.Counts {
		e.int8s(n, func(i int) int64 { return *at(i).Count(count) })
	}
}

const (
	numericBase     = 10_000
	numericDigits   = 10 // digits of that base in 128 bits
	fractionDigits  = spend.AmountScale / 4
	numericPositive = 0x0000
	numericNegative = 0x4000
)

// appendNumeric appends the binary format of NUMERIC: the number of digits to base 10000, the
// weight of the first, the sign, the display scale, the digits. Trailing zeros are left out. All
// 128-bit amounts are right, also those that NUMERIC(38,12) has no room for.
func appendNumeric(to []byte, a spend.Amount) []byte {
	sign := uint16(numericPositive)
	if a.Sign() < 0 {
		sign, a = numericNegative, a.Neg() // -2^127 stays as it is, which is right as an unsigned number
	}
	h, lo := a.Units()
	hi := uint64(h)
	var digits [numericDigits]uint16 // the last one first
	n := 0
	for hi != 0 {
		// Four digits at once: 10^16 fits in 64 bits.
		const four = numericBase * numericBase * numericBase * numericBase
		var rest uint64
		hi, rest = hi/four, hi%four
		lo, rest = bits.Div64(rest, lo, four)
		for range 4 {
			digits[n] = uint16(rest % numericBase)
			rest /= numericBase
			n++
		}
	}
	for lo != 0 {
		digits[n] = uint16(lo % numericBase)
		lo /= numericBase
		n++
	}
	zeros := 0
	for zeros < n && digits[zeros] == 0 {
		zeros++
	}
	to = binary.BigEndian.AppendUint16(to, uint16(n-zeros))
	to = binary.BigEndian.AppendUint16(to, uint16(n-1-fractionDigits))
	to = binary.BigEndian.AppendUint16(to, sign)
	to = binary.BigEndian.AppendUint16(to, spend.AmountScale)
	for i := n - 1; i >= zeros; i-- {
		to = binary.BigEndian.AppendUint16(to, digits[i])
	}
	return to
}

// appendTextArray appends the text of an array of texts.
func appendTextArray(to []byte, texts []string) []byte {
	to = append(to, '{')
	for i, text := range texts {
		if i > 0 {
			to = append(to, ',')
		}
		to = append(to, '"')
		for j := range len(text) {
			if text[j] == '"' || text[j] == '\\' {
				to = append(to, '\\')
			}
			to = append(to, text[j])
		}
		to = append(to, '"')
	}
	return append(to, '}')
}
