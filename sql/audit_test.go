package sql

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/spendflush/spendflush"
)

// failed returns the names of the checks that failed, and all the entities named.
func failed(t *testing.T, s *Store) (names []string, entities []AuditDifference) {
	t.Helper()
	report, err := s.Audit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range report.Checks {
		if !c.OK {
			names, entities = append(names, c.Name), append(entities, c.Entities...)
		}
	}
	if report.OK != (len(names) == 0) {
		t.Errorf("the report says %t with %d failed checks", report.OK, len(names))
	}
	return names, entities
}

func TestAuditFindsWhatSomebodyChangedByHand(t *testing.T) {
	s := open(t, database(t), Options{})
	wantAudit(t, s) // of empty books too
	apply(t, s, flushOf(newProducer(), 1, 1, traffic(rand.New(rand.NewPCG(12, 1)), 200, 40)...))
	wantAudit(t, s)
	const each = "each total = its rollups"
	for _, c := range []struct {
		change string
		undo   string
		want   []string
		names  string // the entity named, if any
	}{
		{
			"UPDATE spendflush.total SET spend = spend + 0.000000000001 WHERE entity = (SELECT key FROM spendflush.entity WHERE entity_type = 'team' AND entity_id = 'team-3')",
			"UPDATE spendflush.total SET spend = spend - 0.000000000001 WHERE entity = (SELECT key FROM spendflush.entity WHERE entity_type = 'team' AND entity_id = 'team-3')",
			[]string{"totals of team", each}, "team-3",
		},
		{
			"UPDATE spendflush.total SET cache_read_input_tokens = 1 WHERE entity = (SELECT key FROM spendflush.entity WHERE entity_id = 'tag-b')",
			"UPDATE spendflush.total SET cache_read_input_tokens = 0 WHERE entity = (SELECT key FROM spendflush.entity WHERE entity_id = 'tag-b')",
			[]string{"totals of tag", each}, "tag-b",
		},
		{
			"UPDATE spendflush.producers SET amount = amount + 1", "UPDATE spendflush.producers SET amount = amount - 1",
			[]string{"sealed = booked", "producers"}, "",
		},
		{
			"UPDATE spendflush.control SET prompt_tokens = prompt_tokens + 1 WHERE book = 'rollup'",
			"UPDATE spendflush.control SET prompt_tokens = prompt_tokens - 1 WHERE book = 'rollup'",
			[]string{"rollups"}, "",
		},
		{
			"DELETE FROM spendflush.series_tag WHERE tag = 'tag-a'",
			"INSERT INTO spendflush.series_tag SELECT 'tag-a', key FROM spendflush.series WHERE 'tag-a' = ANY (tags)",
			[]string{"dictionaries", each}, "tag-a",
		},
	} {
		execute(t, s.pool, c.change)
		names, entities := failed(t, s)
		if !slices.Equal(names, c.want) {
			t.Errorf("after %s the checks that fail are %q, want %q", c.change, names, c.want)
		}
		if c.names != "" && (len(entities) != 1 || entities[0].EntityID != c.names) {
			t.Errorf("after %s the entities named are %+v, want %s", c.change, entities, c.names)
		}
		execute(t, s.pool, c.undo)
		wantAudit(t, s)
	}
}

func TestAuditFindsARollupThatIsCountedElsewhere(t *testing.T) {
	s := open(t, database(t), Options{})
	a := request{spendflush.Series{APIKey: "a"}, noon, one("1")}
	b := request{spendflush.Series{APIKey: "b"}, noon, one("2")}
	apply(t, s, flushOf(newProducer(), 1, 1, a, b))
	// The sums over all stay what they are: only entity by entity it shows.
	execute(t, s.pool, "UPDATE spendflush.rollup SET spend = 3 - spend")
	names, entities := failed(t, s)
	if len(names) != 1 || len(entities) != 2 || entities[0].EntityID != "a" || entities[0].RollupSpend != "2" || entities[0].TotalSpend != "1" {
		t.Errorf("%q, %+v", names, entities)
	}
}

func TestAuditNamesAtMostTwentyEntities(t *testing.T) {
	s := open(t, database(t), Options{})
	apply(t, s, flushOf(newProducer(), 1, 1, traffic(rand.New(rand.NewPCG(13, 1)), 200, 60)...))
	execute(t, s.pool, "UPDATE spendflush.total SET spend = spend + 1")
	if _, entities := failed(t, s); len(entities) != maxDifferences {
		t.Errorf("%d entities are named", len(entities))
	}
}

func TestAuditCountsRowsThatNameNothing(t *testing.T) {
	s := open(t, database(t), Options{})
	apply(t, s, flushOf(newProducer(), 1, 1, request{spendflush.Series{APIKey: "a"}, noon, one("1")}))
	execute(t, s.pool, "DELETE FROM spendflush.series")
	if names, _ := failed(t, s); !slices.Contains(names, "dictionaries") {
		t.Errorf("the checks that fail are %q", names)
	}
}

func TestBooksInTheMiddleOfASealAreNotTakenForWrong(t *testing.T) {
	s := open(t, database(t), Options{})
	p := newProducer()
	r := request{spendflush.Series{APIKey: "a"}, noon, one("1")}
	whole := flushOf(p, 1, 1, r)
	// The seal lies in two batches: the first has the total, the second the rollup.
	first, second := *whole, *whole
	first.Claims = []spendflush.Claim{{Producer: p, First: 1, Last: 1, Shards: 1, Seal: 0}}
	first.Rollups, first.Control[0] = nil, spendflush.Counters{}
	second.Claims = []spendflush.Claim{{Producer: p, First: 2, Last: 2, Shards: 1, Seal: 1, Updates: 1, Amount: spend("1")}}
	sealedUpTo.extend(&first.Claims[0])
	sealedUpTo.extend(&second.Claims[0])
	second.Totals, second.Control[spendflush.APIKey] = nil, spendflush.Counters{}
	skipped := func() bool {
		report, err := s.Audit(t.Context())
		if err != nil || !report.OK {
			t.Errorf("%+v, %v", report, err)
		}
		return report.Checks[len(report.Checks)-1].Skipped != ""
	}
	apply(t, s, &first)
	if !skipped() {
		t.Error("half a seal was compared")
	}
	apply(t, s, &second)
	if skipped() {
		t.Error("a whole seal wasn't compared")
	}
	third := flushOf(p, 3, 3, r)
	third.Claims[0].Shards, third.Claims[0].Seal = 2, 2
	apply(t, s, third)
	if !skipped() {
		t.Error("a seal whose other lane is missing was compared")
	}
}
