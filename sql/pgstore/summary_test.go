package pgstore

import (
	"errors"
	"fmt"
	"testing"

	"github.com/spendflush/spendflush/internal/lab/testserver"
)

func TestASummaryHasTheSumsOfTheMarksAndWhatIsLostOrSetAside(t *testing.T) {
	url := database(t)
	s := open(t, url, Options{})
	if g, err := s.Summary(t.Context()); err != nil || g.Version == "" || g.Connections < 1 || g.MaxConnections < g.Connections ||
		g.Updates != 0 || g.Quarantined != 0 || g.LostBatches != 0 || !g.LastLost.IsZero() {
		t.Errorf("of empty books: %+v, %v", g, err)
	}
	p := newProducer()
	batches := sequenceOf(p, 3)
	apply(t, s, skippingGap(batches[2], 1)) // the first two are lost
	quarantine(t, s, s, []byte("nonsense"))
	g, err := s.Summary(t.Context())
	if err != nil || g.Updates != batches[2].Updates || g.Amount != batches[2].Amount || g.Quarantined != 1 || g.LostBatches != 2 || g.LastLost.IsZero() {
		t.Errorf("%+v, %v", g, err)
	}
	found, err := batches[0].Flush(markOf(t, s, p))
	if err != nil {
		t.Fatal(err)
	}
	apply(t, s, found)
	g, err = s.Summary(t.Context())
	if want := batches[0].Updates + batches[2].Updates; err != nil || g.Updates != want || g.LostBatches != 1 {
		t.Errorf("after one was found: %+v, %v", g, err)
	}
}

func TestASummaryAndTheCountsHaveIDsAndConflicts(t *testing.T) {
	s := open(t, database(t), Options{})
	conflict(t, s)
	quarantine(t, s, s, []byte("nonsense"))
	for part := range factParts {
		execute(t, s.pool, fmt.Sprintf("ANALYZE spendflush.ids_%d", part))
	}
	g, err := s.Summary(t.Context())
	if err != nil || g.Quarantined != 2 || g.Conflicts != 1 || g.IDs != 2 || g.IDBytes == 0 {
		t.Errorf("%+v, %v", g, err)
	}
	if c, err := s.Counts(t.Context()); err != nil || c.IDs != 2 || c.QuarantineOpen != 2 {
		t.Errorf("%+v, %v", c, err)
	}
	entry, err := s.Quarantined(t.Context(), false, 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	for i := range entry {
		if entry[i].Kind == "conflict" {
			err = s.DropQuarantined(t.Context(), entry[i].ID, "a test")
		}
	}
	if g, now := s.Summary(t.Context()); err != nil || now != nil || g.Quarantined != 1 || g.Conflicts != 0 {
		t.Errorf("after it was dropped: %+v, %v, %v", g, err, now)
	}
}

func TestASummaryTellsMissingTablesFromAMissingPostgres(t *testing.T) {
	s := open(t, testserver.Postgres(t), Options{})
	if _, err := s.Summary(t.Context()); !errors.Is(err, ErrNotMigrated) {
		t.Errorf("without tables: %v", err)
	}
	away := open(t, "postgres://127.0.0.1:1/nothing", Options{})
	if _, err := away.Summary(t.Context()); err == nil || errors.Is(err, ErrNotMigrated) {
		t.Errorf("without Postgres: %v", err)
	}
}
