package queuetest

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/spendflush/spendflush/spend"
)

func testUnused(t *testing.T, q Opened) {
	wantSequences(t, q, 0)
	wantMark(t, q, 0, NewProducer(), 0)
	if stats := look(t, q, 0); stats != (spend.QueueStats{}) {
		t.Errorf("stats are %+v, want none", stats)
	}
}

func testOrder(t *testing.T, q Opened) {
	pushSequences(t, q, NewProducer(), 0, 25)
	wantSequences(t, q, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25)
}

func testReadingTakesNothing(t *testing.T, q Opened) {
	pushSequences(t, q, NewProducer(), 0, 3)
	wantSequences(t, q, 0, 1, 2, 3)
	wantSequences(t, q, 0, 1, 2, 3)
}

func testBytes(t *testing.T, q Opened) {
	b := NewBatch(NewProducer(), 0, 1, 300)
	for value := range 256 {
		if !bytes.Contains(b.Bytes(), []byte{byte(value)}) {
			t.Fatalf("this test wants every byte in the batch; %#x isn't", value)
		}
	}
	sent := slices.Clone(b.Bytes())
	id := push(t, q, b, "")
	entries := read(t, q, 0, "", all, all)
	if len(entries) != 1 || entries[0].ID != id || !bytes.Equal(entries[0].Bytes, sent) {
		t.Errorf("the entry that was read isn't the one pushed")
	}
	if !bytes.Equal(b.Bytes(), sent) {
		t.Error("Push changed the batch")
	}
}

func testOwnership(t *testing.T, q Opened) {
	pushSequences(t, q, NewProducer(), 0, 1)
	clear(read(t, q, 0, "", all, all)[0].Bytes)
	wantSequences(t, q, 0, 1)
}

func testReadAfterGone(t *testing.T, q Opened) {
	ids := pushSequences(t, q, NewProducer(), 0, 4)
	ack(t, q, 0, ids[:2], nil)
	entries := read(t, q, 0, ids[0], all, all)
	if len(entries) != 2 || entries[0].ID != ids[2] || entries[1].ID != ids[3] {
		t.Errorf("read %d entries after the first, which is gone; want the last two", len(entries))
	}
	if entries := read(t, q, 0, ids[3], all, all); len(entries) != 0 {
		t.Errorf("read %d entries after the last", len(entries))
	}
}

func testMaxEntries(t *testing.T, q Opened) {
	ids := pushSequences(t, q, NewProducer(), 0, 7)
	var got []spend.EntryID
	var after spend.EntryID
	for _, want := range []int{3, 3, 1, 0} {
		entries := read(t, q, 0, after, 3, all)
		if len(entries) != want {
			t.Fatalf("read %d entries, want %d", len(entries), want)
		}
		for _, e := range entries {
			got = append(got, e.ID)
			after = e.ID
		}
	}
	if !slices.Equal(got, ids) {
		t.Errorf("read %v, want %v", got, ids)
	}
}

func testMaxBytes(t *testing.T, q Opened) {
	producer := NewProducer()
	var sizes []int
	for i := range 40 {
		b := NewBatch(producer, 0, uint64(i+1), 1+37*i%23)
		sizes = append(sizes, len(b.Bytes()))
		push(t, q, b, "")
	}
	for _, maxBytes := range []int{1, sizes[0], sizes[0] + sizes[1] - 1, sizes[0] + sizes[1], 5000, 20000, all} {
		var after spend.EntryID
		for at := 0; at < len(sizes); {
			want, sum := at, 0
			for want < len(sizes) && (want == at || sum+sizes[want] <= maxBytes) {
				sum += sizes[want]
				want++
			}
			entries := read(t, q, 0, after, all, maxBytes)
			if len(entries) != want-at {
				t.Fatalf("read %d entries from place %d with at most %d bytes, want %d", len(entries), at, maxBytes, want-at)
			}
			at, after = want, entries[len(entries)-1].ID
		}
	}
}

func testAtLeastOne(t *testing.T, q Opened) {
	pushSequences(t, q, NewProducer(), 0, 2)
	for _, bound := range []struct{ entries, bytes int }{{all, 1}, {all, 0}, {1, 0}, {0, all}} {
		if entries := read(t, q, 0, "", bound.entries, bound.bytes); len(entries) != 1 {
			t.Errorf("read %d entries with at most %d entries and %d bytes, want 1", len(entries), bound.entries, bound.bytes)
		}
	}
}

