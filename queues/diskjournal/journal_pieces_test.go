package diskjournal

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spendflush/spendflush/queues/queuetest"
	"github.com/spendflush/spendflush/spend"
)

// hugeContent is a file of zeros, and texts at some places. It notes the most that was read at
// once.
type hugeContent struct {
	size  int64
	texts map[int64][]byte
	most  int
}

func (*hugeContent) Close() error  { return nil }
func (c *hugeContent) Size() int64 { return c.size }

func (c *hugeContent) ReadAt(b []byte, at int64) (int, error) {
	c.most = max(c.most, len(b))
	n := int(min(int64(len(b)), c.size-at))
	clear(b[:n])
	for where, text := range c.texts {
		for i, one := range text {
			if p := where + int64(i) - at; p >= 0 && p < int64(n) {
				b[p] = one
			}
		}
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func TestAHugeSegmentIsReadInPieces(t *testing.T) {
	batch := queuetest.NewBatch(queuetest.NewProducer(), 0, 1, 2)
	const size = 64 << 20
	// A frame that says of itself that it is huge takes no memory either.
	content := &hugeContent{size: size, texts: map[int64][]byte{
		100: []byte("SF\x01\x00\x00\x00\x00\x00\x03\x00\x00\x00"), 3 * journalPiece / 2: batch.Bytes(),
	}}
	var found []*spend.Batch
	bad, err := scanJournal(content, func(b *spend.Batch) { found = append(found, b) })
	if err != nil || len(found) != 1 || !bytes.Equal(found[0].Bytes(), batch.Bytes()) {
		t.Fatalf("%d batches, %v", len(found), err)
	}
	if content.most > journalPiece {
		t.Errorf("%d bytes were read at once, at most %d are allowed", content.most, journalPiece)
	}
	after := 3*journalPiece/2 + int64(len(batch.Bytes()))
	if want := []journalSpan{{0, 3 * journalPiece / 2, false}, {after, size - after, true}}; !slices.Equal(bad, want) {
		t.Errorf("bad are %v, want %v", bad, want)
	}
}

func TestABatchIsFoundWhereverPiecesEnd(t *testing.T) {
	batches := sequences(queuetest.NewProducer(), 0, 1, 2)
	both := contentOf(batches...)
	for shift := int64(-int64(len(both)) - 3); shift <= 3; shift++ {
		at := journalPiece + shift
		content := &hugeContent{size: at + int64(len(both)), texts: map[int64][]byte{0: []byte("x"), at: both}}
		var found []*spend.Batch
		bad, err := scanJournal(content, func(b *spend.Batch) { found = append(found, b) })
		if err != nil || len(found) != 2 || found[0].Sequence != 1 || found[1].Sequence != 2 || !slices.Equal(bad, []journalSpan{{0, at, false}}) {
			t.Fatalf("at %d: %d batches, bad are %v, %v", at, len(found), bad, err)
		}
	}
}

func TestAJournalTakesNothingThatAnotherAccountCouldHaveMade(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	wantRefused := func(path, says string) {
		t.Helper()
		_, err := Open(dir)
		if !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), path+" "+says) {
			t.Errorf("want a refusal of %s because it %s: %v", path, says, err)
		}
	}
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o777)); err != nil {
		t.Fatal(err)
	}
	wantRefused(dir, "has mode drwxrwxrwx")
	lock, victim := filepath.Join(dir, journalLockName), filepath.Join(filepath.Dir(dir), "elsewhere")
	if err := errors.Join(os.Chmod(dir, 0o700), os.Symlink(victim, lock)); err != nil {
		t.Fatal(err)
	}
	wantRefused(lock, "is a symbolic link")
	if _, err := os.Lstat(victim); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the lock was made elsewhere: %v", err)
	}
	segment := filepath.Join(dir, "0000000001.batches")
	if err := errors.Join(os.Remove(lock), os.WriteFile(segment, nil, 0o600), os.Chmod(segment, 0o666)); err != nil {
		t.Fatal(err)
	}
	wantRefused(segment, "has mode -rw-rw-rw-")
	if err := errors.Join(os.Remove(segment), os.Rename(dir, victim), os.Symlink(victim, dir)); err != nil {
		t.Fatal(err)
	}
	wantRefused(dir, "is a symbolic link")
}
