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

// RunRetainer runs what a spend.Retainer must do, all of Run included. open is as for Run; its
// queues are Retainers that retain what is acked.
func RunRetainer(t *testing.T, open func(t *testing.T, maxBytes int64) Opened) {
	Run(t, open)
	for _, test := range []struct {
		name     string
		maxBytes int64
		run      func(t *testing.T, q Opened)
	}{
		{"NothingIsRetainedOfAnUnusedQueue", 0, testRetainedUnused},
		{"WhatWasAckedComesBackAsItWas", 0, testRequeue},
		{"WhatWasNeverAckedIsNotRequeued", 0, testRequeueWaiting},
		{"WhatWasNotThereWhenItWasAckedIsNotRetained", 0, testAckGoneRetainsNothing},
		{"AnEntryAckedTwiceInOneCallIsRetainedOnce", 0, testAckTwiceRetainsOnce},
		{"RequeuingTwiceGivesEntriesOnce", 0, testRequeueTwice},
		{"RequeuedEntriesAreAckedByTheirNewIDs", 0, testAckRequeued},
		{"RequeuedEntriesAreFoundByTheirBatch", 0, testRequeuedPrevious},
		{"ThousandsAreRequeuedInTheOrderTheyWereAcked", 0, testRequeueMany},
		{"TheBoundOfTheQueueDoesNotStopRequeue", 10, testRequeueFull},
		{"WhatIsRetainedCountsForNothingInTheQueue", 10, testRetainedCountsForNothing},
		{"MarksArePublishedWithWhatIsRetained", 0, testRetainedMarks},
		{"TheNumberOfChangesOfTheBooksOnlyGrowsUntilItIsRequeued", 0, testBooked},
		{"ShardsThatRetainAnythingAreKnown", 0, testRetained},
		{"ExpireGoesByTheEarlierClock", 0, testExpireEarlierClock},
		{"ExpireForgetsAllByAnAgeOfNothing", 0, testExpireAll},
		{"ExpireForgetsNothingThatIsYoung", 0, testExpireNone},
		{"ExpireForgetsWhatIsOldAndNothingElse", 0, testExpireSome},
		{"ExpireTouchesNothingThatWaits", 0, testExpireWaiting},
		{"ShardsRetainTheirOwn", 0, testRetainedShards},
		{"WhatIsRetainedMayBeLost", 0, testRetainedLost},
		{"AForeignEntryIsAckedAmongOthers", 0, testRetainedForeign},
		{"ConcurrentAckAndRequeueLoseNothing", 0, testAckWhileRequeuing},
		{"AnEndedContextStopsTheCallsOfARetainer", 0, testRetainerEndedContext},
	} {
		t.Run(test.name, func(t *testing.T) {
			q := open(t, test.maxBytes)
			if _, ok := q.Queue.(spend.Retainer); !ok {
				t.Fatalf("%T is no Retainer", q.Queue)
			}
			test.run(t, q)
		})
	}
}

// clockStep is more than the steps in which the clock of a queue may go.
const clockStep = 10 * time.Millisecond

func requeue(t *testing.T, q Opened, shard int) int {
	t.Helper()
	n, err := q.Queue.(spend.Retainer).Requeue(t.Context(), shard)
	if err != nil {
		t.Fatalf("requeue: %v", err)
	}
	return n
}

func wantRequeued(t *testing.T, q Opened, shard, want int) {
	t.Helper()
	if n := requeue(t, q, shard); n != want {
		t.Errorf("%d entries of shard %d were requeued, want %d", n, shard, want)
	}
}

func expire(t *testing.T, q Opened, shard int, age time.Duration) {
	t.Helper()
	if err := q.Queue.(spend.Retainer).Expire(t.Context(), shard, age, time.Now()); err != nil {
		t.Fatalf("expire: %v", err)
	}
}

func testRetainedUnused(t *testing.T, q Opened) {
	wantRequeued(t, q, 0, 0)
	expire(t, q, 0, 0)
	expire(t, q, 0, time.Hour)
	wantSequences(t, q, 0)
	if stats := look(t, q, 0); stats != (spend.QueueStats{}) {
		t.Errorf("stats are %+v, want none", stats)
	}
}

