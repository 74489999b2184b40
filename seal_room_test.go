package spendflush

import (
	"fmt"
	"strings"
	"testing"

	"github.com/spendflush/spendflush/spend"
)

// A million updates with long ids while Postgres stood still went 27 % above the bound.
func TestASealThatWouldGoAboveTheBoundOfUnconfirmedBytesWaits(t *testing.T) {
	const bound = 1 << 20
	p := newTestPipeline(t, Config{Store: newTestStore(), DirectLocker: newTestLocker(), Shards: 2, MaxUnconfirmedBytes: bound})
	n := 0
	record := func(updates int) {
		for range updates {
			u := spend.Update{Cost: spend.Cost{Spend: spend.Dollars(1)}, Series: spend.Series{APIKey: "k", EndUserID: strings.Repeat("x", 200) + fmt.Sprint(n)}}
			if err := p.Record(&u); err != nil {
				t.Fatal(err)
			}
			n++
		}
	}
	unconfirmed := func() (bytes int) {
		for _, r := range p.relays {
			bytes += r.outbox.bytes()
			for _, b := range r.outbox.batches {
				b.queued = true // so that only their bytes matter
			}
		}
		return bytes
	}
	seals := 0
	for range 50 {
		record(700)
		if p.haveRoom() {
			p.seal(false)
			seals++
		}
		if got := unconfirmed(); got > bound {
			t.Fatalf("after %d seals %d bytes are unconfirmed; allowed are %d", seals, got, bound)
		}
	}
	if seals < 3 || unconfirmed() < bound/2 {
		t.Errorf("only %d seals were made, of %d bytes", seals, unconfirmed())
	}

	// What is open is more than the bound by now. It is sealed once nothing else is unconfirmed:
	// nothing would get on else.
	for _, r := range p.relays {
		r.outbox.batches = nil
	}
	if !p.haveRoom() {
		t.Error("what is open is never sealed")
	}
}
