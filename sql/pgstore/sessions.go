package pgstore

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// maxSignedOut bounds what SignedOut returns.
const maxSignedOut = 10_000

// SignOut ends a session of the HTTP API before its time, for all instances: SignedOut lists it
// until it ends by itself. The first eight bytes of the id say which token the session is of.
// Ending it again does nothing.
func (s *Store) SignOut(ctx context.Context, id [16]byte, ends time.Time) error {
	err := s.write(ctx, func(tx querier) error {
		_, err := tx.Exec(ctx, s.statement("sign_out"), id, ends)
		return err
	})
	if err != nil {
		return fmt.Errorf("sign out: %w", err)
	}
	return nil
}

// SignedOut returns the sessions that were ended before their time, with the time when they end by
// themselves: at most 10,000. If there are more, each token has as many places as any other that
// needs them, for those of its sessions that end last.
func (s *Store) SignedOut(ctx context.Context) (map[[16]byte]time.Time, error) {
	ended := map[[16]byte]time.Time{}
	err := s.read(ctx, func(tx querier) error {
		rows, err := tx.Query(ctx, s.statement("signed_out"), maxSignedOut)
		if err != nil {
			return err
		}
		var id [16]byte
		var ends time.Time
		_, err = pgx.ForEachRow(rows, []any{&id, &ends}, func() error {
			ended[id] = ends
			return nil
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list ended sessions: %w", err)
	}
	return ended, nil
}