func testRequeue(t *testing.T, q Opened) {
	producer := NewProducer()
	var ids []spend.EntryID
	var sent [][]byte
	for i := range 3 {
		b := NewBatch(producer, 0, uint64(i+1), 1+150*i)
		ids, sent = append(ids, push(t, q, b, "")), append(sent, slices.Clone(b.Bytes()))
	}
	before := look(t, q, 0)
	ack(t, q, 0, ids, nil)
	wantSequences(t, q, 0)
	wantRequeued(t, q, 0, 3)
	entries := read(t, q, 0, "", all, all)
	if len(entries) != 3 {
		t.Fatalf("%d entries came back, want 3", len(entries))
	}
	for i, e := range entries {
		if slices.Contains(ids, e.ID) {
			t.Errorf("entry %d came back under its old id %s", i, e.ID)
		}
		if !bytes.Equal(e.Bytes, sent[i]) {
			t.Errorf("entry %d came back with other bytes", i)
		}
	}
	if after := look(t, q, 0); after.Batches != before.Batches || after.Bytes != before.Bytes {
		t.Errorf("stats are %+v after all came back, and were %+v", after, before)
	}
}

func testRequeueWaiting(t *testing.T, q Opened) {
	ids := pushSequences(t, q, NewProducer(), 0, 5)
	ack(t, q, 0, ids[3:4], nil)
	ack(t, q, 0, ids[1:2], nil)
	wantRequeued(t, q, 0, 2)
	wantSequences(t, q, 0, 1, 3, 5, 4, 2)
}

func testAckGoneRetainsNothing(t *testing.T, q Opened) {
	ids := pushSequences(t, q, NewProducer(), 0, 2)
	ack(t, q, 0, ids[:1], nil)
	ack(t, q, 0, ids, nil)
	ack(t, q, 0, ids, nil)
	wantRequeued(t, q, 0, 2)
	wantSequences(t, q, 0, 1, 2)
}

func testAckTwiceRetainsOnce(t *testing.T, q Opened) {
	ids := pushSequences(t, q, NewProducer(), 0, 2)
	ack(t, q, 0, []spend.EntryID{ids[0], ids[1], ids[0], ids[1]}, nil)
	wantRequeued(t, q, 0, 2)
	wantSequences(t, q, 0, 1, 2)
}

func testRequeueTwice(t *testing.T, q Opened) {
	ack(t, q, 0, pushSequences(t, q, NewProducer(), 0, 3), nil)
	wantRequeued(t, q, 0, 3)
	wantRequeued(t, q, 0, 0)
	wantSequences(t, q, 0, 1, 2, 3)
}

func testAckRequeued(t *testing.T, q Opened) {
	old := pushSequences(t, q, NewProducer(), 0, 3)
	ack(t, q, 0, old, nil)
	wantRequeued(t, q, 0, 3)
	ack(t, q, 0, old, nil) // a late one: it means nobody
	wantSequences(t, q, 0, 1, 2, 3)
	ack(t, q, 0, idsOf(read(t, q, 0, "", all, all)), nil)
	if stats := look(t, q, 0); stats != (spend.QueueStats{}) {
		t.Errorf("stats are %+v when nothing is left", stats)
	}
	wantRequeued(t, q, 0, 3) // retained again
	wantSequences(t, q, 0, 1, 2, 3)
}

func testRequeuedPrevious(t *testing.T, q Opened) {
	producer := NewProducer()
	ids := pushSequences(t, q, producer, 0, 2)
	ack(t, q, 0, ids, nil)
	wantRequeued(t, q, 0, 2)
	for i, e := range read(t, q, 0, "", all, all) {
		if again := push(t, q, NewBatch(producer, 0, uint64(i+1), 1), e.ID); again != e.ID {
			t.Errorf("push of sequence %d didn't find its entry", i+1)
		}
	}
	wantSequences(t, q, 0, 1, 2)
}

