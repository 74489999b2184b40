package pgstore

import (
	"sync"

	"github.com/spendflush/spendflush/spend"
)

// known remembers keys whose texts are in the dictionary, so that they needn't be sent again, and their rows, so that
// they are updated and not upserted, which takes a third more time and log. It decides nothing: rows are kept under the
// keys themselves, a sum whose key isn't in the dictionary is refused, and an update that finds fewer rows than were sent
// is undone.
//
// It is bounded by two generations: when the young one is full, the old one is forgotten. What is in use is carried
// over. The zero value remembers nothing.
type known struct {
	mu         sync.Mutex
	limit      int // keys in one generation
	young, old map[spend.Key]spend.Hour
	epoch      uint64 // counts how often everything was forgotten
}

// row names a row of the totals, whose hour is 0, or of the rollup.
type row struct {
	key  spend.Key
	hour spend.Hour
}

// parted are the places of rows by what is known of them.
type parted struct {
	there   []int // in the table
	fresh   []int // perhaps not
	strange []int // those of the fresh ones whose texts have to be sent
}

// part looks n rows up, and says at which epoch that was.
func (k *known) part(n int, at func(int) row) (p parted, epoch uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range n {
		r := at(i)
		hour, ok := k.young[r.key]
		if !ok {
			if hour, ok = k.old[r.key]; ok {
				k.put(row{r.key, hour})
			}
		}
		if ok && hour == r.hour {
			p.there = append(p.there, i)
			continue
		}
		p.fresh = append(p.fresh, i)
		if !ok {
			p.strange = append(p.strange, i)
		}
	}
	return p, k.epoch
}

// learn notes rows that a transaction has written which is committed. If everything was forgotten since the epoch,
// they are in doubt too, and not noted. Of a series the last hour is remembered.
func (k *known) learn(rows []row, epoch uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.epoch != epoch {
		return
	}
	for _, r := range rows {
		if hour, ok := k.young[r.key]; !ok || hour < r.hour {
			k.put(r)
		}
	}
}

// put needs the mutex to be held.
func (k *known) put(r row) {
	if k.limit == 0 {
		return
	}
	if len(k.young) >= k.limit || k.young == nil {
		k.young, k.old = make(map[spend.Key]spend.Hour), k.young
	}
	k.young[r.key] = r.hour
}

// forget makes all keys unknown.
func (k *known) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.young, k.old = nil, nil
	k.epoch++
}

// size returns how many keys are remembered. A key in both generations counts twice.
func (k *known) size() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.young) + len(k.old)
}
