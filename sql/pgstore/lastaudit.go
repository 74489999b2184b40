package pgstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// LastAudit is the result of the latest audit of these books, whichever program made it.
type LastAudit struct {
	AsOf   time.Time // when its snapshot was taken, by Postgres's clock
	OK     bool
	Took   time.Duration
	Failed string // the names of the checks that failed, with commas
}

// ClaimAudit says whether an audit is due, which is so once that much time has passed since the
// last one was made or claimed. Of all who ask it tells one.
func (s *Store) ClaimAudit(ctx context.Context, every time.Duration) (due bool, err error) {
	err = s.write(ctx, func(tx querier) error { return tx.QueryRow(ctx, s.statement("claim_audit"), every).Scan(&due) })
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("claim the audit: %w", err)
	}
	return due, nil
}

// noteAudit has the database remember the result.
func (s *Store) noteAudit(ctx context.Context, r AuditReport, took time.Duration) error {
	var failed []string
	for _, c := range r.Checks {
		if !c.OK {
			failed = append(failed, c.Name)
		}
	}
	err := s.write(ctx, func(tx querier) error {
		_, err := tx.Exec(ctx, s.statement("note_audit"), r.AsOf, r.OK, took.Seconds(), strings.Join(failed, ", "))
		return err
	})
	if err != nil {
		return fmt.Errorf("note the audit: %w", err)
	}
	return nil
}
