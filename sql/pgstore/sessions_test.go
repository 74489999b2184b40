package pgstore

import (
	"maps"
	"testing"
	"time"
)

func TestASessionThatWasEndedIsListedUntilItEndsByItself(t *testing.T) {
	s := open(t, database(t), Options{})
	now := time.Now().Truncate(time.Second)
	first, second, over := [16]byte{1}, [16]byte{2}, [16]byte{3}
	for id, ends := range map[[16]byte]time.Time{over: now.Add(-time.Minute), first: now.Add(time.Hour), second: now.Add(2 * time.Hour)} {
		for range 2 { // again it changes nothing
			if err := s.SignOut(t.Context(), id, ends); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.SignOut(t.Context(), first, now.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	ended, err := s.SignedOut(t.Context())
	same := func(a, b time.Time) bool { return a.Equal(b) }
	if want := map[[16]byte]time.Time{first: now.Add(time.Hour), second: now.Add(2 * time.Hour)}; err != nil || !maps.EqualFunc(ended, want, same) {
		t.Errorf("%v, %v; want %v", ended, err, want)
	}
	var rows int
	if err := s.pool.QueryRow(t.Context(), "SELECT count(*) FROM spendflush.signed_out").Scan(&rows); err != nil || rows != 2 {
		t.Errorf("%d rows are kept, %v", rows, err)
	}
}
