package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spendflush/spendflush/client"
	"github.com/spendflush/spendflush/internal/lab/load"
	"github.com/spendflush/spendflush/spend"
)

// clients send traffic to the instances, and note what they have sent. Each update has an id, under
// which package client sends it again, to another instance, until one has said that it is
// committed.
type clients struct {
	http    *http.Client
	answers *answers
	all     []*caller
	quit    chan struct{} // closed to end the traffic
	work    sync.WaitGroup

	sent    atomic.Int64 // updates
	unknown int64        // updates that aren't known to be committed at the end; to be read after stop
	failed  chan error   // what should not happen; one at most
}

const (
	clientsPerInstance = 4
	keysPerClient      = 40
	modelsPerKey       = 2
	mostUpdates        = 60                     // of a client between two pauses
	mostPause          = 200 * time.Millisecond // of a client
	fullPause          = 20 * time.Millisecond  // while as many updates wait as a client holds
	requestTimeout     = 60 * time.Second       // of what faults ask
)

// sending is how each client sends. What it holds is bounded, so that on a slow machine it makes
// fewer updates instead of having more of them wait.
var sending = client.Options{
	MaxPending: 250, Interval: mostPause, Requests: 4, Timeout: 10 * time.Second, Logger: slog.New(slog.DiscardHandler),
}

func newClients(instances []*instance) (*clients, error) {
	cs := &clients{
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}},
		quit: make(chan struct{}), failed: make(chan error, 1),
	}
	cs.answers = &answers{of: cs.http.Transport, failed: cs.fail}
	n := clientsPerInstance * len(instances)
	traffic, err := load.New(shape(n))
	if err != nil {
		return nil, err
	}
	var urls []string
	for _, in := range instances {
		urls = append(urls, in.address()) // of all processes that follow each other there
	}

	for i := range n {
		own := i % len(urls)
		options := sending
		options.URLs, options.HTTP = slices.Concat(urls[own:], urls[:own]), &http.Client{Transport: cs.answers}
		options.Refused = func(u spend.Update, reason error) { cs.fail(fmt.Errorf("update %s is refused: %w", u.ID, reason)) }
		sender, err := client.New(options)
		if err != nil {
			return nil, err
		}
		cs.all = append(cs.all, &caller{
			all: cs, number: i, sender: sender, traffic: traffic, next: uint64(i+1) << 32,
			rng: rand.New(rand.NewPCG(uint64(i), 1)), ledger: newLedger(),
		})
	}
	return cs, nil
}

// shape is that of the traffic of so many clients, and of the direct writers.
func shape(clients int) load.Shape {
	return load.Shape{Keys: keysPerClient * clients, Models: modelsPerKey, Skew: 1}
}

// fail notes the first thing that should not happen.
func (cs *clients) fail(err error) {
	select {
	case cs.failed <- err:
	default:
	}
}

// start lets the clients begin. The end of ctx ends the traffic, as stop does.
func (cs *clients) start(ctx context.Context) {
	for _, c := range cs.all {
		cs.work.Go(func() {
			if err := c.run(ctx); err != nil {
				cs.fail(fmt.Errorf("client %d: %w", c.number, err))
			}
		})
	}
}

// stop ends the traffic, and waits until all that was sent is committed or ctx ends. What isn't
// known to be committed then counts as unknown.
func (cs *clients) stop(ctx context.Context) {
	close(cs.quit)
	cs.work.Wait()
	var unknown atomic.Int64
	for _, c := range cs.all {
		cs.work.Go(func() {
			if unsent, ok := errors.AsType[*client.UnsentError](c.sender.Close(ctx)); ok {
				unknown.Add(int64(len(unsent.Updates)))
			}
		})
	}
	cs.work.Wait()
	cs.unknown = unknown.Load()
	cs.http.CloseIdleConnections()
}

// caller makes updates and hands them to a sender.
type caller struct {
	all    *clients
	number int
	sender *client.Client
	rng    *rand.Rand
	ledger *ledger

	traffic *load.Workload // everybody's: keys, users, teams and so on
	next    uint64         // number of its next update, which are its own
}

func (c *caller) run(ctx context.Context) error {
	for c.pause(ctx, time.Duration(c.rng.Int64N(int64(mostPause)))) {
		for range 1 + c.rng.IntN(mostUpdates) {
			u := c.update()
			if taken, err := c.record(ctx, &u); err != nil || !taken {
				return err
			}
			c.ledger.note(&u)
			c.all.sent.Add(1)
		}
	}
	return nil
}

// record hands an update to the sender. While that holds as many as it may, it waits. It says
// whether the sender has taken the update: at the end of the traffic it may not have.
func (c *caller) record(ctx context.Context, u *spend.Update) (taken bool, err error) {
	for {
		err := c.sender.Record(u)
		if !errors.Is(err, client.ErrFull) {
			return err == nil, err
		}
		if !c.pause(ctx, fullPause) {
			return false, nil
		}
	}
}

// pause reports whether the traffic goes on after it.
func (c *caller) pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-c.all.quit:
		return false
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// update makes the next one. Now and then one is a credit.
func (c *caller) update() (u spend.Update) {
	c.traffic.Fill(c.next, &u)
	u.ID = fmt.Sprintf("client-%02d.%d", c.number, uint32(c.next))
	c.next++
	u.Time = time.Now().UTC().Truncate(time.Second)
	u.EndUserID = fmt.Sprintf("client-%02d", c.number)
	if c.rng.IntN(25) == 0 {
		u.Spend = u.Spend.Neg()
	}
	return u
}
