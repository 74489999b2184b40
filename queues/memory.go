package queues

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/spendflush/spendflush"
)

// MemoryOptions bound a queue in memory.
type MemoryOptions struct {
	// MaxBytes bounds the bytes of the batches of each shard; 0 is no bound. An empty queue takes a batch of any size.
	MaxBytes int64

	// KeepSettled makes Settle keep what it takes out, until Requeue or Expire; else it is deleted. MaxBytes doesn't
	// count it.
	KeepSettled bool
}

// Memory is a queue in the memory of this process, for tests and for a single instance. It never blocks.
type Memory struct {
	opts MemoryOptions

	mu     sync.Mutex // guards what follows
	shards map[int]*memoryShard
}

type memoryShard struct {
	entries []memoryEntry // by id
	last    uint64        // id given last
	bytes   int64
	marks   map[spendflush.ProducerID]uint64
	kept    []memoryKept // in the order in which they were settled
}

type memoryEntry struct {
	id       spendflush.EntryID
	producer spendflush.ProducerID
	sequence uint64
	bytes    []byte
	pushed   time.Time
}

type memoryKept struct {
	entry   memoryEntry
	settled time.Time
}

var _ spendflush.Keeper = (*Memory)(nil)

// NewMemory returns an empty queue.
func NewMemory(opts MemoryOptions) *Memory { return &Memory{opts: opts} }

// Clear loses everything, as a FLUSHALL does: entries, marks, and which ids were given.
func (q *Memory) Clear() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.shards = nil
}

// shard returns the shard, made if it isn't there. The caller must hold the lock.
func (q *Memory) shard(number int) *memoryShard {
	s := q.shards[number]
	if s == nil {
		s = &memoryShard{marks: map[spendflush.ProducerID]uint64{}}
		if q.shards == nil {
			q.shards = map[int]*memoryShard{}
		}
		q.shards[number] = s
	}
	return s
}

// find returns the place of the first entry whose id isn't before the given one, and whether it is that one.
func (s *memoryShard) find(id spendflush.EntryID) (int, bool) {
	return slices.BinarySearchFunc(s.entries, id, func(e memoryEntry, id spendflush.EntryID) int {
		switch {
		case e.id < id:
			return -1
		case e.id > id:
			return 1
		}
		return 0
	})
}

// Push adds the batch to the end of the queue of its shard; see spendflush.Queue.
func (q *Memory) Push(ctx context.Context, b *spendflush.Batch, previous spendflush.EntryID) (spendflush.EntryID, error) {
	if err := ctx.Err(); err != nil {
		return "", fmt.Errorf("push to shard %d: %w", b.Shard, err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.shard(b.Shard)
	if i, ok := s.find(previous); ok && s.entries[i].producer == b.Producer && s.entries[i].sequence == b.Sequence {
		return previous, nil
	}
	size := int64(len(b.Bytes()))
	if q.opts.MaxBytes > 0 && len(s.entries) > 0 && s.bytes+size > q.opts.MaxBytes {
		return "", fmt.Errorf("push to shard %d: %w: it holds %d bytes at most", b.Shard, spendflush.ErrQueueFull, q.opts.MaxBytes)
	}
	return s.add(memoryEntry{producer: b.Producer, sequence: b.Sequence, bytes: slices.Clone(b.Bytes())}), nil
}

// add appends the entry to the queue and returns the id that it gives it. The caller must hold the lock.
func (s *memoryShard) add(e memoryEntry) spendflush.EntryID {
	s.last++
	s.bytes += int64(len(e.bytes))
	// As many digits as a uint64 may have: the texts are in the order of the numbers.
	e.id = spendflush.EntryID(fmt.Sprintf("%020d", s.last))
	e.pushed = time.Now()
	s.entries = append(s.entries, e)
	return e.id
}

// Read returns entries of the shard in order, from the first one after the given id; see spendflush.Queue.
func (q *Memory) Read(
	ctx context.Context, shard int, after spendflush.EntryID, maxEntries, maxBytes int,
) ([]spendflush.Entry, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("read shard %d: %w", shard, err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.shard(shard)
	first, found := s.find(after)
	if found {
		first++
	}
	var entries []spendflush.Entry
	bytes := 0
	for _, e := range s.entries[first:] {
		bytes += len(e.bytes)
		if len(entries) > 0 && (len(entries) >= maxEntries || bytes > maxBytes) {
			break
		}
		entries = append(entries, spendflush.Entry{ID: e.id, Bytes: slices.Clone(e.bytes)})
	}
	return entries, nil
}

// Settle takes exactly these entries out of the shard and publishes marks; see spendflush.Queue.
func (q *Memory) Settle(
	ctx context.Context, shard int, ids []spendflush.EntryID, marks map[spendflush.ProducerID]uint64,
) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("settle shard %d: %w", shard, err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.shard(shard)
	gone := make(map[spendflush.EntryID]bool, len(ids))
	for _, id := range ids {
		gone[id] = true
	}
	now := time.Now()
	s.entries = slices.DeleteFunc(s.entries, func(e memoryEntry) bool {
		if gone[e.id] {
			s.bytes -= int64(len(e.bytes))
			if q.opts.KeepSettled {
				s.kept = append(s.kept, memoryKept{e, now})
			}
		}
		return gone[e.id]
	})
	for producer, mark := range marks {
		if q.opts.KeepSettled && producer == (spendflush.ProducerID{}) && s.marks[producer] > mark {
			continue
		}
		s.marks[producer] = mark
	}
	return nil
}

// Mark returns the last published mark of the producer, 0 if none is known; see spendflush.Queue.
func (q *Memory) Mark(ctx context.Context, shard int, producer spendflush.ProducerID) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("read a mark of shard %d: %w", shard, err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.shard(shard).marks[producer], nil
}

// Stats looks at the shard without changing it; see spendflush.Queue.
func (q *Memory) Stats(ctx context.Context, shard int) (spendflush.QueueStats, error) {
	if err := ctx.Err(); err != nil {
		return spendflush.QueueStats{}, fmt.Errorf("look at shard %d: %w", shard, err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.shard(shard)
	stats := spendflush.QueueStats{Batches: int64(len(s.entries)), Bytes: s.bytes}
	if len(s.entries) > 0 {
		stats.Oldest = s.entries[0].pushed
	}
	return stats, nil
}

// Requeue adds the kept entries of the shard to the end of its queue; see spendflush.Keeper.
func (q *Memory) Requeue(ctx context.Context, shard int) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("requeue what is kept of shard %d: %w", shard, err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.shard(shard)
	entries := len(s.kept)
	for _, k := range s.kept {
		s.add(k.entry)
	}
	s.kept = nil
	delete(s.marks, spendflush.ProducerID{})
	return entries, nil
}

// Expire forgets the kept entries of the shard that were settled at least age ago; see spendflush.Keeper.
func (q *Memory) Expire(ctx context.Context, shard int, age time.Duration) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("forget what is kept of shard %d: %w", shard, err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.shard(shard)
	now := time.Now()
	s.kept = slices.DeleteFunc(s.kept, func(k memoryKept) bool { return now.Sub(k.settled) >= age })
	return nil
}
