package diskjournal

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/spendflush/spendflush/queues/queuetest"
	"github.com/spendflush/spendflush/spend"
)

var errDisk = errors.New("injected fault of the disk")

// simDisk is a disk on which it can be seen what was synced: what wasn't is gone when the machine
// dies. Operations are counted, so that the n-th can be made to fail.
type simDisk struct {
	mu     sync.Mutex
	files  map[string]*simFile // by path, as processes see it
	stable map[string]*simFile // and as it is after the machine died
	ops    int
	syncs  int
	fails  func(op int) bool
	onSync func()
}

type simFile struct {
	disk   *simDisk
	path   string
	data   []byte // as processes see it
	stable []byte // and as it is after the machine died
	lost   bool   // a sync failed: as on Linux, what it should have written is never written, and later ones succeed
}

func newSimDisk() *simDisk {
	return &simDisk{files: map[string]*simFile{}, stable: map[string]*simFile{}}
}

// put lays down a file as an earlier process left it.
func (d *simDisk) put(path string, data []byte) {
	f := &simFile{disk: d, path: path, data: slices.Clone(data), stable: slices.Clone(data)}
	d.files[path], d.stable[path] = f, f
}

// do counts an operation and reports whether it fails. The caller must hold the lock.
func (d *simDisk) do(op, path string) error {
	d.ops++
	if d.fails != nil && d.fails(d.ops) {
		return &fs.PathError{Op: op, Path: path, Err: errDisk}
	}
	return nil
}

func (d *simDisk) List(string) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var names []string
	for path := range d.files {
		names = append(names, filepath.Base(path))
	}
	slices.Sort(names)
	return names, d.do("list", ".")
}

// simContent is a file as it was when it was opened.
type simContent struct{ *bytes.Reader }

func (simContent) Close() error { return nil }

func (d *simDisk) Open(path string) (journalContent, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.do("read", path); err != nil {
		return nil, err
	}
	f := d.files[path]
	if f == nil {
		return nil, &fs.PathError{Op: "read", Path: path, Err: fs.ErrNotExist}
	}
	f.persist()
	return simContent{bytes.NewReader(slices.Clone(f.data))}, nil
}

func (d *simDisk) Create(path string) (journalFile, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.do("create", path); err != nil {
		return nil, err
	}
	if d.files[path] != nil {
		return nil, &fs.PathError{Op: "create", Path: path, Err: fs.ErrExist}
	}
	f := &simFile{disk: d, path: path}
	d.files[path] = f
	return f, nil
}

func (d *simDisk) Remove(path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.do("remove", path); err != nil {
		return err
	}
	delete(d.files, path)
	return nil
}

func (d *simDisk) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.do("rename", from); err != nil {
		return err
	}
	d.files[to] = d.files[from]
	delete(d.files, from)
	return nil
}

func (d *simDisk) SyncDir(dir string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.do("sync", dir); err != nil {
		return err
	}
	d.stable = maps.Clone(d.files)
	return nil
}

func (f *simFile) persist() {
	if !f.lost {
		f.stable = slices.Clone(f.data)
	}
}

func (f *simFile) WriteAt(b []byte, at int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	err := f.disk.do("write", f.path)
	if err != nil {
		b = b[:len(b)/2]
	}
	if end := int(at) + len(b); end > len(f.data) {
		f.data = append(f.data, make([]byte, end-len(f.data))...)
	}
	return copy(f.data[at:], b), err
}

func (f *simFile) Truncate(size int64) error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if err := f.disk.do("truncate", f.path); err != nil {
		return err
	}
	f.data = f.data[:size:size]
	return nil
}

func (f *simFile) Sync() error {
	if f.disk.onSync != nil {
		f.disk.onSync()
	}
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	f.disk.syncs++
	if err := f.disk.do("sync", f.path); err != nil {
		f.lost = true
		return err
	}
	f.persist()
	return nil
}

func (f *simFile) Close() error { return nil }

// What becomes of a disk on which a process ends.
var simEnds = map[string]func(*simDisk) *simDisk{
	"the process died": func(d *simDisk) *simDisk { return d.after(d.files, func(f *simFile) []byte { return f.data }) },
	"the machine died": func(d *simDisk) *simDisk { return d.after(d.stable, func(f *simFile) []byte { return f.stable }) },
	"the machine died and had written some more": func(d *simDisk) *simDisk {
		return d.after(d.stable, func(f *simFile) []byte {
			if f.lost || len(f.data) <= len(f.stable) {
				return f.stable
			}
			return f.data[:len(f.stable)+(len(f.data)-len(f.stable))*2/3]
		})
	},
}

func (d *simDisk) after(files map[string]*simFile, content func(*simFile) []byte) *simDisk {
	d.mu.Lock()
	defer d.mu.Unlock()
	next := newSimDisk()
	for path, f := range files {
		next.put(path, content(f))
	}
	return next
}

type noLock struct{}

func (noLock) Close() error { return nil }

func openSim(d *simDisk, limit int64) (*Journal, error) {
	return openJournal("/journal", noLock{}, d, limit)
}

// simRun uses a journal as an instance does, and notes what it was told.
type simRun struct {
	t            *testing.T
	disk         *simDisk
	producers    []spend.ProducerID
	bytes        map[simBatch]string // of all batches for which Append was ever called
	acknowledged map[simBatch]bool   // and wasn't forgotten since
}

