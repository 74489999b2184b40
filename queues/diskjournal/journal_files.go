package diskjournal

import (
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/spendflush/spendflush/internal/trust"
)

// journalLockName is the file in the directory of a journal that is locked by who uses it.
const journalLockName = "lock"

// journalFiles is what a journal does in its directory. Tests have ones that fail and lose as real
// disks do.
type journalFiles interface {
	List(dir string) ([]string, error)        // names of regular files
	Open(path string) (journalContent, error) // whose content outlasts the machine from then on
	Create(path string) (journalFile, error)  // fails if there is such a file
	Remove(path string) error
	Rename(from, to string) error
	SyncDir(dir string) error // makes what was created, removed and renamed outlast the machine
}

// journalContent is a file that is being read.
type journalContent interface {
	io.ReaderAt
	io.Closer
	Size() int64
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

// osContent is a file of the disk.
type osContent struct {
	*os.File
	size int64
}

func (c osContent) Size() int64 { return c.size }

// Open syncs, too: the process that wrote it may have died before it did, and the machine be about
// to.
func (osFiles) Open(path string) (journalContent, error) {
	f, err := trust.Open(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return osContent{f, info.Size()}, nil
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

// enterJournal makes the directory, if there is none, and locks it. What another account could have
// made or changed is refused.
func enterJournal(dir string) (lock io.Closer, err error) {
	changed, err := trust.MakeDir(dir, 0o700)
	for _, above := range changed { // so that what was made outlasts the machine
		err = errors.Join(err, osFiles{}.SyncDir(above))
	}
	if err != nil {
		return nil, err
	}
	return lockFile(filepath.Join(dir, journalLockName))
}
