package diskjournal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/spendflush/spendflush/queues/queuetest"
	"github.com/spendflush/spendflush/spend"
)

// reopen opens the journal in the directory with segments of at most limit bytes and one batch.
func reopen(t *testing.T, dir string, limit int64) *Journal {
	t.Helper()
	lock, err := enterJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	j, err := openJournal(dir, lock, osFiles{}, limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	return j
}

func sequences(producer spend.ProducerID, shard int, from, to uint64) []*spend.Batch {
	var batches []*spend.Batch
	for sequence := from; sequence <= to; sequence++ {
		batches = append(batches, queuetest.NewBatch(producer, shard, sequence, 2))
	}
	return batches
}

func mustAppend(t *testing.T, j *Journal, batches ...*spend.Batch) {
	t.Helper()
	if err := j.Append(batches); err != nil {
		t.Fatal(err)
	}
}

func mustForget(t *testing.T, j *Journal, shard int, producer spend.ProducerID, mark uint64) {
	t.Helper()
	if err := j.Truncate(shard, producer, mark); err != nil {
		t.Fatal(err)
	}
}

// wantLeft checks that exactly these are left, in this order, byte for byte.
func wantLeft(t *testing.T, j *Journal, want ...*spend.Batch) {
	t.Helper()
	got, err := j.Recovered()
	if err != nil {
		t.Fatal(err)
	}
	same := func(a, b *spend.Batch) bool { return a.Header == b.Header && bytes.Equal(a.Bytes(), b.Bytes()) }
	if !slices.EqualFunc(got, want, same) {
		t.Fatalf("%d batches are left, want %d:\n got %v\nwant %v", len(got), len(want), headers(got), headers(want))
	}
}

func headers(batches []*spend.Batch) []string {
	var texts []string
	for _, b := range batches {
		texts = append(texts, fmt.Sprintf("%s/%d/%d", b.Producer, b.Shard, b.Sequence))
	}
	return texts
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func wantNames(t *testing.T, dir string, want ...string) {
	t.Helper()
	if got := names(t, dir); !slices.Equal(got, want) {
		t.Errorf("the directory has %q, want %q", got, want)
	}
}

func TestAJournalGivesBackWhatIsNotTruncatedByteForByteAndInOrder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "there")
	a, b := queuetest.NewProducer(), queuetest.NewProducer()
	j := reopen(t, dir, 1<<20)
	first, second, other := sequences(a, 0, 1, 3), sequences(b, 0, 1, 2), sequences(a, 1, 1, 1)
	mustAppend(t, j, first...)
	mustAppend(t, j, slices.Concat(second, other)...)
	mustAppend(t, j)
	wantLeft(t, j) // that is its own
	mustForget(t, j, 0, a, 2)
	mustForget(t, j, 3, queuetest.NewProducer(), 100)
	if stats := j.Stats(); stats.Files != 1 || stats.Batches != 4 || stats.Bytes == 0 {
		t.Errorf("stats are %+v", stats)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory that was made: %v, %v", info.Mode(), err)
	}

	j = reopen(t, dir, 1<<20)
	if len(j.Damage()) > 0 {
		t.Errorf("damage: %q", j.Damage())
	}
	// That the first two were truncated isn't kept, because their file is still needed.
	wantLeft(t, j, slices.Concat(first, second, other)...)
	mustForget(t, j, 0, a, 3)
	mustForget(t, j, 1, a, 0)
	mustAppend(t, j, sequences(a, 0, 4, 4)...)
	wantLeft(t, j, slices.Concat(second, other)...)
	wantLeft(t, j, slices.Concat(second, other)...)
	mustForget(t, j, 0, b, 2)
	mustForget(t, j, 1, a, 1)
	wantLeft(t, j)
	wantNames(t, dir, "0000000002.batches", "lock")
}

func TestAJournalGivesABatchAppendedAgainBackOnce(t *testing.T) {
	dir := t.TempDir()
	producer := queuetest.NewProducer()
	batches := sequences(producer, 0, 1, 3)
	j := reopen(t, dir, 1<<20)
	mustAppend(t, j, batches[0], batches[1])
	mustAppend(t, j, batches...)
	j.retire() // the next copy is in another file
	mustAppend(t, j, batches...)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = reopen(t, dir, 1<<20)
	wantLeft(t, j, batches...)
	mustForget(t, j, 0, producer, 1)
	wantLeft(t, j, batches[1:]...)
	mustForget(t, j, 0, producer, 3)
	wantLeft(t, j)
	if stats := j.Stats(); stats != (JournalStats{Files: 1}) {
		t.Errorf("stats are %+v", stats)
	}
}

