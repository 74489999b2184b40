// Package memqueue is a queue in the memory of a process, for tests and for a single instance.
// Package queuetest says what a queue must do.
package memqueue

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// Options bound a queue in memory.
type Options struct {
	// MaxBytes bounds the bytes of the batches of each shard; 0 is no bound. An empty queue takes a
	// batch of any size.
	MaxBytes int64

	// Retain makes Ack retain what it takes out, until Requeue or Expire; else it is deleted.
	// MaxBytes doesn't count it.
	Retain bool

	// Now is the queue's clock. It says when an entry was pushed and acked, and bounds what Expire
	// forgets. Default: time.Now. It is called while the queue is locked, so it must not call the
	// queue.
	Now func() time.Time
}

// Queue is a queue in the memory of this process, for tests and for a single instance. It never
// blocks.
type Queue struct {
	opts Options

	mu      sync.Mutex // guards what follows
	shards  map[int]*memoryShard
	text    []byte    // room for the text of a mark
	lastAck time.Time // no entry is retained under an earlier time, whatever the clock says
}

type memoryShard struct {
	entries  []memoryEntry // by place
	last     uint64        // place given last
	bytes    int64
	marks    map[spend.ProducerID]spend.Mark // without their sums
	booked   int64
	retained []memoryRetained // in the order in which they were acked
}

type memoryEntry struct {
	id       spend.EntryID
	place    uint64
	producer spend.ProducerID
	sequence uint64
	checksum uint32
	bytes    []byte
	pushed   time.Time
}

type memoryRetained struct {
	entry memoryEntry
	acked time.Time
}

var _ spend.Retainer = (*Queue)(nil)

// New returns an empty queue.
func New(opts Options) *Queue {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	return &Queue{opts: opts}
}

// noShard is what a shard is before anything was in it. It is never written to.
var noShard memoryShard

// look returns the shard, to be read only. The caller must hold the lock.
func (q *Queue) look(number int) *memoryShard {
	if s := q.shards[number]; s != nil {
		return s
	}
	return &noShard
}

// shard returns the shard, made if it isn't there. The caller must hold the lock.
func (q *Queue) shard(number int) *memoryShard {
	s := q.shards[number]
	if s == nil {
		s = &memoryShard{marks: map[spend.ProducerID]spend.Mark{}}
		if q.shards == nil {
			q.shards = map[int]*memoryShard{}
		}
		q.shards[number] = s
	}
	return s
}

// behind returns the index of the first entry behind that one, and the index of that one if it is
// still there, else -1.
func (s *memoryShard) behind(id spend.EntryID) (first, found int) {
	if id == "" {
		return 0, -1
	}
	text, _, _ := strings.Cut(string(id), "/")
	place, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, -1
	}
	i, there := slices.BinarySearchFunc(s.entries, place, func(e memoryEntry, place uint64) int { return cmp.Compare(e.place, place) })
	switch {
	case !there:
		return i, -1
	case s.entries[i].id != id:
		return i + 1, -1
	default:
		return i + 1, i
	}
}

