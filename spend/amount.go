package spend

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"math/bits"
	"strings"
)

// AmountScale is the number of decimal digits after the point that an Amount keeps.
const AmountScale = 12

// Amount is a sum of money in dollars, exact to 10^-12 of a dollar: a 128-bit two's complement
// integer that counts 10^-12 dollars. The zero value is zero dollars. Amounts are compared with ==.
//
// An Amount made by ParseAmount fits NUMERIC(38,12): its size is below 10^26 dollars. Add and Sub
// don't check for overflow of the 128 bits; see MaxSpend for why a pipeline can't reach it.
type Amount struct {
	hi int64
	lo uint64
}

// ErrAmount is wrapped by every error of ParseAmount.
var ErrAmount = errors.New("not an amount")

// numericLimit is 10^38, the first size that NUMERIC(38,12) does not hold.
var numericLimit = Amount{hi: 0x4b3b4ca85a86c47a, lo: 0x098a224000000000}

// Dollars returns n dollars.
func Dollars(n int64) Amount { return Picodollars(n).mulSmall(1_000_000_000_000) }

// Picodollars returns n times 10^-12 dollars.
func Picodollars(n int64) Amount { return Amount{hi: n >> 63, lo: uint64(n)} }

// AmountFromUnits returns the amount of hi*2^64 + lo times 10^-12 dollars, as Units took it apart.
func AmountFromUnits(hi int64, lo uint64) Amount { return Amount{hi, lo} }

// Units returns the two words of the 128-bit integer of 10^-12 dollars: a = hi*2^64 + lo.
func (a Amount) Units() (hi int64, lo uint64) { return a.hi, a.lo }

// Add returns a + b.
func (a Amount) Add(b Amount) Amount {
	lo, carry := bits.Add64(a.lo, b.lo, 0)
	return Amount{a.hi + b.hi + int64(carry), lo}
}

// Sub returns a - b.
func (a Amount) Sub(b Amount) Amount {
	lo, borrow := bits.Sub64(a.lo, b.lo, 0)
	return Amount{a.hi - b.hi - int64(borrow), lo}
}

// Neg returns -a.
func (a Amount) Neg() Amount { return Amount{}.Sub(a) }

// Sign returns -1, 0 or 1.
func (a Amount) Sign() int {
	switch {
	case a.hi < 0:
		return -1
	case a == Amount{}:
		return 0
	default:
		return 1
	}
}

// Cmp returns -1 if a < b, 0 if a == b, 1 if a > b.
func (a Amount) Cmp(b Amount) int {
	switch {
	case a == b:
		return 0
	case a.hi < b.hi || a.hi == b.hi && a.lo < b.lo:
		return -1
	default:
		return 1
	}
}

// Abs returns the size of a.
func (a Amount) Abs() Amount {
	if a.hi < 0 {
		return a.Neg()
	}
	return a
}

// mulSmall returns a*m. The caller makes sure that it fits.
func (a Amount) mulSmall(m uint64) Amount {
	hi, lo := bits.Mul64(a.lo, m)
	return Amount{int64(hi) + a.hi*int64(m), lo}
}

// quoRem divides the non-negative a by d.
func (a Amount) quoRem(d uint64) (Amount, uint64) {
	hi, rem := uint64(a.hi)/d, uint64(a.hi)%d
	lo, rem := bits.Div64(rem, a.lo, d)
	return Amount{int64(hi), lo}, rem
}

// ParseAmount reads a decimal number of dollars as JSON writes numbers, with or without exponent:
// "0.000012", "-3", "1.5e-7". A leading "+", a missing digit on one side of the point ("1.", ".5")
// and leading zeros are accepted too. Digits past the twelfth decimal are rounded half to even; no
// float is involved. The error wraps ErrAmount and says what is allowed.
func ParseAmount[T string | []byte](text T) (Amount, error) {
	p := amountParser[T]{text: text}
	return p.parse()
}

