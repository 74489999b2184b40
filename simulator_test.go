package spendflush

import (
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"runtime/debug"
	"time"
)

// simulator runs several instances on one queue and one Postgres, in an order and with faults that a seed decides. There
// are no servers, and time is a number. The instances are the product's own pure steps (window, plan, gapWatch,
// shardBooks) with what lane, flusher, leftover and Pipeline do between them written down once more, as actors: straight
// code that gives way to the others before and after every call to a server, so that everything can come in between.
//
// The simulator itself knows everything: what was ever sealed, what the queue was made to lose, and what Postgres had
// before it was turned back. So it can tell what must be in the books to the last batch.
type simulator struct {
	r         *rand.Rand
	seed      uint64
	rules     simRules
	now       time.Time
	store     *memoryStore
	queue     *keepingQueue
	lock      simLock
	disks     []*memoryJournal // one for each slot
	instances []*simInstance   // one for each slot, nil while it is down
	runs      []*simRun        // all producers that ever were
	byID      map[ProducerID]*simRun
	spoiled   map[EntryID]*simSealed // what entries were before a bit of them was flipped
	late      []func()               // calls whose callers gave up, and that are still on their way
	past      []simPast              // what Postgres can be turned back to

	steps        int
	calls        int
	faults       map[int]simFault // by the number of the call; nil: they are drawn
	redisBack    int              // the step at which Redis is there again
	postgresBack int
	calm         bool // nothing goes wrong any more
	wrong        string
	trace        func(format string, args ...any) // nil: nobody wants to know the steps
	tally        simTally
}

// simRules is what may happen in a schedule.
type simRules struct {
	slots    int
	journal  bool
	window   time.Duration // how far back Postgres may be turned without loss
	lockless bool          // every flusher believes that it has the lock
	direct   bool          // instances also write directly while Redis is there
	crashes  bool
	harm     bool // the queue loses, repeats and spoils entries
	outages  bool
	restores simRestores
	months   bool // marks are cleaned up
	waiting  int  // bytes of batches behind gaps that a walk keeps
	steps    int  // at least so many before it is healed
	seals    int  // batches that each producer seals, 0: as it comes
	retires  bool // producers end once all theirs is committed
	sabotage simSabotage
}

type simRestores int

const (
	simNeverTurnedBack   simRestores = iota
	simTurnedBackQuietly             // everything that was under way ends before
	simTurnedBackAtOnce              // in the middle of everything
)

// simTally counts what happened, to see that it happens at all.
type simTally struct {
	schedules, calls, flushes, fenced, passed, found, quarantined, crashes, restores, restored, requeued, months, frail, gone int
}

func (t *simTally) add(o simTally) {
	for to, n := range map[*int]int{
		&t.schedules: o.schedules, &t.calls: o.calls, &t.flushes: o.flushes, &t.fenced: o.fenced, &t.passed: o.passed,
		&t.found: o.found, &t.quarantined: o.quarantined, &t.crashes: o.crashes, &t.restores: o.restores,
		&t.restored: o.restored, &t.requeued: o.requeued, &t.months: o.months, &t.frail: o.frail, &t.gone: o.gone,
	} {
		*to += n
	}
}

const (
	simGrace   = time.Minute
	simLockTTL = 3 * time.Second
	simWindow  = 3 * time.Minute
)

func newSimulator(seed uint64, rules simRules) *simulator {
	s := &simulator{
		r: rand.New(rand.NewPCG(seed, 42)), seed: seed, rules: rules, now: testNow,
		store: newMemoryStore(), byID: map[ProducerID]*simRun{}, spoiled: map[EntryID]*simSealed{},
		queue: &keepingQueue{memoryQueue: newMemoryQueue(), kept: map[int][]memoryEntry{}},
	}
	clock := func() time.Time { return s.now }
	s.store.now, s.queue.now = clock, clock
	for range rules.slots {
		s.disks = append(s.disks, &memoryJournal{})
		s.instances = append(s.instances, nil)
	}
	return s
}

func (s *simulator) note(format string, args ...any) {
	if s.trace != nil {
		s.trace("%s: %s", s.now.Sub(testNow), fmt.Sprintf(format, args...))
	}
}

// fail notes what is wrong, if it is the first thing.
func (s *simulator) fail(format string, args ...any) {
	if s.wrong == "" {
		s.wrong = fmt.Sprintf(format, args...)
		s.note("WRONG: %s", s.wrong)
	}
}

// simFault is what becomes of a call.
type simFault uint8

const (
	simDone        simFault = iota
	simNotDone              // it fails before it has an effect
	simReplyLost            // it has its effect, and its caller doesn't learn of it
	simCrashBefore          // the process dies before it
	simCrashAfter           // the process dies after it had its effect
	simQueueGone            // all goes well, but the queue has lost everything just before
	simLate                 // its caller gives up, and it has its effect later
)

func (f simFault) String() string {
	return []string{
		"done", "fails before it is done", "done, reply lost", "crash before it", "crash after it",
		"queue gone before it", "fails, and is done later",
	}[f]
}

