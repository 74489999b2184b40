package pgstore

import (
	"context"
	"fmt"
	"strings"
	"unicode"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush/spend"
)

// NamesLookedAt is how many names FindEntities looks at in one call at most.
const NamesLookedAt = 20_000

// EntityQuery asks for entities of a type in the order of their ids as bytes; of team members, the
// user's id counts.
type EntityQuery struct {
	Type     spend.EntityType
	Contains string        // what the id has in it, without regard to case; "" for all
	After    *spend.Entity // the list goes on behind this one; nil: it begins
	Limit    int           // how many are wanted, at least 1
}

// EntityPage is a part of such a list.
type EntityPage struct {
	Entities []EntityTotal
	Next     *spend.Entity // After of the next part; nil if there is none
}

// FindEntities returns a part of a list of entities. There is no index by what is within a name: it
// goes over the names by the index of their order, and ends at Limit or after NamesLookedAt of them,
// so that a part may have fewer entities than wanted, or none, and still a Next.
func (s *Store) FindEntities(ctx context.Context, q EntityQuery) (page EntityPage, err error) {
	err = s.read(ctx, func(tx querier) error {
		var found foundNames
		if found, err = s.lookAtNames(ctx, tx, &q); err != nil {
			return err
		}
		page, err = s.totalsOf(ctx, tx, found)
		return err
	})
	if err != nil {
		return EntityPage{}, fmt.Errorf("look for entities: %w", err)
	}
	return page, nil
}

// foundNames are names and the keys of their entities.
type foundNames struct {
	keys     [][16]byte
	entities []spend.Entity
	next     *spend.Entity
}

func (s *Store) lookAtNames(ctx context.Context, tx querier, q *EntityQuery) (found foundNames, err error) {
	most := NamesLookedAt
	if q.Contains == "" {
		most = min(most, q.Limit+1)
	}
	after := spend.Entity{Type: q.Type}
	if q.After != nil {
		after = *q.After
	}
	rows, err := tx.Query(ctx, s.statement("entity_names"), q.Type.String(), after.ID, after.TeamID, most)
	if err != nil {
		return found, err
	}

	var key [16]byte
	looked, last, want := 0, after, fold(q.Contains)
	_, err = pgx.ForEachRow(rows, []any{&key, &after.ID, &after.TeamID}, func() error {
		looked++
		if len(found.keys) == q.Limit { // there is more, wherever it is
			found.next = &last
			return nil
		}
		if last = after; strings.Contains(fold(after.ID), want) {
			found.keys = append(found.keys, key)
			found.entities = append(found.entities, after)
		}
		return nil
	})
	if looked == most && found.next == nil {
		found.next = &last
	}
	return found, err
}

func (s *Store) totalsOf(ctx context.Context, tx querier, found foundNames) (EntityPage, error) {
	page := EntityPage{Next: found.next}
	rows, err := tx.Query(ctx, s.statement("entity_totals"), found.keys)
	if err != nil {
		return page, err
	}
	page.Entities, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (e EntityTotal, err error) {
		var place int
		err = row.Scan(&place, &e.Spend, &e.Requests, &e.UpdatedAt)
		if err == nil {
			e.Entity = found.entities[place-1]
		}
		return e, err
	})
	return page, err
}

// fold makes texts that differ in case alone the same, by the simple folding of Unicode. What the
// database could do depends on how it was made.
func fold(text string) string {
	return strings.Map(func(c rune) rune {
		// The next character of the same letter; behind the last one it is the first.
		for {
			next := unicode.SimpleFold(c)
			if next <= c {
				return next
			}
			c = next
		}
	}, text)
}
