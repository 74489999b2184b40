package spendflush

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// simulator runs several instances on one queue and one Postgres, or two deployments with a
// Postgres each on one queue, in an order and with faults that a seed decides. There are no
// servers, and time is a number. Each instance is a real Pipeline; only its store, queue, lockers,
// journal and clock are the simulator's. Its goroutines are coroutines whose bodies are the real
// steps: one of a relay, one term of a flusher, one look at the books. They give way to the others
// before and after each call, so that everything can come in between.
//
// The simulator itself knows everything: each update that was recorded, each batch that was sealed,
// what the queue was made to lose, and what Postgres had before it was turned back. So it can tell
// what must be in the books to the last update.
type simulator struct {
	r            *rand.Rand
	seed         uint64
	rules        simRules
	now          time.Time
	deployments  []*simDeployment
	noBooks      *testQueue // the keys of no books, where nothing may ever be
	locks        map[simLockName]*simLock
	disks        []*memoryJournal // one for each slot
	instances    []*simInstance   // one for each slot, nil while it is down
	current      *simActor        // whose turn it is
	runs         []*simRun        // all processes that ever were
	byID         map[spend.ProducerID]*simRun
	updates      []*simUpdate
	batches      map[spend.Digest]*simSealed
	named        []*simCall // those that have ids
	facts        map[spend.FactID]*simFact
	claims       map[spend.FactID][]*simClaim // what was said under each
	strangers    map[int]*spend.Batch         // the last batch of books that no deployment has, by shard
	strangeBytes [][]byte                     // all of them
	late         []func()                     // calls whose callers gave up, and that are still on their way
	log          *slog.Logger

	queueSkew, storeSkew time.Duration // how far the clocks of the servers are ahead

	steps     int
	calls     int
	faults    map[int]simFault // by the number of the call; nil: they are drawn
	redisBack int              // the step at which Redis is there again
	calm      bool             // nothing goes wrong any more
	wrong     string
	trace     func(format string, args ...any) // nil: the steps are not told
	tally     simTally
}

// simRules is what may happen in a schedule.
type simRules struct {
	slots     int
	two       bool // two deployments take turns at the slots, each with books of its own
	shards    int  // the most that an instance has; each has a number of its own
	journal   bool
	window    time.Duration // how far back Postgres may be turned without loss
	lockless  bool          // every flusher believes that it has the lock
	queueless bool          // some instances have no queue
	crashes   bool
	strange   bool // batches of other books come among the keys of a deployment
	harm      bool // the queue loses, repeats and spoils entries
	outages   bool
	restores  simRestores
	months    bool          // marks are pruned
	clocks    bool          // clocks are a year off for a while
	clones    bool          // a process begins as another one once was
	poison    bool          // Postgres refuses some updates
	ids       bool          // callers give ids, and repeat what has some
	rivals    bool          // callers give ids that others have given to something else
	room      int           // rows that Postgres takes in one transaction, 0: any number
	full      int           // entries that the queue takes, 0: any number
	grace     time.Duration // how long a gap is waited for, 0: a minute
	narrow    bool          // a flusher deals with a few batches at once
	steps     int           // at least so many before it is healed
	seals     int           // times that each process seals, 0: as it comes
	retires   bool          // processes end once all theirs is committed
	exact     bool          // nothing may be missing
}

type simRestores int

const (
	simNeverTurnedBack   simRestores = iota
	simTurnedBackQuietly             // everything that was under way ends before
	simTurnedBackAtOnce              // in the middle of everything
)

const (
	simGrace   = time.Minute
	simLockTTL = 3 * time.Second
	simWindow  = 3 * time.Minute
	simYear    = 365 * 24 * time.Hour
)

