package tracing

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/spend"
)

// Pipeline makes spans of seals, pushes and flushes. It implements spendflush.Tracer.
type Pipeline struct {
	tracer   trace.Tracer
	maxLinks int

	mu       sync.Mutex
	requests map[uint64][]trace.SpanContext // of seals to come, by number
	last     uint64                         // the last seal
	open     []trace.Span                   // its spans, which requests that are late are linked to
	ended    time.Time                      // when it ended
	links    int                            // how many links each of them has
}

// lateRequests is how long the spans of a seal wait for requests whose record had ended and that
// weren't noted yet. A seal that comes earlier ends them.
const lateRequests = time.Second

func newPipeline(tracer trace.Tracer, maxLinks int) *Pipeline {
	return &Pipeline{tracer: tracer, maxLinks: maxLinks, requests: map[uint64][]trace.SpanContext{}}
}

// recorded notes that the updates of a request are in the seal. As many are noted as a span may
// have links.
func (p *Pipeline) recorded(seal uint64, request trace.SpanContext) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case seal > p.last:
		if list := p.requests[seal]; len(list) < p.maxLinks {
			p.requests[seal] = append(list, request)
		}
	case seal == p.last && p.links < p.maxLinks:
		p.links++
		for _, span := range p.open {
			span.AddLink(trace.Link{SpanContext: request})
		}
	}
}

// Sealed implements spendflush.Tracer.
func (p *Pipeline) Sealed(e spendflush.SealEvent) {
	p.end(time.Time{})
	p.mu.Lock()
	defer p.mu.Unlock()
	requests := p.requests[e.Seal]
	for seal := range p.requests {
		if seal <= e.Seal {
			delete(p.requests, seal)
		}
	}
	links := make([]trace.Link, len(requests))
	for i, request := range requests {
		links[i].SpanContext = request
	}
	for _, b := range e.Batches {
		_, span := p.tracer.Start(withIDs(b.Digest()), "seal", trace.WithNewRoot(), trace.WithTimestamp(e.Began), trace.WithLinks(links...),
			trace.WithAttributes(append(describe(b), attribute.Int64("spendflush.seal", int64(e.Seal)), attribute.Int64("spendflush.updates", b.Updates),
				attribute.Int("spendflush.bytes", len(b.Bytes())))...))
		p.open = append(p.open, span)
	}
	p.last, p.ended, p.links = e.Seal, e.Ended, len(links)
	time.AfterFunc(lateRequests, func() { p.end(e.Ended) })
}

// end ends the spans of the last seal: of the one that ended at this time, or, if it is zero, of
// any.
func (p *Pipeline) end(of time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !of.IsZero() && !of.Equal(p.ended) {
		return
	}
	for _, span := range p.open {
		span.End(trace.WithTimestamp(p.ended))
	}
	p.open = nil
}

// Pushed implements spendflush.Tracer.
func (p *Pipeline) Pushed(e spendflush.PushEvent) {
	ctx := trace.ContextWithRemoteSpanContext(context.Background(), sealOf(e.Batch.Digest()))
	_, span := p.tracer.Start(ctx, "push", trace.WithSpanKind(trace.SpanKindProducer), trace.WithTimestamp(e.Began), trace.WithAttributes(describe(e.Batch)...))
	finish(span, e.Err, e.Ended)
}

// Flushed implements spendflush.Tracer.
func (p *Pipeline) Flushed(e spendflush.FlushEvent) (traceID string) {
	links := make([]trace.Link, len(e.Batches))
	for i, b := range e.Batches {
		links[i].SpanContext = sealOf(b.Digest())
	}
	ctx, flush := p.tracer.Start(context.Background(), "flush", trace.WithSpanKind(trace.SpanKindConsumer), trace.WithTimestamp(e.Gathered), trace.WithLinks(links...),
		trace.WithAttributes(attribute.Int("spendflush.shard", e.Shard), attribute.String("spendflush.path", e.Path), attribute.Int("spendflush.batches", len(e.Batches)),
			attribute.Int64("spendflush.updates", e.Updates), attribute.Int("spendflush.rows", e.Rows)))
	_, commit := p.tracer.Start(ctx, "commit", trace.WithSpanKind(trace.SpanKindClient), trace.WithTimestamp(e.Began),
		trace.WithAttributes(attribute.String("db.system.name", "postgresql")))
	finish(commit, e.Err, e.Ended)
	finish(flush, e.Err, e.Ended)
	return flush.SpanContext().TraceID().String()
}

// finish ends a span. Errors of Postgres and Redis are told in the log and hold no secret; their
// text may hold an id that a caller has sent, as rows do, so only their kind is told here.
func finish(span trace.Span, err error, at time.Time) {
	if err != nil {
		span.SetStatus(codes.Error, "failed; the log of the instance says why")
	}
	span.End(trace.WithTimestamp(at))
}

func describe(b *spend.Batch) []attribute.KeyValue {
	return []attribute.KeyValue{
		attribute.Int("spendflush.shard", b.Shard), attribute.String("spendflush.producer", b.Producer.String()),
		attribute.Int64("spendflush.sequence", int64(b.Sequence)), attribute.String("spendflush.batch", hexOf(b.Digest())),
	}
}

func hexOf(d spend.Digest) string { return hex.EncodeToString(d[:]) }

// sealOf returns the span of the seal of a batch: the digest is the id of its trace, and half of it
// that of the span. Whoever has the batch knows it, on any instance and at any time.
func sealOf(d spend.Digest) trace.SpanContext {
	return trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID(d), SpanID: trace.SpanID(d[:8]), TraceFlags: trace.FlagsSampled, Remote: true,
	})
}

type givenIDsKey struct{}

func withIDs(d spend.Digest) context.Context {
	return context.WithValue(context.Background(), givenIDsKey{}, sealOf(d))
}

// givenIDs gives a span the ids that withIDs names, others random ones.
type givenIDs struct{}

// NewIDs implements sdktrace.IDGenerator.
func (givenIDs) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	if given, ok := ctx.Value(givenIDsKey{}).(trace.SpanContext); ok {
		return given.TraceID(), given.SpanID()
	}
	var id trace.TraceID
	_, _ = rand.Read(id[:]) // never fails
	return id, givenIDs{}.NewSpanID(ctx, id)
}

// NewSpanID implements sdktrace.IDGenerator.
func (givenIDs) NewSpanID(context.Context, trace.TraceID) (id trace.SpanID) {
	_, _ = rand.Read(id[:]) // never fails
	return id
}
