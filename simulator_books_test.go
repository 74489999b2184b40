package spendflush

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// simStrangers are the books of another deployment, whose batches come into the same queue.
var simStrangers = BooksID{0xff, 0x0c}

// isStrange says whether the key is one that only the other deployment books on.
func isStrange(key string) bool { return strings.HasPrefix(key, "strange") }

// strange puts a batch of other books into the queue: the first one of a producer of theirs, the next one, or one under
// the identity of a producer of these books, as a copy of its process would seal it.
func (s *simulator) strange() {
	shard := 0
	if s.rules.shards > 1 {
		shard = s.r.IntN(s.rules.shards)
	}
	h := Header{Shard: shard, Sequence: 1, SealedAt: s.now, Books: simStrangers}
	if last := s.strangers[shard]; last != nil && s.r.IntN(2) == 0 {
		h.Producer, h.Sequence, h.PriorDigest = last.Producer, last.Sequence+1, last.Digest()
		h.PriorUpdates, h.PriorAmount = last.PriorUpdates+last.Updates, last.PriorAmount.Add(last.Amount)
	} else if in := s.living(); len(in) > 0 && s.r.IntN(3) == 0 {
		h.Producer = in[0].run.id
	} else {
		h.Producer = NewProducerID(s.now)
		s.byID[h.Producer] = &simRun{number: -1}
	}
	n := len(s.strangeBytes)
	series := Series{APIKey: fmt.Sprint("strange", n)}
	counters := Counters{Spend: Dollars(1), SuccessfulRequests: 1}
	entity := Entity{Type: APIKey, ID: series.APIKey}
	b := NewBatch(h, []TotalRow{{Key: entity.Key(), Entity: entity, Counters: counters}}, []RollupRow{NewRollupRow(&series, HourOf(s.now), counters)})
	if s.byID[h.Producer].number < 0 {
		s.strangers[shard] = b
	}
	s.strangeBytes = append(s.strangeBytes, b.bytes)
	s.tally.strange++
	s.note("a batch of other books is entry %s of shard %d", s.queue.insert(shard, slices.Clone(b.bytes)), shard)
}

// isOfStrangers says whether the bytes are a batch of other books, which is no batch that this simulator has sealed.
func (s *simulator) isOfStrangers(b []byte) bool {
	return slices.ContainsFunc(s.strangeBytes, func(of []byte) bool { return bytes.Equal(of, b) })
}

// Several deployments on one queue: no batch of other books is ever booked, none of them is destroyed, and none holds
// anything up.
func TestSimulatorBatchesOfOtherBooksAreNeverBookedNorDestroyed(t *testing.T) {
	tally := simulate(t, max(*simRuns/4, 200), func(seed uint64, trace func(string, ...any)) (string, simTally) {
		bit := func(i int) bool { return seed>>i&1 == 1 }
		rules := simRules{slots: 1 + int(seed%3), shards: 1 + int(seed>>1%simShards), strange: true, crashes: bit(0), outages: bit(2), journal: bit(3)}
		s := newSimulator(seed, rules)
		s.trace = trace
		return s.play(), s.tally
	})
	if *simSeed == 0 && tally.strange == 0 {
		t.Error("no batch of other books came")
	}
}
