package spendflush

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spendflush/spendflush/lockers/memlock"
	"github.com/spendflush/spendflush/spend"
)

var simOrders = flag.Uint64("sim.orders", 100, "number of orders of the goroutines that the simulator tries")

// The other simulator runs one actor at a time, and starts each by itself. Here the goroutines of
// the engine are the real ones, with Run, Shutdown and Wait. Time is a bubble's. What a seed
// decides is how long each call takes on its way there and back, so that it orders the goroutines,
// and which calls fail. The scheduler still chooses between goroutines that are woken at the same
// instant, so that a seed gives nearly the same again, not always quite.
func TestSimulatorBooksAreExactWhateverTheOrderOfTheGoroutines(t *testing.T) {
	first, last := uint64(1), *simOrders
	if *simSeed != 0 {
		first, last = *simSeed, *simSeed
	}
	var tally orderTally
	for seed := first; seed <= last && !t.Failed(); seed++ {
		synctest.Test(t, func(t *testing.T) {
			s := newOrders(t, seed, &tally)
			s.play()
			if t.Failed() {
				t.Logf("seed %d; run it again with: go test -run '^%s$' . -sim.seed=%d", seed, t.Name(), seed)
			}
		})
	}
	t.Logf("%+v", tally)
	if *simSeed == 0 && last >= 100 && !t.Failed() {
		tally.mustHaveSeenEverything(t)
	}
}

// orderTally is what was met in all orders together.
type orderTally struct{ accepted, closed, acked, drained, notDrained, failedCalls, lostLeases int }

func (c orderTally) mustHaveSeenEverything(t *testing.T) {
	t.Helper()
	if c.accepted == 0 || c.closed == 0 || c.acked == 0 || c.drained == 0 || c.notDrained == 0 || c.failedCalls == 0 || c.lostLeases == 0 {
		t.Errorf("something was never met: %+v", c)
	}
}

// orders is one order of the goroutines of some instances that share a store, a queue and locks.
type orders struct {
	t       *testing.T
	store   *testStore
	queue   *testQueue // nil: there is none
	locker  *memlock.Locker
	directs *memlock.Locker
	shards  int

	mu       sync.Mutex // guards what follows
	r        *rand.Rand
	tally    *orderTally
	calm     bool // nothing goes wrong any more
	accepted []orderedUpdate
	named    [][]spend.Update // calls with ids, of which some are made again
}

// orderedUpdate is an update that an instance has taken.
type orderedUpdate struct {
	spend.Update
	instance *orderedInstance
}

type orderedInstance struct {
	*Pipeline
	left int64 // updates that it said it couldn't drain
}

func newOrders(t *testing.T, seed uint64, tally *orderTally) *orders {
	s := &orders{
		t: t, store: newTestStore(), locker: newTestLocker(), directs: newTestLocker(), shards: 1 + int(seed%3),
		r: rand.New(rand.NewPCG(seed, 1)), tally: tally,
	}
	if seed%4 != 0 {
		s.queue = newTestQueue()
	}
	return s
}

func (s *orders) play() {
	var work sync.WaitGroup
	for range 1 + s.below(3) {
		in := &orderedInstance{Pipeline: s.newPipeline(false)}
		work.Go(func() { s.live(in) })
	}
	work.Wait()
	s.mu.Lock()
	s.calm = true
	s.mu.Unlock()
	s.drainQueue()
	s.verdict()
}

// below returns a number from 0 to below n.
func (s *orders) below(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.r.IntN(n)
}

// pause sleeps for a while from 0 to below most, which is mostly a small part of it.
func (s *orders) pause(most time.Duration) {
	d := time.Duration(s.below(int(most)))
	if s.below(8) > 0 {
		d /= 100
	}
	time.Sleep(d)
}

func (s *orders) newPipeline(calm bool) *Pipeline {
	f := &faults{}
	if !calm {
		f.disturb = s.disturb
	}
	c := Config{Store: faultyStore{s.store, f}, DirectLocker: faultyLocker{s.directs, f}, Shards: s.shards, DrainTimeout: time.Second}
	if s.queue != nil {
		c.Queue, c.Locker = faultyQueue{s.queue, f}, faultyLocker{s.locker, f}
	}
	return newTestPipeline(s.t, c)
}

