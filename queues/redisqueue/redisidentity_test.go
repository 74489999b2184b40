package redisqueue_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/queues/queuetest"
	"github.com/spendflush/spendflush/queues/redisqueue"
	"github.com/spendflush/spendflush/spend"
)

// goOnFrom makes an empty queue give ids from the one after this on, as one does whose clock was
// ahead.
func goOnFrom(t *testing.T, client redis.UniversalClient, id string) {
	t.Helper()
	stream := key("spendflush", 0, "queue")
	do(t, client.(*redis.Client), "XADD", stream, id, "some", "thing")
	do(t, client.(*redis.Client), "XDEL", stream, id)
}

func flushDB(t *testing.T, client redis.UniversalClient) {
	t.Helper()
	if err := client.FlushDB(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
}

// future is an id that no clock gives today.
const future = "9999999999999-7"

func TestAnAckAfterALossLeavesTheBatchThatGotTheSameID(t *testing.T) {
	producer := queuetest.NewProducer()
	batches := map[string]*spend.Batch{
		"of another producer": queuetest.NewBatch(queuetest.NewProducer(), 0, 1, 1),
		"of the same name":    queuetest.NewBatch(producer, 0, 1, 2), // as one of other books may have
	}
	for name, opts := range map[string]redisqueue.Options{"Deleting": {}, "Retaining": retaining} {
		for _, index := range []string{"indexed", "not indexed"} {
			for which, other := range batches {
				t.Run(name+"/"+index+"/"+which, func(t *testing.T) {
					client := dial(t, testserver.Redis(t))
					q := open(t, client, opts)
					goOnFrom(t, client, future)
					first := push(t, q, queuetest.NewBatch(producer, 0, 1, 1), "")
					flushDB(t, client)
					goOnFrom(t, client, future)
					second := push(t, q, other, "")
					if inStream(first) != inStream(second) || first == second {
						t.Fatalf("the ids are %s and %s; this test wants the same place", first, second)
					}
					if index == "not indexed" {
						do(t, client.(*redis.Client), "DEL", key("spendflush", 0, "index"))
					}
					before := look(t, q)

					ack(t, q, []spend.EntryID{first})
					if after := look(t, q); after != before {
						t.Errorf("stats are %+v after a late ack, and were %+v", after, before)
					}
					if again := push(t, q, other, second); again != second {
						t.Errorf("the batch isn't found any more: %s", again)
					}
					wantRetained(t, q, 0)

					ack(t, q, []spend.EntryID{first, second})
					if after := look(t, q); after.Batches != 0 {
						t.Errorf("stats are %+v after its own ack", after)
					}
				})
			}
		}
	}
}

// An index that says something else of an entry, because another program has changed it, holds
// nothing up.
func TestAnEntryIsAckedWhateverTheIndexSaysOfIt(t *testing.T) {
	client := dial(t, testserver.Redis(t))
	q := open(t, client, redisqueue.Options{})
	id := push(t, q, queuetest.NewBatch(queuetest.NewProducer(), 0, 1, 1), "")
	index := key("spendflush", 0, "index")
	do(t, client.(*redis.Client), "DEL", index)
	do(t, client.(*redis.Client), "XADD", index, inStream(id), "n", 1, "c", 1, "i", "another")
	ack(t, q, []spend.EntryID{id})
	if stats := look(t, q); stats.Batches != 0 {
		t.Errorf("stats are %+v", stats)
	}
}

func TestADamagedEntryIsAckedByWhatWasReadOfIt(t *testing.T) {
	producer := queuetest.NewProducer().String()
	for name, fields := range map[string][2][]any{ // what was read, and another one
		"NoBatch":      {{"p", producer, "s", 1, "x", "y"}, {"p", producer, "s", 1, "b", "damaged"}},
		"NoProducer":   {{"s", 1, "b", "damaged"}, {"s", 1, "b", "other"}},
		"NoSequence":   {{"p", producer, "b", "damaged"}, {"p", producer, "b", "otherwise"}},
		"EmptyBatch":   {{"b", ""}, {"b", "0"}},
		"LongProducer": {{"p", strings.Repeat("p", 1000), "s", 1, "b", "damaged"}, {"p", producer, "s", 1, "b", "damaged"}},
	} {
		t.Run(name, func(t *testing.T) {
			client := dial(t, testserver.Redis(t)).(*redis.Client)
			q := open(t, client, retaining)
			add := func(fields []any) spend.EntryID {
				t.Helper()
				do(t, client, append([]any{"XADD", key("spendflush", 0, "queue"), future}, fields...)...)
				entries, err := q.Read(t.Context(), 0, "", 10, 1<<20)
				if err != nil || len(entries) != 1 {
					t.Fatalf("%d entries, %v", len(entries), err)
				}
				return entries[0].ID
			}
			first := add(fields[0])
			flushDB(t, client)
			second := add(fields[1])
			ack(t, q, []spend.EntryID{first})
			if stats := look(t, q); stats.Batches != 1 {
				t.Errorf("an ack of another entry took this one out")
			}
			ack(t, q, []spend.EntryID{second})
			if stats := look(t, q); stats.Batches != 0 {
				t.Errorf("it isn't acked: %+v", stats)
			}
		})
	}
}

const lastID = "18446744073709551615-18446744073709551615"

func TestAnEmptyStreamWhoseIDsAreUsedUpBeginsAnew(t *testing.T) {
	client := dial(t, testserver.Redis(t))
	q := open(t, client, retaining)
	goOnFrom(t, client, lastID)
	ids := pushN(t, q, 3, 1)
	if stats := look(t, q); stats.Batches != 3 || time.Until(stats.Oldest).Abs() > time.Hour {
		t.Errorf("stats are %+v", stats)
	}
	ack(t, q, ids)
	goOnFrom(t, client, lastID)
	if n := requeue(t, q); n != 3 {
		t.Errorf("%d entries came back", n)
	}
	wantOnce(t, client, q, 3)
}

func TestAStreamWhoseIDsAreUsedUpSaysWhatToDo(t *testing.T) {
	client := dial(t, testserver.Redis(t))
	q := open(t, client, retaining)
	ack(t, q, pushN(t, q, 2, 1))
	do(t, client.(*redis.Client), "XADD", key("spendflush", 0, "queue"), lastID, "some", "thing")

	b := queuetest.NewBatch(queuetest.NewProducer(), 0, 1, 1)
	_, err := q.Push(t.Context(), b, "")
	wantExhausted(t, err)
	_, err = q.Requeue(t.Context(), 0)
	wantExhausted(t, err)
	wantRetained(t, q, 2)

	entries, err := q.Read(t.Context(), 0, "", 10, 1<<20)
	if err != nil || len(entries) != 1 {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	if behind, err := q.Read(t.Context(), 0, entries[0].ID, 10, 1<<20); err != nil || len(behind) != 0 {
		t.Errorf("%d entries behind the last id, %v", len(behind), err)
	}
	ack(t, q, []spend.EntryID{entries[0].ID}) // as after it was quarantined
	push(t, q, b, "")
	if n := requeue(t, q); n != 2 {
		t.Errorf("%d entries came back", n)
	}
}

func wantExhausted(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, redisqueue.ErrIDsExhausted) || errors.Is(err, spend.ErrQueueFull) ||
		!strings.Contains(err.Error(), "spendflush flush") || !strings.Contains(err.Error(), "DEL {spendflush:0}:queue") {
		t.Errorf("got %v", err)
	}
}

// Whoever can't retain must still ack.
func TestARetainedStreamWhoseIDsAreUsedUpHoldsNoAckUp(t *testing.T) {
	client := dial(t, testserver.Redis(t))
	q := open(t, client, retaining)
	stream := key("spendflush", 0, "retained")
	do(t, client.(*redis.Client), "XADD", stream, lastID, "t", 1)
	ack(t, q, pushN(t, q, 2, 1))
	if stats := look(t, q); stats.Batches != 0 || q.Unretained() != 2 {
		t.Errorf("stats are %+v, and %d weren't retained", stats, q.Unretained())
	}
	do(t, client.(*redis.Client), "XDEL", stream, lastID)
	ack(t, q, pushN(t, q, 2, 1))
	wantRetained(t, q, 2)
}

func TestAnEntryLargerThanAnyBatchIsReadByItsBeginning(t *testing.T) {
	client := dial(t, testserver.NewRedis(t).URL()).(*redis.Client)
	q := open(t, client, retaining)
	pushN(t, q, 1, 1)
	huge := strings.Repeat("0123456789abcdef", redisqueue.MaxBatchBytes/16) + "!"
	do(t, client, "XADD", key("spendflush", 0, "queue"), "*", "p", queuetest.NewProducer().String(), "s", 1, "b", huge)
	pushN(t, q, 1, 1)
	if stats := look(t, q); stats.Batches != 3 || stats.Bytes < redisqueue.MaxBatchBytes {
		t.Errorf("stats are %+v", stats)
	}

	before := sentBy(t, client)
	entries, err := q.Read(t.Context(), 0, "", 10, 1<<20)
	if err != nil || len(entries) != 3 {
		t.Fatalf("read %d entries, %v", len(entries), err)
	}
	if bytes := sentBy(t, client) - before; bytes > 100_000 {
		t.Errorf("the server sent %d bytes", bytes)
	}
	want := fmt.Sprintf("it has %d bytes", len(huge))
	if e := entries[1]; !strings.HasPrefix(e.Fault, want) || string(e.Bytes) != huge[:1024] || entries[0].Fault+entries[2].Fault != "" {
		t.Errorf("it was read as %d bytes with the fault %q", len(e.Bytes), e.Fault)
	}

	ack(t, q, []spend.EntryID{entries[0].ID, entries[1].ID, entries[2].ID})
	if stats := look(t, q); stats != (spend.QueueStats{}) {
		t.Errorf("stats are %+v", stats)
	}
	wantRetained(t, q, 2)
}

// While a clock is ahead, ids say a time that is still to come, and so do all later ones.
func TestWhatWasAckedUnderAClockThatWasAheadIsRetainedForItsAgeAndNotForEver(t *testing.T) {
	client := dial(t, testserver.Redis(t))
	q := open(t, client, retaining)
	expire := func(age time.Duration, now time.Time) {
		t.Helper()
		if err := q.Expire(t.Context(), 0, age, now); err != nil {
			t.Fatal(err)
		}
	}
	ahead := time.Now().Add(365 * 24 * time.Hour)
	q.SetClock(func() time.Time { return ahead })
	ack(t, q, pushN(t, q, 3, 1))
	q.SetClock(time.Now)
	ack(t, q, pushN(t, q, 2, 1))

	const age = time.Hour
	expire(age, ahead) // while both are ahead nothing is old
	expire(age, time.Now())
	expire(age, time.Now().Add(2*age)) // one clock alone jumps
	expire(age, time.Now())
	wantRetained(t, q, 5)

	client.Del(t.Context(), key(redisqueue.DefaultPrefix, 0, "window")) // that of the age above, which nobody has any more
	for deadline := time.Now().Add(time.Minute); ; {
		expire(time.Millisecond, time.Now())
		entries, _, err := q.RetainedStats(t.Context(), 0)
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("%d entries stay retained, %v", entries, err)
		}
		if entries == 0 {
			break
		}
	}

	// Nothing of it is left: what comes next goes by the right clocks.
	ack(t, q, pushN(t, q, 1, 1))
	if added := newestRetained(t, client); time.Until(added) > time.Hour {
		t.Errorf("the next one says %s", added)
	}
}

