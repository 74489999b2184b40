package spendflush

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// simShards is one more than the most shards that an instance has.
const simShards = 3

// simInstance is one process.
type simInstance struct {
	s          *simulator
	deployment *simDeployment
	slot       int
	run        *simRun
	p          *Pipeline
	ctx        context.Context
	cancel     context.CancelFunc
	actors     []*simActor
	dead       bool
	frozen     int           // it stands still until this step
	skew       time.Duration // how far its clock is ahead
	born       bool          // its identity is made

	replayed          bool // all that earlier processes left in the journal is in Postgres
	stopping, stopped bool
	receipts          []*simReceipt
	knows             [simShards]int64 // how many changes it knows that the books had
}

// simReceipt is what an instance got for updates that it recorded.
type simReceipt struct {
	Receipt
	updates []*simUpdate
	stage   Stage
	from    []int // of each update: the place of its batch among those of it that the process has sealed
	told    bool  // what became of its ids was checked
}

// simDoneCtx is a context that has ended, for waits that don't wait.
var simDoneCtx = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// start begins a process in a slot that is down.
func (s *simulator) start(slot int) *simInstance {
	shards := 1
	if s.rules.shards > 1 {
		shards = 1 + s.r.IntN(s.rules.shards)
	}
	run := s.newRun(slot)
	first := slot < len(s.deployments) // one at least of a deployment flushes the queue
	return s.boot(run, shards, first || !s.rules.queueless || s.r.IntN(2) == 0)
}

// boot begins the process of a run.
func (s *simulator) boot(run *simRun, shards int, withQueue bool) *simInstance {
	in := &simInstance{s: s, deployment: run.deployment, slot: run.slot, run: run, skew: run.skew}
	in.ctx, in.cancel = context.WithCancel(context.Background())
	run.in, run.shards, s.instances[run.slot] = in, shards, in
	c := Config{
		Store: simStore{in}, DirectLocker: simLocker{in, simPostgres, in.deployment.id}, Shards: shards, GapGrace: cmp.Or(s.rules.grace, simGrace), RewindWindow: s.rules.window,
		Instance: fmt.Sprint("process ", run.number), MaxKeys: 1000, Logger: s.log, clock: simClock{in},
		newProducer: in.newProducer,
	}
	c.limits = c.WithDefaults().limits
	if s.rules.narrow {
		c.limits = limits{flush: flushLimit{rows: 1 + 4*(run.number%2), texts: 1 << 20}, bytes: 800, waiting: 1200} // some batches
	}
	c.limits.keys = 64 * shards // to forget some, and memory would be most of what a schedule takes
	if withQueue {
		c.Queue, c.Locker = simQueue{in, s.keysOf(spend.BooksID{})}, simLocker{in, simRedis, spend.BooksID{}}
	}
	if s.rules.journal {
		disk := s.disks[run.slot]
		c.Journal = simJournal{in, disk, slices.Clone(disk.batches)}
	}
	p, err := New(c)
	if err != nil {
		panic(err)
	}
	in.p, in.born = p, true
	s.note("slot %d: process %d of deployment %d begins with %d shards, queue: %t", run.slot, run.number, in.deployment.number, shards, withQueue)
	in.beginAll()
	return in
}

// kill ends a process, and with it what it has in memory.
func (s *simulator) kill(in *simInstance) {
	if s.instances[in.slot] != in {
		return
	}
	in.dead = true
	s.note("slot %d: process %d dies", in.slot, in.run.number)
	s.instances[in.slot] = nil
	for _, a := range in.actors {
		a.stop()
	}
	in.cancel()
	in.run.in = nil
	if !in.stopped {
		s.tally.crashes++
	}
}

// newRun makes the run of a process that begins.
func (s *simulator) newRun(slot int) *simRun {
	run := &simRun{number: len(s.runs), slot: slot, deployment: s.deploymentAt(slot)}
	if s.rules.clocks && !s.calm && s.r.IntN(4) == 0 {
		run.skew = s.drawSkew()
	}
	s.runs = append(s.runs, run)
	return run
}

// newProducer makes the identities of a process: that of the process that it is a clone of, and
// then new ones.
func (in *simInstance) newProducer(now, notBefore time.Time) (id spend.ProducerID) {
	run := in.run
	if of := run.of; of != nil && !in.born {
		run.id = of.id
		run.identities++
		return of.id
	}
	if in.born {
		in.s.tally.identities++
		now = now.Add(in.skew)
	}
	ms := later(now, notBefore).UnixMilli()
	binary.BigEndian.PutUint16(id[0:], uint16(ms>>32))
	binary.BigEndian.PutUint32(id[2:], uint32(ms))
	binary.BigEndian.PutUint16(id[12:], uint16(run.number))
	id[15] = byte(run.identities)
	run.identities++
	run.id = id
	in.s.byID[id] = run
	return id
}

