package memstore

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spendflush/spendflush/spend"
)

// ErrBadFlush is wrapped by Store.Apply where a flush isn't as spend.Flush says: its rows are out
// of order, or its claims, rows and control sums don't agree. It is an error of the program that
// made the flush.
var ErrBadFlush = errors.New("the flush contradicts itself")

// check says how a flush breaks what the comment of spend.Flush promises.
func check(f *spend.Flush) error {
	updates, amount, err := checkClaims(f)
	if err != nil {
		return err
	}
	sums, err := checkRows(f)
	if err != nil {
		return err
	}
	if err := checkLost(f); err != nil {
		return err
	}
	if sums != f.Control || sums.Rollups.APIRequests() != updates || sums.Rollups.Spend != amount {
		return errors.New("rows, control sums and claims don't agree")
	}
	return nil
}

// checkClaims returns what the claims and the batches found add up to.
func checkClaims(f *spend.Flush) (updates int64, amount spend.Amount, err error) {
	if len(f.Claims)+len(f.Found) == 0 {
		return 0, amount, errors.New("it has neither a claim nor a batch found")
	}
	for i, c := range f.Claims {
		if i > 0 && f.Claims[i-1].Producer.Compare(c.Producer) >= 0 || c.First == 0 || c.Last < c.First {
			return 0, amount, fmt.Errorf("claim %d of %+v is out of order", i, f.Claims)
		}
		updates, amount = updates+c.Updates, amount.Add(c.Amount)
	}
	for i, b := range f.Found {
		if i > 0 {
			before := &f.Found[i-1]
			if order := before.Producer.Compare(b.Producer); order > 0 || order == 0 && before.Sequence >= b.Sequence {
				return 0, amount, fmt.Errorf("batch found %+v is out of order, or twice", b)
			}
		}
		updates, amount = updates+b.Updates, amount.Add(b.Amount)
	}
	return updates, amount, nil
}

// checkRows returns what the rows add up to.
func checkRows(f *spend.Flush) (sums spend.Control, err error) {
	types := spend.EntityTypes()
	for i := range f.Totals {
		if i > 0 && f.Totals[i-1].Key.Compare(f.Totals[i].Key) >= 0 {
			return sums, fmt.Errorf("total %d is out of order", i)
		}
		kind := f.Totals[i].Entity.Type
		if !slices.Contains(types, kind) {
			return sums, fmt.Errorf("total %d is of entity type %d; allowed are 1 to %d", i, kind, len(types))
		}
		sums.Of(kind).Add(&f.Totals[i].Counters)
	}
	for i := range f.Rollups {
		if i > 0 && f.Rollups[i-1].Compare(&f.Rollups[i]) >= 0 {
			return sums, fmt.Errorf("rollup row %d is out of order", i)
		}
		sums.Rollups.Add(&f.Rollups[i].Counters)
	}
	return sums, nil
}

func checkLost(f *spend.Flush) error {
	quarantined := 0
	for i, l := range f.Lost {
		if l.First < 1 || l.Last < l.First || l.Quarantined && l.First < l.Last {
			return fmt.Errorf("lost range %+v is none", l)
		}
		if l.Quarantined {
			quarantined++
		}
		claimed := func(c spend.Claim) bool { return c.Producer == l.Producer && c.First <= l.First && l.Last <= c.Last }
		found := func(b spend.FoundBatch) bool { // it was skipped before, and nothing of it is booked
			return b.Producer == l.Producer && b.Sequence == l.First && b.Updates == 0
		}
		if !slices.ContainsFunc(f.Claims, claimed) && !(l.Quarantined && slices.ContainsFunc(f.Found, found)) {
			return fmt.Errorf("lost range %+v is in no claim", l)
		}
		if i > 0 {
			before := &f.Lost[i-1]
			if order := before.Producer.Compare(l.Producer); order > 0 || order == 0 && before.Last >= l.First {
				return fmt.Errorf("lost range %+v is out of order, or twice", l)
			}
		}
	}
	if quarantined != len(f.Quarantine) {
		return fmt.Errorf("%d lost batches are quarantined, and %d are in quarantine", quarantined, len(f.Quarantine))
	}
	return nil
}
