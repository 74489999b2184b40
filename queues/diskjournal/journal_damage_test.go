package diskjournal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spendflush/spendflush/queues/queuetest"
	"github.com/spendflush/spendflush/spend"
)

// asLeft returns the journal in whose only file an earlier process left this.
func asLeft(t *testing.T, content []byte) (*Journal, *simDisk) {
	t.Helper()
	disk := newSimDisk()
	disk.put("/journal/0000000001.batches", content)
	j, err := openSim(disk, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return j, disk
}

func contentOf(batches ...*spend.Batch) []byte {
	var content []byte
	for _, b := range batches {
		content = append(content, b.Bytes()...)
	}
	return content
}

func TestAJournalTornAtAnyByteLosesOnlyWhatWasNotAcknowledged(t *testing.T) {
	producer := queuetest.NewProducer()
	batches := sequences(producer, 0, 1, 3)
	whole := contentOf(batches[:2]...)
	last := batches[2].Bytes()
	for cut := range len(last) {
		for _, zeros := range []int{0, 1, 4096} { // to which the file system may have made it longer
			if zeros > 0 && cut > 0 {
				continue
			}
			tail := append(slices.Clone(last[:cut]), make([]byte, zeros)...)
			j, disk := asLeft(t, append(slices.Clone(whole), tail...))
			wantLeft(t, j, batches[:2]...)
			damage := j.Damage()
			if len(tail) == 0 && len(damage) > 0 {
				t.Fatalf("nothing is torn, and yet: %q", damage)
			}
			says := fmt.Sprintf("/journal/0000000001.batches: the last %d bytes, at offset %d", len(tail), len(whole))
			if len(tail) > 0 && (len(damage) != 1 || !strings.HasPrefix(damage[0], says)) {
				t.Fatalf("cut at %d: damage is %q, want %q", cut, damage, says)
			}
			mustForget(t, j, 0, producer, 2)
			if len(disk.files) != 1 || disk.files["/journal/0000000002.batches"] == nil {
				t.Fatalf("cut at %d: the torn file was kept: %v", cut, disk.files)
			}
		}
	}
}

func TestAJournalReportsAndDeletesAFileWithOnlyATornBatch(t *testing.T) {
	j, disk := asLeft(t, sequences(queuetest.NewProducer(), 0, 1, 1)[0].Bytes()[:50])
	wantLeft(t, j)
	if len(j.Damage()) != 1 || len(disk.files) != 1 || disk.files["/journal/0000000001.batches"] != nil {
		t.Errorf("damage %q, files %v", j.Damage(), disk.files)
	}
}

func TestAJournalWithAFlippedBitLosesOneBatchAndKeepsTheFile(t *testing.T) {
	producer := queuetest.NewProducer()
	batches := sequences(producer, 0, 1, 3)
	size := len(batches[0].Bytes())
	whole := contentOf(batches...)
	for at := range whole {
		broken := slices.Clone(whole)
		broken[at] ^= 1 << (at % 8)
		j, disk := asLeft(t, broken)
		lost := at / size
		wantLeft(t, j, slices.Delete(slices.Clone(batches), lost, lost+1)...)
		damage := j.Damage()
		where := fmt.Sprintf("/journal/0000000001.batches: %d bytes at offset %d", size, lost*size)
		torn := lost == 2 && strings.Contains(strings.Join(damage, ""), "the last") // its length got larger
		if len(damage) != 1 || !torn && !strings.HasPrefix(damage[0], where) {
			t.Fatalf("bit at %d: damage is %q, want %q", at, damage, where)
		}
		if torn && (at < 2*size+8 || at >= 2*size+12) {
			t.Fatalf("bit at %d: %q", at, damage)
		}
		mustForget(t, j, 0, producer, 3)
		kept := disk.stable["/journal/0000000001.batches.damaged"]
		if disk.files["/journal/0000000001.batches"] != nil || torn == (kept != nil) {
			t.Fatalf("bit at %d: the files are %v", at, disk.files)
		}
		if kept != nil && !bytes.Equal(kept.data, broken) {
			t.Fatalf("bit at %d: the file that was kept was changed", at)
		}
	}
}

func TestAJournalNeitherReadsNorOverwritesDamagedFilesLater(t *testing.T) {
	dir := t.TempDir()
	batches := sequences(queuetest.NewProducer(), 0, 1, 2)
	if err := os.WriteFile(filepath.Join(dir, "0000000007.batches"), []byte("this is no batch, is it?"), 0o600); err != nil {
		t.Fatal(err)
	}
	j := reopen(t, dir, 1<<20)
	if len(j.Damage()) != 1 {
		t.Errorf("damage: %q", j.Damage())
	}
	mustAppend(t, j, batches...)
	wantNames(t, dir, "0000000007.batches.damaged", "0000000008.batches", "lock")
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = reopen(t, dir, 1<<20)
	if len(j.Damage()) != 0 {
		t.Errorf("damage once more: %q", j.Damage())
	}
	wantLeft(t, j, batches...)
	mustForget(t, j, 0, batches[0].Producer, 2)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	reopen(t, dir, 1<<20) // and doesn't give the number of a file that was put aside to another
	wantNames(t, dir, "0000000007.batches.damaged", "0000000008.batches", "lock")
}

func TestAJournalLeavesForeignFilesAlone(t *testing.T) {
	dir := t.TempDir()
	foreign := []string{"1.batches", "00000000001.batches", "0000000001.batch", "0000000002.batches.damaged", "batches", "notes.damaged"}
	for _, name := range foreign {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "0000000003.batches"), 0o700); err != nil {
		t.Fatal(err)
	}
	producer := queuetest.NewProducer()
	for range 2 {
		j := reopen(t, dir, 1)
		for _, b := range sequences(producer, 0, 1, 3) {
			mustAppend(t, j, b)
		}
		mustForget(t, j, 0, producer, 3)
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		if len(j.Damage()) > 0 {
			t.Errorf("damage: %q", j.Damage())
		}
	}
	want := append(slices.Clone(foreign), "0000000003.batches", "lock")
	slices.Sort(want)
	wantNames(t, dir, want...)
	for _, name := range foreign {
		if content, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(content) != name {
			t.Errorf("%s has become %q, %v", name, content, err)
		}
	}
}

