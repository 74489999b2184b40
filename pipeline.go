package spendflush

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// Pipeline is one instance: it takes updates, and brings them to Postgres. Make it with New, run it
// with Run, end it with Shutdown. All methods are safe for concurrent use.
type Pipeline struct {
	cfg      Config
	log      *slog.Logger
	producer spend.ProducerID
	started  time.Time
	time     clock
	hours    *hourClock
	open     *openMap
	facts    spend.FactStore // the Store, nil if it keeps no ids
	relays   []*relay
	flushers []*flusher
	metrics  *metrics

	// sealing is held from the swap of the open map until its batches are in the outboxes, so that
	// nothing is in neither when Held adds them up. No I/O under it. It guards the sealer.
	sealing sync.Mutex
	sealer  *sealer

	// moving is held while sums change from the open map to between, and from there to the
	// outboxes: the holder finds every update that isn't confirmed in one of these, once. Nothing
	// slow under it.
	moving  sync.Mutex
	between beingSealed

	openSince atomic.Int64 // Unix nanoseconds: what is in the open map was accepted after it
	keyBytes  atomic.Int64 // bytes that a key had in the last seal
	recent    recentFlushes

	change atomic.Pointer[chan struct{}] // closed and replaced whenever a batch gets on; see Wait

	books booksHolder

	committersMu sync.Mutex // no I/O under it
	committers   [spend.MaxShards]*committer

	queueLostAt atomic.Int64 // Unix nanoseconds: when the queue was last found to have lost something
	hurrying    atomic.Bool  // Shutdown waits: nothing is left to the queue alone

	running atomic.Bool
	stop    chan struct{} // closed once all is drained or given up
	stopped chan struct{} // closed when Run has returned
	ending  atomic.Bool   // draining has begun
	ended   error         // why draining ended, nil if all was drained; set before stop is closed
}

// New returns a pipeline for the configuration, whose defaults it fills in. The error joins all
// that Config.Validate finds. Nothing runs yet: updates may be recorded, but stay in memory until
// Run.
func New(c Config) (*Pipeline, error) {
	c = c.WithDefaults()
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("invalid configuration: %w", err)
	}

	var timing clock = systemClock{}
	if c.clock != nil {
		timing = c.clock
	}
	now := timing.Now()
	p := &Pipeline{
		cfg:      c,
		producer: c.newProducer(now, time.Time{}),
		started:  now,
		time:     timing,
		hours:    newHourClock(timing),
		open:     newOpenMap(c.MaxKeys, c.keep(), c.MaxNewKeysPerDay),
		sealer:   newSealer(c.Shards, c.MaxKeys),
		stop:     make(chan struct{}),
		stopped:  make(chan struct{}),
	}

	p.facts, _ = c.Store.(spend.FactStore)
	p.open.facts = newOpenFacts(p.open, c.Shards, int64(c.MaxUnconfirmedBytes))
	p.books.p, p.books.view = p, booksView{queue: c.Queue, locker: c.Locker}
	p.log = c.Logger.With("instance", c.Instance, "producer", p.producer.String())
	p.metrics = newMetrics(c.Shards)
	for shard := range c.Shards {
		p.relays = append(p.relays, newRelay(p, shard))
		if c.Queue != nil {
			p.flushers = append(p.flushers, newFlusher(p, shard))
		}
	}

	p.openSince.Store(now.UnixNano())
	changed := make(chan struct{})
	p.change.Store(&changed)
	if c.Registerer != nil {
		if err := register(c.Registerer, &collector{p}); err != nil {
			return nil, err
		}
	}

	return p, nil
}

// Producer returns the identity of this run.
func (p *Pipeline) Producer() spend.ProducerID { return p.producer }

