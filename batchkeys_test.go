package spendflush

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
)

// testBatchKey is one of several keys, as good as random.
func testBatchKey(n byte) []byte {
	key := sha256.Sum256([]byte{n})
	return key[:]
}

func signedBatch(t testing.TB, keys BatchKeys, sequence uint64) *Batch {
	rows := randomRows(t, newRand(t), 5)
	return keys.NewBatch(testHeader(testProducer(1), sequence), rows.totals, rows.rollups)
}

func TestASignatureIsTheHMACOfAllBytesButTheChecksum(t *testing.T) {
	key := testBatchKey(1)
	b := signedBatch(t, BatchKeys{Key: key}, 1)
	all := b.Bytes()
	body := all[:len(all)-sha256.Size]
	h := hmac.New(sha256.New, key)
	h.Write(body[:4])
	h.Write(body[8:])
	if got := all[len(body):]; !hmac.Equal(got, h.Sum(nil)) {
		t.Errorf("signature %x, want %x", got, h.Sum(nil))
	}
	parsed, err := (&BatchKeys{Key: key}).ParseBatch(all)
	if err != nil || parsed.Digest() != b.Digest() {
		t.Fatal(err)
	}
	mustRows(t, parsed)
}

func TestABatchIsAcceptedOnlyWithASignatureOfAKnownKey(t *testing.T) {
	one, two, three := testBatchKey(1), testBatchKey(2), testBatchKey(3)
	unsigned := signedBatch(t, BatchKeys{}, 1).Bytes()
	byOne := signedBatch(t, BatchKeys{Key: one, Accepted: three}, 1).Bytes()
	byTwo := signedBatch(t, BatchKeys{Key: two}, 1).Bytes()
	flagOnly := bytes.Clone(unsigned) // says that it is signed, and is not
	flagOnly[batchSignedAt] = 1
	closeFrame(flagOnly)
	cut := bytes.Clone(byOne[:batchHeaderSize])
	closeFrame(cut)
	for _, c := range []struct {
		name  string
		keys  BatchKeys
		bytes []byte
		ok    bool
	}{
		{"its key", BatchKeys{Key: one}, byOne, true},
		{"another key", BatchKeys{Key: two}, byOne, false},
		{"the other accepted key", BatchKeys{Key: two, Accepted: one}, byOne, true},
		{"the signing key beside an accepted one", BatchKeys{Key: two, Accepted: one}, byTwo, true},
		{"neither key", BatchKeys{Key: two, Accepted: three}, byOne, false},
		{"unsigned", BatchKeys{Key: one}, unsigned, false},
		{"unsigned, accepted for now", BatchKeys{Key: one, Unsigned: true}, unsigned, true},
		{"another key though unsigned ones are accepted", BatchKeys{Key: two, Unsigned: true}, byOne, false},
		{"said to be signed", BatchKeys{Key: one, Unsigned: true}, flagOnly, false},
		{"cut", BatchKeys{Key: one}, cut, false},
		{"nothing", BatchKeys{Key: one}, nil, false},
		{"no keys: unsigned", BatchKeys{}, unsigned, true},
		{"no keys: signed", BatchKeys{}, byOne, true},
	} {
		b, err := c.keys.ParseBatch(c.bytes)
		if c.ok {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
				continue
			}
			mustRows(t, b)
		} else if !errors.Is(err, ErrNotSigned) {
			t.Errorf("%s: %v; want ErrNotSigned", c.name, err)
		}
	}
}

// The checksum is made right again: whoever forges a batch can do so.
func TestNoBitOfASignedBatchCanBeChanged(t *testing.T) {
	keys := BatchKeys{Key: testBatchKey(1)}
	whole := signedBatch(t, keys, 1).Bytes()
	for bit := range len(whole) * 8 {
		if at := bit / 8; at >= 4 && at < 12 { // the checksum and the length, which are made right again
			continue
		}
		forged := bytes.Clone(whole)
		forged[bit/8] ^= 1 << (bit % 8)
		closeFrame(forged)
		if _, err := keys.ParseBatch(forged); !errors.Is(err, ErrNotSigned) {
			t.Fatalf("bit %d flipped: %v; want ErrNotSigned", bit, err)
		}
	}
}

