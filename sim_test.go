package spendflush

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

var (
	simSeed = flag.Uint64("sim.seed", 0, "run the simulator with this seed only")
	simRuns = flag.Uint64("sim.runs", 2000, "number of schedules that the simulator runs")
)

// sim runs several producers and several flushers, none of which holds a lock, on one queue and one store, in an order
// and with faults that a seed decides. Each step is one call to the queue or the store, so that everything can come
// between any two of them.
type sim struct {
	r         *rand.Rand
	store     *memoryStore
	queue     *memoryQueue
	producers []*simProducer
	flushers  []*simFlusher
	sealed    *books                           // the oracle: everything that was ever sealed
	healed    bool                             // no faults any more
	trace     func(format string, args ...any) // nil: nobody wants to know the steps
}

// outcome is what becomes of a call.
type outcome int

const (
	done      outcome = iota
	notDone           // it fails before it has an effect
	replyLost         // it has its effect, and its caller doesn't learn of it
)

func (s *sim) outcome() outcome {
	if s.healed {
		return done
	}
	return []outcome{done, done, done, done, notDone, replyLost}[s.r.IntN(6)]
}

func (s *sim) note(format string, args ...any) {
	if s.trace != nil {
		s.trace(format, args...)
	}
}

func newSim(seed uint64) *sim {
	s := &sim{r: rand.New(rand.NewPCG(seed, 42)), store: newMemoryStore(), queue: newMemoryQueue(), sealed: newBooks()}
	for i := range 1 + s.r.IntN(3) {
		s.producers = append(s.producers, &simProducer{sim: s, number: i, window: newWindow(0)})
	}
	for i := range 1 + s.r.IntN(3) {
		s.flushers = append(s.flushers, &simFlusher{sim: s, number: i})
	}
	return s
}

// run makes the steps, heals everything and returns what is wrong then, "" if nothing is.
func (s *sim) run(steps int) string {
	for range steps {
		switch n := s.r.IntN(20); {
		case n < 8:
			s.producers[s.r.IntN(len(s.producers))].step()
		case n < 19:
			s.flushers[s.r.IntN(len(s.flushers))].step()
		default:
			s.harmQueue()
		}
	}
	s.healed = true
	for range 30 {
		busy := false
		for _, p := range s.producers {
			p.recover()
			for p.window.toPush() != nil {
				p.push()
			}
			busy = busy || len(p.window.batches) > 0
		}
		for _, f := range s.flushers {
			f.step()
			for f.plan != nil {
				f.step()
			}
		}
		if !busy && s.queue.len(0) == 0 {
			return s.store.diff(s.sealed)
		}
	}
	return fmt.Sprintf("after healing it never comes to rest: %d entries in the queue", s.queue.len(0))
}

// harmQueue does what a queue may do to its entries.
func (s *sim) harmQueue() {
	s.queue.mu.Lock()
	defer s.queue.mu.Unlock()
	entries := s.queue.entries[0]
	harm := s.r.IntN(6)
	if harm == 0 {
		s.note("queue loses everything")
		clear(s.queue.entries)
		clear(s.queue.marks)
	}
	if len(entries) == 0 {
		return
	}
	i := s.r.IntN(len(entries))
	switch harm {
	case 1:
		s.note("queue loses entry %s", entries[i].ID)
		s.queue.entries[0] = slices.Delete(slices.Clone(entries), i, i+1)
	case 2, 3:
		again := s.queue.insert(0, slices.Clone(entries[i].Bytes))
		s.note("entry %s is there again as %s", entries[i].ID, again)
	case 4:
		s.note("a bit of entry %s is flipped", entries[i].ID)
		b := entries[i].Bytes
		b[s.r.IntN(len(b))] ^= 1 << s.r.IntN(8)
	case 5:
		s.note("queue forgets marks")
		clear(s.queue.marks)
	}
}

// simProducer is an instance that never dies, but whose calls fail.
type simProducer struct {
	*sim
	number int
	window *window
	late   []*Batch // pushes whose caller gave up, and that are still on their way
}

func (p *simProducer) id() ProducerID { return testProducer(p.number) }

func (p *simProducer) step() {
	switch p.r.IntN(8) {
	case 0, 1:
		p.seal()
	case 2, 3, 4:
		p.push()
	case 5:
		mark, _ := p.queue.Mark(context.Background(), 0, p.id())
		p.window.confirm(mark, testNow)
	case 6:
		if p.r.IntN(3) == 0 {
			p.recover()
		}
		if len(p.late) > 0 {
			id, _ := p.queue.Push(context.Background(), p.late[0], "")
			p.note("producer %d: a late push of %d arrives as %s", p.number, p.late[0].Sequence, id)
			p.late = p.late[1:]
		}
	case 7:
		p.direct()
	}
}

// seal makes a batch of an update or two.
func (p *simProducer) seal() {
	if len(p.window.exposed()) >= maxExposed {
		return
	}
	s := Series{APIKey: fmt.Sprint("key", p.r.IntN(2))}
	u := Update{Spend: Picodollars(1 + p.r.Int64N(1000)), Series: s}
	var c Counters
	for range 1 + p.r.IntN(2) {
		c.addUpdate(&u)
		p.sealed.book(&u, 0)
	}
	e := Entity{Type: APIKey, ID: s.APIKey}
	b := NewBatch(testHeader(p.id(), p.window.next), []TotalRow{{Key: e.Key(), Entity: e, Counters: c}}, []RollupRow{NewRollupRow(&s, 0, c)})
	p.window.add([]*Batch{b})
	p.note("producer %d: seals %d", p.number, b.Sequence)
}

