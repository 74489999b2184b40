package pgstore

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush/spend"
)

// keys makes the keys of the dictionaries anew from their names. Entries never change, so that
// needs no snapshot in common with the rest.
func (a *audit) keys(ctx context.Context) error {
	wrong := a.aside.wrong
	entities, err := a.entityKeys(ctx, &wrong)
	if err != nil {
		return err
	}
	series, err := a.seriesKeys(ctx, &wrong)
	if err != nil {
		return err
	}
	detail := fmt.Sprintf("%d of %d entities and %d series differ", wrong.n, entities, series)
	if wrong.n > 0 {
		detail += ": " + strings.Join(wrong.first, ", ")
	}
	a.add(checkKeys, wrong.n == 0, "%s", detail)
	return nil
}

// faults counts what is wrong, and names the first ones.
type faults struct {
	n     int64
	first []string // at most maxDifferences
}

func (f *faults) note(format string, args ...any) {
	if f.n++; f.n <= maxDifferences {
		f.first = append(f.first, fmt.Sprintf(format, args...))
	}
}

func (a *audit) entityKeys(ctx context.Context, wrong *faults) (n int64, err error) {
	var key [16]byte
	var kind, id, team string
	err = a.each(ctx, "audit_entity_keys", []any{&key, &kind, &id, &team}, func() error {
		n++
		t, err := spend.ParseEntityType(kind)
		if err != nil || (spend.Entity{Type: t, ID: id, TeamID: team}).Key() != key {
			wrong.note("%s", strings.TrimSpace(fmt.Sprintf("%s %q %s", kind, id, team)))
		}
		return nil
	})
	return n, err
}

func (a *audit) seriesKeys(ctx context.Context, wrong *faults) (n int64, err error) {
	var key [16]byte
	var s spend.Series
	into := []any{
		&key, &s.APIKey, &s.UserID, &s.EndUserID, &s.TeamID, &s.OrganizationID, &s.AgentID, &s.Model, &s.ModelGroup,
		&s.CustomLLMProvider, &s.MCPNamespacedToolName, &s.Endpoint, &s.Tags,
	}
	err = a.each(ctx, "audit_series_keys", into, func() error {
		n++
		if s.Key() != key {
			wrong.note("series %s", spend.ProducerID(key)) // as Postgres writes it
		}
		return nil
	})
	return n, err
}

// each reads the rows of a statement one by one, in a snapshot of its own.
func (a *audit) each(ctx context.Context, name string, into []any, do func() error) error {
	return a.store.read(ctx, func(tx querier) error {
		rows, err := tx.Query(ctx, a.store.statement(name))
		if err != nil {
			return err
		}
		_, err = pgx.ForEachRow(rows, into, do)
		return err
	})
}
