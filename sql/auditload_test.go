package sql

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/spendflush/spendflush"
)

const loadShards = 3

// loadProducer seals requests and lets a goroutine a lane commit them, so that its lanes are at different seals.
type loadProducer struct {
	id       spendflush.ProducerID
	seal     uint64
	sequence [loadShards]uint64
	sealed   [loadShards]spendflush.Counters // the sums of all batches so far
}

// lane returns the part of a seal that belongs to a lane, as one batch or, which a seal with many rows becomes, two.
func (p *loadProducer) lane(whole *spendflush.Flush, shard, parts int) []*spendflush.Flush {
	flushes := make([]*spendflush.Flush, parts)
	for i := range flushes {
		flushes[i] = &spendflush.Flush{Shard: shard}
	}
	// Totals in the first part and rollups in the last: a seal half of which is in the books can't look whole.
	first, last := flushes[0], flushes[parts-1]
	for _, row := range whole.Totals {
		if int(row.Key[15])%loadShards == shard {
			first.Totals = append(first.Totals, row)
			first.Control[row.Entity.Type].Add(&row.Counters)
		}
	}
	for _, row := range whole.Rollups {
		if int(row.Key[15])%loadShards == shard {
			last.Rollups = append(last.Rollups, row)
			last.Control[0].Add(&row.Counters)
		}
	}
	for i, f := range flushes {
		p.sequence[shard]++
		seal := p.seal
		if i < parts-1 {
			seal--
		}
		sealed := &p.sealed[shard]
		sealed.Add(&f.Control[0])
		f.Claims = []spendflush.Claim{{
			Producer: p.id, First: p.sequence[shard], Last: p.sequence[shard], Shards: loadShards, Seal: seal,
			Updates: f.Control[0].APIRequests(), Amount: f.Control[0].Spend,
			SealedUpdates: sealed.APIRequests(), SealedAmount: sealed.Spend,
		}}
	}
	return flushes
}

// round commits some seals, in all lanes at once.
func (p *loadProducer) round(ctx context.Context, group *errgroup.Group, s *Store, r *rand.Rand) {
	var lanes [loadShards][]*spendflush.Flush
	for range 3 {
		p.seal++
		whole := flushOf(p.id, p.seal, p.seal, traffic(r, 30, 60)...)
		for shard := range lanes {
			lanes[shard] = append(lanes[shard], p.lane(whole, shard, 1+r.IntN(2))...)
		}
	}
	for _, flushes := range lanes {
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

// brim keeps a row so full, with nothing but what is booked, that Postgres refuses what comes on top.
type brim struct {
	producer spendflush.ProducerID
	sequence uint64
	aside    int // rows that were set aside so far
}

func (b *brim) book(ctx context.Context, s *Store, amounts ...string) error {
	b.sequence++
	var requests []request
	for i, amount := range amounts {
		requests = append(requests, request{spendflush.Series{APIKey: fmt.Sprintf("brim-%d", i)}, noon, one(amount)})
	}
	return s.Apply(ctx, flushOf(b.producer, b.sequence, b.sequence, requests...))
}

// round fills a row, lets another be refused, makes room, and applies what was refused. The control sums stay near 0
// all the time, because another entity has the opposite.
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
	for _, q := range open {
		if err := s.ApplyQuarantined(ctx, q.ID, "a test"); err != nil {
			return err
		}
	}
	b.aside += len(open)
	return b.book(ctx, s, "-3", "-1")
}

// audits are what several goroutines found.
type audits struct {
	mu                    sync.Mutex
	made, whole, withRows int // all; those that skipped nothing; those that found rows in quarantine
	wrong                 []AuditReport
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
	if report.Checks[len(report.Checks)-1].Skipped == "" {
		a.whole++
	}
	if len(report.Quarantine.Rows) > 0 {
		a.withRows++
	}
}

// auditUnderLoad makes audits while producers, shards and quarantine move, until so many are made or one has failed.
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
			p.round(t.Context(), &group, s, r)
		}
		group.Go(func() error { return full.round(t.Context(), s) })
		err = group.Wait()
	}
	cancel()
	if err := errors.Join(err, auditing.Wait()); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d audits, %d of them of everything, %d with rows in quarantine; %d rows were set aside; %d audits failed",
		all.made, all.whole, all.withRows, full.aside, len(all.wrong))
	return all
}

func TestAuditsAtAnyMomentDontFailFalselyWhileProducersShardsAndQuarantineMove(t *testing.T) {
	s := open(t, database(t), Options{MaxConns: 16})
	all := auditUnderLoad(t, s, 300)
	for _, report := range all.wrong {
		for _, c := range report.Checks {
			if !c.OK {
				t.Errorf("%s: %s %+v", c.Name, c.Detail, c.Entities)
			}
		}
	}
	if all.whole == 0 || all.withRows == 0 {
		t.Error("no audit compared everything, or none found rows in quarantine: the load shows less than it should")
	}
	wantAudit(t, s)
}

// This is a test of the test before it: an audit that doesn't know what moves must fail falsely.
func TestAuditsThatDontKnowWhatMovesFailFalsely(t *testing.T) {
	s := open(t, database(t), Options{MaxConns: 16})
	s.statement = func(name string) string {
		text := embedded.get(name)
		if name == "audit_motion" {
			text = strings.Replace(text, "NOT bool_and(whole) OR min(seal) <> max(seal) OR count(*) < max(shards)", "false", 1)
		}
		return text
	}
	if all := auditUnderLoad(t, s, 1000); len(all.wrong) == 0 {
		t.Error("no audit failed: the load shows nothing")
	}
}
