package spend

import (
	"errors"
	"fmt"
	"slices"
)

// reduce takes what was decided out of a copy of the flush.
func (d *decider) reduce() error {
	f := *d.flush
	totals := map[Key]Counters{}
	for _, taken := range d.rows {
		f.Control.Rollups.sub(&taken.counters)
		series := taken.row.Series()
		series.EachEntity(func(e Entity) {
			f.Control.Of(e.Type).sub(&taken.counters)
			key := e.Key()
			sum := totals[key]
			sum.Add(&taken.counters)
			totals[key] = sum
		})
	}
	isSum := f.Control.Rollups.isSum()
	for i := range f.Control.Totals {
		isSum = isSum && f.Control.Totals[i].isSum()
	}
	if !isSum {
		return errors.New("the control sums are less than what is taken out of them")
	}

	var err error
	if f.Rollups, err = d.reduceRollups(); err != nil {
		return err
	}
	if f.Totals, err = reduceTotals(f.Totals, totals); err != nil {
		return err
	}
	if err := d.reduceBatches(&f); err != nil {
		return err
	}
	d.Flush = &f
	return nil
}

// reduceRollups returns the rollup rows that are left. A row that nothing is left of would be
// written for nothing.
func (d *decider) reduceRollups() ([]RollupRow, error) {
	left, met := make([]RollupRow, 0, len(d.flush.Rollups)), 0
	for i := range d.flush.Rollups {
		row := d.flush.Rollups[i]
		if taken, there := d.rows[rollupPlace{row.Hour, row.Key}]; there {
			met++
			row.Counters.sub(&taken.counters)
			if !row.Counters.isSum() {
				return nil, fmt.Errorf("rollup row %d is less than what is taken out of it", i)
			}
			if row.Counters == (Counters{}) {
				continue
			}
		}
		left = append(left, row)
	}
	if met != len(d.rows) {
		return nil, fmt.Errorf("%d of %d rollup rows with pieces are there", met, len(d.rows))
	}
	return left, nil
}

func reduceTotals(rows []TotalRow, out map[Key]Counters) ([]TotalRow, error) {
	left, met := make([]TotalRow, 0, len(rows)), 0
	for i := range rows {
		row := rows[i]
		if taken, there := out[row.Key]; there {
			met++
			row.Counters.sub(&taken)
			if !row.Counters.isSum() {
				return nil, fmt.Errorf("total %d is less than what is taken out of it", i)
			}
			if row.Counters == (Counters{}) {
				continue
			}
		}
		left = append(left, row)
	}
	if met != len(out) {
		return nil, fmt.Errorf("%d of %d totals with pieces are there", met, len(out))
	}
	return left, nil
}

// reduceBatches takes out of claims and batches found what isn't booked of them. A flush by hand
// has neither.
func (d *decider) reduceBatches(f *Flush) error {
	f.Claims, f.Found = slices.Clone(f.Claims), slices.Clone(f.Found)
	for _, s := range d.sums {
		isFound := func(b FoundBatch) bool { return b.Producer == s.producer && b.Sequence == s.sequence }
		claims := func(c Claim) bool {
			return c.Producer == s.producer && c.First <= s.sequence && s.sequence <= c.Last
		}
		if i := slices.IndexFunc(f.Found, isFound); i >= 0 {
			f.Found[i].takeOut(&s)
		} else if i := slices.IndexFunc(f.Claims, claims); i >= 0 {
			f.Claims[i].takeOut(&s)
		} else if len(f.Claims)+len(f.Found) > 0 {
			return fmt.Errorf("producer %s sequence %d has pieces, and isn't claimed", s.producer, s.sequence)
		}
	}
	return nil
}

func (c *Claim) takeOut(s *batchTaken) {
	c.Updates -= s.duplicates.Updates + s.conflicts.Updates
	c.Amount = c.Amount.Sub(s.duplicates.Amount).Sub(s.conflicts.Amount)
	c.Duplicates = c.Duplicates.Plus(s.duplicates)
	c.Conflicts = c.Conflicts.Plus(s.conflicts)
}

func (b *FoundBatch) takeOut(s *batchTaken) {
	b.Updates -= s.duplicates.Updates + s.conflicts.Updates
	b.Amount = b.Amount.Sub(s.duplicates.Amount).Sub(s.conflicts.Amount)
	b.Duplicates = b.Duplicates.Plus(s.duplicates)
	b.Conflicts = b.Conflicts.Plus(s.conflicts)
}

// sub takes d from c.
func (c *Counters) sub(d *Counters) {
	c.Spend = c.Spend.Sub(d.Spend)
	for i := range Counts {
		*c.Count(i) -= *d.Count(i)
	}
}

// Negative returns the counters that, added to c, leave nothing.
func (c Counters) Negative() (n Counters) {
	n.sub(&c)
	return n
}

// isSum says whether these can be the sums of updates: no number is negative, and without an update
// there is nothing.
func (c *Counters) isSum() bool {
	for i := range Counts {
		if *c.Count(i) < 0 {
			return false
		}
	}
	return c.APIRequests() > 0 || *c == Counters{}
}
