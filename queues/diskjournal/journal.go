package diskjournal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/spendflush/spendflush/spend"
)

// journalSegmentBytes is the size from which on a file gets no more batches.
const journalSegmentBytes = 16 << 20

// Journal is a spend.Journal in a directory of files. One process has it at a time. Its methods may
// be called concurrently; see the package comment for what is in the directory and what happens on
// each fault.
type Journal struct {
	dir    string
	files  journalFiles
	limit  int64 // bytes from which on a segment gets no more batches
	lock   io.Closer
	damage []string

	// disk has room for one: who puts something in may change files, and what is marked so below,
	// until it takes it out again. A channel, because a call whose batches another call has written
	// must not go on waiting for its turn.
	disk   chan struct{}
	active *journalSegment // the segment that gets batches, nil if there is none; by disk
	next   uint64          // number of the segment that is made next; by disk

	mu       sync.Mutex        // guards what follows and the segments; nothing slow runs under it
	closed   bool              // changed by who has the disk too
	waiting  []*journalAppend  // calls of Append that aren't written yet
	segments []*journalSegment // by number
}

// journalAppend is a call of Append.
type journalAppend struct {
	batches []*spend.Batch
	done    chan error // gets the outcome; has room for it
}

// JournalStats says what is in a Journal.
type JournalStats struct {
	Files   int   // files of batches, without those kept because they are damaged
	Bytes   int64 // and their bytes, those of truncated batches included that share a file with others
	Batches int   // batches that weren't truncated, copies included
}

var _ spend.Journal = (*Journal)(nil)

// Open opens the journal in the directory, which is made, for this user alone, if there is none. It
// reads everything that earlier processes left, and makes the first file for its own batches, so
// that a directory in which that can't be done is noticed now. It blocks for the disk.
//
// The error wraps spend.ErrJournalInUse if a Journal is open on the directory, in this process or
// another one: an exclusive lock is held until Close or the death of the process, whichever comes
// first. If it wraps os.ErrPermission this user lacks a right in the directory, or another account
// could have made or changed what is in it: the directory and its files must belong to this user or
// root, be writable by their owner alone, and be no symbolic links. errors.ErrUnsupported means
// that this system has no such locks.
func Open(dir string) (*Journal, error) {
	dir, err := filepath.Abs(dir) // errors and reports name it, wherever they are read
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	lock, err := enterJournal(dir)
	if err != nil {
		return nil, explainJournal(dir, err)
	}
	j, err := openJournal(dir, lock, osFiles{}, journalSegmentBytes)
	if err != nil {
		return nil, explainJournal(dir, errors.Join(err, lock.Close()))
	}
	return j, nil
}

// openJournal opens the journal in a directory that is locked already. The lock is the Journal's
// unless there is an error.
func openJournal(dir string, lock io.Closer, files journalFiles, limit int64) (*Journal, error) {
	j := &Journal{dir: dir, lock: lock, files: files, limit: limit, disk: make(chan struct{}, 1), next: 1}
	if err := j.recall(); err != nil {
		return nil, err
	}
	if err := j.sweep(); err != nil {
		return nil, err
	}
	if err := j.begin(); err != nil {
		return nil, err
	}
	return j, nil
}

// Append adds batches, in this order, and returns once they are on stable storage. It blocks for
// the disk: for one fsync, and for one more call of Append, whose batches were being written when
// this one came. Batches of calls that wait at the same time share an fsync. Batches must be
// appended before they are truncated: Truncate doesn't cover what is appended after it.
//
// An error names the operation and the file; it wraps what the system said (such as
// syscall.ENOSPC), or os.ErrClosed after Close. None of the batches counts as appended then, though
// some may be in the file and come back from the Left of a later process. Earlier batches are as
// safe as before, and Append may be called again, with the same batches, as soon as the cause is
// gone. The batches aren't changed, and not kept after the call.
func (j *Journal) Append(batches []*spend.Batch) error {
	if len(batches) == 0 {
		return nil
	}
	call := &journalAppend{batches, make(chan error, 1)}
	j.mu.Lock()
	j.waiting = append(j.waiting, call)
	j.mu.Unlock()
	select {
	case err := <-call.done:
		return err
	case j.disk <- struct{}{}:
	}
	j.mu.Lock()
	calls := j.waiting
	j.waiting = nil
	j.mu.Unlock()
	j.write(calls)
	<-j.disk
	return <-call.done
}

