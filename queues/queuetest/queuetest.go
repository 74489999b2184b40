// Package queuetest says in tests what a spend.Queue must do.
package queuetest

import (
	"context"
	"reflect"
	"testing"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// Opened is a queue under test.
type Opened struct {
	spend.Queue

	// Lose makes the queue lose everything, marks included, as a FLUSHALL does.
	Lose func()

	// AddForeign adds an entry to the shard that Push didn't make and that holds no batch. nil, if
	// that can't happen.
	AddForeign func(shard int)
}

// Run runs the suite. open returns a new empty queue whose shards hold at most maxBytes each (0: no
// bound), and is called for each test. Bytes are counted as the queue likes, but by at least those
// of the batches.
func Run(t *testing.T, open func(t *testing.T, maxBytes int64) Opened) {
	s := suite{open: open}
	for _, test := range []struct {
		name string
		run  func(t *testing.T, q Opened)
	}{
		{"AnUnusedQueueIsEmpty", testUnused},
		{"EntriesAreReadInTheOrderTheyWerePushed", testOrder},
		{"ReadingTakesNothingOut", testReadingTakesNothing},
		{"BytesComeBackAsTheyWere", testBytes},
		{"EntriesReadBelongToTheReader", testOwnership},
		{"ReadGoesOnAfterAnEntryThatIsGone", testReadAfterGone},
		{"ReadStopsAtTheNumberOfEntries", testMaxEntries},
		{"ReadStopsAtTheBytes", testMaxBytes},
		{"ReadReturnsAnEntryLargerThanItsBytes", testAtLeastOne},
		{"APushWithoutItsPreviousEntryAddsADuplicate", testDuplicate},
		{"APushWithItsPreviousEntryAddsNothing", testPrevious},
		{"APushAddsAgainWhatWasAcked", testPreviousAcked},
		{"APushAddsAgainWhatWasLost", testPreviousLost},
		{"AnEntryOfAnotherBatchIsNotTakenForThisOne", testPreviousOfAnother},
		{"APreviousEntryThatNoQueueGaveCountsAsGone", testPreviousNonsense},
		{"AckTakesExactlyTheGivenEntriesOut", testAckExact},
		{"ALateAckTakesNoOtherEntryOut", testLateAck},
		{"AnAckLeavesWhatGotTheSamePlaceSince", testAckAfterLoss},
		{"AnIDThatNoQueueGaveCountsAsAcked", testAckNonsense},
		{"AnEntryAckedTwiceInOneCallIsCountedOnce", testAckTwice},
		{"AckingNothingDoesNothing", testAckNothing},
		{"AckTakesThousandsAtOnce", testAckMany},
		{"MarksAreKeptByShardAndProducer", testMarks},
		{"TheLastPublishedMarkCounts", testMarkOverwritten},
		{"AMarkIsPublishedWithoutItsSums", testMarkWhole},
		{"AMarkWithTooManyLostBatchesIsNotPublished", testMarkTooLong},
		{"MarksAndEntriesMayBeLostAndAddedAgain", testLoss},
		{"ShardsHaveNothingToDoWithEachOther", testShards},
		{"StatsFollowWhatIsPushedAndAcked", testStats},
		{"ConcurrentPushersLoseNothing", testConcurrent},
		{"AForeignEntryIsReadWithoutBytesAndCanBeAcked", testForeign},
		{"AnEndedContextStopsEveryCall", testEndedContext},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, s.open(t, 0)) })
	}
	t.Run("AFullQueueRefusesAndAddsNothing", s.testFull)
	t.Run("AFullQueueStillTakesWhatItHas", s.testFullPrevious)
	t.Run("AnEmptyQueueTakesABatchOfAnySize", s.testTooLarge)
	t.Run("ALostQueueIsNotFull", s.testFullLost)
}

type suite struct {
	open func(t *testing.T, maxBytes int64) Opened
}

var bornAt = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// NewProducer returns a producer for tests.
func NewProducer() spend.ProducerID { return spend.NewProducerID(bornAt) }

