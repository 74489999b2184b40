package pgstore

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/lockers/pglock"
	"github.com/spendflush/spendflush/migrations"
	"github.com/spendflush/spendflush/spend"
)

// useEverything runs every statement that a Store and its lock have, each for what it is there for.
// What a test does to the tables by itself is done on connections of aside.
func useEverything(t *testing.T, s, aside *Store) {
	t.Helper()
	ctx := t.Context()
	p, lost := newProducer(), newProducer()
	old := bornAgo(40 * 24 * time.Hour)
	requests := traffic(rand.New(rand.NewPCG(1, 9)), 60, 20)
	apply(t, s, flushOf(p, 1, 1, requests...)) // fresh rows
	apply(t, s, flushOf(p, 2, 2, requests...)) // known ones
	batches := sequenceOf(lost, 3)
	apply(t, s, skippingGap(batches[2], 1))
	found, err := batches[1].Flush(markOf(t, s, lost))
	if err != nil {
		t.Fatal(err)
	}
	apply(t, s, found)

	setAside := flushOf(p, 3, 3)
	setAside.Lost = []spend.LostRange{{Producer: p, First: 3, Last: 3, Reason: "refused", Quarantined: true}}
	setAside.Quarantine = []spend.BadBatch{{Reason: "refused", Bytes: bytesOf(flushOf(p, 3, 3, costOne))}}
	setAside.Claims[0].SealedUpdates++
	setAside.Claims[0].SealedAmount = setAside.Claims[0].SealedAmount.Add(dollars("1"))
	apply(t, s, setAside)
	if mark := markOf(t, s, p); !mark.HasQuarantined(3) || mark.Has(3) || mark.Sequence != 3 {
		t.Errorf("the mark is %+v, want 3 to be in quarantine", mark)
	}
	open, err := s.Quarantined(ctx, false, 0, 10)
	if err != nil || len(open) != 1 {
		t.Fatalf("%+v, %v", open, err)
	}
	if err := s.ApplyQuarantined(ctx, open[0].ID, "a test"); err != nil {
		t.Error(err)
	}
	if err := s.Quarantine(ctx, []spend.BadBatch{{Reason: "of a stranger", Bytes: []byte("bounded"), Bounded: true}}); err != nil {
		t.Error(err)
	}
	dropped := quarantine(t, s, aside, []byte("no batch"))
	if _, err := s.QuarantinedBytes(ctx, dropped.ID); err != nil {
		t.Error(err)
	}
	if err := s.DropQuarantined(ctx, dropped.ID, "a test"); err != nil {
		t.Error(err)
	}
	if has, err := s.InQuarantine(ctx, 0, [][sha256.Size]byte{sha256.Sum256([]byte("no batch"))}); err != nil || !has[0] {
		t.Errorf("what is dropped is there: %t, %v", has, err)
	}
	makeRoom := refuseOne(t, s, aside, newProducer()) // isolating
	makeRoom()

	apply(t, s, flushOf(old, 1, 1, costOne))
	age(t, aside, 31*24*time.Hour)
	apply(t, s, flushOf(newProducer(), 1, 1, costOne))
	execute(t, aside.pool, fmt.Sprintf(`BEGIN READ WRITE; SET LOCAL search_path = pg_catalog;
		UPDATE spendflush.producers SET first_seen = now() - interval '1 day', seen_at = now() WHERE producer = '%s'; COMMIT`, p))
	if pruned, err := s.TouchMarks(ctx, []spend.ProducerID{p, bornAgo(20 * 24 * time.Hour)}, time.Now(), month); err != nil || pruned != 1 {
		t.Errorf("pruned are %d, %v; want 1", pruned, err)
	}
	readEverything(t, s, p)

	lock := pglock.New(s.Pool(), "test")
	lease, err := lock.Acquire(ctx, "hostile")
	if err != nil {
		t.Fatal(err)
	}
	if holder, err := lock.Holder(ctx, "hostile"); err != nil || holder.Owner != "test" {
		t.Errorf("the holder is %+v, %v", holder, err)
	}
	if err := lease.Release(ctx); err != nil {
		t.Error(err)
	}
}