func testDuplicate(t *testing.T, q Opened) {
	b := NewBatch(NewProducer(), 0, 1, 1)
	first := push(t, q, b, "")
	second := push(t, q, b, "")
	if first == second {
		t.Errorf("two entries have the id %s", first)
	}
	wantSequences(t, q, 0, 1, 1)
}

func testPrevious(t *testing.T, q Opened) {
	producer := NewProducer()
	b := NewBatch(producer, 0, 1, 1)
	first := push(t, q, b, "")
	push(t, q, NewBatch(producer, 0, 2, 1), "")
	for range 2 {
		if again := push(t, q, b, first); again != first {
			t.Errorf("push returned %s, want the entry that is there, %s", again, first)
		}
	}
	wantSequences(t, q, 0, 1, 2)
}

func testPreviousAcked(t *testing.T, q Opened) {
	b := NewBatch(NewProducer(), 0, 1, 1)
	first := push(t, q, b, "")
	ack(t, q, 0, []spend.EntryID{first}, nil)
	second := push(t, q, b, first)
	if second == first {
		t.Error("push returned an entry that is gone")
	}
	wantSequences(t, q, 0, 1)
}

func testPreviousLost(t *testing.T, q Opened) {
	producer := NewProducer()
	ids := pushSequences(t, q, producer, 0, 3)
	q.Lose()
	// Another's batch comes first, so that ids that begin anew would be those of other batches.
	push(t, q, NewBatch(NewProducer(), 0, 9, 1), "")
	for i, previous := range ids {
		push(t, q, NewBatch(producer, 0, uint64(i+1), 1), previous)
	}
	wantSequences(t, q, 0, 9, 1, 2, 3)
}

func testPreviousOfAnother(t *testing.T, q Opened) {
	producer, other := NewProducer(), NewProducer()
	id := push(t, q, NewBatch(producer, 0, 1, 1), "")
	for _, b := range []*spend.Batch{NewBatch(producer, 0, 2, 1), NewBatch(other, 0, 1, 1)} {
		if got := push(t, q, b, id); got == id {
			t.Errorf("the entry of %s sequence 1 was taken for that of %s sequence %d", producer, b.Producer, b.Sequence)
		}
	}
	wantSequences(t, q, 0, 1, 2, 1)
}

func testPreviousNonsense(t *testing.T, q Opened) {
	b := NewBatch(NewProducer(), 0, 1, 1)
	push(t, q, b, "")
	nonsense := []spend.EntryID{"-", "+", "0", "nonsense", "(0-0", "0-0-0", "00000000000000000099"}
	for _, previous := range nonsense {
		if got := push(t, q, b, previous); got == previous {
			t.Errorf("push returned %q", previous)
		}
	}
	wantSequences(t, q, 0, 1, 1, 1, 1, 1, 1, 1, 1)
}

func testAckExact(t *testing.T, q Opened) {
	ids := pushSequences(t, q, NewProducer(), 0, 5)
	ack(t, q, 0, []spend.EntryID{ids[3], ids[1]}, nil)
	wantSequences(t, q, 0, 1, 3, 5)
}

func testLateAck(t *testing.T, q Opened) {
	producer := NewProducer()
	ids := pushSequences(t, q, producer, 0, 2)
	ack(t, q, 0, ids, nil)
	push(t, q, NewBatch(producer, 0, 3, 1), "")
	ack(t, q, 0, ids, nil)
	wantSequences(t, q, 0, 3)
	if stats := look(t, q, 0); stats.Bytes < int64(len(NewBatch(producer, 0, 3, 1).Bytes())) {
		t.Errorf("acking twice took %d bytes too many off", -stats.Bytes)
	}
}

func testAckAfterLoss(t *testing.T, q Opened) {
	producer, other := NewProducer(), NewProducer()
	ids := pushSequences(t, q, producer, 0, 3)
	q.Lose()
	push(t, q, NewBatch(other, 0, 1, 1), "") // another producer's, the same sequence
	push(t, q, NewBatch(producer, 0, 9, 1), "")
	ack(t, q, 0, ids, nil)
	wantSequences(t, q, 0, 1, 9)
}