// NewBatch returns a batch of the producer with the given number of rollup rows, of about 100 bytes
// each.
func NewBatch(producer spend.ProducerID, shard int, sequence uint64, rows int) *spend.Batch {
	header := spend.Header{
		Shard: shard, Producer: producer, Sequence: sequence, SealedAt: bornAt,
	}
	rollups := make([]spend.RollupRow, rows)
	for i := range rollups {
		series := spend.Series{APIKey: "key", Model: "model", Tags: []string{string(rune('a' + i%26))}}
		counters := spend.Counters{Spend: spend.Dollars(int64(i)), SuccessfulRequests: 1}
		// The hour orders the rows, whatever their keys are.
		rollups[i] = spend.NewRollupRow(&series, spend.HourOf(bornAt)+spend.Hour(i), counters)
	}
	return spend.NewBatch(header, nil, rollups)
}

// all is enough for everything that the tests push.
const all = 1 << 30

func push(t *testing.T, q spend.Queue, b *spend.Batch, previous spend.EntryID) spend.EntryID {
	t.Helper()
	id, err := q.Push(t.Context(), b, previous)
	if err != nil {
		t.Fatalf("push of sequence %d: %v", b.Sequence, err)
	}
	if id == "" {
		t.Fatalf("push of sequence %d returned no id", b.Sequence)
	}
	return id
}

// pushSequences pushes batches of the producer with sequences from 1 and returns their ids.
func pushSequences(t *testing.T, q spend.Queue, producer spend.ProducerID, shard, n int) []spend.EntryID {
	t.Helper()
	ids := make([]spend.EntryID, n)
	for i := range ids {
		ids[i] = push(t, q, NewBatch(producer, shard, uint64(i+1), 1), "")
	}
	return ids
}

func read(
	t *testing.T, q spend.Queue, shard int, after spend.EntryID, maxEntries, maxBytes int,
) []spend.Entry {
	t.Helper()
	entries, err := q.Read(t.Context(), shard, after, maxEntries, maxBytes)
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	return entries
}

// ack acks these entries and publishes marks at these sequences.
func ack(t *testing.T, q spend.Queue, shard int, ids []spend.EntryID, sequences map[spend.ProducerID]uint64) {
	t.Helper()
	ackAll(t, q, shard, spend.Ack{Entries: ids, Marks: marksAt(sequences)})
}

func ackAll(t *testing.T, q spend.Queue, shard int, a spend.Ack) {
	t.Helper()
	if err := q.Ack(t.Context(), shard, a); err != nil {
		t.Fatalf("ack: %v", err)
	}
}

// markAt returns a mark at that sequence, the zero Mark at 0.
func markAt(sequence uint64) spend.Mark {
	m := spend.Mark{Sequence: sequence}
	for i := range m.Digest {
		m.Digest[i] = byte(sequence >> (i % 8))
	}
	return m
}

func marksAt(sequences map[spend.ProducerID]uint64) map[spend.ProducerID]spend.Mark {
	marks := map[spend.ProducerID]spend.Mark{}
	for producer, sequence := range sequences {
		marks[producer] = markAt(sequence)
	}
	return marks
}

// wantMark wants the mark that ack publishes at that sequence, none at 0.
func wantMark(t *testing.T, q spend.Queue, shard int, producer spend.ProducerID, sequence uint64) {
	t.Helper()
	wantMarkAs(t, q, shard, producer, markAt(sequence))
}

func wantMarkAs(t *testing.T, q spend.Queue, shard int, producer spend.ProducerID, want spend.Mark) {
	t.Helper()
	got, err := q.Mark(t.Context(), shard, producer)
	if err != nil {
		t.Fatalf("mark: %v", err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("mark in shard %d is %+v, want %+v", shard, got, want)
	}
}

// wantSequences checks what waits in the shard, in order, and that stats agree.
func wantSequences(t *testing.T, q spend.Queue, shard int, want ...uint64) {
	t.Helper()
	entries := read(t, q, shard, "", all, all)
	got := make([]uint64, len(entries))
	same := len(got) == len(want)
	for i, e := range entries {
		b, err := spend.ParseBatch(e.Bytes)
		if err != nil {
			t.Fatalf("entry %s: %v", e.ID, err)
		}
		got[i] = b.Sequence
		same = same && got[i] == want[i]
	}
	if !same {
		t.Errorf("shard %d holds sequences %v, want %v", shard, got, want)
	}
	if stats := look(t, q, shard); stats.Batches != int64(len(want)) {
		t.Errorf("stats of shard %d say %d batches, want %d", shard, stats.Batches, len(want))
	}
}

func look(t *testing.T, q spend.Queue, shard int) spend.QueueStats {
	t.Helper()
	stats, err := q.Stats(t.Context(), shard)
	if err != nil {
		t.Fatalf("stats: %v", err)
	}
	return stats
}

func endedContext(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}
