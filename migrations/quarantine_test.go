package migrations

import (
	"encoding/binary"
	"fmt"
	"testing"
	"testing/fstest"
	"time"

	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/spend"
)

// before returns the migrations whose names come before the given one.
func before(t *testing.T, name string) fstest.MapFS {
	t.Helper()
	names, err := files.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	older := fstest.MapFS{}
	for _, entry := range names {
		if entry.Name() < name {
			data, err := files.ReadFile(entry.Name())
			if err != nil {
				t.Fatal(err)
			}
			older[entry.Name()] = &fstest.MapFile{Data: data}
		}
	}
	return older
}

func TestBatchesThatWereInQuarantineBeforeGetTheirAmounts(t *testing.T) {
	databaseURL := testserver.Postgres(t)
	if _, err := up(t.Context(), databaseURL, before(t, "00004"), untold); err != nil {
		t.Fatal(err)
	}
	conn := connect(t, databaseURL)
	amounts := []string{
		"0", "1.5", "-0.000000000001", "18446744.073709551616", "-18446744.073709551617", "0.004294967296", "99999999999999999999999999",
		"-99999999999999999999999999.999999999999",
	}
	for i, text := range amounts {
		var c spend.Counters
		if err := c.Spend.UnmarshalText([]byte(text)); err != nil {
			t.Fatal(err)
		}
		c.FailedRequests = int64(i) << (8 * i)
		producer := spend.NewProducerID(time.Now())
		// As batches were when that migration was made.
		batch := make([]byte, 112)
		binary.BigEndian.PutUint64(batch[56:], uint64(c.APIRequests()))
		hi, lo := c.Spend.Units()
		binary.BigEndian.PutUint64(batch[64:], uint64(hi))
		binary.BigEndian.PutUint64(batch[72:], lo)
		if _, err := conn.Exec(t.Context(), `INSERT INTO spendflush.quarantine (kind, shard, reason, digest, bytes, producer, sequence)
			VALUES ('batch', 0, $1, sha256($2), $2, $3, 1)`, fmt.Sprintf("%s %d", text, c.APIRequests()), batch, producer.String()); err != nil {
			t.Fatal(err)
		}
	}
	execute(t, conn, `INSERT INTO spendflush.quarantine (kind, shard, reason, digest, bytes) VALUES ('batch', 0, 'unreadable', '\x00', '\x1234')`)
	if _, err := Up(t.Context(), databaseURL); err != nil {
		t.Fatal(err)
	}
	if got := query[string](t, conn, `SELECT coalesce(string_agg(reason || ' is now ' || trim_scale(spend) || ' ' || updates, ', '), '')
		FROM spendflush.quarantine WHERE producer IS NOT NULL AND reason IS DISTINCT FROM trim_scale(spend) || ' ' || updates`); got != "" {
		t.Error(got)
	}
	if n := query[int](t, conn, "SELECT count(*) FROM spendflush.quarantine WHERE updates IS NOT NULL"); n != len(amounts) {
		t.Errorf("the updates of %d batches are known, want %d", n, len(amounts))
	}
}
