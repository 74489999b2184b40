package spend

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"strings"
	"testing"
)

// bigOf returns the amount as a big integer of 10^-12 dollars.
func bigOf(a Amount) *big.Int {
	hi, lo := a.Units()
	n := new(big.Int).Lsh(big.NewInt(hi), 64)
	return n.Add(n, new(big.Int).SetUint64(lo))
}

// fromBig returns the amount of n modulo 2^128.
func fromBig(n *big.Int) Amount {
	mask := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 128), big.NewInt(1))
	n = new(big.Int).And(n, mask)
	lo := new(big.Int).And(n, new(big.Int).SetUint64(math.MaxUint64)).Uint64()
	return AmountFromUnits(int64(new(big.Int).Rsh(n, 64).Uint64()), lo)
}

var (
	bigScale = new(big.Int).Exp(big.NewInt(10), big.NewInt(AmountScale), nil)
	bigLimit = new(big.Int).Exp(big.NewInt(10), big.NewInt(38), nil)
)

// roundHalfEven rounds the exact number of dollars to 10^-12 dollars.
func roundHalfEven(dollars *big.Rat) *big.Int {
	units := new(big.Rat).Mul(dollars, new(big.Rat).SetInt(bigScale))
	size := new(big.Rat).Abs(units)
	n, rest := new(big.Int).QuoRem(size.Num(), size.Denom(), new(big.Int))
	switch rest.Lsh(rest, 1).Cmp(size.Denom()) {
	case 1:
		n.Add(n, big.NewInt(1))
	case 0:
		n.Add(n, new(big.Int).SetBit(new(big.Int), 0, n.Bit(0)))
	}
	if units.Sign() < 0 {
		n.Neg(n)
	}
	return n
}

// randomAmount returns amounts of all sizes alike, not nearly always the largest.
func randomAmount(r *rand.Rand) Amount {
	n := new(big.Int).SetUint64(r.Uint64())
	n.Lsh(n, 64).Add(n, new(big.Int).SetUint64(r.Uint64()))
	n.Rsh(n, uint(1+r.IntN(127)))
	if r.IntN(2) == 0 {
		n.Neg(n)
	}
	return fromBig(n)
}

func digits(r *rand.Rand, n int, of string) string {
	var b strings.Builder
	for range n {
		b.WriteByte(of[r.IntN(len(of))])
	}
	return b.String()
}

// randomDecimal writes a number as people and programs do, often near a tie of the rounding.
func randomDecimal(r *rand.Rand) string {
	all := "0123456789"
	if r.IntN(2) == 0 {
		all = "0059"
	}
	text := []string{"", "-", "+"}[r.IntN(3)] + digits(r, r.IntN(30), all)
	fraction := r.IntN(61)
	if fraction > 0 || text == "" || strings.ContainsAny(text[len(text)-1:], "-+") {
		text += "." + digits(r, max(fraction, 1), all)
	}
	if r.IntN(2) == 0 {
		text += []string{"e", "E"}[r.IntN(2)] + []string{"", "-", "+"}[r.IntN(3)] + fmt.Sprint(r.IntN(45))
	}
	return text
}

func checkParse(t *testing.T, text string) {
	t.Helper()
	exact, ok := new(big.Rat).SetString(text)
	if !ok {
		t.Fatalf("%q is no number for math/big", text)
	}
	want := roundHalfEven(exact)
	got, err := ParseAmount(text)
	if want.CmpAbs(bigLimit) >= 0 {
		if !errors.Is(err, ErrAmount) {
			t.Fatalf("ParseAmount(%q) = %s, %v; want a refusal, it is above NUMERIC(38,12)", text, got, err)
		}
		return
	}
	if err != nil || bigOf(got).Cmp(want) != 0 {
		t.Fatalf("ParseAmount(%q) = %s units, %v; want %s", text, bigOf(got), err, want)
	}
	again, err := ParseAmount([]byte(got.String()))
	if err != nil || again != got {
		t.Fatalf("%q → %q → %s, %v; want the same amount again", text, got, again, err)
	}
}

