package integration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/lockers/redislock"
	"github.com/spendflush/spendflush/migrations"
	"github.com/spendflush/spendflush/queues/redisqueue"
	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/pgstore"
)

// TestTheDocumentedFlowStepByStep walks through stage 1 and stage 2 of the documents with the parts
// that the program is made of, and looks at each step from outside, in Redis and in Postgres.
func TestTheDocumentedFlowStepByStep(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	ctx := t.Context()
	if _, err := migrations.Up(ctx, s.postgres); err != nil {
		t.Fatal(err)
	}
	store, err := pgstore.Open(ctx, s.postgres, pgstore.Options{MaxConns: 4})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	client, err := redisqueue.Dial(s.redis)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	queue := must(redisqueue.New(client, redisqueue.Options{})).Of(s.books())
	const ttl = 30 * time.Second
	a := must(redislock.New(client, "pod-a", redislock.Options{TTL: ttl})).Of(s.books())
	b := must(redislock.New(client, "pod-b", redislock.Options{TTL: ttl})).Of(s.books())

	// Stage 1: each instance accumulates its updates and writes them to the Redis queue.
	want := newBook()
	for i := range 3 {
		want.join(recordIntoQueue(t, store, queue, a, uint64(i)))
	}
	if n := s.number("SELECT count(*) FROM spendflush.spend"); n != 0 {
		t.Errorf("%d rows are in Postgres before anybody flushed", n)
	}

	// Stage 2: one instance acquires the lock, whose status is stored in Redis; only one can at a
	// time.
	lease, err := a.Acquire(ctx, "flush/0")
	if err != nil {
		t.Fatal(err)
	}
	key := s.lockKey(0)
	value, left := s.redisClient().Get(ctx, key).Val(), s.redisClient().PTTL(ctx, key).Val()
	if !strings.Contains(value, "pod-a") || left <= 0 || left > ttl {
		t.Errorf("the lock in Redis is %q for %s", value, left)
	}
	_, err = b.Acquire(ctx, "flush/0")
	var held *spend.HeldError
	if !errors.As(err, &held) || held.Holder.Owner != "pod-a" || held.Holder.Expires <= 0 {
		t.Errorf("the other acquires the lock too, or isn't told who has it: %v", err)
	}

	// It reads all updates from Redis and aggregates them.
	entries, err := queue.Read(ctx, 0, "", 1000, 1<<30)
	if err != nil || len(entries) < 3 {
		t.Fatalf("%d batches in the queue, %v", len(entries), err)
	}
	flush, ack := aggregate(t, entries)
	if got := flush.Control.Rollups.APIRequests(); got != want.updates {
		t.Errorf("the queue holds %d updates instead of %d", got, want.updates)
	}

	// It writes them to Postgres in one transaction.
	if err := store.Apply(ctx, flush); err != nil {
		t.Fatal(err)
	}
	s.check(want)
	s.checkOneTransaction()
	if err := store.Apply(ctx, flush); !errors.Is(err, spend.ErrFenced) {
		t.Errorf("the same batches could be written twice: %v", err)
	}
	if err := queue.Ack(ctx, 0, ack); err != nil {
		t.Fatal(err)
	}
	if stats, err := queue.Stats(ctx, 0); err != nil || stats.Batches != 0 {
		t.Errorf("%d batches are left in the queue, %v", stats.Batches, err)
	}

	// It releases the lock, and another can have it.
	if err := lease.Release(ctx); err != nil {
		t.Fatal(err)
	}
	if n := s.redisClient().Exists(ctx, key).Val(); n != 0 {
		t.Error("the lock is released and still in Redis")
	}
	lease, err = b.Acquire(ctx, "flush/0")
	if err != nil {
		t.Fatalf("the other can't acquire a lock that was released: %v", err)
	}
	if err := lease.Release(ctx); err != nil {
		t.Error(err)
	}
	s.check(want)
}