// Truncate says that Postgres has, for good, the batches of the producer in the shard up to and
// including the sequence mark. It may name any shard, producer and sequence, and blocks for the
// disk only when a file is no longer needed by it. An error, which names the operation and the
// file, says that such a file is still there; the batches are truncated nonetheless, for this
// process, and the next call tries again. The error wraps os.ErrClosed after Close.
//
// A process that was put back to an earlier state while its journal wasn't has two chains of
// batches under one producer. Left returns both of what earlier processes left; Truncate goes by
// sequences alone, and covers both.
//
// That something was truncated isn't itself kept: a file is there, whole, as long as one batch in
// it is needed, and after a crash all of its batches are left again.
func (j *Journal) Truncate(shard int, producer spend.ProducerID, mark uint64) error {
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return j.errClosed()
	}
	spare := false
	for _, s := range j.segments {
		s.truncate(stream{shard, producer}, mark)
		spare = spare || s.spare()
	}
	j.mu.Unlock()
	if !spare {
		return nil
	}
	j.disk <- struct{}{}
	defer func() { <-j.disk }()
	if j.closed {
		return j.errClosed()
	}
	return j.sweep()
}

// Recovered returns the batches that earlier processes left when the journal was opened, and that
// weren't truncated since, each producer's in the order in which they were appended, and none
// twice. They stay in the journal, and are returned again, until they are truncated.
//
// They may include batches that Postgres has already, since forgetting isn't kept, and whose Append
// failed. They may also include batches of a newer format (spend.ErrNewerBatch): their headers can
// be used, and they can be pushed, but only a newer program reads their rows.
//
// Left reads the files anew, and blocks for that; Append and Truncate wait meanwhile. An error
// names the file. The result is the caller's and holds all the bytes in memory.
func (j *Journal) Recovered() ([]*spend.Batch, error) {
	j.disk <- struct{}{}
	defer func() { <-j.disk }()
	if j.closed {
		return nil, j.errClosed()
	}
	j.mu.Lock()
	segments := slices.Clone(j.segments)
	j.mu.Unlock()
	type identity struct {
		stream
		sequence uint64
		digest   spend.Digest // of a process that was put back there may be two chains
	}
	seen := map[identity]bool{}
	var left []*spend.Batch
	for _, s := range segments {
		if !s.left {
			continue
		}
		_, _, err := j.scan(s, func(b *spend.Batch) {
			id := identity{streamOf(b), b.Sequence, b.Digest()}
			j.mu.Lock()
			defer j.mu.Unlock()
			if !seen[id] && s.holds(id.stream, id.sequence) {
				seen[id] = true
				left = append(left, b)
			}
		})
		if err != nil {
			return nil, fmt.Errorf("journal: what is left: %w", err)
		}
	}
	return left, nil
}

// Damage returns a line for people about each range of bytes that Open could not read as batches:
// the file, the place in it, how many bytes they are, and what becomes of the file. It is the same
// at each call.
func (j *Journal) Damage() []string { return slices.Clone(j.damage) }

// Stats returns what is in the journal. It never blocks for the disk.
func (j *Journal) Stats() JournalStats {
	j.mu.Lock()
	defer j.mu.Unlock()
	var stats JournalStats
	for _, s := range j.segments {
		stats.Files++
		stats.Bytes += s.size
		for _, sequences := range s.held {
			stats.Batches += len(sequences)
		}
	}
	return stats
}

// Close ends the use of the journal and gives the directory free. It waits for the call that is
// using the disk; later ones, and Appends that wait, return an error that wraps os.ErrClosed. Files
// without a batch that is needed are deleted: of a journal whose batches are all forgotten only the
// lock file is left. An error says that a file could not be deleted, or the lock not be given back;
// the journal is closed nonetheless. Closing again does nothing.
func (j *Journal) Close() error {
	j.disk <- struct{}{}
	defer func() { <-j.disk }()
	if j.closed {
		return nil
	}
	j.mu.Lock()
	j.closed = true
	j.mu.Unlock()
	j.retire()
	return errors.Join(j.sweep(), j.lock.Close())
}

func (j *Journal) errClosed() error { return fmt.Errorf("journal %s: %w", j.dir, os.ErrClosed) }

func (j *Journal) path(s *journalSegment) string { return filepath.Join(j.dir, s.name()) }

// explainJournal adds to an error of opening what a directory needs.
func explainJournal(dir string, err error) error {
	if errors.Is(err, spend.ErrJournalInUse) {
		return fmt.Errorf("journal %s: %w: each process needs a directory of its own", dir, err)
	}
	return fmt.Errorf("journal %s: %w (it needs a directory in which user id %d may create, read, write and delete files)",
		dir, err, os.Getuid())
}
