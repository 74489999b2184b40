package pgstore

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush/spend"
)

const (
	// figuresPause is how long figures are left alone that were made and don't hold any more, so that a
	// day with late updates isn't summed up again and again.
	figuresPause = 10 * time.Minute
	// fewNames is how many names a dimension has on a day for it to have figures of hours, too. They are
	// for time zones in which that day is two.
	fewNames = 1000
)

// KeepFigures makes the figures of one day before today, by UTC, that lacks them, or whose rows have
// changed since they were made, the last such day first. It says whether there was one. Reports, and
// AuditChanges, read figures instead of rows where they hold; they say the same with them and without.
// Those of a day whose rows aren't what flushes have added to it never hold.
//
// It reads the rows of that day, which takes some microseconds each. While one makes figures,
// another one that is to has nothing to do; flushes and reports don't wait for it. Where a flush adds
// to the day meanwhile they don't hold.
func (s *Store) KeepFigures(ctx context.Context) (made bool, err error) {
	err = s.write(ctx, func(tx querier) error {
		for _, name := range []string{"figures_settings", "figures_hold"} {
			if _, err := tx.Exec(ctx, s.statement(name)); err != nil {
				return err
			}
		}
		var day time.Time
		var fingerprint string
		err := tx.QueryRow(ctx, s.statement("figures_next"), figuresPause).Scan(&day, &fingerprint)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		made = true
		return s.makeFigures(ctx, tx, day, fingerprint)
	})
	if sqlState(err) == codeLockTimeout {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("keep figures: %w", denied(err))
	}
	return made, nil
}

func (s *Store) makeFigures(ctx context.Context, tx querier, day time.Time, fingerprint string) error {
	sealed, err := s.isAsFlushed(ctx, tx, day, fingerprint)
	if err != nil {
		return err
	}
	if !sealed {
		fingerprint = neverHolds
	}
	for _, name := range []string{"figures_clear", "figures_make"} {
		if _, err := tx.Exec(ctx, s.statement(name), day); err != nil {
			return err
		}
	}
	var few []int16
	if err := tx.QueryRow(ctx, s.statement("figures_few"), day, fewNames).Scan(&few); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, s.statement("figures_make_hours"), day, few); err != nil {
		return err
	}
	// What a flush adds meanwhile has changed the fingerprint, so that they don't hold.
	_, err = tx.Exec(ctx, s.statement("figures_made"), day, fingerprint, few)
	return err
}

// neverHolds is no fingerprint.
const neverHolds = "-1"

// isAsFlushed says whether the rows of a day, and what is set aside of them, are what flushes have
// added to it. It can't be told of rows from before fingerprints were kept, and is taken for true.
func (s *Store) isAsFlushed(ctx context.Context, tx querier, day time.Time, fingerprint string) (bool, error) {
	a := audit{store: s, report: &AuditReport{}}
	if err := a.setAside(ctx, tx); err != nil {
		return false, err
	}
	of := auditedDay{}
	if err := a.readRollups(ctx, tx, []time.Time{day}, func(int32) *auditedDay { return &of }); err != nil {
		return false, err
	}
	if f := a.aside.days[int32(day.Unix()/86400)-daysTo2000]; f != nil {
		of.rows.add(*f)
	}
	var before bool
	if err := tx.QueryRow(ctx, s.statement("figures_before"), day).Scan(&before); err != nil || before {
		return before, err
	}
	n, ok := new(big.Int).SetString(fingerprint, 10)
	return ok && !of.bad && of.rows == fingerprintOf(n.Mod(n, new(big.Int).Lsh(big.NewInt(1), 128))), nil
}

// staleFigures has the figures of a day hold no more. It is for rows whose fingerprint was added
// before they are: those that were set aside.
func staleFigures(hour spend.Hour) []call {
	var e encoder
	day, _ := split(hour)
	e.date(day)
	return []call{{name: "figures_hold", rows: -1}, {name: "figures_clear", rows: -1, params: e.params()}}
}
