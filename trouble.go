package spendflush

import (
	"slices"

	"github.com/spendflush/spendflush/spend"
)

// trouble is whose batches can't be committed even by themselves, as where another session keeps a
// row locked. They come last and one at a time, and of those known only one fails a walk: so they
// hold up the others for one try at most.
type trouble struct {
	known  []spend.ProducerID        // the one that failed last is at the end
	failed map[spend.ProducerID]bool // in this walk; not tried in it again
	spent  bool                      // one that was known has failed in this walk
}

// maxTrouble is how many producers are remembered. One that is evicted is found again at the cost
// of a failure.
const maxTrouble = 1000

func newTrouble(known []spend.ProducerID) trouble {
	return trouble{known: slices.Clone(known), failed: map[spend.ProducerID]bool{}}
}

func (t *trouble) has(id spend.ProducerID) bool { return slices.Contains(t.known, id) }

// rests says whether the producer isn't to be tried in this walk any more.
func (t *trouble) rests(id spend.ProducerID) bool { return t.failed[id] || t.spent && t.has(id) }

// last returns the ids with those in trouble at the end, the one that has waited longest for
// another try first.
func (t *trouble) last(ids []spend.ProducerID) []spend.ProducerID {
	late := slices.DeleteFunc(slices.Clone(t.known), func(id spend.ProducerID) bool { return !slices.Contains(ids, id) })
	return append(slices.DeleteFunc(ids, t.has), late...)
}

// note notes that a batch of the producer has failed by itself.
func (t *trouble) note(id spend.ProducerID) {
	t.spent = t.spent || t.has(id)
	t.over(id)
	t.failed[id] = true
	t.known = append(t.known, id)
	t.known = t.known[max(0, len(t.known)-maxTrouble):]
}

// over notes that a batch of the producer was committed.
func (t *trouble) over(id spend.ProducerID) {
	t.known = slices.DeleteFunc(t.known, func(k spend.ProducerID) bool { return k == id })
	delete(t.failed, id)
}
