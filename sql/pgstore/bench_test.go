package pgstore

import (
	"fmt"
	"testing"

	"github.com/spendflush/spendflush/spend"
)

// benchFlush returns a flush of 10,000 rollup rows and 25,000 totals.
func benchFlush(b *testing.B) *spend.Flush {
	b.Helper()
	requests := make([]request, 10_000)
	for i := range requests {
		requests[i] = request{
			series: spend.Series{
				APIKey: fmt.Sprintf("sk-%032d", i), EndUserID: fmt.Sprintf("customer-%d", i), UserID: fmt.Sprintf("user-%d", i%2000),
				TeamID: fmt.Sprintf("team-%d", i%500), OrganizationID: fmt.Sprintf("org-%d", i%100), Model: fmt.Sprintf("model-%d", i%20),
				ModelGroup: fmt.Sprintf("group-%d", i%10), CustomLLMProvider: "openai", Endpoint: "/v1/chat/completions",
				Tags: []string{fmt.Sprintf("tag-%d", i%400)},
			},
			hour: noon,
			counters: spend.Counters{
				Spend: spend.Picodollars(int64(i%977) * 1_234_567_000), SuccessfulRequests: 3, PromptTokens: 1200,
				CompletionTokens: 300,
			},
		}
	}
	f := flushOf(newProducer(), 1, 1, requests...)
	if len(f.Totals) != 25_000 || len(f.Rollups) != 10_000 {
		b.Fatalf("%d totals and %d rollup rows", len(f.Totals), len(f.Rollups))
	}
	return f
}

// measure reports rows a second and bytes of Postgres's log a row.
func measure(b *testing.B, s *Store, f *spend.Flush, do func()) {
	b.Helper()
	from := query[string](b, s, "SELECT pg_current_wal_insert_lsn()::text")
	b.ReportAllocs()
	for b.Loop() {
		do()
	}
	rows := float64(b.N) * float64(len(f.Totals)+len(f.Rollups))
	b.ReportMetric(rows/b.Elapsed().Seconds(), "rows/s")
	b.ReportMetric(float64(query[int64](b, s, "SELECT (pg_current_wal_insert_lsn() - $1::pg_lsn)::bigint", from))/rows, "WAL-B/row")
}

// BenchmarkApply commits the same 35,000 rows again and again.
func BenchmarkApply(b *testing.B) {
	s := open(b, database(b), Options{})
	f := benchFlush(b)
	next := func() {
		apply(b, s, f)
		c := &f.Claims[0]
		c.First, c.Last, c.Prior, c.Digest = c.Last+1, c.Last+1, c.Digest, digestAt(c.Last+1)
	}
	next()
	measure(b, s, f, next)
}

