package redisqueue_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/queues/queuetest"
	"github.com/spendflush/spendflush/queues/redisqueue"
	"github.com/spendflush/spendflush/spend"
)

// Half a GiB is what Redis takes in one value, and every instance would take it into its memory.
func TestTextsThatAreLongerThanAnyOfOursStayInRedis(t *testing.T) {
	client := dial(t, testserver.Redis(t)).(*redis.Client)
	q := open(t, client, redisqueue.Options{})
	producer := queuetest.NewProducer()
	long := strings.Repeat("1", 8<<20)
	for _, name := range []string{
		key("spendflush", 0, "mark:"+producer.String()), key("spendflush", 0, "changes"), "{spendflush:books:place}",
	} {
		do(t, client, "SET", name, long)
	}
	read := func() int64 {
		var bytes int64
		info := client.InfoMap(t.Context(), "stats").Item("Stats", "total_net_output_bytes")
		for _, digit := range info {
			bytes = 10*bytes + int64(digit-'0')
		}
		return bytes
	}
	before := read()
	if _, err := q.Mark(t.Context(), 0, producer); !errors.Is(err, spend.ErrMarkText) {
		t.Errorf("the mark: %v", err)
	}
	if _, err := q.Booked(t.Context(), 0); err == nil || !strings.Contains(err.Error(), "TOOLONG") {
		t.Errorf("the number of changes: %v", err)
	}
	if _, err := q.NotedBooks(t.Context(), "place"); err == nil || !strings.Contains(err.Error(), "TOOLONG") {
		t.Errorf("the note: %v", err)
	}
	if n := read() - before; n > 1<<20 {
		t.Errorf("%d bytes were sent", n)
	}
}

func TestTheLongestTextsOfOursAreRead(t *testing.T) {
	client := dial(t, testserver.Redis(t)).(*redis.Client)
	q := open(t, client, redisqueue.Options{})
	producer := queuetest.NewProducer()
	mark := spend.Mark{Sequence: 1<<63 - 1, Recent: make(spend.Recent, 4*64)}
	for i := range uint64(spend.MaxPublishedLost) {
		first := 1<<63 - 10_000 + 100*i
		mark.Lost = append(mark.Lost, spend.SequenceRange{First: first, Last: first + 50})
		mark.Quarantined = append(mark.Quarantined, first+20)
	}
	text, err := mark.AppendText(nil)
	if err != nil {
		t.Fatal(err)
	}
	do(t, client, "SET", key("spendflush", 0, "mark:"+producer.String()), text)
	if got, err := q.Mark(t.Context(), 0, producer); err != nil || len(got.Lost) != spend.MaxPublishedLost {
		t.Errorf("%d are lost, %v", len(got.Lost), err)
	}
	do(t, client, "SET", key("spendflush", 0, "changes"), "9223372036854775807")
	if n, err := q.Booked(t.Context(), 0); err != nil || n != 1<<63-1 {
		t.Errorf("%d changes, %v", n, err)
	}
}

// A push that fails after it has added its batch adds it again and again.
func TestACountOfBytesThatAnotherProgramHasMadeIsMadeAnew(t *testing.T) {
	client := dial(t, testserver.Redis(t)).(*redis.Client)
	for _, count := range []string{"-inf", "inf", "nan", "1.5", "-7", "0x10", "1e300", "", "99999999999999999999"} {
		flushDB(t, client)
		q := open(t, client, redisqueue.Options{MaxBytes: 1 << 20})
		first := push(t, q, queuetest.NewBatch(queuetest.NewProducer(), 0, 1, 1), "")
		one := look(t, q)
		do(t, client, "SET", key("spendflush", 0, "bytes"), count)
		second := push(t, q, queuetest.NewBatch(queuetest.NewProducer(), 0, 1, 1), "")
		if two := look(t, q); two.Batches != 2 || two.Bytes != 2*one.Bytes {
			t.Errorf("bytes %q: after a push it has %+v, and one is %+v", count, two, one)
		}
		do(t, client, "SET", key("spendflush", 0, "bytes"), count)
		ack(t, q, []spend.EntryID{first, second})
		if n := look(t, q).Batches; n != 0 {
			t.Errorf("bytes %q: after an ack it has %d batches", count, n)
		}
	}
}
