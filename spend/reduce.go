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
	f.Rollups, err = reduceRows("rollup row", f.Rollups, func(r *RollupRow) *Counters { return &r.Counters }, len(d.rows),
		func(r *RollupRow) (Counters, bool) {
			taken, there := d.rows[rollupPlace{r.Hour, r.Key}]
			return taken.counters, there
		})
	if err != nil {
		return err
	}
	f.Totals, err = reduceRows("total", f.Totals, func(r *TotalRow) *Counters { return &r.Counters }, len(totals),
		func(r *TotalRow) (Counters, bool) {
			taken, there := totals[r.Key]
			return taken, there
		})
	if err != nil {
		return err
	}
	if err := d.reduceBatches(&f); err != nil {
		return err
	}
	d.Flush = &f
	return nil
}

// reduceRows returns the rows that are left, given what is taken out of some of them, all of which
// must be there. A row that nothing is left of would be written for nothing.
func reduceRows[T any](what string, rows []T, counters func(*T) *Counters, out int, takenOf func(*T) (Counters, bool)) ([]T, error) {
	left, met := make([]T, 0, len(rows)), 0
	for i := range rows {
		left = append(left, rows[i])
		row := &left[len(left)-1]
		taken, there := takenOf(row)
		if !there {
			continue
		}

		met++
		rest := counters(row)
		rest.sub(&taken)
		if !rest.isSum() {
			return nil, fmt.Errorf("%s %d is less than what is taken out of it", what, i)
		}
		if *rest == (Counters{}) {
			left = left[:len(left)-1]
		}
	}
	if met != out {
		return nil, fmt.Errorf("%d of %d %ss with pieces are there", met, out, what)
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
			b := &f.Found[i]
			s.takeOut(&b.Updates, &b.Amount, &b.Duplicates, &b.Conflicts)
		} else if i := slices.IndexFunc(f.Claims, claims); i >= 0 {
			c := &f.Claims[i]
			s.takeOut(&c.Updates, &c.Amount, &c.Duplicates, &c.Conflicts)
		} else if len(f.Claims)+len(f.Found) > 0 {
			return fmt.Errorf("producer %s sequence %d has pieces, and isn't claimed", s.producer, s.sequence)
		}
	}
	return nil
}

// takeOut takes out of what is booked of a batch, and notes as what.
func (s *batchTaken) takeOut(updates *int64, amount *Amount, duplicates, conflicts *FactSum) {
	*updates -= s.duplicates.Updates + s.conflicts.Updates
	*amount = amount.Sub(s.duplicates.Amount).Sub(s.conflicts.Amount)
	*duplicates = duplicates.Plus(s.duplicates)
	*conflicts = conflicts.Plus(s.conflicts)
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
