package pgstore

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"strings"
	"sync"
	"testing"

	"github.com/spendflush/spendflush/spend"
)

// bytesOf returns the batch that a flush of one claim came from.
func bytesOf(f *spend.Flush) []byte {
	c := f.Claims[0]
	h := spend.Header{Books: testBooks, Shard: f.Shard, Producer: c.Producer, Sequence: c.First, PriorDigest: c.Prior}
	return spend.NewBatch(h, f.Totals, f.Rollups).Bytes()
}

// altered returns a copy of the bytes of a batch, changed and with a checksum that fits again.
func altered(batch []byte, change func(b []byte)) []byte {
	b := append([]byte(nil), batch...)
	change(b)
	castagnoli := crc32.MakeTable(crc32.Castagnoli)
	binary.BigEndian.PutUint32(b[4:], crc32.Update(crc32.Checksum(b[:4], castagnoli), castagnoli, b[8:]))
	return b
}

// quarantine puts bytes into quarantine and returns the entry made of them.
func quarantine(t *testing.T, s, aside *Store, bytes []byte) Quarantined {
	t.Helper()
	if err := s.Quarantine(t.Context(), []spend.BadBatch{{Reason: "for the test", Bytes: bytes}}); err != nil {
		t.Fatal(err)
	}
	q, err := s.QuarantinedEntry(t.Context(), query[int64](t, aside, "SELECT pg_catalog.max(id) FROM spendflush.quarantine"))
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// refuseRow makes Postgres refuse the api key's total of the request, and mends the cause. It
// returns the one entry.
func refuseRow(t *testing.T, s *Store, p spend.ProducerID, first uint64, r request) Quarantined {
	t.Helper()
	apply(t, s, flushOf(p, first, first, r))
	tokens := query[int64](t, s, "SELECT prompt_tokens FROM spendflush.total")
	execute(t, s.pool, "UPDATE spendflush.total SET prompt_tokens = 9223372036854775807")
	apply(t, s, flushOf(p, first+1, first+1, r))
	execute(t, s.pool, "UPDATE spendflush.total SET prompt_tokens = $1", tokens)
	open, err := s.Quarantined(t.Context(), false, 0, 10)
	if err != nil || len(open) != 1 {
		t.Fatalf("%+v, %v", open, err)
	}
	return open[0]
}

func TestARowThatManyApplyAtOnceCountsOnce(t *testing.T) {
	s := open(t, database(t), Options{MaxConns: 8})
	p := newProducer()
	r := request{spend.Series{APIKey: "k"}, noon, one("1")}
	const rounds = 10
	for n := range uint64(rounds) {
		id := refuseRow(t, s, p, 2*n+1, r).ID
		var group sync.WaitGroup
		var errs [8]error
		for i := range errs {
			group.Go(func() { errs[i] = s.ApplyQuarantined(t.Context(), id, "a test") })
		}
		group.Wait()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
			} else if !errors.Is(err, ErrNotQuarantined) {
				t.Error(err)
			}
		}
		if won != 1 {
			t.Fatalf("%d calls applied the row", won)
		}
	}
	if got := query[int](t, s, "SELECT successful_requests FROM spendflush.spend"); got != 2*rounds {
		t.Errorf("%d requests are booked, want %d", got, 2*rounds)
	}
	wantAudit(t, s)
}

func TestAQuarantinedBatchBesideItsResendCountsOnce(t *testing.T) {
	s := open(t, database(t), Options{MaxConns: 4})
	r := request{spend.Series{APIKey: "k", Tags: []string{"a", "b"}}, noon, one("1")}
	const rounds = 20
	byHand := 0
	for range rounds {
		f := flushOf(newProducer(), 1, 1, r)
		bytes := bytesOf(f)
		b, err := spend.ParseBatch(bytes)
		if err != nil {
			t.Fatal(err)
		}
		f.Claims[0].Digest = b.Digest()
		q := quarantine(t, s, s, bytes)
		var group sync.WaitGroup
		var byHandErr, resendErr error
		group.Go(func() { byHandErr = s.ApplyQuarantined(t.Context(), q.ID, "a test") })
		group.Go(func() { resendErr = s.Apply(t.Context(), f) })
		group.Wait()
		late := errors.Join(byHandErr, resendErr) // whoever lost the race, or came when it was over
		if (byHandErr == nil) == (resendErr == nil) || !errors.Is(late, spend.ErrFenced) && !errors.Is(late, spend.ErrApplied) {
			t.Fatalf("by hand: %v; resend: %v", byHandErr, resendErr)
		}
		if byHandErr == nil {
			byHand++
		}
		q, err = s.QuarantinedEntry(t.Context(), q.ID)
		if err != nil || (q.State == "applied") != (byHandErr == nil) || q.SettledAt.IsZero() != (byHandErr != nil) {
			t.Errorf("%+v, %v", q, err)
		}
	}
	t.Logf("%d of %d were applied by hand", byHand, rounds)
	if got := query[int](t, s, "SELECT successful_requests FROM spendflush.spend WHERE entity_type = 'api_key'"); got != rounds {
		t.Errorf("%d requests are booked, want %d", got, rounds)
	}
	wantAudit(t, s)
}

