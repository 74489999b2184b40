package pgstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush/spend"
)

// auditedDay is one day of the rollups.
type auditedDay struct {
	rows    fingerprint // of the rollup rows that are there or set aside
	flushed fingerprint // of what flushes added
	before  bool        // it has rows from before fingerprints were kept, so the two can't be compared
	bad     bool        // it can't be right whatever the fingerprints are
}

// days compares the rollup rows with what flushes added to them, day by day. It holds one number a
// day.
func (a *audit) days(ctx context.Context, tx querier) error {
	days := map[int32]*auditedDay{}
	at := func(day int32) *auditedDay {
		if days[day] == nil {
			days[day] = new(auditedDay)
		}
		return days[day]
	}
	if err := a.readFingerprints(ctx, tx, at); err != nil {
		return err
	}
	if err := a.readRollups(ctx, tx, a.rows, at); err != nil {
		return err
	}
	for day, f := range a.aside.days {
		at(day).rows.add(*f)
	}
	for _, day := range a.held {
		delete(days, int32(day.Unix()/86400)-daysTo2000)
	}
	a.report.Checks = append(a.report.Checks, compareDays(days))
	return nil
}

func compareDays(days map[int32]*auditedDay) AuditCheck {
	var wrong []int32
	compared, before := 0, 0
	for day, d := range days {
		switch {
		case d.bad || !d.before && d.rows != d.flushed:
			wrong = append(wrong, day)
		case d.before:
			before++
		default:
			compared++
		}
	}
	slices.Sort(wrong)

	c := AuditCheck{Name: checkDays, OK: len(wrong) == 0}
	c.Detail = fmt.Sprintf("%d days have rows that flushes didn't make; %d days are as flushes made them", len(wrong), compared)
	if before > 0 {
		c.Detail += fmt.Sprintf("; %d days can't be compared, because they have rows from before fingerprints were kept", before)
	}
	for _, day := range wrong[:min(len(wrong), maxDifferences)] {
		c.Days = append(c.Days, time.Unix(int64(day+daysTo2000)*86400, 0).UTC().Format(time.DateOnly))
	}
	return c
}

func (a *audit) readFingerprints(ctx context.Context, tx querier, at func(day int32) *auditedDay) error {
	rows, err := tx.Query(ctx, a.store.statement("audit_days"))
	if err != nil {
		return err
	}
	var day int32
	var text string
	var before bool
	var old *bool
	_, err = pgx.ForEachRow(rows, []any{&day, &text, &before, &old}, func() error {
		d := at(day)
		n, ok := new(big.Int).SetString(text, 10)
		if ok && n.Sign() >= 0 && n.BitLen() <= 128 {
			d.flushed = fingerprintOf(n)
		} else {
			d.bad = true
		}
		// The mark of older rows on a day that can't have any would keep the day from being
		// compared.
		d.before = before
		d.bad = d.bad || before && (old == nil || !*old)
		return nil
	})
	return err
}

// fingerprintOf returns n, of at most 128 bits.
func fingerprintOf(n *big.Int) fingerprint {
	return fingerprint{new(big.Int).Rsh(n, 64).Uint64(), new(big.Int).And(n, new(big.Int).SetUint64(1<<64-1)).Uint64()}
}

var errRollupRow = errors.New("a rollup row can't be read")

// readRollups streams the rollup rows of days, nil: all. They are taken apart by hand: there may be
// hundreds of millions.
func (a *audit) readRollups(ctx context.Context, tx querier, of []time.Time, at func(day int32) *auditedDay) error {
	rows, err := tx.Query(ctx, a.store.statement("audit_rollups"), pgx.QueryResultFormats{binaryFormat}, of)
	if err != nil {
		return err
	}
	defer rows.Close()
	var last int32
	var d *auditedDay // of last
	for rows.Next() {
		row, ok := readRollup(rows.RawValues())
		if !ok {
			return errRollupRow
		}
		if d == nil || row.day != last {
			last, d = row.day, at(row.day)
		}
		d.rows.addRow(row.series, row.hour, &row.counters)
		d.bad = d.bad || !row.spendOK
	}
	return rows.Err()
}

type rollupRow struct {
	day      int32 // from 2000-01-01
	hour     int16
	series   spend.Key
	counters [fingerprintWeights]fingerprint
	spendOK  bool // the spend is a number: NaN is none
}

// readRollup reads a row of audit_rollups.sql in the binary format.
func readRollup(values [][]byte) (r rollupRow, ok bool) {
	const first = 3 // of the counters
	if len(values) != first+fingerprintWeights || len(values[0]) != 4 || len(values[1]) != 2 || len(values[2]) != len(r.series) {
		return r, false
	}
	r.day = int32(binary.BigEndian.Uint32(values[0]))
	r.hour = int16(binary.BigEndian.Uint16(values[1]))
	r.series = spend.Key(values[2])
	r.counters[0], r.spendOK = numericUnits(values[first])
	for i := 1; i < fingerprintWeights; i++ {
		if len(values[first+i]) != 8 {
			return r, false
		}
		r.counters[i] = integer(int64(binary.BigEndian.Uint64(values[first+i])))
	}
	return r, true
}
