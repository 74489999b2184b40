package redisqueue_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
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

func push(t *testing.T, q spend.Queue, b *spend.Batch, previous spend.EntryID) spend.EntryID {
	t.Helper()
	id, err := q.Push(t.Context(), b, previous)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func look(t *testing.T, q spend.Queue) spend.QueueStats {
	t.Helper()
	stats, err := q.Stats(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	return stats
}

// through returns the URL with another host.
func through(t *testing.T, rawURL, host string) string {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = host
	return u.String()
}

func host(t *testing.T, rawURL string) string {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}

func TestScriptsAreSentAgainAfterTheServerForgotThem(t *testing.T) {
	client := dial(t, testserver.NewRedis(t).URL())
	q := open(t, client, redisqueue.Options{})
	producer := queuetest.NewProducer()
	var id spend.EntryID
	for i := range uint64(3) {
		id = push(t, q, queuetest.NewBatch(producer, 0, i+1, 1), id)
		if err := client.ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		if err := q.Ack(t.Context(), 0, ackOf([]spend.EntryID{id}, producer, i+1)); err != nil {
			t.Fatal(err)
		}
	}
	if stats := look(t, q); stats.Batches != 0 {
		t.Errorf("%d batches are left", stats.Batches)
	}
}

func TestAServerRestartedEmptyIsUsedAsIfNew(t *testing.T) {
	server := testserver.NewRedis(t)
	client := dial(t, server.URL())
	q := open(t, client, redisqueue.Options{MaxBytes: 1000})
	producer := queuetest.NewProducer()
	b := queuetest.NewBatch(producer, 0, 1, 10)
	id := push(t, q, b, "")
	if err := client.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := q.Push(t.Context(), b, id); err == nil || errors.Is(err, spend.ErrQueueFull) {
		t.Errorf("push to a dead server returned %v", err)
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if again := push(t, q, b, id); again == id {
		t.Error("push returned an entry that is gone")
	}
	if stats := look(t, q); stats.Batches != 1 {
		t.Errorf("stats are %+v", stats)
	}
}

func TestAReplicaRefusesAndNothingIsTakenForFull(t *testing.T) {
	client := dial(t, testserver.NewRedis(t).URL())
	q := open(t, client, redisqueue.Options{})
	b := queuetest.NewBatch(queuetest.NewProducer(), 0, 1, 1)
	push(t, q, b, "")
	// Port 1: a master that is never there.
	if err := client.Do(t.Context(), "REPLICAOF", "127.0.0.1", "1").Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := q.Push(t.Context(), b, ""); !redis.IsReadOnlyError(err) || errors.Is(err, spend.ErrQueueFull) {
		t.Errorf("push to a replica returned %v", err)
	}
	if err := client.Do(t.Context(), "REPLICAOF", "NO", "ONE").Err(); err != nil {
		t.Fatal(err)
	}
	push(t, q, b, "")
	if stats := look(t, q); stats.Batches != 2 {
		t.Errorf("stats are %+v", stats)
	}
}

// The calls return while the server still hangs: it goes on only when the test is over.
func TestAHangingServerHoldsNoCallLongerThanItsContext(t *testing.T) {
	server := testserver.NewRedis(t)
	client := dial(t, server.URL())
	q := open(t, client, redisqueue.Options{Retain: true})
	producer := queuetest.NewProducer()
	b := queuetest.NewBatch(producer, 0, 1, 1)
	id := push(t, q, b, "")
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Resume(); err != nil {
			t.Error(err)
		}
	})
	for name, call := range map[string]func(ctx context.Context) error{
		"Push": func(ctx context.Context) error { _, err := q.Push(ctx, b, id); return err },
		"Read": func(ctx context.Context) error { _, err := q.Read(ctx, 0, "", 10, 10); return err },
		"Ack": func(ctx context.Context) error {
			return q.Ack(ctx, 0, spend.Ack{Entries: []spend.EntryID{id}})
		},
		"Mark":    func(ctx context.Context) error { _, err := q.Mark(ctx, 0, producer); return err },
		"Stats":   func(ctx context.Context) error { _, err := q.Stats(ctx, 0); return err },
		"Requeue": func(ctx context.Context) error { _, err := q.Requeue(ctx, 0); return err },
		"Expire":  func(ctx context.Context) error { return q.Expire(ctx, 0, time.Hour, time.Now()) },
		"Kept":    func(ctx context.Context) error { _, _, err := q.RetainedStats(ctx, 0); return err },
		"Info":    func(ctx context.Context) error { _, err := q.Info(ctx); return err },
	} {
		cancelled, cancel := context.WithCancel(t.Context())
		timer := time.AfterFunc(10*time.Millisecond, cancel)
		if err := call(cancelled); !errors.Is(err, context.Canceled) {
			t.Errorf("%s returned %v after its context was cancelled", name, err)
		}
		timer.Stop()
		timed, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		if err := call(timed); err == nil {
			t.Errorf("%s returned without an error", name)
		}
		cancel()
	}
}

func TestALostReplyLeavesAtMostADuplicate(t *testing.T) {
	server := testserver.Redis(t)
	proxy := faultproxy.New(t, host(t, server))
	q := open(t, dial(t, through(t, server, proxy.Addr())), redisqueue.Options{})
	producer := queuetest.NewProducer()
	push(t, q, queuetest.NewBatch(producer, 0, 1, 1), "")

	proxy.CutNextReply()
	b := queuetest.NewBatch(producer, 0, 2, 1)
	id, err := q.Push(t.Context(), b, "")
	if err != nil {
		t.Fatalf("the client didn't repeat what got no reply: %v", err)
	}
	if again := push(t, q, b, id); again != id {
		t.Errorf("the entry %s isn't found again: %s", id, again)
	}
	entries, err := q.Read(t.Context(), 0, "", 10, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	var ids []spend.EntryID
	for _, e := range entries[1:] {
		if string(e.Bytes) != string(b.Bytes()) {
			t.Errorf("entry %s isn't the batch", e.ID)
		}
		ids = append(ids, e.ID)
	}
	// If this fails, the client has stopped to repeat: good, and the test is to be changed.
	if len(ids) != 2 {
		t.Errorf("the batch is there %d times", len(ids))
	}
	proxy.CutNextReply()
	if err := q.Ack(t.Context(), 0, spend.Ack{Entries: ids}); err != nil {
		t.Fatal(err)
	}
	left := look(t, q)
	if want := int64(len(queuetest.NewBatch(producer, 0, 1, 1).Bytes())); left.Batches != 1 || left.Bytes < want {
		t.Errorf("settling twice left %+v", left)
	}
}

func TestQueuesOfTwoPrefixesDontMix(t *testing.T) {
	client := dial(t, testserver.Redis(t))
	a, b := open(t, client, redisqueue.Options{}), open(t, client, redisqueue.Options{Prefix: "other"})
	producer := queuetest.NewProducer()
	id := push(t, a, queuetest.NewBatch(producer, 0, 1, 1), "")
	if stats := look(t, b); stats.Batches != 0 {
		t.Errorf("the other queue has %+v", stats)
	}
	if err := b.Ack(t.Context(), 0, ackOf([]spend.EntryID{id}, producer, 5)); err != nil {
		t.Fatal(err)
	}
	if stats := look(t, a); stats.Batches != 1 {
		t.Errorf("the queue has %+v", stats)
	}
	if mark, err := a.Mark(t.Context(), 0, producer); mark.Sequence != 0 || err != nil {
		t.Errorf("the mark is %+v, %v", mark, err)
	}
}

func TestAServerOutOfMemoryCountsAsFullAndCanStillBeEmptied(t *testing.T) {
	client := dial(t, testserver.NewRedis(t).URL())
	q := open(t, client, redisqueue.Options{})
	producer := queuetest.NewProducer()
	var ids []spend.EntryID
	for i := range uint64(3) {
		ids = append(ids, push(t, q, queuetest.NewBatch(producer, 0, i+1, 10), ""))
	}
	// An index that must be made anew must not be what is written first and so lets the batch in.
	if err := client.Del(t.Context(), key("spendflush", 0, "index")).Err(); err != nil {
		t.Fatal(err)
	}
	if err := client.ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := q.Push(t.Context(), queuetest.NewBatch(producer, 0, 4, 10), ""); !errors.Is(err, spend.ErrQueueFull) {
		t.Errorf("push to a server out of memory returned %v", err)
	}
	if stats := look(t, q); stats.Batches != 3 {
		t.Errorf("stats are %+v", stats)
	}
	if err := q.Ack(t.Context(), 0, ackOf(ids, producer, 3)); err != nil {
		t.Errorf("ack on a server out of memory: %v", err)
	}
	if mark, err := q.Mark(t.Context(), 0, producer); mark.Sequence != 3 || err != nil {
		t.Errorf("the mark is %+v, %v", mark, err)
	}
	if stats := look(t, q); stats.Batches != 0 {
		t.Errorf("stats are %+v", stats)
	}
}

func TestWhatAHandAtTheKeysBrokeIsMendedByTheNextPush(t *testing.T) {
	const waiting = 25
	producer := queuetest.NewProducer()
	for name, harm := range map[string]func(t *testing.T, c redis.UniversalClient, ids []spend.EntryID) error{
		"IndexGone": func(t *testing.T, c redis.UniversalClient, _ []spend.EntryID) error {
			return c.Del(t.Context(), key("spendflush", 0, "index")).Err()
		},
		"BytesGone": func(t *testing.T, c redis.UniversalClient, _ []spend.EntryID) error {
			return c.Del(t.Context(), key("spendflush", 0, "bytes")).Err()
		},
		"BothGone": func(t *testing.T, c redis.UniversalClient, _ []spend.EntryID) error {
			return c.Del(t.Context(), key("spendflush", 0, "index"), key("spendflush", 0, "bytes")).Err()
		},
		"QueueTrimmed": func(t *testing.T, c redis.UniversalClient, _ []spend.EntryID) error {
			return c.XTrimMaxLen(t.Context(), key("spendflush", 0, "queue"), 20).Err()
		},
		"EntriesDeleted": func(t *testing.T, c redis.UniversalClient, ids []spend.EntryID) error {
			return c.XDel(t.Context(), key("spendflush", 0, "queue"), inStream(ids[3]), inStream(ids[20])).Err()
		},
		"QueueGone": func(t *testing.T, c redis.UniversalClient, _ []spend.EntryID) error {
			return c.Del(t.Context(), key("spendflush", 0, "queue")).Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			client := dial(t, testserver.Redis(t))
			q := open(t, client, redisqueue.Options{})
			var ids []spend.EntryID
			for i := range uint64(waiting) {
				ids = append(ids, push(t, q, queuetest.NewBatch(producer, 0, i+1, 5), ""))
			}
			each := look(t, q).Bytes / waiting
			if err := harm(t, client, ids); err != nil {
				t.Fatal(err)
			}
			// What waits can be read, acked and looked at as it is.
			if _, err := q.Read(t.Context(), 0, "", 10, 1<<20); err != nil {
				t.Error(err)
			}
			if err := q.Ack(t.Context(), 0, spend.Ack{Entries: ids[:1]}); err != nil {
				t.Error(err)
			}
			look(t, q)
			push(t, q, queuetest.NewBatch(producer, 0, waiting+1, 5), "")
			entries, err := q.Read(t.Context(), 0, "", 100, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			if stats := look(t, q); stats.Batches != int64(len(entries)) || stats.Bytes != each*int64(len(entries)) {
				t.Errorf("stats are %+v; %d entries of %d bytes are there", stats, len(entries), each)
			}
		})
	}
}

func TestMarksOfProducersThatAreGoneExpire(t *testing.T) {
	client := dial(t, testserver.Redis(t))
	q := open(t, client, redisqueue.Options{})
	producer := queuetest.NewProducer()
	if err := q.Ack(t.Context(), 0, ackOf(nil, producer, 1)); err != nil {
		t.Fatal(err)
	}
	ttl, err := client.TTL(t.Context(), key("spendflush", 0, "mark:"+producer.String())).Result()
	if err != nil || ttl <= time.Hour || ttl > 24*time.Hour {
		t.Errorf("the mark expires in %s, %v", ttl, err)
	}
	keys, err := client.Keys(t.Context(), "*").Result()
	if err != nil || len(keys) != 1 {
		t.Errorf("keys are %v, %v", keys, err)
	}
}

// largeBatch returns a batch of more than 32 MB: 2,100 rows with 64 tags of their own each.
func largeBatch() *spend.Batch {
	var rows []spend.RollupRow
	for hour := range spend.Hour(2100) {
		series := spend.Series{APIKey: "key"}
		for tag := range spend.MaxTags {
			series.Tags = append(series.Tags, fmt.Sprintf("%0*d", spend.MaxIDBytes, int(hour)*spend.MaxTags+tag))
		}
		rows = append(rows, spend.NewRollupRow(&series, hour, spend.Counters{SuccessfulRequests: 1}))
	}
	header := spend.Header{Producer: queuetest.NewProducer(), Sequence: 1}
	return spend.NewBatch(header, nil, rows)
}

func TestALargeBatchGoesThrough(t *testing.T) {
	client := dial(t, testserver.Redis(t))
	q := open(t, client, redisqueue.Options{MaxBytes: 100 << 20, Retain: true})
	b := largeBatch()
	if size := len(b.Bytes()); size < 32<<20 {
		t.Fatalf("the batch has only %d bytes", size)
	}
	id := push(t, q, b, "")
	if again := push(t, q, b, id); again != id {
		t.Errorf("push returned %s, want %s", again, id)
	}
	check := func() {
		t.Helper()
		entries, err := q.Read(t.Context(), 0, "", 10, 1<<20)
		if err != nil || len(entries) != 1 || string(entries[0].Bytes) != string(b.Bytes()) {
			t.Errorf("the batch didn't come back: %d entries, %v", len(entries), err)
		}
	}
	check()
	ack(t, q, []spend.EntryID{id})
	requeue(t, q)
	check()
}

// sentBy returns how many bytes the server has sent.
func sentBy(t *testing.T, client redis.UniversalClient) (bytes int64) {
	t.Helper()
	text, err := client.Info(t.Context(), "stats").Result()
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(text, "total_net_output_bytes:")
	if _, err := fmt.Sscan(rest, &bytes); err != nil {
		t.Fatal(err)
	}
	return bytes
}

func TestReadLoadsNoMoreThanItMayReturn(t *testing.T) {
	client := dial(t, testserver.NewRedis(t).URL())
	q := open(t, client, redisqueue.Options{})
	small := queuetest.NewBatch(queuetest.NewProducer(), 0, 1, 1)
	large := queuetest.NewBatch(queuetest.NewProducer(), 0, 1, 10_000)
	for range 10 {
		push(t, q, small, "")
	}
	for range 10 {
		push(t, q, large, "")
	}
	before := sentBy(t, client)
	entries, err := q.Read(t.Context(), 0, "", 1000, 100_000)
	if err != nil || len(entries) != 10 {
		t.Fatalf("read %d entries, %v", len(entries), err)
	}
	if bytes := sentBy(t, client) - before; bytes > 100_000 {
		t.Errorf("the server sent %d bytes", bytes)
	}
}

func TestReadReturnsNoMoreThanItMayEvenIfTheIndexIsWrong(t *testing.T) {
	client := dial(t, testserver.Redis(t))
	q := open(t, client, redisqueue.Options{})
	small := queuetest.NewBatch(queuetest.NewProducer(), 0, 1, 1)
	first := push(t, q, small, "")
	unknown := push(t, q, queuetest.NewBatch(queuetest.NewProducer(), 0, 1, 1000), "")
	last := push(t, q, small, "")
	if err := client.XDel(t.Context(), key("spendflush", 0, "index"), inStream(unknown)).Err(); err != nil {
		t.Fatal(err)
	}
	var after spend.EntryID
	for _, want := range []spend.EntryID{first, unknown, last} {
		entries, err := q.Read(t.Context(), 0, after, 1000, 10_000)
		if err != nil || len(entries) != 1 || entries[0].ID != want {
			t.Fatalf("read %d entries, %v; want %s", len(entries), err, want)
		}
		after = want
	}
}

func TestBytesAreAboutWhatRedisUses(t *testing.T) {
	for _, rows := range []int{1, 20, 400, 4000} {
		t.Run(fmt.Sprint(rows), func(t *testing.T) {
			client := dial(t, testserver.Redis(t))
			q := open(t, client, redisqueue.Options{})
			b := queuetest.NewBatch(queuetest.NewProducer(), 0, 1, rows)
			for range 300 {
				push(t, q, b, "")
			}
			var used int64
			for _, name := range []string{"queue", "index", "bytes"} {
				n, err := client.MemoryUsage(t.Context(), key("spendflush", 0, name), 0).Result()
				if err != nil {
					t.Fatal(err)
				}
				used += n
			}
			counted := look(t, q).Bytes
			t.Logf("%d bytes a batch: counted %d bytes, Redis uses %d", len(b.Bytes()), counted, used)
			if counted < used*7/10 || counted > used*14/10 {
				t.Errorf("counted %d bytes, Redis uses %d", counted, used)
			}
		})
	}
}

// ackOf acks these entries and publishes one mark.
func ackOf(ids []spend.EntryID, producer spend.ProducerID, sequence uint64) spend.Ack {
	marks := map[spend.ProducerID]spend.Mark{producer: {Sequence: sequence}}
	return spend.Ack{Entries: ids, Marks: marks}
}

// inStream returns the id of the entry in its stream.
func inStream(id spend.EntryID) string {
	before, _, _ := strings.Cut(string(id), "/")
	return before
}
