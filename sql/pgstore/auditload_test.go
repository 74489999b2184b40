package pgstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/spendflush/spendflush/spend"
)

const loadShards = 3

// loadProducer seals requests by the hash of their series, and lets a goroutine a lane commit them.
// Lanes lose batches, find them again, and have some set aside.
type loadProducer struct {
	id    spend.ProducerID
	lanes [loadShards]loadLane
}

type loadLane struct {
	sequence uint64
	sealed   spend.Counters // the sums of all batches so far
	lost     []*spend.Flush // passed, perhaps to be found
}

// batch returns the flush that books these requests as the next batch of the lane.
func (p *loadProducer) batch(shard int, requests []request) *spend.Flush {
	lane := &p.lanes[shard]
	lane.sequence++
	f := flushOf(p.id, lane.sequence, lane.sequence, requests...)
	f.Shard = shard
	lane.sealed.Add(&f.Control.Rollups)
	c := &f.Claims[0]
	c.SealedUpdates, c.SealedAmount = lane.sealed.APIRequests(), lane.sealed.Spend
	return f
}

// round returns the flushes of some seals, by lane.
func (p *loadProducer) round(r *rand.Rand) (lanes [loadShards][]*spend.Flush) {
	for range 3 {
		var parts [loadShards][]request
		for _, q := range traffic(r, 30, 60) {
			key := q.series.Key()
			shard := int(key[15]) % loadShards
			parts[shard] = append(parts[shard], q)
		}
		for shard, requests := range parts {
			if len(requests) > 0 {
				lanes[shard] = append(lanes[shard], p.next(r, shard, requests)...)
			}
		}
	}
	return lanes
}

// next returns the flushes of one batch: one that books it; none, as it is lost and the next one
// passes it; or the one that finds a lost one besides.
func (p *loadProducer) next(r *rand.Rand, shard int, requests []request) []*spend.Flush {
	lane := &p.lanes[shard]
	f := p.batch(shard, requests)
	if r.IntN(5) == 0 {
		gone := f
		f = p.batch(shard, requests)
		f.Claims[0].First, f.Claims[0].Prior = gone.Claims[0].First, gone.Claims[0].Prior
		f.Lost = []spend.LostRange{{Producer: p.id, First: gone.Claims[0].Last, Last: gone.Claims[0].Last, Reason: "gone"}}
		lane.lost = append(lane.lost, gone)
		return []*spend.Flush{f}
	}
	if n := len(lane.lost); n > 1 && r.IntN(2) == 0 {
		found := *lane.lost[n-1]
		lane.lost = lane.lost[:n-1]
		c := found.Claims[0]
		found.Found = []spend.FoundBatch{{Producer: p.id, Sequence: c.Last, Updates: c.Updates, Amount: c.Amount}}
		found.Claims = nil
		return []*spend.Flush{f, &found}
	}
	return []*spend.Flush{f}
}