func TestABatchThatIsSignedAnewKeepsItsDigest(t *testing.T) {
	b := signedBatch(t, BatchKeys{Key: testBatchKey(1)}, 1)
	another := BatchKeys{Key: testBatchKey(2)}
	again, err := another.ParseBatch(another.sign(bytes.Clone(b.Bytes())))
	if err != nil || again.Digest() != b.Digest() || len(again.Bytes()) != len(b.Bytes()) {
		t.Errorf("%v: digest %x, want %x", err, again.Digest(), b.Digest())
	}
}

func TestWeakBatchKeysAreRefusedAndNeverShown(t *testing.T) {
	good, weak := testBatchKey(1), []byte("0123456701234567012345670123456701234567")
	for _, keys := range []BatchKeys{
		{Key: good[:MinBatchKeyBytes-1]}, {Key: weak}, {Key: make([]byte, 64)}, {Key: good, Accepted: good[:16]}, {Key: good, Accepted: weak},
		{Accepted: good}, {Unsigned: true},
	} {
		c := Config{Store: newMemoryStore(), DirectLocker: newMemoryLocker(), BatchKeys: keys}
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
	if err := (&BatchKeys{Key: good, Accepted: testBatchKey(2)}).Validate(); err != nil {
		t.Error(err)
	}
}

// forge is a batch that whoever has read the queue can make: of a living producer, next in its chain.
func forge(t testing.TB, id ProducerID, after Mark, keys BatchKeys) *Batch {
	t.Helper()
	rows := sealUpdates(t, []Update{forgedUpdate}, 0)
	h := testHeader(id, after.Sequence+1)
	h.PriorDigest, h.PriorUpdates, h.PriorAmount = after.Digest, after.Updates, after.Amount
	return keys.NewBatch(h, rows.totals, rows.rollups)
}

// forgedUpdate is what forge counts.
var forgedUpdate = Update{Spend: Dollars(1_000_000), Series: Series{APIKey: "victim"}}

// commit books the update, and waits for it.
func (r *rig) commit(t *testing.T, u Update) {
	t.Helper()
	if stage, err := r.Wait(t.Context(), r.record(t, u), Committed); err != nil || stage != Committed {
		t.Fatalf("%s, %v", stage, err)
	}
}

// kept returns what is in quarantine.
func (s *memoryStore) kept() []BadBatch {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.quarantine))
}

func TestForgedBatchesAreNeverAppliedAndTheirProducersGoOn(t *testing.T) {
	keys := BatchKeys{Key: testBatchKey(1)}
	for name, by := range map[string]BatchKeys{"unsigned": {}, "another key": {Key: testBatchKey(2)}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, true, 1, &faults{})
				c := r.cfg
				c.BatchKeys = keys
				r.Pipeline = newTestPipeline(t, c)
				r.start(t)
				r.commit(t, key("a"))
				id := r.lanes[0].identity()
				forged := forge(t, id, r.store.state.marks[0][id].Mark, by)
				if _, err := r.queue.Push(t.Context(), forged, ""); err != nil {
					t.Fatal(err)
				}
				eventually(t, "it is in quarantine", func() bool { return len(r.store.kept()) == 1 && r.queue.len(0) == 0 })
				r.commit(t, key("b"))
				if now := r.lanes[0].identity(); now != id {
					t.Error("the producer goes on under another identity")
				}
				bad := r.store.kept()[0]
				if !bad.Foreign || !bytes.Equal(bad.Bytes, forged.Bytes()) || !strings.Contains(bad.Reason, "signed") {
					t.Errorf("in quarantine is %+v", bad)
				}
				r.end(t)
			})
		})
	}
}

// Without a key a forged batch can take a place in the books, but not unnoticed: its producer is never told that its own one
// there is committed.
func TestAForgedBatchOfALivingProducerIsNoticedWithoutAKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, 1, &faults{})
		r.start(t)
		r.commit(t, key("a"))
		id := r.lanes[0].identity()
		if _, err := r.queue.Push(t.Context(), forge(t, id, r.store.state.marks[0][id].Mark, BatchKeys{}), ""); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it goes on under another identity", func() bool { return r.lanes[0].identity() != id })
		r.commit(t, key("b"))
		r.want.book(&forgedUpdate, 0)
		r.end(t)
	})
}

