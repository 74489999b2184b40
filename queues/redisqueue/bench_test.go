package redisqueue_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/queues/diskjournal"
	"github.com/spendflush/spendflush/queues/queuetest"
	"github.com/spendflush/spendflush/queues/redisqueue"
	"github.com/spendflush/spendflush/spend"
)

// BenchmarkPush compares Push with the bare XADD that it replaces, on a queue that is never longer
// than a few entries.
func BenchmarkPush(b *testing.B) {
	for _, rows := range []int{1, 40, 400, 4000} {
		batch := queuetest.NewBatch(queuetest.NewProducer(), 0, 1, rows)
		name := fmt.Sprintf("bytes=%d", len(batch.Bytes()))
		b.Run("xadd/"+name, func(b *testing.B) {
			client := benchClient(b)
			b.SetBytes(int64(len(batch.Bytes())))
			for b.Loop() {
				args := redis.XAddArgs{Stream: "bare", MaxLen: 10, Values: []any{"p", "p", "s", 1, "b", batch.Bytes()}}
				if err := client.XAdd(context.Background(), &args).Err(); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("push/"+name, func(b *testing.B) {
			q := testserver.Must(redisqueue.New(benchClient(b), redisqueue.Options{MaxBytes: 1 << 30}))
			b.SetBytes(int64(len(batch.Bytes())))
			var ids []spend.EntryID
			for b.Loop() {
				id, err := q.Push(context.Background(), batch, "")
				if err != nil {
					b.Fatal(err)
				}
				if ids = append(ids, id); len(ids) == 10 {
					b.StopTimer()
					if err := q.Ack(context.Background(), 0, spend.Ack{Entries: ids}); err != nil {
						b.Fatal(err)
					}
					ids = ids[:0]
					b.StartTimer()
				}
			}
		})
	}
}

// BenchmarkRead compares Read with the bare XRANGE of the same entries, 8 MiB of them or 1,024.
func BenchmarkRead(b *testing.B) {
	const maxEntries, maxBytes = 1024, 8 << 20
	for _, rows := range []int{1, 400, 20_000} {
		client := benchClient(b)
		q := testserver.Must(redisqueue.New(client, redisqueue.Options{}))
		batch := queuetest.NewBatch(queuetest.NewProducer(), 0, 1, rows)
		n := min(maxEntries, maxBytes/len(batch.Bytes()))
		for range n {
			if _, err := q.Push(context.Background(), batch, ""); err != nil {
				b.Fatal(err)
			}
		}
		name := fmt.Sprintf("bytes=%d/batches=%d", len(batch.Bytes()), n)
		b.Run("xrange/"+name, func(b *testing.B) {
			b.SetBytes(int64(n * len(batch.Bytes())))
			for b.Loop() {
				if _, err := client.XRange(context.Background(), key("spendflush", 0, "queue"), "-", "+").Result(); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("read/"+name, func(b *testing.B) {
			b.SetBytes(int64(n * len(batch.Bytes())))
			for b.Loop() {
				entries, err := q.Read(context.Background(), 0, "", maxEntries, maxBytes)
				if err != nil || len(entries) != n {
					b.Fatal(len(entries), err)
				}
			}
		})
	}
}

// BenchmarkAck takes a thousand entries out by one call, which stops Redis from serving anybody
// else meanwhile.
func BenchmarkAck(b *testing.B) {
	q := testserver.Must(redisqueue.New(benchClient(b), redisqueue.Options{}))
	batch := queuetest.NewBatch(queuetest.NewProducer(), 0, 1, 40)
	ids := make([]spend.EntryID, 1000)
	for b.Loop() {
		b.StopTimer()
		for i := range ids {
			id, err := q.Push(context.Background(), batch, "")
			if err != nil {
				b.Fatal(err)
			}
			ids[i] = id
		}
		b.StartTimer()
		if err := q.Ack(context.Background(), 0, spend.Ack{Entries: ids}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRetain acks a MiB of batches, at most a hundred, with a copy of each, and moves them
// back: about what one script does of either.
func BenchmarkRetain(b *testing.B) {
	for _, rows := range []int{1, 40, 400, 4000, 20_000} {
		batch := queuetest.NewBatch(queuetest.NewProducer(), 0, 1, rows)
		n := min(100, 1<<20/len(batch.Bytes()))
		b.Run(fmt.Sprintf("bytes=%d/batches=%d", len(batch.Bytes()), n), func(b *testing.B) {
			q := testserver.Must(redisqueue.New(benchClient(b), redisqueue.Options{Retain: true}))
			for range n {
				if _, err := q.Push(context.Background(), batch, ""); err != nil {
					b.Fatal(err)
				}
			}
			b.SetBytes(int64(n * len(batch.Bytes())))
			for b.Loop() {
				b.StopTimer()
				entries, err := q.Read(context.Background(), 0, "", n, 1<<30)
				if err != nil || len(entries) != n {
					b.Fatal(len(entries), err)
				}
				ids := make([]spend.EntryID, n)
				for i, e := range entries {
					ids[i] = e.ID
				}
				b.StartTimer()
				if err := q.Ack(context.Background(), 0, spend.Ack{Entries: ids}); err != nil {
					b.Fatal(err)
				}
				if _, err := q.Requeue(context.Background(), 0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkLong compares what it costs to know the bytes of a queue of 20,000 entries.
func BenchmarkLong(b *testing.B) {
	client := benchClient(b)
	q := testserver.Must(redisqueue.New(client, redisqueue.Options{}))
	batch := queuetest.NewBatch(queuetest.NewProducer(), 0, 1, 100)
	for range 20_000 {
		if _, err := q.Push(context.Background(), batch, ""); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("stats", func(b *testing.B) {
		for b.Loop() {
			if _, err := q.Stats(context.Background(), 0); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, samples := range []int{0, 5, 100} {
		b.Run(fmt.Sprintf("memory_usage/samples=%d", samples), func(b *testing.B) {
			for b.Loop() {
				if err := client.MemoryUsage(context.Background(), key("spendflush", 0, "queue"), samples).Err(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func benchClient(b *testing.B) redis.UniversalClient {
	b.Helper()
	client, err := redisqueue.Dial(testserver.Redis(b))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = client.Close() })
	return client
}

// BenchmarkJournalAppend appends from several shards at once, which share the fsyncs.
func BenchmarkJournalAppend(b *testing.B) {
	for _, shards := range []int{1, 4, 16} {
		b.Run(fmt.Sprintf("shards=%d", shards), func(b *testing.B) {
			j, err := diskjournal.Open(b.TempDir())
			if err != nil {
				b.Fatal(err)
			}
			defer j.Close()
			var calls sync.WaitGroup
			for shard := range shards {
				calls.Go(func() {
					batches := []*spend.Batch{queuetest.NewBatch(queuetest.NewProducer(), shard%4, 1, 40)}
					for i := shard; i < b.N; i += shards {
						if err := j.Append(batches); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			calls.Wait()
		})
	}
}
