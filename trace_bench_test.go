package spendflush

import (
	"testing"
	"time"

	"github.com/spendflush/spendflush/queues/memqueue"
	"github.com/spendflush/spendflush/spend"
)

// deafTracer is a Tracer that does nothing: with it the engine's own part is measured.
type deafTracer struct{}

func (deafTracer) Sealed(SealEvent)          {}
func (deafTracer) Pushed(PushEvent)          {}
func (deafTracer) Flushed(FlushEvent) string { return "" }

// BenchmarkFlush is the way of one update from Record to its commit, with stores in memory: a seal,
// a push and a flush.
func BenchmarkFlush(b *testing.B) {
	for _, bench := range []struct {
		name   string
		tracer Tracer
	}{{"no tracer", nil}, {"tracer", deafTracer{}}} {
		b.Run(bench.name, func(b *testing.B) {
			p := newTestPipeline(b, Config{
				Store: newTestStore(), DirectLocker: newTestLocker(), Queue: memqueue.New(memqueue.Options{}), Locker: newTestLocker(),
				Shards: 1, Tracer: bench.tracer,
			})
			p.hours.keep()
			f, u := newFlusher(p, 0), benchUpdate(1)
			if err := f.learnBooks(b.Context()); err != nil || !p.relays[0].followBooks() {
				b.Fatal("the books are unknown", err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := p.Record(&u); err != nil {
					b.Fatal(err)
				}
				p.seal(false)
				p.relays[0].pushAll(b.Context())
				if err := f.once(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
			if s := p.Status(); !s.OldestHeld.IsZero() {
				b.Fatalf("what was recorded is not committed: %+v", s)
			}
		})
	}
}

// BenchmarkNoTracer is all that a seal, a push and a flush do for a tracer that isn't there.
func BenchmarkNoTracer(b *testing.B) {
	p := benchPipeline(b)
	c := p.committer(0)
	plan, flush, sealed := &plan{}, &spend.Flush{}, [][]*spend.Batch{{}}
	b.ReportAllocs()
	for b.Loop() {
		p.traceSeal(1, sealed, p.cfg.traceClock(p.time))
		p.tracePush(nil, p.cfg.traceClock(p.time), nil)
		plan.begun = c.cfg.traceClock(c.time)
		c.traceFlush(plan, flush, viaQueue, time.Time{}, time.Time{}, nil)
	}
}
