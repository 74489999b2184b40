package spendflush

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// ErrIDReused is wrapped by every *IDReusedError.
var ErrIDReused = errors.New("id reused: it was given to another content before")

// IDReusedError says that an id was given to another content before, and that is known at once:
// what has the id isn't committed yet, or is in the same call. Nothing was recorded. It wraps
// ErrIDReused.
type IDReusedError struct {
	Index int    // place of the update in the call, from 0; -1: it is the key of RecordOnce
	Field string // "id" or "key"
}

func (e *IDReusedError) Error() string {
	if e.Index < 0 {
		return fmt.Sprintf("%s: %v", e.Field, ErrIDReused)
	}
	return fmt.Sprintf("update %d: %s: %v", e.Index, e.Field, ErrIDReused)
}

// Unwrap returns ErrIDReused.
func (e *IDReusedError) Unwrap() error { return ErrIDReused }

var (
	// ErrInvalidKey is wrapped by RecordOnce where its key isn't 1 to MaxIDBytes bytes of valid
	// UTF-8 without NUL. Nothing was recorded.
	ErrInvalidKey = errors.New("invalid key")

	// ErrTooLarge is wrapped by RecordOnce where the updates count on more than MaxRequestTotals
	// entities, or their combinations have more than MaxRequestTexts bytes of ids, tags and
	// dimensions. Nothing was recorded.
	ErrTooLarge = errors.New("too large to count once as a whole")

	// ErrNoIDs is returned for updates with ids where Config.Store is no spend.FactStore. Nothing
	// was recorded.
	ErrNoIDs = errors.New("the Store keeps no ids: it is no spend.FactStore")
)

// What the updates of one call of RecordOnce have at most, so that they fit into a batch.
const (
	MaxRequestTotals = spend.MaxBatchRows
	MaxRequestTexts  = spend.MaxBatchTexts
)

// factCall is a call that has ids, of its updates or one of all of them; and what recording it has
// changed, so that it can be undone. Calls use it one after the other.
type factCall struct {
	*openFacts

	caller    string
	updates   []spend.Update
	isRequest bool // all updates have the one id
	items     []factItem
	request   factName        // of the request
	single    [1]spend.Update // room for updates

	of       []*fact       // of each update, nil if it has no id; of a request the first has that of all
	own      []*fact       // new ones
	repeats  []*fact       // of each update that repeats another one, or of the request if that does
	seals    []uint64      // that the updates are in
	at       []*factSeries // of each update that is recorded under an id, nil of others
	fresh    []freshSeries
	opened   []*factSeries
	reserved int64            // places
	parts    []spend.FactPart // of the piece that is being added
}

// freshSeries is a combination that had no series.
type freshSeries struct {
	hash   uint64
	series *factSeries
	of     *spend.Series
}

var factCalls = sync.Pool{New: func() any { return new(factCall) }}

// newFactCall returns a call whose updates are to be filled in. done gives it back.
func newFactCall(o *openFacts, caller string) *factCall {
	c := factCalls.Get().(*factCall)
	c.openFacts, c.caller = o, caller
	return c
}

// done gives the call back, unless it has become large. Nothing of it may be used any more.
func (c *factCall) done() {
	if cap(c.items) > 1000 {
		return
	}
	clear(c.of)
	clear(c.own)
	clear(c.repeats)
	clear(c.at)
	clear(c.fresh)
	clear(c.opened)
	clear(c.parts[:cap(c.parts)])
	*c = factCall{
		items: c.items[:0], of: c.of[:0], own: c.own[:0], repeats: c.repeats[:0], seals: c.seals[:0],
		at: c.at[:0], fresh: c.fresh[:0], opened: c.opened[:0], parts: c.parts[:0],
	}
	factCalls.Put(c)
}

// factItem is what is known of an update without a lock.
type factItem struct {
	factName
	hour spend.Hour
}

type factName struct {
	id      spend.FactID
	content spend.Fingerprint
	is      bool // there is an id
}

// check checks the updates, and names them. The error is an *UpdateError.
func (c *factCall) check(now time.Time, hourOf func(*spend.Cost) spend.Hour) error {
	n := len(c.updates)
	c.items, c.of, c.at = slices.Grow(c.items, n)[:n], slices.Grow(c.of, n)[:n], slices.Grow(c.at, n)[:n]
	for i := range c.updates {
		u, item := &c.updates[i], &c.items[i]
		if err := cmp.Or(u.Cost.Check(i, now), u.CheckID(i), u.Series.Check(i)); err != nil {
			return err
		}
		*item = factItem{hour: hourOf(&u.Cost)}
		if u.ID != "" {
			item.factName = factName{spend.NewFactID(spend.UpdateFact, u.ID), spend.ContentOf(&u.Series, &u.Cost), true}
		}
	}
	return nil
}

