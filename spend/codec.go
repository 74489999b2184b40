package spend

import (
	"encoding/binary"
	"math"
	"math/bits"
)

// NewRollupRow returns a row for the series, which is not kept.
func NewRollupRow(s *Series, hour Hour, c Counters) RollupRow {
	canonical := CanonicalSeries(s.AppendCanonical(nil, AllDimensions))
	return canonical.Row(canonical.Key(), hour, &c)
}

// CanonicalSeries is the encoding that identifies a series, as Series.AppendCanonical writes it.
type CanonicalSeries string

// Series decodes it.
func (c CanonicalSeries) Series() Series { return seriesSource{encoded: string(c)}.series() }

// Key returns what Series.Key does.
func (c CanonicalSeries) Key() Key { return hashKey(append([]byte{'s'}, c...)) }

// Row returns a row for the series, whose key the caller has.
func (c CanonicalSeries) Row(key Key, hour Hour, sums *Counters) RollupRow {
	return RollupRow{Key: key, Hour: hour, texts: uint32(len(c)), Counters: *sums, source: seriesSource{encoded: string(c)}}
}

// seriesSource is a series not decoded yet: all fields in order, the number of tags, the tags. With
// a table the texts are places in it, without one they stand inline (the canonical encoding).
type seriesSource struct {
	encoded string
	table   []string
}

func (s seriesSource) reader() seriesReader {
	return seriesReader{decoder{rest: s.encoded}, s.table}
}

func (s seriesSource) series() Series {
	var series Series
	r := s.reader()
	for i := range seriesFields {
		*series.Text(i) = r.text()
	}
	if n := r.count(); n > 0 {
		series.Tags = make([]string, n)
		for i := range series.Tags {
			series.Tags[i] = r.text()
		}
	}
	return series
}

// seriesReader reads a seriesSource, which has been checked.
type seriesReader struct {
	d     decoder
	table []string
}

func (r *seriesReader) text() string {
	if r.table != nil {
		return r.d.ref(r.table)
	}
	return r.d.text()
}

func (r *seriesReader) count() int { return int(r.d.uvarint()) }

// decoder reads varints and texts from the front of rest. After a fault bad is set and everything
// reads as zero.
type decoder struct {
	rest      string
	bad       bool
	canonical []byte // of the row being read: what its key must be the hash of
	known     *KnownKeys
}

func (d *decoder) fail() {
	d.rest, d.bad = "", true
}

func (d *decoder) take(n uint64) string {
	if n > uint64(len(d.rest)) {
		d.fail()
		return ""
	}
	taken := d.rest[:n]
	d.rest = d.rest[n:]
	return taken
}

func (d *decoder) byte() byte {
	if len(d.rest) == 0 {
		d.fail()
		return 0
	}
	b := d.rest[0]
	d.rest = d.rest[1:]
	return b
}

func (d *decoder) uvarint() uint64 {
	var value uint64
	for shift := uint(0); shift < 64; shift += 7 {
		if len(d.rest) == 0 {
			break
		}
		b := d.rest[0]
		d.rest = d.rest[1:]
		if shift == 63 && b > 1 {
			break
		}
		value |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return value
		}
	}
	d.fail()
	return 0
}

func (d *decoder) count63() int64 {
	value := d.uvarint()
	if value > math.MaxInt64 {
		d.fail()
		return 0
	}
	return int64(value)
}

func (d *decoder) text() string { return d.take(d.uvarint()) }

func (d *decoder) ref(table []string) string {
	at := d.uvarint()
	if at >= uint64(len(table)) {
		d.fail()
		return ""
	}
	return table[at]
}

// table reads the texts, of which the first is empty and no other one. There are at most so many.
func (d *decoder) table(most int) []string {
	n := d.uvarint()
	if n == 0 || n > uint64(most) || n > uint64(1+len(d.rest)/minTextSize) || d.text() != "" {
		d.fail()
		return nil
	}
	table := make([]string, n)
	for i := range table[1:] {
		if table[1+i] = d.text(); table[1+i] == "" {
			d.fail()
			return nil
		}
	}
	return table
}