// drawn is by how many of 64 calls a fault comes.
var simDrawn = func() (drawn [64]simFault) {
	i := 0
	for _, f := range []simFault{
		simNotDone, simNotDone, simNotDone, simReplyLost, simReplyLost, simReplyLost, simLate, simLate, simCrashBefore, simCrashAfter,
	} {
		drawn[i] = f
		i++
	}
	return drawn
}()

func (s *simulator) draw() simFault {
	if s.faults != nil {
		return s.faults[s.calls]
	}
	if s.calm {
		return simDone
	}
	f := simDrawn[s.r.IntN(len(simDrawn))]
	if f >= simCrashBefore && f <= simCrashAfter && (!s.rules.crashes || s.r.IntN(2) == 0) {
		f = simReplyLost
	}
	return f
}

// simServer is what a call goes to.
type simServer uint8

const (
	simRedis simServer = iota
	simPostgres
	simDisk
)

func (s *simulator) isDown(at simServer) bool {
	return at == simRedis && s.steps < s.redisBack || at == simPostgres && s.steps < s.postgresBack
}

// simActor is one thread of an instance.
type simActor struct {
	*simInstance
	name   string
	budget int // calls and replies until the others have their turn
	idling bool
	next   func() (struct{}, bool)
	stop   func()
	yield  func(struct{}) bool
}

// errSimCrash unwinds an actor whose process has died.
var errSimCrash = errors.New("process died")

// begin makes an actor that works in rounds.
func (in *simInstance) begin(name string, round func(a *simActor)) {
	a := &simActor{simInstance: in, name: name, idling: true}
	a.next, a.stop = iter.Pull(func(yield func(struct{}) bool) {
		defer func() {
			if r := recover(); r != nil && r != errSimCrash {
				panic(fmt.Sprintf("%v\n%s", r, debug.Stack()))
			}
		}()
		a.yield = yield
		for {
			a.idling = false
			round(a)
			a.idling = true
			if !yield(struct{}{}) {
				return
			}
		}
	})
	in.actors = append(in.actors, a)
}

// pause lets the others go on.
func (a *simActor) pause() {
	if a.budget--; a.budget >= 0 {
		return
	}
	if !a.yield(struct{}{}) {
		panic(errSimCrash)
	}
}

// die ends the process of the actor.
func (a *simActor) die() {
	a.doomed = true
	a.yield(struct{}{})
	panic(errSimCrash)
}

// run lets an actor go on for some calls and replies. It goes on to the end of its round if budget is large.
func (s *simulator) run(a *simActor, budget int) {
	a.budget = budget
	a.next()
	if a.doomed {
		s.kill(a.simInstance)
	}
}

var errSimFault = errors.New("injected fault")

// call makes one call to a server. do must write to nothing but variables of its own: it may be called late.
func (a *simActor) call(to simServer, name string, do func() error) error {
	s := a.s
	s.calls++
	fault := s.draw()
	if fault != simDone {
		s.note("%s: %s, call %d: %s", a.name, name, s.calls, fault)
	}
	switch fault {
	case simCrashBefore:
		a.die()
	case simQueueGone:
		s.loseQueue()
	}
	a.pause()
	switch {
	case s.isDown(to):
		s.note("%s: %s: it is down", a.name, name)
		return errSimFault
	case fault == simLate && to != simDisk:
		s.late = append(s.late, func() {
			s.note("%s: a late %s: %v", a.name, name, do())
		})
		return errSimFault
	case fault == simNotDone || fault == simLate:
		return errSimFault
	}
	err := do()
	if s.trace != nil {
		s.note("%s: %s: %v", a.name, name, err)
	}
	if fault == simCrashAfter {
		a.die()
	}
	a.pause()
	if fault == simReplyLost {
		return errSimFault
	}
	return err
}

// simLock is the lock in Redis.
type simLock struct {
	holder *simLease
	until  time.Time
}

type simLease struct{ until time.Time } // for how long its holder trusts it

func (a *simActor) acquire() (*simLease, error) {
	lease := &simLease{until: a.s.now.Add(simLockTTL)}
	if a.s.rules.lockless {
		return lease, nil
	}
	err := a.call(simRedis, "acquire", func() error {
		if a.s.lock.holder != nil && a.s.now.Before(a.s.lock.until) {
			return ErrHeld
		}
		a.s.lock = simLock{lease, a.s.now.Add(simLockTTL)}
		return nil
	})
	return lease, err
}

// lost says whether the holder knows that it lost the lock. While it can it renews it.
func (a *simActor) lost(lease *simLease) bool {
	s := a.s
	if s.rules.lockless {
		return false
	}
	if !s.isDown(simRedis) && s.lock.holder == lease && s.now.Before(s.lock.until) && s.now.Before(lease.until) {
		s.lock.until = s.now.Add(simLockTTL)
		lease.until = s.lock.until
	}
	return !s.now.Before(lease.until)
}

func (a *simActor) release(lease *simLease) {
	if a.s.rules.lockless {
		return
	}
	a.call(simRedis, "release", func() error {
		if a.s.lock.holder == lease {
			a.s.lock = simLock{}
		}
		return nil
	})
}