func FuzzJournalFile(f *testing.F) {
	producer := queuetest.NewProducer()
	batches := sequences(producer, 1, 1, 3)
	whole := contentOf(batches...)
	f.Add(whole)
	f.Add(whole[:len(whole)-7])
	f.Add(whole[9:])
	f.Add(append(append(slices.Clone(whole[:len(whole)/2]), "SFSF"...), whole...))
	f.Add([]byte("SF\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, content []byte) {
		covered := int64(0)
		bad, err := scanJournal(simContent{bytes.NewReader(content)}, func(b *spend.Batch) { covered += int64(len(b.Bytes())) })
		if err != nil {
			t.Fatal(err)
		}
		for _, span := range bad {
			covered += span.length
		}
		if covered != int64(len(content)) {
			t.Fatalf("%d of %d bytes are accounted for", covered, len(content))
		}
		j, disk := asLeft(t, content)
		left, err := j.Recovered()
		if err != nil {
			t.Fatal(err)
		}
		if len(j.Damage()) != len(bad) {
			t.Fatalf("%d ranges are bad: %q", len(bad), j.Damage())
		}
		for _, b := range left {
			if again, err := spend.ParseBatch(b.Bytes()); err != nil && !errors.Is(err, spend.ErrNewerBatch) || again.Header != b.Header {
				t.Fatalf("%+v: %v", b.Header, err)
			}
			mustForget(t, j, b.Shard, b.Producer, b.Sequence)
		}
		wantLeft(t, j)
		if disk.files["/journal/0000000001.batches"] != nil {
			t.Fatal("the file is there though nothing in it is needed")
		}
	})
}