// amountParser walks once over the text. Digits are gathered in an integer of at most 39 digits,
// which is more than NUMERIC(38,12) holds; digits behind those only matter as "not zero" for
// rounding.
type amountParser[T string | []byte] struct {
	text     T
	pos      int
	value    Amount // the significant digits read so far
	digits   int    // how many digits value has, without leading zeros
	dropped  int    // digits behind the first 38 significant ones
	scale    int    // digits behind the point, the dropped ones included
	sawDigit bool
	tail     tail // what the dropped digits amount to
}

// tail says how digits cut off compare with half a unit of the last digit kept.
type tail uint8

const (
	tailZero tail = iota
	tailBelowHalf
	tailHalf
	tailAboveHalf
)

// push returns the tail that results when one more digit is cut off in front of those cut off
// before.
func (t tail) push(digit uint64) tail {
	switch {
	case digit > 5:
		return tailAboveHalf
	case digit == 5 && t == tailZero:
		return tailHalf
	case digit == 5:
		return tailAboveHalf
	case digit == 0 && t == tailZero:
		return tailZero
	default:
		return tailBelowHalf
	}
}

const maxAmountDigits = 38

func (p *amountParser[T]) fail(why string) (Amount, error) {
	const most = 40
	text := string(p.text[:min(len(p.text), most)])
	if len(p.text) > most {
		text += "…"
	}
	return Amount{}, fmt.Errorf("%w: %q: %s", ErrAmount, text, why)
}

func (p *amountParser[T]) parse() (Amount, error) {
	negative := false
	if p.pos < len(p.text) && (p.text[p.pos] == '-' || p.text[p.pos] == '+') {
		negative = p.text[p.pos] == '-'
		p.pos++
	}
	p.readDigits(false)
	if p.pos < len(p.text) && p.text[p.pos] == '.' {
		p.pos++
		p.readDigits(true)
	}
	if !p.sawDigit {
		return p.fail("want a decimal number of dollars such as 0.000012")
	}
	exponent, ok := p.readExponent()
	if !ok || p.pos != len(p.text) {
		return p.fail("want a decimal number of dollars such as 0.000012")
	}
	amount, ok := p.scaled(exponent)
	if !ok {
		return p.fail("want less than 10^26 dollars")
	}
	if negative {
		amount = amount.Neg()
	}
	return amount, nil
}

func (p *amountParser[T]) readDigits(fraction bool) {
	for ; p.pos < len(p.text); p.pos++ {
		c := p.text[p.pos]
		if c < '0' || c > '9' {
			return
		}
		p.sawDigit = true
		if fraction {
			p.scale++
		}
		switch {
		case p.digits == maxAmountDigits:
			p.cutLater(uint64(c - '0'))
		case p.digits > 0 || c != '0':
			p.value = p.value.mulSmall(10).Add(Amount{lo: uint64(c - '0')})
			p.digits++
		}
	}
}

// cutLater notes a digit behind those kept: the first decides between below, at and above half,
// later ones only break the tie.
func (p *amountParser[T]) cutLater(digit uint64) {
	switch {
	case p.dropped == 0:
		p.tail = tailZero.push(digit)
	case digit != 0 && p.tail == tailZero:
		p.tail = tailBelowHalf
	case digit != 0 && p.tail == tailHalf:
		p.tail = tailAboveHalf
	}
	p.dropped++
}

func (p *amountParser[T]) readExponent() (exponent int, ok bool) {
	if p.pos == len(p.text) || p.text[p.pos] != 'e' && p.text[p.pos] != 'E' {
		return 0, true
	}
	p.pos++
	sign := 1
	if p.pos < len(p.text) && (p.text[p.pos] == '-' || p.text[p.pos] == '+') {
		if p.text[p.pos] == '-' {
			sign = -1
		}
		p.pos++
	}
	for ; p.pos < len(p.text) && p.text[p.pos] >= '0' && p.text[p.pos] <= '9'; p.pos++ {
		ok = true
		exponent = min(exponent*10+int(p.text[p.pos]-'0'), 1<<30) // further digits can't change the outcome
	}
	return sign * exponent, ok
}

