package spendflush

import (
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"

	"github.com/spendflush/spendflush/spend"
)

// openFacts has the updates with ids: those that wait to be sealed, as batches of facts, and the
// ids of all that aren't known to be committed. An id that is held is known at once; all others are
// decided by the flush. See docs/adr/0020-ids.md.
//
// Their rows take places of the open map's, and are swapped together with it.
type openFacts struct {
	m      *openMap
	shards int
	most   int64        // as Config.MaxUnconfirmedBytes
	sealed atomic.Int64 // bytes of all batches that wait for Postgres, when last looked at

	mu     sync.Mutex // nothing slow runs under it; taken below openMap.group, above a stripe
	held   map[spend.FactID]*fact
	series map[uint64]*factSeries // by the hash of the key; of two with the same hash the later one
	older  map[uint64]*factSeries // before the last rotation: what isn't used until the next is evicted
	kept   int64                  // places of series
	seal   uint64                 // number of the open seal
	closed bool
	open   [][]*factBatch // by shard; the last one of each is added to
	spare  []*factBatch   // emptied ones
	sums   openSums       // keys are the places of the open seal's rows

	ended       [][]*factBatch // of the seal that was swapped last; the sealer's
	endedPlaces int64
}

// fact is an id that was recorded here, for as long as anything refers to it.
type fact struct {
	id         spend.FactID
	content    spend.Fingerprint
	seal       uint64 // that it is in
	updates    uint32
	duplicates uint32 // updates of it that the books had already; final once left is 0
	conflicts  uint32 // updates of it that are in quarantine, because the books have another content
	left       uint8  // pieces that nothing is known of
	uncertain  bool   // what became of a piece can't be known any more
}

// factBytes is what an id costs that is held: its fact, its place in the map, and its piece in the
// batch of facts, open and sealed. TestAnIDThatIsHeldTakesNoMoreThanItIsChargedFor measures it.
const factBytes = 256

// factBatch is what becomes one batch.
type factBatch struct {
	spend.FactBatch
	pieces []heldPiece
	bound  uint64 // no sum of its rows is above it
}

// heldPiece is a piece of a batch that isn't settled.
type heldPiece struct {
	fact    *fact
	updates uint32
}

// factSeries is a combination in one hour that facts were of lately, as a cell is of the open map.
type factSeries struct {
	key      string // as that of a cell
	id       spend.Key
	entities int
	seal     uint64 // the last one that it has taken its places in
}

func (s *factSeries) hour() spend.Hour { return (&cell{key: s.key}).hour() }

func (s *factSeries) canonical() spend.CanonicalSeries {
	return spend.CanonicalSeries(s.key[cellHourBytes:])
}

func newOpenFacts(m *openMap, shards int, most int64) *openFacts {
	return &openFacts{
		m: m, shards: shards, most: most, held: map[spend.FactID]*fact{}, series: map[uint64]*factSeries{}, seal: 1,
		open: make([][]*factBatch, shards), ended: make([][]*factBatch, shards),
	}
}

// heldBytes returns what the ids that are held take. The caller holds the lock.
func (o *openFacts) heldBytes() int64 { return int64(len(o.held)) * factBytes }

// room says whether there is room for so many ids, the last ones of those held. Those of one call
// always have it if nothing else is unconfirmed. The caller holds the lock.
func (o *openFacts) room(ids int) error {
	before, sealed := o.heldBytes()-int64(ids)*factBytes, o.sealed.Load()
	if ids == 0 || before+sealed == 0 || o.heldBytes()+sealed <= o.most {
		return nil
	}
	return fmt.Errorf("%w: ids that wait to be committed take %d bytes, beside %d bytes of batches; allowed are %d together",
		ErrBufferFull, before, sealed, o.most)
}

// find returns the series of the key with that hash, or nil. The caller holds the lock.
func (o *openFacts) find(hash uint64, key []byte) *factSeries {
	if s := o.series[hash]; s != nil && s.key == string(key) {
		return s
	}
	if s := o.older[hash]; s != nil && s.key == string(key) {
		o.series[hash] = s
		o.kept += places(len(key))
		return s
	}
	return nil
}

