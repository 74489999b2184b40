package pgstore

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// failed returns the names of the checks that failed, and all the entities named.
func failed(t *testing.T, s *Store) (names []string, entities []AuditDifference) {
	t.Helper()
	for _, c := range failedChecks(t, s) {
		names, entities = append(names, c.Name), append(entities, c.Entities...)
	}
	return names, entities
}

// failedChecks returns the checks that failed.
func failedChecks(t *testing.T, s *Store) (checks []AuditCheck) {
	t.Helper()
	report, err := s.Audit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range report.Checks {
		if !c.OK {
			checks = append(checks, c)
		}
	}
	if report.OK != (len(checks) == 0) {
		t.Errorf("the report says %t with %d failed checks", report.OK, len(checks))
	}
	return checks
}

// keepBooks copies the tables of the books and returns what puts them back, past all triggers.
func keepBooks(t *testing.T, s *Store) (restore func()) {
	t.Helper()
	var back strings.Builder
	back.WriteString("BEGIN; SET LOCAL session_replication_role = replica;")
	for _, table := range []string{
		"producers", "control", "entity", "series", "series_tag", "total", "rollup", "day_fingerprint", "lost_batches", "pruned_marks",
		"quarantine",
	} {
		execute(t, s.pool, fmt.Sprintf("CREATE TABLE kept_%[1]s AS TABLE spendflush.%[1]s", table))
		fmt.Fprintf(&back, "TRUNCATE spendflush.%[1]s; INSERT INTO spendflush.%[1]s OVERRIDING SYSTEM VALUE TABLE kept_%[1]s;", table)
	}
	back.WriteString("COMMIT")
	return func() { multiple(t, s, back.String()) }
}

// multiple runs several statements.
func multiple(t *testing.T, s *Store, text string) {
	t.Helper()
	conn, err := s.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	if _, err := conn.Conn().PgConn().Exec(t.Context(), text).ReadAll(); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
}

// tampering is something that nobody but a hand at the tables can do.
type tampering struct {
	change   string
	want     []string // the checks that fail
	entities []string // named by them
	days     []string // named by them
	says     string   // in the detail of the last of them
}

// The books that are tampered with: see tamperedBooks. "lone" and "lone tag" have the only rollup
// row of a series; the two models of the key "two" are two series; the keys "like" and "alike" have
// the same sums.
const (
	ofTeam3 = " WHERE entity = (SELECT key FROM spendflush.entity WHERE entity_type = 'team' AND entity_id = 'team-3')"
	ofLone  = " WHERE series = (SELECT key FROM spendflush.series WHERE api_key = 'lone')"
	ofCheap = " WHERE series = (SELECT key FROM spendflush.series WHERE api_key = 'two' AND model = 'cheap')"
	ofDear  = " WHERE series = (SELECT key FROM spendflush.series WHERE api_key = 'two' AND model = 'dear')"
	noonDay = "2026-11-20"
	nextDay = "2026-11-21"
)