// A process that was put back to an earlier state goes on under the same sequences with other
// batches.
func TestAJournalGivesTwoChainsOfOneProducerBack(t *testing.T) {
	dir := t.TempDir()
	producer := queuetest.NewProducer()
	one := sequences(producer, 0, 1, 3)
	h := one[1].Header
	h.PriorDigest = spend.Digest{1}
	rows, err := one[2].Rows()
	if err != nil {
		t.Fatal(err)
	}
	other := spend.NewBatch(h, rows.Totals, rows.Rollups)
	j := reopen(t, dir, 1<<20)
	mustAppend(t, j, one...)
	mustAppend(t, j, other)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = reopen(t, dir, 1<<20)
	wantLeft(t, j, one[0], one[1], one[2], other)
}

func TestAJournalKeepsTheFirstCopyWhenTheSecondFails(t *testing.T) {
	disk := newSimDisk()
	producer := queuetest.NewProducer()
	batches := sequences(producer, 0, 1, 1)
	j, err := openSim(disk, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, j, batches...)
	op := disk.ops + 1
	disk.fails = func(n int) bool { return n == op }
	if err := j.Append(batches); !errors.Is(err, errDisk) || !strings.Contains(err.Error(), "write /journal/0000000001.batches") {
		t.Errorf("a failed write: %v", err)
	}
	mustForget(t, j, 0, queuetest.NewProducer(), 9)
	if j, err = openSim(simEnds["the machine died"](disk), 1<<20); err != nil {
		t.Fatal(err)
	}
	wantLeft(t, j, batches...)
}