// nameRequest gives all updates the one id. The error wraps ErrInvalidKey, or is an *UpdateError
// about an update that has an id of its own.
func (c *factCall) nameRequest(key string) error {
	if err := spend.CheckFactID(key); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidKey, err)
	}
	var content spend.RequestContent
	for i := range c.updates {
		if c.updates[i].ID != "" {
			return &spend.UpdateError{Index: i, Field: "id", Reason: "an update of a call that has a key may have no id of its own"}
		}
		content.Add(&c.updates[i].Series, &c.updates[i].Cost)
	}
	c.isRequest, c.request = true, factName{spend.NewFactID(spend.RequestFact, key), content.Fingerprint(), true}
	return nil
}

// record records the call: all of it, or with an error nothing. Errors: *IDReusedError,
// ErrBufferFull, ErrTooLarge, ErrClosed.
func (c *factCall) record() error {
	c.m.group.RLock()
	defer c.m.group.RUnlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrClosed
	}
	if err := c.try(); err != nil {
		c.undo()
		return err
	}
	c.note()
	return nil
}

// try does it. What it leaves undone where it fails, undo does.
func (c *factCall) try() error {
	if err := c.name(); err != nil {
		return err
	}
	if err := c.room(len(c.own)); err != nil {
		return err
	}
	c.locate()
	if err := c.admit(); err != nil {
		return err
	}

	var parts []requestPart
	if c.isRequest && len(c.own) > 0 {
		parts = c.requestParts()
		if err := checkSize(parts); err != nil {
			return err
		}
	}
	if err := c.addPlain(); err != nil {
		return err
	}

	c.sums.keys += c.reserved
	if c.isRequest {
		c.addRequest(parts)
	} else {
		c.addSingles()
	}
	return nil
}

// name finds which ids are held, and holds the others.
func (c *factCall) name() error {
	if c.isRequest {
		f, err := c.hold(&c.request, -1, "key", len(c.updates))
		if err != nil {
			return err
		}
		c.of[0] = f
		return nil
	}
	for i := range c.items {
		if !c.items[i].is {
			continue
		}
		f, err := c.hold(&c.items[i].factName, i, "id", 1)
		if err != nil {
			return err
		}
		c.of[i] = f
	}
	return nil
}

// hold returns the fact of an id, a new one if it isn't held.
func (c *factCall) hold(name *factName, index int, field string, updates int) (*fact, error) {
	if f := c.held[name.id]; f != nil {
		if f.content != name.content {
			return nil, &IDReusedError{index, field}
		}
		return f, nil
	}
	f := &fact{id: name.id, content: name.content, seal: c.seal, updates: uint32(updates)}
	c.held[f.id] = f
	c.own = append(c.own, f)
	return f, nil
}

// isNew says whether the update is recorded under an id by this call. Of several with the same one
// the first is.
func (c *factCall) isNew(i, owned int) bool {
	return owned < len(c.own) && c.of[i] == c.own[owned]
}

// locate finds the series of the updates that are recorded under an id, or makes them.
func (c *factCall) locate() {
	var array [keyRoom]byte
	owned := 0
	for i := range c.updates {
		if c.isRequest && len(c.own) == 0 || !c.isRequest && !c.isNew(i, owned) {
			continue
		}
		owned++
		key := appendCellKey(array[:0], c.items[i].hour, &c.updates[i].Series, c.m.keep)
		hash := c.hash(key)
		s := c.find(hash, key)
		if s == nil {
			s = c.make(hash, key, &c.updates[i].Series)
			c.fresh = append(c.fresh, freshSeries{hash, s, &c.updates[i].Series})
		}
		if s.seal != c.seal {
			s.seal = c.seal
			c.opened = append(c.opened, s)
			c.reserved += places(len(key))
		}
		c.at[i] = s
	}
}

// admit has the newcomers take the combinations that had no series, and takes the places of all.
func (c *factCall) admit() error {
	if len(c.fresh) > 0 {
		cells, all := int64(0), make([]*spend.Series, len(c.fresh))
		for i, f := range c.fresh {
			cells, all[i] = cells+places(len(f.series.key)), f.of
		}
		if err := c.m.newcomers.admit(c.caller, c.m.keys.Load(), cells, all...); err != nil {
			c.reserved = 0
			return err
		}
	}
	if n := c.reserved; c.m.keys.Add(n) > max(n, c.m.maxKeys) {
		c.m.keys.Add(-n)
		c.reserved = 0
		return c.m.full()
	}
	return nil
}