// A clock of Redis that is behind must not make young entries look old once it is right again.
func TestAnEntryIsAsYoungAsTheLaterClockSays(t *testing.T) {
	client := dial(t, testserver.Redis(t))
	q := open(t, client, retaining)
	tomorrow := time.Now().Add(24 * time.Hour).Truncate(time.Millisecond)
	q.SetClock(func() time.Time { return tomorrow }) // that of Redis is a day behind
	ack(t, q, pushN(t, q, 2, 1))
	if added := newestRetained(t, client); added.Before(tomorrow) {
		t.Errorf("it says %s, want %s", added, tomorrow)
	}
	q.SetClock(func() time.Time { return time.UnixMilli(0) }) // the instance's own is behind
	ack(t, q, pushN(t, q, 2, 1))
	wantRetained(t, q, 4)
}

func newestRetained(t *testing.T, client redis.UniversalClient) time.Time {
	t.Helper()
	newest, err := client.XRevRangeN(t.Context(), key("spendflush", 0, "retained"), "+", "-", 1).Result()
	if err != nil || len(newest) != 1 {
		t.Fatalf("%d entries, %v", len(newest), err)
	}
	var ms, seq int64
	if _, err := fmt.Sscanf(newest[0].ID, "%d-%d", &ms, &seq); err != nil {
		t.Fatal(err)
	}
	return time.UnixMilli(ms)
}
