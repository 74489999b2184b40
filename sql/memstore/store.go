// Package memstore keeps the books in the memory of a process: for the tests of a service that
// embeds the library, and for trying it out. Nothing outlives the process. With a queue of package
// memqueue and a locker of package memlock a Pipeline needs no server. Package storetest says what
// a store must do.
package memstore

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// Options are what can be set of a Store. The zero value of a field stands for its default.
type Options struct {
	// Books is which books the store has. Default: new ones, whose id is random.
	Books spend.BooksID

	// Now is the store's clock. It says when a mark was moved, and bounds what TouchMarks prunes.
	// Default: time.Now. It is called while the store is locked, so it must not call the store.
	Now func() time.Time
}

// Store is books in the memory of this process. It implements spend.Store: it decides by the claims
// which batches count, as Postgres does, and refuses a flush that isn't as spend.Flush says with
// ErrBadFlush. It never blocks. All methods are safe for concurrent use.
type Store struct {
	now func() time.Time

	mu    sync.Mutex // guards what follows
	state Snapshot
	sum   spend.Counters // of all rollup rows
	aside map[string]int // the place of an entry's bytes in state.Quarantine
}

var (
	_ spend.Store     = (*Store)(nil)
	_ spend.FactStore = (*Store)(nil)
)

// New returns a store with empty books.
func New(o Options) *Store {
	if o.Books.IsZero() {
		rand.Read(o.Books[:])
		o.Books[6], o.Books[8] = o.Books[6]&0x0f|0x40, o.Books[8]&0x3f|0x80 // as a UUID of version 4
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Store{now: o.Now}
	s.Restore(Snapshot{Books: o.Books})
	return s
}

// Books returns which books the store has; see spend.Store. The error is ctx's.
func (s *Store) Books(ctx context.Context) (spend.BooksID, error) {
	if err := ctx.Err(); err != nil {
		return spend.BooksID{}, fmt.Errorf("ask for the books: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.Books, nil
}

// Marks returns the marks of these producers in the shard; see spend.Store. The error is ctx's.
func (s *Store) Marks(ctx context.Context, shard int, producers []spend.ProducerID) (spend.Marks, error) {
	if err := ctx.Err(); err != nil {
		return spend.Marks{}, fmt.Errorf("read marks of shard %d: %w", shard, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	found := spend.Marks{
		Books: s.state.Books, Of: map[spend.ProducerID]spend.Mark{}, Horizon: s.state.Horizons[shard], Changes: s.state.Changes[shard],
	}
	for _, id := range producers {
		if p, known := s.state.Producers[ProducerKey{shard, id}]; known {
			found.Of[id] = copyOf(p.Mark)
		}
	}
	return found, nil
}

// copyOf returns a mark that shares nothing with this one.
func copyOf(m spend.Mark) spend.Mark {
	m.Recent, m.Lost = slices.Clone(m.Recent), slices.Clone(m.Lost)
	m.Quarantined, m.ByHand = slices.Clone(m.Quarantined), slices.Clone(m.ByHand)
	return m
}

// Quarantine keeps entries that can't be applied; see spend.Store. There is room for any number,
// Bounded ones too. The error is ctx's.
func (s *Store) Quarantine(ctx context.Context, bad []spend.BadBatch) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("quarantine %d entries: %w", len(bad), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, b := range bad {
		s.setAside(b)
		if i == 0 || b.Shard != bad[i-1].Shard {
			s.state.Changes[b.Shard]++
		}
		s.noteQuarantined(b)
	}
	return nil
}

// InQuarantine says which entries are kept; see spend.Store. The error is ctx's.
func (s *Store) InQuarantine(ctx context.Context, shard int, sums [][sha256.Size]byte) ([]bool, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("look for %d entries in quarantine: %w", len(sums), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := map[[sha256.Size]byte]bool{}
	for _, b := range s.state.Quarantine {
		if b.Shard == shard {
			kept[sha256.Sum256(b.Bytes)] = true
		}
	}
	found := make([]bool, len(sums))
	for i, sum := range sums {
		found[i] = kept[sum]
	}
	return found, nil
}

// setAside keeps an entry once. The caller must hold the lock.
func (s *Store) setAside(b spend.BadBatch) {
	if at, there := s.aside[string(b.Bytes)]; there {
		b.Bytes = s.state.Quarantine[at].Bytes
		s.state.Quarantine[at] = b
		return
	}
	b.Bytes = slices.Clone(b.Bytes)
	s.aside[string(b.Bytes)] = len(s.state.Quarantine)
	s.state.Quarantine = append(s.state.Quarantine, b)
}

// noteQuarantined notes in its producer's mark that a batch which is missing is in quarantine. The
// caller must hold the lock.
func (s *Store) noteQuarantined(b spend.BadBatch) {
	if b.Unclaimed || b.Foreign {
		return
	}
	parsed, err := spend.ParseBatch(b.Bytes)
	if err != nil {
		return
	}
	key := ProducerKey{b.Shard, parsed.Producer}
	if p, known := s.state.Producers[key]; known && p.Mark.Lacks(parsed.Sequence) {
		p.Mark.Quarantined = withSequence(p.Mark.Quarantined, parsed.Sequence)
		s.state.Producers[key] = p
	}
}

// TouchMarks keeps the marks of living producers and prunes those of others; see spend.Store. The
// error is ctx's.
func (s *Store) TouchMarks(ctx context.Context, living []spend.ProducerID, now time.Time, idle time.Duration) (pruned int64, err error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("touch marks: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	own := s.now()
	apart := now.Sub(own).Abs()
	if own.Before(now) {
		now = own
	}
	if apart <= time.Hour {
		pruned = s.prune(living, now.Add(-idle))
	}

	old := now.Add(-idle / 4) // nothing younger needs to be touched
	for shard, id := range living {
		key := ProducerKey{shard, id}
		p, known := s.state.Producers[key]
		if !id.Born().Before(old) || !known && id.Born().Before(s.state.Horizons[shard]) {
			continue
		}
		if !known || p.Seen.Before(old) {
			p.saw(now)
			s.state.Producers[key] = p
		}
	}
	return pruned, nil
}

// prune prunes the marks of producers that were born before the time and not seen since. The caller
// must hold the lock.
func (s *Store) prune(living []spend.ProducerID, before time.Time) (pruned int64) {
	for key, p := range s.state.Producers {
		if slices.Contains(living, key.ID) || !p.Seen.Before(before) || !key.ID.Born().Before(before) {
			continue
		}
		s.state.Pruned[key] = p
		delete(s.state.Producers, key)
		pruned++
		if born := key.ID.Born().Add(time.Millisecond); s.state.Horizons[key.Shard].Before(born) {
			s.state.Horizons[key.Shard] = born
		}
	}
	return pruned
}

// saw notes that the mark was moved or touched. A clock that was put back doesn't make it look
// older.
func (p *Producer) saw(now time.Time) {
	if p.Seen.Before(now) {
		p.Seen = now
	}
}
