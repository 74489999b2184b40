package pgstore

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// manyTags returns requests on n series, each with as many tags as there may be, of the largest
// size. All have the same tags, or each its own.
func manyTags(n int, same bool) []request {
	requests := make([]request, n)
	for i := range requests {
		tags := make([]string, spend.MaxTags)
		for j := range tags {
			tags[j] = fmt.Sprintf("%03d", j)
			if !same {
				tags[j] += fmt.Sprintf("-%d", i)
			}
			tags[j] += strings.Repeat("x", spend.MaxIDBytes-len(tags[j]))
		}
		requests[i] = request{spend.Series{APIKey: fmt.Sprintf("key-%d", i), Tags: tags}, noon, one("1")}
	}
	return requests
}

// A process that gets little of a processor takes long to encode. Meanwhile no row is locked, and
// no time-out runs.
func TestAFlushIsEncodedBeforeItsTransactionBegins(t *testing.T) {
	s := open(t, database(t), Options{})
	f := flushOf(newProducer(), 1, 1, traffic(rand.New(rand.NewPCG(40, 1)), 100, 50)...)
	s.statement = func(name string) string {
		if name == "begin" { // what is encoded from here on is wrong
			for i := range f.Totals {
				f.Totals[i].Counters.PromptTokens++
			}
			for i := range f.Rollups {
				f.Rollups[i].Counters.PromptTokens++
			}
			f.Control.Rollups.PromptTokens++
			f.Claims[0].Updates++
		}
		return embedded.get(name)
	}
	apply(t, s, f)
	s.statement = embedded.get
	wantAudit(t, s)
}

func TestDictionariesAreSentInPiecesAndASetOfTagsOnceInEach(t *testing.T) {
	for _, same := range []bool{true, false} {
		f := flushOf(newProducer(), 1, 1, manyTags(600, same)...)
		s := open(t, database(t), Options{})
		var e encoder
		total := 0
		for _, c := range (&transaction{store: s}).prepare(&e, f) {
			if n := c.size(); n > maxChunkTexts*5/4 {
				t.Errorf("%s is sent in one piece of %d bytes", c.name, n)
			}
			total += c.size()
		}
		if same && total > 1<<20 {
			t.Errorf("tags that all series have are sent again and again: %d bytes", total)
		}
		if same {
			apply(t, s, f)
			want := f.Rollups[0].Series().Tags
			if n := query[int](t, s, "SELECT count(*) FROM spendflush.series WHERE tags = $1", want); n != len(f.Rollups) {
				t.Errorf("%d series have their tags, want %d", n, len(f.Rollups))
			}
			wantAudit(t, s)
		}
	}
}

// Sets of tags are found by counting through them, which must stay cheap.
func TestManySmallSetsOfTagsAreSentInPieces(t *testing.T) {
	requests := make([]request, 3*maxChunkRows/2)
	for i := range requests {
		requests[i] = request{spend.Series{Tags: []string{fmt.Sprint(i)}}, noon, one("1")}
	}
	f := flushOf(newProducer(), 1, 1, requests...)
	s := open(t, database(t), Options{})
	var e encoder
	pieces := 0
	for _, c := range (&transaction{store: s}).prepare(&e, f) {
		if c.name == "intern_series" {
			pieces++
		}
	}
	if pieces != 2 {
		t.Errorf("%d pieces, want 2", pieces)
	}
	apply(t, s, f)
	wantAudit(t, s)
}

// BenchmarkManyTags books series that have the same 64 tags of 256 bytes each, in flushes as large
// as the engine makes them, and reports the most memory that the heap has had. They are two
// flushes, or as many series as SPENDFLUSH_MANY_TAGS says: 68000 take some minutes, for each tag of
// each is a row.
func BenchmarkManyTags(b *testing.B) {
	const perFlush = 64 << 20 / (spend.MaxTags * spend.MaxIDBytes)
	series := 2 * perFlush
	if text := os.Getenv("SPENDFLUSH_MANY_TAGS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			b.Fatal(err)
		}
		series = n
	}
	s := open(b, database(b), Options{})
	var peak uint64
	var group sync.WaitGroup
	done := make(chan struct{})
	group.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			peak = max(peak, m.HeapInuse+m.StackInuse)
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	})
	for b.Loop() {
		tags := manyTags(1, true)[0].series.Tags
		for from := 0; from < series; from += perFlush {
			requests := make([]request, min(perFlush, series-from))
			for i := range requests {
				requests[i] = request{spend.Series{APIKey: fmt.Sprintf("key-%d", from+i), Tags: tags}, noon, one("1")}
			}
			apply(b, s, flushOf(newProducer(), 1, 1, requests...))
		}
	}
	close(done)
	group.Wait()
	b.ReportMetric(float64(peak)/(1<<20), "peak-heap-MiB")
}
