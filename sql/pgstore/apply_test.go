package pgstore

import (
	"errors"
	"testing"

	"github.com/spendflush/spendflush/spend"
)

func TestClaimsInOrderAreBooked(t *testing.T) {
	s := open(t, database(t), Options{})
	p := newProducer()
	r := request{spend.Series{APIKey: "k", Tags: []string{`a"b\c{},`}}, noon, one("0.1")}
	apply(t, s, flushOf(p, 1, 1, r))
	apply(t, s, flushOf(p, 2, 4, r, r))
	if got := query[string](t, s, "SELECT spend::text FROM spendflush.spend WHERE entity_id = 'k'"); got != "0.300000000000" {
		t.Errorf("spend is %s", got)
	}
	if got := query[string](t, s, "SELECT entity_id FROM spendflush.spend WHERE entity_type = 'tag'"); got != r.series.Tags[0] {
		t.Errorf("the tag reads %s", got)
	}
	if got := query[[]string](t, s, "SELECT tags FROM spendflush.series"); len(got) != 1 || got[0] != r.series.Tags[0] {
		t.Errorf("the tags of the series read %q", got)
	}
	marks, err := s.Marks(t.Context(), 0, []spend.ProducerID{p, newProducer()})
	if err != nil || len(marks.Of) != 1 || marks.Of[p].Sequence != 4 {
		t.Errorf("marks are %v, %v", marks, err)
	}
	if marks, err := s.Marks(t.Context(), 1, []spend.ProducerID{p}); err != nil || len(marks.Of) != 0 {
		t.Errorf("marks of another shard are %v, %v", marks, err)
	}
}

func wantFenced(t *testing.T, s *Store, f *spend.Flush) {
	t.Helper()
	before := drift(t, s) + query[string](t, s, "SELECT coalesce(sum(updates), 0)::text FROM spendflush.producers")
	if err := s.Apply(t.Context(), f); !errors.Is(err, spend.ErrFenced) {
		t.Errorf("Apply returned %v, want ErrFenced", err)
	}
	if after := drift(t, s) + query[string](t, s, "SELECT coalesce(sum(updates), 0)::text FROM spendflush.producers"); after != before {
		t.Errorf("the books changed from %s to %s", before, after)
	}
}

func TestAGapOrARepetitionIsFencedAndWritesNothing(t *testing.T) {
	s := open(t, database(t), Options{})
	p := newProducer()
	r := request{spend.Series{APIKey: "k"}, noon, one("1")}
	apply(t, s, flushOf(p, 1, 3, r))
	wantFenced(t, s, flushOf(p, 1, 3, r))
	wantFenced(t, s, flushOf(p, 3, 4, r))
	wantFenced(t, s, flushOf(p, 5, 5, r))
	apply(t, s, flushOf(p, 4, 4, r))
}

func TestAnUnknownProducerIsTakenUpOnlyWithItsFirstBatch(t *testing.T) {
	s := open(t, database(t), Options{})
	wantFenced(t, s, flushOf(newProducer(), 2, 2, request{spend.Series{APIKey: "k"}, noon, one("1")}))
	if n := query[int](t, s, "SELECT count(*) FROM spendflush.producers"); n != 0 {
		t.Errorf("%d producers are known", n)
	}
}

func TestOneLostClaimAmongManyUndoesAllOfThem(t *testing.T) {
	s := open(t, database(t), Options{})
	a, b := newProducer(), newProducer()
	r := request{spend.Series{APIKey: "k"}, noon, one("1")}
	apply(t, s, flushOf(a, 1, 1, r))
	f := flushOf(a, 1, 1, r) // already there
	other := flushOf(b, 1, 1, r)
	f.Claims = append(f.Claims, other.Claims...)
	if f.Claims[0].Producer.Compare(f.Claims[1].Producer) > 0 {
		f.Claims[0], f.Claims[1] = f.Claims[1], f.Claims[0]
	}
	wantFenced(t, s, f)
	apply(t, s, other)
}
