package spend

import (
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
)

// ErrNotSigned is wrapped by errors about a batch that has no signature, or none by a key that is
// accepted.
var ErrNotSigned = errors.New("batch isn't signed by a key of this deployment")

// MinBatchKeyBytes is how long a key of BatchKeys must be, at least.
const MinBatchKeyBytes = 32

// minBatchKeyKinds is how many different bytes it must have: 32 random ones have about 30.
const minBatchKeyKinds = 16

const signatureSize = sha256.Size

// BatchKeys are the keys by which batches are signed and known to be the deployment's own, whoever
// may write to the queue, to the directory of the journal or to the quarantine. The zero value has
// none: nothing is signed, and every batch is taken, signatures unseen.
//
// A signature is the HMAC-SHA-256 of all bytes of a batch but its checksum. It says nothing of
// when: that a batch is counted once is up to the claim, as always.
type BatchKeys struct {
	Key      []byte // signs what is sealed, and is accepted; MinBatchKeyBytes random bytes or more
	Accepted []byte // is accepted, too, and signs nothing; for the time in which Key is replaced
	Unsigned bool   // batches without signature are accepted, too; for the time in which the first Key is introduced
}

// Validate says what is wrong with the keys, without showing them.
func (k *BatchKeys) Validate() error {
	if err := validateBatchKey("Key", k.Key); err != nil {
		return err
	}
	if err := validateBatchKey("Accepted", k.Accepted); err != nil {
		return err
	}
	if len(k.Key) == 0 && (len(k.Accepted) > 0 || k.Unsigned) {
		return errors.New("the fields Accepted and Unsigned need a Key; without one every batch is accepted")
	}
	return nil
}

func validateBatchKey(name string, key []byte) error {
	if len(key) == 0 {
		return nil
	}
	if len(key) < MinBatchKeyBytes {
		return fmt.Errorf("%s: %d bytes; allowed are %d random ones and more", name, len(key), MinBatchKeyBytes)
	}
	var kinds [256]bool
	n := 0
	for _, b := range key {
		if !kinds[b] {
			kinds[b] = true
			n++
		}
	}
	if n < minBatchKeyKinds {
		return fmt.Errorf("%s: %d different bytes; allowed are random keys, which have %d and more", name, n, minBatchKeyKinds)
	}
	return nil
}

// Check says whether the bytes are signed by one of the keys, before anything else is read of them.
// Without a Key it always does. The error wraps ErrNotSigned.
func (k *BatchKeys) Check(b []byte) error {
	if len(k.Key) == 0 {
		return nil
	}
	if !isSigned(b) {
		if k.Unsigned {
			return nil
		}
		return fmt.Errorf("%w: it has no signature", ErrNotSigned)
	}
	if len(b) >= batchHeaderSize+signatureSize {
		got := b[len(b)-signatureSize:]
		if hmac.Equal(got, signature(k.Key, b)) || len(k.Accepted) > 0 && hmac.Equal(got, signature(k.Accepted, b)) {
			return nil
		}
	}
	return fmt.Errorf("%w: its signature is wrong, or made with another key", ErrNotSigned)
}

// ParseBatch checks the signature and then does what the function ParseBatch does. The error may
// wrap ErrNotSigned, too.
func (k *BatchKeys) ParseBatch(b []byte) (*Batch, error) {
	if err := k.Check(b); err != nil {
		return nil, err
	}
	return ParseBatch(b)
}

// sign returns the bytes of a batch with a signature behind them, made anew if they have one;
// without a Key as they are. It takes them over.
func (k *BatchKeys) sign(b []byte) []byte {
	if len(k.Key) == 0 {
		return b
	}
	if !isSigned(b) {
		b = append(b, make([]byte, signatureSize)...)
		b[batchSignedAt] = 1
	}
	closeFrame(b)
	copy(b[len(b)-signatureSize:], signature(k.Key, b))
	closeFrame(b)
	return b
}

// IsSigned says whether there is a signature behind the batch, right or wrong.
func (b *Batch) IsSigned() bool { return isSigned(b.bytes) }

func isSigned(b []byte) bool { return len(b) > batchSignedAt && b[batchSignedAt] == 1 }

// signature is that of the bytes of a signed batch.
func signature(key, b []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(b[:4])
	h.Write(b[8 : len(b)-signatureSize])
	return h.Sum(nil)
}