func TestParseAmountRoundsHalfToEvenLikeExactFractions(t *testing.T) {
	r := newRand(t)
	for range 20_000 {
		checkParse(t, randomDecimal(r))
	}
	for decimals := 13; decimals <= 60; decimals++ {
		for _, last := range "0123456789" {
			zeros := strings.Repeat("0", decimals-13)
			nines := strings.Repeat("9", decimals-13)
			for _, kept := range []string{"000000000000", "000000000001", "999999999999", "123456789012"} {
				for _, sign := range []string{"", "-"} {
					checkParse(t, sign+"7."+kept+string(last)+zeros)
					checkParse(t, sign+"."+kept+string(last)+nines)
					checkParse(t, sign+"99999999999999999999999999."+kept+string(last)+zeros+"1")
				}
			}
		}
	}
}

func TestParseAmountTakesTheExtremesOfTheColumnAndNothingBeyond(t *testing.T) {
	most := strings.Repeat("9", 26) + "." + strings.Repeat("9", 12)
	for _, text := range []string{
		most, "-" + most, most + "4" + strings.Repeat("9", 40), strings.Repeat("0", 100) + most,
		"1e25", "1e-12", "0.0000000000005", "0.00000000000050000000000000000000000000000000000000000000000001",
		"1e-400", "0e400",
		"0." + strings.Repeat("0", 500) + "1e500", strings.Repeat("1", 300) + "e-299",
		"100000000000000000000000000e-1", "1.", ".5", "-.5", "+1", "-0", "000",
	} {
		checkParse(t, text)
		if _, err := ParseAmount(text); err != nil {
			t.Error(err)
		}
	}
	for _, text := range []string{"0e999999999999999999999", "1e-999999999999999999999", "-1e-1000000000"} {
		if got, err := ParseAmount(text); err != nil || got != (Amount{}) { // too long for math/big
			t.Errorf("ParseAmount(%s) = %s, %v; want 0", text, got, err)
		}
	}
}

func TestParseAmountRefusesWhatIsNoNumberOfDollars(t *testing.T) {
	for _, text := range []string{
		"", ".", "-", "+", "--1", "+-1", "e5", ".e5", "1e", "1e+", "1e-", "1e5.", "1e400", "1e26", "-1e26",
		"NaN", "nan", "Inf", "-Infinity", "0x1", "1_0", " 1", "1 ", "1 0", "1,0", "1.2.3", "1e2e3", "١", "1\x00", "null", "\"1\"",
		"100000000000000000000000000", "99999999999999999999999999.9999999999995",
		"1e999999999999999999999", strings.Repeat("9", 1000),
	} {
		got, err := ParseAmount(text)
		if !errors.Is(err, ErrAmount) || got != (Amount{}) {
			t.Errorf("ParseAmount(%.50q) = %s, %v; want ErrAmount and zero", text, got, err)
		}
		if err != nil && len(err.Error()) > 250 {
			t.Errorf("the error repeats %d bytes of bad input", len(err.Error()))
		}
	}
}

func TestAmountArithmeticAgreesWithBigIntegers(t *testing.T) {
	r := newRand(t)
	for range 20_000 {
		a, b := randomAmount(r), randomAmount(r)
		x, y := bigOf(a), bigOf(b)
		if got, want := a.Add(b), fromBig(new(big.Int).Add(x, y)); got != want {
			t.Fatalf("%s + %s = %s, want %s", x, y, bigOf(got), bigOf(want))
		}
		if got, want := a.Sub(b), fromBig(new(big.Int).Sub(x, y)); got != want {
			t.Fatalf("%s - %s = %s, want %s", x, y, bigOf(got), bigOf(want))
		}
		if got, want := a.Neg(), fromBig(new(big.Int).Neg(x)); got != want {
			t.Fatalf("-%s = %s", x, bigOf(got))
		}
		if a.Cmp(b) != x.Cmp(y) || a.Sign() != x.Sign() || a.Cmp(a) != 0 || bigOf(a.Abs()).Cmp(new(big.Int).Abs(x)) != 0 {
			t.Fatalf("Cmp, Sign or Abs of %s and %s", x, y)
		}
		text := new(big.Rat).SetFrac(x, bigScale).FloatString(AmountScale)
		text = strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
		if a.Sign() == 0 {
			text = "0"
		}
		if a.String() != text {
			t.Fatalf("String of %s units is %q, want %q", x, a.String(), text)
		}
	}
	for n, want := range map[int64]string{0: "0", 1: "1", -7: "-7", math.MaxInt64: "9223372036854775807", math.MinInt64: "-9223372036854775808"} {
		if got := Dollars(n).String(); got != want {
			t.Errorf("Dollars(%d) = %s", n, got)
		}
	}
	if got := AmountFromUnits(math.MinInt64, 0).String(); got != "-170141183460469231731687303.715884105728" {
		t.Errorf("the smallest Amount is written %s", got)
	}
}