// recordIntoQueue is one instance, from its first update until everything is in the queue.
func recordIntoQueue(t *testing.T, store *pgstore.Store, queue spend.Queue, locker spend.Locker, seed uint64) *book {
	t.Helper()
	pipeline, err := spendflush.New(spendflush.Config{
		Store: store, Queue: queue, Locker: locker, DirectLocker: noDirectWrites{},
		// It doesn't flush itself, so it doesn't seal more than eight batches either.
		SealInterval: 500 * time.Millisecond, FlushInterval: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- pipeline.Run(ctx) }()
	defer func() {
		cancel()
		<-ended
	}()
	b := newBook()
	m := newMix(seed)
	var receipt spendflush.Receipt
	for range 200 {
		u := m.next()
		b.add(&u)
		if receipt, err = pipeline.RecordAll([]spend.Update{u.native()}); err != nil {
			t.Fatal(err)
		}
	}
	waitCtx, cancelWait := context.WithTimeout(ctx, patience)
	defer cancelWait()
	if stage, err := pipeline.Wait(waitCtx, receipt, spendflush.Queued); err != nil || stage != spendflush.Queued {
		t.Fatalf("reached %s: %v", stage, err)
	}
	return b
}

// noDirectWrites keeps a pipeline from writing to Postgres by itself.
type noDirectWrites struct{}

func (noDirectWrites) Acquire(_ context.Context, name string) (spend.Lease, error) {
	return nil, &spend.HeldError{Name: name}
}

func (noDirectWrites) Holder(context.Context, string) (spend.Holder, error) {
	return spend.Holder{}, nil
}

// native returns the update as the library takes it.
func (u *update) native() spend.Update {
	status := spend.Success
	if u.Status == "failure" {
		status = spend.Failure
	}
	return spend.Update{
		Cost: spend.Cost{Spend: u.amount, Time: u.at, Status: status, PromptTokens: u.Prompt, CompletionTokens: u.Completion, CacheReadInputTokens: u.CacheRead, CacheCreationInputTokens: u.CacheCreation},
		Series: spend.Series{
			APIKey: u.APIKey, UserID: u.UserID, EndUserID: u.EndUserID, TeamID: u.TeamID, OrganizationID: u.OrganizationID,
			AgentID: u.AgentID, Model: u.Model, ModelGroup: u.ModelGroup, CustomLLMProvider: u.Provider,
			MCPNamespacedToolName: u.Tool, Endpoint: u.Endpoint, Tags: u.Tags,
		},
	}
}

// aggregate makes one flush of all entries, without the engine's help.
func aggregate(t *testing.T, entries []spend.Entry) (*spend.Flush, spend.Ack) {
	t.Helper()
	type rollupKey struct {
		hour spend.Hour
		key  spend.Key
	}
	flush := &spend.Flush{}
	claims, totals, rollups := map[spend.ProducerID]*spend.Claim{}, map[spend.Key]*spend.TotalRow{}, map[rollupKey]*spend.RollupRow{}
	ack := spend.Ack{Marks: map[spend.ProducerID]spend.Mark{}}
	for _, e := range entries {
		b, err := spend.ParseBatch(e.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		flush.Books = b.Books
		rows, err := b.Rows()
		if err != nil {
			t.Fatal(err)
		}
		ack.Entries = append(ack.Entries, e.ID)
		flush.Control.Add(&rows.Control)
		c := claims[b.Producer]
		if c == nil {
			c = &spend.Claim{Producer: b.Producer, First: b.Sequence, Last: b.Sequence - 1}
			claims[b.Producer] = c
		}
		if b.Sequence != c.Last+1 {
			t.Fatalf("batch %d follows batch %d", b.Sequence, c.Last)
		}
		if c.Last > 0 && b.PriorDigest != c.Digest {
			t.Fatalf("batch %d goes on from another one", b.Sequence)
		}
		c.Digest = b.Digest()
		c.Last, c.Updates, c.Amount = b.Sequence, c.Updates+b.Updates, c.Amount.Add(b.Amount)
		c.SealedUpdates, c.SealedAmount = b.PriorUpdates+b.Updates, b.PriorAmount.Add(b.Amount)
		ack.Marks[b.Producer] = spend.Mark{Sequence: c.Last, Digest: c.Digest}
		for _, row := range rows.Totals {
			if sum := totals[row.Key]; sum != nil {
				sum.Counters.Add(&row.Counters)
			} else {
				totals[row.Key] = &row
			}
		}
		for _, row := range rows.Rollups {
			if sum := rollups[rollupKey{row.Hour, row.Key}]; sum != nil {
				sum.Counters.Add(&row.Counters)
			} else {
				rollups[rollupKey{row.Hour, row.Key}] = &row
			}
		}
	}
	for _, c := range claims {
		flush.Claims = append(flush.Claims, *c)
	}
	for _, row := range totals {
		flush.Totals = append(flush.Totals, *row)
	}
	for _, row := range rollups {
		flush.Rollups = append(flush.Rollups, *row)
	}
	slices.SortFunc(flush.Claims, func(a, b spend.Claim) int { return a.Producer.Compare(b.Producer) })
	slices.SortFunc(flush.Totals, func(a, b spend.TotalRow) int { return a.Key.Compare(b.Key) })
	slices.SortFunc(flush.Rollups, func(a, b spend.RollupRow) int {
		if a.Hour != b.Hour {
			return int(a.Hour) - int(b.Hour)
		}
		return a.Key.Compare(b.Key)
	})
	return flush, ack
}

// checkOneTransaction fails unless all rows that a flush writes are the work of the same
// transaction.
func (s *stack) checkOneTransaction() {
	s.t.Helper()
	writers := map[string][]string{}
	for _, table := range flushTables {
		xmins := query(s.t, s.postgres, pgx.RowTo[string], fmt.Sprintf("SELECT DISTINCT xmin::text FROM spendflush.%s", table))
		if len(xmins) == 0 {
			s.t.Errorf("nothing was written into %s", table)
		}
		for _, xmin := range xmins {
			writers[xmin] = append(writers[xmin], table)
		}
	}
	if len(writers) != 1 {
		s.t.Errorf("transactions and the tables that each has written into: %v; want one", writers)
	}
}

// must returns what a constructor has made; what these tests give it is right.
func must[T any](made T, err error) T {
	if err != nil {
		panic(err)
	}
	return made
}
