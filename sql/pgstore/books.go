package pgstore

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush/internal/pglink"
	"github.com/spendflush/spendflush/spend"
)

var (
	_ spend.BooksPlacer  = (*Store)(nil)
	_ spend.BooksWitness = (*Store)(nil)
)

// BooksIdentity is which books a database has.
type BooksIdentity struct {
	ID      spend.BooksID
	MadeAt  time.Time       // when this id was made
	Earlier []spend.BooksID // ids that the books had before, the last one at the end
	Standby bool            // it was told by a standby
}

// Books implements spend.Store. It is never told by a standby, which may lag behind.
func (s *Store) Books(ctx context.Context) (spend.BooksID, error) {
	is, err := s.booksIdentity(ctx, func(is *BooksIdentity) error {
		if is.Standby {
			return ErrStandby
		}
		return nil
	})
	return is.ID, err
}

// BooksIdentity returns which books the database has. A standby may tell it, too.
func (s *Store) BooksIdentity(ctx context.Context) (is BooksIdentity, err error) {
	return s.booksIdentity(ctx, func(*BooksIdentity) error { return nil })
}

// booksIdentity reads which books the database has, and who told it. check may refuse that.
func (s *Store) booksIdentity(ctx context.Context, check func(*BooksIdentity) error) (is BooksIdentity, err error) {
	var id [16]byte
	var earlier [][16]byte
	var encoding string
	err = s.read(ctx, func(tx querier) error {
		err := tx.QueryRow(ctx, s.statement("books")).Scan(&is.Standby, &encoding, &id, &is.MadeAt, &earlier)
		if err == nil {
			err = cmp.Or(check(&is), pglink.CheckEncoding(encoding))
		}
		return err
	})
	if err != nil {
		return BooksIdentity{}, fmt.Errorf("ask for the books: %w", denied(err))
	}
	is.ID = id
	for _, id := range earlier {
		is.Earlier = append(is.Earlier, id)
	}
	return is, nil
}

// NewBooksID gives the books of the database another id, a random one unless id names one, and
// returns it. It waits for flushes under way. What was queued under the id before stays in Redis,
// and is not brought to this database any more.
func (s *Store) NewBooksID(ctx context.Context, id spend.BooksID) (spend.BooksID, error) {
	var asked *[16]byte
	if !id.IsZero() {
		asked = (*[16]byte)(&id)
	}
	var made [16]byte
	err := s.write(ctx, func(tx querier) error {
		if _, err := tx.Exec(ctx, s.statement("lock_marks")); err != nil {
			return err
		}
		return tx.QueryRow(ctx, s.statement("new_books"), asked).Scan(&made)
	})
	if err != nil {
		return spend.BooksID{}, fmt.Errorf("give the books a new id: %w", err)
	}
	return made, nil
}

// Witnesses implements spend.BooksWitness.
func (s *Store) Witnesses(ctx context.Context, id spend.BooksID, anew bool) ([]spend.Witness, error) {
	var read [][16]byte
	err := s.write(ctx, func(tx querier) error {
		if _, err := tx.Exec(ctx, s.statement("witness"), [16]byte(id), anew); err != nil {
			return err
		}
		err := tx.QueryRow(ctx, s.statement("witnesses"), [16]byte(id)).Scan(&read)
		if errors.Is(err, pgx.ErrNoRows) {
			err = spend.ErrOtherBooks
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("witness the books: %w", denied(err))
	}
	list := make([]spend.Witness, len(read))
	for i, token := range read {
		list[i] = token
	}
	return list, nil
}

// BooksPlace implements spend.BooksPlacer: it is a hash of hosts, ports and the name of the
// database.
func (s *Store) BooksPlace() string {
	config := s.pool.Config().ConnConfig
	hosts := []string{fmt.Sprintf("%q:%d", config.Host, config.Port)}
	for _, f := range config.Fallbacks {
		if host := fmt.Sprintf("%q:%d", f.Host, f.Port); !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "spendflush books\x00%q\x00%q", hosts, config.Database))
	return hex.EncodeToString(sum[:16])
}

// sameBooks asks whether the database has the books of a flush. The answer is 1 if it has.
func sameBooks(id spend.BooksID, answer *int64) call {
	var e encoder
	e.uuid(id)
	return call{name: "same_books", rows: -1, params: e.params(), answer: answer}
}

func otherBooks(id spend.BooksID) error {
	return fmt.Errorf("%w: it belongs to books %s, which this database doesn't have", spend.ErrOtherBooks, id)
}
