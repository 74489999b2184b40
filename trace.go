package spendflush

import (
	"time"

	"github.com/spendflush/spendflush/spend"
)

// Tracer is told how updates come from a seal to their commit, so that traces can be made of it.
// Set it as Config.Tracer. Its methods are called by several goroutines at a time, after the fact.
// They must not block, keep no batch, and change nothing.
//
// A batch is known by its digest wherever it goes: what one instance tells of a seal and another
// one of the commit is joined by that, and nothing about traces is in a batch, in the queue or in
// the books.
type Tracer interface {
	// Sealed tells of each seal that made batches.
	Sealed(SealEvent)
	// Pushed tells of each push to the queue, failed ones and repeated ones included.
	Pushed(PushEvent)
	// Flushed tells of each flush, failed ones included, and returns the id of its trace in
	// hexadecimal, which becomes an exemplar of spendflush_flush_seconds and spendflush_flush_rows;
	// "" if it has none.
	Flushed(FlushEvent) (traceID string)
}

// SealEvent is a seal.
type SealEvent struct {
	Seal         uint64         // its updates are those of receipts with this number (Receipt.Seal)
	Batches      []*spend.Batch // of all shards
	Began, Ended time.Time
}

// PushEvent is a push of a batch to the queue.
type PushEvent struct {
	Batch        *spend.Batch
	Began, Ended time.Time
	Err          error // nil: the queue has the batch
}

// FlushEvent is a flush: batches of one shard, gathered and then committed in one transaction, or
// not.
type FlushEvent struct {
	Shard    int
	Path     string // "queue" or "direct"
	Batches  []*spend.Batch
	Rows     int
	Updates  int64
	Gathered time.Time // when gathering its batches began
	Began    time.Time // when the transaction began
	Ended    time.Time
	Err      error // nil: it is committed
}

// Seal is the number of the seal that the receipt's updates are in, counted by this pipeline; see
// SealEvent.
func (r Receipt) Seal() uint64 { return r.seal }

// traceClock returns the time if anybody wants to know it for a trace.
func (c *Config) traceClock(of clock) (now time.Time) {
	if c.Tracer != nil {
		now = of.Now()
	}
	return now
}

// traceSeal tells the tracer of a seal.
func (p *Pipeline) traceSeal(seal uint64, sealed [][]*spend.Batch, began time.Time) {
	if p.cfg.Tracer == nil {
		return
	}
	e := SealEvent{Seal: seal, Began: began, Ended: p.time.Now()}
	for _, batches := range sealed {
		e.Batches = append(e.Batches, batches...)
	}
	if len(e.Batches) > 0 {
		p.cfg.Tracer.Sealed(e)
	}
}

// tracePush tells the tracer of a push.
func (p *Pipeline) tracePush(b *spend.Batch, began time.Time, err error) {
	if p.cfg.Tracer != nil {
		p.cfg.Tracer.Pushed(PushEvent{Batch: b, Began: began, Ended: p.time.Now(), Err: err})
	}
}

// traceFlush tells the tracer of the flush of what the plan has taken, and returns the id of its
// trace, "" if there is none.
func (c *committer) traceFlush(plan *plan, f *spend.Flush, by via, began, ended time.Time, err error) (traceID string) {
	if c.cfg.Tracer == nil {
		return ""
	}
	e := FlushEvent{
		Shard: c.shard, Path: string(by), Rows: len(f.Totals) + len(f.Rollups), Updates: f.Control.Rollups.APIRequests(),
		Gathered: plan.begun, Began: began, Ended: ended, Err: err,
	}
	for _, b := range plan.taken {
		e.Batches = append(e.Batches, b.Batch)
	}
	return c.cfg.Tracer.Flushed(e)
}
