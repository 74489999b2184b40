package spendflush

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
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

// factCall is a call that has ids: of its updates, or one of all of them.
type factCall struct {
	caller    string
	updates   []spend.Update
	isRequest bool // all updates have the one id
	items     []factItem
	request   factName // of the request
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

// newFactCall checks the updates, and names them. The error is an *UpdateError.
func newFactCall(caller string, updates []spend.Update, now time.Time, hourOf func(*spend.Cost) spend.Hour) (*factCall, error) {
	call := &factCall{caller: caller, updates: updates, items: make([]factItem, len(updates))}
	for i := range updates {
		u, item := &updates[i], &call.items[i]
		if err := cmp.Or(u.Cost.Check(i, now), u.CheckID(i), u.Series.Check(i)); err != nil {
			return nil, err
		}
		item.hour = hourOf(&u.Cost)
		if u.ID != "" {
			item.factName = factName{spend.NewFactID(spend.UpdateFact, u.ID), spend.ContentOf(&u.Series, &u.Cost), true}
		}
	}
	return call, nil
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

// factTry is a call that is being recorded: what it has changed, so that it can be undone.
type factTry struct {
	*openFacts
	*factCall
	of       []*fact       // of each update, nil if it has no id; of a request the first has that of all
	own      []*fact       // new ones
	at       []*factSeries // of each update that is recorded under an id, nil of others
	fresh    []freshSeries
	opened   []*factSeries
	reserved int64 // places
}

// freshSeries is a combination that had no series.
type freshSeries struct {
	hash   uint64
	series *factSeries
	of     *spend.Series
}

// record records a call: all of it, or with an error nothing. Errors: *IDReusedError,
// ErrBufferFull, ErrTooLarge, ErrClosed.
func (o *openFacts) record(call *factCall) (Receipt, error) {
	o.m.group.RLock()
	defer o.m.group.RUnlock()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return Receipt{}, ErrClosed
	}

	t := &factTry{openFacts: o, factCall: call, of: make([]*fact, len(call.updates)), at: make([]*factSeries, len(call.updates))}
	err := t.try()
	if err != nil {
		t.undo()
		return Receipt{}, err
	}
	return t.receipt(), nil
}

// try does it. What it leaves undone where it fails, undo does.
func (t *factTry) try() error {
	if err := t.name(); err != nil {
		return err
	}
	if err := t.room(len(t.own)); err != nil {
		return err
	}
	t.locate()
	if err := t.admit(); err != nil {
		return err
	}

	var parts []requestPart
	if t.isRequest && len(t.own) > 0 {
		parts = t.parts()
		if err := checkSize(parts); err != nil {
			return err
		}
	}
	if err := t.addPlain(); err != nil {
		return err
	}

	t.sums.keys += t.reserved
	if t.isRequest {
		t.addRequest(parts)
	} else {
		t.addSingles()
	}
	return nil
}

// name finds which ids are held, and holds the others.
func (t *factTry) name() error {
	if t.isRequest {
		f, err := t.hold(&t.request, -1, "key", len(t.updates))
		if err != nil {
			return err
		}
		t.of[0] = f
		return nil
	}
	for i := range t.items {
		if !t.items[i].is {
			continue
		}
		f, err := t.hold(&t.items[i].factName, i, "id", 1)
		if err != nil {
			return err
		}
		t.of[i] = f
	}
	return nil
}

// hold returns the fact of an id, a new one if it isn't held.
func (t *factTry) hold(name *factName, index int, field string, updates int) (*fact, error) {
	if f := t.held[name.id]; f != nil {
		if f.content != name.content {
			return nil, &IDReusedError{index, field}
		}
		return f, nil
	}
	f := &fact{id: name.id, content: name.content, seal: t.seal, updates: uint32(updates)}
	t.held[f.id] = f
	t.own = append(t.own, f)
	return f, nil
}

// isNew says whether the update is recorded under an id by this call. Of several with the same one
// the first is.
func (t *factTry) isNew(i, owned int) bool {
	return owned < len(t.own) && t.of[i] == t.own[owned]
}

// locate finds the series of the updates that are recorded under an id, or makes them.
func (t *factTry) locate() {
	var array [keyRoom]byte
	owned := 0
	for i := range t.updates {
		if t.isRequest && len(t.own) == 0 || !t.isRequest && !t.isNew(i, owned) {
			continue
		}
		owned++
		key := appendCellKey(array[:0], t.items[i].hour, &t.updates[i].Series, t.m.keep)
		hash := t.hash(key)
		s := t.find(hash, key)
		if s == nil {
			s = t.make(hash, key, &t.updates[i].Series)
			t.fresh = append(t.fresh, freshSeries{hash, s, &t.updates[i].Series})
		}
		if s.seal != t.seal {
			s.seal = t.seal
			t.opened = append(t.opened, s)
			t.reserved += places(len(key))
		}
		t.at[i] = s
	}
}

// admit has the newcomers take the combinations that had no series, and takes the places of all.
func (t *factTry) admit() error {
	if len(t.fresh) > 0 {
		cells, all := int64(0), make([]*spend.Series, len(t.fresh))
		for i, f := range t.fresh {
			cells, all[i] = cells+places(len(f.series.key)), f.of
		}
		if err := t.m.newcomers.admit(t.caller, t.m.keys.Load(), cells, all...); err != nil {
			t.reserved = 0
			return err
		}
	}
	if n := t.reserved; t.m.keys.Add(n) > max(n, t.m.maxKeys) {
		t.m.keys.Add(-n)
		t.reserved = 0
		return t.m.full()
	}
	return nil
}

// undo takes back what the call has changed.
func (t *factTry) undo() {
	t.m.keys.Add(-t.reserved)
	for _, s := range t.opened {
		s.seal = 0
	}
	for _, f := range t.fresh {
		if t.series[f.hash] == f.series {
			delete(t.series, f.hash)
			t.kept -= places(len(f.series.key))
		}
		if t.older[f.hash] == f.series { // the call has made so many that they were rotated
			delete(t.older, f.hash)
		}
	}
	for _, f := range t.own {
		delete(t.held, f.id)
	}
}

// addPlain counts the updates of the call that have no id.
func (t *factTry) addPlain() error {
	if t.isRequest {
		return nil
	}
	var plain []spend.Update
	var slots []slot
	for i := range t.updates {
		if !t.items[i].is {
			plain, slots = append(plain, t.updates[i]), append(slots, slot{hour: t.items[i].hour})
		}
	}
	if len(plain) == 0 {
		return nil
	}
	_, err := t.m.addGroupHeld(t.caller, plain, slots)
	return err
}

// addSingles adds the updates that have ids of their own.
func (t *factTry) addSingles() {
	for i, s := range t.at {
		if s == nil {
			continue
		}
		part := spend.FactPart{Series: s.canonical(), Key: s.id, Hour: s.hour()}
		part.Counters.AddCost(&t.updates[i].Cost)
		t.add(s.id.Shard(t.shards), t.of[i], true, []spend.FactPart{part})
	}
}

// requestPart is what a request counts on one series in one hour.
type requestPart struct {
	*factSeries
	counters spend.Counters
}

// parts adds the updates of a request up, in the order in which their series came.
func (t *factTry) parts() (list []requestPart) {
	places := make(map[*factSeries]int, len(t.updates))
	for i, s := range t.at {
		place, there := places[s]
		if !there {
			place = len(list)
			places[s] = place
			list = append(list, requestPart{factSeries: s})
		}
		list[place].counters.AddCost(&t.updates[i].Cost)
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
func (t *factTry) addRequest(list []requestPart) {
	shard := func(p *requestPart) int { return p.id.Shard(t.shards) }
	slices.SortStableFunc(list, func(a, b requestPart) int { return cmp.Compare(shard(&a), shard(&b)) })
	var parts []spend.FactPart
	for i := range list {
		p := &list[i]
		parts = append(parts, spend.FactPart{Series: p.canonical(), Key: p.id, Hour: p.hour(), Counters: p.counters})
		if i+1 == len(list) || shard(&list[i+1]) != shard(p) {
			t.add(shard(p), t.own[0], false, parts)
			parts = parts[:0]
		}
	}
}
