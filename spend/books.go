package spend

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrOtherBooks is wrapped where a batch, a flush or a note is of other books than those in the
// database. Nothing was written then.
var ErrOtherBooks = errors.New("it is of other books")

// ErrBooksUnknown is returned while Postgres hasn't told yet which books it has, and no note says
// so.
var ErrBooksUnknown = errors.New("it is not known yet which books Postgres has")

// ErrTwoDatabases is wrapped where another database uses the same books' id in the same queue, so
// that this one uses the queue no more.
var ErrTwoDatabases = errors.New("another database, a copy of this one, uses the same queue under the same books' id: run " +
	"`spendflush books new-id` on the copy")

// String returns the id as a UUID.
func (id BooksID) String() string {
	text := hex.EncodeToString(id[:])
	return strings.Join([]string{text[:8], text[8:12], text[12:16], text[16:20], text[20:]}, "-")
}

// MarshalText returns what String does.
func (id BooksID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what MarshalText has written.
func (id *BooksID) UnmarshalText(text []byte) (err error) {
	*id, err = ParseBooksID(string(text))
	return err
}

// IsZero says whether the id names no books.
func (id BooksID) IsZero() bool { return id == BooksID{} }

// ParseBooksID reads a UUID other than that of zeros.
func ParseBooksID(text string) (id BooksID, err error) {
	digits, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err != nil || len(digits) != len(id) || BooksID(digits).String() != strings.ToLower(text) || BooksID(digits).IsZero() {
		return BooksID{}, fmt.Errorf("%.60q is no id of books; allowed is a UUID such as 5f0c9a4e-1d7b-4c3a-9e21-8a6b0d2f7c15", text)
	}
	return BooksID(digits), nil
}

// BooksQueue is implemented by a Queue whose server may be shared by several books. A Queue that
// doesn't implement it must belong to the books alone.
type BooksQueue interface {
	// ForBooks returns the queue of these books, on the same server. Queues of different books have
	// nothing to do with each other. It does no I/O.
	ForBooks(id BooksID) Queue
}

// BooksLocker is implemented by a Locker whose server may be shared by several books.
type BooksLocker interface {
	// ForBooks returns the locks of these books, on the same server. It does no I/O.
	ForBooks(id BooksID) Locker
}

// BooksNotes is implemented by a Queue or Journal that notes which books a database has, so that an
// instance can push before Postgres answers. place stands for the address of the database.
type BooksNotes interface {
	// NotedBooks returns what was noted for the place, the zero BooksID if nothing was.
	NotedBooks(ctx context.Context, place string) (BooksID, error)
	// NoteBooks replaces what was noted for the place.
	NoteBooks(ctx context.Context, place string, id BooksID) error
}

// BooksPlacer is implemented by a Store that can say where its database is, without any secret, as
// notes want it.
type BooksPlacer interface{ BooksPlace() string }

// Witness is a random token that a database writes down now and then. A copy of the database lacks
// those written after it was made.
type Witness [16]byte

// BooksWitness is implemented by a Store that writes down witnesses.
type BooksWitness interface {
	// Witnesses writes down a new witness, unless the last one is recent and it isn't wanted anew,
	// and returns the last ones, the newest first. The error wraps ErrOtherBooks if the database
	// has other books.
	Witnesses(ctx context.Context, id BooksID, anew bool) ([]Witness, error)
}

// WitnessedQueue is implemented by a Queue that shows the witnesses of the database which uses it.
type WitnessedQueue interface {
	// ShowWitnesses shows the witnesses, of which the newest is the first, if the newest one that
	// is shown is among these, or none is. If instead the newest of these is among those that are
	// shown, whoever shows them has read the same database later, and they go on being shown. It
	// returns what is shown, and none if it is another database's, which it leaves. What isn't
	// shown again for ten seconds is forgotten.
	ShowWitnesses(ctx context.Context, own []Witness) (shown []Witness, err error)
}

// ForBooks returns the batch with these books in its header, signed again. Its digest, which leaves
// the books out, stays.
func (b *Batch) ForBooks(id BooksID, keys *BatchKeys) *Batch {
	other := *b
	other.Books = id
	other.bytes = slices.Clone(b.bytes)
	copy(other.bytes[batchBooksAt:], id[:])
	closeFrame(other.bytes)
	other.bytes = keys.sign(other.bytes)
	return &other
}
