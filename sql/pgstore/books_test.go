package pgstore

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spendflush/spendflush/spend"
)

var strangeBooks = spend.BooksID{0xff, 15: 9}

func TestEveryDatabaseGetsAnIDOfItsOwn(t *testing.T) {
	s := open(t, database(t), Options{})
	before, err := s.BooksIdentity(t.Context())
	if err != nil || before.ID != testBooks || len(before.Earlier) != 1 || before.Earlier[0].IsZero() {
		t.Fatalf("%+v, %v", before, err)
	}
	id, err := s.NewBooksID(t.Context(), spend.BooksID{})
	if err != nil || id.IsZero() || id == testBooks || id == before.Earlier[0] {
		t.Fatalf("%s, %v", id, err)
	}
	after, err := s.BooksIdentity(t.Context())
	if err != nil || after.ID != id || len(after.Earlier) != 2 || after.Earlier[1] != testBooks || after.MadeAt.Before(before.MadeAt) {
		t.Errorf("%+v, %v", after, err)
	}
	if marks, err := s.Marks(t.Context(), 0, nil); err != nil || marks.Books != id {
		t.Errorf("marks are of %s, %v", marks.Books, err)
	}
	if g, err := s.Summary(t.Context()); err != nil || g.Books != id {
		t.Errorf("at a glance: %s, %v", g.Books, err)
	}
}

func TestAFlushOfOtherBooksLeavesNoTrace(t *testing.T) {
	s := open(t, database(t), Options{})
	for name, books := range map[string]spend.BooksID{"Others": strangeBooks, "None": {}} {
		t.Run(name, func(t *testing.T) {
			p := newProducer()
			f := flushOf(p, 1, 1, request{spend.Series{APIKey: "k"}, noon, one("1")})
			f.Books = books
			if err := s.Apply(t.Context(), f); !errors.Is(err, spend.ErrOtherBooks) {
				t.Errorf("apply: %v", err)
			}
			if got := s.Stats(); got.Retries != 0 {
				t.Errorf("it was tried again: %+v", got)
			}
			marks, err := s.Marks(t.Context(), 0, []spend.ProducerID{p})
			if err != nil || len(marks.Of) != 0 || marks.Changes != 0 {
				t.Errorf("marks %+v, %v", marks, err)
			}
		})
	}
	wantAudit(t, s)
}

// A flush that has claimed is over before the books get another id, and one that claims later is
// refused.
func TestANewIDWaitsForFlushesUnderWay(t *testing.T) {
	databaseURL := database(t)
	s, admin := open(t, databaseURL, Options{}), open(t, databaseURL, Options{})
	conn, err := s.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	tx := &transaction{store: s, conn: conn.Conn().PgConn()}
	defer tx.end(t.Context())
	f := flushOf(newProducer(), 1, 1, request{spend.Series{APIKey: "k"}, noon, one("1")})
	var e encoder
	encoded := encodeFlush(&e, f, nil, 1)
	if err := tx.beginAndClaim(t.Context(), f, encoded); err != nil {
		t.Fatal(err)
	}
	made := make(chan error, 1)
	go func() {
		_, err := admin.NewBooksID(t.Context(), strangeBooks)
		made <- err
	}()
	for waits := 0; waits == 0; time.Sleep(time.Millisecond) {
		waits = query[int](t, admin, "SELECT count(*)::int FROM pg_locks WHERE NOT granted AND mode = 'ShareRowExclusiveLock'")
		select {
		case err := <-made:
			t.Fatalf("it has not waited: %v", err)
		default:
		}
	}
	var rows encoder
	if err := tx.addAll(t.Context(), f, encoded, tx.prepare(&rows, f)); err != nil {
		t.Fatal(err)
	}
	if err := tx.commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	next := flushOf(newProducer(), 1, 1, request{spend.Series{APIKey: "k"}, noon, one("1")})
	if err := s.Apply(t.Context(), next); !errors.Is(err, spend.ErrOtherBooks) {
		t.Errorf("a later one: %v", err)
	}
	wantAudit(t, s)
}

func TestAQuarantinedBatchOfOtherBooksIsNotApplied(t *testing.T) {
	s := open(t, database(t), Options{})
	for _, unclaimed := range []bool{false, true} {
		f := flushOf(newProducer(), 1, 1, request{spend.Series{APIKey: "k"}, noon, one("1")})
		h := spend.Header{Books: strangeBooks, Producer: f.Claims[0].Producer, Sequence: 1}
		b := spend.NewBatch(h, f.Totals, f.Rollups)
		if err := s.Quarantine(t.Context(), []spend.BadBatch{{Reason: "of other books", Bytes: b.Bytes(), Unclaimed: unclaimed}}); err != nil {
			t.Fatal(err)
		}
	}
	list, err := s.Quarantined(t.Context(), false, 0, 10)
	if err != nil || len(list) != 2 {
		t.Fatalf("%d entries, %v", len(list), err)
	}
	for _, q := range list {
		err := s.ApplyQuarantined(t.Context(), q.ID, "test")
		if !errors.Is(err, ErrRefused) || !errors.Is(err, spend.ErrOtherBooks) || !strings.Contains(err.Error(), strangeBooks.String()) {
			t.Errorf("entry %d: %v", q.ID, err)
		}
	}
	if n := query[int](t, s, "SELECT count(*)::int FROM spendflush.rollup"); n != 0 {
		t.Errorf("%d rows are booked", n)
	}
}

func TestWitnessesAreWrittenNowAndThen(t *testing.T) {
	s := open(t, database(t), Options{})
	read := func(anew bool) []spend.Witness {
		t.Helper()
		list, err := s.Witnesses(t.Context(), testBooks, anew)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	first := read(false)
	execute(t, s.pool, "UPDATE spendflush.books SET witnessed_at = now() + interval '1 hour'") // a clock was put back
	second := read(false)
	execute(t, s.pool, "UPDATE spendflush.books SET witnessed_at = now()")
	if len(first) != 1 || len(second) != 2 || second[1] != first[0] || second[0] == first[0] {
		t.Errorf("%x, then %x", first, second)
	}
	if again := read(true); len(again) != 3 || !slices.Equal(again[1:], second) {
		t.Errorf("anew: %x after %x", again, second)
	}
	for range 100 {
		read(true)
	}
	if n := len(read(true)); n != 64 {
		t.Errorf("%d are kept", n)
	}
	if _, err := s.Witnesses(t.Context(), strangeBooks, true); !errors.Is(err, spend.ErrOtherBooks) {
		t.Errorf("of other books: %v", err)
	}
}

func TestThePlaceOfADatabaseHasNoPassword(t *testing.T) {
	place := func(url string) string { return open(t, url, Options{}).BooksPlace() }
	one := place("postgres://user:secret@h1:5432,h2:5433/books?sslmode=prefer")
	if one != place("postgres://other:password@h1:5432,h2:5433/books?sslmode=disable") {
		t.Error("it depends on user, password or TLS")
	}
	for _, other := range []string{"postgres://user:secret@h1:5432/books", "postgres://user:secret@h1:5432,h2:5433/other", "postgres://user:secret@h1:5432,h2:5434/books"} {
		if place(other) == one {
			t.Errorf("%s has the same place", other)
		}
	}
}
