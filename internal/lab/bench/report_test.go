package bench

import (
	"strings"
	"testing"
	"time"

	"github.com/spendflush/spendflush/internal/lab/load"
	"github.com/spendflush/spendflush/spend"
)

func TestNumbersHaveThreeDigitsThatCount(t *testing.T) {
	for x, want := range map[float64]string{
		0: "0", 1: "1", 0.25: "0.250", 12.345: "12.3", 999: "999", 1234: "1234", 99_949: "99949", 99_950: "100 k", 123_456: "123 k",
		999_499: "999 k", 999_500: "1.00 M", 52_900_000: "52.9 M", -3.14159: "-3.14", 0.000012345: "0.000012",
	} {
		if got := number(x); got != want {
			t.Errorf("%g is written %q, want %q", x, got, want)
		}
	}
}

func TestAValueIsTheMedianOfItsRoundsWithTheirSpread(t *testing.T) {
	for _, c := range []struct {
		samples []float64
		want    string
	}{
		{[]float64{5}, "5"}, {[]float64{5, 5}, "5"}, {[]float64{9, 1, 2}, "2 (1–9)"}, {[]float64{4, 1, 2, 3}, "2.50 (1–4)"},
		{nil, "–"}, {ratios([]float64{0, 1}, []float64{0, 0}), "–"}, {ratios([]float64{1, 8, 2}, []float64{0, 2, 1}), "3 (2–4)"},
	} {
		if got := valueOf(c.samples).String(); got != c.want {
			t.Errorf("%v is written %q, want %q", c.samples, got, c.want)
		}
	}
}

func TestTargetsAreJudgedByTheMedian(t *testing.T) {
	var r Report
	r.atLeast("p", "fast", "", 30, []float64{29, 31, 30})
	r.atLeast("p", "slow", "", 30, []float64{29, 31, 28})
	r.atMost("p", "small", "ns", 120, []float64{120, 90, 130})
	r.atMost("p", "large", "ns", 120, []float64{120.1})
	r.atMost("p", "unknown", "ns", 120, ratios([]float64{0}, []float64{0}))
	for i, met := range []bool{true, false, true, false, false} {
		if r.Targets[i].Met != met {
			t.Errorf("%+v", r.Targets[i])
		}
	}
	var b strings.Builder
	if err := r.WriteMarkdown(&b); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"| fast | ≥ 30 | 30 (29–31) | met |\n", "| slow | ≥ 30 | 29 (28–31) | **missed** |\n",
		"| small | ≤ 120 ns | 120 (90–130) ns | met |\n", "| large | ≤ 120 ns | 120 ns | **missed** |\n",
		"| unknown | ≤ 120 ns | – | **missed** |\n",
	} {
		if !strings.Contains(b.String(), line) {
			t.Errorf("the report has no line %q:\n%s", line, b.String())
		}
	}
}

func TestCyclesCountAsOftenAsTheyWereSent(t *testing.T) {
	w, err := load.New(load.Shape{Keys: 7, Time: time.Unix(1_800_000_000, 0)})
	if err != nil {
		t.Fatal(err)
	}
	for _, times := range []uint64{0, 1, 2, 3, 1000} {
		want, got := w.Sums(0, 10), w.Sums(0, 10)
		for range times {
			once := w.Sums(0, 5)
			want.Updates.Add(&once.Updates)
			for e, c := range once.Entities {
				sum := want.Entities[e]
				sum.Add(&c)
				want.Entities[e] = sum
			}
		}
		add(&got, w.Sums(0, 5), times)
		if got.Updates != want.Updates {
			t.Errorf("%d times: %+v, want %+v", times, got.Updates, want.Updates)
		}
		for e, c := range want.Entities {
			if got.Entities[e] != c {
				t.Errorf("%d times: %v has %+v, want %+v", times, e, got.Entities[e], c)
			}
		}
	}
}

func TestAnAmountKeepsAllItsBitsAsANumeric(t *testing.T) {
	for _, text := range []string{"0", "0.000000000001", "-0.000000000001", "18446744.073709551616", "-99999999999999999999999999.999999999999"} {
		a, err := spend.ParseAmount(text)
		if err != nil {
			t.Fatal(err)
		}
		value, err := numeric(a).Value()
		if err != nil {
			t.Fatal(err)
		}
		back, err := spend.ParseAmount(value.(string))
		if err != nil || back != a {
			t.Errorf("%s becomes %s: %v", text, value, err)
		}
	}
}
