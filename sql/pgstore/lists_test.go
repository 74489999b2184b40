package pgstore

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/spendflush/spendflush/spend"
)

func namesOf(t *testing.T, s *Store, begin string, limit int, types ...spend.EntityType) (names []string) {
	t.Helper()
	list, err := s.Entities(t.Context(), types, begin, limit)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if e.UpdatedAt.IsZero() {
			t.Errorf("%+v has no time", e)
		}
		names = append(names, strings.TrimSpace(fmt.Sprint(e.Entity.Type, " ", e.Entity.ID, " ", e.Spend, " ", e.Requests, " ", e.Entity.TeamID)))
	}
	return names
}

func TestEntitiesAreFoundByTheBeginningOfTheirIdsWhateverTheyAreMadeOf(t *testing.T) {
	s := open(t, database(t), Options{})
	var requests []request
	for _, id := range []string{"ab", "a", "b", "ab%", "ab_c", `ab\`, "aβ", "a" + strings.Repeat("\U0010FFFF", 63)} {
		requests = append(requests, request{spend.Series{TeamID: id}, noon, one("1")})
	}
	requests = append(requests, request{spend.Series{UserID: "ab", TeamID: "zz", Tags: []string{"ab"}}, noon, one("5")})
	apply(t, s, flushOf(newProducer(), 1, 1, requests...))
	for _, c := range []struct {
		begin string
		limit int
		types []spend.EntityType
		want  []string
	}{
		{"ab", 9, []spend.EntityType{spend.Team}, []string{"team ab 1 1", "team ab% 1 1", `team ab\ 1 1`, "team ab_c 1 1"}},
		{"ab%", 9, []spend.EntityType{spend.Team}, []string{"team ab% 1 1"}},
		{"ab_", 9, nil, []string{"team ab_c 1 1"}},
		{`ab\`, 9, nil, []string{`team ab\ 1 1`}},
		{"aβ", 9, nil, []string{"team aβ 1 1"}},
		{"a\U0010FFFF", 9, nil, []string{"team a" + strings.Repeat("\U0010FFFF", 63) + " 1 1"}},
		{"A", 9, nil, nil},
		{"ab", 3, nil, []string{"tag ab 5 1", "team ab 1 1", "team_member ab 5 1 zz"}},
		{"ab", 2, []spend.EntityType{spend.Team, spend.User}, []string{"team ab 1 1", "user ab 5 1"}},
		{"", 2, []spend.EntityType{spend.Team}, []string{"team zz 5 1", "team a 1 1"}},
		{"", 3, nil, []string{"tag ab 5 1", "team zz 5 1", "team_member ab 5 1 zz"}},
	} {
		if got := namesOf(t, s, c.begin, c.limit, c.types...); !slices.Equal(got, c.want) {
			t.Errorf("%d beginning with %q of %v: %q, want %q", c.limit, c.begin, c.types, got, c.want)
		}
	}
}

func TestLostBatchesAreListedPageByPageWithWhatIsMissing(t *testing.T) {
	s := open(t, database(t), Options{})
	older, newer := bornAgo(0), newProducer()
	if older.Compare(newer) > 0 {
		older, newer = newer, older
	}
	batches := sequenceOf(older, 5)
	apply(t, s, skippingGap(batches[4], 1)) // 1 to 4 are lost
	second := sequenceOf(newer, 2)
	apply(t, s, skippingGap(second[1], 1)) // 1 is lost
	found, err := batches[2].Flush(markOf(t, s, older))
	if err != nil {
		t.Fatal(err)
	}
	apply(t, s, found)
	read := func(state string, limit int) (lines []string) {
		t.Helper()
		var after *LostID
		for {
			list, err := s.LostBatches(t.Context(), state, after, limit)
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range list {
				if l.NoticedAt.IsZero() || l.Reason != "missing" || !l.Known {
					t.Errorf("%+v", l)
				}
				name := map[spend.ProducerID]string{older: "older", newer: "newer"}[l.Producer]
				lines = append(lines, fmt.Sprint(name, l.First, "-", l.Last, " ", !l.FoundAt.IsZero(), " ", l.Updates, " ", l.Amount, " ", l.Batches))
				after = &l.LostID
			}
			if len(list) < limit {
				return lines
			}
		}
	}
	all := []string{"newer1-1 false 1 1 1", "older4-4 false 3 3 3", "older3-3 true 3 3 3", "older1-2 false 3 3 3"}
	for _, limit := range []int{1, 2, 10} {
		if got := read("", limit); !slices.Equal(got, all) {
			t.Errorf("all, %d a page: %q, want %q", limit, got, all)
		}
		if got, want := read(LostMissing, limit), []string{all[0], all[1], all[3]}; !slices.Equal(got, want) {
			t.Errorf("missing, %d a page: %q, want %q", limit, got, want)
		}
		if got := read(LostFound, limit); !slices.Equal(got, all[2:3]) {
			t.Errorf("found, %d a page: %q", limit, got)
		}
	}
	execute(t, s.pool, "DELETE FROM spendflush.producers")
	list, err := s.LostBatches(t.Context(), "", nil, 10)
	if err != nil || len(list) != 4 || list[0].Known {
		t.Errorf("without the marks: %+v, %v", list, err)
	}
}
