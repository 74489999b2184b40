package integration

import (
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/spend"
)

// hostileSettings are what a role may be set to, to the harm of a program that relies on the
// defaults.
const hostileSettings = `statement_timeout = '250ms'; lock_timeout = '1ms'; idle_in_transaction_session_timeout = '50ms';
	DateStyle = 'SQL, DMY'; TimeZone = 'Asia/Kolkata'; IntervalStyle = 'sql_standard'; client_encoding = 'LATIN1'; bytea_output = 'escape';
	standard_conforming_strings = off; backslash_quote = off; extra_float_digits = -15; default_transaction_read_only = on;
	default_transaction_isolation = 'serializable'; default_transaction_deferrable = on; synchronous_commit = off; enable_indexscan = off;
	enable_bitmapscan = off; plan_cache_mode = force_generic_plan; array_nulls = off; transform_null_equals = on; quote_all_identifiers = on`

// A role with all of these makes the tables, serves, and runs every command that uses Postgres.
func TestNoCommandMindsWhatItsRoleIsSetTo(t *testing.T) {
	t.Parallel()
	owner := stackOn(t, testserver.NewPostgres(t).URL(""), testserver.Redis(t))
	s := asAppRole(t, owner)
	administer(t, owner.postgres, "GRANT CREATE ON DATABASE postgres TO "+appRole)
	for setting := range strings.SplitSeq(hostileSettings, ";") {
		administer(t, owner.postgres, "ALTER ROLE "+appRole+" SET "+setting)
	}
	if zone := query(t, s.postgres, pgx.RowTo[string], "SHOW TimeZone")[0]; zone != "Asia/Kolkata" {
		t.Fatalf("the role isn't hostile: its time zone is %s", zone)
	}
	s.wants(0, []string{"migrate", "print"}, "CREATE SCHEMA")
	s.wants(0, []string{"migrate", "up"})
	s.wants(0, []string{"migrate", "up"}) // it reads when those before were made
	s.wants(0, []string{"migrate", "status"})

	instances := s.startAll(2, "SPENDFLUSH_SHARDS=2", "SPENDFLUSH_REWIND_WINDOW=60s", "SPENDFLUSH_AUDIT_INTERVAL=1s")
	l := startLoad(t, instances, faultLoad())
	awaitMore(t, instances, "queue", 10)
	for _, command := range [][]string{
		{"status"}, {"status", "--json"}, {"status", "--check"}, {"audit"}, {"audit", "--json"}, {"flush"}, {"books"}, {"quarantine", "list"}, {"migrate", "status"},
	} {
		s.wants(0, command)
	}
	owner.finish(instances, l) // reads the books as another role

	// One entry of each kind goes through the quarantine: a row to be applied, and a batch to be
	// dropped.
	owner.id = s.books()
	in := s.start("pod-late")
	mend := owner.brimful()
	in.post(onTop)
	owner.enqueue(spend.NewProducerID(time.Now()), 1, []byte("no batch"))
	eventually(t, "both are in quarantine", func() string {
		if list := s.quarantined(); len(list) != 2 {
			return strings.Repeat("one ", len(list))
		}
		return ""
	})
	mend()
	for _, a := range s.quarantined() {
		s.wants(0, quarantine("show", a.ID))
		if a.Kind == "row" {
			s.wants(0, quarantine("apply", a.ID), "applied: 1;")
		} else {
			s.wants(0, append(quarantine("drop", a.ID), "--yes"))
		}
	}
	in.stop(0)
	s.wants(0, []string{"audit"}, "the books add up")
	s.wants(0, []string{"books", "new-id", "--yes"})
}