// run commits some seals, in all lanes at once.
func (p *loadProducer) run(ctx context.Context, group *errgroup.Group, s *Store, r *rand.Rand) {
	for _, flushes := range p.round(r) {
		group.Go(func() error {
			for _, f := range flushes {
				if err := s.Apply(ctx, f); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

// brim keeps a row so full, with nothing but what is booked, that Postgres refuses what comes on
// top.
type brim struct {
	producer spend.ProducerID
	sequence uint64
	aside    int // rows that were set aside so far
}

func (b *brim) book(ctx context.Context, s *Store, amounts ...string) error {
	b.sequence++
	var requests []request
	for i, amount := range amounts {
		requests = append(requests, request{spend.Series{APIKey: fmt.Sprintf("brim-%d", i)}, noon, one(amount)})
	}
	return s.Apply(ctx, flushOf(b.producer, b.sequence, b.sequence, requests...))
}

// round fills a row, lets another be refused, makes room, and applies what was refused, but for one
// that is dropped. The control sums stay near 0 all the time, because another entity has the
// opposite.
func (b *brim) round(ctx context.Context, s *Store) error {
	const most = "99999999999999999999999998"
	if err := b.book(ctx, s, most, "-"+most); err != nil {
		return err
	}
	if err := b.book(ctx, s, "3", "1"); err != nil {
		return err
	}
	if err := b.book(ctx, s, "-"+most, most); err != nil {
		return err
	}
	open, err := s.Quarantined(ctx, false, 0, 100)
	if err != nil {
		return err
	}
	for i, q := range open {
		settle := s.ApplyQuarantined
		if i == 0 && b.sequence%9 == 3 {
			settle = s.DropQuarantined
		}
		if err := settle(ctx, q.ID, "a test"); err != nil {
			return err
		}
	}
	b.aside += len(open)
	return b.book(ctx, s, "-3", "-1")
}

// audits are what several goroutines found.
type audits struct {
	mu                       sync.Mutex
	made, withRows, withLost int // all; those that found rows in quarantine; and lost batches
	wrong                    []AuditReport
}

// run makes audits until ctx ends, at moments that have nothing to do with what goes on.
func (a *audits) run(ctx context.Context, s *Store, r *rand.Rand) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		report, err := s.Audit(context.WithoutCancel(ctx))
		if err != nil {
			return err
		}
		a.note(report)
		timer.Reset(time.Duration(r.IntN(4000)) * time.Microsecond)
	}
}

func (a *audits) note(report AuditReport) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.made++
	if !report.OK {
		a.wrong = append(a.wrong, report)
	}
	if len(report.Quarantine.Rows) > 0 {
		a.withRows++
	}
	if report.LostBatches > 0 {
		a.withLost++
	}
}

// auditUnderLoad makes audits while producers, shards and quarantine move, until so many are made
// or one has failed.
func auditUnderLoad(t *testing.T, s *Store, wanted int) *audits {
	t.Helper()
	all := &audits{}
	done := func() bool {
		all.mu.Lock()
		defer all.mu.Unlock()
		return all.made >= wanted || len(all.wrong) > 0
	}
	ctx, cancel := context.WithCancel(t.Context())
	var auditing errgroup.Group
	for i := range uint64(2) {
		auditing.Go(func() error { return all.run(ctx, s, rand.New(rand.NewPCG(20, i))) })
	}
	full := &brim{producer: newProducer()}
	producers := []*loadProducer{{id: newProducer()}, {id: newProducer()}}
	r := rand.New(rand.NewPCG(21, 1))
	var err error
	for err == nil && !done() {
		var group errgroup.Group
		for _, p := range producers {
			p.run(t.Context(), &group, s, r)
		}
		group.Go(func() error { return full.round(t.Context(), s) })
		err = group.Wait()
	}
	cancel()
	if err := errors.Join(err, auditing.Wait()); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d audits, %d of them with rows in quarantine and %d with lost batches; %d rows were set aside; %d audits failed",
		all.made, all.withRows, all.withLost, full.aside, len(all.wrong))
	return all
}

func TestAuditsAtAnyMomentDontFailFalselyWhileProducersShardsAndQuarantineMove(t *testing.T) {
	s := open(t, database(t), Options{MaxConns: 16})
	all := auditUnderLoad(t, s, 300)
	for _, report := range all.wrong {
		for _, c := range report.Checks {
			if !c.OK {
				t.Errorf("%s: %s %+v %s", c.Name, c.Detail, c.Entities, c.Days)
			}
		}
	}
	if all.withLost == 0 || all.withRows == 0 {
		t.Error("no audit found lost batches, or none rows in quarantine: the load shows less than it should")
	}
	wantAudit(t, s)
}

// This is a test of the test before it: an audit that doesn't know what is set aside must fail
// falsely.
func TestAuditsThatDontKnowWhatIsSetAsideFailFalsely(t *testing.T) {
	s := open(t, database(t), Options{MaxConns: 16})
	s.statement = func(name string) string {
		text := embedded.get(name)
		if name == "audit_aside" {
			text += " AND false"
		}
		return text
	}
	all := auditUnderLoad(t, s, 1000)
	if len(all.wrong) == 0 {
		t.Fatal("no audit failed: the load shows nothing")
	}
	var names []string
	for _, report := range all.wrong {
		for _, c := range report.Checks {
			if !c.OK {
				names = append(names, c.Name)
			}
		}
	}
	for _, name := range names {
		if name != checkEntities && name != checkDays {
			t.Errorf("%s failed too", name)
		}
	}
}