// scaled returns value * 10^(exponent - scale + dropped + 12), rounded half to even.
func (p *amountParser[T]) scaled(exponent int) (Amount, bool) {
	a, t := p.value, p.tail
	if p.digits == 0 {
		return Amount{}, true
	}
	shift := exponent - p.scale + p.dropped + AmountScale
	if p.digits+shift > maxAmountDigits {
		return Amount{}, false
	}
	if shift > 0 && t != tailZero {
		return Amount{}, false // 38 digits were kept, so it is too large anyway
	}
	for ; shift > 0; shift-- {
		a = a.mulSmall(10)
	}
	for ; shift < 0; shift++ {
		if a == (Amount{}) {
			return Amount{}, true // at most a tenth of a unit is left
		}
		var digit uint64
		a, digit = a.quoRem(10)
		t = t.push(digit)
	}
	if t == tailAboveHalf || t == tailHalf && a.lo&1 == 1 {
		a = a.Add(Amount{lo: 1})
	}
	return a, a.Cmp(numericLimit) < 0
}

// String returns the shortest decimal text, without exponent: "0", "-1.25", "0.000000000001".
func (a Amount) String() string {
	text, _ := a.AppendText(make([]byte, 0, 41))
	return string(text)
}

// AppendText appends what String returns. It implements encoding.TextAppender; the error is always
// nil.
func (a Amount) AppendText(to []byte) ([]byte, error) {
	if a.hi < 0 {
		to = append(to, '-')
		if a = a.Neg(); a.hi < 0 { // -2^127, whose size has no positive Amount
			return append(to, "170141183460469231731687303.715884105728"...), nil
		}
	}
	whole, low := a.quoRem(1_000_000_000_000)
	high, mid := whole.quoRem(1_000_000_000_000_000_000)
	switch {
	case high != Amount{}:
		to = fmt.Appendf(to, "%d%018d", high.lo, mid)
	default:
		to = fmt.Appendf(to, "%d", mid)
	}
	if low != 0 {
		digits := fmt.Sprintf("%012d", low)
		to = append(to, '.')
		to = append(to, strings.TrimRight(digits, "0")...)
	}
	return to, nil
}

// MarshalText implements encoding.TextMarshaler.
func (a Amount) MarshalText() ([]byte, error) { return a.AppendText(nil) }

// UnmarshalText reads what ParseAmount reads.
func (a *Amount) UnmarshalText(text []byte) error {
	parsed, err := ParseAmount(text)
	if err == nil {
		*a = parsed
	}
	return err
}

// MarshalJSON writes the amount as a JSON string, because most readers put JSON numbers through a
// float.
func (a Amount) MarshalJSON() ([]byte, error) {
	text, _ := a.AppendText([]byte{'"'})
	return append(text, '"'), nil
}

// UnmarshalJSON reads a JSON number or a JSON string that holds one.
func (a *Amount) UnmarshalJSON(text []byte) error {
	if n := len(text); n >= 2 && text[0] == '"' && text[n-1] == '"' {
		text = text[1 : n-1]
	}
	return a.UnmarshalText(text)
}

// Value implements driver.Valuer with the decimal text.
func (a Amount) Value() (driver.Value, error) { return a.String(), nil }

// Scan implements sql.Scanner for NUMERIC read as text.
func (a *Amount) Scan(source any) error {
	switch s := source.(type) {
	case string:
		return a.UnmarshalText([]byte(s))
	case []byte:
		return a.UnmarshalText(s)
	case int64:
		*a = Dollars(s)
		return nil
	default:
		return fmt.Errorf("%w: can't scan a %T", ErrAmount, source)
	}
}
