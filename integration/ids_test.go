package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/lockers/pglock"
	"github.com/spendflush/spendflush/lockers/redislock"
	"github.com/spendflush/spendflush/migrations"
	"github.com/spendflush/spendflush/queues/redisqueue"
	"github.com/spendflush/spendflush/sql/pgstore"
)

// repeater is an instance in the test's own process, and callers of it.
type repeater struct {
	*spendflush.Pipeline
	ended chan error
}

// startRepeater starts an instance of so many shards on the servers of the stack.
func startRepeater(t *testing.T, s *stack, name string, shards int) *repeater {
	t.Helper()
	store, err := pgstore.Open(t.Context(), s.postgres, pgstore.Options{MaxConns: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	locks, err := pgxpool.New(t.Context(), s.postgres)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(locks.Close)
	client, err := redisqueue.Dial(s.redis)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	p, err := spendflush.New(spendflush.Config{
		Instance: name, Store: store, Shards: shards, DirectLocker: pglock.New(locks, name),
		Queue:  must(redisqueue.New(client, redisqueue.Options{})),
		Locker: must(redislock.New(client, name, redislock.Options{})),
	})
	if err != nil {
		t.Fatal(err)
	}
	r := &repeater{p, make(chan error, 1)}
	go func() { r.ended <- p.Run(context.WithoutCancel(t.Context())) }()
	return r
}

func (r *repeater) stop(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := r.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if err := <-r.ended; err != nil {
		t.Error(err)
	}
}

// counts waits until a call is committed, and adds up what of it was new and what wasn't.
func (r *repeater) counts(t *testing.T, receipt spendflush.Receipt) (fresh, duplicates int) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if stage, err := r.Wait(ctx, receipt, spendflush.Committed); err != nil {
		t.Errorf("reached %s: %v", stage, err)
	}
	c := r.Counts(receipt)
	if !c.Final || c.Conflicts > 0 {
		t.Errorf("a call that is committed counts as %+v", c)
	}
	return c.New, c.Duplicates
}

// Three instances, one of them with another number of shards, are told the same calls at the same
// time, while Redis loses everything again and again. Each update is booked once, and is said to be
// new by one of them.
func TestWhatHasAnIDCountsOnceWhicheverInstanceIsToldWhateverRedisLoses(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	if _, err := migrations.Up(t.Context(), s.postgres); err != nil {
		t.Fatal(err)
	}
	const calls, size = 60, 40
	instances := []*repeater{startRepeater(t, s, "a", 2), startRepeater(t, s, "b", 2), startRepeater(t, s, "c", 5)}

	var mu sync.Mutex
	fresh, repeats := 0, 0
	var telling sync.WaitGroup
	for n, in := range instances {
		telling.Go(func() {
			order := rand.New(rand.NewPCG(7, uint64(n))).Perm(calls)
			for _, call := range order {
				updates := make([]spendflush.Update, size)
				for i := range updates {
					updates[i] = spendflush.Update{
						Cost:   spendflush.Cost{Spend: spendflush.Dollars(1)},
						Series: spendflush.Series{APIKey: fmt.Sprint("key-", (call*7+i)%50), TeamID: "team"},
					}
					if call%2 == 0 {
						updates[i].ID = fmt.Sprint(call, "-", i)
					}
				}
				var receipt spendflush.Receipt
				var err error
				if call%2 == 0 {
					receipt, err = in.RecordAll(updates)
				} else {
					receipt, err = in.RecordOnce(fmt.Sprint(call), updates)
				}
				if err != nil {
					t.Error(err)
					return
				}
				if call%10 == n {
					s.redisClient().FlushDB(t.Context())
				}
				one, two := in.counts(t, receipt)
				mu.Lock()
				fresh, repeats = fresh+one, repeats+two
				mu.Unlock()
			}
		})
	}
	telling.Wait()

	if fresh != calls*size || repeats != 2*calls*size {
		t.Errorf("%d updates are said to be new and %d repeats, want %d and %d", fresh, repeats, calls*size, 2*calls*size)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	status, err := instances[0].FindID(ctx, spendflush.RequestFact, "1")
	if err != nil || status.State != spendflush.IDCommitted || time.Since(status.At).Abs() > time.Hour {
		t.Errorf("a key is %+v, %v", status, err)
	}
	for _, in := range instances {
		in.stop(t)
	}
	if n := s.number("SELECT sum(successful_requests)::bigint FROM spendflush.spend WHERE entity_type = 'team'"); n != calls*size {
		t.Errorf("%d updates are booked on the team, want %d", n, calls*size)
	}
	s.audit()
}