func (d *decoder) key() (key Key) {
	copy(key[:], d.take(uint64(len(key))))
	return key
}

func (d *decoder) total(row *TotalRow, table []string) {
	row.Key = d.key()
	row.Entity.Type = EntityType(d.byte())
	if row.Entity.Type == 0 || int(row.Entity.Type) > entityTypes {
		d.fail()
	}
	row.Entity.ID = d.ref(table)
	row.Entity.TeamID = d.ref(table)
	if row.Entity.ID == "" || (row.Entity.TeamID != "") != (row.Entity.Type == TeamMember) {
		d.fail()
	}
	d.canonical = row.Entity.appendCanonical(d.canonical[:0])
	row.Counters = d.counters()
}

func (d *decoder) rollup(row *RollupRow, table []string) {
	row.Key = d.key()
	hour := d.uvarint()
	hour = hour>>1 ^ -(hour & 1)
	if int64(hour) != int64(int32(hour)) {
		d.fail()
	}
	row.Hour = Hour(int32(hour))
	from := d.rest
	canonical, texts := append(d.canonical[:0], 's'), 0
	for range seriesFields {
		text := d.ref(table)
		canonical, texts = appendText(canonical, text), texts+len(text)
	}
	tags := d.uvarint()
	if tags > MaxTags {
		d.fail()
		tags = 0
	}
	canonical = binary.AppendUvarint(canonical, tags)
	last := ""
	for range tags {
		tag := d.ref(table)
		if tag <= last { // they are a set
			d.fail()
		}
		canonical, texts, last = appendText(canonical, tag), texts+len(tag), tag
	}
	d.canonical, row.texts = canonical, uint32(texts)
	row.source = seriesSource{encoded: from[:len(from)-len(d.rest)], table: table}
	row.Counters = d.counters()
}

// The mask before the counters says which of them aren't zero: the spend, and the whole numbers in
// their order.
const (
	hasSpend = 1
	hasCount = 2 // the first one
	hasAll   = 1<<(Counts+1) - 1
)

func appendCounters(to []byte, c *Counters) []byte {
	at := len(to)
	to = append(to, 0)
	var mask byte
	if c.Spend != (Amount{}) {
		mask |= hasSpend
		to = appendAmount(to, c.Spend)
	}
	for i := range Counts {
		if n := *c.Count(i); n != 0 {
			mask |= hasCount << i
			to = binary.AppendUvarint(to, uint64(n))
		}
	}
	to[at] = mask
	return to
}

func (d *decoder) counters() (c Counters) {
	mask := d.byte()
	if mask&^hasAll != 0 {
		d.fail()
	}
	if mask&hasSpend != 0 {
		c.Spend = d.amount()
	}
	for i := range Counts {
		if mask&(hasCount<<i) != 0 {
			*c.Count(i) = d.count63()
		}
	}
	return c
}

// appendAmount appends the zigzag varint of a 128-bit integer: at most 19 bytes of 7 bits each.
func appendAmount(to []byte, a Amount) []byte {
	sign := uint64(a.hi >> 63)
	hi := (uint64(a.hi)<<1 | a.lo>>63) ^ sign
	lo := a.lo<<1 ^ sign
	for hi != 0 {
		to = append(to, byte(lo)|0x80)
		lo = lo>>7 | hi<<57
		hi >>= 7
	}
	return binary.AppendUvarint(to, lo)
}

func (d *decoder) amount() Amount {
	var hi, lo uint64
	for shift := uint(0); shift < 19*7; shift += 7 {
		if len(d.rest) == 0 {
			break
		}
		b := d.rest[0]
		d.rest = d.rest[1:]
		part := uint64(b & 0x7f)
		switch {
		case shift < 64:
			lo |= part << shift
			if shift > 57 {
				hi |= part >> (64 - shift)
			}
		case bits.Len64(part)+int(shift)-64 > 64:
			d.fail()
			return Amount{}
		default:
			hi |= part << (shift - 64)
		}
		if b < 0x80 {
			sign := -(lo & 1)
			return Amount{int64(hi>>1 ^ sign), (lo>>1 | hi<<63) ^ sign}
		}
	}
	d.fail()
	return Amount{}
}