// simCall is what a caller has recorded at once.
type simCall struct {
	key     string // of all updates, "" if there is none
	updates []*simUpdate
	at      time.Time
}

// record has updates recorded by one call: new ones, or ones with ids that were recorded before.
func (in *simInstance) record(n int) {
	call := in.s.drawRepeat(in)
	if call == nil {
		call = in.s.newCall(in.deployment, n)
	}
	in.take(call)
	in.run.pending = append(in.run.pending, call)
}

func (in *simInstance) take(call *simCall) {
	all := make([]spend.Update, len(call.updates))
	for i, u := range call.updates {
		all[i] = u.Update
	}
	var receipt Receipt
	var err error
	if call.key != "" {
		receipt, err = in.p.RecordOnce(call.key, all)
	} else {
		receipt, err = in.p.RecordAll(all)
	}
	if err != nil {
		switch {
		case errors.Is(err, ErrClosed):
		case errors.Is(err, ErrIDReused) && call.updates[0].claim != nil && in.s.rules.rivals:
			in.s.tally.refused++
		default:
			in.s.fail("process %d: record: %v", in.run.number, err)
		}
		return
	}
	for _, u := range call.updates {
		u.accepted = true
		u.runs = append(u.runs, in.run)
		u.hours = append(u.hours, spend.HourOf(in.s.now))
	}
	in.s.noteTaken(receipt)
	r := &simReceipt{Receipt: receipt, updates: call.updates, stage: Accepted}
	for _, u := range call.updates {
		r.from = append(r.from, in.s.placeOf(u, call, receipt, in.run))
	}
	in.receipts = append(in.receipts, r)
}

// seal seals what is open, if there is room.
func (in *simInstance) seal() {
	if in.p.haveRoom() {
		in.sealAll(false)
	}
}

func (in *simInstance) sealAll(last bool) {
	in.p.seal(last)
	if len(in.run.pending) > 0 {
		in.run.seals = append(in.run.seals, simSeal{in.s.now, in.run.pending})
		in.run.pending = nil
	}
	in.noteSealed()
}

// work records updates and seals them.
func (in *simInstance) work() {
	s := in.s
	if s.rules.seals > 0 && (len(in.run.seals) >= s.rules.seals || in.run.number >= s.rules.slots) || in.stopping || !in.p.haveRoom() {
		return
	}
	in.record(1 + s.r.IntN(3))
	if s.r.IntN(4) > 0 || s.rules.seals > 0 {
		in.seal()
	}
}

// clone begins a process as another one once was: with its identity, and the first batches that it
// sealed.
func (s *simulator) clone(of *simRun, slot, seals int) {
	run := &simRun{number: len(s.runs), slot: slot, deployment: of.deployment, skew: of.skew, of: of, cloned: true}
	of.cloned = true
	s.runs = append(s.runs, run)
	s.tally.clones++
	now := s.now
	in := s.boot(run, of.shards, true)
	s.note("process %d is process %d as it was after %d seals", run.number, of.number, seals)
	for _, seal := range of.seals[:seals] {
		for _, call := range seal.calls {
			s.now = call.at
			in.take(call)
		}
		s.now = seal.at
		in.run.pending = slices.Clone(seal.calls)
		in.sealAll(false)
	}
	s.now = now
}

// stop is what Shutdown does, but for the end of the process.
func (in *simInstance) stop() {
	in.stopping = true
	in.sealAll(true)
	ctx, cancel := context.WithCancel(in.ctx)
	in.begin("shutdown", func(context.Context) {
		if in.stopped {
			return
		}
		defer cancel()
		in.p.drained(ctx)
		in.stopped = true
	})
}

// check sees what the instance says of its updates, after it did anything.
func (in *simInstance) check() {
	in.noteSealed()
	in.checkReceipts()
}

func (in *simInstance) checkReceipts() {
	waits := in.receipts[:0]
	for _, r := range in.receipts {
		reached, _ := in.p.Wait(simDoneCtx, r.Receipt, Committed)
		if reached > r.stage {
			in.s.acknowledge(in.run, r, reached)
			r.stage = reached
		}
		in.checkCounts(r, reached)
		if reached < Committed {
			waits = append(waits, r)
		}
	}
	in.receipts = waits
}
