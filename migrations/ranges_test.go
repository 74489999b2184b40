package migrations

import (
	"testing"

	"github.com/spendflush/spendflush/internal/lab/testserver"
)

func TestLostBatchesBecomeRangesAndBatchesAgain(t *testing.T) {
	databaseURL := testserver.Postgres(t)
	if _, err := up(t.Context(), databaseURL, before(t, "00010"), untold); err != nil {
		t.Fatal(err)
	}
	conn := connect(t, databaseURL)
	execute(t, conn, `INSERT INTO spendflush.lost_batches (producer, shard, sequence, reason, noticed_at, found_at, quarantined)
		SELECT '0199d9c0-0000-7000-8000-000000000001', 3, s, 'a', '2026-01-02Z', CASE s WHEN 50 THEN timestamptz '2026-01-03Z' END, s = 70
		FROM generate_series(1, 100000) AS s;
		INSERT INTO spendflush.lost_batches (producer, shard, sequence, reason, noticed_at)
		VALUES ('0199d9c0-0000-7000-8000-000000000001', 3, 100001, 'b', '2026-01-02Z'), ('0199d9c0-0000-7000-8000-000000000001', 3, 100003, 'b', '2026-01-02Z'),
			('0199d9c0-0000-7000-8000-000000000001', 4, 100004, 'b', '2026-01-02Z')`)
	const rows = `SELECT md5(string_agg(concat_ws(',', producer, shard, sequence, reason, noticed_at, found_at, quarantined), ';' ORDER BY shard, sequence))
		FROM spendflush.lost_batches`
	was := query[string](t, conn, rows)
	for range 2 {
		if _, err := Up(t.Context(), databaseURL); err != nil {
			t.Fatal(err)
		}
		got := query[string](t, conn, `SELECT string_agg(concat_ws('-', shard, first_sequence, last_sequence) || CASE WHEN found_at IS NOT NULL THEN 'f' ELSE '' END ||
			CASE WHEN quarantined THEN 'q' ELSE '' END, ' ' ORDER BY shard, first_sequence) FROM spendflush.lost_batches`)
		if want := "3-1-49 3-50-50f 3-51-69 3-70-70q 3-71-100000 3-100001-100001 3-100003-100003 4-100004-100004"; got != want {
			t.Errorf("ranges are %s, want %s", got, want)
		}
		goDown(t, databaseURL, 9)
		if got := query[string](t, conn, rows); got != was {
			t.Error("the rows aren't as they were")
		}
	}
}