func readEverything(t *testing.T, s *Store, p spend.ProducerID) {
	t.Helper()
	ctx := t.Context()
	report, err := s.Audit(ctx)
	failed := slices.DeleteFunc(report.Checks, func(c AuditCheck) bool { return c.OK })
	// One row was refused, and its total was changed by hand to have it refused.
	if err != nil || slices.ContainsFunc(failed, func(c AuditCheck) bool { return c.Name == checkKeys || c.Name == checkDays || c.Name == checkClaims }) {
		t.Errorf("audit: %+v, %v", failed, err)
	}
	for _, groups := range [][]string{nil, {"model", "tag"}, {"team_id"}} {
		rows := 0
		q := UsageQuery{From: noon.Time().Add(-24 * time.Hour), To: noon.Time().Add(48 * time.Hour), By: Day, GroupBy: groups, EntityType: spend.Team}
		if err := s.Usage(ctx, q, func(UsageRow) error { rows++; return nil }); err != nil || rows == 0 {
			t.Errorf("usage: %d rows, %v", rows, err)
		}
	}
	if spent, err := s.Spend(ctx, spend.Entity{Type: spend.Team, ID: "t"}, []spend.ProducerID{p}); err != nil || !spent.Found {
		t.Errorf("spend: %+v, %v", spent, err)
	}
	for _, begin := range []string{"", "team-"} {
		if list, err := s.Entities(ctx, []spend.EntityType{spend.Team}, begin, 5); err != nil || len(list) == 0 {
			t.Errorf("entities: %+v, %v", list, err)
		}
	}
	if list, err := s.LostBatches(ctx, "", nil, 10); err != nil || len(list) == 0 {
		t.Errorf("lost batches: %+v, %v", list, err)
	}
	if counts, err := s.Counts(ctx); err != nil || counts.Updates == 0 {
		t.Errorf("counts: %+v, %v", counts, err)
	}
	if _, err := s.Summary(ctx); err != nil {
		t.Error(err)
	}
	if _, err := s.ClaimAudit(ctx, time.Hour); err != nil {
		t.Error(err)
	}
	if _, err := s.Probe(ctx); err != nil {
		t.Error(err)
	}
	if _, _, err := s.Lacking(ctx); err != nil {
		t.Error(err)
	}
	session := [16]byte(newProducer())
	if err := s.SignOut(ctx, session, time.Now().Add(time.Hour)); err != nil {
		t.Error(err)
	}
	if ended, err := s.SignedOut(ctx); err != nil || ended[session].IsZero() {
		t.Errorf("ended sessions: %v, %v", ended, err)
	}
}