func tamperings() []tampering {
	rollups, each, days, keys := "rollups", checkEntities, checkDays, checkKeys
	lone := []string{"lone", "lone tag"}
	onNoon := []string{noonDay}
	list := []tampering{
		// Sums that were changed.
		{"UPDATE spendflush.total SET spend = spend + 0.000000000001" + ofTeam3, []string{"totals of team", each}, []string{"team-3"}, nil, ""},
		{"UPDATE spendflush.rollup SET spend = spend - 0.000000000001" + ofLone, []string{rollups, each, days}, lone, onNoon, ""},
		{"UPDATE spendflush.rollup SET spend = 'NaN'" + ofLone, []string{rollups, each, days}, lone, onNoon, ""},
		{"DELETE FROM spendflush.total" + ofTeam3, []string{"totals of team", each}, []string{"team-3"}, nil, ""},
		{"DELETE FROM spendflush.rollup" + ofLone, []string{rollups, each, days}, lone, onNoon, ""},
		{
			"INSERT INTO spendflush.rollup (series, day, hour, failed_requests, cache_creation_input_tokens, cache_read_input_tokens, " +
				"successful_requests, prompt_tokens, completion_tokens, spend) " +
				"SELECT series, day, hour + 1, 0, 0, 0, 1, 0, 0, 0 FROM spendflush.rollup" + ofLone,
			[]string{rollups, each, days}, lone, onNoon, "",
		},
		{
			"BEGIN; SET LOCAL session_replication_role = replica; INSERT INTO spendflush.rollup (series, day, hour, failed_requests, " +
				"cache_creation_input_tokens, cache_read_input_tokens, successful_requests, prompt_tokens, completion_tokens, spend) " +
				"SELECT gen_random_uuid(), day, hour, 0, 0, 0, 0, 0, 0, 1 FROM spendflush.rollup" + ofLone + "; COMMIT",
			[]string{rollups, checkDictionaries, days}, nil, onNoon, "",
		},
		{"UPDATE spendflush.control SET spend = spend + 0.000000000001 WHERE book = 'team' AND shard = 0", []string{"totals of team"}, nil, nil, ""},
		{"DELETE FROM spendflush.control WHERE book = 'organization'", []string{"totals of organization"}, nil, nil, ""},
		{"DELETE FROM spendflush.control WHERE book = 'rollup'", []string{checkClaims, rollups}, nil, nil, ""},
		{"UPDATE spendflush.control SET shard = 63 - shard WHERE book = 'rollup'", []string{checkClaims}, nil, nil, ""},
		{"UPDATE spendflush.producers SET amount = amount + 0.000000000001", []string{checkSealed, checkClaims}, nil, nil, ""},
		{"UPDATE spendflush.producers SET updates = updates + 1", []string{checkSealed, checkClaims}, nil, nil, ""},
		{"UPDATE spendflush.producers SET sealed_amount = sealed_amount + 1e20, sealed_updates = sealed_updates + 1",
			[]string{checkSealed}, nil, nil, "producer "},
		{"UPDATE spendflush.producers SET amount = amount + 1, sealed_amount = sealed_amount + 1", []string{checkClaims}, nil, nil, ""},

		// Money that was moved, with all sums unchanged.
		{"UPDATE spendflush.rollup SET day = day + 1" + ofLone, []string{days}, nil, []string{noonDay, nextDay}, ""},
		{"UPDATE spendflush.rollup SET day = day + 1 - 30, hour = hour - 1" + ofLone, []string{days}, nil, []string{"2026-10-22", noonDay}, ""},
		{"UPDATE spendflush.rollup SET hour = hour + 1" + ofLone, []string{days}, nil, onNoon, ""},
		{"UPDATE spendflush.rollup SET spend = 7 - spend" + ofCheap, []string{days}, nil, onNoon, ""}, // its hours have 3 and 4
		{
			"UPDATE spendflush.rollup SET spend = spend + 2" + ofCheap + " AND hour = 12; UPDATE spendflush.rollup SET spend = spend - 2" + ofDear,
			[]string{days}, nil, onNoon, "",
		},
		{
			"UPDATE spendflush.rollup SET prompt_tokens = prompt_tokens + 2" + ofCheap + " AND hour = 12; " +
				"UPDATE spendflush.rollup SET prompt_tokens = prompt_tokens - 2" + ofDear,
			[]string{days}, nil, onNoon, "",
		},
		{
			"UPDATE spendflush.total SET spend = spend - 1 WHERE entity = (SELECT key FROM spendflush.entity WHERE entity_id = 'like'); " +
				"UPDATE spendflush.total SET spend = spend + 1 WHERE entity = (SELECT key FROM spendflush.entity WHERE entity_id = 'lone')",
			[]string{each}, []string{"like", "lone"}, nil, "",
		},
		{
			// From key to key, in totals and rollups alike.
			"UPDATE spendflush.total SET spend = spend - 1 WHERE entity = (SELECT key FROM spendflush.entity WHERE entity_id = 'like'); " +
				"UPDATE spendflush.total SET spend = spend + 1 WHERE entity = (SELECT key FROM spendflush.entity WHERE entity_id = 'alike'); " +
				"UPDATE spendflush.rollup SET spend = spend - 1 WHERE series = (SELECT key FROM spendflush.series WHERE api_key = 'like'); " +
				"UPDATE spendflush.rollup SET spend = spend + 1 WHERE series = (SELECT key FROM spendflush.series WHERE api_key = 'alike')",
			[]string{days}, nil, onNoon, "",
		},

		// Names that were changed.
		{"UPDATE spendflush.series SET model = 'cheap', model_group = 'g' WHERE api_key = 'two' AND model = 'dear'", []string{keys}, nil, nil, "series "},
		{
			"UPDATE spendflush.series SET model = CASE model WHEN 'dear' THEN 'cheap' ELSE 'dear' END WHERE api_key = 'two'",
			[]string{keys}, nil, nil, "2 of",
		},
		{
			"UPDATE spendflush.series SET api_key = CASE api_key WHEN 'like' THEN 'alike' ELSE 'like' END WHERE api_key IN ('like', 'alike')",
			[]string{keys}, nil, nil, "2 of",
		},
		{
			"UPDATE spendflush.entity SET entity_id = CASE entity_id WHEN 'like' THEN 'alike' ELSE 'like' END WHERE entity_id IN ('like', 'alike')",
			[]string{keys}, nil, nil, `api_key "like"`,
		},
		{
			"UPDATE spendflush.entity SET entity_id = 'team-33' WHERE entity_id = 'team-3' AND entity_type = 'team'",
			[]string{each, keys}, []string{"team-3", "team-33"}, nil, `team "team-33"`,
		},
		{
			"UPDATE spendflush.entity SET entity_type = 'agent' WHERE entity_id = 'team-3' AND entity_type = 'team'",
			[]string{"totals of team", "totals of agent", each, keys}, []string{"team-3", "team-3"}, nil, `agent "team-3"`,
		},
		{
			"UPDATE spendflush.entity SET entity_type = 'nonsense' WHERE entity_id = 'team-3' AND entity_type = 'team'",
			[]string{"totals of team", each, keys}, []string{"team-3", "team-3"}, nil, `nonsense "team-3"`,
		},
		{"DELETE FROM spendflush.entity WHERE entity_id = 'lone'", []string{"totals of api_key", checkDictionaries, each}, []string{"lone"}, nil, ""},
		{"UPDATE spendflush.series SET api_key = 'another' WHERE api_key = 'lone'", []string{each, keys}, []string{"another", "lone"}, nil, ""},
		{"DELETE FROM spendflush.series WHERE api_key = 'lone'", []string{checkDictionaries, each}, lone, nil, ""},
		{"DELETE FROM spendflush.series_tag WHERE tag = 'tag-a'", []string{checkDictionaries, each}, []string{"tag-a"}, nil, ""},
		{
			"INSERT INTO spendflush.series_tag SELECT 'tag-z', key FROM spendflush.series WHERE api_key = 'lone'",
			[]string{checkDictionaries, each}, []string{"tag-z"}, nil, "",
		},

		// What the audit goes by.
		{"UPDATE spendflush.day_fingerprint SET fingerprint = fingerprint + 1 WHERE shard = 0 AND day = '2026-11-20'", []string{days}, nil, onNoon, ""},
		{"DELETE FROM spendflush.day_fingerprint WHERE day = '2026-11-20'", []string{days}, nil, onNoon, ""},
		{"UPDATE spendflush.day_fingerprint SET day = day + 1 WHERE day = '2026-11-20'", []string{days}, nil, []string{noonDay, nextDay}, ""},
		{"INSERT INTO spendflush.day_fingerprint VALUES (-1, '2026-11-20', 0)", []string{days}, nil, onNoon, ""},
		{"INSERT INTO spendflush.lost_batches (producer, shard, first_sequence, last_sequence, reason, quarantined) SELECT producer, shard, 1, 1, 'r', false " +
			"FROM spendflush.producers WHERE sealed_amount = amount", []string{checkSealed}, nil, nil, "producer "},
		{"INSERT INTO spendflush.lost_batches (producer, shard, first_sequence, last_sequence, reason, quarantined) VALUES (gen_random_uuid(), 0, 1, 1, 'r', false)",
			[]string{checkSealed}, nil, nil, "the pruned marks in shard 0"},
	}
	for _, counter := range columns[1:] {
		change := " SET " + counter + " = " + counter + " + 1"
		list = append(list,
			tampering{"UPDATE spendflush.total" + change + ofTeam3, []string{"totals of team", each}, []string{"team-3"}, nil, ""},
			tampering{"UPDATE spendflush.rollup" + change + ofLone, []string{rollups, each, days}, lone, onNoon, ""},
			tampering{"UPDATE spendflush.control" + change + " WHERE book = 'tag' AND shard = 0", []string{"totals of tag"}, nil, nil, ""})
	}
	return list
}