// make returns a new series for the key with that hash. The caller holds the lock.
func (o *openFacts) make(hash uint64, key []byte, of *spend.Series) *factSeries {
	if o.kept > o.m.maxKeys {
		o.rotate()
	}
	s := &factSeries{key: string(key)}
	s.id = s.canonical().Key()
	of.EachEntity(func(spend.Entity) { s.entities++ })
	o.series[hash] = s
	o.kept += places(len(key))
	return s
}

// rotate evicts the series not used since the rotation before. One that comes again in the same
// seal takes its places twice.
func (o *openFacts) rotate() {
	o.older, o.series = o.series, make(map[uint64]*factSeries, len(o.series)/2)
	o.kept = 0
}

func (o *openFacts) evictIdle() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.rotate()
	o.spare = nil // some may be large
}

// add adds a piece of a fact to the batch of its shard. The caller holds the lock.
func (o *openFacts) add(shard int, f *fact, single bool, parts []spend.FactPart) {
	var updates, bound uint64
	for i := range parts {
		c := &parts[i].Counters
		updates += uint64(c.APIRequests())
		bound += c.Bound() * maxSeriesEntities
		o.sums.updates += c.APIRequests()
		o.sums.accepted += c.APIRequests()
		o.sums.amount = o.sums.amount.Add(c.Spend)
	}

	list := o.open[shard]
	if n := len(list); n == 0 || list[n-1].bound+bound > maxBatchCount || !list[n-1].Add(f.id, f.content, single, parts...) {
		list = append(list, o.newBatch())
		o.open[shard] = list
		list[n].Add(f.id, f.content, single, parts...)
	}
	b := list[len(list)-1]
	b.pieces = append(b.pieces, heldPiece{f, uint32(updates)})
	b.bound += bound
	f.left++
}

// maxSeriesEntities is how many entities a series may count on.
const maxSeriesEntities = 7 + spend.MaxTags

// newBatch returns an empty batch. The caller holds the lock.
func (o *openFacts) newBatch() *factBatch {
	if n := len(o.spare); n > 0 {
		b := o.spare[n-1]
		o.spare = o.spare[:n-1]
		return b
	}
	return &factBatch{}
}

// swap ends the open seal, and leaves its batches in ended. It returns what they count. The caller
// holds openMap.group, so that the seal is that of the stripes.
func (o *openFacts) swap(last bool) (sum beingSealed) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.open, o.ended = o.ended, o.open
	o.endedPlaces = o.sums.keys
	o.seal++
	o.closed = o.closed || last
	sum = beingSealed{updates: o.sums.updates, amount: o.sums.amount, places: o.sums.keys}
	o.sums = openSums{accepted: o.sums.accepted}
	return sum
}

// recycle gives the batches of the last swap back, once they are sealed.
func (o *openFacts) recycle() {
	for shard, list := range o.ended {
		for _, b := range list {
			b.Reset()
			b.pieces, b.bound = nil, 0 // the pieces are with the sealed batch
		}
		o.mu.Lock()
		if n := min(len(list), 1); len(o.spare) < o.shards {
			o.spare = append(o.spare, list[:n]...) // one a shard will do, and a large one keeps its memory
		}
		o.mu.Unlock()
		clear(list)
		o.ended[shard] = list[:0]
	}
}

// total adds what is open to the sums.
func (o *openFacts) total(to *openSums) {
	o.mu.Lock()
	defer o.mu.Unlock()
	to.accepted += o.sums.accepted
	to.updates += o.sums.updates
	to.amount = to.amount.Add(o.sums.amount)
}

// entity adds what is open of the entity to its sums, by shard.
func (o *openFacts) entity(e spend.Entity, to []spend.Counters) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for shard, list := range o.open {
		for _, b := range list {
			rows := b.Rows()
			for i := range rows {
				series := rows[i].Series()
				series.EachEntity(func(other spend.Entity) {
					if other == e {
						to[shard].Add(&rows[i].Counters)
					}
				})
			}
		}
	}
}

// hash returns the hash that the key of a series is found by.
func (o *openFacts) hash(key []byte) uint64 { return maphash.Bytes(o.m.seed, key) }
