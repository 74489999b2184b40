package spend

import (
	"context"
	"errors"
	"time"
)

// EntryID names one entry of a queue, and stands for what was pushed or read there: after a loss a
// queue may give the same place to another batch. The queue makes it.
type EntryID string

// Entry is one entry of a queue: the bytes of a batch as they were pushed, to be read with
// ParseBatch. The reader owns Bytes.
type Entry struct {
	ID    EntryID
	Bytes []byte

	// Fault says, in one line, why the entry can't be a batch, where the queue sees that by itself,
	// such as one that is far too large. Bytes has only its beginning then. "" otherwise.
	Fault string
}

// QueueStats says what waits in one shard of a queue.
type QueueStats struct {
	Batches int64     // entries, repeated batches included
	Bytes   int64     // memory that they use, about
	Oldest  time.Time // when the oldest entry was pushed; zero if there is none
}

// ErrQueueFull is returned by Queue.Push when the queue holds as many bytes as it may. Nothing was
// added.
var ErrQueueFull = errors.New("queue is full")

// Ack says what Postgres has.
type Ack struct {
	Entries []EntryID           // entries that are not needed any more
	Marks   map[ProducerID]Mark // to publish: how far the producers are in the books

	// Booked is how many changes the books of the shard have had (Marks.Changes), at least, if the
	// queue is a Retainer and there is a rewind window; else 0, and then it isn't published.
	Booked int64
}

// Queue carries batches from the instances to the flusher that holds the lock. Entries stay until
// they are acked. A queue may lose entries, repeat them and lose marks: batches stay with their
// producer until Postgres confirms them, and the claim drops repetitions. Queues are safe for
// concurrent use. The suite in package queuetest says all that an implementation must do.
type Queue interface {
	// Push adds the batch to the end of the queue of its shard. If previous isn't empty, it is the
	// entry that an earlier Push of this batch returned, and Push adds nothing and returns it again
	// while that entry is still there. An error other than ErrQueueFull leaves open whether the
	// batch was added; pushing it again does no harm. Push doesn't keep or change the batch.
	Push(ctx context.Context, b *Batch, previous EntryID) (EntryID, error)

	// Read returns entries of the shard in order, from the first one after the given id (from the
	// head if it is empty), without taking them out. It stops after maxEntries or when maxBytes are
	// reached, but returns at least one entry if there is one. It doesn't wait for entries to come.
	Read(ctx context.Context, shard int, after EntryID, maxEntries, maxBytes int) ([]Entry, error)

	// Ack takes exactly these entries out of the shard and publishes marks. Either may be empty.
	// Entries that are gone already are ignored. An id stands for the batch that was read or pushed
	// under it: if the queue has given the same place to another batch since, that one stays.
	Ack(ctx context.Context, shard int, a Ack) error

	// Mark returns the last published mark of the producer, the zero Mark if none is known. It is a
	// hint: it may be behind, and its sums are left out. A mark that Mark.AppendText refuses isn't
	// published.
	Mark(ctx context.Context, shard int, producer ProducerID) (Mark, error)

	// Stats looks at the shard without changing it.
	Stats(ctx context.Context, shard int) (QueueStats, error)
}

// Retainer is a Queue that can retain, for a while, what was acked, so that it is there for a
// database that is turned back to an earlier state.
//
// With what it retains it keeps how many changes the books of the shard have had, as Ack publishes
// it. By that number processes that haven't seen the books change notice that a database was turned
// back. So a Retainer never replaces it by a lower one, which comes from a process that is behind
// or late, until Requeue has forgotten it.
type Retainer interface {
	Queue

	// Booked returns the number of changes that was published last, 0 if none is known.
	Booked(ctx context.Context, shard int) (int64, error)

	// Retained returns the shards, ascending, that have retained entries or a published number of
	// changes.
	Retained(ctx context.Context) (shards []int, err error)

	// Requeue adds the retained entries of the shard to the end of its queue, oldest first, in
	// spite of any bound of the queue, and retains them no longer. Once all are there it forgets
	// the published number of changes. It returns how many entries there were. After an error some
	// of them may be in the queue, retained, or both; calling it again does no harm.
	Requeue(ctx context.Context, shard int) (entries int, err error)

	// Expire forgets the retained entries of the shard that were acked at least age ago. now is the
	// caller's clock: the earlier of it and the queue's own decides, so that one that jumps ahead
	// expires nothing. An age of 0 forgets all.
	Expire(ctx context.Context, shard int, age time.Duration, now time.Time) error
}