// tamperedBooks are books of one day, in tables that are older.
func tamperedBooks(t *testing.T, s *Store) {
	t.Helper()
	makeParts(t, s, "2026-10-01", "2026-11-30")
	dropFinite(t, s) // as books are that were made before it
	execute(t, s.pool, "UPDATE spendflush.migrations SET tstamp = '2026-11-10'")
	key := func(name, model string, hour spend.Hour, amount string, tags ...string) request {
		return request{spend.Series{APIKey: name, Model: model, Tags: tags}, hour, one(amount)}
	}
	apply(t, s, flushOf(newProducer(), 1, 1, append(traffic(rand.New(rand.NewPCG(12, 1)), 200, 40),
		key("lone", "", noon, "1", "lone tag"), key("two", "cheap", noon, "3"), key("two", "cheap", noon+1, "4"),
		key("two", "dear", noon, "5"), key("like", "", noon, "6"), key("alike", "", noon, "6"))...))
}

// tamperings of what is lost, set aside and pruned in the books that troubledBooks adds to.
func troubledTamperings() []tampering {
	rollups, each, days := "rollups", checkEntities, checkDays
	sealed := []string{checkSealed}
	const dropped = "UPDATE spendflush.quarantine SET %s WHERE book = '%s' AND state = 'dropped'"
	return []tampering{
		{"DELETE FROM spendflush.lost_batches WHERE NOT quarantined", sealed, nil, nil, "producer "},
		{"DELETE FROM spendflush.lost_batches WHERE quarantined", sealed, nil, nil, "producer "},
		{"UPDATE spendflush.lost_batches SET found_at = now() WHERE NOT quarantined", sealed, nil, nil, "producer "},
		{"UPDATE spendflush.lost_batches SET first_sequence = first_sequence + 50, last_sequence = last_sequence + 50 WHERE quarantined", sealed, nil, nil, "producer "},
		{"DELETE FROM spendflush.quarantine WHERE kind = 'batch'", sealed, nil, nil, "producer "},
		{"UPDATE spendflush.quarantine SET spend = spend + 1 WHERE kind = 'batch'", sealed, nil, nil, "producer "},
		{"UPDATE spendflush.quarantine SET state = 'applied' WHERE kind = 'batch'", sealed, nil, nil, "producer "},
		{"UPDATE spendflush.pruned_marks SET updates = updates + 1, amount = amount + 1", []string{checkSealed, checkClaims}, nil, nil, ""},
		{"DELETE FROM spendflush.pruned_marks", []string{checkClaims}, nil, nil, ""},

		{fmt.Sprintf(dropped, "prompt_tokens = 2", "rollup"), []string{rollups, each, days}, []string{"brim", "brim team"}, []string{noonDay}, ""},
		{fmt.Sprintf(dropped, "hour = hour + 1", "rollup"), []string{days}, nil, []string{noonDay}, ""},
		{fmt.Sprintf(dropped, "day = day + 1", "rollup"), []string{days}, nil, []string{noonDay, nextDay}, ""},
		{fmt.Sprintf(dropped, "row_key = gen_random_uuid()", "rollup"), []string{days, checkKeys}, nil, []string{noonDay}, "entry "},
		{
			fmt.Sprintf(dropped, `names = '{"api_key":"brim","team_id":"other team"}'`, "rollup"),
			[]string{each, checkKeys}, []string{"brim team", "other team"}, nil, "entry ",
		},
		{fmt.Sprintf(dropped, "state = 'applied'", "rollup"), []string{rollups, each, days}, []string{"brim", "brim team"}, []string{noonDay}, ""},
		{fmt.Sprintf(dropped, "state = 'applied'", "team"), []string{"totals of team", each}, []string{"brim team"}, nil, ""},
		{fmt.Sprintf(dropped, "spend = spend + 1", "team"), []string{"totals of team", each}, []string{"brim team"}, nil, ""},
		{"DELETE FROM spendflush.quarantine WHERE kind = 'row'", []string{
			rollups, "totals of api_key", "totals of team", each, days,
		}, []string{"brim", "brim team"}, []string{noonDay}, ""},
		{
			"UPDATE spendflush.quarantine SET spend = spend + CASE state WHEN 'open' THEN 1 ELSE -1 END WHERE book IN ('team', 'api_key')",
			nil, nil, nil, "", // between two entries of one entity: the sum of what is set aside of it is what it was
		},
	}
}

