package redisqueue_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush/internal/lab/faultproxy"
	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/queues/queuetest"
	"github.com/spendflush/spendflush/queues/redisqueue"
	"github.com/spendflush/spendflush/spend"
)

var retaining = redisqueue.Options{Retain: true}

// pushN pushes n batches of one producer with the given rows each and returns their ids.
func pushN(t *testing.T, q spend.Queue, n, rows int) []spend.EntryID {
	t.Helper()
	producer := queuetest.NewProducer()
	var ids []spend.EntryID
	for i := range uint64(n) {
		ids = append(ids, push(t, q, queuetest.NewBatch(producer, 0, i+1, rows), ""))
	}
	return ids
}

func ack(t *testing.T, q spend.Queue, ids []spend.EntryID) {
	t.Helper()
	if err := q.Ack(t.Context(), 0, spend.Ack{Entries: ids}); err != nil {
		t.Fatal(err)
	}
}

func requeue(t *testing.T, q *redisqueue.Queue) int {
	t.Helper()
	n, err := q.Requeue(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func wantRetained(t *testing.T, q *redisqueue.Queue, want int64) {
	t.Helper()
	entries, bytes, err := q.RetainedStats(t.Context(), 0)
	if err != nil || entries != want || (bytes > 0) != (want > 0) {
		t.Errorf("%d entries of %d bytes are retained, want %d; %v", entries, bytes, want, err)
	}
}

// timesThere returns how many times each sequence waits in the queue.
func timesThere(t *testing.T, q spend.Queue) map[uint64]int {
	t.Helper()
	entries, err := q.Read(t.Context(), 0, "", 1<<30, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	times := map[uint64]int{}
	for _, e := range entries {
		b, err := spend.ParseBatch(e.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		times[b.Sequence]++
	}
	return times
}

// wantOnce checks that the sequences from 1 to n wait in the queue, once each, and that stats and
// index agree.
func wantOnce(t *testing.T, client redis.UniversalClient, q spend.Queue, n int) {
	t.Helper()
	times := timesThere(t, q)
	for sequence := range uint64(n) {
		if times[sequence+1] != 1 {
			t.Errorf("sequence %d is there %d times", sequence+1, times[sequence+1])
		}
	}
	indexed, err := client.XLen(t.Context(), key("spendflush", 0, "index")).Result()
	if stats := look(t, q); err != nil || stats.Batches != int64(len(times)) || indexed != stats.Batches {
		t.Errorf("stats are %+v and %d are in the index, %v; %d entries are there", stats, indexed, err, len(times))
	}
}

// afterScripts has a function called after each script that the server has run, with the number of
// those so far.
func afterScripts(client redis.UniversalClient, after func(n int)) {
	client.(*redis.Client).AddHook(&scriptCounter{after: after})
}

type scriptCounter struct {
	n     int
	after func(n int)
}

func (c *scriptCounter) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c *scriptCounter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (c *scriptCounter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if strings.HasPrefix(cmd.Name(), "eval") && err == nil {
			c.n++
			c.after(c.n)
		}
		return err
	}
}

func TestWithoutRetainNothingIsRetained(t *testing.T) {
	client := dial(t, testserver.Redis(t))
	q := open(t, client, redisqueue.Options{})
	ack(t, q, pushN(t, q, 3, 1))
	if n := requeue(t, q); n != 0 {
		t.Errorf("%d entries came back", n)
	}
	if there, err := client.Exists(t.Context(), key("spendflush", 0, "retained")).Result(); there != 0 || err != nil {
		t.Errorf("something is retained: %d, %v", there, err)
	}
}

func TestAServerOutOfMemoryAcksWithoutRetaining(t *testing.T) {
	client := dial(t, testserver.NewRedis(t).URL())
	q := open(t, client, retaining)
	producer := queuetest.NewProducer()
	ids := pushN(t, q, 205, 10)
	ack(t, q, ids[:1])
	maxMemory(t, client, "1")
	// The first id is gone: deleting it must not be what lets the copies of the others in.
	if err := q.Ack(t.Context(), 0, ackOf(ids[:204], producer, 3)); err != nil {
		t.Fatalf("ack on a server out of memory: %v", err)
	}
	if mark, err := q.Mark(t.Context(), 0, producer); mark.Sequence != 3 || err != nil {
		t.Errorf("the mark is %+v, %v", mark, err)
	}
	if stats := look(t, q); stats.Batches != 1 {
		t.Errorf("stats are %+v", stats)
	}
	if n := q.Unretained(); n != 203 {
		t.Errorf("%d entries weren't retained, want 203", n)
	}
	wantRetained(t, q, 1)
	// What is all gone must not make the marks the first that needs memory.
	if err := q.Ack(t.Context(), 0, ackOf(ids[:204], producer, 4)); err != nil {
		t.Errorf("settling again on a server out of memory: %v", err)
	}
	maxMemory(t, client, "0")
	ack(t, q, ids)
	wantRetained(t, q, 2)
	if n := q.Unretained(); n != 203 {
		t.Errorf("%d entries weren't retained, want 203", n)
	}
}

func maxMemory(t *testing.T, client redis.UniversalClient, value string) {
	t.Helper()
	if err := client.ConfigSet(t.Context(), "maxmemory", value).Err(); err != nil {
		t.Fatal(err)
	}
}

func TestAServerOutOfMemoryRequeuesAndExpires(t *testing.T) {
	client := dial(t, testserver.NewRedis(t).URL())
	q := open(t, client, retaining)
	ids := pushN(t, q, 250, 10)
	ack(t, q, ids[:249]) // one waits, so that an empty queue isn't what opens the way
	maxMemory(t, client, "1")
	if n := requeue(t, q); n != 249 {
		t.Errorf("%d entries came back", n)
	}
	wantOnce(t, client, q, 250)
	maxMemory(t, client, "0")
	entries, err := q.Read(t.Context(), 0, "", 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	ack(t, q, []spend.EntryID{entries[0].ID})
	maxMemory(t, client, "1")
	if err := q.Expire(t.Context(), 0, 0, time.Now()); err != nil {
		t.Error(err)
	}
	wantRetained(t, q, 0)
}

func TestALostReplyRetainsAndRequeuesEntriesOnce(t *testing.T) {
	const n = 250 // several scripts
	server := testserver.Redis(t)
	proxy := faultproxy.New(t, host(t, server))
	client := dial(t, through(t, server, proxy.Addr()))
	q := open(t, client, retaining)
	ids := pushN(t, q, n, 1)
	ack(t, q, ids[:1]) // the server knows the scripts, so that it isn't their absence whose reply is cut
	proxy.CutNextReply()
	ack(t, q, ids)
	wantRetained(t, q, n)
	if stats := look(t, q); stats != (spend.QueueStats{}) {
		t.Errorf("stats are %+v", stats)
	}
	requeue(t, q)
	entries, err := q.Read(t.Context(), 0, "", n, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		ack(t, q, []spend.EntryID{e.ID})
	}
	proxy.CutNextReply()
	requeue(t, q)
	wantRetained(t, q, 0)
	wantOnce(t, client, q, n)
}

func TestARequeueBrokenOffLosesNothing(t *testing.T) {
	const n = 450
	client := dial(t, testserver.Redis(t))
	q := open(t, client, retaining)
	ack(t, q, pushN(t, q, n, 1))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	afterScripts(client, func(n int) {
		if n == 2 {
			cancel()
		}
	})
	if _, err := q.Requeue(ctx, 0); !errors.Is(err, context.Canceled) {
		t.Fatalf("requeue returned %v", err)
	}
	retained, _, err := q.RetainedStats(t.Context(), 0)
	if err != nil || retained == 0 || retained == n {
		t.Fatalf("%d of %d are still retained, %v: it wasn't broken off half way", retained, n, err)
	}
	requeue(t, q)
	wantRetained(t, q, 0)
	wantOnce(t, client, q, n)
}

// Without its end, it would go on as long as another instance acks what it brings.
func TestRequeueEndsThoughWhatItBringsIsAckedAgain(t *testing.T) {
	const n = 250
	server := testserver.Redis(t)
	client := dial(t, server)
	q, flusher := open(t, client, retaining), open(t, dial(t, server), retaining)
	ack(t, q, pushN(t, q, n, 1))
	afterScripts(client, func(scripts int) {
		if scripts > 10 {
			return
		}
		entries, err := flusher.Read(t.Context(), 0, "", n, 1<<20)
		if err != nil {
			t.Error(err)
		}
		for _, e := range entries {
			if err := flusher.Ack(t.Context(), 0, spend.Ack{Entries: []spend.EntryID{e.ID}}); err != nil {
				t.Error(err)
			}
		}
	})
	if got := requeue(t, q); got != n {
		t.Errorf("%d entries came back, want %d", got, n)
	}
	wantRetained(t, flusher, n)
}

func TestAFlushAllWhileRequeuingIsSurvived(t *testing.T) {
	const n = 250
	client := dial(t, testserver.NewRedis(t).URL())
	q := open(t, client, retaining)
	ack(t, q, pushN(t, q, n, 1))
	afterScripts(client, func(scripts int) {
		if scripts == 1 {
			if err := client.FlushAll(t.Context()).Err(); err != nil {
				t.Error(err)
			}
		}
	})
	if got := requeue(t, q); got == 0 || got == n {
		t.Errorf("%d entries came back before the loss", got)
	}
	wantRetained(t, q, 0)
	ack(t, q, pushN(t, q, 5, 1))
	wantRetained(t, q, 5)
	requeue(t, q)
	wantOnce(t, client, q, 5)
}

func TestAFlushAllWhileAckingIsSurvived(t *testing.T) {
	client := dial(t, testserver.NewRedis(t).URL())
	q := open(t, client, retaining)
	ids := pushN(t, q, 250, 1)
	afterScripts(client, func(scripts int) {
		if scripts == 1 {
			if err := client.FlushAll(t.Context()).Err(); err != nil {
				t.Error(err)
			}
		}
	})
	ack(t, q, ids)
	wantRetained(t, q, 0)
	if stats := look(t, q); stats != (spend.QueueStats{}) {
		t.Errorf("stats are %+v", stats)
	}
}

func TestNoScriptCopiesMuchMoreThanAMebibyte(t *testing.T) {
	client := dial(t, testserver.Redis(t))
	q := open(t, client, retaining)
	b := queuetest.NewBatch(queuetest.NewProducer(), 0, 1, 14_000) // 590 kB: two go beyond
	var ids []spend.EntryID
	for range 10 {
		ids = append(ids, push(t, q, b, ""))
	}
	scripts := 0
	afterScripts(client, func(int) { scripts++ })
	// The first script gets all ids and the mark, and doesn't deal with all ids.
	if err := q.Ack(t.Context(), 0, ackOf(ids, b.Producer, 1)); err != nil {
		t.Fatal(err)
	}
	if scripts != 5 {
		t.Errorf("acking took %d scripts, want 5", scripts)
	}
	if mark, err := q.Mark(t.Context(), 0, b.Producer); mark.Sequence != 1 || err != nil {
		t.Errorf("the mark is %+v, %v", mark, err)
	}
	scripts = 0
	requeue(t, q)
	if scripts != 6 { // the last one finds nothing
		t.Errorf("requeuing took %d scripts, want 6", scripts)
	}
	if stats := look(t, q); stats.Batches != 10 {
		t.Errorf("stats are %+v", stats)
	}
}

func TestAReplicaRetainsNothingAndLosesNothing(t *testing.T) {
	client := dial(t, testserver.NewRedis(t).URL())
	q := open(t, client, retaining)
	ids := pushN(t, q, 3, 1)
	ack(t, q, ids[:1])
	// Port 1: a master that is never there.
	if err := client.Do(t.Context(), "REPLICAOF", "127.0.0.1", "1").Err(); err != nil {
		t.Fatal(err)
	}
	if err := q.Ack(t.Context(), 0, spend.Ack{Entries: ids}); !redis.IsReadOnlyError(err) {
		t.Errorf("ack on a replica returned %v", err)
	}
	if _, err := q.Requeue(t.Context(), 0); !redis.IsReadOnlyError(err) {
		t.Errorf("requeue on a replica returned %v", err)
	}
	if err := client.Do(t.Context(), "REPLICAOF", "NO", "ONE").Err(); err != nil {
		t.Fatal(err)
	}
	ack(t, q, ids)
	requeue(t, q)
	wantOnce(t, client, q, 3)
}

func TestAClockPutBackHoldsNothingForEver(t *testing.T) {
	client := dial(t, testserver.Redis(t))
	q := open(t, client, retaining)
	tomorrow := redis.XAddArgs{Stream: key("spendflush", 0, "retained"), ID: "9999999999999-0", Values: []string{"t", "1000"}}
	if err := client.XAdd(t.Context(), &tomorrow).Err(); err != nil {
		t.Fatal(err)
	}
	ids := pushN(t, q, 3, 1)
	ack(t, q, ids[:2])
	wantRetained(t, q, 3)
	if err := q.Expire(t.Context(), 0, time.Millisecond, time.Now()); err != nil {
		t.Fatal(err)
	}
	wantRetained(t, q, 3)
	if err := q.Expire(t.Context(), 0, 0, time.Now()); err != nil {
		t.Fatal(err)
	}
	wantRetained(t, q, 0)
	ack(t, q, ids)
	wantRetained(t, q, 1)
}

func TestRequeueLeavesToTheNextPushWhatAHandAtTheKeysBroke(t *testing.T) {
	for _, gone := range []string{"index", "bytes", "queue"} {
		t.Run(gone, func(t *testing.T) {
			client := dial(t, testserver.Redis(t))
			q := open(t, client, retaining)
			ids := pushN(t, q, 6, 5)
			each := look(t, q).Bytes / 6
			ack(t, q, ids[:3])
			if err := client.Del(t.Context(), key("spendflush", 0, gone)).Err(); err != nil {
				t.Fatal(err)
			}
			if n := requeue(t, q); n != 3 {
				t.Errorf("%d entries came back", n)
			}
			if stats := look(t, q); gone == "queue" && (stats.Batches != 3 || stats.Bytes != 3*each) {
				t.Errorf("stats are %+v when the queue had been empty; want 3 of %d bytes", stats, each)
			}
			push(t, q, queuetest.NewBatch(queuetest.NewProducer(), 0, 7, 5), "")
			times := timesThere(t, q)
			stats := look(t, q)
			if len(times) < 4 || stats.Batches != int64(len(times)) || stats.Bytes != each*stats.Batches {
				t.Errorf("stats are %+v; %d entries of %d bytes are there", stats, len(times), each)
			}
		})
	}
}

// Small batches count for up to 1.4 times what they take: the same as in the queue, but nothing is
// retained of the index.
func TestRetainedBytesAreAboutWhatRedisUses(t *testing.T) {
	const n = 300
	for _, rows := range []int{1, 20, 400, 4000} {
		client := dial(t, testserver.Redis(t))
		q := open(t, client, retaining)
		b := queuetest.NewBatch(queuetest.NewProducer(), 0, 1, rows)
		check := func(want int64) {
			entries, counted, err := q.RetainedStats(t.Context(), 0)
			if err != nil {
				t.Fatal(err)
			}
			used, err := client.MemoryUsage(t.Context(), key("spendflush", 0, "retained"), 0).Result()
			t.Logf("%d bytes a batch: %d are counted as %d bytes, Redis uses %d", len(b.Bytes()), entries, counted, used)
			if err != nil || entries != want || counted < used*7/10 || counted > used*17/10 {
				t.Errorf("%d are retained, want %d; counted %d bytes, Redis uses %d; %v", entries, want, counted, used, err)
			}
		}
		for i := range int64(n) {
			ack(t, q, []spend.EntryID{push(t, q, b, "")})
			if i == n/2 {
				check(i + 1)
			}
		}
		check(n)
		if err := client.XTrimMaxLen(t.Context(), key("spendflush", 0, "retained"), n/3).Err(); err != nil {
			t.Fatal(err)
		}
		check(n / 3)
	}
}
