package spendflush

// rowKind says how rows of one type are ordered and added up.
type rowKind[T any] struct {
	compare func(a, b *T) int
	add     func(to, from *T)
}

var (
	totalRows = rowKind[TotalRow]{
		compare: func(a, b *TotalRow) int { return a.Key.Compare(b.Key) },
		add:     func(to, from *TotalRow) { to.Counters.Add(&from.Counters) },
	}
	rollupRows = rowKind[RollupRow]{
		compare: (*RollupRow).compare,
		add:     func(to, from *RollupRow) { to.Counters.Add(&from.Counters) },
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

// mergeRuns merges sorted runs into one, adding up rows with the same key. It takes the runs over. Runs are merged in
// pairs, so that rows that recur in many runs are few early on.
func mergeRuns[T any](runs [][]T, kind rowKind[T]) []T {
	if len(runs) == 0 {
		return nil
	}
	for len(runs) > 1 {
		half := (len(runs) + 1) / 2
		for i := range len(runs) / 2 {
			runs[i] = mergePair(runs[i], runs[half+i], kind)
		}
		runs = runs[:half]
	}
	return runs[0]
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
