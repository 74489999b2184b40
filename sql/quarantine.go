package sql

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush"
)

// Quarantine implements spendflush.Store.
func (s *Store) Quarantine(ctx context.Context, bad []spendflush.BadBatch) error {
	err := s.inTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite}, func(tx pgx.Tx) error {
		for _, b := range bad {
			// The header is worth keeping even where the rows can't be read.
			var producer, sequence any
			if parsed, _ := spendflush.ParseBatch(b.Bytes); parsed != nil {
				producer, sequence = [16]byte(parsed.Producer), int64(parsed.Sequence)
			}
			bytes := b.Bytes
			if bytes == nil {
				bytes = []byte{}
			}
			if _, err := tx.Exec(ctx, s.statement("quarantine_batch"), b.Shard, plainText(b.Reason), bytes, producer, sequence); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("quarantine %d batches: %w", len(bad), err)
	}
	return nil
}

// inTx calls do in a transaction, which is committed if do returns nil.
func (s *Store) inTx(ctx context.Context, o pgx.TxOptions, do func(pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, s.pool, o, do)
}

// plainText makes a text that Postgres takes out of one that may quote anything.
func plainText(text string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
}
