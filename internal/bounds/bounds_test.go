package bounds

import (
	"testing"
	"time"
)

func TestABoundTellsWhatItHas(t *testing.T) {
	for _, c := range []struct {
		bound    Bound
		text     string
		has, not []int64
	}{
		{Number(1, 64), "1 to 64", []int64{1, 2, 64}, []int64{-1, 0, 65}},
		{Number(4, NoEnd), "4 or more", []int64{4, NoEnd}, []int64{0, 3}},
		{Number(4, NoEnd).OrZero("no bound"), "4 or more; 0: no bound", []int64{0, 4}, []int64{-1, 1, 3}},
		{Number(0, 5), "0 to 5", []int64{0, 5}, []int64{-1, 6}},
		{Duration(time.Second, 24*time.Hour), "1s to 24h", []int64{1e9, 24 * 3600e9}, []int64{0, 1e9 - 1, 24*3600e9 + 1}},
		{Duration(0, time.Minute).OrZero("off"), "0s (off) to 1m", []int64{0, 1}, []int64{-1, 60e9 + 1}},
		{Duration(time.Second, time.Minute).OrZero("off"), "1s to 1m; 0s: off", []int64{0, 1e9}, []int64{-1, 1}},
	} {
		if got := c.bound.String(); got != c.text {
			t.Errorf("%+v is told as %q, want %q", c.bound, got, c.text)
		}
		for _, n := range c.has {
			if !c.bound.Has(n) {
				t.Errorf("%s: %d is refused", c.text, n)
			}
		}
		for _, n := range c.not {
			if c.bound.Has(n) {
				t.Errorf("%s: %d is taken", c.text, n)
			}
		}
	}
}

func TestADurationIsWrittenAsShortAsItIsSet(t *testing.T) {
	for _, text := range []string{"0s", "1ms", "500ms", "1s", "30s", "1m", "10m", "1m30s", "1h", "1h10m", "1h0m5s", "24h", "720h", "-1h", "-10m"} {
		d, err := time.ParseDuration(text)
		if got := Duration(0, 0).Text(int64(d)); got != text || err != nil {
			t.Errorf("%s is written as %q, %v", text, got, err)
		}
	}
}
