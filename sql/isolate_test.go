package sql

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/spendflush/spendflush"
)

func TestRowsThatPostgresRefusesAreSetAsideAndTheRestCommits(t *testing.T) {
	s := open(t, database(t), Options{})
	p := newProducer()
	apply(t, s, flushOf(p, 1, 1, traffic(rand.New(rand.NewPCG(14, 1)), 100, 50)...))
	// One total and one rollup row are so full that nothing can be added, whatever filled them.
	execute(t, s.pool, `UPDATE spendflush.total SET spend = 99999999999999999999999999
		WHERE entity = (SELECT key FROM spendflush.entity WHERE entity_type = 'team' AND entity_id = 'team-3')`)
	full := request{spendflush.Series{APIKey: "full"}, noon, one("1")}
	apply(t, s, flushOf(newProducer(), 1, 1, full))
	execute(t, s.pool, `UPDATE spendflush.rollup SET prompt_tokens = 9223372036854775807
		WHERE series = (SELECT key FROM spendflush.series WHERE api_key = 'full')`)
	before := query[int](t, s, "SELECT sum(updates) FROM spendflush.producers")

	requests := append(traffic(rand.New(rand.NewPCG(15, 1)), 100, 50), full)
	requests = append(requests, request{spendflush.Series{TeamID: "team-3"}, noon, one("2")})
	// And two that no column takes.
	broken := request{spendflush.Series{APIKey: "\xff\xfe", UserID: "fine", Tags: []string{"nul\x00"}}, noon, one("3")}
	requests = append(requests, broken)
	apply(t, s, flushOf(p, 2, 2, requests...))

	if got := query[int](t, s, "SELECT sum(updates) FROM spendflush.producers") - before; got != len(requests) {
		t.Errorf("%d updates are claimed, want %d", got, len(requests))
	}
	rows, err := s.pool.Query(t.Context(), "SELECT book || ' ' || names::text || ' ' || reason FROM spendflush.quarantine ORDER BY book")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			t.Fatal(err)
		}
		got = append(got, line)
	}
	want := []string{"api_key ", "rollup ", "rollup ", "tag ", "team "}
	if !slices.EqualFunc(got, want, strings.HasPrefix) {
		t.Errorf("set aside are\n%s", strings.Join(got, "\n"))
	}
	if n := s.Stats().Refused; n != int64(len(want)) {
		t.Errorf("%d rows are counted as refused", n)
	}
	// Undo what filled them: then the books add up with the rows set aside.
	execute(t, s.pool, `UPDATE spendflush.total t SET spend = c.spend - (SELECT sum(spend) FROM spendflush.spend
			WHERE entity_type = 'team' AND entity_id <> 'team-3') - (SELECT spend FROM spendflush.quarantine WHERE book = 'team')
		FROM spendflush.control c WHERE c.book = 'team'
			AND entity = (SELECT key FROM spendflush.entity WHERE entity_type = 'team' AND entity_id = 'team-3')`)
	execute(t, s.pool, `UPDATE spendflush.rollup SET prompt_tokens = 10
		WHERE series = (SELECT key FROM spendflush.series WHERE api_key = 'full')`)
	if names, _ := failed(t, s); len(names) != 0 {
		t.Errorf("the checks that fail are %q", names)
	}
	apply(t, s, flushOf(p, 3, 3, requests[:50]...))
}

func TestAFlushWhoseSumsCanNotBeClaimedIsRefused(t *testing.T) {
	s := open(t, database(t), Options{})
	p := newProducer()
	f := flushOf(p, 1, 1, request{spendflush.Series{APIKey: "k"}, noon, one("1")})
	f.Claims[0].Amount = spend("99999999999999999999999999")
	apply(t, s, f)
	next := flushOf(p, 2, 2, request{spendflush.Series{APIKey: "k"}, noon, one("1")})
	if err := s.Apply(t.Context(), next); !errors.Is(err, ErrRefused) {
		t.Errorf("Apply returned %v", err)
	}
	if n := query[int](t, s, "SELECT sequence FROM spendflush.producers"); n != 1 {
		t.Errorf("the mark is %d", n)
	}
}