func newSimulator(seed uint64, rules simRules) *simulator {
	s := &simulator{
		r: rand.New(rand.NewPCG(seed, 42)), seed: seed, rules: rules, now: testNow,
		locks: map[simLockName]*simLock{}, facts: map[spend.FactID]*simFact{}, claims: map[spend.FactID][]*simClaim{}, strangers: map[int]*spend.Batch{}, byID: map[spend.ProducerID]*simRun{}, batches: map[spend.Digest]*simSealed{},
	}
	s.addDeployments()
	s.log = slog.New(simLog{s})
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

// simLog writes what the instances log among the steps.
type simLog struct{ s *simulator }

func (l simLog) Enabled(context.Context, slog.Level) bool { return l.s.trace != nil }

func (l simLog) Handle(_ context.Context, r slog.Record) error {
	text := ""
	r.Attrs(func(a slog.Attr) bool {
		text += fmt.Sprintf(" %s=%v", a.Key, a.Value)
		return true
	})
	l.s.note("%s: log %s: %s%s", l.s.current, r.Level, r.Message, text)
	return nil
}

func (l simLog) WithAttrs([]slog.Attr) slog.Handler { return l }

func (l simLog) WithGroup(string) slog.Handler { return l }

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

func (in *simInstance) isDown(at simServer) bool {
	return at == simRedis && in.s.steps < in.s.redisBack || at == simPostgres && in.s.steps < in.deployment.postgresBack
}

// simActor is one goroutine of an instance, as a coroutine.
type simActor struct {
	*simInstance
	name   string
	budget int         // calls and replies until the others have their turn
	idling bool        // it is between two rounds
	wake   time.Time   // it sleeps until then
	ended  func() bool // or until this is so
	leases []*simLease
	next   func() (struct{}, bool)
	stop   func()
	yield  func(struct{}) bool
}

func (a *simActor) String() string {
	if a == nil {
		return "nobody"
	}
	return a.name
}

// errSimCrash unwinds an actor whose process has died, and is what calls return meanwhile.
var errSimCrash = errors.New("process died")

// begin makes an actor that works in rounds.
func (in *simInstance) begin(name string, round func(ctx context.Context)) {
	a := &simActor{simInstance: in, name: fmt.Sprint(name, " of process ", in.run.number), idling: true}
	a.next, a.stop = iter.Pull(func(yield func(struct{}) bool) {
		defer func() {
			if r := recover(); r != nil && r != errSimCrash {
				panic(fmt.Sprintf("%v\n%s", r, debug.Stack()))
			}
		}()
		a.yield = yield
		for {
			a.idling = false
			round(in.ctx)
			a.idling = true
			if !yield(struct{}{}) {
				return
			}
		}
	})
	in.actors = append(in.actors, a)
}

// giveWay lets the others go on.
func (a *simActor) giveWay() {
	if !a.yield(struct{}{}) {
		panic(errSimCrash)
	}
}

// pause lets the others go on if the actor has had its turn.
func (a *simActor) pause() {
	if a.budget--; a.budget < 0 {
		a.giveWay()
	}
}

// die ends the process of the actor.
func (a *simActor) die() {
	a.dead = true
	a.yield(struct{}{})
	panic(errSimCrash)
}

// atRest says whether nothing of the actor is under way.
func (a *simActor) atRest() bool { return a.idling || a.sleeps() }

func (a *simActor) sleeps() bool { return a.s.now.Before(a.wake) && !a.ended() }

// run lets an actor go on for some calls and replies. It goes on to the end of its round if budget
// is large.
func (s *simulator) run(a *simActor, budget int) {
	if a.sleeps() || a.dead {
		return
	}
	before := s.current
	s.current, a.budget = a, budget
	a.next()
	s.current = before
	if a.dead {
		s.kill(a.simInstance)
		return
	}
	a.check()
}

var errSimFault = errors.New("injected fault")

// call makes one call to a server. do must write to nothing but variables of its own: it may be
// called late.
func (in *simInstance) call(to simServer, name string, do func() error) error {
	if in.dead {
		return errSimCrash // deferred calls of a process that has died
	}
	s, a := in.s, in.s.current
	if a == nil || a.simInstance != in {
		panic("simulator: " + name + " is called by no actor of its process")
	}
	s.calls++
	fault := s.draw()
	if fault != simDone {
		s.note("%s: %s, call %d: %s", a, name, s.calls, fault)
	}
	switch fault {
	case simCrashBefore:
		a.die()
	case simQueueGone:
		s.loseQueue()
	}
	a.pause()
	switch {
	case in.isDown(to):
		s.note("%s: %s: it is down", a, name)
		return errSimFault
	case fault == simLate && to != simDisk:
		s.late = append(s.late, func() {
			s.note("%s: a late %s: %v", a, name, do())
		})
		return errSimFault
	case fault == simNotDone || fault == simLate:
		return errSimFault
	}
	err := do()
	if s.trace != nil {
		s.note("%s: %s: %v", a, name, err)
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
