package spendflush

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/spendflush/spendflush/spend"
)

func TestWhatIsHeldAgesFromItsAcceptanceAndNotFromItsSeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &faults{}
		r := newRig(t, true, 2, f)
		r.start(t)
		time.Sleep(time.Minute + 50*time.Millisecond) // idle: what comes now, between two seals, is young all the same
		if s := r.Status(); !s.OldestHeld.IsZero() || len(s.Flushes) != 0 {
			t.Errorf("nothing was recorded, and the oldest held is of %s, with %d flushes", s.OldestHeld, len(s.Flushes))
		}
		f.setAll(true)
		accepted := time.Now()
		for range 40 { // more than are sealed while nothing goes on: the last ones wait in the open map
			r.record(t, spend.Update{Cost: spend.Cost{Spend: spend.Dollars(1)}, Series: spend.Series{APIKey: "k"}})
			time.Sleep(300 * time.Millisecond)
		}
		s := r.Status()
		if s.Open.Updates == 0 || s.Shards[0].Unconfirmed+s.Shards[1].Unconfirmed == 0 {
			t.Fatalf("open %d updates, %d batches: the test doesn't test what it says", s.Open.Updates, s.Shards[0].Unconfirmed)
		}
		if early := accepted.Sub(s.OldestHeld); early < 0 || early > r.cfg.SealInterval {
			t.Errorf("the oldest held is said to be accepted %s before it was", early)
		}
		f.setAll(false)
		eventually(t, "everything is committed", func() bool { return r.Status().OldestHeld.IsZero() })
		r.end(t)
	})
}

func TestOnlyWhatIsOpenAgesToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &faults{}
		f.setAll(true)
		r := newRig(t, true, 1, f)
		r.record(t, spend.Update{Cost: spend.Cost{Spend: spend.Dollars(1)}, Series: spend.Series{APIKey: "k"}}) // it doesn't run yet, so nothing is sealed
		made := r.started
		time.Sleep(10 * time.Second)
		if s := r.Status(); !s.OldestHeld.Equal(made) {
			t.Errorf("the oldest held is of %s, the pipeline was made %s", s.OldestHeld, made)
		}
		f.setAll(false)
		r.start(t)
		r.end(t)
	})
}

func TestStatusTellsTheLastFlushesNewestFirstAndNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, 1, &faults{})
		r.start(t)
		for n := range int64(25) {
			for range n + 1 {
				r.record(t, spend.Update{Cost: spend.Cost{Spend: spend.Dollars(2)}, Series: spend.Series{APIKey: "k"}})
			}
			eventually(t, "the flush", func() bool { return r.Status().OldestHeld.IsZero() })
		}
		flushes := r.Status().Flushes
		if len(flushes) != 20 {
			t.Fatalf("%d flushes instead of the last 20", len(flushes))
		}
		for i, got := range flushes {
			n := int64(25 - i)
			if got.Updates != n || got.Amount != spend.Dollars(2*n) || got.Batches != 1 || got.Rows != 2 || got.Path != "queue" {
				t.Errorf("flush %d: %+v", i, got)
			}
			if got.Behind <= 0 || got.Behind > 2 || i > 0 && !got.At.Before(flushes[i-1].At) {
				t.Errorf("flush %d: at %s, %v s behind", i, got.At, got.Behind)
			}
		}
		r.end(t)
	})
}

func TestWhatIsBeingSealedIsHeldAllTheTime(t *testing.T) {
	p := newRig(t, false, 1, &faults{}).Pipeline // it doesn't run, so all that is sealed stays
	const updates = 20_000                       // so many that their seal takes some milliseconds
	for i := range updates {
		u := benchUpdate(i)
		if err := p.Record(&u); err != nil {
			t.Fatal(err)
		}
	}
	sealed := make(chan struct{})
	go func() {
		defer close(sealed)
		p.seal(false)
	}()
	for looks := 0; ; looks++ {
		s := p.Status()
		if held := s.Open.Updates + s.Shards[0].Updates; held != updates {
			t.Fatalf("%d updates are held, %d open and %d in batches; want %d", held, s.Open.Updates, s.Shards[0].Updates, updates)
		}
		if s.OldestHeld.IsZero() {
			t.Fatal("nothing is said to be held")
		}
		if s.Shards[0].Updates == updates {
			if looks == 0 {
				t.Fatal("nothing was seen of the seal")
			}
			break
		}
	}
	<-sealed
}
