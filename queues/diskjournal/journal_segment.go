package diskjournal

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/spendflush/spendflush/spend"
)

const (
	journalSuffix        = ".batches"
	journalDamagedSuffix = ".damaged"
)

// journalSegment is a file of batches, one after the other. Its fields are guarded by the mu of its
// Journal but for file and broken, which belong to who has the disk. size is changed by who has
// both, so either is enough to read it.
type journalSegment struct {
	number  uint64
	left    bool // an earlier process made it
	damaged bool // something in it was unreadable: it is kept for people when it is no longer needed
	size    int64
	held    map[stream][]uint64 // sequences that are needed, sorted, a copy each time they were appended

	file   journalFile // nil if it gets no more batches
	broken bool        // it must not get any more
}

// stream is where the sequences of a producer count up.
type stream struct {
	shard    int
	producer spend.ProducerID
}

func streamOf(b *spend.Batch) stream { return stream{b.Shard, b.Producer} }

func journalName(number uint64) string { return fmt.Sprintf("%010d%s", number, journalSuffix) }

func (s *journalSegment) name() string { return journalName(s.number) }

// parseJournalName returns the number of a segment, and whether it is one that was kept because it
// is damaged. Names that journalName doesn't make aren't ours.
func parseJournalName(name string) (number uint64, damaged, ok bool) {
	base, damaged := strings.CutSuffix(name, journalDamagedSuffix)
	digits, _ := strings.CutSuffix(base, journalSuffix)
	number, err := strconv.ParseUint(digits, 10, 48)
	return number, damaged, err == nil && base == journalName(number)
}

// hold notes that the segment has, or is about to get, the batches.
func (s *journalSegment) hold(batches []*spend.Batch) {
	for _, b := range batches {
		of := streamOf(b)
		at, _ := slices.BinarySearch(s.held[of], b.Sequence)
		s.held[of] = slices.Insert(s.held[of], at, b.Sequence)
	}
}

// release takes back a hold: one copy of each batch, so that an earlier one is still held.
func (s *journalSegment) release(batches []*spend.Batch) {
	for _, b := range batches {
		of := streamOf(b)
		if at, ok := slices.BinarySearch(s.held[of], b.Sequence); ok {
			s.keep(of, slices.Delete(s.held[of], at, at+1))
		}
	}
}

func (s *journalSegment) truncate(of stream, mark uint64) {
	sequences := s.held[of]
	end, found := slices.BinarySearch(sequences, mark)
	for found && end < len(sequences) && sequences[end] == mark {
		end++
	}
	s.keep(of, slices.Delete(sequences, 0, end))
}

func (s *journalSegment) keep(of stream, sequences []uint64) {
	if len(sequences) == 0 {
		delete(s.held, of)
		return
	}
	s.held[of] = sequences
}

func (s *journalSegment) holds(of stream, sequence uint64) bool {
	_, ok := slices.BinarySearch(s.held[of], sequence)
	return ok
}

// spare reports whether the content of the segment may be deleted.
func (s *journalSegment) spare() bool { return len(s.held) == 0 && (s.file == nil || s.size > 0) }

// recall reads what earlier processes left.
func (j *Journal) recall() error {
	names, err := j.files.List(j.dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		number, damaged, ok := parseJournalName(name)
		if !ok {
			continue
		}
		// Numbers of damaged files aren't given again, so that no file is ever renamed to one that
		// is there.
		j.next = max(j.next, number+1)
		if damaged {
			continue
		}
		s := &journalSegment{number: number, left: true, held: map[stream][]uint64{}}
		size, bad, err := j.scan(s, func(b *spend.Batch) { s.hold([]*spend.Batch{b}) })
		if err != nil {
			return err
		}
		s.size = size
		for _, span := range bad {
			s.damaged = s.damaged || !span.torn
			j.damage = append(j.damage, span.describe(j.path(s)))
		}
		j.segments = append(j.segments, s)
	}
	slices.SortFunc(j.segments, func(a, b *journalSegment) int { return cmp.Compare(a.number, b.number) })
	return nil
}

// scan calls yield for each batch of a segment that an earlier process left. It returns the
// segment's size and the ranges that aren't batches.
func (j *Journal) scan(s *journalSegment, yield func(*spend.Batch)) (size int64, bad []journalSpan, err error) {
	content, err := j.files.Open(j.path(s))
	if err != nil {
		return 0, nil, err
	}
	bad, err = scanJournal(content, yield)
	if err := errors.Join(err, content.Close()); err != nil {
		return 0, nil, fmt.Errorf("read %s: %w", j.path(s), err)
	}
	return content.Size(), bad, nil
}

