package diskjournal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path/filepath"

	"github.com/spendflush/spendflush/spend"
)

// A batch frames itself: it begins with this, and its checksum, of all but itself, and its length
// are 32-bit big-endian numbers at these places.
var journalMagic = []byte("SF")

const (
	journalSumAt     = 4
	journalLengthAt  = 8
	journalFrameSize = journalLengthAt + 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// journalPiece is how much of a segment is in memory at once, beside the batches that are in it.
const journalPiece = 1 << 20

// journalSpan is a range of bytes of a segment that aren't a batch.
type journalSpan struct {
	offset, length int64
	torn           bool // the end of a file whose writer died while it wrote
}

// scanJournal calls yield for each batch in a segment and returns the ranges between them. A
// damaged range ends where the next batch with a right checksum begins. A batch can't be mistaken
// for one inside another's bytes: only ids and names are for others to choose, and these have no
// zero bytes, which every header has.
func scanJournal(content journalContent, yield func(*spend.Batch)) ([]journalSpan, error) {
	s := journalScan{content: content, size: content.Size()}
	var bad []journalSpan
	for at, from := int64(0), int64(0); from < s.size; {
		b, err := s.batchAt(at)
		if err != nil {
			return nil, err
		}
		if b == nil {
			next, err := s.find(at + 1)
			if err != nil {
				return nil, err
			}
			if at = next; at < s.size {
				continue
			}
			torn, err := s.isTorn(from)
			if err != nil {
				return nil, err
			}
			return append(bad, journalSpan{from, s.size - from, torn}), nil
		}
		if at > from {
			bad = append(bad, journalSpan{offset: from, length: at - from})
		}
		yield(b)
		at += int64(len(b.Bytes()))
		from = at
	}
	return bad, nil
}

// journalScan reads a segment in pieces.
type journalScan struct {
	content journalContent
	size    int64

	start int64  // where the piece begins
	piece []byte // what is in memory
}

// bytes returns up to n bytes at the offset, fewer only at the end of the segment. They are good
// until the next call.
func (s *journalScan) bytes(at int64, n int) ([]byte, error) {
	n = int(min(int64(n), s.size-at))
	if at < s.start || at+int64(n) > s.start+int64(len(s.piece)) {
		if s.piece == nil {
			s.piece = make([]byte, min(journalPiece, s.size))
		}
		s.start, s.piece = at, s.piece[:min(int64(cap(s.piece)), s.size-at)]
		if _, err := s.content.ReadAt(s.piece, at); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
	}
	return s.piece[at-s.start:][:n], nil
}

// each calls yield for the bytes from the offset up to the end, piece by piece, until it returns
// false.
func (s *journalScan) each(from, end int64, yield func(at int64, piece []byte) bool) error {
	for at := from; at < end; {
		piece, err := s.bytes(at, int(min(journalPiece, end-at)))
		if err != nil || !yield(at, piece) {
			return err
		}
		at += int64(len(piece))
	}
	return nil
}

// find returns where the next batch may begin, from the offset on; the size of the segment if
// nowhere.
func (s *journalScan) find(from int64) (int64, error) {
	found := s.size
	afterFirst := false // the piece before ended with the first byte of what is looked for
	err := s.each(from, s.size, func(at int64, piece []byte) bool {
		i := bytes.Index(piece, journalMagic)
		switch {
		case afterFirst && piece[0] == journalMagic[1]:
			found = at - 1
		case i >= 0:
			found = at + int64(i)
		}
		afterFirst = piece[len(piece)-1] == journalMagic[0]
		return found == s.size
	})
	return found, err
}

// frameAt returns the length of the batch that begins at the offset as its bytes tell it; 0 if none
// begins there.
func (s *journalScan) frameAt(at int64) (length int64, sum uint32, err error) {
	frame, err := s.bytes(at, journalFrameSize)
	if err != nil || len(frame) < journalFrameSize || !bytes.HasPrefix(frame, journalMagic) {
		return 0, 0, err
	}
	return int64(binary.BigEndian.Uint32(frame[journalLengthAt:])), binary.BigEndian.Uint32(frame[journalSumAt:]), nil
}

// batchAt returns the batch that begins at the offset; nil if none does. Memory for it is taken
// once its checksum was found to be right.
func (s *journalScan) batchAt(at int64) (*spend.Batch, error) {
	length, want, err := s.frameAt(at)
	if err != nil || length < journalFrameSize || length > s.size-at {
		return nil, err
	}
	head, err := s.bytes(at, journalSumAt)
	if err != nil {
		return nil, err
	}
	sum := crc32.Checksum(head, castagnoli)
	err = s.each(at+journalLengthAt, at+length, func(_ int64, piece []byte) bool {
		sum = crc32.Update(sum, castagnoli, piece)
		return true
	})
	if err != nil || sum != want {
		return nil, err
	}
	content := make([]byte, length)
	if _, err := s.content.ReadAt(content, at); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	b, err := spend.ParseBatch(content)
	if err != nil && !errors.Is(err, spend.ErrNewerBatch) {
		return nil, nil
	}
	return b, nil
}

// isTorn reports whether the rest of a segment, in which there is no batch, is what a writer leaves
// that dies: the beginning of a batch, or nothing but zeros where the file system had made the file
// longer and not written to it yet. A last batch that is all there and yet wrong is damage: it may
// have been acknowledged.
func (s *journalScan) isTorn(from int64) (bool, error) {
	zeros := true
	err := s.each(from, s.size, func(_ int64, piece []byte) bool {
		zeros = len(bytes.Trim(piece, "\x00")) == 0
		return zeros
	})
	if err != nil || zeros {
		return zeros, err
	}
	rest := s.size - from
	if rest < journalFrameSize {
		head, err := s.bytes(from, len(journalMagic))
		return bytes.HasPrefix(head, journalMagic[:min(rest, int64(len(journalMagic)))]), err
	}
	length, _, err := s.frameAt(from)
	return length > rest, err
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
