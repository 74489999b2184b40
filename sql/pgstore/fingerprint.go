package pgstore

import (
	"crypto/sha256"
	"encoding/binary"
	"math/big"
	"math/bits"

	"github.com/spendflush/spendflush/spend"
)

// A fingerprint of rollup rows is the sum, modulo 2^128, over the rows of a day, of the sum over
// the counters of
//
//	weight(series, hour, counter) · counter
//
// The seven weights of a row are the first seven 32-bit words, big-endian, of the SHA-256 of the
// series key (16 bytes) and the hour of the day (2 bytes, big-endian). The counters are in the
// order of sumNames; spend is in units of 10^-12 dollars.
//
// It is linear: what a flush adds to the rows of a day, however it is split and in whatever order
// it comes, adds the same to the fingerprint. So the flush need not read the rows, and the audit
// need not know the flushes. Whatever moves a counter between hours or series, with all sums
// unchanged, changes the fingerprint but for one case in 2^32.
//
// It is no signature: who may write the rows may write the fingerprint too.
type fingerprint struct{ hi, lo uint64 }

// fingerprintWeights is the number of counters of a row.
const fingerprintWeights = len(sums{})

func (f *fingerprint) add(g fingerprint) {
	var carry uint64
	f.lo, carry = bits.Add64(f.lo, g.lo, 0)
	f.hi, _ = bits.Add64(f.hi, g.hi, carry)
}

// addRow adds what a row of the series in that hour of the day counts.
func (f *fingerprint) addRow(series spend.Key, hour int16, c *[fingerprintWeights]fingerprint) {
	var name [len(series) + 2]byte
	copy(name[:], series[:])
	binary.BigEndian.PutUint16(name[len(series):], uint16(hour))
	weights := sha256.Sum256(name[:])
	for i := range c {
		if c[i] != (fingerprint{}) {
			f.add(c[i].times(binary.BigEndian.Uint32(weights[4*i:])))
		}
	}
}

func (f fingerprint) times(weight uint32) fingerprint {
	hi, lo := bits.Mul64(f.lo, uint64(weight))
	return fingerprint{hi + f.hi*uint64(weight), lo}
}

func (f fingerprint) negative() fingerprint {
	lo, borrow := bits.Sub64(0, f.lo, 0)
	return fingerprint{-f.hi - borrow, lo}
}

// integer returns v modulo 2^128.
func integer(v int64) fingerprint { return fingerprint{uint64(v >> 63), uint64(v)} }

func fingerprintCounters(c *spend.Counters) (values [fingerprintWeights]fingerprint) {
	hi, lo := c.Spend.Units()
	values[0] = fingerprint{uint64(hi), lo}
	for i := range spend.Counts {
		values[1+i] = integer(*c.Count(i))
	}
	return values
}

// signed returns the number from -2^127 that it is modulo 2^128.
func (f fingerprint) signed() *big.Int {
	n := new(big.Int).Lsh(big.NewInt(int64(f.hi)), 64)
	return n.Add(n, new(big.Int).SetUint64(f.lo))
}

// String returns the decimal text of the number, which isn't negative.
func (f fingerprint) String() string {
	n := new(big.Int).Lsh(new(big.Int).SetUint64(f.hi), 64)
	return n.Or(n, new(big.Int).SetUint64(f.lo)).String()
}

// numericUnits reads the binary format of NUMERIC as a number of 10^-12, modulo 2^128. It is the
// reverse of appendNumeric. ok is false if the number is none, or has more decimals.
func numericUnits(b []byte) (f fingerprint, ok bool) {
	if len(b) < 8 {
		return f, false
	}
	n, weight := int(binary.BigEndian.Uint16(b)), int(int16(binary.BigEndian.Uint16(b[2:])))
	sign := binary.BigEndian.Uint16(b[4:])
	exponent := weight + 1 - n + fractionDigits // of the base
	if len(b) != 8+2*n || sign != numericPositive && sign != numericNegative || n > 0 && exponent < 0 {
		return f, false
	}
	for i := range n {
		f = f.times(numericBase)
		f.add(fingerprint{lo: uint64(binary.BigEndian.Uint16(b[8+2*i:]))})
	}
	for ; n > 0 && exponent > 0; exponent-- {
		f = f.times(numericBase)
	}
	if sign == numericNegative {
		f = f.negative()
	}
	return f, true
}

// fingerprintCalls returns the statement that adds the fingerprints of the flush's rollup rows to
// their days. Rows that are set aside in quarantine are in it too; so the audit counts what lies
// there.
func fingerprintCalls(f *spend.Flush) []call {
	if len(f.Rollups) == 0 {
		return nil
	}
	var days []int32
	var sums []fingerprint
	for i := range f.Rollups {
		row := &f.Rollups[i]
		day, hour := split(row.Hour)
		// The rows are in the order of hours; where they aren't, a day is there twice, which the
		// statement adds up.
		if n := len(days); n == 0 || days[n-1] != day {
			days, sums = append(days, day), append(sums, fingerprint{})
		}
		counters := fingerprintCounters(&row.Counters)
		sums[len(sums)-1].addRow(row.Key, hour, &counters)
	}
	var e encoder
	e.int2(int16(f.Shard))
	e.dates(len(days), func(i int) int32 { return days[i] })
	e.texts(len(sums), func(i int) string { return sums[i].String() })
	return []call{{name: "add_fingerprints", params: e.params(), rows: -1}}
}
