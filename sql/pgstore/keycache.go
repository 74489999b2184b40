package pgstore

import (
	"sync"

	"github.com/spendflush/spendflush/spend"
)

// keyCache remembers keys whose texts are in the dictionary, so that they needn't be sent again,
// and their rows, so that they are updated and not upserted, which takes a third more time and log.
// It decides nothing: rows are kept under the keys themselves, a sum whose key isn't in the
// dictionary is refused, and an update that finds fewer rows than were sent is undone.
//
// It is bounded by two generations: when the young one is full, the old one is evicted. What is in
// use is carried over. The zero value remembers nothing.
type keyCache struct {
	mu         sync.Mutex
	limit      int // keys in one generation
	young, old map[spend.Key]spend.Hour
	epoch      uint64 // counts how often everything was evicted
}

// row names a row of the totals, whose hour is 0, or of the rollup.
type row struct {
	key  spend.Key
	hour spend.Hour
}

// partition are the places of rows by what is known of them.
type partition struct {
	present []int // in the table
	unsure  []int // perhaps not
	missing []int // those of the unsure ones whose texts have to be sent
}

// partition looks n rows up, and says at which epoch that was.
func (c *keyCache) partition(n int, at func(int) row) (p partition, epoch uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range n {
		r := at(i)
		hour, ok := c.young[r.key]
		if !ok {
			if hour, ok = c.old[r.key]; ok {
				c.put(row{r.key, hour})
			}
		}
		if ok && hour == r.hour {
			p.present = append(p.present, i)
			continue
		}
		p.unsure = append(p.unsure, i)
		if !ok {
			p.missing = append(p.missing, i)
		}
	}
	return p, c.epoch
}

// learn notes the rows of a committed transaction. If everything was evicted since the epoch,
// they are in doubt too, and not noted. Of a series the last hour is remembered.
func (c *keyCache) learn(rows []row, epoch uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.epoch != epoch {
		return
	}
	for _, r := range rows {
		if hour, ok := c.young[r.key]; !ok || hour < r.hour {
			c.put(r)
		}
	}
}

// put needs the mutex to be held.
func (c *keyCache) put(r row) {
	if c.limit == 0 {
		return
	}
	if len(c.young) >= c.limit || c.young == nil {
		c.young, c.old = make(map[spend.Key]spend.Hour), c.young
	}
	c.young[r.key] = r.hour
}

// evictAll evicts all keys.
func (c *keyCache) evictAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.young, c.old = nil, nil
	c.epoch++
}

// size returns how many keys are remembered. A key in both generations counts twice.
func (c *keyCache) size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.young) + len(c.old)
}
