package spendflush

import (
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// ErrShareFull is wrapped, together with ErrBufferFull, by RecordAllFor where the caller alone has
// too many new keys open.
var ErrShareFull = errors.New("this caller has its share of new keys")

// ErrDayFull is wrapped, together with ErrShareFull, where the caller has brought as many new keys
// as it may in a day.
var ErrDayFull = errors.New("this caller has brought as many new keys as it may in a day")

// newcomers bounds what is new in the open seal: combinations that have no cell, and the entities
// of these that weren't seen lately. A tenth of the places is kept for combinations of entities
// that were, and no caller has more than half of what the others leave. An update whose combination
// has a cell never comes here.
type newcomers struct {
	seed maphash.Seed
	most int64 // as openMap.maxKeys
	day  int64 // as Config.MaxNewKeysPerDay

	mu       sync.Mutex // nothing slow runs under it; taken below openMap.group and a stripe
	known    map[uint64]struct{}
	older    map[uint64]struct{} // known before the last rotation: what isn't seen until the next one is evicted
	entities int64               // new in the open seal
	shares   map[string]*share   // by caller, of the open seal
	admitted int64               // new entities since the start
	today    map[string]int64    // by caller, what is new; of those beyond maxCallers together, under ""
	ticks    int                 // calls of forgetIdle of this day
}

const (
	maxCallers  = 10_000
	ticksPerDay = int(24 * time.Hour / idleAfter)
)

// share is what a caller has brought that is new.
type share struct{ cells, entities int64 }

func newNewcomers(most, day int64) *newcomers {
	return &newcomers{
		seed: maphash.MakeSeed(), most: most, day: day, known: map[uint64]struct{}{}, shares: map[string]*share{}, today: map[string]int64{},
	}
}

// room is how many places there are for what is new.
func (n *newcomers) room() int64 { return n.most - n.most/10 }

// admit takes the series of combinations without a cell, which need so many places, open places
// being in use. caller is "" where callers aren't told apart. The error wraps ErrBufferFull;
// nothing was taken then.
func (n *newcomers) admit(caller string, open, cells int64, series ...*spend.Series) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	fresh := map[uint64]struct{}{}
	for _, s := range series {
		s.EachEntity(func(e spend.Entity) {
			if hash := maphash.Comparable(n.seed, e); !n.knows(hash) {
				fresh[hash] = struct{}{}
			}
		})
	}

	entities := int64(len(fresh))
	if entities > 0 && (open > 0 && open+cells > n.room() || n.entities+entities > n.room()) {
		return fmt.Errorf("%w: %d combinations and %d new entities are open; allowed are %d of each, and a tenth more of known ones",
			ErrBufferFull, open, n.entities, n.room())
	}

	if caller != "" {
		if err := n.charge(caller, open, cells, entities); err != nil {
			return err
		}
	}

	for hash := range fresh {
		n.known[hash] = struct{}{}
	}
	n.entities += entities
	n.admitted += entities
	if int64(len(n.known)) > n.most {
		n.rotate()
	}

	return nil
}

// charge counts what is new on the caller, or refuses it. The caller holds the lock.
func (n *newcomers) charge(caller string, open, cells, entities int64) error {
	own := n.shares[caller]
	if own == nil {
		own = &share{}
	}
	half := func(used, own int64) int64 { return max(0, n.room()-(used-own)) / 2 }
	mostCells, mostEntities := half(open, own.cells), half(n.entities, own.entities)
	if own.cells+cells > mostCells || own.entities+entities > mostEntities {
		return fmt.Errorf("%w: %w: it has %d new combinations and %d new entities open; allowed are %d and %d until the next seal",
			ErrBufferFull, ErrShareFull, own.cells, own.entities, mostCells, mostEntities)
	}
	if err := n.chargeDay(caller, cells+entities); err != nil {
		return err
	}
	own.cells += cells
	own.entities += entities
	n.shares[caller] = own
	return nil
}

// chargeDay counts what stays in Postgres for good on the caller, or refuses it. The caller holds
// the lock.
func (n *newcomers) chargeDay(caller string, fresh int64) error {
	if n.day == 0 {
		return nil
	}
	if _, ok := n.today[caller]; !ok && len(n.today) >= maxCallers {
		caller = ""
	}
	if n.today[caller]+fresh > n.day {
		return fmt.Errorf("%w: %w: %w: %d of %d", ErrBufferFull, ErrShareFull, ErrDayFull, n.today[caller], n.day)
	}
	n.today[caller] += fresh
	return nil
}

func (n *newcomers) knows(hash uint64) bool {
	if _, ok := n.known[hash]; ok {
		return true
	}
	if _, ok := n.older[hash]; ok {
		n.known[hash] = struct{}{}
		return true
	}
	return false
}

// sealed begins the next seal.
func (n *newcomers) sealed() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.entities = 0
	clear(n.shares)
}

func (n *newcomers) evictIdle() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.rotate()
	if n.ticks++; n.ticks >= ticksPerDay {
		n.ticks = 0
		clear(n.today)
	}
}

func (n *newcomers) rotate() { n.older, n.known = n.known, map[uint64]struct{}{} }

// total returns how many new entities came since the start.
func (n *newcomers) total() int64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.admitted
}