func TestWhatAJournalHasUnsignedIsSetAsideOnceAKeyIsSet(t *testing.T) {
	for _, accepted := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, true, 1, &faults{})
			own, foreign := BatchKeys{Key: testBatchKey(1)}, BatchKeys{}
			rows := sealUpdates(t, []Update{key("signed")}, 0)
			signed := own.NewBatch(testHeader(testProducer(1), 1), rows.totals, rows.rollups)
			rows = sealUpdates(t, []Update{key("unsigned")}, 0)
			unsigned := foreign.NewBatch(testHeader(testProducer(2), 1), rows.totals, rows.rollups)
			j := &memoryJournal{batches: []*Batch{signed, unsigned}}
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
			marks := r.store.state.marks[0]
			if marks[testProducer(1)].Sequence != 1 || (marks[testProducer(2)].Sequence == 1) != accepted {
				t.Errorf("accepted %v: marks %+v", accepted, marks)
			}
			aside := slices.ContainsFunc(r.store.kept(), func(b BadBatch) bool { return bytes.Equal(b.Bytes, unsigned.Bytes()) && b.Foreign })
			if aside == accepted {
				t.Errorf("accepted %v, in quarantine %v", accepted, aside)
			}
		})
	}
}

// A fleet gets its first key, and later another one, instance by instance: neither the old nor the new ones refuse what the
// others have sealed, if it is done as the runbook says.
func TestKeysAreRolledOutAndReplacedWithoutRefusingAnyInstance(t *testing.T) {
	one, two := testBatchKey(1), testBatchKey(2)
	steps := []BatchKeys{
		{}, {Key: one, Unsigned: true}, {Key: one}, // the first key
		{Key: one, Accepted: two}, {Key: two, Accepted: one}, {Key: two}, // another one
		{Key: two, Unsigned: true}, {}, // none any more
	}
	for i := range steps[:len(steps)-1] {
		from, to := steps[i], steps[i+1]
		for _, pair := range [][2]BatchKeys{{from, to}, {to, from}} {
			b := signedBatch(t, pair[0], 1)
			if _, err := pair[1].ParseBatch(b.Bytes()); err != nil {
				t.Errorf("step %d: %v", i, err)
			}
		}
	}
}

// FuzzNothingUnsignedIsAccepted puts a right frame around the bytes, as whoever forges a batch does.
func FuzzNothingUnsignedIsAccepted(f *testing.F) {
	keys := BatchKeys{Key: testBatchKey(1), Accepted: testBatchKey(2)}
	signed := signedBatch(f, keys, 1).Bytes()
	f.Add(signed)
	f.Add(signedBatch(f, BatchKeys{Key: testBatchKey(3)}, 1).Bytes())
	f.Add(signedBatch(f, BatchKeys{}, 1).Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, framed := range []bool{false, true} {
			if framed {
				if len(b) < batchHeaderSize {
					return
				}
				b = bytes.Clone(b)
				closeFrame(b)
			}
			if _, err := keys.ParseBatch(b); err == nil && !bytes.Equal(b, signed) {
				t.Fatalf("accepted: %x", b)
			} else if err != nil && !errors.Is(err, ErrNotSigned) && !errors.Is(err, ErrCorruptBatch) {
				t.Fatal(err)
			}
		}
	})
}

// A process that has a key signs what an earlier one without one left. What goes on from it knows it by its digest.
func TestABatchKeepsItsDigestWhenItIsSigned(t *testing.T) {
	plain := testBatch(t, 1, 1)
	keys := &BatchKeys{Key: []byte("0123456789abcdefghijklmnopqrstuvwxyz")}
	signed, err := keys.ParseBatch(plain.forBooks(testBooks, keys).Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if !isSigned(signed.bytes) || signed.Digest() != plain.Digest() {
		t.Errorf("signed it has the digest %x, unsigned %x", signed.Digest(), plain.Digest())
	}
}
