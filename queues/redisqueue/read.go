package redisqueue

import (
	"context"
	_ "embed"
	"fmt"
	"strings"

	"github.com/spendflush/spendflush/internal/abandon"
	"github.com/spendflush/spendflush/spend"
)

var (
	//go:embed read.lua
	readLua string

	readScript = newScript(readLua)
)

// Read returns entries of the shard in order, from the first one after the given id; see
// spend.Queue. Redis sends no more than maxBytes, or one entry, even if the queue is far larger. Of
// an entry of more than MaxBatchBytes, which Push can't have added, it sends the first KiB, and the
// entry's Fault says so. It takes a round trip for each MiB.
func (q *Queue) Read(
	ctx context.Context, shard int, after spend.EntryID, maxEntries, maxBytes int,
) ([]spend.Entry, error) {
	entries, err := abandon.Call(ctx, q.calls, func() (entries []spend.Entry, err error) {
		left := maxBytes
		for more := true; more && len(entries) < max(maxEntries, 1); {
			var some []spend.Entry
			some, more, err = q.readSome(ctx, shard, after, max(maxEntries, 1)-len(entries), left, len(entries) == 0)
			if err != nil {
				return nil, err
			}
			for _, e := range some {
				left -= len(e.Bytes)
				after = e.ID
			}
			entries = append(entries, some...)
		}
		return entries, nil
	})
	if err != nil {
		return nil, q.failed("read", shard, err)
	}
	return entries, nil
}

// readSome reads what one script may. more says whether it could have read on.
func (q *Queue) readSome(
	ctx context.Context, shard int, after spend.EntryID, maxEntries, maxBytes int, forced bool,
) (entries []spend.Entry, more bool, err error) {
	from := "-"
	if after != "" {
		id, _, _ := strings.Cut(string(after), "/")
		from = "(" + id
	}
	keys := []string{q.key(shard, "queue")}
	reply, err := readScript.Run(ctx, q.client, keys, from, maxEntries, maxBytes, scriptBytes, forced).Slice()
	if err != nil {
		return nil, false, err
	}
	return entriesOf(reply)
}

func entriesOf(reply []any) (entries []spend.Entry, more bool, err error) {
	const values = 4 // of each entry
	if len(reply)%values != 1 {
		return nil, false, errReply
	}
	stopped, _ := reply[0].(int64)
	entries = make([]spend.Entry, len(reply)/values)
	for i := range entries {
		of := reply[1+values*i:]
		id, _ := of[0].(string)
		identity, _ := of[1].(string)
		size, _ := of[2].(int64)
		bytes, _ := of[3].(string)
		e := spend.Entry{ID: entryID(id, identity)}
		if size >= 0 {
			e.Bytes = []byte(bytes)
		}
		if size > int64(len(bytes)) {
			e.Fault = fmt.Sprintf("it has %d bytes, and a batch at most %d: these are its first ones", size, MaxBatchBytes)
		}
		entries[i] = e
	}
	return entries, stopped == 1, nil
}
