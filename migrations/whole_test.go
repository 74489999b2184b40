package migrations

import (
	"errors"
	"testing"

	"github.com/spendflush/spendflush/internal/lab/testserver"
)

// goDown applies the Down sections of the migrations above a version.
func goDown(t *testing.T, databaseURL string, to int64) {
	t.Helper()
	db, err := open(databaseURL, false)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	provider, err := newProvider(db, impatient{files})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := provider.DownTo(t.Context(), to); err != nil {
		t.Fatal(err)
	}
}

const booksBefore = `
INSERT INTO spendflush.producers (producer, shard, shards, first_seen, claimed_from, sequence, claims, seal, whole, updates, seen_at,
	amount, sealed_updates, sealed_amount)
VALUES ('00000000-0000-0000-0000-000000000000', 3, 1, now(), 1, 7, 1, 0, true, 40, '2026-01-02 03:04:05.678Z', 40.5, 42, 42.5),
	('0199d9c0-0000-7000-8000-000000000001', 3, 4, now(), 5, 6, 3, 9, false, 2, now(), 2.25, 2, 2.25);
INSERT INTO spendflush.entity (key, entity_type, entity_id) VALUES ('00000000-0000-0000-0000-00000000000a', 'api_key', 'k');
INSERT INTO spendflush.series (key, api_key) VALUES ('00000000-0000-0000-0000-00000000000b', 'k');
INSERT INTO spendflush.total (entity, failed_requests, cache_creation_input_tokens, cache_read_input_tokens, successful_requests,
	prompt_tokens, completion_tokens, updated_at, spend)
VALUES ('00000000-0000-0000-0000-00000000000a', 1, 2, 3, 41, 5, 6, '2026-01-02Z', 42.75);
INSERT INTO spendflush.rollup (series, day, hour, failed_requests, cache_creation_input_tokens, cache_read_input_tokens,
	successful_requests, prompt_tokens, completion_tokens, spend)
VALUES ('00000000-0000-0000-0000-00000000000b', '2026-01-02', 4, 1, 2, 3, 41, 5, 6, 42.75);
INSERT INTO spendflush.control (shard, book, failed_requests, cache_creation_input_tokens, cache_read_input_tokens,
	successful_requests, prompt_tokens, completion_tokens, spend)
VALUES (3, 'rollup', 1, 2, 3, 41, 5, 6, 42.75), (3, 'api_key', 1, 2, 3, 41, 5, 6, 42.75);
INSERT INTO spendflush.lost_batches (producer, shard, sequence, reason) VALUES ('0199d9c0-0000-7000-8000-000000000001', 3, 4, 'r');
INSERT INTO spendflush.quarantine (kind, shard, reason, digest, bytes) VALUES ('batch', 3, 'r', '\x00', '\x00')`

// theBooks are all rows of the books as one text, in the form that they have before the migration.
const theBooks = `SELECT concat_ws(' | ',
	(SELECT string_agg(concat_ws(',', producer, shard, claimed_from, sequence, updates, amount, sealed_updates, sealed_amount,
		CASE producer WHEN '00000000-0000-0000-0000-000000000000' THEN extract(epoch FROM seen_at)::text END), ';' ORDER BY producer) FROM spendflush.producers),
	(SELECT string_agg(concat_ws(',', entity, failed_requests, cache_creation_input_tokens, cache_read_input_tokens, successful_requests,
		prompt_tokens, completion_tokens, extract(epoch FROM updated_at), spend), ';') FROM spendflush.total),
	(SELECT string_agg(c::text, ';' ORDER BY book) FROM spendflush.control c),
	(SELECT string_agg(s::text, ';') FROM spendflush.spend s),
	(SELECT string_agg(d::text, ';') FROM spendflush.daily_spend d),
	(SELECT string_agg(concat_ws(',', producer, sequence, reason), ';') FROM spendflush.lost_batches),
	(SELECT string_agg(concat_ws(',', id, kind, shard, reason), ';') FROM spendflush.quarantine))`

