package pgstore

import (
	"math/big"
	"math/rand/v2"
	"testing"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/spendflush/spendflush/spend"
)

// bigAmount returns the units of an amount by the way of math/big.
func bigAmount(a spend.Amount) *big.Int {
	hi, lo := a.Units()
	n := new(big.Int).Lsh(big.NewInt(hi), 64)
	return n.Add(n, new(big.Int).SetUint64(lo))
}

// decimal writes units of 10^-12 as Postgres writes NUMERIC with twelve decimals.
func decimal(units *big.Int) string {
	text := new(big.Int).Abs(units).String()
	for len(text) <= spend.AmountScale {
		text = "0" + text
	}
	point := len(text) - spend.AmountScale
	if units.Sign() < 0 {
		return "-" + text[:point] + "." + text[point:]
	}
	return text[:point] + "." + text[point:]
}

// someAmounts returns amounts of every size, those around powers of the bases, and the extremes.
func someAmounts() []spend.Amount {
	r := rand.New(rand.NewPCG(1, 2))
	amounts := []spend.Amount{
		{}, spend.AmountFromUnits(0, 1), spend.AmountFromUnits(-1, 1<<64-1),
		dollars("99999999999999999999999999.999999999999"), dollars("-99999999999999999999999999.999999999999"),
		spend.AmountFromUnits(1<<63-1, 1<<64-1), spend.AmountFromUnits(-1<<63, 0),
	}
	power := big.NewInt(1)
	for range 38 {
		for _, delta := range []int64{-1, 0, 1} {
			n := new(big.Int).Add(power, big.NewInt(delta))
			low := new(big.Int).And(n, new(big.Int).SetUint64(1<<64-1))
			a := spend.AmountFromUnits(new(big.Int).Rsh(n, 64).Int64(), low.Uint64())
			amounts = append(amounts, a, a.Neg())
		}
		power.Mul(power, big.NewInt(10))
	}
	for range 5000 {
		shift := r.UintN(128)
		hi, lo := r.Uint64(), r.Uint64()
		if shift >= 64 {
			hi, lo = 0, hi>>(shift-64)
		} else {
			hi, lo = hi>>shift, lo>>shift
		}
		amounts = append(amounts, spend.AmountFromUnits(int64(hi), lo))
	}
	return amounts
}

func TestPostgresReadsEveryAmountAsWhatItIs(t *testing.T) {
	s := open(t, database(t), Options{})
	amounts := someAmounts()
	var e encoder
	e.amounts(len(amounts), func(i int) spend.Amount { return amounts[i] })
	conn, err := s.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	p := e.params()[0]
	result := conn.Conn().PgConn().ExecParams(t.Context(), "SELECT unnest($1::numeric[])::text",
		[][]byte{p.value}, []uint32{p.oid}, []int16{binaryFormat}, []int16{textFormat}).Read()
	if result.Err != nil {
		t.Fatal(result.Err)
	}
	if len(result.Rows) != len(amounts) {
		t.Fatalf("%d amounts came back of %d", len(result.Rows), len(amounts))
	}
	for i, a := range amounts {
		if got, want := string(result.Rows[i][0]), decimal(bigAmount(a)); got != want {
			t.Errorf("%v reads %s, want %s", a, got, want)
		}
	}
}

func TestAmountsAtTheEdgeOfTheColumnRoundTrip(t *testing.T) {
	s := open(t, database(t), Options{})
	p := newProducer()
	for i, text := range []string{
		"99999999999999999999999999.999999999999", "-99999999999999999999999999.999999999999", "0.000000000001",
		"-0.000000000001", "0.0001", "10000",
	} {
		series := spend.Series{APIKey: text}
		c := spend.Counters{Spend: dollars(text), SuccessfulRequests: 1}
		sequence := uint64(i + 1)
		f := flushOf(p, sequence, sequence, request{series, noon, c})
		f.Claims[0].Amount, f.Control = spend.Amount{}, spend.Control{} // their sums have no room for it
		apply(t, s, f)
		report, err := s.Spend(t.Context(), spend.Entity{Type: spend.APIKey, ID: text}, []spend.ProducerID{p})
		if err != nil || report.Committed != c {
			t.Errorf("%s: %+v, %v", text, report, err)
		}
		if got := query[string](t, s, `SELECT trim_scale(spend)::text FROM spendflush.daily_spend WHERE entity_id = $1`, text); got != text {
			t.Errorf("%s reads %s in daily_spend", text, got)
		}
	}
}

func TestAnEmptyArrayIsAnEmptyArray(t *testing.T) {
	s := open(t, database(t), Options{})
	var e encoder
	e.int8s(0, nil)
	p := e.params()[0]
	conn, err := s.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	result := conn.Conn().PgConn().ExecParams(t.Context(), "SELECT cardinality($1::bigint[])::text",
		[][]byte{p.value}, []uint32{pgtype.Int8ArrayOID}, []int16{binaryFormat}, nil).Read()
	if result.Err != nil || string(result.Rows[0][0]) != "0" {
		t.Errorf("%v, %v", result.Rows, result.Err)
	}
}

func TestHoursBefore1970AreSplitIntoDaysLikeLaterOnes(t *testing.T) {
	for _, c := range []struct {
		hour     spend.Hour
		day      int32
		hourOfIt int16
	}{{0, 0, 0}, {23, 0, 23}, {24, 1, 0}, {-1, -1, 23}, {-24, -1, 0}, {-25, -2, 23}} {
		if day, hour := split(c.hour); day != c.day || hour != c.hourOfIt {
			t.Errorf("hour %d is hour %d of day %d, want %d of %d", c.hour, hour, day, c.hourOfIt, c.day)
		}
	}
}