// Run works until Shutdown is done, and returns nil. If ctx ends before Shutdown is called, it
// drains as Shutdown does, for at most Config.DrainTimeout: from then on Record returns ErrClosed.
// It returns ctx's error then, joined with a
// *NotDrainedError if something is left, which is logged, too. It may be called once.
func (p *Pipeline) Run(ctx context.Context) error {
	if !p.running.CompareAndSwap(false, true) {
		return errors.New("spendflush: Run was called before")
	}
	defer func() {
		close(p.stopped)
		p.advanced()
	}()
	workCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var work sync.WaitGroup
	p.begin(workCtx, &work)
	p.log.Info("pipeline runs", "shards", p.cfg.Shards, "seal_interval", p.cfg.SealInterval,
		"flush_interval", p.cfg.FlushInterval, "queue", p.cfg.Queue != nil)
	select {
	case <-ctx.Done():
		drainCtx, done := context.WithTimeoutCause(workCtx, p.cfg.DrainTimeout,
			fmt.Errorf("not done within the DrainTimeout of %s after the context of Run had ended", p.cfg.DrainTimeout))
		if p.ending.CompareAndSwap(false, true) {
			p.drain(drainCtx)
		}
		done()
		<-p.stop
	case <-p.stop:
	}
	cancel()
	work.Wait()
	lastCtx, done := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer done()
	for _, r := range p.relays {
		r.finish(lastCtx)
	}
	if ctx.Err() == nil {
		return nil
	}
	if left := p.notDrained(); left != nil {
		p.log.Error("the context of Run has ended, and not all could be drained", "error", left)
		return errors.Join(context.Cause(ctx), left)
	}
	return context.Cause(ctx)
}

// begin starts all that works until workCtx ends.
func (p *Pipeline) begin(workCtx context.Context, work *sync.WaitGroup) {
	work.Go(func() { p.keepHour(workCtx) })
	work.Go(func() { p.sealAll(workCtx) })
	work.Go(func() { p.watchBooks(workCtx) })
	for _, r := range p.relays {
		for _, t := range r.tasks {
			work.Go(func() { t.run(workCtx) })
		}
	}
	for _, f := range p.flushers {
		work.Go(func() { f.run(workCtx) })
	}
	if p.cfg.Queue != nil {
		work.Go(func() { p.flushOrphans(workCtx) })
	}
	if p.cfg.Journal != nil {
		work.Go(func() { p.replay(workCtx) })
	}
	if p.cfg.RewindWindow > 0 {
		work.Go(func() { p.watchRewinds(workCtx) })
	}
	work.Go(func() { p.touchMarks(workCtx) })
	if p.facts != nil {
		work.Go(func() { p.tendFacts(workCtx) })
	}
}

// Record counts one update, or nothing if it has an ID that was counted before. It does no I/O and
// doesn't block but for other calls at work on the same keys, or on ids. It keeps nothing of u.
// Errors: *UpdateError if the update is refused, ErrBufferFull, ErrClosed; of one with an ID
// *IDReusedError and ErrNoIDs, too. Nothing was recorded then.
func (p *Pipeline) Record(u *spend.Update) error {
	_, err := p.record("", u)
	return err
}

func (p *Pipeline) record(caller string, u *spend.Update) (uint64, error) {
	if u.ID != "" {
		return 0, p.recordFact(caller, u)
	}
	hour, err := p.check(&u.Cost)
	if err != nil {
		p.metrics.refuse(err, 1)
		return 0, err
	}
	seal, err := p.open.add(caller, &u.Series, &u.Cost, hour)
	if err != nil {
		p.metrics.refuse(err, 1)
	}
	return seal, err
}

// check returns the hour that the cost counts in, or an *UpdateError. It reads the clock only for a
// cost with a time.
func (p *Pipeline) check(c *spend.Cost) (spend.Hour, error) {
	var now time.Time
	if !c.Time.IsZero() {
		now = p.time.Now()
	}
	return p.hourOf(c), c.Check(0, now)
}

func (p *Pipeline) hourOf(c *spend.Cost) spend.Hour {
	if c.Time.IsZero() {
		return p.hours.now()
	}
	return spend.HourOf(c.Time)
}

// RecordAll counts all the updates or, with an error, none of them; no crash tears them apart on
// their way into the queue of one shard, but those without an ID from those with one, which count
// once each. Like Record it does no I/O and keeps nothing of updates. Errors: *UpdateError naming
// the first update refused, ErrBufferFull, ErrClosed; of updates with IDs *IDReusedError and
// ErrNoIDs, too.
func (p *Pipeline) RecordAll(updates []spend.Update) (Receipt, error) {
	return p.RecordAllFor("", updates)
}

