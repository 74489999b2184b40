package spendflush

import (
	"context"
	"fmt"
	"hash/crc32"
	"slices"
	"sync"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// memoryQueue is a Queue that keeps everything in memory.
type memoryQueue struct {
	mu      sync.Mutex
	entries map[int][]memoryEntry
	marks   map[int]map[spend.ProducerID]spend.Mark
	next    int // places may come again after a loss
	now     func() time.Time
}

type memoryEntry struct {
	spend.Entry
	at time.Time
}

func newMemoryQueue() *memoryQueue {
	return &memoryQueue{entries: map[int][]memoryEntry{}, marks: map[int]map[spend.ProducerID]spend.Mark{}, now: time.Now}
}

func (q *memoryQueue) Push(_ context.Context, b *spend.Batch, previous spend.EntryID) (spend.EntryID, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if previous != "" && slices.ContainsFunc(q.entries[b.Shard], func(e memoryEntry) bool { return e.ID == previous }) {
		return previous, nil
	}
	return q.add(b.Shard, slices.Clone(b.Bytes())), nil
}

// insert adds bytes at the end.
func (q *memoryQueue) insert(shard int, b []byte) spend.EntryID {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.add(shard, b)
}

// add is insert for callers that hold the lock. The id says the place and what is there, so that an id whose
// place was given to another batch names nothing any more.
func (q *memoryQueue) add(shard int, b []byte) spend.EntryID {
	q.next++
	id := spend.EntryID(fmt.Sprintf("%09d-%08x", q.next, crc32.ChecksumIEEE(b)))
	q.entries[shard] = append(q.entries[shard], memoryEntry{spend.Entry{ID: id, Bytes: b, Fault: ""}, q.now()})
	return id
}

func (q *memoryQueue) Read(_ context.Context, shard int, after spend.EntryID, maxEntries, maxBytes int) (got []spend.Entry, _ error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	bytes := 0
	for _, e := range q.entries[shard] {
		if e.ID > after && len(got) < maxEntries && (bytes < maxBytes || len(got) == 0) {
			got = append(got, spend.Entry{ID: e.ID, Bytes: slices.Clone(e.Bytes), Fault: ""})
			bytes += len(e.Bytes)
		}
	}
	return got, nil
}

func (q *memoryQueue) Ack(_ context.Context, shard int, a spend.Ack) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ack(shard, a)
	return nil
}

// ack takes entries out and returns them. The caller holds the lock.
func (q *memoryQueue) ack(shard int, a spend.Ack) (taken []memoryEntry) {
	var left []memoryEntry
	for _, e := range q.entries[shard] {
		if slices.Contains(a.Entries, e.ID) {
			taken = append(taken, e)
		} else {
			left = append(left, e)
		}
	}
	q.entries[shard] = left
	for id, mark := range a.Marks {
		if q.marks[shard] == nil {
			q.marks[shard] = map[spend.ProducerID]spend.Mark{}
		}
		mark.Updates, mark.Amount = 0, spend.Amount{} // a hint has no more
		q.marks[shard][id] = mark
	}
	return taken
}

func (q *memoryQueue) Mark(_ context.Context, shard int, producer spend.ProducerID) (spend.Mark, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.marks[shard][producer], nil
}

func (q *memoryQueue) Stats(_ context.Context, shard int) (stats spend.QueueStats, _ error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, e := range q.entries[shard] {
		if i == 0 {
			stats.Oldest = e.at
		}
		stats.Batches++
		stats.Bytes += int64(len(e.Bytes))
	}
	return stats, nil
}

// lose empties the queue and forgets all marks.
func (q *memoryQueue) lose() {
	q.mu.Lock()
	defer q.mu.Unlock()
	clear(q.entries)
	clear(q.marks)
}

func (q *memoryQueue) len(shard int) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.entries[shard])
}

// pushes returns how many entries there have been.
func (q *memoryQueue) pushes() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return int(q.next)
}

// keepingQueue is a Keeper.
type keepingQueue struct {
	*memoryQueue
	kept   map[int][]memoryEntry // at is when they were acked
	booked map[int]int64
	newest time.Time // no entry is kept under an earlier time, whatever the clock says

	lowers bool // a queue that is wrong: it publishes a lower number of updates, to see that tests notice
}

func newKeepingQueue(q *memoryQueue) *keepingQueue {
	return &keepingQueue{memoryQueue: q, kept: map[int][]memoryEntry{}, booked: map[int]int64{}}
}

func (q *keepingQueue) Ack(_ context.Context, shard int, a spend.Ack) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if now := q.now(); q.newest.Before(now) {
		q.newest = now
	}
	for _, e := range q.ack(shard, a) {
		q.kept[shard] = append(q.kept[shard], memoryEntry{e.Entry, q.newest})
	}
	if a.Booked > q.booked[shard] || a.Booked > 0 && q.lowers {
		q.booked[shard] = a.Booked
	}
	return nil
}

func (q *keepingQueue) Booked(_ context.Context, shard int) (int64, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.booked[shard], nil
}

func (q *keepingQueue) Retained(context.Context) (shards []int, _ error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for shard := range spend.MaxShards {
		if len(q.kept[shard]) > 0 || q.booked[shard] > 0 {
			shards = append(shards, shard)
		}
	}
	return shards, nil
}

func (q *keepingQueue) Requeue(_ context.Context, shard int) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := len(q.kept[shard])
	for _, e := range q.kept[shard] {
		q.add(shard, slices.Clone(e.Bytes))
	}
	delete(q.kept, shard)
	delete(q.booked, shard)
	return n, nil
}

func (q *keepingQueue) Expire(_ context.Context, shard int, age time.Duration, now time.Time) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	earlier, later := now, q.now()
	if later.Before(earlier) {
		earlier, later = later, earlier
	}
	if q.newest.After(later) { // the clock was ahead
		q.newest = later
	}
	for i, e := range q.kept[shard] {
		if e.at.After(later) {
			q.kept[shard][i].at = later
		}
	}
	q.kept[shard] = slices.DeleteFunc(q.kept[shard], func(e memoryEntry) bool { return earlier.Sub(e.at) >= age })
	return nil
}

// lose empties the queue and forgets all that it keeps.
func (q *keepingQueue) lose() {
	q.memoryQueue.lose()
	q.mu.Lock()
	defer q.mu.Unlock()
	clear(q.kept)
	clear(q.booked)
}

func (q *keepingQueue) size() (n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, kept := range q.kept {
		n += len(kept)
	}
	return n
}
