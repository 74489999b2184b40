package load

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/spend"
)

func openDirect(t *testing.T, c DirectConfig) *Direct {
	t.Helper()
	database, err := url.Parse(testserver.Postgres(t))
	if err != nil {
		t.Fatal(err)
	}
	query := database.Query()
	query.Set("deadlock_timeout", "10ms") // what deadlocks mean doesn't depend on how soon they are noticed
	database.RawQuery = query.Encode()
	c.DatabaseURL = database.String()
	d, err := OpenDirect(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return d
}

// check compares the tables with the statistics, and both with what was taken.
func check(t *testing.T, d *Direct, w *Workload) DirectStats {
	t.Helper()
	booked, err := d.Tables().Updates(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := d.Stats()
	if booked.APIRequests() != s.Updates || booked.Spend != s.Amount {
		t.Errorf("the tables have %d updates of %s, the statistics %d of %s", booked.APIRequests(), booked.Spend, s.Updates, s.Amount)
	}
	want := w.Sums(0, uint64(s.Updates+s.Lost)).Updates.Spend
	if got := s.Amount.Add(s.LostAmount); got != want {
		t.Errorf("through and lost are %s dollars together, taken were %s", got, want)
	}
	return s
}

func TestDirectWritersMeetAndWhatIsNotLostIsInTheTables(t *testing.T) {
	d := openDirect(t, DirectConfig{Writers: 10, Buffer: 10})
	w := newWorkload(t, Shape{Keys: 20, Skew: 1})
	const count = 395 // the last transaction isn't full
	if err := d.Run(t.Context(), w, 0, count); err != nil {
		t.Fatal(err)
	}
	s := check(t, d, w)
	if s.Updates+s.Lost != count || s.Deadlocks == 0 {
		t.Errorf("%+v", s)
	}
}

func TestOneDirectWriterBooksEveryRow(t *testing.T) {
	d := openDirect(t, DirectConfig{Writers: 1})
	w := newWorkload(t, Shape{Keys: 50, Models: 2})
	if err := d.Run(t.Context(), w, 0, 300); err != nil {
		t.Fatal(err)
	}
	if s := check(t, d, w); s.Updates != 300 || s.Deadlocks != 0 {
		t.Errorf("%+v", s)
	}
	got, err := d.Tables().Entities(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := w.Sums(0, 300).Entities
	if len(got) != len(want) {
		t.Errorf("%d totals instead of %d", len(got), len(want))
	}
	for e, c := range want {
		if got[e.Key()] != c {
			t.Errorf("%v has %+v instead of %+v", e, got[e.Key()], c)
		}
	}
	rows := int64(0)
	for number := range uint64(300) {
		u := w.Update(number)
		rows += int64(len(Entities(&u.Series)) + 1)
	}
	if s := d.Stats(); s.Rows != rows {
		t.Errorf("%d rows are told of, %d are needed", s.Rows, rows)
	}
}

// Postgres ends every transaction that touches one key with the code of a deadlock.
func TestWhatDeadlocksFourTimesIsLostAndCounted(t *testing.T) {
	d := openDirect(t, DirectConfig{Writers: 1, Buffer: 5})
	w := newWorkload(t, Shape{Keys: 10})
	u := w.Update(3)
	refuse := fmt.Sprintf(`
		CREATE FUNCTION direct_updates.refuse() RETURNS trigger LANGUAGE plpgsql AS
			$$ BEGIN RAISE EXCEPTION 'two have met' USING ERRCODE = '40P01'; END $$;
		CREATE TRIGGER refuse BEFORE INSERT ON direct_updates.total FOR EACH ROW
			WHEN (NEW.entity = '%x') EXECUTE FUNCTION direct_updates.refuse();`,
		spend.Entity{Type: spend.APIKey, ID: u.APIKey}.Key())
	if _, err := d.pool.Exec(t.Context(), refuse); err != nil {
		t.Fatal(err)
	}
	if err := d.Run(t.Context(), w, 0, 100); err != nil {
		t.Fatal(err)
	}
	// The keys take turns: every other transaction of five has the key.
	s := check(t, d, w)
	if s.Updates != 50 || s.Lost != 50 || s.Retries != 30 || s.Deadlocks != 40 {
		t.Errorf("%+v", s)
	}
}

func TestARunThatIsEndedFinishesWhatItHasTaken(t *testing.T) {
	d := openDirect(t, DirectConfig{Writers: 3})
	w := newWorkload(t, Shape{Skew: 3})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx, w, 0, 0) }()
	for d.Stats().Updates == 0 {
		select {
		case err := <-done:
			t.Fatal("ended by itself:", err)
		default:
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	check(t, d, w)
}

func TestAFailureThatIsNoConflictEndsTheRun(t *testing.T) {
	d := openDirect(t, DirectConfig{Writers: 2})
	if _, err := d.pool.Exec(t.Context(), "DROP TABLE direct_updates.rollup"); err != nil {
		t.Fatal(err)
	}
	err := d.Run(t.Context(), newWorkload(t, Shape{}), 0, 100)
	if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.Code != "42P01" {
		t.Errorf("the error is %v", err)
	}
}

func TestTablesOfOthersAreNeverTouched(t *testing.T) {
	d := openDirect(t, DirectConfig{})
	if _, err := MakeTables(t.Context(), d.pool, d.config.Schema); err == nil {
		t.Error("tables were made in a schema that was there")
	}
}
