package demo

import (
	"testing"
	"time"

	"github.com/spendflush/spendflush/internal/lab/load"
	"github.com/spendflush/spendflush/spend"
)

// sample returns a ledger of three updates of one key, and the updates.
func sample() (*ledger, []spend.Update) {
	l := newLedger()
	var updates []spend.Update
	for _, amount := range []int64{100, 10, 1} {
		u := spend.Update{Cost: spend.Cost{Spend: spend.Picodollars(amount), Time: time.Date(2026, 11, 20, 1, 2, 3, 0, time.UTC)}}
		u.APIKey, u.TeamID = "key", "team"
		l.note(&u)
		updates = append(updates, u)
	}
	return l, updates
}

// booked returns books with these updates.
func booked(updates ...spend.Update) *book {
	b := newBook()
	for i := range updates {
		u := &updates[i]
		c := load.Counters(u)
		b.add(&u.Series, u.Time.Format(time.DateOnly), &c)
	}
	return b
}

// told is a verdict of clients that were told of so many updates that they are committed.
func told(l *ledger, b *book, committed int64) *verdict {
	v := settle([]*ledger{l}, b)
	v.committed = committed
	return v
}

func TestUpdatesThatAreInTheBooksOnceAreExact(t *testing.T) {
	l, updates := sample()
	v := told(l, booked(updates...), 3)
	if !v.exact() || v.differences != 0 || v.updates != 3 || v.sent.Spend != spend.Picodollars(111) || v.booked != v.sent {
		t.Errorf("%+v", v)
	}
}

func TestWhatIsLostCountedTwiceOrElsewhereIsADifference(t *testing.T) {
	l, updates := sample()
	other := booked(updates...)
	for k, c := range other.days {
		delete(other.days, k)
		k.date = "2026-11-21"
		other.days[k] = c
	}

	stray := booked(updates...)
	stray.entities[spend.Entity{Type: spend.Tag, ID: "nobody's"}] = load.Counters(&updates[0])

	tokens := booked(updates...)
	key := spend.Entity{Type: spend.APIKey, ID: "key"}
	sum := tokens.entities[key]
	sum.PromptTokens++
	tokens.entities[key] = sum

	for name, b := range map[string]*book{
		"one twice": booked(append(updates, updates[1])...), "one lost": booked(updates[1:]...), "all lost": newBook(),
		"another day": other, "a row of nobody": stray, "a token": tokens,
	} {
		if v := told(l, b, 3); v.exact() || v.differences == 0 || len(v.shown) == 0 {
			t.Errorf("%s: no difference is seen: %+v", name, v)
		}
	}
}

func TestAnUpdateOfUnknownFateIsNotExactEvenIfItIsInTheBooks(t *testing.T) {
	l, updates := sample()
	v := told(l, booked(updates...), 2)
	v.unknown = 1
	if v.exact() {
		t.Errorf("a client doesn't know of one of its updates: %+v", v)
	}
	if v := told(l, booked(updates...), 2); v.exact() {
		t.Errorf("an update was answered by no instance: %+v", v)
	}
	if v := told(l, booked(updates...), 4); v.exact() {
		t.Errorf("more was answered than was sent: %+v", v)
	}
}
