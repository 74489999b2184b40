package pgstore

import (
	"context"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush/spend"
)

// aside is what the rows count that are set aside in quarantine. It holds a sum for each entity
// that has such rows.
type aside struct {
	sums  map[asideOf]*[fingerprintWeights]big.Int
	days  map[int32]*fingerprint // of rollup rows, by day from 2000-01-01
	wrong faults                 // entries that aren't what their key says
}

// asideOf is an entity on one side of the comparison of totals with rollups.
type asideOf struct {
	total  bool // of totals that are set aside; else of rollup rows
	entity spend.Entity
}

// setAside reads what lies in quarantine.
func (a *audit) setAside(ctx context.Context, tx querier) error {
	a.aside = aside{sums: map[asideOf]*[fingerprintWeights]big.Int{}, days: map[int32]*fingerprint{}}
	rows, err := tx.Query(ctx, a.store.statement("audit_aside"))
	if err != nil {
		return err
	}
	var r asideRow
	into := append([]any{&r.id, &r.book, &r.key, &r.names, &r.day, &r.hour, &r.spend}, countsOf(&r.counters)...)
	_, err = pgx.ForEachRow(rows, into, func() error {
		a.aside.add(&r)
		return nil
	})
	return err
}

type asideRow struct {
	id       int64
	book     string
	key      [16]byte
	names    string
	day      int32 // from 2000-01-01
	hour     int16
	spend    string
	counters spend.Counters
}

func (s *aside) add(r *asideRow) {
	noAmount := (*anyAmount)(&r.counters.Spend).Scan(r.spend)
	counters := fingerprintCounters(&r.counters)
	if r.book == rollupBook {
		if s.days[r.day] == nil {
			s.days[r.day] = new(fingerprint)
		}
		s.days[r.day].addRow(r.key, r.hour, &counters)
	}
	key, list, err := asideNames(r.book, r.names)
	// JSON has no room for bytes that aren't UTF-8: such names can't be checked.
	damaged := strings.ContainsRune(r.names, '\uFFFD') || strings.Contains(r.names, `\ufffd`)
	if err != nil || noAmount != nil || key != r.key && !damaged {
		s.wrong.note("entry %d of the quarantine", r.id)
	}
	for _, e := range list {
		// As parameters; what is damaged is so on both sides alike.
		e.ID, e.TeamID = plainText(e.ID), plainText(e.TeamID)
		of := asideOf{r.book != rollupBook, e}
		if s.sums[of] == nil {
			s.sums[of] = new([fingerprintWeights]big.Int)
		}
		for i := range counters {
			s.sums[of][i].Add(&s.sums[of][i], counters[i].signed())
		}
	}
}

// asideNames reads the names of a row in quarantine: the key that they have, and the entities that
// the row counts on.
func asideNames(book, names string) (key spend.Key, list []spend.Entity, err error) {
	if book == rollupBook {
		var series spend.Series
		err = json.Unmarshal([]byte(names), &series)
		return series.Key(), entitiesOf(&series), err
	}
	var e spend.Entity
	err = json.Unmarshal([]byte(names), &e)
	return e.Key(), []spend.Entity{e}, err
}

// entitiesOf returns whom a series counts on, as the view series_entity does.
func entitiesOf(s *spend.Series) (list []spend.Entity) {
	for _, e := range []spend.Entity{
		{Type: spend.APIKey, ID: s.APIKey}, {Type: spend.User, ID: s.UserID}, {Type: spend.EndUser, ID: s.EndUserID},
		{Type: spend.Team, ID: s.TeamID}, {Type: spend.Organization, ID: s.OrganizationID},
		{Type: spend.Agent, ID: s.AgentID},
	} {
		if e.ID != "" {
			list = append(list, e)
		}
	}
	if s.TeamID != "" && s.UserID != "" {
		list = append(list, spend.Entity{Type: spend.TeamMember, ID: s.UserID, TeamID: s.TeamID})
	}
	for _, tag := range s.Tags {
		list = append(list, spend.Entity{Type: spend.Tag, ID: tag})
	}
	return list
}

// columns returns the sums as the parameters of audit_entities.sql.
func (s *aside) columns() []any {
	n := len(s.sums)
	totals, kinds, ids, teams := make([]bool, 0, n), make([]string, 0, n), make([]string, 0, n), make([]string, 0, n)
	var counters [fingerprintWeights][]string
	for i := range counters {
		counters[i] = make([]string, 0, n)
	}
	for of, sum := range s.sums {
		totals, kinds = append(totals, of.total), append(kinds, of.entity.Type.String())
		ids, teams = append(ids, of.entity.ID), append(teams, of.entity.TeamID)
		for i := range sum {
			text := sum[i].String()
			if i == 0 {
				text += fmt.Sprintf("e-%d", spend.AmountScale)
			}
			counters[i] = append(counters[i], text)
		}
	}
	columns := []any{totals, kinds, ids, teams}
	for _, c := range counters {
		columns = append(columns, c)
	}
	return columns
}