type simBatch struct {
	producer spend.ProducerID
	shard    int
	sequence uint64
}

func newSimRun(t *testing.T) *simRun {
	return &simRun{
		t: t, disk: newSimDisk(), producers: []spend.ProducerID{queuetest.NewProducer(), queuetest.NewProducer()},
		bytes: map[simBatch]string{}, acknowledged: map[simBatch]bool{},
	}
}

func (r *simRun) append(j *Journal, producer, shard int, sequences ...uint64) {
	var batches []*spend.Batch
	for _, sequence := range sequences {
		b := queuetest.NewBatch(r.producers[producer], shard, sequence, 1+int(sequence)%3)
		r.bytes[simBatch{b.Producer, shard, sequence}] = string(b.Bytes())
		batches = append(batches, b)
	}
	for range 2 { // as an instance does, which tries again
		if err := j.Append(batches); err == nil {
			for _, b := range batches {
				r.acknowledged[simBatch{b.Producer, shard, b.Sequence}] = true
			}
			return
		} else if !errors.Is(err, errDisk) {
			r.t.Fatalf("append: %v", err)
		}
	}
}

func (r *simRun) truncate(j *Journal, producer, shard int, mark uint64) {
	if err := j.Truncate(shard, r.producers[producer], mark); err != nil && !errors.Is(err, errDisk) {
		r.t.Fatalf("forget: %v", err)
	}
	maps.DeleteFunc(r.acknowledged, func(b simBatch, _ bool) bool {
		return b.producer == r.producers[producer] && b.shard == shard && b.sequence <= mark
	})
}

// first is the life of a process, with three rotations, until it dies.
func (r *simRun) first() {
	j, err := openSim(r.disk, 1500)
	if err != nil {
		return
	}
	r.append(j, 0, 0, 1)
	r.truncate(j, 0, 0, 1)
	r.append(j, 0, 0, 2, 3)
	r.append(j, 0, 1, 1)
	for sequence := uint64(4); sequence < 12; sequence++ {
		r.append(j, 0, 0, sequence)
	}
	r.truncate(j, 0, 0, 9)
	r.append(j, 0, 1, 2, 3, 4)
	r.truncate(j, 0, 1, 4)
	r.append(j, 0, 1, 5, 6)
}

// second is the life of the next one, which stops cleanly and leaves something.
func (r *simRun) second() {
	j, err := openSim(r.disk, 1500)
	if err != nil {
		return
	}
	r.append(j, 1, 0, 1, 2, 3)
	r.truncate(j, 0, 0, 12)
	r.append(j, 1, 0, 4, 5)
	r.truncate(j, 1, 0, 2)
	if err := j.Close(); err != nil && !errors.Is(err, errDisk) {
		r.t.Fatalf("close: %v", err)
	}
}

// check opens what is left, without faults, and compares.
func (r *simRun) check(name string, disk *simDisk) {
	j, err := openSim(disk, 1500)
	if err != nil {
		r.t.Errorf("%s: open: %v", name, err)
		return
	}
	left, err := j.Recovered()
	if err != nil {
		r.t.Errorf("%s: left: %v", name, err)
	}
	got := map[simBatch]bool{}
	last := map[simBatch]uint64{}
	for _, b := range left {
		id := simBatch{b.Producer, b.Shard, b.Sequence}
		of := simBatch{b.Producer, b.Shard, 0}
		if got[id] || b.Sequence <= last[of] {
			r.t.Errorf("%s: sequence %d comes after %d", name, b.Sequence, last[of])
		}
		got[id], last[of] = true, b.Sequence
		if r.bytes[id] != string(b.Bytes()) {
			r.t.Errorf("%s: a batch that nobody appended: %+v", name, b.Header)
		}
	}
	for b := range r.acknowledged {
		if !got[b] {
			r.t.Errorf("%s: acknowledged and lost: shard %d sequence %d", name, b.shard, b.sequence)
		}
	}
	for path := range disk.files {
		if _, damaged, _ := parseJournalName(filepath.Base(path)); damaged {
			r.t.Errorf("%s: %s was put aside though nothing is damaged", name, path)
		}
	}
}

// The disk fails at the n-th operation, for each n: once, and from then on for a while, and for
// ever, which is as if the process had died there. At the end the process or the machine dies.
func TestAJournalLosesNothingAcknowledgedWhateverFileOperationFails(t *testing.T) {
	for _, length := range []int{1, 2, 3, 7, 1 << 30} {
		done := false
		for n := 1; !done; n++ {
			done = true
			for end, ends := range simEnds {
				r := newSimRun(t)
				fails := func(op int) bool { return op >= n && op-n < length }
				r.disk.fails = fails
				r.first()
				ops := r.disk.ops
				r.check(fmt.Sprintf("operation %d fails for %d, %s", n, length, end), ends(r.disk))

				r.disk = ends(r.disk)
				r.disk.fails = func(op int) bool { return fails(op + ops) }
				r.second()
				done = done && ops+r.disk.ops < n
				r.check(fmt.Sprintf("operation %d fails for %d, %s twice", n, length, end), ends(r.disk))
				if t.Failed() {
					return
				}
			}
		}
	}
}
