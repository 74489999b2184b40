package redisqueue_test

import (
	"reflect"
	"testing"

	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/queues/queuetest"
	"github.com/spendflush/spendflush/queues/redisqueue"
	"github.com/spendflush/spendflush/spend"
)

func TestWhatIsLeftIsSeenInEveryShard(t *testing.T) {
	q := open(t, dial(t, testserver.Redis(t)), retaining)
	want := func(want redisqueue.Remainder) {
		t.Helper()
		got, err := q.Remainder(t.Context())
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("left is %+v, %v; want %+v", got, err, want)
		}
	}
	want(redisqueue.Remainder{})
	producer := queuetest.NewProducer()
	push(t, q, queuetest.NewBatch(producer, 0, 1, 1), "")
	const last = spend.MaxShards - 1
	push(t, q, queuetest.NewBatch(producer, last, 1, 1), "")
	id := push(t, q, queuetest.NewBatch(producer, 5, 1, 1), "")
	want(redisqueue.Remainder{Batches: 3, Shards: []int{0, 5, last}})
	if err := q.Ack(t.Context(), 5, spend.Ack{Entries: []spend.EntryID{id}}); err != nil {
		t.Fatal(err)
	}
	want(redisqueue.Remainder{Batches: 2, Retained: 1, Shards: []int{0, 5, last}})
}