func TestAJournalDoesNotKeepFilesForWhatCouldNotBeAppended(t *testing.T) {
	for _, failing := range []int{1, 2, 3} { // the first write, the second, the sync
		disk := newSimDisk()
		j, err := openSim(disk, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		producer := queuetest.NewProducer()
		op := disk.ops + failing
		disk.fails = func(n int) bool { return n == op }
		if err := j.Append(sequences(producer, 0, 1, 2)); !errors.Is(err, errDisk) {
			t.Fatalf("operation %d: %v", failing, err)
		}
		if stats := j.Stats(); stats.Batches != 0 {
			t.Errorf("operation %d fails: stats are %+v", failing, stats)
		}
		mustAppend(t, j, sequences(producer, 0, 1, 2)...)
		if stats := j.Stats(); stats.Files != 1 || stats.Batches != 2 {
			t.Errorf("operation %d fails, then they are appended: stats are %+v", failing, stats)
		}
	}
}

func TestAJournalGivesBatchesOfANewerFormatBackToBePushed(t *testing.T) {
	batches := sequences(queuetest.NewProducer(), 0, 1, 3)
	newer := slices.Clone(batches[1].Bytes())
	newer[2] = spend.BatchVersion + 1
	table := crc32.MakeTable(crc32.Castagnoli)
	binary.BigEndian.PutUint32(newer[4:], crc32.Update(crc32.Checksum(newer[:4], table), table, newer[8:]))
	b, err := spend.ParseBatch(newer)
	if !errors.Is(err, spend.ErrNewerBatch) {
		t.Fatal(err)
	}
	j, _ := asLeft(t, contentOf(batches[0], b, batches[2]))
	wantLeft(t, j, batches[0], b, batches[2])
	if len(j.Damage()) > 0 {
		t.Errorf("damage: %q", j.Damage())
	}
}

func TestAJournalDeletesFilesOnceNothingInThemIsNeeded(t *testing.T) {
	dir := t.TempDir()
	producer := queuetest.NewProducer()
	batches := sequences(producer, 0, 1, 9)
	j := reopen(t, dir, int64(2*len(batches[0].Bytes())))
	for _, b := range batches {
		mustAppend(t, j, b)
	}
	n := func(number int) string { return fmt.Sprintf("%010d.batches", number) }
	wantNames(t, dir, n(1), n(2), n(3), n(4), n(5), "lock")
	mustForget(t, j, 0, producer, 3)
	wantNames(t, dir, n(2), n(3), n(4), n(5), "lock")
	mustForget(t, j, 0, producer, 8)
	wantNames(t, dir, n(5), "lock")
	if stats := j.Stats(); stats.Files != 1 || stats.Batches != 1 || stats.Bytes != int64(len(batches[8].Bytes())) {
		t.Errorf("stats are %+v", stats)
	}
	mustForget(t, j, 0, producer, 9)
	wantNames(t, dir, n(5), "lock")
	if info, err := os.Stat(filepath.Join(dir, n(5))); err != nil || info.Size() != 0 {
		t.Errorf("a file in use of which nothing is needed has %d bytes, %v", info.Size(), err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	wantNames(t, dir, "lock")
}

func TestAClosedJournalSaysSo(t *testing.T) {
	j := reopen(t, t.TempDir(), 1<<20)
	producer := queuetest.NewProducer()
	for range 2 {
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	_, left := j.Recovered()
	for _, err := range []error{j.Append(sequences(producer, 0, 1, 1)), j.Truncate(0, producer, 1), left} {
		if !errors.Is(err, os.ErrClosed) || !strings.Contains(err.Error(), j.dir) {
			t.Errorf("the error is %v", err)
		}
	}
}

func TestAJournalNamesADirectoryThatCannotBeOneAndWhatItNeeds(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	occupied := t.TempDir() // its lock can't be a file
	if err := os.Mkdir(filepath.Join(occupied, "lock"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{file, filepath.Join(file, "below"), filepath.Join(file, "far", "below"), "/proc/journal", occupied} {
		_, err := Open(dir)
		if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "it needs a directory") {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

func TestOneProcessCannotOpenAJournalTwice(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		j, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir); !errors.Is(err, spend.ErrJournalInUse) || !strings.Contains(err.Error(), dir) {
			t.Errorf("opened twice: %v", err)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAJournalThatCannotBeOpenedGivesTheDirectoryFree(t *testing.T) {
	dir := t.TempDir()
	lock, err := enterJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	disk := newSimDisk()
	disk.fails = func(int) bool { return true }
	if _, err := openJournal(dir, lock, disk, 1); !errors.Is(err, errDisk) {
		t.Fatal(err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	reopen(t, dir, 1)
}

func TestAJournalSyncsOnceForAllCallsThatWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newSimDisk()
		gate := make(chan bool)
		j, err := openSim(disk, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		disk.onSync = func() { <-gate }
		var calls sync.WaitGroup
		producer := queuetest.NewProducer()
		for shard := range 4 {
			calls.Go(func() { mustAppend(t, j, sequences(producer, shard, 1, 2)...) })
			synctest.Wait()
		}
		if stats := j.Stats(); stats.Batches != 2 { // and doesn't wait for the disk
			t.Errorf("stats are %+v", stats)
		}
		close(gate)
		calls.Wait()
		if disk.syncs != 2 {
			t.Errorf("4 calls, of which 3 waited for the first, took %d syncs, want 2", disk.syncs)
		}
	})
}

func TestAJournalDoesNotKeepForEverWhatIsTruncatedWhileItIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newSimDisk()
		gate := make(chan bool)
		j, err := openSim(disk, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		disk.onSync = func() { <-gate }
		producer := queuetest.NewProducer()
		var calls sync.WaitGroup
		calls.Go(func() { mustAppend(t, j, sequences(producer, 0, 1, 1)...) })
		synctest.Wait()
		calls.Go(func() { mustForget(t, j, 0, producer, 1) })
		synctest.Wait()
		close(gate)
		calls.Wait()
		if stats := j.Stats(); stats != (JournalStats{Files: 1}) {
			t.Errorf("stats are %+v", stats)
		}
	})
}

func TestAJournalDoesNotMixUpShardsThatUseItAtTheSameTime(t *testing.T) {
	dir := t.TempDir()
	const shards, last = 4, 60
	j := reopen(t, dir, 2000)
	producer := queuetest.NewProducer()
	var calls sync.WaitGroup
	for shard := range shards {
		calls.Go(func() {
			for sequence := uint64(1); sequence <= last; sequence += 2 {
				if err := j.Append(sequences(producer, shard, sequence, sequence+1)); err != nil {
					t.Error(err)
				}
				if sequence > 6 && sequence < last-10 {
					if err := j.Truncate(shard, producer, sequence-6); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	calls.Go(func() {
		for range 200 {
			j.Stats()
			if _, err := j.Recovered(); err != nil {
				t.Error(err)
			}
		}
	})
	calls.Wait()
	if got := j.Stats().Files; got > 2*shards+4 {
		t.Errorf("%d files are there, though nearly all is forgotten", got)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	left, err := reopen(t, dir, 2000).Recovered()
	if err != nil {
		t.Fatal(err)
	}
	for shard := range shards {
		next := uint64(0)
		for _, b := range left {
			if b.Shard != shard {
				continue
			}
			if next == 0 {
				next = b.Sequence
			}
			if b.Sequence != next {
				t.Errorf("shard %d: sequence %d instead of %d", shard, b.Sequence, next)
			}
			next = b.Sequence + 1
		}
		if next != last+1 {
			t.Errorf("shard %d ends before %d", shard, next)
		}
	}
}
