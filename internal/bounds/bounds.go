// Package bounds says once what a setting that is a number or a duration may be: what checks a
// setting, and what tells of it, both go by it.
package bounds

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// The bounds of what spendflush.Config and the environment both set.
var (
	Shards              = Number(1, spend.MaxShards)
	SealInterval        = Duration(time.Millisecond, time.Minute)
	FlushInterval       = Duration(time.Millisecond, time.Minute)
	MaxKeys             = Number(1, 100_000_000)
	MaxNewKeysPerDay    = Number(1, NoEnd).OrZero("no bound")
	MaxUnconfirmedBytes = Number(1<<20, NoEnd)
	GapGrace            = Duration(time.Second, 24*time.Hour)
	RewindWindow        = Duration(0, 24*time.Hour).OrZero("off")
	IDWindow            = Duration(time.Hour, 180*24*time.Hour)
)

// NoEnd is the most of a bound that has no end.
const NoEnd = math.MaxInt64

// Bound is what a number may be. A duration is its number of nanoseconds.
type Bound struct {
	Least, Most int64
	zero        string // what zero, which is allowed, too, does; "": it is a number like any other
	isDuration  bool
}

// Number returns the bound of a whole number.
func Number(least, most int64) Bound { return Bound{Least: least, Most: most} }

// Duration returns the bound of a duration.
func Duration(least, most time.Duration) Bound {
	return Bound{Least: int64(least), Most: int64(most), isDuration: true}
}

// OrZero returns the bound with zero allowed, too; does says what it does.
func (b Bound) OrZero(does string) Bound {
	b.zero = does
	return b
}

// Has says whether the number is allowed.
func (b Bound) Has(n int64) bool { return n >= b.Least && n <= b.Most || n == 0 && b.HasZero() }

// HasZero says whether zero is allowed.
func (b Bound) HasZero() bool { return b.zero != "" || b.Least <= 0 && b.Most >= 0 }

// String says what is allowed, such as "1s to 24h" or "1 or more; 0: no bound".
func (b Bound) String() string {
	least, after := b.Text(b.Least), ""
	switch {
	case b.zero != "" && b.Least == 0:
		least += " (" + b.zero + ")"
	case b.zero != "":
		after = "; " + b.Text(0) + ": " + b.zero
	}
	if b.Most == NoEnd {
		return least + " or more" + after
	}
	return least + " to " + b.Text(b.Most) + after
}

// Text writes a number as settings have it: "1m" and "500ms" if it is a duration.
func (b Bound) Text(n int64) string {
	if !b.isDuration {
		return strconv.FormatInt(n, 10)
	}
	text := time.Duration(n).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
