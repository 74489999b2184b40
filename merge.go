package spendflush

import "github.com/spendflush/spendflush/spend"

// rowKind says how rows of one type are ordered and added up.
type rowKind[T any] struct {
	compare func(a, b *T) int
	add     func(to, from *T)
	texts   func(*T) int // bytes that the texts of the row take
}

var (
	totalRows = rowKind[spend.TotalRow]{
		compare: func(a, b *spend.TotalRow) int { return a.Key.Compare(b.Key) },
		add:     func(to, from *spend.TotalRow) { to.Counters.Add(&from.Counters) },
		texts:   (*spend.TotalRow).Texts,
	}
	rollupRows = rowKind[spend.RollupRow]{
		compare: (*spend.RollupRow).Compare,
		add:     func(to, from *spend.RollupRow) { to.Counters.Add(&from.Counters) },
		texts:   (*spend.RollupRow).Texts,
	}
)

// addEqual adds up neighbours with the same key, in place.
func addEqual[T any](rows []T, kind rowKind[T]) []T {
	n := 0
	for i := range rows {
		if n > 0 && kind.compare(&rows[n-1], &rows[i]) == 0 {
			kind.add(&rows[n-1], &rows[i])
			continue
		}
		rows[n] = rows[i]
		n++
	}
	return rows[:n]
}

// sums are the rows of batches, added up.
type sums struct {
	totals  merger[spend.TotalRow]
	rollups merger[spend.RollupRow]
	control spend.Control
	pieces  int // of facts, each of which is looked up and becomes a row
	batches int
}

func newSums() *sums {
	return &sums{totals: merger[spend.TotalRow]{kind: totalRows}, rollups: merger[spend.RollupRow]{kind: rollupRows}}
}

// add takes the rows over.
func (s *sums) add(r *spend.Rows) {
	s.totals.add(r.Totals)
	s.rollups.add(r.Rollups)
	s.control.Add(&r.Control)
	s.pieces += r.Pieces.Len()
	s.batches++
}

// rows returns how many rows are held, those of ids included.
func (s *sums) rows() int { return s.totals.len() + s.rollups.len() + s.pieces }

// texts returns how many bytes their texts take.
func (s *sums) texts() int { return s.totals.texts() + s.rollups.texts() }

// merger merges sorted runs as they come, and adds up rows with the same key. Runs of about the
// same length are merged at once, so that it holds little more than the distinct rows, and touches
// each only as often as there are lengths.
type merger[T any] struct {
	kind rowKind[T]
	runs []run[T] // each more than twice as long as the one after it
}

type run[T any] struct {
	rows  []T
	texts int
}

func (k rowKind[T]) run(rows []T) run[T] {
	r := run[T]{rows: rows}
	for i := range rows {
		r.texts += k.texts(&rows[i])
	}
	return r
}

// add takes a run over.
func (m *merger[T]) add(rows []T) {
	m.runs = append(m.runs, m.kind.run(rows))
	for n := len(m.runs); n > 1 && len(m.runs[n-2].rows) <= 2*len(m.runs[n-1].rows); n-- {
		m.mergeLast()
	}
}

func (m *merger[T]) mergeLast() {
	last := len(m.runs) - 1
	m.runs[last-1] = m.kind.run(mergePair(m.runs[last-1].rows, m.runs[last].rows, m.kind))
	m.runs = m.runs[:last]
}

// len returns how many rows are held.
func (m *merger[T]) len() (n int) {
	for _, run := range m.runs {
		n += len(run.rows)
	}
	return n
}

// texts returns how many bytes the texts of the rows held take.
func (m *merger[T]) texts() (n int) {
	for _, run := range m.runs {
		n += run.texts
	}
	return n
}

// rows returns all as one run, nil if there are none. The merger must not be used after it.
func (m *merger[T]) rows() []T {
	if len(m.runs) == 0 {
		return nil
	}
	for len(m.runs) > 1 {
		m.mergeLast()
	}
	return m.runs[0].rows
}

func mergePair[T any](a, b []T, kind rowKind[T]) []T {
	if len(a) == 0 {
		return b
	}
	if len(b) == 0 {
		return a
	}
	merged := make([]T, 0, max(len(a), len(b))*5/4)
	for len(a) > 0 && len(b) > 0 {
		switch c := kind.compare(&a[0], &b[0]); {
		case c < 0:
			merged, a = append(merged, a[0]), a[1:]
		case c > 0:
			merged, b = append(merged, b[0]), b[1:]
		default:
			merged, a = append(merged, a[0]), a[1:]
			kind.add(&merged[len(merged)-1], &b[0])
			b = b[1:]
		}
	}
	merged = append(merged, a...)
	return append(merged, b...)
}
