package demo

import (
	"fmt"
	"testing"
	"time"

	"github.com/spendflush/spendflush/internal/lab/load"
	"github.com/spendflush/spendflush/spend"
)

// sample returns a ledger of one acknowledged request and two without an answer.
func sample() *ledger {
	c := &client{ledger: newLedger()}
	request := func(cents int64) []spend.Update {
		u := spend.Update{Cost: spend.Cost{Spend: spend.Picodollars(cents), Time: time.Date(2026, 11, 20, 1, 2, 3, 0, time.UTC)}}
		u.APIKey, u.TeamID, u.EndUserID = "key", "team", fmt.Sprintf("client.%d", len(c.ledger.unanswered))
		return []spend.Update{u, u}
	}
	c.ledger.acknowledge(request(100))
	c.ledger.noteUnanswered(request(10))
	c.ledger.noteUnanswered(request(1))
	return c.ledger
}

// booked returns books with what was acknowledged, and with each of the requests without an answer as often as told.
func booked(l *ledger, often ...int) *book {
	b := newBook()
	for k, sum := range l.acknowledged {
		b.add(&sum.series, k.date, &sum.counters)
	}
	for i, n := range often {
		for range n {
			for j := range l.unanswered[i].updates {
				u := &l.unanswered[i].updates[j]
				c := load.Counters(u)
				b.add(&u.Series, u.Time.Format(time.DateOnly), &c)
			}
		}
	}
	return b
}

func TestARequestWithoutAnAnswerMayCountOnceOrNot(t *testing.T) {
	for _, often := range [][]int{{0, 0}, {1, 0}, {0, 1}, {1, 1}} {
		l := sample()
		v := settle([]*ledger{l}, booked(l, often...))
		want := spend.Picodollars(int64(200 + 20*often[0] + 2*often[1]))
		if v.differences != 0 || v.want != v.booked || v.want.Spend != want || v.counted.requests != int64(often[0]+often[1]) ||
			v.uncounted.requests != 2-v.counted.requests || v.acknowledged.updates != 2 {
			t.Errorf("%v: %+v", often, v)
		}
	}
}

func TestWhatCountsTwiceOrInPartIsADifference(t *testing.T) {
	l := sample()
	half := booked(l)
	u := &l.unanswered[0].updates[0]
	c := load.Counters(u)
	half.add(&u.Series, "2026-11-20", &c)

	lost := newBook()

	otherDay := booked(l, 1)
	for k, c := range otherDay.days {
		delete(otherDay.days, k)
		k.date = "2026-11-21"
		otherDay.days[k] = c
	}

	stray := booked(l, 1)
	stray.entities[spend.Entity{Type: spend.Tag, ID: "nobody's"}] = c

	tokens := booked(l, 1)
	key := spend.Entity{Type: spend.APIKey, ID: "key"}
	sum := tokens.entities[key]
	sum.PromptTokens++
	tokens.entities[key] = sum

	for name, b := range map[string]*book{
		"twice": booked(l, 2), "the last one twice": booked(l, 0, 2), "in part": half, "acknowledged and lost": lost,
		"another day": otherDay, "a row of nobody": stray, "a token": tokens,
	} {
		if v := settle([]*ledger{l}, b); v.differences == 0 || len(v.shown) == 0 {
			t.Errorf("%s: no difference is seen: %+v", name, v)
		}
	}
}
