package redisqueue

import (
	"context"
	_ "embed"

	"github.com/spendflush/spendflush/internal/abandon"
	"github.com/spendflush/spendflush/spend"
)

const (
	// ackChunk is how many ids or marks one script gets. Redis serves nobody else while it runs,
	// and Lua's unpack takes some thousands at most.
	ackChunk = 500

	// retainChunk is how many entries one script retains or moves back. Deleting costs about the
	// same whatever an entry holds, so ackChunk bounds it well.
	retainChunk = 100

	// scriptBytes is how many bytes of batches a script reads before it stops; the last batch may
	// go beyond. A MiB takes some 4 ms, and with a copy about as long as a hundred small ones
	// (BenchmarkRead, BenchmarkRetain).
	scriptBytes = 1 << 20
)

var (
	//go:embed ack.lua
	ackLua string

	ackScript = newScript(ackLua)
)

// Ack takes exactly these entries out of the shard and publishes marks; see spend.Queue. Long lists
// take several round trips; the marks go with the first one. A mark is forgotten a day after it was
// published, and one that has no text (see spend.Mark) isn't published. With Retain, taking an
// entry out and retaining it is one step, and entries that hold no batch are deleted all the same.
func (q *Queue) Ack(ctx context.Context, shard int, a spend.Ack) error {
	// The lists are copied, because the caller may change them after a call that was given up.
	lists := q.ackLists(shard, a)
	_, err := abandon.Call(ctx, q.calls, func() (struct{}, error) {
		for !lists.isDone() {
			if err := q.ackSome(ctx, shard, lists); err != nil {
				return struct{}{}, err
			}
		}
		return struct{}{}, nil
	})
	if err != nil {
		return q.failed("ack", shard, err)
	}
	return nil
}

// ackLists is what is still to be acked and published.
type ackLists struct {
	ids        []string
	identities []string // of the ids
	keys       []string // of the marks
	marks      []string
	booked     int64
}

func (q *Queue) ackLists(shard int, a spend.Ack) *ackLists {
	lists := &ackLists{booked: max(a.Booked, 0)}
	for _, id := range a.Entries {
		if place, ok := parseID(id); ok { // an id that no queue gave counts as gone
			lists.ids = append(lists.ids, place.id)
			lists.identities = append(lists.identities, place.identity)
		}
	}
	for producer, mark := range a.Marks {
		if text, err := mark.AppendText(nil); err == nil {
			lists.keys = append(lists.keys, q.markKey(shard, producer))
			lists.marks = append(lists.marks, string(text))
		}
	}
	return lists
}

func (l *ackLists) isDone() bool { return len(l.ids)+len(l.keys) == 0 && l.booked == 0 }

// ackSome gives one script as much as it may get, and takes off the lists what it has done.
func (q *Queue) ackSome(ctx context.Context, shard int, lists *ackLists) error {
	most, retains := ackChunk, 0
	if q.opts.Retain {
		most, retains = retainChunk, 1
	}
	ids, marks := min(len(lists.ids), most), min(len(lists.keys), ackChunk)

	keys := append(q.shardKeys(shard), q.retainedKey(shard), q.bookedKey(shard), q.windowKey(shard))
	keys = append(keys, lists.keys[:marks]...)
	args := []any{markSeconds, retains, q.now().UnixMilli(), scriptBytes, lists.booked, ids}
	for _, list := range [][]string{lists.ids[:ids], lists.identities[:ids], lists.marks[:marks]} {
		for _, text := range list {
			args = append(args, text)
		}
	}

	reply, err := ackScript.Run(ctx, q.client, keys, args...).Int64Slice()
	if err != nil {
		return err
	}
	if len(reply) != 2 || reply[0] > int64(ids) || (reply[0] < 1 && ids > 0) {
		return errReply
	}
	q.unretained.Add(reply[1])
	done := int(reply[0])
	lists.ids, lists.identities = lists.ids[done:], lists.identities[done:]
	lists.keys, lists.marks = lists.keys[marks:], lists.marks[marks:]
	lists.booked = 0
	return nil
}