// disturb makes a call at some time, or not at all, and has its reply arrive at some time, or not
// at all.
func (s *orders) disturb(name string, do func() error) error {
	s.pause(4 * time.Second)
	fate := s.below(20)
	if fate == 0 {
		s.count(&s.tally.failedCalls)
		return fmt.Errorf("%s isn't made: %w", name, errInjected)
	}
	if err := do(); err != nil {
		return err
	}
	s.pause(4 * time.Second)
	if fate == 1 {
		s.count(&s.tally.failedCalls)
		return fmt.Errorf("%s loses its reply: %w", name, errInjected)
	}
	return nil
}

func (s *orders) count(what *int) {
	s.mu.Lock()
	*what++
	s.mu.Unlock()
}

// live runs an instance, has it record, wait and stop at some time, and returns when all of that
// has ended.
func (s *orders) live(in *orderedInstance) {
	ctx, cancel := context.WithCancel(s.t.Context())
	defer cancel()
	var clients, work sync.WaitGroup
	for range 1 + s.below(3) {
		clients.Go(func() { s.record(in) })
	}
	work.Go(func() { s.loseLeases(in) })
	ran := make(chan error, 1)
	go func() {
		s.pause(time.Second)
		ran <- in.Run(ctx)
	}()
	s.pause(20 * time.Second)

	synctest.Wait() // without Run, Shutdown returns at once
	stops := 1 + s.below(2)
	for range stops {
		if s.below(3) == 0 {
			work.Go(func() { s.pause(time.Second); cancel() })
			continue
		}
		work.Go(func() { s.shutdown(in) })
	}
	err := <-ran
	<-in.stopped
	work.Wait()
	clients.Wait()
	late := s.newUpdate()
	if err := in.Record(&late); !errors.Is(err, ErrClosed) {
		s.t.Errorf("Record after Run has ended: %v", err)
	}
	var left *NotDrainedError
	if errors.As(cmp.Or(in.Shutdown(s.t.Context()), err), &left) {
		in.left = left.Updates
		s.count(&s.tally.notDrained)
	} else {
		s.count(&s.tally.drained)
	}
}

func (s *orders) shutdown(in *orderedInstance) {
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Second+time.Duration(s.below(int(time.Minute))))
	defer cancel()
	s.pause(time.Second)
	err := in.Shutdown(ctx)
	if again := in.Shutdown(ctx); (again == nil) != (err == nil) {
		s.t.Errorf("Shutdown says %v, and later %v", err, again)
	}
}

// record has updates recorded and waits for a stage, again and again until the instance takes no
// more.
func (s *orders) record(in *orderedInstance) {
	for {
		s.pause(2 * time.Second)
		updates := s.newCall()
		receipt, err := in.RecordAll(updates)
		if errors.Is(err, ErrClosed) {
			s.count(&s.tally.closed)
			return
		}
		if err != nil {
			s.t.Errorf("RecordAll: %v", err)
			return
		}
		s.accept(in, updates)
		if s.below(2) == 0 {
			s.await(in, receipt, updates)
		}
	}
}

// newCall returns updates to be recorded: new ones, with ids or without, or some with ids once
// more.
func (s *orders) newCall() []spend.Update {
	withIDs, again := s.below(2) == 0, s.below(1<<16)
	s.mu.Lock()
	if n := len(s.named); withIDs && n > 0 && again%3 == 0 {
		defer s.mu.Unlock()
		return s.named[max(0, n-1-again/3%4)]
	}
	s.mu.Unlock()

	updates := make([]spend.Update, 1+s.below(3))
	for i := range updates {
		updates[i] = s.newUpdate()
		if withIDs {
			updates[i].ID = updates[i].APIKey
		}
	}
	if withIDs {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.named = append(s.named, updates)
	}
	return updates
}

func (s *orders) newUpdate() spend.Update {
	return spend.Update{
		Cost:   spend.Cost{Spend: spend.Picodollars(int64(1 + s.below(1e9))), Time: time.Now()},
		Series: spend.Series{APIKey: fmt.Sprintf("key%d-%d", s.below(1e9), s.below(1e9)), TeamID: fmt.Sprint("team", s.below(3))},
	}
}