// twins makes, in a schema that stands before pg_catalog, a function like each one there, under its
// very types and under those that a polymorphic or variadic one may be called with, and an operator
// like each one, also between any two common types. To call one of them is an error. What takes or
// gives types of the server's own insides can't be made, nor called.
const twins = `
CREATE SCHEMA evil;
CREATE FUNCTION evil.trap() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'a function outside of pg_catalog was called'; END $$;
DO $do$
DECLARE
	common text[] := ARRAY['smallint', 'integer', 'bigint', 'numeric', 'text', 'uuid', 'float8', 'interval', 'timestamptz', 'date', 'boolean', 'bytea'];
	f record; args text; result text; n int := 0;
BEGIN
	PERFORM pg_catalog.set_config('check_function_bodies', 'off', true); -- takes half the time
	FOR f IN SELECT DISTINCT p.proname, pg_catalog.oidvectortypes(p.proargtypes) AS args, p.provariadic <> 0 AS variadic,
			CASE WHEN p.proretset THEN 'SETOF ' ELSE '' END AS many, pg_catalog.format_type(p.prorettype, NULL) AS result
		FROM pg_catalog.pg_proc p
		WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prorettype <> 'internal'::regtype AND 'internal'::regtype <> ALL (p.proargtypes::oid[])
	LOOP
		FOR args IN SELECT DISTINCT pg_catalog.regexp_replace(pg_catalog.regexp_replace(f.args, 'any(compatible)?array', t || '[]', 'g'),
				'"any"|any(compatible)?(element|nonarray|enum)?', t, 'g') || pg_catalog.repeat(', ' || t, more)
			FROM pg_catalog.unnest(CASE WHEN f.args ~ 'any' THEN common ELSE common[1:1] END) AS t,
				pg_catalog.generate_series(0, CASE WHEN f.variadic THEN 3 ELSE 0 END) AS more
			WHERE f.args ~ 'any' OR more = 0
		LOOP
			result := f.many || CASE WHEN f.result ~ 'any' OR f.result IN ('internal', 'record') THEN 'text' ELSE f.result END;
			BEGIN
				EXECUTE pg_catalog.format('CREATE FUNCTION evil.%I(%s) RETURNS %s LANGUAGE plpgsql AS $f$ BEGIN PERFORM evil.trap(); RETURN%s; END $f$',
					f.proname, args, result, CASE WHEN f.many = '' AND result <> 'void' THEN ' NULL' ELSE '' END);
			EXCEPTION WHEN OTHERS THEN NULL; -- one of the other spellings of the same, or of the server's insides
			END;
		END LOOP;
	END LOOP;
	FOR f IN
		SELECT o.oprname AS name, pg_catalog.format_type(o.oprleft, NULL) AS l, pg_catalog.format_type(o.oprright, NULL) AS r,
			pg_catalog.format_type(o.oprresult, NULL) AS result
		FROM pg_catalog.pg_operator o
		WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND o.oprkind = 'b'
		UNION
		SELECT o.name, l.t, r.t, CASE WHEN o.name IN ('+', '-', '*', '/', '||', '&', '|', '#', '%', '<<', '>>') THEN 'text' ELSE 'boolean' END
		FROM pg_catalog.unnest(ARRAY['=', '<>', '<', '>', '<=', '>=', '+', '-', '*', '/', '||', '&', '|', '#', '%', '<<', '>>', '~', '^@']) AS o(name),
			pg_catalog.unnest(common) AS l(t), pg_catalog.unnest(common) AS r(t)
		UNION
		SELECT o.name, l.t || '[]', r.t || d.dims, CASE o.name WHEN '||' THEN 'text' ELSE 'boolean' END
		FROM pg_catalog.unnest(ARRAY['=', '<>', '@>', '<@', '&&', '||']) AS o(name), pg_catalog.unnest(common) AS l(t),
			pg_catalog.unnest(common) AS r(t), (VALUES ('[]'), ('')) AS d(dims)
	LOOP
		n := n + 1;
		BEGIN
			EXECUTE pg_catalog.format('CREATE FUNCTION evil.op%s(%s, %s) RETURNS %s LANGUAGE plpgsql AS $f$ BEGIN PERFORM evil.trap(); RETURN NULL; END $f$',
				n, f.l, f.r, CASE WHEN f.result ~ 'any' THEN 'text' ELSE f.result END);
			EXECUTE pg_catalog.format('CREATE OPERATOR evil.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = evil.op%s)', f.name, f.l, f.r, n);
		EXCEPTION WHEN OTHERS THEN NULL;
		END;
	END LOOP;
END $do$;
`

// wantTwins fails unless what statements call, as far as it is to be found in their texts, has its
// twin.
func wantTwins(t *testing.T, s *Store, schema string) {
	t.Helper()
	names, err := filepath.Glob("*.sql")
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	var text strings.Builder
	for _, name := range names {
		lines, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		text.Write(lines)
	}
	called := map[string]bool{}
	for _, call := range regexp.MustCompile(`\b([a-z_0-9]+)\(`).FindAllStringSubmatch(text.String(), -1) {
		called[call[1]] = true
	}
	missing := query[string](t, s, fmt.Sprintf(`SELECT COALESCE(pg_catalog.string_agg(DISTINCT p.proname, ' '), '') FROM pg_catalog.pg_proc p
		WHERE p.pronamespace OPERATOR(pg_catalog.=) 'pg_catalog'::regnamespace AND p.proname OPERATOR(pg_catalog.=) ANY ('{%s}')
			AND NOT EXISTS (SELECT FROM pg_catalog.pg_proc q WHERE q.pronamespace OPERATOR(pg_catalog.=) '%s'::regnamespace
				AND q.proname OPERATOR(pg_catalog.=) p.proname)`, strings.Join(slices.Sorted(maps.Keys(called)), ","), schema))
	if missing != "" || !called["unnest"] || !called["octet_length"] {
		t.Fatalf("no twin of %s; called are %v", missing, slices.Sorted(maps.Keys(called)))
	}
}

