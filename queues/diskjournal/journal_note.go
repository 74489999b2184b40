package diskjournal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spendflush/spendflush/spend"
)

var _ spend.BooksNotes = (*Journal)(nil)

// The file of a journal that notes which books databases have, a line each: the place, a space, the
// id.
const (
	journalNoteName    = "books"
	journalNoteNewName = "books.new"
	maxNotes           = 100     // lines; beyond it the oldest go
	maxNoteBytes       = 1 << 20 // of the file
)

// NotedBooks returns what was noted for the place; see spend.BooksNotes.
func (j *Journal) NotedBooks(_ context.Context, place string) (spend.BooksID, error) {
	j.disk <- struct{}{}
	defer func() { <-j.disk }()
	lines, err := j.notes()
	if err != nil {
		return spend.BooksID{}, fmt.Errorf("read which books a database has: %w", err)
	}
	for _, line := range lines {
		if text, ok := strings.CutPrefix(line, place+" "); ok {
			return spend.ParseBooksID(text)
		}
	}
	return spend.BooksID{}, nil
}

// NoteBooks replaces what was noted for the place; see spend.BooksNotes. It returns once that is on
// stable storage.
func (j *Journal) NoteBooks(_ context.Context, place string, id spend.BooksID) error {
	j.disk <- struct{}{}
	defer func() { <-j.disk }()
	if err := j.note(place, id); err != nil {
		return fmt.Errorf("note which books a database has: %w", err)
	}
	return nil
}

func (j *Journal) note(place string, id spend.BooksID) error {
	j.mu.Lock()
	closed := j.closed
	j.mu.Unlock()
	if closed {
		return errors.New("the journal is closed")
	}
	lines, err := j.notes()
	if err != nil {
		return err
	}
	line := place + " " + id.String()
	if slices.Contains(lines, line) {
		return nil
	}
	lines = slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(l, place+" ") })
	lines = append(lines, line)
	lines = lines[max(0, len(lines)-maxNotes):]
	return j.replaceNote(strings.Join(lines, "\n") + "\n")
}

// notes returns the lines of the file, none if there is no file.
func (j *Journal) notes() ([]string, error) {
	names, err := j.files.List(j.dir)
	if err != nil || !slices.Contains(names, journalNoteName) {
		return nil, err
	}
	f, err := j.files.Open(filepath.Join(j.dir, journalNoteName))
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.NewSectionReader(f, 0, min(f.Size(), maxNoteBytes)))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(strings.Split(string(text), "\n"), func(l string) bool { return l == "" }), nil
}

// replaceNote writes another file and then gives it the name, so that there is always a whole one.
func (j *Journal) replaceNote(text string) error {
	names, err := j.files.List(j.dir)
	if err != nil {
		return err
	}
	fresh := filepath.Join(j.dir, journalNoteNewName)
	if slices.Contains(names, journalNoteNewName) { // of a process that died
		if err := j.files.Remove(fresh); err != nil {
			return err
		}
	}
	f, err := j.files.Create(fresh)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(text), 0)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := j.files.Rename(fresh, filepath.Join(j.dir, journalNoteName)); err != nil {
		return err
	}
	return j.files.SyncDir(j.dir)
}