func testAckNonsense(t *testing.T, q Opened) {
	ids := pushSequences(t, q, NewProducer(), 0, 2)
	ack(t, q, 0, []spend.EntryID{"", "-", "+", "0", "nonsense", "(0-0", "0-0-0", "/", "1-", ids[0], ids[0] + "x", ids[1][1:]}, nil)
	wantSequences(t, q, 0, 2)
}

func testAckTwice(t *testing.T, q Opened) {
	ids := pushSequences(t, q, NewProducer(), 0, 2)
	both := look(t, q, 0).Bytes
	ack(t, q, 0, []spend.EntryID{ids[0], ids[0], ids[0]}, nil)
	wantSequences(t, q, 0, 2)
	if bytes := look(t, q, 0).Bytes; 2*bytes != both {
		t.Errorf("one of two equal batches is left with %d bytes of %d", bytes, both)
	}
}

func testAckNothing(t *testing.T, q Opened) {
	pushSequences(t, q, NewProducer(), 0, 1)
	ack(t, q, 0, nil, nil)
	ack(t, q, 0, []spend.EntryID{}, map[spend.ProducerID]uint64{})
	wantSequences(t, q, 0, 1)
}

func testAckMany(t *testing.T, q Opened) {
	const n = 2500
	marks := map[spend.ProducerID]uint64{}
	var producers []spend.ProducerID
	for i := range n {
		producers = append(producers, NewProducer())
		marks[producers[i]] = uint64(i + 1)
	}
	ids := pushSequences(t, q, producers[0], 0, n)
	ack(t, q, 0, ids[:n-1], marks)
	wantSequences(t, q, 0, n)
	for i := 0; i < n; i += 100 {
		wantMark(t, q, 0, producers[i], uint64(i+1))
	}
}

func testMarks(t *testing.T, q Opened) {
	a, b := NewProducer(), NewProducer()
	ack(t, q, 0, nil, map[spend.ProducerID]uint64{a: 3, b: 1<<63 - 1})
	ack(t, q, 1, nil, map[spend.ProducerID]uint64{a: 7})
	wantMark(t, q, 0, a, 3)
	wantMark(t, q, 0, b, 1<<63-1)
	wantMark(t, q, 1, a, 7)
	wantMark(t, q, 1, b, 0)
	wantMark(t, q, 0, NewProducer(), 0)
}

func testMarkWhole(t *testing.T, q Opened) {
	producer := NewProducer()
	mark := markAt(9)
	mark.Lost, mark.Quarantined = []spend.SequenceRange{{First: 2, Last: 6}, {First: 8, Last: 8}}, []uint64{5}
	mark.Recent = bytes.Repeat([]byte{0xfe, 0, 1, 0x80}, 9)
	sent := mark
	sent.Updates, sent.Amount = 7, spend.Dollars(7)
	ackAll(t, q, 0, spend.Ack{Marks: map[spend.ProducerID]spend.Mark{producer: sent}})
	wantMarkAs(t, q, 0, producer, mark)
}

// What is left out of a list would be taken for confirmed.
func testMarkTooLong(t *testing.T, q Opened) {
	producer, other := NewProducer(), NewProducer()
	long := markAt(1000)
	for i := range uint64(spend.MaxPublishedLost + 1) {
		long.Lost = append(long.Lost, spend.SequenceRange{First: 100 + 2*i, Last: 100 + 2*i})
	}
	ids := pushSequences(t, q, producer, 0, 2)
	ack(t, q, 0, nil, map[spend.ProducerID]uint64{producer: 7})
	ackAll(t, q, 0, spend.Ack{
		Entries: ids[:1], Marks: map[spend.ProducerID]spend.Mark{producer: long, other: markAt(5)},
	})
	wantMark(t, q, 0, producer, 7)
	wantMark(t, q, 0, other, 5)
	wantSequences(t, q, 0, 2)
}

func testMarkOverwritten(t *testing.T, q Opened) {
	a, b := NewProducer(), NewProducer()
	ack(t, q, 0, nil, map[spend.ProducerID]uint64{a: 3, b: 4})
	ack(t, q, 0, nil, map[spend.ProducerID]uint64{a: 5})
	wantMark(t, q, 0, a, 5)
	wantMark(t, q, 0, b, 4)
}

