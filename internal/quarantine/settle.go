package quarantine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/pgstore"
)

// Result is what became of an entry.
type Result string

// The results. Those that end in before were reached by an earlier call, or by another caller's.
const (
	Applied       Result = "applied"
	AppliedBefore Result = "applied_before"
	NotApplied    Result = "not_applied"
	Dropped       Result = "dropped"
	DroppedBefore Result = "dropped_before"
	NotDropped    Result = "not_dropped"
)

// Outcome is what became of an entry that was to be applied or dropped.
type Outcome struct {
	ID     int64  `json:"id"`
	Result Result `json:"result"`
	Detail string `json:"detail"` // one line for people: what it is, or why not and what to do

	State     string    `json:"state,omitempty"`     // of the entry now: open, applied or dropped; "" if there is none of this id
	SettledAt time.Time `json:"settled_at,omitzero"` // when it was applied or dropped before
	SettledBy string    `json:"settled_by,omitempty"`

	// Early: it is a batch whose turn it isn't, because an earlier one of its producer isn't in the
	// books.
	Early bool `json:"-"`
}

// Done says whether the entry is now as it was wanted to be.
func (o *Outcome) Done() bool { return o.Result != NotApplied && o.Result != NotDropped }

// Missing is the outcome where there is no entry of this id.
func Missing(id int64, wanted Result) Outcome {
	return Outcome{ID: id, Result: wanted, Detail: fmt.Sprintf(
		`quarantine has no entry %d; "spendflush quarantine list --all" shows those that it has`, id)}
}

// Apply tries once more to book an entry, in a transaction that also marks it as applied: however
// often and by however many that is done, it counts once. The error is about the database, not the
// entry; then it isn't known whether the entry was applied, and the same call again is safe. by,
// who does it, is kept with the entry.
func Apply(ctx context.Context, store Store, id int64, by string) (Outcome, error) {
	const tries = 3
	for try := 1; ; try++ {
		q, err := store.QuarantinedEntry(ctx, id)
		if errors.Is(err, pgstore.ErrNotQuarantined) {
			return Missing(id, NotApplied), nil
		}
		if err == nil {
			err = store.ApplyQuarantined(ctx, id, by)
		}
		switch {
		case err == nil:
			return Outcome{ID: id, Result: Applied, Detail: Describe(&q), State: "applied"}, nil
		case errors.Is(err, pgstore.ErrNotQuarantined):
			return settled(ctx, store, id, NotApplied)
		case errors.Is(err, spend.ErrFenced) && try < tries:
			continue // the producer's mark has moved meanwhile
		case errors.Is(err, spend.ErrApplied) || errors.Is(err, spend.ErrGap):
			if q.Sequence == 0 { // what its header says wasn't believed when it was set aside
				return Outcome{ID: id, Result: NotApplied, Detail: err.Error(), State: "open", Early: errors.Is(err, spend.ErrGap)}, nil
			}
			if q.Unclaimed && errors.Is(err, spend.ErrApplied) {
				return Outcome{ID: id, Result: NotApplied, Detail: booked(id), State: "open"}, nil
			}
			at, failed := standingOf(ctx, store, &q)
			return Outcome{ID: id, Result: NotApplied, Detail: turn(&q, at), State: "open", Early: errors.Is(err, spend.ErrGap)}, failed
		case errors.Is(err, pgstore.ErrByHand):
			detail := fmt.Sprintf(`%v; drop this copy with "spendflush quarantine drop %d"`, errors.Unwrap(err), id)
			return Outcome{ID: id, Result: NotApplied, Detail: detail, State: "open"}, nil
		case errors.Is(err, pgstore.ErrRefused) || errors.Is(err, spend.ErrFenced):
			detail := fmt.Sprintf("%v; %s", errors.Unwrap(err), mend(&q, err)) // without the id once more
			return Outcome{ID: id, Result: NotApplied, Detail: detail, State: "open"}, nil
		default:
			return Outcome{}, err
		}
	}
}

// mend says what to do about an entry that was refused.
func mend(q *pgstore.Quarantined, err error) string {
	if errors.Is(err, spend.ErrCorruptBatch) {
		return damaged(q.ID)
	}
	if errors.Is(err, spend.ErrNotSigned) {
		return notSigned(q.ID)
	}
	return fmt.Sprintf(`mend that and apply it again, or drop it with "spendflush quarantine drop %d"`, q.ID)
}

// Drop gives an entry up: it stays in the table, but can't be applied any more. The error is about
// the database. by, who does it, is kept with the entry.
func Drop(ctx context.Context, store Store, id int64, by string) (Outcome, error) {
	q, err := store.QuarantinedEntry(ctx, id)
	if errors.Is(err, pgstore.ErrNotQuarantined) {
		return Missing(id, NotDropped), nil
	}
	if err == nil {
		err = store.DropQuarantined(ctx, id, by)
	}
	switch {
	case err == nil:
		return Outcome{ID: id, Result: Dropped, Detail: Describe(&q), State: "dropped"}, nil
	case errors.Is(err, pgstore.ErrNotQuarantined):
		return settled(ctx, store, id, NotDropped)
	default:
		return Outcome{}, err
	}
}

// settled says what was done with an entry already. If that is something else than wanted, the
// result is failed.
func settled(ctx context.Context, store Store, id int64, failed Result) (Outcome, error) {
	q, err := store.QuarantinedEntry(ctx, id)
	if err != nil {
		return Outcome{}, err
	}
	at := q.SettledAt.UTC()
	o := Outcome{ID: id, Result: failed, State: q.State, SettledAt: at, SettledBy: q.SettledBy,
		Detail: fmt.Sprintf("it was %s at %s%s", q.State, at.Format(time.RFC3339), byWhom(&q))}
	switch {
	case failed == NotApplied && q.State == "applied":
		o.Result = AppliedBefore
	case failed == NotDropped && q.State == "dropped":
		o.Result = DroppedBefore
	}
	return o, nil
}

// byWhom says who settled an entry, where that is known.
func byWhom(q *pgstore.Quarantined) string {
	if q.SettledBy == "" {
		return ""
	}
	return " by " + Printable(q.SettledBy)
}