func TestBooksGoToWholeBatchesAndBackAsTheyWere(t *testing.T) {
	databaseURL := testserver.Postgres(t)
	if _, err := up(t.Context(), databaseURL, before(t, "00006"), untold); err != nil {
		t.Fatal(err)
	}
	conn := connect(t, databaseURL)
	execute(t, conn, booksBefore)
	was := query[string](t, conn, theBooks)

	for range 2 {
		if _, err := Up(t.Context(), databaseURL); err != nil {
			t.Fatal(err)
		}
		for what, statement := range map[string]string{
			"what was pruned": `SELECT (shard, marks, horizon, updates, amount, sealed_updates, sealed_amount)::text =
				(3::smallint, 7::bigint, timestamptz '2026-01-02 03:04:05.678Z', 40::bigint, 40.5::numeric(38,12), 42::bigint, 42.5::numeric(38,12))::text
				FROM spendflush.pruned_marks`,
			"the nil producer":     `SELECT count(*) = 0 FROM spendflush.producers WHERE producer = '00000000-0000-0000-0000-000000000000'`,
			"a digest":             `SELECT digest = '00000000-0000-0000-0000-000000000000' AND recent = '' FROM spendflush.producers`,
			"the shard of a total": `SELECT shard = 0 AND spend = 42.75 FROM spendflush.total`,
			"the view of totals":   `SELECT api_requests = 42 AND spend = 42.75 AND entity_id = 'k' FROM spendflush.spend`,
			"the view of days":     `SELECT api_requests = 42 AND spend = 42.75 AND entity_id = 'k' FROM spendflush.daily_spend`,
			"days without a print": `SELECT shard = -1 AND day = '2026-01-02' FROM spendflush.day_fingerprint`,
			"what is quarantined":  `SELECT NOT quarantined FROM spendflush.lost_batches`,
			"room in control sums": `SELECT sum(successful_requests * 1e18) = 82e18 FROM spendflush.control`,
		} {
			if !query[bool](t, conn, statement) {
				t.Errorf("%s is not as it should be", what)
			}
		}
		// What two shards have of an entity is one total before.
		execute(t, conn, `UPDATE spendflush.total SET spend = 40, prompt_tokens = 2;
			INSERT INTO spendflush.total (entity, shard, failed_requests, cache_creation_input_tokens, cache_read_input_tokens,
				successful_requests, prompt_tokens, completion_tokens, updated_at, spend)
			SELECT entity, 5, 0, 0, 0, 0, 3, 0, updated_at, 2.75 FROM spendflush.total`)

		goDown(t, databaseURL, 5)
		if got := query[string](t, conn, theBooks); got != was {
			t.Errorf("the books are\n%s, want\n%s", got, was)
		}
	}
}

func TestADatabaseThatCanNotKeepEveryTextIsRefusedAndLeftAlone(t *testing.T) {
	for encoding, want := range map[string]error{"LATIN1": ErrEncoding, "EUC_JP": ErrEncoding, "SQL_ASCII": nil} {
		databaseURL := testserver.PostgresEncoded(t, encoding)
		if _, err := Up(t.Context(), databaseURL); !errors.Is(err, want) {
			t.Errorf("%s: %v", encoding, err)
		}
		if made := query[bool](t, connect(t, databaseURL), "SELECT to_regnamespace('spendflush') IS NOT NULL"); made != (want == nil) {
			t.Errorf("%s: the schema was made: %t", encoding, made)
		}
	}
}

func TestDefaultsOfTheRoleDoNotKeepAMigrationFromItsWork(t *testing.T) {
	databaseURL := testserver.Postgres(t)
	execute(t, connect(t, databaseURL), `DO $$ DECLARE name text := current_database(); setting text; BEGIN
		FOREACH setting IN ARRAY ARRAY['default_transaction_read_only = on', 'default_transaction_isolation = serializable',
			'default_transaction_deferrable = on', 'statement_timeout = 500', 'synchronous_commit = off',
			'idle_in_transaction_session_timeout = 500', 'DateStyle = ''SQL, DMY''', 'TimeZone = ''Asia/Kolkata''',
			'standard_conforming_strings = off', 'search_path = nowhere', 'client_encoding = LATIN1'] LOOP
			EXECUTE format('ALTER DATABASE %I SET ', name) || setting;
		END LOOP; END $$`)
	for _, way := range []string{databaseURL, testserver.PgBouncer(t, databaseURL, nil)} {
		if _, err := Up(t.Context(), way); err != nil {
			t.Fatal(err)
		}
		if err := Check(t.Context(), way); err != nil {
			t.Error(err)
		}
		if list, err := Status(t.Context(), way); err != nil || len(list) == 0 || list[0].AppliedAt.IsZero() {
			t.Errorf("%+v, %v", list, err)
		}
	}
	goDown(t, databaseURL, 5)
}
