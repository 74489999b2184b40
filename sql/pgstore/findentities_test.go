package pgstore

import (
	"fmt"
	"slices"
	"testing"

	"github.com/spendflush/spendflush/spend"
)

// pagesOf reads a list to its end and returns its pages.
func pagesOf(t *testing.T, s *Store, q EntityQuery) (pages [][]string) {
	t.Helper()
	for {
		page, err := s.FindEntities(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range page.Entities {
			if e.Entity.Type != q.Type || e.UpdatedAt.IsZero() {
				t.Errorf("%+v", e)
			}
			name := e.Entity.ID
			if e.Entity.TeamID != "" {
				name += " of " + e.Entity.TeamID
			}
			names = append(names, fmt.Sprint(name, " ", e.Spend, " ", e.Requests))
		}
		pages = append(pages, names)
		if page.Next == nil {
			return pages
		}
		q.After = page.Next
	}
}

func TestAllEntitiesOfATypeAreListedPageByPageInOrder(t *testing.T) {
	s := open(t, database(t), Options{})
	var requests []request
	for i := range 7 {
		requests = append(requests, request{spend.Series{TeamID: fmt.Sprint("team-", i), UserID: "ada", APIKey: "k"}, noon, one(fmt.Sprint(i + 1))})
	}
	apply(t, s, flushOf(newProducer(), 1, 1, requests...))
	for limit, want := range map[int][]int{1: {1, 1, 1, 1, 1, 1, 1}, 3: {3, 3, 1}, 6: {6, 1}, 7: {7}, 100: {7}} {
		var sizes []int
		pages := pagesOf(t, s, EntityQuery{Type: spend.Team, Limit: limit})
		for _, page := range pages {
			sizes = append(sizes, len(page))
		}
		all := slices.Concat(pages...)
		if !slices.Equal(sizes, want) || !slices.IsSorted(all) || all[0] != "team-0 1 1" || all[6] != "team-6 7 1" {
			t.Errorf("%d a page: %q", limit, pages)
		}
		// All of one user, in seven teams.
		if all := slices.Concat(pagesOf(t, s, EntityQuery{Type: spend.TeamMember, Limit: limit})...); len(all) != 7 || all[1] != "ada of team-1 2 1" {
			t.Errorf("members, %d a page: %q", limit, all)
		}
	}
	if pages := pagesOf(t, s, EntityQuery{Type: spend.Agent, Limit: 5}); len(pages) != 1 || len(pages[0]) != 0 {
		t.Errorf("no agents: %q", pages)
	}
}

func TestNamesAreSearchedWithinAndWithoutRegardToCase(t *testing.T) {
	s := open(t, database(t), Options{})
	var requests []request
	for _, id := range []string{"Marketing EU", "marketing-us", "Sales", "ÄRZTE", "straße", "ΣΊΣΥΦΟΣ", "100%_\\", "Kelvin", "x"} {
		requests = append(requests, request{spend.Series{TeamID: id}, noon, one("1")})
	}
	apply(t, s, flushOf(newProducer(), 1, 1, requests...))
	for contains, want := range map[string][]string{
		"MARKET": {"Marketing EU", "marketing-us"}, "keting": {"Marketing EU", "marketing-us"}, "-US": {"marketing-us"}, "eu": {"Marketing EU"},
		"ärzte": {"ÄRZTE"}, "STRAẞE": {"straße"}, "σίσυφος": {"ΣΊΣΥΦΟΣ"}, "%_": {"100%_\\"}, "\\": {"100%_\\"}, "_": {"100%_\\"}, "\u212aelvin": {"Kelvin"},
		"": {"100%_\\", "Kelvin", "Marketing EU", "Sales", "marketing-us", "straße", "x", "ÄRZTE", "ΣΊΣΥΦΟΣ"}, "nobody": nil, "é": nil,
	} {
		for _, limit := range []int{1, 2, 100} {
			var got []string
			for i, page := range pagesOf(t, s, EntityQuery{Type: spend.Team, Contains: contains, Limit: limit}) {
				if len(page) > limit || limit == 100 && i > 0 {
					t.Errorf("%q: the page %d has %q", contains, i, page)
				}
				for _, line := range page {
					got = append(got, line[:len(line)-len(" 1 1")])
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("%q, %d a page: %q, want %q", contains, limit, got, want)
			}
		}
	}
}

func TestASearchLooksAtABoundedNumberOfNamesAndGoesOnFromThere(t *testing.T) {
	s := open(t, database(t), Options{})
	apply(t, s, flushOf(newProducer(), 1, 1, request{spend.Series{TeamID: "zebra"}, noon, one("1")}))
	execute(t, s.pool, `INSERT INTO spendflush.entity SELECT md5('e' || i)::uuid, 'team', 'team-' || i FROM generate_series(1, $1::int) AS i`, NamesLookedAt+5)
	execute(t, s.pool, "ANALYZE spendflush.entity")
	q := EntityQuery{Type: spend.Team, Contains: "ZEB", Limit: 10}
	page, err := s.FindEntities(t.Context(), q)
	if err != nil || len(page.Entities) != 0 || page.Next == nil {
		t.Fatalf("the first names: %+v, %v", page, err)
	}
	q.After = page.Next
	if page, err = s.FindEntities(t.Context(), q); err != nil || len(page.Entities) != 1 || page.Entities[0].Entity.ID != "zebra" || page.Next != nil {
		t.Errorf("those behind them: %+v, %v", page, err)
	}
	wantIndexes(t, s, s.statement("entity_names"), "team", "team-5", "", 100)
}