func testRequeueMany(t *testing.T, q Opened) {
	const n = 2500
	ids := pushSequences(t, q, NewProducer(), 0, n)
	before := look(t, q, 0)
	ack(t, q, 0, ids[:n-1], nil)
	wantRequeued(t, q, 0, n-1)
	want := []uint64{n}
	for i := range uint64(n - 1) {
		want = append(want, i+1)
	}
	wantSequences(t, q, 0, want...)
	if after := look(t, q, 0); after.Bytes != before.Bytes {
		t.Errorf("the queue counts %d bytes after all came back, and counted %d", after.Bytes, before.Bytes)
	}
}

func testRequeueFull(t *testing.T, q Opened) {
	producer := NewProducer()
	for i := range uint64(3) {
		ack(t, q, 0, []spend.EntryID{push(t, q, NewBatch(producer, 0, i+1, 5), "")}, nil)
	}
	push(t, q, NewBatch(producer, 0, 4, 5), "")
	wantRequeued(t, q, 0, 3)
	wantSequences(t, q, 0, 4, 1, 2, 3)
	if _, err := q.Push(t.Context(), NewBatch(producer, 0, 5, 1), ""); !errors.Is(err, spend.ErrQueueFull) {
		t.Errorf("a queue far beyond its bound answered %v", err)
	}
	ack(t, q, 0, idsOf(read(t, q, 0, "", all, all)), nil)
	push(t, q, NewBatch(producer, 0, 5, 5), "")
}

func testRetainedCountsForNothing(t *testing.T, q Opened) {
	producer := NewProducer()
	for i := range uint64(5) {
		ack(t, q, 0, []spend.EntryID{push(t, q, NewBatch(producer, 0, i+1, 5), "")}, nil)
		if stats := look(t, q, 0); stats != (spend.QueueStats{}) {
			t.Errorf("stats are %+v when only retained entries are there", stats)
		}
	}
}

func testRetainedMarks(t *testing.T, q Opened) {
	producer, other := NewProducer(), NewProducer()
	ids := pushSequences(t, q, producer, 0, 300)
	ack(t, q, 0, ids, map[spend.ProducerID]uint64{producer: 300, other: 7})
	wantMark(t, q, 0, producer, 300)
	wantMark(t, q, 0, other, 7)
	wantRequeued(t, q, 0, 300)
	wantMark(t, q, 0, producer, 300)
}

func testExpireAll(t *testing.T, q Opened) {
	ack(t, q, 0, pushSequences(t, q, NewProducer(), 0, 3), nil)
	expire(t, q, 0, 0)
	wantRequeued(t, q, 0, 0)
	ack(t, q, 0, pushSequences(t, q, NewProducer(), 0, 2), nil)
	wantRequeued(t, q, 0, 2)
	wantSequences(t, q, 0, 1, 2)
}

func wantBooked(t *testing.T, q Opened, shard int, want int64) {
	t.Helper()
	got, err := q.Queue.(spend.Retainer).Booked(t.Context(), shard)
	if err != nil || got != want {
		t.Errorf("booked in shard %d are %d updates, %v; want %d", shard, got, err, want)
	}
}

func testBooked(t *testing.T, q Opened) {
	producer := NewProducer()
	publish := func(updates int64, mark uint64) {
		t.Helper()
		ackAll(t, q, 0, spend.Ack{
			Entries: pushSequences(t, q, producer, 0, 1), Booked: updates, Marks: marksAt(map[spend.ProducerID]uint64{producer: mark}),
		})
	}
	wantBooked(t, q, 0, 0)
	publish(10, 7)
	wantBooked(t, q, 0, 10)
	publish(9, 6) // behind, or late: the mark of a producer is only a hint
	wantBooked(t, q, 0, 10)
	wantMark(t, q, 0, producer, 6)
	publish(0, 7) // from an instance without a window
	wantBooked(t, q, 0, 10)
	publish(11, 8)
	wantBooked(t, q, 0, 11)
	wantBooked(t, q, 1, 0)
	expire(t, q, 0, 0)
	wantBooked(t, q, 0, 11)
	requeue(t, q, 0)
	wantBooked(t, q, 0, 0)
	wantMark(t, q, 0, producer, 8)
	publish(3, 9)
	wantBooked(t, q, 0, 3)
	ackAll(t, q, 0, spend.Ack{Booked: 1e15}) // alone
	wantBooked(t, q, 0, 1e15)
}

