package spend

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"testing"
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

// FuzzNothingUnsignedIsAccepted puts a right frame around the bytes, as whoever forges a batch
// does.
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

// A process that has a key signs what an earlier one without one left. What goes on from it knows
// it by its digest.
func TestABatchKeepsItsDigestWhenItIsSigned(t *testing.T) {
	plain := signedBatch(t, BatchKeys{}, 1)
	keys := &BatchKeys{Key: []byte("0123456789abcdefghijklmnopqrstuvwxyz")}
	signed, err := keys.ParseBatch(plain.ForBooks(BooksID{1}, keys).Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if !signed.IsSigned() || signed.Digest() != plain.Digest() {
		t.Errorf("signed it has the digest %x, unsigned %x", signed.Digest(), plain.Digest())
	}
}