func (s *orders) accept(in *orderedInstance, updates []spend.Update) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tally.accepted += len(updates)
	for _, u := range updates {
		isSame := func(other orderedUpdate) bool { return other.instance == in && other.ID == u.ID }
		if u.ID == "" || !slices.ContainsFunc(s.accepted, isSame) {
			s.accepted = append(s.accepted, orderedUpdate{u, in})
		}
	}
}

// await waits for a stage, and sees that what it is told is true.
func (s *orders) await(in *orderedInstance, receipt Receipt, updates []spend.Update) {
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Duration(1+s.below(int(10*time.Second))))
	defer cancel()
	want := Accepted + Stage(s.below(3))
	reached, err := in.Wait(ctx, receipt, want)
	if (err == nil) != (reached >= want) || err != nil && !errors.Is(err, ErrClosed) && !errors.Is(err, context.DeadlineExceeded) {
		s.t.Errorf("Wait for %s: %s, %v", want, reached, err)
	}
	if reached < Committed {
		return
	}
	s.count(&s.tally.acked)
	for i := range updates {
		if n := s.times(&updates[i]); n != 1 {
			s.t.Errorf("an update is said to be committed, and is in the books %d times", n)
		}
	}
}

// loseLeases has locks of all instances expire now and then, as if their holders had been frozen.
func (s *orders) loseLeases(in *orderedInstance) {
	for {
		select {
		case <-in.stopped:
			return
		case <-time.After(time.Duration(1 + s.below(int(8*time.Second)))):
		}
		shard := s.below(s.shards)
		s.revoke(s.locker, fmt.Sprint("flush/", shard))
		s.revoke(s.directs, fmt.Sprint("direct/", shard))
	}
}

// revoke has a lock expire, if anybody holds it.
func (s *orders) revoke(l *memlock.Locker, name string) {
	holder, err := l.Holder(s.t.Context(), name)
	if err != nil {
		s.t.Error(err)
	}
	if holder.Owner != "" {
		l.Revoke(name)
		s.count(&s.tally.lostLeases)
	}
}

// drainQueue has an instance to which nothing happens bring what is in the queue to the books.
func (s *orders) drainQueue() {
	if s.queue == nil {
		return
	}
	p := s.newPipeline(true)
	ran := make(chan error, 1)
	go func() { ran <- p.Run(s.t.Context()) }()
	eventually(s.t, "the queue is empty", func() bool {
		n := 0
		for shard := range s.shards {
			n += s.queue.len(shard)
		}
		return n == 0
	})
	if err := p.Shutdown(s.t.Context()); err != nil {
		s.t.Errorf("Shutdown of the last instance: %v", err)
	}
	if err := <-ran; err != nil {
		s.t.Errorf("Run of the last instance: %v", err)
	}
}

// times says how often the update is in the books.
func (s *orders) times(u *spend.Update) int64 {
	c := s.store.Total(spend.Entity{Type: spend.APIKey, ID: u.APIKey})
	return c.APIRequests()
}

// verdict compares the books with what was accepted. Only what an instance said it couldn't drain
// may be missing.
func (s *orders) verdict() {
	want, missing, booked := newBooks(), map[*orderedInstance]int64{}, map[string]bool{}
	for i := range s.accepted {
		u := &s.accepted[i]
		switch n := s.times(&u.Update); {
		case n > 0 && u.ID != "" && booked[u.ID]:
		case n > 0:
			booked[u.ID] = true
			want.book(&u.Update, spend.HourOf(u.Time))
		default:
			missing[u.instance]++
		}
	}
	for in, n := range missing {
		if n > in.left {
			s.t.Errorf("%d updates are missing of an instance that said it couldn't drain %d", n, in.left)
		}
	}
	if diff := s.store.diff(want); diff != "" {
		s.t.Error(diff)
	}
	if n := len(s.store.quarantined()); n > 0 {
		s.t.Errorf("%d batches are in quarantine", n)
	}
}