func TestNothingOfAnotherSchemaIsEverCalled(t *testing.T) {
	for name, way := range map[string]func(*testing.T, string) string{
		"directly": func(_ *testing.T, databaseURL string) string { return databaseURL }, "through PgBouncer": pooled,
	} {
		t.Run(name, func(t *testing.T) {
			databaseURL := database(t)
			s := open(t, databaseURL, Options{})
			execute(t, s.pool, twins)
			wantTwins(t, s, "evil")
			name := query[string](t, s, "SELECT current_database()")
			execute(t, s.pool, "ALTER DATABASE "+name+" SET search_path = evil, public, pg_catalog")
			databaseURL = way(t, databaseURL)
			hostile := open(t, databaseURL, Options{MaxConns: 4})
			var trapped bool
			if err := hostile.pool.QueryRow(t.Context(), "SELECT count(*) = 0 FROM spendflush.total WHERE 1::bigint = 1::bigint").Scan(&trapped); err == nil {
				t.Fatal("the trap doesn't work")
			}
			useEverything(t, hostile, hostile)
			if _, err := migrations.Status(t.Context(), databaseURL); err != nil {
				t.Error(err)
			}
			if _, err := migrations.Up(t.Context(), databaseURL); err != nil {
				t.Error(err)
			}
		})
	}
}

// The usual case: another role may put things into the schema public, which stands behind
// pg_catalog. An exact match there is taken before a polymorphic function of pg_catalog. Here it
// has done so before the tables are made.
func TestNothingOfTheSchemaPublicIsEverCalled(t *testing.T) {
	databaseURL := testserver.Postgres(t)
	s := open(t, databaseURL, Options{})
	execute(t, s.pool, strings.NewReplacer("CREATE SCHEMA evil;", "", "evil.", "public.").Replace(twins))
	wantTwins(t, s, "public")
	if _, err := s.pool.Exec(t.Context(), "SELECT array_agg('x'::text)"); err == nil {
		t.Fatal("the trap doesn't work")
	}
	migrate(t, databaseURL)
	useEverything(t, s, s)
}

