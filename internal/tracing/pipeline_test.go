package tracing

import (
	"errors"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/spend"
)

// traced is a Pipeline whose ended spans can be looked at.
func traced(t *testing.T, maxLinks int) (*Pipeline, *tracetest.InMemoryExporter) {
	exporter := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter), sdktrace.WithIDGenerator(givenIDs{}))
	t.Cleanup(func() { _ = provider.Shutdown(t.Context()) })
	return newPipeline(provider.Tracer(scope), maxLinks), exporter
}

func batch(sequence uint64) *spend.Batch {
	var keys spend.BatchKeys
	return keys.NewBatch(spend.Header{Producer: spend.ProducerID{1}, Sequence: sequence, SealedAt: time.Unix(1, 0)}, nil, nil)
}

func request(n byte) trace.SpanContext {
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{n}, SpanID: trace.SpanID{n}, TraceFlags: trace.FlagsSampled})
}

// named returns the spans of that name, in the order in which they ended.
func named(exporter *tracetest.InMemoryExporter, name string) (spans []tracetest.SpanStub) {
	for _, s := range exporter.GetSpans() {
		if s.Name == name {
			spans = append(spans, s)
		}
	}
	return spans
}

func TestAFlushIsLinkedToSealsThatAnotherProcessHasTold(t *testing.T) {
	t.Parallel()
	sealing, sealed := traced(t, 10)
	flushing, flushed := traced(t, 10)
	one, two := batch(1), batch(2)
	at := time.Unix(100, 0)
	sealing.recorded(1, request(7))
	sealing.Sealed(spendflush.SealEvent{Seal: 1, Batches: []*spend.Batch{one, two}, Began: at, Ended: at.Add(time.Second)})
	sealing.Pushed(spendflush.PushEvent{Batch: one, Began: at, Ended: at, Err: errors.New("no row for sk-secret")})
	sealing.end(time.Time{})

	id := flushing.Flushed(spendflush.FlushEvent{Batches: []*spend.Batch{one, two}, Gathered: at, Began: at.Add(time.Second), Ended: at.Add(3 * time.Second)})
	flush, commit := named(flushed, "flush")[0], named(flushed, "commit")[0]
	if flush.SpanContext.TraceID().String() != id || commit.Parent.SpanID() != flush.SpanContext.SpanID() {
		t.Errorf("the trace is %s; flush %v, commit %v", id, flush.SpanContext, commit.Parent)
	}
	if took := commit.EndTime.Sub(commit.StartTime); took != 2*time.Second {
		t.Errorf("the commit took %s", took)
	}
	seals := named(sealed, "seal")
	if len(flush.Links) != 2 || len(seals) != 2 {
		t.Fatalf("links %v, seals %v", flush.Links, seals)
	}
	for i, seal := range seals {
		to := flush.Links[i].SpanContext
		if to.TraceID() != seal.SpanContext.TraceID() || to.SpanID() != seal.SpanContext.SpanID() || seal.Parent.IsValid() {
			t.Errorf("the link leads to %v, the seal is %v below %v", to, seal.SpanContext, seal.Parent)
		}
		if len(seal.Links) != 1 || !seal.Links[0].SpanContext.Equal(request(7)) {
			t.Errorf("the seal has the links %v", seal.Links)
		}
	}
	if seals[0].SpanContext.Equal(seals[1].SpanContext) {
		t.Error("two batches have the same span")
	}
	push := named(sealed, "push")[0]
	if push.Parent.SpanID() != seals[0].SpanContext.SpanID() || push.Status.Code != codes.Error || strings.Contains(push.Status.Description, "sk-secret") {
		t.Errorf("the push is below %v, its status is %v", push.Parent, push.Status)
	}
}

// A record returns before it is noted, and a seal may come in between.
func TestARequestThatIsNotedAfterItsSealIsLinkedAllTheSame(t *testing.T) {
	t.Parallel()
	p, exporter := traced(t, 2)
	p.Sealed(spendflush.SealEvent{Seal: 5, Batches: []*spend.Batch{batch(1)}, Began: time.Unix(1, 0), Ended: time.Unix(2, 0)})
	for n := byte(1); n <= 3; n++ {
		p.recorded(5, request(n))
	}
	p.recorded(4, request(9)) // too late
	p.Sealed(spendflush.SealEvent{Seal: 6, Batches: []*spend.Batch{batch(2)}, Began: time.Unix(3, 0), Ended: time.Unix(4, 0)})
	seals := named(exporter, "seal")
	if len(seals) != 1 || len(seals[0].Links) != 2 || !seals[0].EndTime.Equal(time.Unix(2, 0)) {
		t.Fatalf("the seals are %+v", seals)
	}
	for i, link := range seals[0].Links {
		if !link.SpanContext.Equal(request(byte(i + 1))) {
			t.Errorf("link %d leads to %v", i, link.SpanContext)
		}
	}
}

func TestRequestsOfASealTakeNoMoreMemoryThanLinksDo(t *testing.T) {
	t.Parallel()
	p, _ := traced(t, 3)
	for n := byte(1); n <= 10; n++ {
		p.recorded(8, request(n))
	}
	p.recorded(7, request(1)) // a seal that made no batch isn't told of
	if n := len(p.requests[8]); n != 3 {
		t.Errorf("%d requests are noted", n)
	}
	p.Sealed(spendflush.SealEvent{Seal: 8, Batches: []*spend.Batch{batch(1)}})
	if len(p.requests) != 0 {
		t.Errorf("%v are noted for ever", p.requests)
	}
	p.end(time.Time{})
}

func TestTheLastSealEndsWithoutAnother(t *testing.T) {
	t.Parallel()
	p, exporter := traced(t, 3)
	p.Sealed(spendflush.SealEvent{Seal: 1, Batches: []*spend.Batch{batch(1)}, Began: time.Unix(1, 0), Ended: time.Unix(2, 0)})
	p.end(time.Unix(1, 0)) // the time of another seal
	if len(named(exporter, "seal")) != 0 {
		t.Error("a seal is ended by the time of another one")
	}
	p.end(time.Unix(2, 0))
	if len(named(exporter, "seal")) != 1 {
		t.Error("it isn't ended")
	}
}
