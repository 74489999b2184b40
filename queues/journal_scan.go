package queues

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spendflush/spendflush"
)

// A batch frames itself: it begins with this, and its length is a 32-bit big-endian number at this place.
var journalMagic = []byte("SF")

const journalLengthAt = 8

// journalSpan is a range of bytes of a segment that aren't a batch.
type journalSpan struct {
	offset, length int
	torn           bool // the end of a file whose writer died while it wrote
}

// scanJournal returns the batches in a segment, which keep the content, and the ranges between them. A damaged range
// ends where the next batch with a right checksum begins. A batch can't be mistaken for one inside another's bytes: only
// ids and names are for others to choose, and these have no zero bytes, which every header has.
func scanJournal(content []byte) ([]*spendflush.Batch, []journalSpan) {
	var batches []*spendflush.Batch
	var bad []journalSpan
	for at, from := 0, 0; from < len(content); {
		b := batchAt(content[at:])
		if b == nil {
			if next := bytes.Index(content[at+1:], journalMagic); next >= 0 {
				at += 1 + next
				continue
			}
			bad = append(bad, journalSpan{from, len(content) - from, isTorn(content[from:])})
			break
		}
		if at > from {
			bad = append(bad, journalSpan{offset: from, length: at - from})
		}
		batches = append(batches, b)
		at += len(b.Bytes())
		from = at
	}
	return batches, bad
}

// batchAt returns the batch with which the content begins, nil if it doesn't begin with one.
func batchAt(content []byte) *spendflush.Batch {
	if !bytes.HasPrefix(content, journalMagic) || len(content) < journalLengthAt+4 {
		return nil
	}
	length := binary.BigEndian.Uint32(content[journalLengthAt:])
	if uint64(length) > uint64(len(content)) {
		return nil
	}
	b, err := spendflush.ParseBatch(content[:length:length])
	if err != nil && !errors.Is(err, spendflush.ErrNewerBatch) {
		return nil
	}
	return b
}

// isTorn reports whether the rest of a segment, in which there is no batch, is what a writer leaves that dies: the
// beginning of a batch, or nothing but zeros where the file system had made the file longer and not written to it yet.
// A last batch that is all there and yet wrong is damage: it may have been acknowledged.
func isTorn(rest []byte) bool {
	if len(bytes.Trim(rest, "\x00")) == 0 {
		return true
	}
	if len(rest) < journalLengthAt+4 {
		return bytes.HasPrefix(rest, journalMagic[:min(len(rest), len(journalMagic))])
	}
	return bytes.HasPrefix(rest, journalMagic) &&
		uint64(binary.BigEndian.Uint32(rest[journalLengthAt:])) > uint64(len(rest))
}

// describe says it to people.
func (s journalSpan) describe(path string) string {
	if s.torn {
		return fmt.Sprintf("%s: the last %d bytes, at offset %d, are a batch whose writing did not end: it was never "+
			"acknowledged, and is ignored", path, s.length, s.offset)
	}
	return fmt.Sprintf("%s: %d bytes at offset %d can't be read and may have been batches; once the rest of the file is "+
		"in Postgres it is kept as %s", path, s.length, s.offset, filepath.Base(path)+journalDamagedSuffix)
}
