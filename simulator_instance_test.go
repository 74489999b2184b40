package spendflush

import (
	"context"
	"fmt"
	"slices"
)

// simInstance is one process: a producer with its lane, a flusher, and what it knows of the books.
type simInstance struct {
	s      *simulator
	slot   int
	run    *simRun
	window *window
	books  shardBooks
	disk   *memoryJournal // nil: it has no journal
	actors []*simActor
	doomed bool
	frozen int    // it stands still until this step
	seen   uint64 // batches up to here were looked at when the window had dropped them

	mood      simMood
	looked    bool   // it has read the number of updates that was published
	unkept    bool   // the last try to write to the journal failed
	forgotten uint64 // what the journal was told to forget
	laneGaps  gapWatch
	flushGaps gapWatch

	left     []*windowBatch // what earlier processes left in the journal
	leftGaps gapWatch
}

// simMood is what a lane does in a round, which in an instance depends on the time that passed.
type simMood struct{ direct, stalled, look bool }

var simCtx = context.Background()

// start begins a process in a slot that is down.
func (s *simulator) start(slot int) *simInstance {
	run := s.newRun(slot)
	in := &simInstance{
		s: s, slot: slot, run: run, window: newWindow(s.rules.window), laneGaps: gapWatch{}, flushGaps: gapWatch{}, leftGaps: gapWatch{},
	}
	run.in, s.instances[slot] = in, in
	s.note("slot %d: producer %d begins", slot, run.number)
	in.begin(fmt.Sprintf("lane %d", run.number), (*simActor).lane)
	in.begin(fmt.Sprintf("flusher %d", run.number), (*simActor).term)
	if s.rules.journal {
		in.disk = s.disks[slot]
		batches, _ := in.disk.Left()
		for _, b := range batches {
			in.left = append(in.left, &windowBatch{Batch: b, journaled: true})
		}
		if len(in.left) > 0 {
			in.begin(fmt.Sprintf("replay %d", run.number), (*simActor).replay)
		}
	}
	if s.rules.window > 0 {
		in.begin(fmt.Sprintf("watch %d", run.number), (*simActor).lookAtBooks)
	}
	return in
}

// kill ends a process, and with it what it has in memory.
func (s *simulator) kill(in *simInstance) {
	s.note("slot %d: producer %d dies, sealed up to %d, queued up to %d", in.slot, in.run.number, in.window.next-1, in.window.queued)
	s.instances[in.slot] = nil
	for _, a := range in.actors {
		a.stop()
	}
	in.run.in, in.run.queued = nil, in.window.queued
	s.tally.crashes++
}

// seal makes a batch.
func (in *simInstance) seal() {
	s := in.s
	enough := s.rules.seals > 0 && (len(in.run.batches) >= s.rules.seals || in.run.number >= s.rules.slots)
	if len(in.window.exposed()) >= maxExposed || enough {
		return
	}
	b := s.newBatch(in.run, in.window)
	in.window.add([]*Batch{b})
	s.note("producer %d: seals %d with %s", in.run.number, b.Sequence, b.Amount)
}

// lane is one step of a lane.
func (a *simActor) lane() {
	a.mood = a.s.drawMood(a.mood)
	a.writeJournal()
	a.pushAll()
	a.readHint()
	if a.mood.direct {
		a.direct()
	} else if a.mood.stalled && len(a.window.batches) > 0 {
		a.readStoredMark()
		a.window.doubt()
	}
	if a.mood.look && len(a.window.kept) > 0 {
		a.readStoredMark()
	}
	a.forgetJournal()
}

func (a *simActor) writeJournal() {
	fresh := a.window.toJournal()
	if a.disk == nil || len(fresh) == 0 {
		return
	}
	batches := make([]*Batch, len(fresh))
	for i, b := range fresh {
		batches[i] = b.Batch
	}
	err := a.call(simDisk, "append to the journal", func() error { return a.disk.Append(batches) })
	if a.unkept = err != nil; err == nil || a.s.rules.sabotage == simUnkeptCounted {
		a.window.inJournal(fresh)
	}
}

func (a *simActor) forgetJournal() {
	dropped := a.window.dropped()
	if a.disk == nil || dropped == a.forgotten {
		return
	}
	a.call(simDisk, "forget", func() error { return a.disk.Forget(0, a.run.id, dropped) })
	a.forgotten = dropped
}

func (a *simActor) pushAll() {
	for {
		b := a.window.toPush()
		if b == nil || a.disk != nil && !b.journaled && !a.unkept {
			return
		}
		entry, err := a.push(b)
		if err != nil {
			if a.s.rules.sabotage == simNewNameAfterFailure {
				a.rename(b)
			}
			return
		}
		a.window.atQueue(b.Sequence, entry)
		if a.s.rules.sabotage == simDroppedWhenPushed {
			a.confirm(b.Sequence)
		}
	}
}

func (a *simActor) push(b *windowBatch) (EntryID, error) {
	previous := b.entry
	var entry EntryID
	err := a.call(simRedis, "push", func() error {
		id, err := a.s.queue.Push(simCtx, b.Batch, previous)
		a.s.note("%d of producer %d is entry %s", b.Sequence, a.s.byID[b.Producer].number, id)
		a.s.pushed(b.Batch)
		entry = id
		return err
	})
	return entry, err
}

// rename seals the batch to be pushed next once more under another identity, as nobody may.
func (a *simActor) rename(b *windowBatch) {
	rows, _ := b.Rows()
	h := b.Header
	h.Sequence, h.Seal, h.PriorUpdates, h.PriorAmount = a.window.next, a.window.next, a.window.updates, a.window.amount
	again := NewBatch(h, rows.Totals, rows.Rollups)
	a.run.batches = append(a.run.batches, &simSealed{Batch: again, rows: &Rows{}})
	a.window.add([]*Batch{again})
}

