package spendflush

import (
	"fmt"

	"github.com/spendflush/spendflush/spend"
)

// queue returns the queue of the books that the lane works for.
func (l *lane) queue() spend.Queue {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.books.queue
}

// followBooks has the lane work for the books that the database has, as far as that is known. It says whether it is. It
// doesn't ask Postgres.
func (l *lane) followBooks() bool {
	view := l.p.books.current()
	l.mu.Lock()
	same := view.id == l.books.id
	l.mu.Unlock()
	if same {
		return !view.id.IsZero()
	}

	l.p.sealing.Lock() // what is sealed just now gets the id that it began with
	defer l.p.sealing.Unlock()
	view = l.p.books.current() // another task may have followed a later one
	l.mu.Lock()
	before := l.books.id
	if view.id == before {
		l.mu.Unlock()
		return true
	}
	left := false // something may be with the books before
	for _, b := range l.outbox.batches {
		left = left || b.tried
	}
	left = !before.IsZero() && (left || l.outbox.confirmed > 0 || len(l.outbox.retained) > 0)
	l.books = view
	for _, b := range l.outbox.batches {
		if !b.tried {
			b.Batch = b.ForBooks(view.id, &l.p.cfg.BatchKeys)
			b.journaled = b.journaled && before.IsZero() // a copy that names no books will do
		}
	}
	tell := func() {}
	if left { // before anything is pushed for the books of now
		tell = l.renewIdentity(spend.Mark{}, fmt.Errorf("%w: Postgres has other books now, %s, and its instance worked for %s before", spend.ErrOtherBooks, view.id, before))
	}
	l.mu.Unlock()
	tell()
	return true
}