func TestADatabaseThatKeepsBytesAsTheyAreWillDo(t *testing.T) {
	databaseURL := testserver.PostgresEncoded(t, "SQL_ASCII")
	migrate(t, databaseURL)
	s := open(t, databaseURL, Options{})
	useEverything(t, s, s)
	r := request{spend.Series{APIKey: "日本"}, noon, one("1")}
	apply(t, s, flushOf(newProducer(), 1, 1, r))
	list, err := s.Entities(t.Context(), []spend.EntityType{spend.APIKey}, "日", 5)
	if err != nil || len(list) != 1 || list[0].Entity.ID != r.series.APIKey {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestADatabaseThatCanNotKeepEveryTextIsToldAtTheProbe(t *testing.T) {
	_, err := open(t, testserver.PostgresEncoded(t, "LATIN1"), Options{}).Probe(t.Context())
	if !errors.Is(err, ErrEncoding) || !strings.Contains(err.Error(), "LATIN1") {
		t.Errorf("Probe returned %v", err)
	}
}

func TestWhatIsPutIntoQuarantineIsOnDiskWhateverTheRoleIsSetTo(t *testing.T) {
	databaseURL := database(t)
	s := open(t, databaseURL, Options{})
	execute(t, s.pool, `CREATE TABLE seen (what text);
		CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			INSERT INTO public.seen VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$;
		CREATE TRIGGER see AFTER INSERT OR UPDATE ON spendflush.quarantine FOR EACH STATEMENT EXECUTE FUNCTION see()`)
	execute(t, s.pool, "ALTER DATABASE "+query[string](t, s, "SELECT current_database()")+" SET synchronous_commit = off")
	s = open(t, databaseURL, Options{})
	entry := quarantine(t, s, s, []byte("no batch"))
	if err := s.DropQuarantined(t.Context(), entry.ID, "a test"); err != nil {
		t.Fatal(err)
	}
	if got := query[string](t, s, "SELECT string_agg(DISTINCT what, ',') || count(*) FROM seen"); got != "on2" {
		t.Errorf("synchronous_commit was %s, want twice on", got)
	}
}

func TestWhatTheRoleAndTheDatabaseAreSetToMattersToNoStatement(t *testing.T) {
	for _, c := range []struct{ name, settings string }{
		{"time-outs", "statement_timeout = '250ms'; lock_timeout = '1ms'; idle_in_transaction_session_timeout = '50ms'"},
		{"dates", "DateStyle = 'SQL, DMY'; TimeZone = 'Asia/Kolkata'; IntervalStyle = 'sql_standard'"},
		{"texts", "client_encoding = 'LATIN1'; bytea_output = 'escape'; standard_conforming_strings = off; backslash_quote = off; extra_float_digits = -15"},
		{"transactions", "default_transaction_read_only = on; default_transaction_isolation = 'serializable'; default_transaction_deferrable = on; synchronous_commit = off"},
		{"planner", "enable_indexscan = off; enable_bitmapscan = off; plan_cache_mode = force_generic_plan; jit = on; jit_above_cost = 0"},
		{"the rest", "check_function_bodies = off; row_security = off; array_nulls = off; transform_null_equals = on; quote_all_identifiers = on; xmloption = document"},
	} {
		t.Run(c.name, func(t *testing.T) {
			databaseURL := database(t)
			s := open(t, databaseURL, Options{})
			name := query[string](t, s, "SELECT current_database()")
			for setting := range strings.SplitSeq(c.settings, ";") {
				execute(t, s.pool, fmt.Sprintf("ALTER DATABASE %s SET %s", name, setting))
			}
			hostile := open(t, databaseURL, Options{MaxConns: 4})
			useEverything(t, hostile, hostile)
			if _, err := migrations.Status(t.Context(), databaseURL); err != nil {
				t.Error(err)
			}
		})
	}
}

// Another program, or a person, writes to the tables with a search_path of its own.
func TestTriggersCallNothingOfAnotherSchemaWhoeverWrites(t *testing.T) {
	s := open(t, database(t), Options{})
	execute(t, s.pool, `CREATE FUNCTION public.unnest(text[]) RETURNS SETOF text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'called'; END $$;
		INSERT INTO spendflush.series (key, tags) VALUES (gen_random_uuid(), '{a,b}')`)
	if n := query[int](t, s, "SELECT count(*) FROM spendflush.series_tag"); n != 2 {
		t.Errorf("%d tags, want 2", n)
	}
}

func TestAFlushTakesAsLongAsItTakesWhateverTheRoleAllows(t *testing.T) {
	databaseURL := database(t)
	s := open(t, databaseURL, Options{})
	execute(t, s.pool, `CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_catalog.pg_sleep(0.5); RETURN NULL; END $$;
		CREATE TRIGGER slow AFTER INSERT ON spendflush.rollup FOR EACH STATEMENT EXECUTE FUNCTION slow()`)
	execute(t, s.pool, "ALTER DATABASE "+query[string](t, s, "SELECT current_database()")+" SET statement_timeout = '250ms'")
	s = open(t, databaseURL, Options{})
	apply(t, s, flushOf(newProducer(), 1, 1, costOne))
	wantAudit(t, s)
}

// A statement outside of a transaction of read or write would be up to the settings of the role,
// and to its search_path.
func TestNoStatementIsSentOutsideOfATransaction(t *testing.T) {
	names, err := filepath.Glob("*.go")
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	direct := regexp.MustCompile(`pool\.(Query|QueryRow|Exec|Begin|BeginTx|SendBatch|CopyFrom)\(`)
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if found := direct.FindAllString(string(text), -1); len(found) > 0 {
			t.Errorf("%s: %q", name, found)
		}
	}
}
