package spendflush

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// relay is the producer's side of one shard: it brings the batches of its outbox to the journal, to
// the queue and on to Postgres. Each of its tasks has a goroutine of its own, so that none waits
// for the server of another one: whatever Postgres does, what is sealed is in the journal and in
// the queue at once. What they share, and share with the sealer and the flusher, is under the
// mutex.
//
// The task of Postgres and that of the queue may both change the identity or the books, while the
// others have calls under way. So what comes of a call counts only if the outbox still is that of
// the producer that it was made for.
type relay struct {
	p       *Pipeline
	shard   int
	log     *slog.Logger
	commits *committer
	tasks   []*relayTask

	mu             sync.Mutex // no I/O under it
	outbox         *outbox
	books          booksView   // that it works for
	progress       time.Time   // when a batch was last confirmed, or sealed into the empty outbox
	fallback       bool        // pushes fail, so batches are written directly
	askedQueue     time.Time   // since when a call to the queue is under way, zero if none is
	journalFailing bool        // the last try to write to the journal failed
	diverged       bool        // a mark doesn't belong to the outbox; Postgres has to be asked
	aside          []aside     // what can't be booked under its identity, until Postgres keeps it in quarantine
	quarantined    []aside     // what of it the journal has no need of any more, until it is truncated
	asideKept      []asideKept // what of it is in quarantine, until Postgres can't be turned back to before that any more
	moved          []uint64    // batches whose entries are gone from the queue, until Postgres says whether it has them
	missing        uint64      // batches that Postgres has lost and this process doesn't have, as last logged
	missingSince   time.Time   // since when there are any, and what comes behind them waits
	gaps           gapWatch    // of direct writes

	queueDenied, directDenied denial // of the last push and the last direct write; zero if it wasn't denied

	toJournal  journalTask
	toQueue    queueTask
	toPostgres postgresTask
}

// What only one task uses.
type (
	journalTask struct {
		next      time.Time
		of        spend.ProducerID // whose batches were truncated
		truncated uint64           // up to where
	}
	queueTask struct {
		failingSince time.Time // since when pushes fail, zero if they don't
		silent       bool      // the queue gave no answer when it was last asked whether it is back
		pushes       failureLog
		pause        backoff
		next         time.Time
	}
	postgresTask struct {
		directs     failureLog
		nextDirect  time.Time
		nextCheck   time.Time // when to look whether Postgres was turned back
		nextAside   time.Time // when to look whether the quarantine has what was set aside
		directUntil time.Time // the queue has lost something: nothing is left to it alone until then
		nextOutcome time.Time // when to ask what batches of facts came to
		isBorn      bool      // Postgres was asked whether the identity looks like one that was pruned
	}
)

// relayTask is a part of the work of a relay. One goroutine runs it.
type relayTask struct {
	name string
	wake chan struct{} // capacity 1: there is something to do
	step func(ctx context.Context) (again time.Duration)
}

// aside is a batch that is to be quarantined, and why.
type aside struct {
	*spend.Batch
	seal   uint64
	reason error
}

// backoff doubles from retryFirst to retryMost.
type backoff struct{ last time.Duration }

func (b *backoff) next() time.Duration {
	b.last = min(max(2*b.last, retryFirst), retryMost)
	return b.last
}

func (b *backoff) reset() { b.last = 0 }

func newRelay(p *Pipeline, shard int) *relay {
	r := &relay{
		p: p, shard: shard, log: p.log.With("shard", shard), commits: p.committer(shard),
		outbox: newOutbox(p.producer, p.cfg.RewindWindow), gaps: gapWatch{},
	}
	add := func(name string, step func(context.Context) time.Duration) {
		r.tasks = append(r.tasks, &relayTask{name, make(chan struct{}, 1), step})
	}
	if p.cfg.Journal != nil {
		add("journal", r.stepJournal)
	}
	if p.cfg.Queue != nil {
		add("queue", r.stepQueue)
	}
	add("postgres", r.stepPostgres)
	return r
}

// wake has the tasks look whether there is something to do.
func (r *relay) wake() {
	for _, t := range r.tasks {
		select {
		case t.wake <- struct{}{}:
		default:
		}
	}
}

// run works until ctx ends.
func (t *relayTask) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.wake:
		case <-timer.C:
		}
		if again := t.step(ctx); again > 0 {
			timer.Reset(again)
		} else {
			timer.Stop()
		}
	}
}

// again says after what time there may be more to do, 0 if only a new batch brings more.
func (r *relay) again() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case len(r.outbox.batches)+len(r.outbox.deciding)+len(r.aside)+len(r.quarantined)+len(r.moved) > 0 || r.diverged:
		return confirmInterval
	case len(r.outbox.retained)+len(r.asideKept) > 0:
		return rewindCheck
	default:
		return 0
	}
}

// identity returns the producer under which batches are sealed.
func (r *relay) identity() spend.ProducerID {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.outbox.producer
}

// header returns what the next batch goes on from. The caller holds Pipeline.sealing, without which
// nothing changes it.
func (r *relay) header() spend.Header {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.outbox
	return spend.Header{
		Shard: r.shard, Producer: o.producer, Sequence: o.next, PriorUpdates: o.updates, PriorAmount: o.amount, PriorDigest: o.digest,
		Books: r.books.id,
	}
}

// add takes the freshly sealed batches of a seal, whose updates were accepted after since. There
// may be none. held has the pieces of those that are batches of facts.
func (r *relay) add(batches []*spend.Batch, held []*heldPieces, seal uint64, since, now time.Time) {
	r.mu.Lock()
	if len(r.outbox.batches) == 0 {
		r.progress = now
	}
	r.outbox.add(batches, seal, since)
	r.outbox.hold(held)
	r.mu.Unlock()
	if len(batches) > 0 {
		r.wake()
	}
}

// confirm takes note of a mark of the producer: that of a commit, or one that was published.
func (r *relay) confirm(of spend.ProducerID, mark spend.Mark) {
	r.mu.Lock()
	if r.outbox.producer != of {
		r.mu.Unlock()
		return // the identity has changed meanwhile
	}
	if !r.outbox.follows(mark) {
		r.diverged = true
		r.mu.Unlock()
		r.wake()
		return
	}
	now := r.p.time.Now()
	t := r.outbox.confirm(mark, now)
	if t.confirmed+len(t.quarantined) > 0 {
		r.progress = now
	}
	r.mu.Unlock()
	r.report(t)
}

// report says what a mark has brought.
func (r *relay) report(t taken) {
	for _, b := range t.quarantined {
		r.log.Error("a batch of this instance can't be booked; it is in quarantine", "sequence", b.Sequence, "updates", b.Updates, "amount", b.Amount)
	}
	for _, held := range t.released {
		r.p.open.facts.release(held)
	}
	if t.confirmed+len(t.quarantined) > 0 {
		r.p.advanced()
	}
}
