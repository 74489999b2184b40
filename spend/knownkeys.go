package spend

import (
	"encoding/binary"
	"hash/maphash"
	"math/bits"
	"sync"
)

// KnownKeys remembers of which texts keys were found to be the hashes. The same rows come with
// batch after batch, and a SHA-256 of each would take longer than all else that is done to decode
// it. What it forgets is hashed again.
//
// nil knows nothing. OwnKeys takes all for right.
type KnownKeys struct {
	mu    sync.Mutex // held while a batch is decoded; no I/O under it
	size  int        // slots, a power of two
	seed  maphash.Seed
	slots []knownKey // by the leading bits of the key, by which batches are sorted; nil before the first batch
}

type knownKey struct {
	key   Key
	texts uint64 // a hash under the seed, which is never known outside of the process
}

// OwnKeys is for batches that this process has sealed and kept in its memory.
var OwnKeys = &KnownKeys{}

// NewKnownKeys returns an empty one with at most so many slots, and more than half of them.
func NewKnownKeys(slots int) *KnownKeys {
	return &KnownKeys{seed: maphash.MakeSeed(), size: 1 << (bits.Len(uint(slots)) - 1)}
}

// use takes it for one batch, until what it returns is called.
func (k *KnownKeys) use() (done func()) {
	if k == nil || k == OwnKeys {
		return func() {}
	}
	k.mu.Lock()
	if k.slots == nil {
		k.slots = make([]knownKey, k.size)
	}
	return k.mu.Unlock
}

// isHash says whether the key is the hash of the canonical encoding. A row is booked on its key,
// and what the key stands for is taken from the first row that has it.
func (k *KnownKeys) isHash(key Key, canonical []byte) bool {
	switch k {
	case nil:
		return hashKey(canonical) == key
	case OwnKeys:
		return true
	}
	slot := &k.slots[binary.BigEndian.Uint32(key[:4])>>(33-bits.Len(uint(k.size)))]
	is := knownKey{key, maphash.Bytes(k.seed, canonical)}
	if *slot == is {
		return true
	}
	if hashKey(canonical) != key {
		return false
	}
	*slot = is
	return true
}
