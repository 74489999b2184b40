package pgstore

import (
	"errors"
	"testing"

	"github.com/spendflush/spendflush/spend"
)

// makeParts makes the parts of days.
func makeParts(t testing.TB, s *Store, from, to string) {
	t.Helper()
	execute(t, s.pool, "SELECT count(spendflush.make_rollup_part(day::date)) FROM generate_series($1::date, $2::date, '1 day') AS day", from, to)
}

// dropParts drops all parts.
func dropParts(t testing.TB, s *Store) {
	t.Helper()
	execute(t, s.pool, `DO $$ DECLARE part name; BEGIN
		FOR part IN SELECT p.part FROM spendflush.rollup_parts p LOOP EXECUTE format('DROP TABLE spendflush.%I', part); END LOOP;
		DELETE FROM spendflush.rollup_parts;
	END $$`)
}

// dropFinite lets any number into the rollups.
func dropFinite(t testing.TB, s *Store) {
	t.Helper()
	execute(t, s.pool, `DO $$ DECLARE part name; BEGIN
		FOR part IN SELECT p.part FROM spendflush.rollup_parts p LOOP EXECUTE format('ALTER TABLE spendflush.%I DROP CONSTRAINT rollup_finite', part); END LOOP;
	END $$`)
}

// partsOf tells in which parts rows are, and how many in each.
const partsOf = `SELECT coalesce(string_agg(part || ' ' || n, ', ' ORDER BY part), '') FROM (
	SELECT tableoid::regclass::text AS part, count(*) AS n FROM spendflush.rollup GROUP BY tableoid) AS p`

func onDays(days ...int) (requests []request) {
	for _, day := range days {
		requests = append(requests, request{spend.Series{APIKey: "key"}, noon + spend.Hour(24*day), one("1")})
	}
	return requests
}

func TestRollupsLieInPartsByDay(t *testing.T) {
	s := open(t, database(t), Options{})
	producer := newProducer()
	apply(t, s, flushOf(producer, 1, 1, onDays(-30, 0, 1)...))
	apply(t, s, flushOf(producer, 2, 2, onDays(0, 2)...))
	const want = "spendflush.rollup_20261021 1, spendflush.rollup_20261120 1, spendflush.rollup_20261121 1, spendflush.rollup_20261122 1"
	if got := query[string](t, s, partsOf); got != want {
		t.Errorf("rows are in %s, want %s", got, want)
	}
	wantAudit(t, s)
}

// A Postgres that was turned back lacks parts that a flusher has seen.
func TestAFlushMakesPartsAgainThatAreGone(t *testing.T) {
	s := open(t, database(t), Options{})
	producer := newProducer()
	apply(t, s, flushOf(producer, 1, 1, onDays(0)...))
	execute(t, s.pool, `DROP TABLE spendflush.rollup_20261120; DELETE FROM spendflush.rollup_parts; DELETE FROM spendflush.day_fingerprint;
		DELETE FROM spendflush.total; DELETE FROM spendflush.control WHERE book <> 'rollup'; UPDATE spendflush.control SET spend = 0, successful_requests = 0`)
	apply(t, s, flushOf(producer, 2, 2, request{spend.Series{APIKey: "another"}, noon, one("1")}))
	if got := query[string](t, s, partsOf); got != "spendflush.rollup_20261120 1" {
		t.Errorf("rows are in %s", got)
	}
	if n := query[int](t, s, "SELECT count(*) FROM spendflush.quarantine"); n != 0 {
		t.Errorf("%d rows are in quarantine", n)
	}
}

func TestPartsAreMadeAheadAndOnce(t *testing.T) {
	s := open(t, database(t), Options{})
	dropParts(t, s)
	for range 2 {
		if err := s.TendFacts(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
	}
	const ahead = `SELECT count(*) FROM spendflush.rollup_parts WHERE to_day = from_day + 1
		AND from_day BETWEEN (now() AT TIME ZONE 'UTC')::date AND (now() AT TIME ZONE 'UTC')::date + 3`
	if n := query[int](t, s, ahead); n < 3 || n > 4 { // 4: it is midnight
		t.Errorf("%d parts are there ahead", n)
	}
}

func TestACorrectionMakesThePartOfItsDay(t *testing.T) {
	s := open(t, database(t), Options{})
	apply(t, s, flushOf(newProducer(), 1, 1, onDays(0)...))
	execute(t, s.pool, "SELECT spendflush.correct(series => key, day => '2025-03-04', hour => 5, spend => 2.5) FROM spendflush.series")
	if got := query[string](t, s, partsOf); got != "spendflush.rollup_20250304 1, spendflush.rollup_20261120 1" {
		t.Errorf("rows are in %s", got)
	}
	wantAudit(t, s)
}

func TestADayThatIsNoneGetsNoPart(t *testing.T) {
	s := open(t, database(t), Options{})
	for _, day := range []string{"infinity", "1969-12-31", "10000-01-01"} {
		_, err := s.pool.Exec(t.Context(), "SELECT spendflush.make_rollup_part($1::text::date)", day)
		if sqlState(err) != "22023" {
			t.Errorf("%s: %v", day, err)
		}
	}
	if n := query[int](t, s, "SELECT count(*) FROM spendflush.rollup_parts WHERE from_day NOT BETWEEN now() - interval '3 days' AND now() + interval '5 days'"); n != 0 {
		t.Errorf("%d parts", n)
	}
}

func TestALackingPartIsToldFromARowThatIsRefused(t *testing.T) {
	s := open(t, database(t), Options{})
	const insert = "INSERT INTO spendflush.rollup SELECT gen_random_uuid(), date '2026-11-20', 0, 0, 0, 0, 1, 0, 0, $1::numeric"
	_, err := s.pool.Exec(t.Context(), insert, "1")
	if !lacksPart(err) {
		t.Errorf("without a part: %v", err)
	}
	makeParts(t, s, "2026-11-20", "2026-11-20")
	_, err = s.pool.Exec(t.Context(), insert, "NaN")
	if sqlState(err) != codeCheckViolation || lacksPart(err) || lacksPart(errors.New("another one")) {
		t.Errorf("with a part: %v", err)
	}
}
