package memqueue_test

import (
	"slices"
	"testing"
	"time"

	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/queues/memqueue"
	"github.com/spendflush/spendflush/queues/queuetest"
	"github.com/spendflush/spendflush/spend"
)

func TestMain(m *testing.M) { testserver.Main(m) }

func TestMemoryIsAQueue(t *testing.T) {
	queuetest.Run(t, func(t *testing.T, maxBytes int64) queuetest.Opened {
		q := memqueue.New(memqueue.Options{MaxBytes: maxBytes})
		return queuetest.Opened{Queue: q, Lose: q.Clear, AddForeign: func(shard int) { q.Insert(shard, nil) }}
	})
}

func TestMemoryIsARetainer(t *testing.T) {
	queuetest.RunRetainer(t, func(t *testing.T, maxBytes int64) queuetest.Opened {
		q := memqueue.New(memqueue.Options{MaxBytes: maxBytes, Retain: true})
		return queuetest.Opened{Queue: q, Lose: q.Clear}
	})
}

func texts(entries []spend.Entry) (all []string) {
	for _, e := range entries {
		all = append(all, string(e.Bytes))
	}
	return all
}

func TestAQueueCanBeHarmed(t *testing.T) {
	q := memqueue.New(memqueue.Options{Retain: true, MaxBytes: 3})
	var ids []spend.EntryID
	for _, text := range []string{"one", "two", "three", "four"} {
		ids = append(ids, q.Insert(0, []byte(text)))
	}
	q.Lose(0, ids[1], "nonsense")
	if err := q.Ack(t.Context(), 0, spend.Ack{Entries: ids[:2]}); err != nil {
		t.Fatal(err)
	}
	entries, retained := q.Contents(0)
	if !slices.Equal(texts(entries), []string{"three", "four"}) || !slices.Equal(texts(retained), []string{"one"}) {
		t.Errorf("%q, retained %q", texts(entries), texts(retained))
	}
	entries[0].Bytes[0] = 'T'
	read, err := q.Read(t.Context(), 0, "", 10, 1000)
	if err != nil || !slices.Equal(texts(read), []string{"Three", "four"}) || read[0].ID != ids[2] {
		t.Errorf("%q, %v", texts(read), err)
	}
	if stats, err := q.Stats(t.Context(), 0); err != nil || stats.Bytes != 9 {
		t.Errorf("%+v, %v", stats, err)
	}

	producer := spend.NewProducerID(time.Now())
	if err := q.Ack(t.Context(), 0, spend.Ack{Marks: map[spend.ProducerID]spend.Mark{producer: {Sequence: 7}}}); err != nil {
		t.Fatal(err)
	}
	q.DropMarks()
	if mark, err := q.Mark(t.Context(), 0, producer); err != nil || mark.Sequence != 0 {
		t.Errorf("%+v, %v", mark, err)
	}

	q.Clear() // places come again, and an id still stands for what is there
	q.Insert(0, []byte("another"))
	if err := q.Ack(t.Context(), 0, spend.Ack{Entries: ids[:1]}); err != nil {
		t.Fatal(err)
	}
	if entries, retained := q.Contents(0); !slices.Equal(texts(entries), []string{"another"}) || len(retained) != 0 {
		t.Errorf("%q, retained %q", texts(entries), texts(retained))
	}
}

func TestALateAckLeavesAnotherBatchOfTheSameNameThatGotItsPlace(t *testing.T) {
	q := memqueue.New(memqueue.Options{})
	producer := spend.NewProducerID(time.Now())
	first, err := q.Push(t.Context(), queuetest.NewBatch(producer, 0, 1, 1), "")
	if err != nil {
		t.Fatal(err)
	}

	q.Clear()
	other := queuetest.NewBatch(producer, 0, 1, 2)
	second, err := q.Push(t.Context(), other, first)
	if err != nil || second == first {
		t.Errorf("%s is given again, as %s, %v", first, second, err)
	}
	if err := q.Ack(t.Context(), 0, spend.Ack{Entries: []spend.EntryID{first}}); err != nil {
		t.Fatal(err)
	}
	if again, err := q.Push(t.Context(), other, second); again != second {
		t.Errorf("the batch is gone: %s, %v", again, err)
	}
}

// An entry acked under a clock that was a year ahead would be retained for a year, and what was
// acked after it was put right would look older than it is.
func TestAClockThatIsPutRightForgetsWhatIsRetainedInTime(t *testing.T) {
	right := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	now := right.AddDate(1, 0, 0)
	q := memqueue.New(memqueue.Options{Retain: true, Now: func() time.Time { return now }})
	ack := func(text string) {
		t.Helper()
		if err := q.Ack(t.Context(), 0, spend.Ack{Entries: []spend.EntryID{q.Insert(0, []byte(text))}}); err != nil {
			t.Fatal(err)
		}
	}
	retained := func(want ...string) {
		t.Helper()
		if err := q.Expire(t.Context(), 0, time.Hour, now); err != nil {
			t.Fatal(err)
		}
		if _, got := q.Contents(0); !slices.Equal(texts(got), want) {
			t.Errorf("%q is retained, want %q", texts(got), want)
		}
	}
	ack("ahead")
	if stats, err := q.Stats(t.Context(), 0); err != nil || !stats.Oldest.IsZero() {
		t.Errorf("%+v, %v", stats, err)
	}
	now = right
	ack("right")
	retained("ahead", "right")
	now = right.Add(time.Hour - 1)
	retained("ahead", "right")
	now = right.Add(time.Hour)
	retained()
	now = right
	ack("again, put back an hour")
	now = right.Add(time.Hour)
	retained()
}