// troubledBooks adds a lost batch, one set aside, rows set aside, open and dropped, and pruned
// marks.
func troubledBooks(t *testing.T, s *Store) {
	t.Helper()
	p := newProducer()
	apply(t, s, skippingGap(sequenceOf(p, 2)[1], 1)) // the first one is missing
	q := newProducer()
	b := sequenceOf(q, 2)
	apply(t, s, settingAside(b[0], b[1]))

	full := newProducer()
	brim := func(sequence uint64, hour spend.Hour, tokens int64) {
		apply(t, s, flushOf(full, sequence, sequence, request{
			spend.Series{APIKey: "brim", TeamID: "brim team"}, hour,
			spend.Counters{Spend: dollars("2"), SuccessfulRequests: 1, PromptTokens: tokens},
		}))
	}
	brim(1, noon, math.MaxInt64)
	brim(2, noon, 1)   // the rollup row and the totals are refused
	brim(3, noon+1, 1) // only the totals are
	for i, entry := range quarantined(t, s) {
		if entry.Kind == "row" && i%2 == 0 || entry.Book == "rollup" {
			if err := s.DropQuarantined(t.Context(), entry.ID, "a test"); err != nil {
				t.Fatal(err)
			}
		}
	}

	execute(t, s.pool, `WITH gone AS (DELETE FROM spendflush.producers WHERE producer = $1 RETURNING *)
		INSERT INTO spendflush.pruned_marks (shard, marks, horizon, updates, amount, sealed_updates, sealed_amount)
		SELECT shard, 1, '-infinity', updates, amount, sealed_updates, sealed_amount FROM gone`, [16]byte(full))
}

