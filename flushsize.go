package spendflush

import "github.com/spendflush/spendflush/spend"

// flushLimit is what a flush may have before no more batches are added to it.
type flushLimit struct {
	rows  int
	texts int // bytes of the ids, tags and dimensions of its series
}

// largestFlush is what a flush may have while all goes well.
var largestFlush = flushLimit{rows: flushRows, texts: flushTexts}

// flushSize finds how large flushes may be. What can't be written in one go, for its size or for
// one batch in it, can be in several: a failure halves them, down to a single batch, and a success
// doubles them. A Postgres that takes only small ones would fail every other flush so. Therefore
// the size that worked is kept for a number of successes once a larger one has failed, and for
// twice as many each time that fails again.
type flushSize struct {
	limit   flushLimit
	largest flushLimit
	keep    int  // successes at a limit before it is doubled
	kept    int  // those so far
	doubled bool // since the last failure
}

// maxKeep is how many successes there are at most from one doubling to the next: so few flushes
// fail of a Postgres that takes only small ones, and one that takes large ones again gets them some
// 500 flushes later.
const maxKeep = 32

func newFlushSize(largest flushLimit) flushSize { return flushSize{limit: largest, largest: largest} }

// failed makes the next flush half as large as the one that failed.
func (s *flushSize) failed(f *spend.Flush) {
	if s.doubled {
		s.keep = min(max(1, 2*s.keep), maxKeep)
	}
	s.kept, s.doubled = 0, false
	texts, rows := 0, len(f.Totals)+len(f.Rollups)
	for i := range f.Facts {
		rows += f.Facts[i].Pieces.Len()
	}
	for i := range f.Rollups {
		texts += f.Rollups[i].Texts()
	}
	// Also if the flush was larger than its limit, by its last batch: the same one would be made
	// again.
	s.limit = flushLimit{
		rows:  max(1, min(s.limit.rows, rows)/2),
		texts: max(1, min(s.limit.texts, texts)/2),
	}
}

// succeeded notes that a flush was committed, whatever its size.
func (s *flushSize) succeeded() {
	if s.limit == s.largest {
		s.keep, s.doubled = 0, false
		return
	}
	if s.kept++; s.kept <= s.keep {
		return
	}
	s.limit.rows = min(2*s.limit.rows, s.largest.rows)
	s.limit.texts = min(2*s.limit.texts, s.largest.texts)
	s.kept, s.doubled = 0, true
}