func testLoss(t *testing.T, q Opened) {
	producer := NewProducer()
	ids := pushSequences(t, q, producer, 0, 3)
	ack(t, q, 0, ids[:1], map[spend.ProducerID]uint64{producer: 1})
	q.Lose()
	wantSequences(t, q, 0)
	wantMark(t, q, 0, producer, 0)
	ack(t, q, 0, ids[1:], map[spend.ProducerID]uint64{producer: 3})
	wantMark(t, q, 0, producer, 3)
	pushSequences(t, q, producer, 0, 2)
	wantSequences(t, q, 0, 1, 2)
}

func testShards(t *testing.T, q Opened) {
	producer := NewProducer()
	ids := pushSequences(t, q, producer, 0, 2)
	pushSequences(t, q, producer, 3, 3)
	ack(t, q, 3, ids[:0], map[spend.ProducerID]uint64{producer: 9})
	wantSequences(t, q, 0, 1, 2)
	wantSequences(t, q, 3, 1, 2, 3)
	wantSequences(t, q, 1)
	wantMark(t, q, 0, producer, 0)
	ack(t, q, 0, ids, nil)
	wantSequences(t, q, 0)
	wantSequences(t, q, 3, 1, 2, 3)
}

func testStats(t *testing.T, q Opened) {
	producer := NewProducer()
	before := time.Now()
	first := push(t, q, NewBatch(producer, 0, 1, 10), "")
	one := look(t, q, 0)
	if size := int64(len(NewBatch(producer, 0, 1, 10).Bytes())); one.Batches != 1 || one.Bytes < size || one.Bytes > 2*size {
		t.Errorf("stats are %+v, want 1 batch of about %d bytes", one, size)
	}
	// The server's clock may be another one, and only milliseconds are known.
	if off := one.Oldest.Sub(before).Abs(); off > time.Minute {
		t.Errorf("the oldest entry is off by %s", off)
	}
	second := push(t, q, NewBatch(producer, 0, 2, 10), "")
	two := look(t, q, 0)
	if two.Batches != 2 || two.Bytes != 2*one.Bytes || !two.Oldest.Equal(one.Oldest) {
		t.Errorf("stats are %+v after a second batch like the first: %+v", two, one)
	}
	ack(t, q, 0, []spend.EntryID{first}, nil)
	if rest := look(t, q, 0); rest.Batches != 1 || rest.Bytes != one.Bytes || rest.Oldest.Before(one.Oldest) {
		t.Errorf("stats are %+v when the second batch is left", rest)
	}
	ack(t, q, 0, []spend.EntryID{second}, nil)
	if none := look(t, q, 0); none != (spend.QueueStats{}) {
		t.Errorf("stats are %+v when nothing is left", none)
	}
}

