//go:build soak

package integration

import (
	"net/http"
	"testing"
	"time"

	"github.com/spendflush/spendflush/internal/lab/testserver"
)

func TestSoakRollingRestartsForAMinute(t *testing.T) {
	t.Parallel()
	rollingRestarts(t, time.Minute)
}

// Every table takes its time to be made, so that the whole takes longer than anything that
// instances may have waited for. It must be made once, and not be cancelled and begun anew.
func TestSoakAMigrationThatTakesLongerThanAMinuteIsNotBegunAnew(t *testing.T) {
	t.Parallel()
	s := stackOn(t, testserver.NewPostgres(t).URL(""), testserver.Redis(t))
	administer(t, s.postgres,
		`CREATE FUNCTION slow() RETURNS event_trigger LANGUAGE plpgsql AS
			$$ BEGIN IF tg_tag = 'CREATE TABLE' AND current_query() NOT LIKE '%migrations%' THEN PERFORM pg_sleep(3); END IF; END $$`,
		"CREATE EVENT TRIGGER slow ON ddl_command_end EXECUTE FUNCTION slow()")
	var instances []*instance
	for _, name := range []string{"pod-0", "pod-1", "pod-2"} {
		instances = append(instances, s.launchOn(name))
	}
	begun := time.Now()
	for _, in := range instances {
		for in.count(`"msg":"ready"`) == 0 {
			if status, body := in.get("/readyz"); status == http.StatusOK && time.Since(begun) < time.Minute {
				t.Fatalf("it took no minute: %s", body)
			}
			if time.Since(begun) > 5*time.Minute {
				t.Fatalf("%s is not ready after 5 minutes", in.name)
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	t.Logf("all were ready after %s", time.Since(begun))
	if time.Since(begun) < time.Minute {
		t.Error("it took no minute: the test shows nothing")
	}
	applying := 0
	for _, in := range instances {
		applying += in.count("applying 00001_books.sql")
		in.stop(0)
	}
	if applying != 1 {
		t.Errorf("the first migration was begun %d times", applying)
	}
}
