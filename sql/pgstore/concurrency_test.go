package pgstore

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/spendflush/spendflush/spend"
)

func TestOfTwoFlushersAtTheSameBatchOneIsFenced(t *testing.T) {
	databaseURL := database(t)
	a, b := open(t, databaseURL, Options{}), open(t, databaseURL, Options{})
	r := request{spend.Series{APIKey: "k"}, noon, one("1")}
	p := newProducer()
	const rounds = 20
	for n := range uint64(rounds) {
		f := flushOf(p, n+1, n+1, r)
		var group sync.WaitGroup
		var errs [2]error
		for i, s := range []*Store{a, b} {
			group.Go(func() { errs[i] = s.Apply(t.Context(), f) })
		}
		group.Wait()
		if (errs[0] == nil) == (errs[1] == nil) || !errors.Is(errors.Join(errs[:]...), spend.ErrFenced) {
			t.Fatalf("batch %d: %v", n+1, errs)
		}
	}
	if got := query[int](t, a, "SELECT successful_requests FROM spendflush.spend"); got != rounds {
		t.Errorf("%d requests are booked, want %d", got, rounds)
	}
	wantAudit(t, a)
}

func TestAnUnknownProducerIsTakenUpByOneOfManyThatComeAtOnce(t *testing.T) {
	s := open(t, database(t), Options{MaxConns: 8})
	r := request{spend.Series{APIKey: "k"}, noon, one("1")}
	for range 10 {
		p := newProducer()
		var group sync.WaitGroup
		var won atomic.Int64
		for i := range 8 {
			group.Go(func() {
				// Half of them come with batches that must not be the first.
				err := s.Apply(t.Context(), flushOf(p, uint64(1+i%2), uint64(1+i%2), r))
				if err == nil {
					won.Add(1)
				} else if !errors.Is(err, spend.ErrFenced) {
					t.Error(err)
				}
			})
		}
		group.Wait()
		mark := query[int64](t, s, "SELECT sequence FROM spendflush.producers WHERE producer = $1", [16]byte(p))
		if won.Load() != mark {
			t.Errorf("%d flushes won, but the mark is %d", won.Load(), mark)
		}
	}
}