// begin makes a new active segment. The caller must have the disk.
func (j *Journal) begin() error {
	s := &journalSegment{held: map[stream][]uint64{}}
	var file journalFile
	err := fs.ErrExist // something that isn't ours may have the name
	for errors.Is(err, fs.ErrExist) {
		s.number = j.next
		j.next++
		file, err = j.files.Create(j.path(s))
	}
	if err != nil {
		return err
	}
	// Without this the machine could die and forget the file, and whatever was written to it.
	if err := j.files.SyncDir(j.dir); err != nil {
		_ = file.Close()
		_ = j.files.Remove(j.path(s))
		return err
	}
	s.file = file
	j.mu.Lock()
	j.segments = append(j.segments, s)
	j.mu.Unlock()
	j.active = s
	return nil
}

// retire ends the writing to the active segment. The caller must have the disk.
func (j *Journal) retire() {
	if j.active == nil {
		return
	}
	_ = j.active.file.Close() // what counts was synced before
	j.mu.Lock()
	j.active.file = nil
	j.mu.Unlock()
	j.active = nil
}

// write appends the batches of the calls, syncs once, and tells each call what came of it. The
// caller must have the disk.
func (j *Journal) write(calls []*journalAppend) {
	if len(calls) == 0 {
		return // the one before has written the call for which the caller came
	}
	if err := j.ready(); err != nil {
		for _, call := range calls {
			call.done <- err
		}
		return
	}
	var written []*journalAppend
	for _, call := range calls {
		// One that doesn't fit fails alone: a smaller one may fit.
		if err := j.writeCall(call.batches); err != nil {
			call.done <- err
			continue
		}
		written = append(written, call)
	}
	if len(written) > 0 {
		j.sync(written)
	}
	if j.active.broken {
		j.retire()
	}
}

// sync makes what was written outlast the machine, and tells the calls that wrote it.
func (j *Journal) sync(written []*journalAppend) {
	err := j.active.file.Sync()
	if err != nil {
		// What the file has of them isn't known, and the next fsync could succeed without having
		// written it.
		j.active.broken = true
		j.mu.Lock()
		for _, call := range written {
			j.active.release(call.batches)
		}
		j.mu.Unlock()
	}
	for _, call := range written {
		call.done <- err
	}
}

// ready sees to it that there is an active segment to which batches may be written.
func (j *Journal) ready() error {
	if j.closed {
		return j.errClosed()
	}
	if j.active != nil && j.active.size >= j.limit {
		j.retire()
	}
	if j.active != nil {
		return nil
	}
	_ = j.sweep() // makes room, where a segment that was given up holds nothing; the next Truncate reports errors
	return j.begin()
}

// writeCall writes batches to the end of the active segment, or leaves it as it was.
func (j *Journal) writeCall(batches []*spend.Batch) error {
	s := j.active
	if s.broken {
		return fmt.Errorf("write %s: an earlier write could not be taken back", j.path(s))
	}
	// Held before they are there, so that one that is truncated meanwhile isn't held for ever.
	j.mu.Lock()
	s.hold(batches)
	j.mu.Unlock()
	end := s.size
	var err error
	for _, b := range batches {
		if _, err = s.file.WriteAt(b.Bytes(), end); err != nil {
			break
		}
		end += int64(len(b.Bytes()))
	}
	if err != nil {
		if failed := s.file.Truncate(s.size); failed != nil {
			s.broken = true
			err = errors.Join(err, failed)
		}
		j.mu.Lock()
		s.release(batches)
		j.mu.Unlock()
		return err
	}
	j.mu.Lock()
	s.size = end
	j.mu.Unlock()
	return nil
}

// sweep deletes the segments that aren't needed, and empties the active one if it is such: cheaper
// than a new file, and the next fsync of the file covers it. The caller must have the disk.
func (j *Journal) sweep() error {
	j.mu.Lock()
	var spare []*journalSegment
	for _, s := range j.segments {
		if s.spare() {
			spare = append(spare, s)
		}
	}
	j.mu.Unlock()
	var errs []error
	changed := false
	for _, s := range spare {
		if s == j.active {
			if err := s.file.Truncate(0); err == nil {
				j.mu.Lock()
				s.size = 0
				j.mu.Unlock()
				continue
			}
			j.retire()
		}
		if err := j.discard(s); err != nil {
			errs = append(errs, err)
			continue
		}
		changed = true
		j.mu.Lock()
		j.segments = slices.DeleteFunc(j.segments, func(other *journalSegment) bool { return other == s })
		j.mu.Unlock()
	}
	if changed {
		errs = append(errs, j.files.SyncDir(j.dir))
	}
	return errors.Join(errs...)
}

// discard deletes the file, or puts it aside for people if it is damaged.
func (j *Journal) discard(s *journalSegment) error {
	var err error
	if path := j.path(s); s.damaged {
		err = j.files.Rename(path, path+journalDamagedSuffix)
	} else {
		err = j.files.Remove(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil // another call was faster
	}
	return err
}