func TestApplyingAnEntryIsSafeWhicheverStatementFails(t *testing.T) {
	databaseURL := database(t)
	s := open(t, databaseURL, Options{})
	r := request{spend.Series{APIKey: "k"}, noon, one("1")}
	statements, unknown := 0, 0
	for n := 1; ; n++ {
		q := quarantine(t, s, s, bytesOf(flushOf(newProducer(), 1, 1, r)))
		broken := open(t, databaseURL, Options{})
		reached := failNth(broken, n, killBackend)
		err := broken.ApplyQuarantined(t.Context(), q.ID, "a test")
		if errors.Is(err, errUnknown) {
			unknown++
			err = broken.ApplyQuarantined(t.Context(), q.ID, "a test")
		}
		if err != nil {
			t.Fatalf("statement %d: %v", n, err)
		}
		if err := broken.ApplyQuarantined(t.Context(), q.ID, "a test"); !errors.Is(err, ErrNotQuarantined) {
			t.Errorf("statement %d: applied twice: %v", n, err)
		}
		statements++
		if n > 30 || !reached() {
			break
		}
	}
	if statements < 10 || statements > 30 || unknown != 1 {
		t.Errorf("%d statements, the outcome of %d is unknown", statements, unknown)
	}
	if got := query[int](t, s, "SELECT successful_requests FROM spendflush.spend"); got != statements {
		t.Errorf("%d requests are booked, want %d", got, statements)
	}
	wantAudit(t, s)
}

func TestABatchInQuarantineCountsWhatItsHeaderTells(t *testing.T) {
	s := open(t, database(t), Options{})
	requests := []request{
		{spend.Series{APIKey: "k"}, noon, one("1.5")},
		{spend.Series{APIKey: "l"}, noon, one("-0.25")},
	}
	whole := func() []byte { return bytesOf(flushOf(newProducer(), 1, 1, requests...)) }
	for _, c := range []struct {
		name    string
		bytes   []byte
		counted bool
		spend   string
		updates int64
	}{
		{"whole", whole(), true, "1.25", 2},
		{"rows that don't add up", altered(whole(), func(b []byte) { b[136]++ }), true, "1.25", 2},
		{"newer", altered(whole(), func(b []byte) { b[2] = 9 }), true, "1.25", 2},
		{"damaged", append(whole(), 0), false, "0", 0},
		{"empty", []byte{}, false, "0", 0},
		{"the least amount that there is", altered(whole(), func(b []byte) { copy(b[56:72], "\x80"+strings.Repeat("\x00", 15)) }),
			false, "0", 0},
		{"the largest amount", altered(whole(), func(b []byte) { copy(b[56:72], "\x7f"+strings.Repeat("\xff", 15)) }),
			false, "0", 0},
		{"more updates than are possible", altered(whole(), func(b []byte) { copy(b[48:56], "\x7f"+strings.Repeat("\xff", 7)) }),
			false, "0", 0},
	} {
		q := quarantine(t, s, s, c.bytes)
		if q.Counted != c.counted || q.Counters.Spend.String() != c.spend || q.Updates != c.updates || q.Size != len(c.bytes) ||
			(q.Sequence == 1) != c.counted || q.Kind != "batch" || q.Entity != nil || q.Series != nil {
			t.Errorf("%s: %+v", c.name, q)
		}
	}
	report, err := s.Audit(t.Context())
	want := AuditBatches{Entries: 8, Unknown: 5, Spend: "3.75", Updates: "6"}
	if err != nil || !report.OK || report.Quarantine.Batches != want || len(report.Quarantine.Rows) != 0 || report.Quarantined != 8 {
		t.Errorf("%+v, %v", report, err)
	}
}

