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
func missing(c *keyCache, n int) bool {
	partition, _ := c.partition(1, func(int) row { return row{key: keyOf(n)} })
	return len(partition.missing) == 1
}

func TestKnownKeysAreBoundedAndThoseInUseStay(t *testing.T) {
	c := &keyCache{limit: 100}
	c.learn([]row{{key: keyOf(0)}}, 0)
	for n := 1; n < 10_000; n++ {
		c.learn([]row{{key: keyOf(n)}}, 0)
		if missing(c, 0) {
			t.Fatalf("a key that every flush asks for is forgotten after %d others", n)
		}
		if size := c.size(); size > 2*c.limit {
			t.Fatalf("%d keys are remembered", size)
		}
	}
	if !missing(c, 1) {
		t.Error("a key not asked for is remembered for ever")
	}
}

func TestWhatATransactionLearnedFromBeforeAllWasEvictedIsNotRemembered(t *testing.T) {
	c := &keyCache{limit: 100}
	_, epoch := c.partition(1, func(int) row { return row{key: keyOf(1)} })
	c.evictAll()
	c.learn([]row{{key: keyOf(1)}}, epoch)
	if !missing(c, 1) {
		t.Error("the key is remembered though the dictionary is in doubt")
	}
	c.learn([]row{{key: keyOf(1)}}, epoch+1)
	if missing(c, 1) {
		t.Error("the key isn't remembered")
	}
}

func TestAStoreMayBeToldToRememberNothing(t *testing.T) {
	c := &keyCache{}
	c.learn([]row{{key: keyOf(1)}}, 0)
	if !missing(c, 1) || c.size() != 0 {
		t.Error("a key is remembered")
	}
}

func TestOfASeriesTheLastHourIsKnown(t *testing.T) {
	c := &keyCache{limit: 100}
	c.learn([]row{{keyOf(1), 8}, {keyOf(1), 7}}, 0) // a late update comes to an earlier hour
	for hour, want := range map[spend.Hour]bool{7: false, 8: true, 9: false} {
		p, _ := c.partition(1, func(int) row { return row{keyOf(1), hour} })
		if got := len(p.present) == 1; got != want || len(p.missing) != 0 || len(p.present)+len(p.unsure) != 1 {
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
