package queues

import (
	"context"
	_ "embed"
	"fmt"
	"strings"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/internal/abandon"
)

var (
	//go:embed read.lua
	readLua string

	readScript = newScript(readLua)
)

// Read returns entries of the shard in order, from the first one after the given id; see spendflush.Queue. Redis sends no
// more than maxBytes, or one entry, even if the queue is far larger. Of an entry of more than MaxBatchBytes, which Push
// can't have added, it sends the first KiB, and the entry's Fault says so.
func (q *Redis) Read(
	ctx context.Context, shard int, after spendflush.EntryID, maxEntries, maxBytes int,
) ([]spendflush.Entry, error) {
	entries, err := abandon.Call(ctx, &q.calls, func() ([]spendflush.Entry, error) {
		from := "-"
		if after != "" {
			id, _, _ := strings.Cut(string(after), "/")
			from = "(" + id
		}
		reply, err := readScript.Run(ctx, q.client, []string{q.key(shard, "queue")}, from, max(maxEntries, 1), maxBytes).Slice()
		if err != nil {
			return nil, err
		}
		return entriesOf(reply)
	})
	if err != nil {
		return nil, q.failed("read", shard, err)
	}
	return entries, nil
}

func entriesOf(reply []any) ([]spendflush.Entry, error) {
	const values = 4 // of each entry
	if len(reply)%values != 0 {
		return nil, errReply
	}
	entries := make([]spendflush.Entry, len(reply)/values)
	for i := range entries {
		of := reply[values*i:]
		id, _ := of[0].(string)
		identity, _ := of[1].(string)
		size, _ := of[2].(int64)
		bytes, _ := of[3].(string)
		e := spendflush.Entry{ID: entryID(id, identity)}
		if size >= 0 {
			e.Bytes = []byte(bytes)
		}
		if size > int64(len(bytes)) {
			e.Fault = fmt.Sprintf("it has %d bytes, and a batch at most %d: these are its first ones", size, MaxBatchBytes)
		}
		entries[i] = e
	}
	return entries, nil
}
