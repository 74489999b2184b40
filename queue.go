package spendflush

import (
	"context"
	"errors"
	"time"
)

// EntryID names one entry of a queue. The queue makes it; entries of a shard are read in the order of their ids.
type EntryID string

// Entry is one entry of a queue: the bytes of a batch as they were pushed, to be read with ParseBatch. The reader
// owns Bytes.
type Entry struct {
	ID    EntryID
	Bytes []byte
}

// QueueStats says what waits in one shard of a queue.
type QueueStats struct {
	Batches int64     // entries, repeated batches included
	Bytes   int64     // memory that they use, about
	Oldest  time.Time // when the oldest entry was pushed; zero if there is none
}

// ErrQueueFull is returned by Queue.Push when the queue holds as many bytes as it may. Nothing was added.
var ErrQueueFull = errors.New("queue is full")

// Queue carries batches from the instances to whoever holds the lock. Entries stay until they are settled. A queue
// may lose entries, repeat them and forget marks: batches stay with their producer until Postgres confirms them, and
// the claim drops repetitions. Queues are safe for concurrent use. The suite in package queuetest says all that an
// implementation must do.
type Queue interface {
	// Push adds the batch to the end of the queue of its shard. If previous isn't empty, it is the entry that an
	// earlier Push of this batch returned, and Push adds nothing and returns it again while that entry is still there.
	// An error other than ErrQueueFull leaves open whether the batch was added; pushing it again does no harm.
	// Push doesn't keep or change the batch.
	Push(ctx context.Context, b *Batch, previous EntryID) (EntryID, error)

	// Read returns entries of the shard in order, from the first one after the given id (from the head if it is
	// empty), without taking them out. It stops after maxEntries or when maxBytes are reached, but returns at least
	// one entry if there is one. It doesn't wait for entries to come.
	Read(ctx context.Context, shard int, after EntryID, maxEntries, maxBytes int) ([]Entry, error)

	// Settle takes exactly these entries out of the shard, those that are gone already being none of its worry, and
	// publishes marks: for each producer the last sequence that Postgres has. Either may be empty.
	Settle(ctx context.Context, shard int, ids []EntryID, marks map[ProducerID]uint64) error

	// Mark returns the last published mark of the producer, 0 if none is known. It is a hint: it may be behind.
	Mark(ctx context.Context, shard int, producer ProducerID) (uint64, error)

	// Stats looks at the shard without changing it.
	Stats(ctx context.Context, shard int) (QueueStats, error)
}

// Keeper is a Queue that can keep, for a while, what was settled, so that it is there for a database that is turned
// back to an earlier state.
//
// Among the marks that Settle publishes there is, under the zero ProducerID, how many updates the books of the shard have.
// By it those who haven't seen them notice that a database was turned back. So a Keeper never replaces that number by a
// lower one, which comes from somebody who is behind or late, until Requeue has forgotten it.
type Keeper interface {
	Queue

	// Requeue adds the kept entries of the shard to the end of its queue, oldest first, in spite of any bound of the
	// queue, and keeps them no longer. Once all are there it forgets the mark of the zero ProducerID. It returns how many there were. After an error some of them may be in the queue,
	// kept, or both; calling it again does no harm.
	Requeue(ctx context.Context, shard int) (entries int, err error)

	// Expire forgets the kept entries of the shard that were settled at least age ago, by the queue's own clock.
	Expire(ctx context.Context, shard int, age time.Duration) error
}
