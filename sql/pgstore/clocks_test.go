package pgstore

import (
	"testing"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// In these tests it is the world that is moved, not the clock of Postgres: where that is a year
// ahead, all that was done before lies a year back, and the clocks of the instances show a year
// ago.

const year = 365 * 24 * time.Hour

// keepsMark fails if the mark of the producer is gone, or its next batch can't be booked.
func keepsMark(t *testing.T, s *Store, p spend.ProducerID, next uint64) {
	t.Helper()
	marks, err := s.Marks(t.Context(), 0, []spend.ProducerID{p})
	if err != nil || marks.Pruned(p) || marks.Of[p].Sequence != next-1 {
		t.Fatalf("%+v, %v", marks, err)
	}
	apply(t, s, flushOf(p, next, next, costOne))
}

func TestAClockThatDiffersFromTheOtherPrunesNothing(t *testing.T) {
	for name, c := range map[string]struct{ postgres, client time.Duration }{
		"Postgres is a year ahead":     {postgres: year},
		"Postgres is two hours ahead":  {postgres: 2 * time.Hour},
		"an instance is a year ahead":  {client: year},
		"an instance is a year behind": {client: -year},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, database(t), Options{})
			other := bornAgo(c.postgres + 40*24*time.Hour)
			apply(t, s, flushOf(other, 1, 1, costOne))
			age(t, s, c.postgres+31*24*time.Hour) // with right clocks it would be just old enough to be pruned
			touchAt(t, s, newProducer(), time.Now().Add(c.client-c.postgres), 0)
			marks, err := s.Marks(t.Context(), 0, nil)
			if err != nil || !marks.Horizon.IsZero() {
				t.Errorf("the horizon is %s, %v", marks.Horizon, err)
			}
			keepsMark(t, s, other, 2)
		})
	}
}

func TestClocksThatJumpTogetherPruneNothingOfTheLiving(t *testing.T) {
	s := open(t, database(t), Options{})
	caller, other, dead := bornAgo(year+40*24*time.Hour), bornAgo(year+41*24*time.Hour), bornAgo(year+42*24*time.Hour)
	for _, p := range []spend.ProducerID{caller, other, dead} {
		apply(t, s, flushOf(p, 1, 1, costOne))
	}
	execute(t, s.pool, "UPDATE spendflush.producers SET first_seen = first_seen - interval '400 days'")
	age(t, s, year)
	for _, p := range []spend.ProducerID{caller, other} { // each touches its mark once an hour
		if pruned, err := s.TouchMarks(t.Context(), []spend.ProducerID{p}, time.Now(), month); err != nil || pruned != 0 {
			t.Fatalf("pruned are %d, %v", pruned, err)
		}
	}
	if pruned, err := s.TouchMarks(t.Context(), []spend.ProducerID{caller}, time.Now(), month); err != nil || pruned != 1 {
		t.Errorf("an hour later pruned are %d, %v; want the dead one's", pruned, err)
	}
	keepsMark(t, s, caller, 2)
	keepsMark(t, s, other, 2)
}

func TestAnInstanceThatHasJustBegunPrunesNothing(t *testing.T) {
	s := open(t, database(t), Options{})
	other := bornAgo(40 * 24 * time.Hour)
	apply(t, s, flushOf(other, 1, 1, costOne))
	age(t, s, 31*24*time.Hour)
	caller := newProducer()
	apply(t, s, flushOf(caller, 1, 1, costOne))
	if pruned, err := s.TouchMarks(t.Context(), []spend.ProducerID{caller}, time.Now(), month); err != nil || pruned != 0 {
		t.Errorf("pruned are %d, %v", pruned, err)
	}
	keepsMark(t, s, other, 2)
}

// Postgres's clock is behind, and then right again. What was seen before must not look as if it had
// been idle since.
func TestAClockThatIsBehindDoesNotMakeMarksLookIdle(t *testing.T) {
	s := open(t, database(t), Options{})
	living, other := bornAgo(40*24*time.Hour), bornAgo(41*24*time.Hour)
	apply(t, s, flushOf(living, 1, 1, costOne))
	apply(t, s, flushOf(other, 1, 1, costOne))
	age(t, s, -year)
	ahead := time.Now().Add(year)
	apply(t, s, flushOf(other, 2, 2, costOne))
	if _, err := s.TouchMarks(t.Context(), []spend.ProducerID{living}, ahead, month); err != nil {
		t.Fatal(err)
	}
	if n := query[int](t, s, "SELECT count(*) FROM spendflush.producers WHERE seen_at > now() + interval '364 days'"); n != 2 {
		t.Errorf("%d marks were seen when they were, want 2", n)
	}
}

// Postgres's clock was ahead. What is left of that must not keep marks for longer than other ones.
func TestAMarkSeenInTheFutureIsAsOldAsOneSeenNow(t *testing.T) {
	s := open(t, database(t), Options{})
	living, dead := bornAgo(40*24*time.Hour), bornAgo(41*24*time.Hour)
	apply(t, s, flushOf(living, 1, 1, costOne))
	apply(t, s, flushOf(dead, 1, 1, costOne))
	age(t, s, -year)
	touch(t, s, living, 0)
	if n := query[int](t, s, "SELECT count(*) FROM spendflush.producers WHERE seen_at > now() + interval '1 hour'"); n != 0 {
		t.Errorf("%d marks were seen in the future", n)
	}
	age(t, s, 31*24*time.Hour)
	touch(t, s, living, 1)
	keepsMark(t, s, living, 2)
}
