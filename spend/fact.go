package spend

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/bits"
	"strings"
	"unicode/utf8"
)

// A fact is what one id of a caller names, and counts once. See docs/adr/0020-ids.md.

// FactKind says what an id names. The numbers are hashed; they never change their meaning.
type FactKind uint8

// The kinds of facts. An update and a request may have equal ids: they are two facts.
const (
	UpdateFact  FactKind = iota + 1 // one update, by its id
	RequestFact                     // all updates of one request, by its Idempotency-Key
)

func (k FactKind) String() string {
	switch k {
	case UpdateFact:
		return "update"
	case RequestFact:
		return "request"
	}
	return fmt.Sprintf("fact_kind(%d)", uint8(k))
}

// FactID is the identity of a fact: the first 128 bits of the SHA-256 of its kind and its id, which
// has its length before it.
type FactID [16]byte

// NewFactID returns the identity of what the id names, which CheckFactID has accepted. It allocates
// nothing.
func NewFactID(kind FactKind, id string) FactID {
	var array [2 + 2 + MaxIDBytes]byte
	sum := sha256.Sum256(appendText(append(array[:0], 'i', byte(kind)), id))
	return FactID(sum[:16])
}

// String returns the identity as 32 hexadecimal digits.
func (id FactID) String() string { return hex.EncodeToString(id[:]) }

// Compare orders identities by their bytes.
func (id FactID) Compare(other FactID) int { return Key(id).Compare(Key(other)) }

// The errors of CheckFactID.
var (
	ErrFactIDEmpty = errors.New("the id is empty; allowed are 1 to 256 bytes")
	ErrFactIDLong  = errors.New("the id is too long; allowed are 1 to 256 bytes")
	ErrFactIDNUL   = errors.New("the id holds a NUL character")
	ErrFactIDUTF8  = errors.New("the id is not valid UTF-8")
)

// CheckFactID says whether a text can be the id of an update or of a request: 1 to MaxIDBytes bytes
// of valid UTF-8 without NUL. The error is, or wraps, ErrFactIDEmpty, ErrFactIDLong, ErrFactIDNUL
// or ErrFactIDUTF8.
func CheckFactID(id string) error {
	switch {
	case id == "":
		return ErrFactIDEmpty
	case len(id) > MaxIDBytes:
		return fmt.Errorf("%d bytes: %w", len(id), ErrFactIDLong)
	case strings.IndexByte(id, 0) >= 0:
		return ErrFactIDNUL
	case !utf8.ValidString(id):
		return ErrFactIDUTF8
	}
	return nil
}

// Fingerprint is 48 bits of the hash of what a caller said under an id. Two contents with one
// fingerprint are taken for equal: of contents that differ, 1 in 2.8e14.
//
// It is about what the caller said: all texts of the series, also those that the rollup leaves out;
// tags as a set; the amount by its value; the counters; the status; and the time only if the caller
// gave one, as an instant. It isn't about the id, the spelling of numbers, or the order of the
// fields.
type Fingerprint uint64

// fingerprintBits is how many bits a Fingerprint has.
const fingerprintBits = 48

// fingerprintSize is how many bytes it takes in a batch.
const fingerprintSize = fingerprintBits / 8

// ContentOf returns the fingerprint of one update. The cost is as the caller gave it: its Time is
// zero if there was none. It allocates nothing where the texts have less than about 1 kB.
func ContentOf(s *Series, c *Cost) Fingerprint {
	sum := hashContent(s, c)
	return firstBits(&sum)
}

func firstBits(sum *[sha256.Size]byte) Fingerprint {
	return Fingerprint(binary.BigEndian.Uint64(sum[:8]) >> (64 - fingerprintBits))
}

func hashContent(s *Series, c *Cost) [sha256.Size]byte {
	var array [1024]byte
	b := s.AppendCanonical(append(array[:0], 'u'), AllDimensions)
	b = appendAmount(b, c.Spend)
	b = append(b, byte(c.Status))
	for i := range Counts - requestCounts {
		b = binary.AppendUvarint(b, uint64(*c.Tokens(i)))
	}
	if c.Time.IsZero() {
		b = append(b, 0)
	} else {
		b = binary.AppendVarint(append(b, 1), c.Time.Unix())
		b = binary.AppendUvarint(b, uint64(c.Time.Nanosecond()))
	}
	return sha256.Sum256(b)
}

// RequestContent makes the fingerprint of a request, update by update. The order of the updates
// means nothing, as it means nothing to what is counted; how often each comes does. The zero value
// is a request without updates.
type RequestContent struct {
	n      uint64
	hi, lo uint64 // the sum of 128 bits of each update's hash, modulo 2^128
}

// Add adds an update, as ContentOf takes it.
func (r *RequestContent) Add(s *Series, c *Cost) {
	sum := hashContent(s, c)
	var carry uint64
	r.lo, carry = bits.Add64(r.lo, binary.BigEndian.Uint64(sum[8:]), 0)
	r.hi, _ = bits.Add64(r.hi, binary.BigEndian.Uint64(sum[:]), carry)
	r.n++
}

// Fingerprint returns the fingerprint of the updates that were added.
func (r *RequestContent) Fingerprint() Fingerprint {
	b := binary.BigEndian.AppendUint64([]byte{'r'}, r.n)
	b = binary.BigEndian.AppendUint64(b, r.hi)
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(b, r.lo))
	return firstBits(&sum)
}
