package overview

import (
	"github.com/spendflush/spendflush/queues/redisqueue"
	"github.com/spendflush/spendflush/spend"
)

// of returns the sources with what of Redis belongs to these books; zero stands for what isn't
// known.
func (s Sources) of(id spend.BooksID) Sources {
	if id.IsZero() {
		return s
	}
	if q, ok := s.Queue.(spend.BooksQueue); ok {
		s.Queue = q.ForBooks(id)
	}
	if l, ok := s.Locker.(spend.BooksLocker); ok {
		s.Locker = l.ForBooks(id)
	}
	s.Heartbeats = heartbeatsOf(s.Heartbeats, id)
	if q, ok := s.Unused.(*redisqueue.Queue); ok {
		s.Unused = q.Of(id)
	}
	return s
}

func heartbeatsOf(r Heartbeats, id spend.BooksID) Heartbeats {
	if of, ok := r.(*redisqueue.Heartbeats); ok && !id.IsZero() {
		return of.ForBooks(id)
	}
	return r
}