func (a *simActor) readHint() {
	if a.window.pushed == 0 {
		return
	}
	var mark uint64
	err := a.call(simRedis, "read the published mark", func() (err error) {
		mark, err = a.s.queue.Mark(simCtx, 0, a.run.id)
		return err
	})
	if err == nil {
		a.confirm(mark)
	}
}

func (in *simInstance) confirm(mark uint64) {
	in.window.confirm(mark, in.s.now)
	in.lookAtDropped()
}

// lookAtDropped sees that what the window dropped is in the books.
func (in *simInstance) lookAtDropped() {
	for to := in.window.dropped(); in.seen < to; in.seen++ {
		if b := in.run.batches[in.seen]; !b.gone && !in.s.has(in.run, b.Sequence) {
			in.s.fail("producer %d drops batch %d, which isn't in the books", in.run.number, b.Sequence)
		}
	}
}

func (a *simActor) readMarks(ids []ProducerID) (Marks, error) {
	books, s := &a.books, a.s
	atLeast := books.atLeast()
	var marks Marks
	err := a.call(simPostgres, "read marks", func() (err error) {
		marks, err = s.store.Marks(simCtx, 0, ids)
		return err
	})
	if err != nil {
		return Marks{}, err
	}
	if books.compare(atLeast, marks.Updates) {
		s.note("%s: Postgres was turned back: %d updates instead of %d", a.name, marks.Updates, atLeast)
	}
	if books.mustRequeue() && s.rules.window > 0 && s.rules.sabotage != simNeverRequeued {
		n := 0
		err := a.call(simRedis, "requeue", func() (err error) {
			n, err = s.queue.Requeue(simCtx, 0)
			s.tally.requeued += n
			delete(s.queue.marks, booksMark)
			return err
		})
		if err == nil {
			books.requeued()
		}
	}
	return marks, nil
}

func (a *simActor) readStoredMark() error {
	began := a.s.now
	marks, err := a.readMarks([]ProducerID{a.run.id})
	if err != nil || marks.Forgotten(a.run.id) {
		return err
	}
	_, restored, missing := a.window.confirmStored(marks.Of[a.run.id], began)
	if restored == 0 && missing == 0 {
		a.window.expire(began)
	}
	a.s.tally.restored += restored
	if restored > 0 || missing > 0 {
		a.s.note("%s: mark %+v: %d restored, %d missing", a.name, marks.Of[a.run.id], restored, missing)
	}
	a.lookAtDropped()
	return nil
}

func (a *simActor) direct() {
	if len(a.window.batches) == 0 || a.readStoredMark() != nil {
		return
	}
	a.writeDirectly(slices.Clone(a.window.batches), a.laneGaps)
}

// writeDirectly doesn't even take the direct lock.
func (a *simActor) writeDirectly(batches []*windowBatch, gaps gapWatch) error {
	if a.firstLook() != nil {
		a.s.hide() // without Redis it has to go on nevertheless
	}
	plan := newPlan(0)
	for _, b := range batches {
		plan.offer(Entry{ID: b.entry, Bytes: b.bytes})
	}
	if err := a.commitAll(plan); err != nil {
		return err
	}
	if err := a.passGaps(plan, gaps); err != nil {
		return err
	}
	return a.quarantine(plan)
}

// lookAtBooks looks whether Postgres was turned back, and has the queue forget what it kept for long enough.
func (a *simActor) lookAtBooks() {
	s := a.s
	if a.readPublished() != nil {
		return
	}
	if _, err := a.readMarks(nil); (err != nil || a.books.mustRequeue()) && s.rules.sabotage != simExpiredUnseen {
		return
	}
	age := s.rules.window
	a.call(simRedis, "expire", func() error { return s.queue.Expire(simCtx, 0, age) })
}

// replay is one step on the way of what earlier processes left in the journal.
func (a *simActor) replay() {
	if len(a.left) == 0 {
		return
	}
	marks, err := a.readMarks((&leftover{batches: a.left}).producers())
	if err != nil {
		return
	}
	plan := newPlan(0)
	for _, b := range a.left {
		if marks.Forgotten(b.Producer) {
			plan.add(entryBatch{Batch: b.Batch})
		}
	}
	plan.learn(plan.unknown(), marks)
	if a.quarantine(plan) != nil || a.forgetLeft(marks) != nil || len(a.left) == 0 {
		return
	}
	for _, b := range a.left {
		entry, err := a.push(b)
		if err != nil {
			if a.mood.direct {
				a.writeDirectly(a.left, a.leftGaps)
			}
			return
		}
		b.entry = entry
	}
}

// forgetLeft has the journal forget what Postgres has, by the product's own rule.
func (a *simActor) forgetLeft(marks Marks) (err error) {
	l := &leftover{p: &Pipeline{cfg: Config{Journal: simForgetting{a}}}, batches: a.left}
	err = l.forget(marks)
	a.left = l.batches
	return err
}

// simForgetting is the journal with each call made as one of the actor's.
type simForgetting struct{ *simActor }

func (f simForgetting) Append([]*Batch) error { panic("nobody appends here") }

func (f simForgetting) Left() ([]*Batch, error) { panic("nobody reads here") }

func (f simForgetting) Forget(shard int, producer ProducerID, mark uint64) error {
	return f.call(simDisk, "forget", func() error { return f.disk.Forget(shard, producer, mark) })
}
