package migrations

import (
	"testing"

	"github.com/spendflush/spendflush/internal/lab/testserver"
)

func TestBooksFromBeforeIDsGetTheRingAndCanLoseItAgain(t *testing.T) {
	databaseURL := testserver.Postgres(t)
	if _, err := up(t.Context(), databaseURL, before(t, "00013"), untold); err != nil {
		t.Fatal(err)
	}
	conn := connect(t, databaseURL)
	execute(t, conn, `INSERT INTO spendflush.producers (producer, shard, first_seen, claimed_from, sequence, claims, updates, seen_at, amount, sealed_updates,
			sealed_amount, prior_digest, digest, recent)
		VALUES ('0199d9c0-0000-7000-8000-000000000001', 3, now(), 1, 2, 1, 5, now(), 5, 5, 5, '00000000-0000-0000-0000-000000000000',
			'00000000-0000-0000-0000-000000000000', '');
		INSERT INTO spendflush.quarantine (kind, shard, reason, digest, bytes) VALUES ('batch', 0, 'r', '\x00', '\x1234');
		INSERT INTO spendflush.quarantine (kind, shard, reason, book, row_key) VALUES ('row', 0, 'r', 'team', '00000000-0000-0000-0000-000000000000')`)
	const rows = `SELECT concat((SELECT array_agg((producer, shard, sequence, updates, amount)::text) FROM spendflush.producers),
		(SELECT array_agg((kind, digest, bytes, book)::text ORDER BY id) FROM spendflush.quarantine))`
	was := query[string](t, conn, rows)
	for range 2 {
		if _, err := Up(t.Context(), databaseURL); err != nil {
			t.Fatal(err)
		}
		if got := query[string](t, conn, `SELECT concat_ws(' ', (SELECT string_agg(state, ',' ORDER BY part) FROM spendflush.id_parts),
			(SELECT count(*) FROM spendflush.id_buckets), (SELECT observed FROM spendflush.id_clock), (SELECT sum(duplicate_updates + conflict_updates) FROM spendflush.producers))`); got != "current,empty,empty,empty,empty,empty 64 00:00:00 0" {
			t.Errorf("the ring is %s", got)
		}
		execute(t, conn, `INSERT INTO spendflush.quarantine (kind, shard, reason, digest, bytes) VALUES ('conflict', 0, 'r', '\x00', '\x12')`)
		for _, bad := range []string{"('conflict', 0, 'r', NULL, NULL)", "('row', 0, 'r', '\\x00', '\\x12')", "('other', 0, 'r', NULL, NULL)"} {
			if _, err := conn.Exec(t.Context(), "INSERT INTO spendflush.quarantine (kind, shard, reason, digest, bytes) VALUES "+bad); err == nil {
				t.Errorf("%s was taken", bad)
			}
		}
		if got := query[string](t, conn, "SELECT string_agg(part::text, '' ORDER BY part) FROM generate_series(-1, 6) AS part WHERE spendflush.empty_ids(part)"+
			" HAVING count(*) > 0 UNION ALL SELECT 'none' LIMIT 1"); got != "none" {
			t.Errorf("parts %s were made empty", got)
		}
		goDown(t, databaseURL, 12)
		if got := query[string](t, conn, rows); got != was {
			t.Errorf("the rows are\n%s\nbefore\n%s", got, was)
		}
		if n := query[int](t, conn, `SELECT count(*)::integer FROM pg_class WHERE relnamespace = 'spendflush'::regnamespace AND (relname LIKE 'ids\_%' OR relname LIKE 'id\_%' OR relname = 'taken_out')`); n != 0 {
			t.Errorf("%d tables and indexes are left", n)
		}
	}
}