func wantRetained(t *testing.T, q Opened, want ...int) {
	t.Helper()
	got, err := q.Queue.(spend.Retainer).Retained(t.Context())
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("the shards %v retain something, %v; want %v", got, err, want)
	}
}

func testRetained(t *testing.T, q Opened) {
	const last = spend.MaxShards - 1
	wantRetained(t, q)
	producer := NewProducer()
	pushSequences(t, q, producer, 2, 1) // what only waits isn't retained
	ack(t, q, last, pushSequences(t, q, producer, last, 2), nil)
	ack(t, q, 5, nil, map[spend.ProducerID]uint64{producer: 3})
	ackAll(t, q, 0, spend.Ack{Booked: 3})
	wantRetained(t, q, 0, last)
	requeue(t, q, last)
	wantRetained(t, q, 0)
	expire(t, q, 0, 0)
	wantRetained(t, q, 0) // the number is still to be compared
	requeue(t, q, 0)
	wantRetained(t, q)
	ack(t, q, 1, pushSequences(t, q, producer, 1, 1), nil)
	wantRetained(t, q, 1)
	expire(t, q, 1, 0)
	wantRetained(t, q)
}

// A clock of the queue that has jumped ahead looks from here as the caller's that is behind.
func testExpireEarlierClock(t *testing.T, q Opened) {
	for _, c := range []struct{ age, off time.Duration }{
		{time.Millisecond, -365 * 24 * time.Hour}, {time.Millisecond, -time.Hour},
		{24 * time.Hour, 365 * 24 * time.Hour}, // the caller's clock has jumped ahead: the queue's decides
	} {
		ack(t, q, 0, pushSequences(t, q, NewProducer(), 0, 3), nil)
		<-time.After(clockStep)
		if err := q.Queue.(spend.Retainer).Expire(t.Context(), 0, c.age, time.Now().Add(c.off)); err != nil {
			t.Fatal(err)
		}
		wantRequeued(t, q, 0, 3)
		wantSequences(t, q, 0, 1, 2, 3)
		ack(t, q, 0, idsOf(read(t, q, 0, "", all, all)), nil)
		expire(t, q, 0, 0)
	}
}

func testExpireNone(t *testing.T, q Opened) {
	ack(t, q, 0, pushSequences(t, q, NewProducer(), 0, 3), nil)
	<-time.After(clockStep)
	expire(t, q, 0, time.Hour)
	expire(t, q, 0, 1<<63-1) // the queue's clock isn't as old
	wantRequeued(t, q, 0, 3)
	wantSequences(t, q, 0, 1, 2, 3)
}

func testExpireSome(t *testing.T, q Opened) {
	// On a machine that stalls between two calls the young entry may be old by then: it is tried
	// with more time.
	for age := 300 * time.Millisecond; ; age *= 2 {
		expire(t, q, 0, 0)
		producer := NewProducer()
		old := pushSequences(t, q, producer, 0, 2)
		young := push(t, q, NewBatch(producer, 0, 3, 1), "")
		ack(t, q, 0, old, nil)
		<-time.After(age + clockStep)
		begin := time.Now()
		ack(t, q, 0, []spend.EntryID{young}, nil)
		<-time.After(clockStep)
		expire(t, q, 0, age)
		if took := time.Since(begin); took >= age {
			continue
		}
		wantRequeued(t, q, 0, 1)
		wantSequences(t, q, 0, 3)
		return
	}
}

func testExpireWaiting(t *testing.T, q Opened) {
	ids := pushSequences(t, q, NewProducer(), 0, 3)
	ack(t, q, 0, ids[:1], nil)
	expire(t, q, 0, 0)
	wantRequeued(t, q, 0, 0)
	wantSequences(t, q, 0, 2, 3)
}

