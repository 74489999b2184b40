// Package reread reads what files have again and again, so that a program takes up what changes while it runs.
package reread

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"
)

// every is how often Follow looks. What is read counts once two looks have found the same, so that nothing is taken while it
// is being written.
const every = time.Second

// Source is what is read again. Its zero value has no use; make it with Open. One goroutine may use it, but for IsStale.
type Source[T comparable] struct {
	read  func() (T, error)
	take  func(T) error
	stale atomic.Bool

	taken T      // what counts, or can't be taken
	seen  T      // what the last look has found
	said  string // the error that was returned
}

// Open reads for the first time, and has take make of it what counts. Look calls take with what is new.
func Open[T comparable](read func() (T, error), take func(T) error) (*Source[T], error) {
	found, err := read()
	if err != nil {
		return nil, err
	}
	if err := take(found); err != nil {
		return nil, err
	}
	return &Source[T]{read: read, take: take, taken: found, seen: found}, nil
}

// IsStale says whether the last look found what can't be read or taken: what counts is that of before. It is safe for
// concurrent use.
func (s *Source[T]) IsStale() bool { return s.stale.Load() }

// Look reads once. taken: take was called with something new, and it counts. Of what can't be read or taken the error is
// returned once, and what was there before goes on counting.
func (s *Source[T]) Look() (taken bool, err error) {
	found, err := s.read()
	if err != nil {
		var none T
		s.taken, s.seen = none, none // whatever comes then is news
		return false, s.keep(err)
	}
	isSettled := found == s.seen
	s.seen = found
	if !isSettled || found == s.taken {
		return false, nil
	}
	s.taken = found
	if err := s.take(found); err != nil {
		return false, s.keep(err)
	}
	s.stale.Store(false)
	s.said = ""
	return true, nil
}

// keep notes that what counts is that of before. It returns the error if it is another than the last one.
func (s *Source[T]) keep(err error) error {
	s.stale.Store(true)
	if s.said == err.Error() {
		return nil
	}
	s.said = err.Error()
	return err
}

// Follow calls look every second, until ctx ends.
func Follow(ctx context.Context, look func()) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			look()
		}
	}
}

const maxFile = 1 << 20

// Text returns the text of a file of at most 1 MiB. Errors name the file, and nothing that is in it.
func Text(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return "", err
	}
	if len(text) > maxFile {
		return "", fmt.Errorf("%s has more than %d bytes", path, maxFile)
	}
	return string(text), nil
}
