package sql

import (
	"sync"

	"github.com/spendflush/spendflush"
)

// known remembers keys whose texts are in the dictionary, so that they needn't be sent again. It decides nothing: rows
// are kept under the keys themselves, and the database refuses a sum whose key isn't in the dictionary.
//
// It is bounded by two generations: when the young one is full, the old one is forgotten. What is in use is carried
// over. The zero value remembers nothing.
type known struct {
	mu         sync.Mutex
	limit      int // keys in one generation
	young, old map[spendflush.Key]struct{}
	epoch      uint64 // counts how often everything was forgotten
}

// missing appends the places of the keys not known, and says at which epoch that was.
func (k *known) missing(places []int, n int, at func(int) spendflush.Key) ([]int, uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range n {
		key := at(i)
		if _, ok := k.young[key]; ok {
			continue
		}
		if _, ok := k.old[key]; ok {
			k.put(key)
			continue
		}
		places = append(places, i)
	}
	return places, k.epoch
}

// learn notes keys that a transaction has taken up which is committed. If everything was forgotten since the epoch,
// they are in doubt too, and not noted.
func (k *known) learn(keys []spendflush.Key, epoch uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.epoch != epoch {
		return
	}
	for _, key := range keys {
		k.put(key)
	}
}

// put needs the mutex to be held.
func (k *known) put(key spendflush.Key) {
	if k.limit == 0 {
		return
	}
	if len(k.young) >= k.limit || k.young == nil {
		k.young, k.old = make(map[spendflush.Key]struct{}), k.young
	}
	k.young[key] = struct{}{}
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