func testRetainedShards(t *testing.T, q Opened) {
	producer := NewProducer()
	ack(t, q, 0, pushSequences(t, q, producer, 0, 2), nil)
	ack(t, q, 3, pushSequences(t, q, producer, 3, 3), nil)
	expire(t, q, 0, 0)
	wantRequeued(t, q, 0, 0)
	wantRequeued(t, q, 1, 0)
	wantRequeued(t, q, 3, 3)
	wantSequences(t, q, 0)
	wantSequences(t, q, 3, 1, 2, 3)
}

func testRetainedLost(t *testing.T, q Opened) {
	producer := NewProducer()
	ack(t, q, 0, pushSequences(t, q, producer, 0, 3), nil)
	q.Lose()
	wantRequeued(t, q, 0, 0)
	expire(t, q, 0, 0)
	ack(t, q, 0, pushSequences(t, q, producer, 0, 2), nil)
	q.Lose()
	ack(t, q, 0, pushSequences(t, q, producer, 0, 1), nil)
	wantRequeued(t, q, 0, 1)
	wantSequences(t, q, 0, 1)
}

func testRetainedForeign(t *testing.T, q Opened) {
	if q.AddForeign == nil {
		return // nothing of the kind can be in this queue
	}
	producer := NewProducer()
	push(t, q, NewBatch(producer, 0, 1, 1), "")
	q.AddForeign(0)
	push(t, q, NewBatch(producer, 0, 2, 1), "")
	ack(t, q, 0, idsOf(read(t, q, 0, "", all, all)), nil)
	wantSequences(t, q, 0)
	wantRequeued(t, q, 0, 2)
	wantSequences(t, q, 0, 1, 2)
}

// One flushes what there is again and again while another turns the database back again and again.
func testAckWhileRequeuing(t *testing.T, q Opened) {
	const n, rounds = 400, 30
	pushSequences(t, q, NewProducer(), 0, n)
	before := look(t, q, 0)
	failures := make(chan error, 2)
	var running sync.WaitGroup
	running.Go(func() {
		for range rounds {
			entries, err := q.Read(t.Context(), 0, "", all, all)
			if err == nil {
				err = q.Ack(t.Context(), 0, spend.Ack{Entries: idsOf(entries)})
			}
			if err != nil {
				failures <- err
				return
			}
		}
	})
	running.Go(func() {
		for range rounds {
			if _, err := q.Queue.(spend.Retainer).Requeue(t.Context(), 0); err != nil {
				failures <- err
				return
			}
		}
	})
	running.Wait()
	select {
	case err := <-failures:
		t.Fatal(err)
	default:
	}
	requeue(t, q, 0)
	times := map[uint64]int{}
	for _, e := range read(t, q, 0, "", all, all) {
		b, err := spend.ParseBatch(e.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		times[b.Sequence]++
	}
	for sequence := range uint64(n) {
		if times[sequence+1] != 1 {
			t.Errorf("sequence %d is there %d times", sequence+1, times[sequence+1])
		}
	}
	if after := look(t, q, 0); after.Batches != before.Batches || after.Bytes != before.Bytes {
		t.Errorf("stats are %+v after all came back, and were %+v", after, before)
	}
}

func testRetainerEndedContext(t *testing.T, q Opened) {
	ctx := endedContext(t)
	ack(t, q, 0, pushSequences(t, q, NewProducer(), 0, 2), nil)
	if _, err := q.Queue.(spend.Retainer).Requeue(ctx, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("Requeue returned %v", err)
	}
	if err := q.Queue.(spend.Retainer).Expire(ctx, 0, 0, time.Now()); !errors.Is(err, context.Canceled) {
		t.Errorf("Expire returned %v", err)
	}
	if _, err := q.Queue.(spend.Retainer).Booked(ctx, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("Booked returned %v", err)
	}
	if _, err := q.Queue.(spend.Retainer).Retained(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Retained returned %v", err)
	}
	wantSequences(t, q, 0)
	wantRequeued(t, q, 0, 2)
}

func idsOf(entries []spend.Entry) []spend.EntryID {
	ids := make([]spend.EntryID, len(entries))
	for i, e := range entries {
		ids[i] = e.ID
	}
	return ids
}
