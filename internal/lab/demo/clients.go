package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spendflush/spendflush/internal/lab/load"
	"github.com/spendflush/spendflush/spend"
)

// clients send traffic to the instances and note what they were told.
type clients struct {
	http      *http.Client
	instances []*instance
	all       []*client
	quit      chan struct{} // closed to end the traffic
	work      sync.WaitGroup

	sent, acknowledged, unanswered atomic.Int64 // updates
	refused                        atomic.Int64 // requests, which were sent to another instance then
	failed                         chan error   // what should not happen; one at most
}

const (
	clientsPerInstance = 4
	keysPerClient      = 40
	modelsPerKey       = 2
	mostUpdates        = 60                     // in a request
	mostPause          = 200 * time.Millisecond // between two requests of a client
	ackTimeout         = 50 * time.Second
	requestTimeout     = 60 * time.Second
)

func newClients(instances []*instance) (*clients, error) {
	cs := &clients{
		http:      &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}},
		instances: instances, quit: make(chan struct{}), failed: make(chan error, 1),
	}
	n := clientsPerInstance * len(instances)
	traffic, err := load.New(shape(n))
	if err != nil {
		return nil, err
	}
	for i := range n {
		cs.all = append(cs.all, &client{all: cs, number: i, traffic: traffic, next: uint64(i+1) << 32, rng: rand.New(rand.NewPCG(uint64(i), 1)), ledger: newLedger()})
	}
	return cs, nil
}

// shape is that of the traffic of so many clients, and of the direct writers.
func shape(clients int) load.Shape {
	return load.Shape{Keys: keysPerClient * clients, Models: modelsPerKey, Skew: 1}
}

// start lets the clients begin. The end of ctx ends what is under way; stop doesn't.
func (cs *clients) start(ctx context.Context) {
	for _, c := range cs.all {
		cs.work.Go(func() {
			if err := c.run(ctx); err != nil && ctx.Err() == nil {
				select {
				case cs.failed <- err:
				default:
				}
			}
		})
	}
}

// stop ends the traffic and returns when every request was answered.
func (cs *clients) stop() {
	close(cs.quit)
	cs.work.Wait()
	cs.http.CloseIdleConnections()
}

// client sends one request after the other to its instance, and to another one while that is away.
type client struct {
	all    *clients
	number int
	rng    *rand.Rand
	ledger *ledger

	traffic *load.Workload // everybody's: keys, users, teams and so on
	next    uint64         // number of its next update, which are its own
}

func (c *client) run(ctx context.Context) error {
	for c.pause(ctx, time.Duration(c.rng.Int64N(int64(mostPause)))) {
		if err := c.send(ctx, c.updates()); err != nil {
			return fmt.Errorf("client %d: %w", c.number, err)
		}
	}
	return nil
}

// pause reports whether the traffic goes on after it.
func (c *client) pause(ctx context.Context, d time.Duration) bool {
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

// updates makes those of one request. Now and then one is a credit.
func (c *client) updates() []spend.Update {
	updates := make([]spend.Update, 1+c.rng.IntN(mostUpdates))
	now := time.Now().UTC().Truncate(time.Second)
	endUser := fmt.Sprintf("client-%02d.%d", c.number, len(c.ledger.unanswered))
	for i := range updates {
		u := &updates[i]
		c.traffic.Fill(c.next, u)
		c.next++
		u.Time, u.EndUserID = now, endUser
		if c.rng.IntN(25) == 0 {
			u.Spend = u.Spend.Neg()
		}
	}
	return updates
}

// target returns an address: that of the client's own instance, or of the next one that is there.
func (c *client) target() string {
	instances := c.all.instances
	own := c.number % len(instances)
	for _, in := range slices.Concat(instances[own:], instances[:own]) {
		if url := in.address(); url != "" {
			return url
		}
	}
	return ""
}

// errRefused is wrapped where it is certain that the instance has counted nothing of the request.
var errRefused = errors.New("not taken")

// errUnanswered is wrapped where it isn't known whether the instance has counted the request.
var errUnanswered = errors.New("no answer")

// send sends one request until an instance may have taken it. Such a request is never sent again: it might count twice.
func (c *client) send(ctx context.Context, updates []spend.Update) error {
	content, err := body(updates)
	if err != nil {
		return err
	}
	ack := "queued"
	if c.rng.IntN(5) == 0 {
		ack = "committed"
	}
	n := int64(len(updates))
	c.all.sent.Add(n)
	for {
		err := errRefused
		if url := c.target(); url != "" {
			err = c.all.post(ctx, fmt.Sprintf("%s/v1/updates?ack=%s&timeout=%s", url, ack, ackTimeout), content)
		}
		switch {
		case err == nil:
			c.ledger.acknowledge(updates)
			c.all.acknowledged.Add(n)
			return nil
		case errors.Is(err, errUnanswered):
			c.ledger.noteUnanswered(updates)
			c.all.unanswered.Add(n)
			return nil
		case !errors.Is(err, errRefused):
			return err
		}
		c.all.refused.Add(1)
		if !c.pause(ctx, 20*time.Millisecond) {
			c.all.sent.Add(-n) // nobody has taken them
			return nil
		}
	}
}

// post sends a request. The error wraps errRefused or errUnanswered, unless it is one that should not happen.
func (cs *clients) post(ctx context.Context, url string, content []byte) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(content))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/x-ndjson")
	response, err := cs.http.Do(r)
	if err != nil {
		if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
			return fmt.Errorf("%w: %w", errRefused, err)
		}
		return fmt.Errorf("%w: %w", errUnanswered, err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", errUnanswered, err)
	case response.StatusCode == http.StatusServiceUnavailable:
		return errRefused
	case response.StatusCode == http.StatusGatewayTimeout: // recorded, and whether it gets on is not known
		return errUnanswered
	case response.StatusCode != http.StatusOK:
		return fmt.Errorf("%s: %.500s", response.Status, answer)
	}
	var reached struct{ Updates int }
	if err := json.Unmarshal(answer, &reached); err != nil || reached.Updates != bytes.Count(content, []byte("\n")) {
		return fmt.Errorf("%d updates were sent, and the answer is %.500s", bytes.Count(content, []byte("\n")), answer)
	}
	return nil
}
