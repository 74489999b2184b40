package integration

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush/internal/lab/testserver"
)

// turnClock has what the clock of Postgres says in this database be ahead by an interval.
func turnClock(t *testing.T, s *stack, ahead string) {
	t.Helper()
	const function = "CREATE OR REPLACE FUNCTION pg_catalog.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS " +
		"$$ SELECT pg_catalog.right_clock() + interval '%s' $$"
	conn, err := pgx.Connect(t.Context(), s.postgres)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	_, err = conn.Exec(t.Context(), "SET allow_system_table_mods = on; "+
		"DO $do$ BEGIN IF to_regproc('pg_catalog.right_clock') IS NULL THEN "+
		"ALTER FUNCTION pg_catalog.clock_timestamp() RENAME TO right_clock; END IF; END $do$; "+fmt.Sprintf(function, ahead))
	if err != nil {
		t.Fatal(err)
	}
}

// A clock of Postgres that is wrong for a while is told everywhere while it is, and stops nothing.
func TestAClockOfPostgresThatIsWrongForAWhileIsTold(t *testing.T) {
	t.Parallel()
	s := stackOn(t, testserver.Postgres(t), testserver.Redis(t))
	in := s.start("pod-a")
	tells := func(sentence bool) {
		t.Helper()
		const words = "The clock of instance pod-a is 8760 h behind that of Postgres."
		eventually(t, fmt.Sprintf("the page and the command tell of the clock: %t", sentence), func() string {
			_, page := in.get("/v1/pipeline")
			_, stdout, stderr := run(t, s.variables(), "status")
			if strings.Contains(page, words) != sentence || strings.Contains(stdout, words) != sentence {
				return page + stdout + stderr
			}
			return ""
		})
	}
	tells(false)
	for _, server := range []string{"postgres", "redis"} {
		if apart, ok := in.metrics()[`spendflush_clock_difference_seconds{server="`+server+`"}`]; !ok || math.Abs(apart) > 60 {
			t.Errorf("%s: known: %t, %v s apart", server, ok, apart)
		}
	}

	turnClock(t, s, "365 days")
	in.logged("the clock of this machine and that of a server differ")
	tells(true)
	if apart := in.metrics().sum("spendflush_clock_difference_seconds", "postgres"); apart < 364*24*3600 {
		t.Errorf("Postgres is %v s ahead, say the metrics", apart)
	}
	if status, answer := in.record(1); status/100 != 2 {
		t.Errorf("an update: %d %s", status, answer)
	}
	turnClock(t, s, "0")
	in.logged("the clock of this machine and that of a server agree again")
	tells(false)
	if got := s.number("SELECT count(*) FROM spendflush.quarantine"); got != 0 {
		t.Errorf("%d entries are in quarantine", got)
	}
}