// undo takes back what the call has changed.
func (c *factCall) undo() {
	c.m.keys.Add(-c.reserved)
	for _, s := range c.opened {
		s.seal = 0
	}
	for _, f := range c.fresh {
		if c.series[f.hash] == f.series {
			delete(c.series, f.hash)
			c.kept -= places(len(f.series.key))
		}
		if c.older[f.hash] == f.series { // the call has made so many that they were rotated
			delete(c.older, f.hash)
		}
	}
	for _, f := range c.own {
		delete(c.held, f.id)
	}
}

// addPlain counts the updates of the call that have no id.
func (c *factCall) addPlain() error {
	if c.isRequest {
		return nil
	}
	var plain []spend.Update
	var slots []slot
	for i := range c.updates {
		if !c.items[i].is {
			plain, slots = append(plain, c.updates[i]), append(slots, slot{hour: c.items[i].hour})
		}
	}
	if len(plain) == 0 {
		return nil
	}
	_, err := c.m.addGroupHeld(c.caller, plain, slots)
	return err
}

// addSingles adds the updates that have ids of their own.
func (c *factCall) addSingles() {
	for i, s := range c.at {
		if s == nil {
			continue
		}
		c.parts = append(c.parts[:0], spend.FactPart{Series: s.canonical(), Key: s.id, Hour: s.hour()})
		c.parts[0].Counters.AddCost(&c.updates[i].Cost)
		c.add(s.id.Shard(c.shards), c.of[i], true, c.parts)
	}
}

// requestPart is what a request counts on one series in one hour.
type requestPart struct {
	*factSeries
	counters spend.Counters
}

// requestParts adds the updates of a request up, in the order in which their series came.
func (c *factCall) requestParts() (list []requestPart) {
	places := make(map[*factSeries]int, len(c.updates))
	for i, s := range c.at {
		place, there := places[s]
		if !there {
			place = len(list)
			places[s] = place
			list = append(list, requestPart{factSeries: s})
		}
		list[place].counters.AddCost(&c.updates[i].Cost)
	}
	return list
}

// checkSize says whether a request is too large: its piece couldn't be whole in one batch.
func checkSize(parts []requestPart) error {
	totals, texts, bound := 0, 0, uint64(0)
	for i := range parts {
		totals += parts[i].entities
		texts += len(parts[i].canonical())
		bound += parts[i].counters.Bound() * maxSeriesEntities
	}
	if totals > MaxRequestTotals {
		seen := map[spend.Entity]struct{}{}
		for i := range parts {
			series := parts[i].canonical().Series()
			series.EachEntity(func(e spend.Entity) { seen[e] = struct{}{} })
		}
		totals = len(seen)
	}
	switch {
	case totals > MaxRequestTotals:
		return fmt.Errorf("%w: the updates count on %d entities; allowed are %d", ErrTooLarge, totals, MaxRequestTotals)
	case len(parts) > spend.MaxBatchRows:
		return fmt.Errorf("%w: the updates are of %d combinations; allowed are %d", ErrTooLarge, len(parts), spend.MaxBatchRows)
	case texts > MaxRequestTexts:
		return fmt.Errorf("%w: the combinations of the updates have %d bytes; allowed are %d", ErrTooLarge, texts, MaxRequestTexts)
	case bound > maxBatchCount:
		return fmt.Errorf("%w: the updates have more tokens, or updates, than the sums of a batch may", ErrTooLarge)
	}
	return nil
}

// addRequest adds the piece of a request to each shard that it counts in.
func (c *factCall) addRequest(list []requestPart) {
	shard := func(p *requestPart) int { return p.id.Shard(c.shards) }
	slices.SortStableFunc(list, func(a, b requestPart) int { return cmp.Compare(shard(&a), shard(&b)) })
	for i := range list {
		p := &list[i]
		c.parts = append(c.parts, spend.FactPart{Series: p.canonical(), Key: p.id, Hour: p.hour(), Counters: p.counters})
		if i+1 == len(list) || shard(&list[i+1]) != shard(p) {
			c.add(shard(p), c.own[0], false, c.parts)
			c.parts = c.parts[:0]
		}
	}
}