// fight lets four flushers without a lock commit the same batches of three producers: they start at
// marks that may be old, take stretches of any length, and give up transactions in the middle.
func fight(t *testing.T, s *Store) {
	t.Helper()
	const batches = 40
	var producers []spend.ProducerID
	content := map[spend.ProducerID][][]request{}
	r := rand.New(rand.NewPCG(7, 7))
	for range 3 {
		p := newProducer()
		producers = append(producers, p)
		for range batches {
			content[p] = append(content[p], traffic(r, 5, 15))
		}
	}
	var group errgroup.Group
	for i := range 4 {
		r := rand.New(rand.NewPCG(8, uint64(i)))
		group.Go(func() error {
			for range 10 * batches {
				p := producers[r.IntN(len(producers))]
				marks, err := s.Marks(t.Context(), 0, producers)
				if err != nil {
					return err
				}
				if marks.Of[p].Sequence == batches {
					continue
				}
				first := marks.Of[p].Sequence + 1
				last := min(first+r.Uint64N(4), batches)
				var requests []request
				for n := first; n <= last; n++ {
					requests = append(requests, content[p][n-1]...)
				}
				ctx, cancel := context.WithCancel(t.Context())
				abandon := r.IntN(4) == 0
				if abandon { // at some moment; what became of it the claim will tell
					time.AfterFunc(time.Duration(r.IntN(8000))*time.Microsecond, cancel)
				}
				err = s.Apply(ctx, flushOf(p, first, last, requests...))
				cancel()
				if err != nil && !abandon && !errors.Is(err, spend.ErrFenced) {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	marks, err := s.Marks(t.Context(), 0, producers)
	for _, p := range producers {
		if err != nil || marks.Of[p].Sequence != batches {
			t.Errorf("producer %s: mark %d, %v", p, marks.Of[p].Sequence, err)
		}
	}
}

func TestFourFlushersWithoutALockBookEveryBatchOnce(t *testing.T) {
	s := open(t, database(t), Options{MaxConns: 6})
	fight(t, s)
	if got := drift(t, s); got != "0" {
		t.Errorf("the books are off by %s", got)
	}
	if s.Stats().Fenced == 0 {
		t.Error("no claim was lost: the flushers didn't meet")
	}
	wantAudit(t, s)
}

// This is a test of the test before it: without the claim the same fight must ruin the books.
func TestFourFlushersWithoutALockAndWithoutTheClaimDrift(t *testing.T) {
	s := open(t, database(t), Options{MaxConns: 6})
	s.statement = func(name string) string {
		text := embedded.get(name)
		if name == "claim" {
			text = strings.Replace(text, "WHERE p.sequence = excluded.claimed_from - 1 AND p.digest = excluded.prior_digest", "", 1)
			text = strings.Replace(text, "FILTER (WHERE claims > 1 OR claimed_from = 1)", "", 1)
			text = strings.Replace(text, "sequence = excluded.sequence", "sequence = greatest(p.sequence, excluded.sequence)", 1)
			text = strings.Replace(text, "updates = p.updates + excluded.updates", "updates = p.updates", 1)
			text = strings.Replace(text, "amount = p.amount + excluded.amount", "amount = p.amount", 1)
		}
		return text
	}
	fight(t, s)
	if got := drift(t, s); got == "0" {
		t.Error("the books are exact even without the claim: the fight shows nothing")
	}
}

// overlap lets eight clients write the same rows again and again, each on its own producer. With
// shuffle the rows come in any order and each client writes for a shard of its own, as clients do
// that don't agree on the number of shards.
func overlap(t *testing.T, s *Store, shuffle bool) {
	t.Helper()
	var group errgroup.Group
	for i := range 8 {
		r := rand.New(rand.NewPCG(9, uint64(i)))
		group.Go(func() error {
			p := newProducer()
			for n := range uint64(6) {
				f := flushOf(p, n+1, n+1, traffic(r, 300, 200)...)
				if shuffle {
					f.Shard = i
					r.Shuffle(len(f.Totals), func(i, j int) { f.Totals[i], f.Totals[j] = f.Totals[j], f.Totals[i] })
					r.Shuffle(len(f.Rollups), func(i, j int) { f.Rollups[i], f.Rollups[j] = f.Rollups[j], f.Rollups[i] })
				}
				if err := s.Apply(t.Context(), f); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil && !shuffle {
		t.Fatal(err)
	}
}

func TestEightWritersOfTheSameRowsDontDeadlock(t *testing.T) {
	s := open(t, database(t), Options{MaxConns: 8})
	overlap(t, s, false)
	if got := s.Stats(); got.Deadlocks != 0 || got.Commits != 48 {
		t.Errorf("%+v", got)
	}
	execute(t, s.pool, "SELECT pg_stat_clear_snapshot()")
	if n := query[int](t, s, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"); n != 0 {
		t.Errorf("Postgres counted %d deadlocks", n)
	}
	wantAudit(t, s)
}

// Each Store remembers what it has written itself, so that a row which is known to one is fresh to
// the other.
func TestFlushesOfKnownAndFreshRowsDontDeadlock(t *testing.T) {
	databaseURL := database(t)
	s := open(t, databaseURL, Options{})
	execute(t, s.pool, "ALTER DATABASE "+query[string](t, s, "SELECT current_database()")+" SET deadlock_timeout = '10ms'")
	var group errgroup.Group
	var deadlocks atomic.Int64
	for i := range 6 {
		s := open(t, databaseURL, Options{})
		r := rand.New(rand.NewPCG(12, uint64(i)))
		group.Go(func() error {
			p := newProducer()
			for n := range uint64(8) {
				if err := s.Apply(t.Context(), flushOf(p, n+1, n+1, traffic(r, 150, 300)...)); err != nil {
					return err
				}
			}
			deadlocks.Add(s.Stats().Deadlocks)
			return nil
		})
	}
	if err := group.Wait(); err != nil || deadlocks.Load() != 0 {
		t.Errorf("%v, %d deadlocks", err, deadlocks.Load())
	}
	wantAudit(t, s)
}

// This is a test of the tests before it: rows in any order must deadlock, and Apply must get over
// it.
func TestEightWritersOfUnsortedRowsDeadlockAndAreTriedAgain(t *testing.T) {
	databaseURL := database(t)
	s := open(t, databaseURL, Options{MaxConns: 8})
	execute(t, s.pool, "ALTER DATABASE "+query[string](t, s, "SELECT current_database()")+" SET deadlock_timeout = '10ms'")
	s = open(t, databaseURL, Options{MaxConns: 8, KnownKeys: -1})
	s.anyOrder = true
	s.statement = func(name string) string {
		text := embedded.get(name)
		if from := strings.Index(text, "ORDER BY"); from >= 0 && strings.HasPrefix(name, "add_") {
			text = text[:from] + text[strings.Index(text, "ON CONFLICT"):]
		}
		return text
	}
	overlap(t, s, true)
	if s.Stats().Deadlocks == 0 {
		t.Error("no deadlock: the overlap shows nothing")
	}
	if got := drift(t, s); got != "0" {
		t.Errorf("the books are off by %s", got)
	}
}

func TestWritersInterningTheSameKeysAtOnceDontDeadlock(t *testing.T) {
	databaseURL := database(t)
	r := rand.New(rand.NewPCG(10, 1))
	requests := traffic(r, 2000, 1000)
	var group errgroup.Group
	var deadlocks atomic.Int64
	for range 6 {
		s := open(t, databaseURL, Options{KnownKeys: -1})
		group.Go(func() error {
			p := newProducer()
			for n := range uint64(3) {
				if err := s.Apply(t.Context(), flushOf(p, n+1, n+1, requests...)); err != nil {
					return err
				}
			}
			deadlocks.Add(s.Stats().Deadlocks)
			return nil
		})
	}
	if err := group.Wait(); err != nil || deadlocks.Load() != 0 {
		t.Errorf("%v, %d deadlocks", err, deadlocks.Load())
	}
	wantAudit(t, open(t, databaseURL, Options{}))
}
