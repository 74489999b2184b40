package spendflush

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// recordFact records an update that has an id. Inlined, it would make Record slower without ids.
//
//go:noinline
func (p *Pipeline) recordFact(caller string, u *spend.Update) error {
	if p.facts == nil {
		return p.refuseFacts(1, ErrNoIDs)
	}
	call := newFactCall(p.open.facts, caller)
	defer call.done()
	call.single[0] = *u
	call.updates = call.single[:]
	return p.recordCall(call, nil)
}

// recordFacts records a call that has ids. name gives it one for all updates, if it isn't nil.
func (p *Pipeline) recordFacts(caller string, updates []spend.Update, name func(*factCall) error) (Receipt, error) {
	if p.facts == nil {
		return Receipt{}, p.refuseFacts(len(updates), ErrNoIDs)
	}
	call := newFactCall(p.open.facts, caller)
	defer call.done()
	call.updates = updates
	if err := p.recordCall(call, name); err != nil {
		return Receipt{}, err
	}
	return call.receipt(), nil
}

func (p *Pipeline) recordCall(call *factCall, name func(*factCall) error) error {
	err := call.check(p.time.Now(), p.hourOf)
	if err == nil && name != nil {
		err = name(call)
	}
	if err == nil {
		err = call.record()
	}
	if err != nil {
		return p.refuseFacts(len(call.updates), err)
	}

	p.metrics.newIDs.Add(float64(len(call.own)))
	for _, f := range call.repeats {
		p.metrics.repeats.WithLabelValues("held").Add(float64(f.updates))
	}
	return nil
}

func (p *Pipeline) refuseFacts(updates int, err error) error {
	p.metrics.refuse(err, updates)
	if errors.Is(err, ErrIDReused) {
		p.metrics.conflicts.WithLabelValues("held").Add(1)
	}
	return err
}

// RecordOnce counts all the updates, or nothing if a call with this key did before: at whichever
// instance, within Config.IDWindow. The key is 1 to MaxIDBytes bytes of valid UTF-8 without NUL;
// what has a key and what has an Update.ID are two things, even if these are equal texts. The
// updates may come in any order, and may have no IDs of their own. A call without updates records
// nothing, its key included.
//
// Like Record it does no I/O and keeps nothing of updates. That the key was used before is known at
// once where this instance holds it, and then the receipt stands for the call that it repeats; else
// the books decide. Counts says what became of it. Errors: *UpdateError naming the first update
// refused, ErrInvalidKey, *IDReusedError where the key is held with other updates, ErrTooLarge,
// ErrBufferFull, ErrClosed, ErrNoIDs; nothing was recorded then.
func (p *Pipeline) RecordOnce(key string, updates []spend.Update) (Receipt, error) {
	return p.RecordOnceFor("", key, updates)
}

// RecordOnceFor is RecordOnce for one of several callers, as RecordAllFor is. Keys are not told
// apart by callers.
func (p *Pipeline) RecordOnceFor(caller, key string, updates []spend.Update) (Receipt, error) {
	if len(updates) == 0 {
		return Receipt{}, nil
	}
	return p.recordFacts(caller, updates, func(c *factCall) error { return c.nameRequest(key) })
}

// tendFacts has the books forget old ids. It works until ctx ends.
func (p *Pipeline) tendFacts(ctx context.Context) {
	for log := (failureLog{}); p.time.Sleep(ctx, tendInterval, nil); {
		if err := p.tendFactsOnce(ctx); err == nil {
			log.works(p.log, p.time.Now(), "ids are tended again")
		} else if ctx.Err() == nil {
			log.failed(p.log, p.time.Now(), "ids can't be tended; no id is forgotten meanwhile", err)
		}
	}
}

// tendInterval is how often ids are tended. Of the time between two calls the store counts two
// minutes at most.
const tendInterval = time.Minute

func (p *Pipeline) tendFactsOnce(ctx context.Context) error {
	ctx, cancel := p.time.WithTimeout(ctx, marksTimeout)
	defer cancel()
	return p.facts.TendFacts(ctx, p.cfg.IDWindow)
}

// IDState says what became of an id.
type IDState uint8

// The states of an id.
const (
	// IDUnknown: neither this instance nor the books have it. Another instance may hold it.
	IDUnknown IDState = iota
	// IDHeld: this instance has recorded it, and it isn't known to be committed as a whole.
	IDHeld
	// IDCommitted: it is in the books.
	IDCommitted
)

func (s IDState) String() string {
	switch s {
	case IDUnknown:
		return "unknown"
	case IDHeld:
		return "held"
	case IDCommitted:
		return "committed"
	}
	return fmt.Sprintf("id_state(%d)", uint8(s))
}

// IDStatus is what is known of an id.
type IDStatus struct {
	State IDState
	At    time.Time // when it was committed first, to the minute; zero unless State is IDCommitted
}

// FindID says what is known of an id of an update, or of the key of a RecordOnce (RequestFact). It
// asks the books, and blocks until these answer or ctx ends. Errors: one of spend.CheckFactID about
// the id, ErrNoIDs, ctx's, or that the books can't be asked, which comes with IDHeld where this
// instance holds the id.
func (p *Pipeline) FindID(ctx context.Context, kind spend.FactKind, id string) (IDStatus, error) {
	if err := spend.CheckFactID(id); err != nil {
		return IDStatus{}, err
	}
	if p.facts == nil {
		return IDStatus{}, ErrNoIDs
	}
	name := spend.NewFactID(kind, id)
	held := func() bool {
		o := p.open.facts
		o.mu.Lock()
		defer o.mu.Unlock()
		return o.held[name] != nil
	}

	before := held()
	known, err := p.facts.Fact(ctx, name)
	switch {
	case before && (err != nil || len(known) == 0 || kind == spend.RequestFact && held()):
		return IDStatus{State: IDHeld}, err // of a request, a part may be committed
	case err != nil:
		return IDStatus{}, err
	case len(known) == 0:
		return IDStatus{}, nil
	}
	at := known[0].At
	for _, k := range known {
		if k.At.Before(at) {
			at = k.At
		}
	}
	return IDStatus{IDCommitted, at}, nil
}