func (p *simProducer) push() {
	b := p.window.toPush()
	if b == nil {
		return
	}
	o := p.outcome()
	p.note("producer %d: pushes %d, outcome %d", p.number, b.Sequence, o)
	if o == notDone {
		if p.r.IntN(2) == 0 {
			p.late = append(p.late, b.Batch)
		}
		return
	}
	id, _ := p.queue.Push(context.Background(), b.Batch, b.entry)
	if o == done {
		p.window.atQueue(b.Sequence, id)
	}
}

func (p *simProducer) recover() {
	marks, _ := p.store.Marks(context.Background(), 0, []ProducerID{p.id()})
	p.window.confirm(marks.Of[p.id()].Whole(), testNow)
	p.window.doubt()
	p.note("producer %d: in doubt after %d", p.number, marks.Of[p.id()].Sequence)
}

// direct writes the window without the queue, by what the producer believes to be confirmed.
func (p *simProducer) direct() {
	plan := newPlan(0)
	plan.marks[p.id()] = Mark{Sequence: p.window.confirmed}
	for _, b := range p.window.batches {
		plan.wait[p.id()] = append(plan.wait[p.id()], entryBatch{b.Batch, b.entry})
	}
	f := plan.take()
	if f == nil {
		return
	}
	o := p.outcome()
	p.note("producer %d: writes %s directly, outcome %d", p.number, f.Claims, o)
	if o == notDone {
		return
	}
	if err := p.store.Apply(context.Background(), f); err == nil && o == done {
		p.window.confirm(f.Claims[0].Last, testNow)
	}
}

// simFlusher walks over the queue; plan is nil between two walks.
type simFlusher struct {
	*sim
	number int
	plan   *plan
	after  EntryID
	next   func()
}

func (f *simFlusher) step() {
	if f.plan == nil {
		f.plan, f.after, f.next = newPlan(0), "", f.read
	}
	if !f.healed && f.r.IntN(40) == 0 {
		f.note("flusher %d: crashes", f.number)
		f.plan = nil
		return
	}
	f.next()
}

func (f *simFlusher) read() {
	entries, _ := f.queue.Read(context.Background(), 0, f.after, 1+f.r.IntN(4), 1<<20)
	if len(entries) == 0 {
		f.plan = nil
		return
	}
	for _, e := range entries {
		f.plan.offer(e)
		f.after = e.ID
	}
	f.note("flusher %d: reads up to %s", f.number, f.after)
	f.next = f.readMarks
}

func (f *simFlusher) readMarks() {
	ids := f.plan.unknown()
	marks, _ := f.store.Marks(context.Background(), 0, ids)
	f.plan.learn(ids, marks)
	f.next = f.apply
}

func (f *simFlusher) apply() {
	flush := f.plan.take()
	if flush == nil {
		f.next = f.settle
		return
	}
	o := f.outcome()
	if o == notDone {
		f.note("flusher %d: can't apply %s", f.number, flush.Claims)
		f.plan = nil
		return
	}
	err := f.store.Apply(context.Background(), flush)
	f.note("flusher %d: applies %s, outcome %d: %v", f.number, flush.Claims, o, err)
	switch {
	case o == replyLost:
		f.plan = nil
	case err != nil:
		f.plan.fenced(flush)
		f.next = f.readMarks
	default:
		f.plan.applied(flush)
		f.next = f.readMarks
	}
}

func (f *simFlusher) settle() {
	for _, b := range f.plan.bad {
		f.plan.done = append(f.plan.done, b.entry)
	}
	f.plan.bad = nil
	ids, marks := f.plan.settle()
	o := f.outcome()
	f.note("flusher %d: settles %v, outcome %d", f.number, ids, o)
	if o != notDone {
		f.queue.Settle(context.Background(), 0, ids, marks)
	}
	if o != done {
		f.plan = nil
		return
	}
	f.next = f.read
}

func simulate(seed uint64, unchecked bool, trace func(format string, args ...any)) (fault string, s *sim) {
	s = newSim(seed)
	s.store.unchecked, s.trace = unchecked, trace
	return s.run(40 + s.r.IntN(400)), s
}

func TestBooksAreExactWhateverTheScheduleAndTheFaults(t *testing.T) {
	from, to := uint64(1), *simRuns
	if *simSeed != 0 {
		from, to = *simSeed, *simSeed
	}
	flushes := 0
	for seed := from; seed <= to; seed++ {
		fault, s := simulate(seed, false, nil)
		if fault != "" {
			simulate(seed, false, t.Logf) // the same again, step by step
			t.Fatalf("%s\nrun it again with: go test -run %s . -sim.seed=%d", fault, t.Name(), seed)
		}
		flushes += s.store.flushes
	}
	t.Logf("%d schedules, %d flushes", to-from+1, flushes)
}

// The simulator is worth nothing if it can't see what it is for.
func TestSimulatorSeesTheDriftOfAStoreWithoutClaims(t *testing.T) {
	drifted := 0
	const runs = 100
	for seed := uint64(1); seed <= runs; seed++ {
		if fault, _ := simulate(seed, true, nil); fault != "" {
			drifted++
		}
	}
	if drifted < runs/2 {
		t.Errorf("without the claim check only %d of %d schedules drift", drifted, runs)
	}
	t.Logf("%d of %d schedules drift", drifted, runs)
}
