package pgstore

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/spendflush/spendflush/spend"
)

func keyOf(n int) (key spend.Key) {
	binary.BigEndian.PutUint64(key[:], uint64(n))
	return key
}

// missing asks for one key.
func missing(k *known, n int) bool {
	parted, _ := k.part(1, func(int) row { return row{key: keyOf(n)} })
	return len(parted.strange) == 1
}

func TestKnownKeysAreBoundedAndThoseInUseStay(t *testing.T) {
	k := &known{limit: 100}
	k.learn([]row{{key: keyOf(0)}}, 0)
	for n := 1; n < 10_000; n++ {
		k.learn([]row{{key: keyOf(n)}}, 0)
		if missing(k, 0) {
			t.Fatalf("a key that every flush asks for is forgotten after %d others", n)
		}
		if size := k.size(); size > 2*k.limit {
			t.Fatalf("%d keys are remembered", size)
		}
	}
	if !missing(k, 1) {
		t.Error("a key not asked for is remembered for ever")
	}
}

func TestWhatATransactionLearnedFromBeforeAllWasForgottenIsNotRemembered(t *testing.T) {
	k := &known{limit: 100}
	_, epoch := k.part(1, func(int) row { return row{key: keyOf(1)} })
	k.forget()
	k.learn([]row{{key: keyOf(1)}}, epoch)
	if !missing(k, 1) {
		t.Error("the key is remembered though the dictionary is in doubt")
	}
	k.learn([]row{{key: keyOf(1)}}, epoch+1)
	if missing(k, 1) {
		t.Error("the key isn't remembered")
	}
}

func TestAStoreMayBeToldToRememberNothing(t *testing.T) {
	k := &known{}
	k.learn([]row{{key: keyOf(1)}}, 0)
	if !missing(k, 1) || k.size() != 0 {
		t.Error("a key is remembered")
	}
}

func TestOfASeriesTheLastHourIsKnown(t *testing.T) {
	k := &known{limit: 100}
	k.learn([]row{{keyOf(1), 8}, {keyOf(1), 7}}, 0) // a late update comes to an earlier hour
	for hour, want := range map[spend.Hour]bool{7: false, 8: true, 9: false} {
		p, _ := k.part(1, func(int) row { return row{keyOf(1), hour} })
		if got := len(p.there) == 1; got != want || len(p.strange) != 0 || len(p.there)+len(p.fresh) != 1 {
			t.Errorf("hour %d: %+v", hour, p)
		}
	}
}

func TestTheFirstRowsOfAnHourAreNotTakenForKnown(t *testing.T) {
	s := open(t, database(t), Options{})
	series := spend.Series{APIKey: "k"}
	p := newProducer()
	for i := range uint64(6) {
		apply(t, s, flushOf(p, i+1, i+1, request{series, noon + spend.Hour(i/2), one("1")}))
	}
	if got := s.Stats(); got.Relearned != 0 || got.Interned != 2 {
		t.Errorf("%+v; want two texts sent, and nothing learned anew", got)
	}
	if got := query[int](t, s, "SELECT count(*) FROM spendflush.rollup WHERE successful_requests = 2"); got != 3 {
		t.Errorf("%d hours of two requests, want 3", got)
	}
	wantAudit(t, s)
}

// Two instances: each has rows that only the other one knows to be there.
func TestRowsThatAnotherStoreHasMadeAreAddedTo(t *testing.T) {
	databaseURL := database(t)
	one, other := open(t, databaseURL, Options{}), open(t, databaseURL, Options{})
	p := newProducer()
	requests := traffic(rand.New(rand.NewPCG(32, 1)), 50, 20)
	for i, s := range []*Store{one, other, one, other} {
		apply(t, s, flushOf(p, uint64(i)+1, uint64(i)+1, requests...))
	}
	wantAudit(t, one)
	for _, table := range []string{"total", "rollup"} {
		if got := query[int](t, one, "SELECT count(*) FROM spendflush."+table+" WHERE (successful_requests + failed_requests) % 4 != 0"); got != 0 {
			t.Errorf("%d rows of %s don't have four times the same", got, table)
		}
	}
}

func TestARowThatIsGoneIsMadeAgain(t *testing.T) {
	for _, table := range []string{"total", "rollup"} {
		s := open(t, database(t), Options{})
		p := newProducer()
		requests := traffic(rand.New(rand.NewPCG(31, 1)), 50, 20)
		for i := range requests {
			requests[i].hour = noon
		}
		apply(t, s, flushOf(p, 1, 1, requests...))
		execute(t, s.pool, "DELETE FROM spendflush."+table+" WHERE ctid = (SELECT min(ctid) FROM spendflush."+table+")")
		apply(t, s, flushOf(p, 2, 2, requests...))
		apply(t, s, flushOf(p, 3, 3, requests...))
		got := s.Stats()
		if got.Relearned != 1 {
			t.Errorf("%s: %+v; want the rows to be learned anew, once", table, got)
		}
		// The row that was deleted has two flushes, all others three.
		rows := query[int](t, s, "SELECT count(*) FROM spendflush."+table)
		if whole := query[int](t, s, "SELECT count(*) FROM spendflush."+table+" WHERE (successful_requests + failed_requests) % 3 = 0"); rows < 10 || whole < rows-1 {
			t.Errorf("%s: %d of %d rows have three times the same", table, whole, rows)
		}
	}
}