func testConcurrent(t *testing.T, q Opened) {
	const producers, batches = 8, 25
	var pushers sync.WaitGroup
	failures := make(chan error, producers)
	for range producers {
		pushers.Go(func() {
			producer := NewProducer()
			for i := range batches {
				if _, err := q.Push(t.Context(), NewBatch(producer, 0, uint64(i+1), 1), ""); err != nil {
					failures <- err
					return
				}
			}
		})
	}
	pushers.Wait()
	select {
	case err := <-failures:
		t.Fatal(err)
	default:
	}
	next, ids := map[spend.ProducerID]uint64{}, map[spend.EntryID]bool{}
	for _, e := range read(t, q, 0, "", all, all) {
		b, err := spend.ParseBatch(e.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if next[b.Producer]++; b.Sequence != next[b.Producer] {
			t.Errorf("producer %s: sequence %d, want %d", b.Producer, b.Sequence, next[b.Producer])
		}
		ids[e.ID] = true
	}
	if len(next) != producers || len(ids) != producers*batches {
		t.Errorf("%d producers and %d ids, want %d and %d", len(next), len(ids), producers, producers*batches)
	}
}

func testForeign(t *testing.T, q Opened) {
	if q.AddForeign == nil {
		return // nothing of the kind can be in this queue
	}
	producer := NewProducer()
	push(t, q, NewBatch(producer, 0, 1, 1), "")
	q.AddForeign(0)
	push(t, q, NewBatch(producer, 0, 2, 1), "")
	entries := read(t, q, 0, "", all, all)
	if len(entries) != 3 || entries[1].Bytes != nil {
		t.Fatalf("read %d entries, want three, the second one without bytes", len(entries))
	}
	ack(t, q, 0, []spend.EntryID{entries[1].ID}, nil)
	wantSequences(t, q, 0, 1, 2)
}

func testEndedContext(t *testing.T, q Opened) {
	ctx := endedContext(t)
	producer := NewProducer()
	ids := pushSequences(t, q, producer, 0, 1)
	for name, call := range map[string]func() error{
		"Push":  func() error { _, err := q.Push(ctx, NewBatch(producer, 0, 2, 1), ""); return err },
		"Read":  func() error { _, err := q.Read(ctx, 0, "", all, all); return err },
		"Ack":   func() error { return q.Ack(ctx, 0, spend.Ack{Entries: ids}) },
		"Mark":  func() error { _, err := q.Mark(ctx, 0, producer); return err },
		"Stats": func() error { _, err := q.Stats(ctx, 0); return err },
	} {
		if err := call(); !errors.Is(err, context.Canceled) {
			t.Errorf("%s returned %v", name, err)
		}
	}
	wantSequences(t, q, 0, 1)
}

func (s suite) testFull(t *testing.T) {
	producer := NewProducer()
	size := len(NewBatch(producer, 0, 1, 50).Bytes())
	q := s.open(t, int64(5*size))
	var ids []spend.EntryID
	var err error
	for err == nil && len(ids) < 10 {
		var id spend.EntryID
		if id, err = q.Push(t.Context(), NewBatch(producer, 0, uint64(len(ids)+1), 50), ""); err == nil {
			ids = append(ids, id)
		}
	}
	if !errors.Is(err, spend.ErrQueueFull) || len(ids) < 2 || len(ids) > 5 {
		t.Fatalf("%d batches fit into the space of 5, then %v", len(ids), err)
	}
	before := look(t, q, 0)
	if _, err := q.Push(t.Context(), NewBatch(producer, 0, 9, 50), ""); !errors.Is(err, spend.ErrQueueFull) {
		t.Errorf("a full queue answered %v", err)
	}
	if after := look(t, q, 0); after != before {
		t.Errorf("a refused batch changed %+v into %+v", before, after)
	}
	push(t, q, NewBatch(producer, 1, 1, 50), "") // the bound is each shard's own
	ack(t, q, 0, ids[:1], nil)
	push(t, q, NewBatch(producer, 0, 10, 50), "")
}

func (s suite) testFullPrevious(t *testing.T) {
	producer := NewProducer()
	b := NewBatch(producer, 0, 1, 50)
	q := s.open(t, int64(len(b.Bytes())))
	id := push(t, q, b, "")
	if _, err := q.Push(t.Context(), NewBatch(producer, 0, 2, 50), ""); !errors.Is(err, spend.ErrQueueFull) {
		t.Fatalf("a full queue answered %v", err)
	}
	if again := push(t, q, b, id); again != id {
		t.Errorf("push returned %s, want %s", again, id)
	}
}

func (s suite) testTooLarge(t *testing.T) {
	producer := NewProducer()
	q := s.open(t, 10)
	id := push(t, q, NewBatch(producer, 0, 1, 50), "")
	if _, err := q.Push(t.Context(), NewBatch(producer, 0, 2, 1), ""); !errors.Is(err, spend.ErrQueueFull) {
		t.Errorf("a full queue answered %v", err)
	}
	ack(t, q, 0, []spend.EntryID{id}, nil)
	push(t, q, NewBatch(producer, 0, 2, 50), "")
	wantSequences(t, q, 0, 2)
}

func (s suite) testFullLost(t *testing.T) {
	producer := NewProducer()
	q := s.open(t, 10)
	push(t, q, NewBatch(producer, 0, 1, 50), "")
	q.Lose()
	push(t, q, NewBatch(producer, 0, 1, 50), "")
	wantSequences(t, q, 0, 1)
}
