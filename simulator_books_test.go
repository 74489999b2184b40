package spendflush

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// simDeployment is a database of its own, and what belongs to its books on the queue's server.
type simDeployment struct {
	number       int
	id           spend.BooksID
	store        *testStore
	ledger       simLedger
	queue        *testQueue                   // the keys of its books
	spoiled      map[spend.EntryID]*simSealed // what entries were before a bit of them was flipped
	past         []simPast                    // what its Postgres can be turned back to
	postgresBack int                          // the step at which its Postgres is there again
}

// simLedger is what a Postgres must have by what it has committed.
type simLedger struct {
	updates     int64 // in all batches that were claimed or found
	amount      spend.Amount
	quarantined map[string]bool // by their bytes
}

func (l simLedger) clone() simLedger {
	l.quarantined = maps.Clone(l.quarantined)
	return l
}

func (l *simLedger) apply(f *spend.Flush) {
	for _, c := range f.Claims {
		l.updates, l.amount = l.updates+c.Updates, l.amount.Add(c.Amount)
	}
	for _, b := range f.Found {
		l.updates, l.amount = l.updates+b.Updates, l.amount.Add(b.Amount)
	}
	l.quarantine(f.Quarantine)
}

func (l *simLedger) quarantine(bad []spend.BadBatch) {
	for _, b := range bad {
		l.quarantined[string(b.Bytes)] = true
	}
}

// addDeployments adds the deployments that the rules want.
func (s *simulator) addDeployments() {
	n := 1
	if s.rules.two {
		n = 2
	}
	s.noBooks = s.newKeys()
	for i := range n {
		d := &simDeployment{number: i, id: testBooks, queue: s.newKeys(), spoiled: map[spend.EntryID]*simSealed{}}
		d.id[len(d.id)-1] = byte(i)
		d.store = newClockedStore(d.id, func() time.Time { return s.now.Add(s.storeSkew) })
		d.ledger.quarantined = map[string]bool{}
		s.deployments = append(s.deployments, d)
	}
	s.tally.shared += n - 1
}

func (s *simulator) newKeys() *testQueue {
	return newClockedQueue(func() time.Time { return s.now.Add(s.queueSkew) })
}

// keysOf returns what belongs to the books on the queue's server.
func (s *simulator) keysOf(id spend.BooksID) *testQueue {
	for _, d := range s.deployments {
		if d.id == id {
			return d.queue
		}
	}
	return s.noBooks
}

// deploymentAt returns the deployment that has the slot.
func (s *simulator) deploymentAt(slot int) *simDeployment {
	return s.deployments[slot%len(s.deployments)]
}

// livingOf returns the living processes of a deployment.
func (s *simulator) livingOf(d *simDeployment) []*simInstance {
	return slices.DeleteFunc(s.living(), func(in *simInstance) bool { return in.deployment != d })
}

// simStrangers are books that no deployment has, and whose batches come into the queue.
var simStrangers = spend.BooksID{0xff, 0x0c}

// isStrange says whether the key is one that only those books have.
func isStrange(key string) bool { return strings.HasPrefix(key, "strange") }

// strange puts a batch of other books among the keys of the deployment: one that the other
// deployment has sealed, the first one of a producer of no deployment, the next one, or one under
// the identity of a producer of this deployment, as a copy of its process would seal it.
func (s *simulator) strange(d *simDeployment) {
	shard := 0
	if s.rules.shards > 1 {
		shard = s.r.IntN(s.rules.shards)
	}
	if len(s.deployments) > 1 && s.r.IntN(4) > 0 {
		s.misplace(d, shard)
		return
	}
	h := spend.Header{Shard: shard, Sequence: 1, SealedAt: s.now, Books: simStrangers}
	if last := s.strangers[shard]; last != nil && s.r.IntN(2) == 0 {
		h.Producer, h.Sequence, h.PriorDigest = last.Producer, last.Sequence+1, last.Digest()
		h.PriorUpdates, h.PriorAmount = last.PriorUpdates+last.Updates, last.PriorAmount.Add(last.Amount)
	} else if in := s.livingOf(d); len(in) > 0 && s.r.IntN(3) == 0 {
		h.Producer = in[0].run.id
	} else {
		h.Producer = spend.NewProducerID(s.now)
		s.byID[h.Producer] = &simRun{number: -1}
	}
	n := len(s.strangeBytes)
	series := spend.Series{APIKey: fmt.Sprint("strange", n)}
	counters := spend.Counters{Spend: spend.Dollars(1), SuccessfulRequests: 1}
	entity := spend.Entity{Type: spend.APIKey, ID: series.APIKey}
	b := spend.NewBatch(h, []spend.TotalRow{{Key: entity.Key(), Entity: entity, Counters: counters}}, []spend.RollupRow{spend.NewRollupRow(&series, spend.HourOf(s.now), counters)})
	if s.byID[h.Producer].number < 0 {
		s.strangers[shard] = b
	}
	s.strangeBytes = append(s.strangeBytes, b.Bytes())
	s.tally.strange++
	s.note("a batch of other books is entry %s of shard %d of deployment %d", d.queue.Insert(shard, b.Bytes()), shard, d.number)
}

// misplace copies an entry of the other deployment to the keys of this one, as whoever copies keys
// by hand may do.
func (s *simulator) misplace(d *simDeployment, shard int) {
	other := s.deployments[1-d.number]
	entries := slices.Concat(other.queue.entries(shard), other.queue.retained(shard))
	if len(entries) == 0 {
		return
	}
	e := entries[s.r.IntN(len(entries))]
	if b := s.sealed(e.Bytes); b == nil || b.deployment != other {
		return
	}
	s.tally.misplaced++
	s.note("entry %s of deployment %d is entry %s of shard %d of deployment %d, too", e.ID, other.number,
		d.queue.Insert(shard, e.Bytes), shard, d.number)
}

// isOfStrangers says whether the bytes are a batch of other books, which is no batch that this
// simulator has sealed.
func (s *simulator) isOfStrangers(b []byte) bool {
	return slices.ContainsFunc(s.strangeBytes, func(of []byte) bool { return bytes.Equal(of, b) })
}

// Batches of other books come into the queue: none is ever booked, none of them is destroyed, and
// none holds anything up.
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

// Two deployments with a database each and one queue, whatever goes wrong: each books only its own,
// and all of it. Batches of the one also come among the keys of the other.
func TestSimulatorTwoDeploymentsOnOneQueueBookOnlyTheirOwn(t *testing.T) {
	tally := simulate(t, max(*simRuns/2, 200), func(seed uint64, trace func(string, ...any)) (string, simTally) {
		rules := simRulesOf(seed)
		if seed%4 == 0 {
			rules = simExactRules(seed) // one database is turned back, the other isn't
		}
		rules.slots, rules.two, rules.strange = 2+int(seed%3), true, true
		s := newSimulator(seed, rules)
		s.trace = trace
		return s.play(), s.tally
	})
	if *simSeed == 0 && (tally.misplaced == 0 || tally.strange == 0 || tally.crashes == 0 || *simRuns >= 1000 && tally.requeued == 0) {
		t.Errorf("something never happened: %+v", tally)
	}
}
