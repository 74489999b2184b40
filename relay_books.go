package spendflush

import (
	"fmt"

	"github.com/spendflush/spendflush/spend"
)

// queue returns the queue of the books that the relay works for.
func (r *relay) queue() spend.Queue {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.books.queue
}

// followBooks has the relay work for the books that the database has, as far as that is known. It
// says whether it is. It doesn't ask Postgres.
func (r *relay) followBooks() bool {
	view := r.p.books.current()
	r.mu.Lock()
	same := view.id == r.books.id
	r.mu.Unlock()
	if same {
		return !view.id.IsZero()
	}

	r.p.sealing.Lock() // what is sealed just now gets the id that it began with
	defer r.p.sealing.Unlock()
	view = r.p.books.current() // another task may have followed a later one
	r.mu.Lock()
	before := r.books.id
	if view.id == before {
		r.mu.Unlock()
		return true
	}

	left := false // something may be with the books before
	for _, b := range r.outbox.batches {
		left = left || b.tried
	}
	left = !before.IsZero() && (left || r.outbox.confirmed > 0 || len(r.outbox.retained) > 0)
	r.books, r.asideKept = view, nil // it stays in quarantine with the books before
	for _, b := range r.outbox.batches {
		if !b.tried {
			b.Batch = b.ForBooks(view.id, &r.p.cfg.BatchKeys)
			b.journaled = b.journaled && before.IsZero() // a copy that names no books will do
		}
	}

	report := func() {}
	if left { // before anything is pushed for the books of now
		report = r.renewIdentity(spend.Mark{}, fmt.Errorf("%w: Postgres has other books now, %s, and its instance worked for %s before", spend.ErrOtherBooks, view.id, before))
	}
	r.mu.Unlock()
	report()
	return true
}
