package spendflush

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/spendflush/spendflush/spend"
)

func benchUpdate(i int) spend.Update {
	return spend.Update{
		Cost: spend.Cost{Spend: spend.Picodollars(1_234_567), PromptTokens: 812, CompletionTokens: 95},
		Series: spend.Series{
			APIKey: fmt.Sprintf("sk-%012d", i), UserID: fmt.Sprint("user-", i%997), TeamID: fmt.Sprint("team-", i%13),
			OrganizationID: "org-1", Model: "gpt-4o", CustomLLMProvider: "openai", Endpoint: "/v1/chat/completions",
			Tags: []string{"production"},
		},
	}
}

func benchPipeline(b *testing.B) *Pipeline {
	p := newTestPipeline(b, Config{Store: newTestStore(), DirectLocker: newTestLocker(), MaxKeys: 100_000_000})
	p.hours.keep() // as in a pipeline that runs
	return p
}

func BenchmarkRecordKnownKey(b *testing.B) {
	p, u := benchPipeline(b), benchUpdate(1)
	b.ReportAllocs()
	for b.Loop() {
		if err := p.Record(&u); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkHandle(b *testing.B) {
	p, u := benchPipeline(b), benchUpdate(1)
	h, err := p.Handle(&u.Series)
	if err != nil {
		b.Fatal(err)
	}
	cost := u.Cost
	b.ReportAllocs()
	for b.Loop() {
		if err := h.Record(&cost); err != nil {
			b.Fatal(err)
		}
	}
}

// Each update is of another combination. Every 100,000 the map is sealed, which is not measured.
func BenchmarkRecordNewKey(b *testing.B) {
	m, s, i := newOpenMap(200_000, spend.AllDimensions, 0), newSealer(1, 200_000), 0
	u, id := benchUpdate(1), make([]byte, 0, 20)
	b.ReportAllocs()
	for b.Loop() {
		i++
		id = fmt.Appendf(id[:0], "%d", i)
		u.APIKey = string(id)
		if _, err := m.addUpdate(&u, 0); err != nil {
			b.Fatal(err)
		}
		if i%100_000 == 0 {
			b.StopTimer()
			sealed(m, s)
			b.StartTimer()
		}
	}
}

// Ten thousand combinations in turn.
func BenchmarkRecordManyKeys(b *testing.B) {
	p := benchPipeline(b)
	updates := make([]spend.Update, 10_000)
	for i := range updates {
		updates[i] = benchUpdate(i)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if err := p.Record(&updates[i%len(updates)]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRecordParallel(b *testing.B) {
	p := benchPipeline(b)
	updates := make([]spend.Update, 1024)
	for i := range updates {
		updates[i] = benchUpdate(i)
	}
	var next atomic.Uint64
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		r := rand.New(rand.NewPCG(1, next.Add(1)))
		for pb.Next() {
			if err := p.Record(&updates[r.IntN(len(updates))]); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// benchRows are the rows of a seal of that many combinations.
func benchRows(b *testing.B, combinations int) rowsPart {
	b.Helper()
	updates := make([]spend.Update, combinations)
	for i := range updates {
		updates[i] = benchUpdate(i)
	}
	return sealUpdates(b, updates, 0)
}

func perRow(b *testing.B, rows int) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(rows), "ns/row")
}

func BenchmarkSeal(b *testing.B) {
	const combinations = 10_000
	updates := make([]spend.Update, combinations)
	for i := range updates {
		updates[i] = benchUpdate(i)
	}
	m, s := newOpenMap(1_000_000, spend.AllDimensions, 0), newSealer(1, 1_000_000)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		for i := range updates {
			if _, err := m.addUpdate(&updates[i], 0); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
		sealed(m, s)
	}
	perRow(b, combinations)
}

func BenchmarkNewBatch(b *testing.B) {
	rows := benchRows(b, 5_000)
	b.ReportAllocs()
	var size int
	for b.Loop() {
		size = len(spend.NewBatch(testHeader(testProducer(1), 1), rows.totals, rows.rollups).Bytes())
	}
	perRow(b, len(rows.totals)+len(rows.rollups))
	b.ReportMetric(float64(size)/float64(len(rows.totals)+len(rows.rollups)), "bytes/row")
}

func BenchmarkBatchRows(b *testing.B) {
	rows := benchRows(b, 5_000)
	batch := spend.NewBatch(testHeader(testProducer(1), 1), rows.totals, rows.rollups)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := batch.Rows(); err != nil {
			b.Fatal(err)
		}
	}
	perRow(b, len(rows.totals)+len(rows.rollups))
}

// The keys of a batch's rows are known from an earlier one.
func BenchmarkBatchRowsOfKnownKeys(b *testing.B) {
	rows := benchRows(b, 5_000)
	batch, known := spend.NewBatch(testHeader(testProducer(1), 1), rows.totals, rows.rollups), spend.NewKnownKeys(knownKeySlots)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := batch.RowsKnowing(known); err != nil {
			b.Fatal(err)
		}
	}
	perRow(b, len(rows.totals)+len(rows.rollups))
}

// Sixteen batches of 1000 combinations, half of which they have in common.
func BenchmarkMerge(b *testing.B) {
	runs := make([][]spend.TotalRow, 16)
	for i := range runs {
		updates := make([]spend.Update, 1000)
		for j := range updates {
			updates[j] = benchUpdate(j + 500*i)
		}
		runs[i] = sealUpdates(b, updates, 0).totals
	}
	rows := 0
	for _, run := range runs {
		rows += len(run)
	}
	b.ReportAllocs()
	for b.Loop() {
		m := merger[spend.TotalRow]{kind: totalRows}
		for _, run := range runs {
			m.add(run)
		}
		m.rows()
	}
	perRow(b, rows)
}

func BenchmarkParseAmount(b *testing.B) {
	for b.Loop() {
		if _, err := spend.ParseAmount("0.000123456789"); err != nil {
			b.Fatal(err)
		}
	}
}

// Each update has an id of its own, of one combination. Every 10,000 they are sealed and let go of,
// which is measured.
func BenchmarkRecordID(b *testing.B) {
	p, u, i := benchPipeline(b), benchUpdate(1), 0
	id := make([]byte, 0, 20)
	b.ReportAllocs()
	for b.Loop() {
		i++
		id = fmt.Appendf(id[:0], "%020d", i)
		u.ID = string(id)
		if err := p.Record(&u); err != nil {
			b.Fatal(err)
		}
		if i%10_000 == 0 {
			sealAndForget(p)
		}
	}
}

// A call of a hundred updates that has a key.
func BenchmarkRecordOnce(b *testing.B) {
	p, i := benchPipeline(b), 0
	updates := make([]spend.Update, 100)
	for i := range updates {
		updates[i] = benchUpdate(i)
	}
	b.ReportAllocs()
	for b.Loop() {
		i++
		if _, err := p.RecordOnce(fmt.Sprint("request-", i), updates); err != nil {
			b.Fatal(err)
		}
		if i%100 == 0 {
			sealAndForget(p)
		}
	}
}

// sealAndForget seals what is open, and has the pipeline forget it.
func sealAndForget(p *Pipeline) {
	p.seal(false)
	for _, r := range p.relays {
		for _, batch := range r.outbox.batches {
			if batch.held != nil {
				p.open.facts.release(batch.held)
			}
		}
		r.outbox.batches = nil
	}
}
