package spendflush

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/spendflush/spendflush/spend"
)

// testBatchKey is one of several keys, as good as random.
func testBatchKey(n byte) []byte {
	key := sha256.Sum256([]byte{n})
	return key[:]
}

func signedBatch(t testing.TB, keys spend.BatchKeys, sequence uint64) *spend.Batch {
	rows := randomRows(t, newRand(t), 5)
	return keys.NewBatch(testHeader(testProducer(1), sequence), rows.totals, rows.rollups)
}

func TestWeakBatchKeysAreRefusedAndNeverShown(t *testing.T) {
	good, weak := testBatchKey(1), []byte("0123456701234567012345670123456701234567")
	for _, keys := range []spend.BatchKeys{
		{Key: good[:spend.MinBatchKeyBytes-1]}, {Key: weak}, {Key: make([]byte, 64)}, {Key: good, Accepted: good[:16]}, {Key: good, Accepted: weak},
		{Accepted: good}, {Unsigned: true},
	} {
		c := Config{Store: newTestStore(), DirectLocker: newTestLocker(), BatchKeys: keys}
		_, err := New(c)
		if err == nil || !strings.Contains(err.Error(), "BatchKeys") {
			t.Errorf("%d and %d bytes: %v", len(keys.Key), len(keys.Accepted), err)
			continue
		}
		for _, shown := range []string{string(weak), string(good[:16]), hex.EncodeToString(good[:16])} {
			if strings.Contains(err.Error(), shown) {
				t.Errorf("the key is shown: %v", err)
			}
		}
	}
	if err := (&spend.BatchKeys{Key: good, Accepted: testBatchKey(2)}).Validate(); err != nil {
		t.Error(err)
	}
}

// forge is a batch that whoever has read the queue can make: of a living producer, next in its
// chain.
func forge(t testing.TB, id spend.ProducerID, after spend.Mark, keys spend.BatchKeys) *spend.Batch {
	t.Helper()
	rows := sealUpdates(t, []spend.Update{forgedUpdate}, 0)
	h := testHeader(id, after.Sequence+1)
	h.PriorDigest, h.PriorUpdates, h.PriorAmount = after.Digest, after.Updates, after.Amount
	return keys.NewBatch(h, rows.totals, rows.rollups)
}

// forgedUpdate is what forge counts.
var forgedUpdate = spend.Update{Cost: spend.Cost{Spend: spend.Dollars(1_000_000)}, Series: spend.Series{APIKey: "victim"}}

// commit books the update, and waits for it.
func (r *rig) commit(t *testing.T, u spend.Update) {
	t.Helper()
	if stage, err := r.Wait(t.Context(), r.record(t, u), Committed); err != nil || stage != Committed {
		t.Fatalf("%s, %v", stage, err)
	}
}

func TestForgedBatchesAreNeverAppliedAndTheirProducersGoOn(t *testing.T) {
	keys := spend.BatchKeys{Key: testBatchKey(1)}
	for name, by := range map[string]spend.BatchKeys{"unsigned": {}, "another key": {Key: testBatchKey(2)}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, true, 1, &faults{})
				c := r.cfg
				c.BatchKeys = keys
				r.Pipeline = newTestPipeline(t, c)
				r.start(t)
				r.commit(t, key("a"))
				id := r.relays[0].identity()
				forged := forge(t, id, r.store.mark(0, id), by)
				if _, err := r.queue.Push(t.Context(), forged, ""); err != nil {
					t.Fatal(err)
				}
				eventually(t, "it is in quarantine", func() bool { return len(r.store.quarantined()) == 1 && r.queue.len(0) == 0 })
				r.commit(t, key("b"))
				if now := r.relays[0].identity(); now != id {
					t.Error("the producer goes on under another identity")
				}
				bad := r.store.quarantined()[0]
				if !bad.Foreign || !bytes.Equal(bad.Bytes, forged.Bytes()) || !strings.Contains(bad.Reason, "signed") {
					t.Errorf("in quarantine is %+v", bad)
				}
				r.end(t)
			})
		})
	}
}

// Without a key a forged batch can take a place in the books, but not unnoticed: its producer is
// never told that its own one there is committed.
func TestAForgedBatchOfALivingProducerIsNoticedWithoutAKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, 1, &faults{})
		r.start(t)
		r.commit(t, key("a"))
		id := r.relays[0].identity()
		if _, err := r.queue.Push(t.Context(), forge(t, id, r.store.mark(0, id), spend.BatchKeys{}), ""); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it goes on under another identity", func() bool { return r.relays[0].identity() != id })
		r.commit(t, key("b"))
		r.want.book(&forgedUpdate, 0)
		r.end(t)
	})
}

func TestWhatAJournalHasUnsignedIsSetAsideOnceAKeyIsSet(t *testing.T) {
	for _, accepted := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, true, 1, &faults{})
			own, foreign := spend.BatchKeys{Key: testBatchKey(1)}, spend.BatchKeys{}
			rows := sealUpdates(t, []spend.Update{key("signed")}, 0)
			signed := own.NewBatch(testHeader(testProducer(1), 1), rows.totals, rows.rollups)
			rows = sealUpdates(t, []spend.Update{key("unsigned")}, 0)
			unsigned := foreign.NewBatch(testHeader(testProducer(2), 1), rows.totals, rows.rollups)
			j := &memoryJournal{batches: []*spend.Batch{signed, unsigned}}
			c := r.cfg
			c.Journal, c.BatchKeys = j, own
			c.BatchKeys.Unsigned = accepted
			r.Pipeline = newTestPipeline(t, c)
			r.start(t)
			eventually(t, "the journal is empty", func() bool { return j.len() == 0 })
			if err := r.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			<-r.ran
			first, second := r.store.mark(0, testProducer(1)), r.store.mark(0, testProducer(2))
			if first.Sequence != 1 || (second.Sequence == 1) != accepted {
				t.Errorf("accepted %v: marks %+v, %+v", accepted, first, second)
			}
			aside := slices.ContainsFunc(r.store.quarantined(), func(b spend.BadBatch) bool { return bytes.Equal(b.Bytes, unsigned.Bytes()) && b.Foreign })
			if aside == accepted {
				t.Errorf("accepted %v, in quarantine %v", accepted, aside)
			}
		})
	}
}

// A fleet gets its first key, and later another one, instance by instance: neither the old nor the
// new ones refuse what the others have sealed, if it is done as the runbook says.
func TestKeysAreRolledOutAndReplacedWithoutRefusingAnyInstance(t *testing.T) {
	one, two := testBatchKey(1), testBatchKey(2)
	steps := []spend.BatchKeys{
		{}, {Key: one, Unsigned: true}, {Key: one}, // the first key
		{Key: one, Accepted: two}, {Key: two, Accepted: one}, {Key: two}, // another one
		{Key: two, Unsigned: true}, {}, // none any more
	}
	for i := range steps[:len(steps)-1] {
		from, to := steps[i], steps[i+1]
		for _, pair := range [][2]spend.BatchKeys{{from, to}, {to, from}} {
			b := signedBatch(t, pair[0], 1)
			if _, err := pair[1].ParseBatch(b.Bytes()); err != nil {
				t.Errorf("step %d: %v", i, err)
			}
		}
	}
}
