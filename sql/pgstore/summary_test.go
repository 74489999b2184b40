package pgstore

import (
	"errors"
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