// Push adds the batch to the end of the queue of its shard; see spend.Queue.
func (q *Queue) Push(ctx context.Context, b *spend.Batch, previous spend.EntryID) (spend.EntryID, error) {
	if err := ctx.Err(); err != nil {
		return "", fmt.Errorf("push to shard %d: %w", b.Shard, err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.shard(b.Shard)
	if _, i := s.behind(previous); i >= 0 && s.entries[i].isOf(b) {
		return previous, nil
	}
	size := int64(len(b.Bytes()))
	if q.opts.MaxBytes > 0 && len(s.entries) > 0 && s.bytes+size > q.opts.MaxBytes {
		return "", fmt.Errorf("push to shard %d: %w: it holds %d bytes at most", b.Shard, spend.ErrQueueFull, q.opts.MaxBytes)
	}
	return q.add(s, newEntry(b)), nil
}

func newEntry(b *spend.Batch) memoryEntry {
	return memoryEntry{producer: b.Producer, sequence: b.Sequence, checksum: b.Checksum(), bytes: slices.Clone(b.Bytes())}
}

// isOf says whether the entry was added for this batch.
func (e *memoryEntry) isOf(b *spend.Batch) bool {
	return e.producer == b.Producer && e.sequence == b.Sequence && e.checksum == b.Checksum()
}

// add appends the entry to the shard and returns the id that it gives it: it stands for the place
// and what is there, for places are given again after Clear. The caller must hold the lock.
func (q *Queue) add(s *memoryShard, e memoryEntry) spend.EntryID {
	s.last++
	s.bytes += int64(len(e.bytes))
	e.place, e.pushed = s.last, q.opts.Now()
	e.id = spend.EntryID(fmt.Sprintf("%d/%s/%d/%08x", e.place, e.producer, e.sequence, e.checksum))
	s.entries = append(s.entries, e)
	return e.id
}

// Read returns entries of the shard in order, from the first one after the given id; see
// spend.Queue.
func (q *Queue) Read(
	ctx context.Context, shard int, after spend.EntryID, maxEntries, maxBytes int,
) ([]spend.Entry, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("read shard %d: %w", shard, err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.look(shard)
	first, _ := s.behind(after)
	var entries []spend.Entry
	bytes := 0
	for _, e := range s.entries[first:] {
		bytes += len(e.bytes)
		if len(entries) > 0 && (len(entries) >= maxEntries || bytes > maxBytes) {
			break
		}
		entries = append(entries, spend.Entry{ID: e.id, Bytes: slices.Clone(e.bytes)})
	}
	return entries, nil
}

// Ack takes exactly these entries out of the shard and publishes marks; see spend.Queue. A mark
// that has no text (see spend.Mark) isn't published.
func (q *Queue) Ack(ctx context.Context, shard int, a spend.Ack) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("ack shard %d: %w", shard, err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.shard(shard)
	if now := q.opts.Now(); q.lastAck.Before(now) {
		q.lastAck = now
	}
	for _, e := range s.take(a.Entries) {
		if q.opts.Retain {
			s.retained = append(s.retained, memoryRetained{e, q.lastAck})
		}
	}

	s.booked = max(s.booked, a.Booked)
	for producer, mark := range a.Marks {
		if text, err := mark.AppendText(q.text[:0]); err == nil {
			q.text, s.marks[producer] = text, published(mark)
		}
	}
	return nil
}

// take takes entries out and returns those that were there, in order. The caller must hold the
// lock.
func (s *memoryShard) take(ids []spend.EntryID) (taken []memoryEntry) {
	if len(ids) == 0 {
		return nil
	}
	wanted := make(map[spend.EntryID]bool, len(ids))
	for _, id := range ids {
		wanted[id] = true
	}
	s.entries = slices.DeleteFunc(s.entries, func(e memoryEntry) bool {
		if wanted[e.id] {
			s.bytes -= int64(len(e.bytes))
			taken = append(taken, e)
		}
		return wanted[e.id]
	})
	return taken
}

// published returns what is published of a mark. It shares nothing with it.
func published(m spend.Mark) spend.Mark {
	return spend.Mark{
		Sequence: m.Sequence, Digest: m.Digest, Recent: slices.Clone(m.Recent),
		Lost: slices.Clone(m.Lost), Quarantined: slices.Clone(m.Quarantined),
	}
}

// Mark returns the last published mark of the producer, the zero Mark if none is known; see
// spend.Queue.
func (q *Queue) Mark(ctx context.Context, shard int, producer spend.ProducerID) (spend.Mark, error) {
	if err := ctx.Err(); err != nil {
		return spend.Mark{}, fmt.Errorf("read a mark of shard %d: %w", shard, err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return published(q.look(shard).marks[producer]), nil
}

// Stats looks at the shard without changing it; see spend.Queue.
func (q *Queue) Stats(ctx context.Context, shard int) (spend.QueueStats, error) {
	if err := ctx.Err(); err != nil {
		return spend.QueueStats{}, fmt.Errorf("look at shard %d: %w", shard, err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.look(shard)
	stats := spend.QueueStats{Batches: int64(len(s.entries)), Bytes: s.bytes}
	if len(s.entries) > 0 {
		stats.Oldest = s.entries[0].pushed
	}
	return stats, nil
}

// Booked returns the number of changes that was published last, 0 if none is known; see
// spend.Retainer.
func (q *Queue) Booked(ctx context.Context, shard int) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("read the number of changes of shard %d: %w", shard, err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.look(shard).booked, nil
}

// Retained returns the shards that have retained entries or a published number of changes; see
// spend.Retainer.
func (q *Queue) Retained(ctx context.Context) (shards []int, err error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("look which shards retain anything: %w", err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for shard, s := range q.shards {
		if len(s.retained) > 0 || s.booked > 0 {
			shards = append(shards, shard)
		}
	}
	slices.Sort(shards)
	return shards, nil
}

// Requeue adds the retained entries of the shard to the end of its queue; see spend.Retainer.
func (q *Queue) Requeue(ctx context.Context, shard int) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("requeue what is retained of shard %d: %w", shard, err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.shard(shard)
	entries := len(s.retained)
	for _, r := range s.retained {
		q.add(s, r.entry)
	}
	s.retained, s.booked = nil, 0
	return entries, nil
}

// Expire forgets the retained entries of the shard that were acked at least age ago; see
// spend.Retainer. An entry that was acked while the clock was ahead counts as acked now.
func (q *Queue) Expire(ctx context.Context, shard int, age time.Duration, now time.Time) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("forget what is retained of shard %d: %w", shard, err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	earlier, later := now, q.opts.Now()
	if later.Before(earlier) {
		earlier, later = later, earlier
	}
	if q.lastAck.After(later) {
		q.lastAck = later
	}
	s := q.shard(shard)
	for i := range s.retained {
		if s.retained[i].acked.After(later) {
			s.retained[i].acked = later
		}
	}
	s.retained = slices.DeleteFunc(s.retained, func(r memoryRetained) bool { return age <= 0 || earlier.Sub(r.acked) >= age })
	return nil
}
