package pgstore

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"math/big"
	"math/rand/v2"
	"testing"

	"github.com/spendflush/spendflush/spend"
)

var modulus = new(big.Int).Lsh(big.NewInt(1), 128)

// plainFingerprint is the definition, in plain big integers.
func plainFingerprint(series spend.Key, hour int16, spend *big.Int, counts [6]int64) *big.Int {
	weights := sha256.Sum256(append(series[:], byte(hour>>8), byte(hour)))
	counters := []*big.Int{spend}
	for _, n := range counts {
		counters = append(counters, big.NewInt(n))
	}
	sum := new(big.Int)
	for i, c := range counters {
		weight := new(big.Int).SetUint64(uint64(binary.BigEndian.Uint32(weights[4*i:])))
		sum.Add(sum, weight.Mul(weight, c))
	}
	return sum.Mod(sum, modulus)
}

func randomCounters(r *rand.Rand) spend.Counters {
	n := func() int64 {
		switch r.IntN(6) {
		case 0:
			return 0
		case 1:
			return math.MinInt64
		case 2:
			return math.MaxInt64
		default:
			return int64(r.Uint64()) >> r.IntN(64)
		}
	}
	return spend.Counters{
		Spend: spend.AmountFromUnits(n(), r.Uint64()), SuccessfulRequests: n(), FailedRequests: n(), PromptTokens: n(),
		CompletionTokens: n(), CacheReadInputTokens: n(), CacheCreationInputTokens: n(),
	}
}

func TestFingerprintsAreWhatTheirDefinitionSaysAndAddUp(t *testing.T) {
	r := rand.New(rand.NewPCG(51, 1))
	var all fingerprint
	plain := new(big.Int)
	for range 2000 {
		var key spend.Key
		binary.BigEndian.PutUint64(key[:], r.Uint64())
		hour := int16(r.IntN(24))
		c := randomCounters(r)
		hi, lo := c.Spend.Units()
		spend := new(big.Int).Lsh(big.NewInt(hi), 64)
		spend.Add(spend, new(big.Int).SetUint64(lo))
		counters := fingerprintCounters(&c)
		if got := counters[0].signed(); got.Cmp(spend) != 0 {
			t.Fatalf("%s reads back as %s", spend, got)
		}
		var one fingerprint
		one.addRow(key, hour, &counters)
		want := plainFingerprint(key, hour, spend, [6]int64{
			c.SuccessfulRequests, c.FailedRequests, c.PromptTokens, c.CompletionTokens, c.CacheReadInputTokens, c.CacheCreationInputTokens,
		})
		if one.String() != want.String() || fingerprintOf(want) != one {
			t.Fatalf("the fingerprint is %s, want %s", one, want)
		}
		all.add(one)
		plain.Mod(plain.Add(plain, want), modulus)
	}
	if all.String() != plain.String() {
		t.Errorf("the sum is %s, want %s", all, plain)
	}
	if f := integer(-5); f.negative() != integer(5) || integer(0).negative() != integer(0) {
		t.Errorf("-(-5) is %s", f.negative())
	}
}

func TestNumbersOfPostgresReadBackAsTheyWereWritten(t *testing.T) {
	r := rand.New(rand.NewPCG(52, 1))
	for range 5000 {
		c := randomCounters(r)
		if r.IntN(2) == 0 {
			c.Spend = spend.Picodollars(int64(r.Uint64()) >> r.IntN(64))
		}
		hi, lo := c.Spend.Units()
		f, ok := numericUnits(appendNumeric(nil, c.Spend))
		if !ok || f != (fingerprint{uint64(hi), lo}) {
			t.Fatalf("%s reads as %s, %t", c.Spend, f, ok)
		}
	}
	number := func(words ...uint16) (b []byte) {
		for _, w := range words {
			b = binary.BigEndian.AppendUint16(b, w)
		}
		return b
	}
	for name, b := range map[string][]byte{
		"nothing": {}, "NaN": number(0, 0, 0xC000, 0), "infinity": number(0, 0, 0xD000, 0), "too short": number(2, 0, 0, 12, 5),
		"too long": number(1, 0, 0, 12, 5, 6), "too many decimals": number(1, 0xFFFC, 0, 16, 1),
	} {
		if f, ok := numericUnits(b); ok {
			t.Errorf("%s reads as %s", name, f)
		}
	}
}

func BenchmarkFingerprintOfARow(b *testing.B) {
	var f fingerprint
	key := (&spend.Series{APIKey: "k"}).Key()
	c := one("0.000123")
	for b.Loop() {
		counters := fingerprintCounters(&c)
		f.addRow(key, 12, &counters)
	}
}
