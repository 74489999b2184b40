package migrations

import (
	"fmt"
	"strings"
	"testing"

	"github.com/spendflush/spendflush/internal/lab/testserver"
)

// upTo applies the migrations up to one.
func upTo(t *testing.T, databaseURL, last string) {
	t.Helper()
	if _, err := up(t.Context(), databaseURL, before(t, last), untold); err != nil {
		t.Fatal(err)
	}
}

const rollupsBefore = `
INSERT INTO spendflush.series (key, api_key) VALUES ('00000000-0000-0000-0000-00000000000b', 'k');
INSERT INTO spendflush.rollup (series, day, hour, failed_requests, cache_creation_input_tokens, cache_read_input_tokens,
	successful_requests, prompt_tokens, completion_tokens, spend)
SELECT '00000000-0000-0000-0000-00000000000b', day::date, hour, 1, 2, 3, 41, 5, 6, 42.75
FROM generate_series(now() AT TIME ZONE 'UTC' - interval '40 days', now() AT TIME ZONE 'UTC', '1 day') AS day, generate_series(0, 23) AS hour`

const allRollups = `SELECT string_agg(concat_ws(',', r.series, r.day, r.hour, r.failed_requests, r.cache_creation_input_tokens, r.cache_read_input_tokens,
	r.successful_requests, r.prompt_tokens, r.completion_tokens, r.spend), ';' ORDER BY r.day, r.hour) || (SELECT string_agg(d::text, ';' ORDER BY date) FROM spendflush.daily_spend d)
	FROM spendflush.rollup r`

// addOld adds to a rollup as programs do that know nothing of parts.
const addOld = `INSERT INTO spendflush.rollup AS t (day, hour, series, failed_requests, cache_creation_input_tokens, cache_read_input_tokens,
	successful_requests, prompt_tokens, completion_tokens, spend)
VALUES ((now() AT TIME ZONE 'UTC')::date + %d, 0, '00000000-0000-0000-0000-00000000000b', 0, 0, 0, 1, 0, 0, 1)
ON CONFLICT (day, hour, series) DO UPDATE SET spend = t.spend + excluded.spend, successful_requests = t.successful_requests + excluded.successful_requests`

func TestRollupsOfBeforeAreThePartThatComesFirst(t *testing.T) {
	databaseURL := testserver.Postgres(t)
	upTo(t, databaseURL, "00014")
	conn := connect(t, databaseURL)
	execute(t, conn, rollupsBefore)
	execute(t, conn, "CREATE ROLE reader_of_parts_test; GRANT USAGE ON SCHEMA spendflush TO reader_of_parts_test; GRANT SELECT ON spendflush.daily_spend, spendflush.rollup TO reader_of_parts_test")
	want := query[string](t, conn, allRollups)

	if _, err := Up(t.Context(), databaseURL); err != nil {
		t.Fatal(err)
	}
	if got := query[string](t, conn, allRollups); got != want {
		t.Error("the rollups differ after the migration")
	}
	if n := query[int](t, conn, "SELECT count(*) FROM spendflush.rollup_first"); n != 41*24 {
		t.Errorf("%d rows are in the first part", n)
	}
	execute(t, conn, fmt.Sprintf(addOld, 0))
	execute(t, conn, fmt.Sprintf(addOld, 0))
	if made := query[bool](t, conn, "SELECT spendflush.make_rollup_part((now() AT TIME ZONE 'UTC')::date + 2)"); made {
		t.Error("a part was made of a day that the first one has")
	}
	if made := query[bool](t, conn, "SELECT spendflush.make_rollup_part((now() AT TIME ZONE 'UTC')::date + 50)"); !made {
		t.Error("no part was made behind the first one")
	}
	execute(t, conn, fmt.Sprintf(addOld, 50))
	execute(t, conn, "SET ROLE reader_of_parts_test")
	if n := query[int](t, conn, "SELECT count(*) FROM spendflush.rollup WHERE spend = 1"); n != 1 {
		t.Errorf("%d rows lie behind the first part", n)
	}
	query[int](t, conn, "SELECT count(*) FROM spendflush.daily_spend")
	execute(t, conn, "RESET ROLE")
	want = query[string](t, conn, allRollups)

	goDown(t, databaseURL, 13)
	if got := query[string](t, conn, allRollups); got != want {
		t.Error("the rollups differ after the way back")
	}
	execute(t, conn, "SET ROLE reader_of_parts_test; SELECT count(*) FROM spendflush.rollup; RESET ROLE")
	if kind := query[string](t, conn, "SELECT relkind::text FROM pg_class WHERE oid = 'spendflush.rollup'::regclass"); kind != "r" {
		t.Errorf("the rollups are of kind %s", kind)
	}
	if text := query[string](t, conn, "SELECT pg_get_functiondef('spendflush.correct'::regproc)"); strings.Contains(text, "make_rollup_part") {
		t.Error("corrections make parts still")
	}
}