// RecordAllFor is RecordAll for one of several callers that aren't to keep each other out: new
// combinations and entities of one have, until the next seal, at most half of the places that the
// others leave. The error wraps ErrShareFull, too, where that is why the buffer is full, and
// ErrDayFull where Config.MaxNewKeysPerDay is. caller is any name; "" has no such bounds.
func (p *Pipeline) RecordAllFor(caller string, updates []spend.Update) (Receipt, error) {
	if anyID(updates) {
		return p.recordFacts(caller, updates, nil)
	}
	if len(updates) == 1 {
		seal, err := p.record(caller, &updates[0])
		return Receipt{seal: seal, updates: 1}, err
	}
	seal, err := p.recordGroup(caller, updates)
	if err != nil {
		p.metrics.refuse(err, len(updates))
	}
	return Receipt{seal: seal, updates: len(updates)}, err
}

func (p *Pipeline) recordGroup(caller string, updates []spend.Update) (uint64, error) {
	now := p.time.Now()
	slots := make([]slot, len(updates))
	for i := range updates {
		cost := &updates[i].Cost
		if err := cost.Check(i, now); err != nil {
			return 0, firstFault(updates[:i], err)
		}
		slots[i].hour = p.hourOf(cost)
	}
	return p.open.addGroup(caller, updates, slots)
}

// firstFault returns what is wrong with the first of the updates whose series is refused, or else
// next.
func firstFault(updates []spend.Update, next error) error {
	for i := range updates {
		if err := updates[i].Series.Check(i); err != nil {
			return err
		}
	}
	return next
}

// sealAll seals the open map at every SealInterval while the outboxes have room.
func (p *Pipeline) sealAll(ctx context.Context) {
	ticker := time.NewTicker(p.cfg.SealInterval)
	defer ticker.Stop()
	evict := time.NewTicker(idleAfter)
	defer evict.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-evict.C:
			p.open.evictIdle()
		case <-ticker.C:
			if p.haveRoom() {
				p.seal(false)
			}
		}
	}
}

// keepHour keeps the clock that Record looks at. A change of the system's clock shows within
// clockInterval.
func (p *Pipeline) keepHour(ctx context.Context) {
	defer p.hours.release()
	for {
		if !p.time.Sleep(ctx, min(p.hours.keep(), clockInterval), nil) {
			return
		}
	}
}

// beingSealed is what has left the open map and isn't in the outboxes yet.
type beingSealed struct {
	updates int64
	amount  spend.Amount
	places  int64     // of Config.MaxKeys that its cells took
	since   time.Time // it was accepted after it
}

// seal makes batches of what is open. With last, nothing can be recorded after it.
func (p *Pipeline) seal(last bool) {
	p.sealing.Lock()
	defer p.sealing.Unlock()
	began := p.cfg.traceClock(p.time)
	seal, dirty := p.beginSeal(last)
	if seal == 0 {
		return
	}
	parts := p.sealer.parts(seal, dirty)
	p.open.recycle(dirty)
	plain, sealed := make([][]*spend.Batch, len(p.relays)), make([][]*spend.Batch, len(p.relays))
	held := make([][]*heldPieces, len(p.relays))
	now := p.time.Now()
	for i, r := range p.relays {
		h := r.header()
		h.SealedAt = now
		plain[i] = batches(parts[i], h, &p.cfg.BatchKeys)
		sealed[i], held[i] = p.open.facts.batches(i, plain[i], h, &p.cfg.BatchKeys)
		p.metrics.sealed.Add(float64(len(sealed[i])))
	}
	if places := p.between.places - p.open.facts.endedPlaces; places > 0 {
		p.keyBytes.Store(bytesPerKey(plain, places))
	}

	p.open.facts.recycle()
	p.traceSeal(seal, sealed, began)
	p.endSeal(sealed, held, seal, now)
	p.advanced() // the first relay may have brought its part on before the last one knew of the seal
}

// beginSeal takes what is open out of the open map. The seal is 0 if that is nothing.
func (p *Pipeline) beginSeal(last bool) (seal uint64, dirty [][]*cell) {
	p.moving.Lock()
	defer p.moving.Unlock()
	since := time.Unix(0, p.openSince.Load())
	now := p.time.Now()
	seal, dirty, p.between = p.open.swap(last)
	p.between.since = since
	p.openSince.Store(now.UnixNano())
	return seal, dirty
}

// endSeal puts the batches of each relay into its outbox.
func (p *Pipeline) endSeal(batches [][]*spend.Batch, held [][]*heldPieces, seal uint64, now time.Time) {
	p.moving.Lock()
	defer p.moving.Unlock()
	for i, r := range p.relays {
		r.add(batches[i], held[i], seal, p.between.since, now)
	}
	p.between = beingSealed{}
}