func TestAuditListsTheOpenRowsOfQuarantineByBook(t *testing.T) {
	s := open(t, database(t), Options{})
	if report, err := s.Audit(t.Context()); err != nil || report.Quarantine.Rows == nil || report.Quarantine.Batches != (AuditBatches{Spend: "0", Updates: "0"}) {
		t.Errorf("an empty one: %+v, %v", report.Quarantine, err)
	}
	p := newProducer()
	c := spend.Counters{Spend: dollars("0.5"), SuccessfulRequests: 2, FailedRequests: 1}
	// No column takes these texts: three totals and two rollup rows.
	apply(t, s, flushOf(p, 1, 1,
		request{spend.Series{APIKey: "a\x00", TeamID: "fine"}, noon, c},
		request{spend.Series{APIKey: "b\x00", Tags: []string{"t\xff"}}, noon, c}))
	report, err := s.Audit(t.Context())
	want := []AuditRows{{"api_key", 2, "1", "6"}, {"rollup", 2, "1", "6"}, {"tag", 1, "0.5", "3"}}
	if err != nil || !report.OK || report.Quarantined != 5 || len(report.Quarantine.Rows) != len(want) {
		t.Fatalf("%+v, %v", report, err)
	}
	for i := range want {
		if report.Quarantine.Rows[i] != want[i] {
			t.Errorf("%+v, want %+v", report.Quarantine.Rows[i], want[i])
		}
	}
	all, err := s.Quarantined(t.Context(), false, 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range all {
		if err := s.ApplyQuarantined(t.Context(), q.ID, "a test"); !errors.Is(err, ErrRefused) {
			t.Errorf("a row was applied whose texts aren't what they were: %v", err)
		}
		if err := s.DropQuarantined(t.Context(), q.ID, "a test"); err != nil {
			t.Error(err)
		}
	}
	for _, q := range all {
		if got, err := s.QuarantinedEntry(t.Context(), q.ID); err != nil || got.SettledBy != "a test" || got.SettledAt.IsZero() {
			t.Errorf("settled by %q at %s, %v", got.SettledBy, got.SettledAt, err)
		}
	}
	report, err = s.Audit(t.Context())
	if err != nil || !report.OK || report.Quarantined != 0 || len(report.Quarantine.Rows) != 0 {
		t.Errorf("after all are dropped: %+v, %v", report, err)
	}
}

func TestAnEntryOfAnIdThatThereIsNotIsNotTakenForAnother(t *testing.T) {
	s := open(t, database(t), Options{})
	q := quarantine(t, s, s, []byte("damaged"))
	for _, id := range []int64{0, -1, q.ID - 1, q.ID + 1} {
		if got, err := s.QuarantinedEntry(t.Context(), id); !errors.Is(err, ErrNotQuarantined) {
			t.Errorf("%d: %+v, %v", id, got, err)
		}
	}
}

func TestABatchThatNoKeyHasSignedIsBelievedNothingAndNotApplied(t *testing.T) {
	url := database(t)
	keys := spend.BatchKeys{Key: []byte("0123456789abcdefghijklmnopqrstuvwxyz")}
	s := open(t, url, Options{BatchKeys: keys})
	p, r := newProducer(), request{spend.Series{APIKey: "k"}, noon, one("1")}
	gap := flushOf(p, 1, 2, r)
	gap.Lost = []spend.LostRange{{Producer: p, First: 1, Last: 1, Reason: "for the test"}}
	apply(t, s, gap)

	// Its producer would forget the batch that was lost if that were said to be in quarantine.
	forged := bytesOf(flushOf(p, 1, 1, r))
	bad := []spend.BadBatch{{Reason: spend.ErrNotSigned.Error(), Bytes: forged, Foreign: true}}
	if err := s.Quarantine(t.Context(), bad); err != nil {
		t.Fatal(err)
	}
	if n := query[int](t, s, "SELECT count(*)::int FROM spendflush.lost_batches WHERE quarantined"); n != 0 {
		t.Errorf("%d lost batches are said to be in quarantine", n)
	}
	list, err := s.Quarantined(t.Context(), false, 0, 10)
	if err != nil || len(list) != 1 || list[0].Sequence != 0 || list[0].Counted {
		t.Fatalf("%+v, %v", list, err)
	}
	if err := s.ApplyQuarantined(t.Context(), list[0].ID, "a test"); !errors.Is(err, ErrRefused) || !errors.Is(err, spend.ErrNotSigned) {
		t.Errorf("with a key: %v", err)
	}

	keys.Unsigned = true
	rolling := open(t, url, Options{BatchKeys: keys})
	if err := rolling.ApplyQuarantined(t.Context(), list[0].ID, "a test"); err != nil {
		t.Errorf("while unsigned ones are accepted: %v", err)
	}
}

func TestQuarantineHasABoundForWhatNobodyHereIsKnownToHaveMade(t *testing.T) {
	s := open(t, database(t), Options{})
	s.room = quarantineRoom{3, 100}
	put := func(want error, bounded bool, texts ...string) {
		t.Helper()
		var bad []spend.BadBatch
		for _, text := range texts {
			bad = append(bad, spend.BadBatch{Reason: "for the test", Bytes: []byte(text), Bounded: bounded})
		}
		if err := s.Quarantine(t.Context(), bad); !errors.Is(err, want) {
			t.Errorf("%.20q: %v, want %v", texts, err, want)
		}
	}
	full := spend.ErrQuarantineFull
	put(full, true, strings.Repeat("x", 101))
	put(nil, true, "a", strings.Repeat("x", 90))
	put(full, true, "of ten bytes or more")
	put(nil, true, "b")
	put(full, true, "c")
	put(nil, false, "ours", strings.Repeat("ours", 100))
	put(full, true, "c")
	if n := query[int](t, s, "SELECT count(*) FROM spendflush.quarantine"); n != 5 {
		t.Errorf("%d are in quarantine, want 5", n)
	}
	open, err := s.Quarantined(t.Context(), false, 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range open {
		if err := s.DropQuarantined(t.Context(), q.ID, "a test"); err != nil {
			t.Fatal(err)
		}
	}
	put(nil, true, "c")
}