func TestAmountVarintsKeepEveryValueInAsFewBytesAsItNeeds(t *testing.T) {
	r := newRand(t)
	check := func(a Amount) {
		t.Helper()
		encoded := appendAmount(nil, a)
		d := decoder{rest: string(encoded)}
		if got := d.amount(); got != a || d.bad || d.rest != "" {
			t.Fatalf("%s comes back as %s", bigOf(a), bigOf(got))
		}
		zigzag := new(big.Int).Lsh(bigOf(a), 1)
		if a.Sign() < 0 {
			zigzag.Not(zigzag)
		}
		if want := max(1, (zigzag.BitLen()+6)/7); len(encoded) != want {
			t.Fatalf("%s takes %d bytes, want %d", bigOf(a), len(encoded), want)
		}
		for cut := range encoded {
			d := decoder{rest: string(encoded[:cut])}
			if d.amount(); !d.bad {
				t.Fatalf("%s is read out of its first %d bytes", bigOf(a), cut)
			}
		}
	}
	for bit := range uint(127) {
		power := new(big.Int).Lsh(big.NewInt(1), bit)
		for _, n := range []int64{-1, 0, 1} {
			v := new(big.Int).Add(power, big.NewInt(n))
			check(fromBig(v))
			check(fromBig(new(big.Int).Neg(v)))
		}
	}
	check(AmountFromUnits(math.MinInt64, 0))
	check(AmountFromUnits(math.MaxInt64, math.MaxUint64))
	for range 20_000 {
		check(randomAmount(r))
	}
	tooLong := decoder{rest: strings.Repeat("\xff", 18) + "\x07"}
	if tooLong.amount(); !tooLong.bad {
		t.Error("a varint of more than 128 bits is read")
	}
}

func TestAmountGoesThroughJSONAndSQLWithoutAFloat(t *testing.T) {
	var got struct{ A, B Amount }
	if err := json.Unmarshal([]byte(`{"A": 90071992547409931234.000000000001, "B": "-1.5e-7"}`), &got); err != nil {
		t.Fatal(err)
	}
	if got.A.String() != "90071992547409931234.000000000001" || got.B.String() != "-0.00000015" {
		t.Fatalf("read as %s and %s", got.A, got.B)
	}
	text, err := json.Marshal(got)
	if err != nil || string(text) != `{"A":"90071992547409931234.000000000001","B":"-0.00000015"}` {
		t.Fatalf("written as %s, %v", text, err)
	}
	for _, bad := range []string{`{"A": null}`, `{"A": "x"}`, `{"A": ""}`, `{"A": true}`} {
		if err := json.Unmarshal([]byte(bad), &got); !errors.Is(err, ErrAmount) {
			t.Errorf("%s: %v; want ErrAmount", bad, err)
		}
	}
	var scanned Amount
	for _, source := range []any{"12.5", []byte("12.5")} {
		if err := scanned.Scan(source); err != nil || scanned.String() != "12.5" {
			t.Errorf("Scan(%v) = %s, %v", source, scanned, err)
		}
	}
	if err := scanned.Scan(1.5); !errors.Is(err, ErrAmount) {
		t.Errorf("a float is scanned: %v", err)
	}
}

func FuzzParseAmount(f *testing.F) {
	for _, seed := range []string{"0", "-1.25", "1e-12", ".0000000000005", "99999999999999999999999999.9999999999995", "1e400", "0x1", "1_0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := ParseAmount(text)
		if err != nil {
			if !errors.Is(err, ErrAmount) || got != (Amount{}) {
				t.Fatalf("%s, %v", got, err)
			}
			return
		}
		if again, err := ParseAmount(got.String()); err != nil || again != got {
			t.Fatalf("%q → %s → %s, %v", text, got, again, err)
		}
		if len(text) > 100 || strings.ContainsAny(text, "eE") {
			return // math/big would make huge numbers of huge exponents
		}
		checkParse(t, text)
	})
}
