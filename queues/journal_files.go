package queues

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// journalLockName is the file in the directory of a journal that is locked by who uses it.
const journalLockName = "lock"

// journalFiles is what a journal does in its directory. Tests have ones that fail and lose as real disks do.
type journalFiles interface {
	List(dir string) ([]string, error)       // names of regular files
	Read(path string) ([]byte, error)        // the content, which outlasts the machine from then on
	Create(path string) (journalFile, error) // fails if there is such a file
	Remove(path string) error
	Rename(from, to string) error
	SyncDir(dir string) error // makes what was created, removed and renamed outlast the machine
}

// journalFile is a file that is being written.
type journalFile interface {
	io.WriterAt
	io.Closer
	Truncate(size int64) error
	Sync() error
}

type osFiles struct{}

func (osFiles) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	var names []string
	for _, entry := range entries {
		if entry.Type().IsRegular() {
			names = append(names, entry.Name())
		}
	}
	return names, err
}

// Read syncs, too: the process that wrote it may have died before it did, and the machine be about to.
func (osFiles) Read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(f)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, err
	}
	return content, nil
}

func (osFiles) Create(path string) (journalFile, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (osFiles) Remove(path string) error     { return os.Remove(path) }
func (osFiles) Rename(from, to string) error { return os.Rename(from, to) }

func (osFiles) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// enterJournal makes the directory, if there is none, and locks it.
func enterJournal(dir string) (lock io.Closer, err error) {
	if err := makeDir(dir); err != nil {
		return nil, err
	}
	return lockFile(filepath.Join(dir, journalLockName))
}

// makeDir makes the directory, and those above it, and sees to it that they outlast the machine.
func makeDir(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return &fs.PathError{Op: "open directory", Path: dir, Err: syscall.ENOTDIR}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	above := filepath.Dir(dir)
	if err := makeDir(above); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return osFiles{}.SyncDir(above)
}