// BenchmarkLimit sends the same rows as two UPSERTs, encoded beforehand, in a transaction of their
// own: what Apply would take if it did nothing else, and didn't know which rows are there.
func BenchmarkLimit(b *testing.B) {
	s := open(b, database(b), Options{})
	f := benchFlush(b)
	apply(b, s, f)
	var e encoder
	params := e.parts(
		func() { encodeTotals(&e, 0, f.Totals, places(len(f.Totals))) }, func() { encodeRollups(&e, f.Rollups, places(len(f.Rollups))) })
	conn, err := s.pool.Acquire(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Release()
	tx := &transaction{store: s, conn: conn.Conn().PgConn()}
	measure(b, s, f, func() {
		err := tx.run(b.Context(), call{name: "begin", rows: -1},
			call{name: "add_totals", params: params[0], rows: len(f.Totals)},
			call{name: "add_rollups", params: params[1], rows: len(f.Rollups)},
			call{name: "commit", rows: -1})
		if err != nil {
			b.Fatal(err)
		}
	})
}

// BenchmarkFirstApply commits 35,000 rows of which none is known.
func BenchmarkFirstApply(b *testing.B) {
	s := open(b, database(b), Options{})
	f := benchFlush(b)
	for b.Loop() {
		apply(b, s, f)
		b.StopTimer()
		c := &f.Claims[0]
		c.First, c.Last, c.Prior, c.Digest = c.Last+1, c.Last+1, c.Digest, digestAt(c.Last+1)
		s.known.evictAll()
		execute(b, s.pool, "TRUNCATE spendflush.entity, spendflush.total, spendflush.series, spendflush.series_tag, spendflush.rollup")
		b.StartTimer()
	}
	b.ReportMetric(float64(b.N)*35_000/b.Elapsed().Seconds(), "rows/s")
}

// BenchmarkEncode is the work of the client before it sends anything.
func BenchmarkEncode(b *testing.B) {
	f := benchFlush(b)
	var e encoder
	b.ReportAllocs()
	for b.Loop() {
		e.reset()
		encodeTotals(&e, 0, f.Totals, places(len(f.Totals)))
		encodeRollups(&e, f.Rollups, places(len(f.Rollups)))
	}
	b.ReportMetric(float64(len(e.buf))/35_000, "B/row")
}

// BenchmarkAudit reads 1,000,000 rollup rows of 10,000 series. They don't add up, as most were made
// past the books.
func BenchmarkAudit(b *testing.B) {
	s := open(b, database(b), Options{})
	apply(b, s, benchFlush(b))
	makeParts(b, s, "2026-11-20", "2027-03-10")
	execute(b, s.pool, `INSERT INTO spendflush.rollup (series, day, hour, failed_requests, cache_creation_input_tokens,
			cache_read_input_tokens, successful_requests, prompt_tokens, completion_tokens, spend)
		SELECT series, day + d, hour, 0, 0, 0, successful_requests, prompt_tokens, completion_tokens, spend
		FROM spendflush.rollup, generate_series(1, 99) AS d`)
	execute(b, s.pool, "ANALYZE")
	for b.Loop() {
		if _, err := s.Audit(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(1_000_000*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}

// benchIDs returns facts under 10,000 ids that were never used, on 2,000 series.
func benchIDs(round int) (facts []named) {
	for i := range 10_000 {
		facts = append(facts, named{fmt.Sprintf("chatcmpl-%d-%d", round, i), fmt.Sprintf("sk-%032d", i%2000), spend.Fingerprint(i)})
	}
	return facts
}

// measureIDs reports ids a second and bytes of Postgres's log an id.
func measureIDs(b *testing.B, s *Store, prepare func(round int) *spend.Flush, do func(f *spend.Flush)) {
	b.Helper()
	do(prepare(-1)) // the dictionaries are known
	var log int64
	for round := 0; b.Loop(); round++ {
		b.StopTimer()
		f := prepare(round)
		from := query[string](b, s, "SELECT pg_current_wal_insert_lsn()::text")
		b.StartTimer()
		do(f)
		b.StopTimer()
		log += query[int64](b, s, "SELECT (pg_current_wal_insert_lsn() - $1::pg_lsn)::bigint", from)
		b.StartTimer()
	}
	b.ReportMetric(float64(b.N)*10_000/b.Elapsed().Seconds(), "ids/s")
	b.ReportMetric(float64(log)/float64(b.N)/10_000, "WAL-B/id")
}

// BenchmarkLookForIDs looks for 10,000 ids that aren't there, where each of five parts has 200,000.
func BenchmarkLookForIDs(b *testing.B) {
	s := open(b, database(b), Options{})
	fillIDs(b, s, 200_000)
	execute(b, s.pool, "UPDATE spendflush.id_parts SET state = 'full', opened = '0', closed = '0' WHERE part BETWEEN 1 AND 4")
	for part := 1; part < 5; part++ {
		execute(b, s.pool, fmt.Sprintf("INSERT INTO spendflush.ids_%d TABLE spendflush.ids_0", part))
	}
	execute(b, s.pool, "ANALYZE")
	f := alone(b, newFacts(0).seal(b, benchIDs(0)...), spend.Mark{})
	look := &factLook{flush: f, ids: f.FactIDs()}
	conn, err := s.pool.Acquire(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Release()
	tx := &transaction{store: s, conn: conn.Conn().PgConn()}
	for b.Loop() {
		if err := tx.decide(b.Context(), look, false); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*10_000/b.Elapsed().Seconds(), "ids/s")
}

// BenchmarkApplyIDs commits 10,000 identified updates: new ones; repeats; the same sums without
// ids; and, as a limit, the same ids as one INSERT, encoded beforehand, in a transaction of its
// own.
func BenchmarkApplyIDs(b *testing.B) {
	prepare := func(round int) *spend.Flush { return alone(b, newFacts(0).seal(b, benchIDs(round)...), spend.Mark{}) }
	b.Run("new", func(b *testing.B) {
		s := open(b, database(b), Options{})
		measureIDs(b, s, prepare, func(f *spend.Flush) { apply(b, s, f) })
		bytes := query[int64](b, s, "SELECT pg_total_relation_size('spendflush.ids_0') / (SELECT count(*) FROM spendflush.ids_0)")
		b.ReportMetric(float64(bytes), "disk-B/id")
	})
	b.Run("repeats", func(b *testing.B) {
		s := open(b, database(b), Options{})
		measureIDs(b, s, func(int) *spend.Flush { return prepare(0) }, func(f *spend.Flush) { apply(b, s, f) })
	})
	b.Run("without", func(b *testing.B) {
		s := open(b, database(b), Options{})
		without := func(round int) *spend.Flush {
			f := prepare(round)
			f.Facts = nil
			return f
		}
		measureIDs(b, s, without, func(f *spend.Flush) { apply(b, s, f) })
	})
	b.Run("limit", func(b *testing.B) {
		s := open(b, database(b), Options{})
		conn, err := s.pool.Acquire(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Release()
		tx := &transaction{store: s, conn: conn.Conn().PgConn()}
		var calls []call
		encode := func(round int) *spend.Flush {
			f := prepare(round)
			look := &factLook{flush: f}
			if err := look.decide(); err != nil {
				b.Fatal(err)
			}
			calls = []call{{name: "begin", rows: -1}, look.writeCalls()[0], {name: "commit", rows: -1}}
			return f
		}
		measureIDs(b, s, encode, func(*spend.Flush) {
			if err := tx.run(b.Context(), calls...); err != nil {
				b.Fatal(err)
			}
		})
	})
}