// eventually waits until it holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("not in a minute: %s", what)
		}
		runtime.Gosched()
	}
}

// settingAside returns the flush that books the second batch and has the first one's bytes in
// quarantine.
func settingAside(bad, good *spend.Batch) *spend.Flush {
	f := skippingGap(good, bad.Sequence)
	f.Lost[0].Quarantined = true
	f.Quarantine = []spend.BadBatch{{Reason: "refused", Bytes: bad.Bytes()}}
	return f
}

func quarantined(t *testing.T, s *Store) []Quarantined {
	t.Helper()
	list, err := s.Quarantined(t.Context(), true, 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// wantFound makes the audit after a change, and compares what it finds.
func wantFound(t *testing.T, s *Store, c *tampering) {
	t.Helper()
	var names, entities, days []string
	last := ""
	for _, check := range failedChecks(t, s) {
		names, days, last = append(names, check.Name), append(days, check.Days...), check.Detail
		for _, e := range check.Entities {
			entities = append(entities, e.EntityID)
		}
	}
	slices.Sort(entities)
	if !slices.Equal(names, c.want) {
		t.Errorf("after %s the checks that fail are %q, want %q", c.change, names, c.want)
	}
	if !slices.Equal(entities, c.entities) || !slices.Equal(days, c.days) || !strings.Contains(last, c.says) {
		t.Errorf("after %s named are %q and %q, and it says %q; want %q, %q and %q", c.change, entities, days, last, c.entities, c.days, c.says)
	}
}

func TestTheAuditFindsAndNamesWhatWasChangedByHand(t *testing.T) {
	s := open(t, database(t), Options{})
	wantAudit(t, s) // of empty books too
	tamperedBooks(t, s)
	wantAudit(t, s)
	restore := keepBooks(t, s)
	for _, c := range tamperings() {
		multiple(t, s, c.change)
		wantFound(t, s, &c)
		restore()
	}
	wantAudit(t, s)
}

func TestTheAuditFindsTheSameWhereBatchesAreLostAndRowsSetAside(t *testing.T) {
	s := open(t, database(t), Options{})
	tamperedBooks(t, s)
	troubledBooks(t, s)
	wantAudit(t, s)
	restore := keepBooks(t, s)
	for _, c := range append(tamperings(), troubledTamperings()...) {
		multiple(t, s, c.change)
		wantFound(t, s, &c)
		restore()
	}
	wantAudit(t, s)
}

func TestTheAuditFindsTheSameWhileFlushesGoOn(t *testing.T) {
	s := open(t, database(t), Options{MaxConns: 8})
	tamperedBooks(t, s)
	troubledBooks(t, s)
	restore := keepBooks(t, s)

	var flushing sync.RWMutex // write-locked while the books are put back
	var commits atomic.Int64
	stop := make(chan struct{})
	var work sync.WaitGroup
	for i := range 2 {
		work.Go(func() {
			r := rand.New(rand.NewPCG(40, uint64(i)))
			for {
				select {
				case <-stop:
					return
				default:
				}
				flushing.RLock()
				// Each by a producer of its own, so that no mark is missing when the books are put
				// back.
				f := flushOf(newProducer(), 1, 1, request{spend.Series{APIKey: "of load", Model: fmt.Sprint(r.IntN(9))}, noon - 48, one("1")})
				if err := s.Apply(t.Context(), f); err != nil {
					t.Error(err)
				}
				flushing.RUnlock()
				commits.Add(1)
			}
		})
	}
	for _, c := range append(tamperings(), troubledTamperings()...) {
		multiple(t, s, c.change)
		before := commits.Load()
		eventually(t, "flushes after the change", func() bool { return commits.Load() > before+2 })
		wantFound(t, s, &c)
		flushing.Lock()
		restore()
		flushing.Unlock()
	}
	close(stop)
	work.Wait()
	wantAudit(t, s)
}

func TestDaysFromBeforeFingerprintsAreToldAndNotCompared(t *testing.T) {
	s := open(t, database(t), Options{})
	tamperedBooks(t, s)
	execute(t, s.pool, "INSERT INTO spendflush.day_fingerprint VALUES (-1, '2026-11-20', 0)")
	execute(t, s.pool, "UPDATE spendflush.migrations SET tstamp = '2026-11-20' WHERE version_id = 6")
	execute(t, s.pool, "UPDATE spendflush.rollup SET hour = hour + 1"+ofLone)
	report, err := s.Audit(t.Context())
	if err != nil || !report.OK {
		t.Fatalf("%+v, %v", report, err)
	}
	i := slices.IndexFunc(report.Checks, func(c AuditCheck) bool { return c.Name == checkDays })
	if want := "1 days can't be compared"; !strings.Contains(report.Checks[i].Detail, want) {
		t.Errorf("it says %q, without %q", report.Checks[i].Detail, want)
	}
	execute(t, s.pool, "UPDATE spendflush.migrations SET tstamp = '2026-11-17' WHERE version_id = 6")
	if checks := failedChecks(t, s); len(checks) != 1 || checks[0].Name != checkDays {
		t.Errorf("the mark on a later day: %+v", checks)
	}
}

func TestAuditNamesAtMostTwentyEntitiesDaysAndKeys(t *testing.T) {
	s := open(t, database(t), Options{})
	requests := traffic(rand.New(rand.NewPCG(13, 1)), 200, 60)
	for i := range requests {
		requests[i].hour += spend.Hour(24 * (i % 30))
	}
	apply(t, s, flushOf(newProducer(), 1, 1, requests...))
	execute(t, s.pool, "UPDATE spendflush.total SET spend = spend + 1")
	execute(t, s.pool, "UPDATE spendflush.rollup SET prompt_tokens = prompt_tokens + 1")
	execute(t, s.pool, "UPDATE spendflush.series SET endpoint = 'elsewhere'")
	for _, c := range failedChecks(t, s) {
		switch c.Name {
		case checkEntities:
			if len(c.Entities) != maxDifferences {
				t.Errorf("%d entities are named", len(c.Entities))
			}
		case checkDays:
			if len(c.Days) != maxDifferences || !strings.HasPrefix(c.Detail, "30 days") {
				t.Errorf("%d days are named; %s", len(c.Days), c.Detail)
			}
		case checkKeys:
			if n := strings.Count(c.Detail, ","); n != maxDifferences-1 {
				t.Errorf("%s", c.Detail)
			}
		}
	}
}

func TestAmountsOfLostBatchesAndOfThoseInQuarantineAreToldApart(t *testing.T) {
	s := open(t, database(t), Options{})
	troubledBooks(t, s)
	report, err := s.Audit(t.Context())
	if err != nil || !report.OK {
		t.Fatalf("%+v, %v", report, err)
	}
	if report.LostBatches != 1 || report.LostUpdates != 1 || report.LostAmount != dollars("1") {
		t.Errorf("lost: %d batches, %d updates, %s dollars", report.LostBatches, report.LostUpdates, report.LostAmount)
	}
	if a := report.SetAside; a != (AuditSetAside{Batches: 1, Updates: 1, Amount: dollars("1")}) {
		t.Errorf("set aside: %+v", a)
	}
	for _, entry := range quarantined(t, s) {
		if entry.Kind == "batch" {
			if err := s.DropQuarantined(t.Context(), entry.ID, "a test"); err != nil {
				t.Fatal(err)
			}
		}
	}
	report, err = s.Audit(t.Context())
	if err != nil || !report.OK || report.LostBatches != 1 || report.SetAside.Batches != 1 || report.SetAside.Dropped != 1 {
		t.Errorf("after it was dropped: %+v, %v", report, err)
	}
}

func TestACorrectionByHandKeepsAllTheBooks(t *testing.T) {
	s := open(t, database(t), Options{})
	tamperedBooks(t, s)
	const correct = "SELECT spendflush.correct(series => (SELECT key FROM spendflush.series WHERE api_key = 'key-5' LIMIT 1), " +
		"day => '2026-11-%s', hour => %s, %s)"
	for _, args := range [][]any{
		{"20", "12", "spend => -7.000000000001"},
		{"20", "12", "successful_requests => -1, failed_requests => 3, prompt_tokens => -10, completion_tokens => 7"},
		{"22", "0", "spend => 3, cache_read_input_tokens => 9223372036854775807, cache_creation_input_tokens => -4"},
	} {
		text := fmt.Sprintf(correct, args...)
		execute(t, s.pool, text)
		if t.Failed() {
			return
		}
		wantAudit(t, s)
	}
	for _, wrong := range []string{
		fmt.Sprintf(correct, "20", "24", "spend => 1"), fmt.Sprintf(correct, "20", "1", "spend => 0.0000000000001"),
		"SELECT spendflush.correct(series => gen_random_uuid(), day => '2026-11-20', hour => 0, spend => 1)",
	} {
		if _, err := s.pool.Exec(t.Context(), wrong); err == nil {
			t.Errorf("%s was taken", wrong)
		}
	}
	apply(t, s, flushOf(newProducer(), 1, 1, traffic(rand.New(rand.NewPCG(14, 1)), 100, 40)...))
	wantAudit(t, s)
	got := query[string](t, s, "SELECT sum(spend)::text FROM spendflush.total WHERE shard = -2 AND entity IN "+
		"(SELECT key FROM spendflush.entity WHERE entity_type = 'api_key')")
	if dollars(got) != dollars("-4.000000000001") {
		t.Errorf("corrections of the key add up to %s", got)
	}
}
