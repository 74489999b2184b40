package memqueue

import (
	"hash/crc32"
	"slices"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// What follows is no part of a queue: it is what tests do to one, to see that a service goes on
// exactly.

// Contents returns what a shard has, in order: its entries, and those that are retained. The bytes
// are the queue's own. Who writes to them damages the entry, and must not do so while the queue is
// used by others.
func (q *Queue) Contents(shard int) (entries, retained []spend.Entry) {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.look(shard)
	entries, retained = make([]spend.Entry, 0, len(s.entries)), make([]spend.Entry, 0, len(s.retained))
	for i := range s.entries {
		entries = append(entries, spend.Entry{ID: s.entries[i].id, Bytes: s.entries[i].bytes})
	}
	for i := range s.retained {
		retained = append(retained, spend.Entry{ID: s.retained[i].entry.id, Bytes: s.retained[i].entry.bytes})
	}
	return entries, retained
}

// Insert adds an entry of any bytes to the end of the shard, in spite of MaxBytes, as whoever
// writes to the server can. It returns its id. The bytes are copied.
func (q *Queue) Insert(shard int, bytes []byte) spend.EntryID {
	e := memoryEntry{bytes: slices.Clone(bytes), checksum: crc32.ChecksumIEEE(bytes)}
	if b, err := spend.ParseBatch(bytes); err == nil {
		e = newEntry(b)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.add(q.shard(shard), e)
}

// Lose loses these entries of the shard, as a replica does that is promoted without them. They
// aren't retained.
func (q *Queue) Lose(shard int, ids ...spend.EntryID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.shard(shard).take(ids)
}

// DropMarks drops the published marks of all producers.
func (q *Queue) DropMarks() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, s := range q.shards {
		clear(s.marks)
	}
}

// Clear loses everything, as a FLUSHALL does: entries, marks, and which places were given.
func (q *Queue) Clear() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.shards, q.lastAck = nil, time.Time{}
}
