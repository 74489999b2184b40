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

func TestNoTokenTakesThePlacesOfOthersInTheListOfEndedSessions(t *testing.T) {
	s := open(t, database(t), Options{})
	_, err := s.pool.Exec(t.Context(), "INSERT INTO spendflush.signed_out SELECT ('aaaaaaaa-aaaa-aaaa-0000-' || to_char(i, 'FM000000000000'))::uuid, "+
		"now() + interval '2 hours' + i * interval '1 ms' FROM generate_series(1, $1::integer) AS i", 2*maxSignedOut)
	if err != nil {
		t.Fatal(err)
	}
	others := [][16]byte{{0xaa, 15: 1}, {0xaa, 15: 2}, {0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xab}}
	for _, id := range others { // which end before all of those
		if err := s.SignOut(t.Context(), id, time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}

	ended, err := s.SignedOut(t.Context())
	if err != nil || len(ended) != maxSignedOut {
		t.Fatal(len(ended), err)
	}
	first := time.Now().Add(3 * time.Hour)
	for id, ends := range ended {
		if id[7] == 0xaa && ends.Before(first) {
			first = ends
		}
	}
	for _, id := range others {
		if ended[id].IsZero() {
			t.Errorf("%x isn't listed", id)
		}
	}
	var before int
	if err := s.pool.QueryRow(t.Context(), "SELECT count(*) FROM spendflush.signed_out WHERE ends_at < $1 AND session >= 'aaaaaaaa-aaaa-aaaa-0000-000000000000'"+
		" AND session < 'aaaaaaaa-aaaa-aaab-0000-000000000000'", first).Scan(&before); err != nil || before != maxSignedOut+len(others) {
		t.Errorf("%d of that token's sessions end before the first that is listed, %v", before, err)
	}
}
