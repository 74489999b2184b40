package overview

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/internal/clocks"
	"github.com/spendflush/spendflush/spend"
)

// Pipeline is what an instance runs; *spendflush.Pipeline is.
type Pipeline interface {
	Status() spendflush.PipelineStatus // it does no I/O
}

// LiveOptions are what is told of an instance besides its status. The zero value will do.
type LiveOptions struct {
	Version   string
	Deadlocks func() int64  // tries of a flush that ended in one, since the start; nil: it isn't known
	NotReady  func() string // why the instance isn't ready, "" if it is; nil: it always is
	Clocks    *clocks.Watch // gets the time by the clock of Redis; nil: clocks aren't compared
	Logger    *slog.Logger  // nil: nothing is logged
}

// Live is the overview of a running instance. All methods are safe for concurrent use.
type Live struct {
	sources  Sources
	pipeline Pipeline
	opts     LiveOptions
	log      *slog.Logger

	deadlock atomic.Pointer[deadlocks]
	refused  atomic.Pointer[string] // what Redis answered to the last record, "" if it took it

	turn  chan struct{} // capacity 1; whoever is in it may use what follows
	last  *Report
	until time.Time // until when last is fresh
}

// deadlocks is how many there were, and when that was last seen to have grown.
type deadlocks struct {
	n  int64
	at time.Time
}

// How often things are done. These are not settings: there is no reason to change them.
const (
	publishEvery = time.Second
	freshFor     = 500 * time.Millisecond
)

// NewLive returns the overview of the instance that the pipeline is. It does nothing by itself.
func NewLive(s Sources, p Pipeline, o LiveOptions) *Live {
	l := &Live{sources: s, pipeline: p, opts: o, log: o.Logger, turn: make(chan struct{}, 1)}
	if l.log == nil {
		l.log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	l.deadlock.Store(&deadlocks{})
	l.refused.Store(new(string))
	return l
}

// Report returns how everything stands, as it was found at most half a second ago. Of those who ask
// at once, one looks and the others wait for it. The error is ctx's.
func (l *Live) Report(ctx context.Context) (*Report, error) {
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if l.last != nil && time.Now().Before(l.until) {
		return l.last, nil
	}
	sources := l.sources
	sources.self = l.record()
	r := Collect(context.WithoutCancel(ctx), sources) // others wait for it, even if this one leaves
	l.last, l.until = &r, time.Now().Add(freshFor)
	return l.last, nil
}

// Publish writes the heartbeat of this instance every second until ctx ends, and then removes it.
// Without heartbeats it returns at once. What fails is logged at debug level only: nothing depends
// on it.
func (l *Live) Publish(ctx context.Context) {
	if l.sources.Heartbeats == nil {
		return
	}
	ticker := time.NewTicker(publishEvery)
	defer ticker.Stop()
	status := l.pipeline.Status()
	id := status.Producer
	for ctx.Err() == nil {
		status = l.pipeline.Status()
		l.put(ctx, l.heartbeats(status.Books), id)
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), publishEvery)
	defer cancel()
	if err := l.heartbeats(status.Books).Remove(ctx, id); err != nil {
		l.log.Debug("the heartbeat can't be removed", "error", err)
	}
}

// heartbeats returns those of the books, which may not be known yet.
func (l *Live) heartbeats(id spend.BooksID) Heartbeats { return heartbeatsOf(l.sources.Heartbeats, id) }

func (l *Live) put(ctx context.Context, heartbeats Heartbeats, id string) {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	text, err := json.Marshal(l.record())
	if err == nil {
		answered := l.opts.Clocks.Asks(clocks.Redis)
		var now time.Time
		if now, err = heartbeats.Put(ctx, id, text); err == nil {
			answered(now)
		}
	}
	refused := refusal(err)
	l.refused.Store(&refused)
	if err != nil {
		l.log.Debug("the heartbeat can't be written", "error", err)
	}
}

// Refused returns in the words of Redis why it doesn't take the records of this instance, such as
// READONLY where it is a replica. "" if it takes them, or doesn't answer at all.
func (l *Live) Refused() string { return *l.refused.Load() }

// record returns the heartbeat of this instance.
func (l *Live) record() *record {
	now := time.Now()
	s := l.pipeline.Status()
	in := Instance{
		Instance: s.Instance, Producer: s.Producer, Version: l.opts.Version, StartedAt: s.Started.UTC(),
		HeldUpdates: s.Open.Updates, HeldAmount: s.Open.Amount, Keys: s.Open.Keys, MaxKeys: s.Open.MaxKeys, HoldsShards: []int{},
		Denied: s.Denied(),
	}
	if !s.OldestHeld.IsZero() {
		in.Behind = max(0, now.Sub(s.OldestHeld).Seconds())
	}
	one := &record{}
	for _, shard := range s.Shards {
		in.HeldUpdates += shard.Updates
		in.HeldAmount = in.HeldAmount.Add(shard.Amount)
		in.Unconfirmed += shard.Unconfirmed
		in.Fallback = in.Fallback || shard.Fallback && l.sources.Queue != nil
		in.JournalFailing = in.JournalFailing || shard.JournalFailing
		if shard.HoldsLock {
			in.HoldsShards = append(in.HoldsShards, shard.Shard)
			one.Holds = append(one.Holds, holding{shard.Shard, max(0, now.Sub(shard.HeldSince).Seconds())})
		}
	}
	in.Deadlocks, in.LastDeadlock = l.countDeadlocks(now)
	if l.opts.NotReady != nil {
		in.NotReady = l.opts.NotReady()
	}
	in.PostgresAhead, in.RedisAhead = l.ahead(clocks.Postgres), l.ahead(clocks.Redis)
	one.Instance = in
	for _, f := range s.Flushes {
		one.Flushes = append(one.Flushes, Flush{
			At: f.At.UTC(), Shard: f.Shard, Instance: s.Instance, Path: f.Path, Batches: f.Batches, Rows: f.Rows, Updates: f.Updates,
			Amount: f.Amount, Seconds: f.Seconds, Behind: f.Behind,
		})
	}
	return one
}

// ahead returns by how many seconds the clock of the server is ahead, 0 as long as it isn't known.
func (l *Live) ahead(server string) float64 {
	ahead, _ := l.opts.Clocks.Ahead(server)
	return ahead.Seconds()
}

// countDeadlocks returns how many there were, and when the last was noticed.
func (l *Live) countDeadlocks(now time.Time) (int64, time.Time) {
	if l.opts.Deadlocks == nil {
		return 0, time.Time{}
	}
	was := l.deadlock.Load()
	if n := l.opts.Deadlocks(); n > was.n {
		l.deadlock.CompareAndSwap(was, &deadlocks{n, now.UTC()})
	}
	is := l.deadlock.Load()
	return is.n, is.at
}
