package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// classes are what clients ask for. Each has ids of its own in each run, so that what was
// acknowledged as committed isn't covered up by what was only accepted.
var classes = [...]string{"accepted", "queued", "committed"}

// prefixOf begins all ids of the updates of a class that are sent to a run.
func (r *podRun) prefixOf(class int) string { return r.name + "." + classes[class] + "/" }

// ledger is what clients know of the updates of one class that they sent to one run.
type ledger struct {
	sent      *book // all but those that surely didn't arrive or were refused
	recorded  *book // of them, those acknowledged in whatever way
	queued    *book // and as being in the queue or further
	committed *book // and as being in Postgres
}

func newLedger() *ledger { return &ledger{smallBook(), smallBook(), smallBook(), smallBook()} }

// smallBook is one without days, which follow from hours.
func smallBook() *book {
	b := newBook()
	b.days = nil
	return b
}

func (l *ledger) join(other *ledger) {
	l.sent.join(other.sent)
	l.recorded.join(other.recorded)
	l.queued.join(other.queued)
	l.committed.join(other.committed)
}

// tortureLoad is traffic to all places: a client stays with the instance at its place and goes on
// to others when that dies or doesn't answer.
type tortureLoad struct {
	rig     *rig
	quit    chan struct{}
	end     func()
	work    sync.WaitGroup
	clients []*tortureClient

	requests, lost, refused, late atomic.Int64 // requests; without an answer; with 503; with 504
}

type tortureClient struct {
	load    *tortureLoad
	rng     *rand.Rand
	home    int
	class   int
	pace    time.Duration
	away    bool // the last request failed: the next one goes elsewhere
	mixes   map[*podRun]*mix
	ledgers map[*podRun]*ledger
	err     error
}

// startTraffic starts, for every place, one client that waits for nothing, two that want their
// updates queued and three that want them committed.
func (x *rig) startTraffic() {
	pace := 80 * time.Millisecond // the short form shares the machine with other tests
	if x.options.long {
		pace = 40 * time.Millisecond
	}
	l := &tortureLoad{rig: x, quit: make(chan struct{})}
	l.end = sync.OnceFunc(func() { close(l.quit) })
	for home := range x.places {
		for _, class := range []int{0, 1, 1, 2, 2, 2} {
			c := &tortureClient{
				load: l, rng: rand.New(rand.NewPCG(x.options.seed, uint64(1+len(l.clients)))), home: home, class: class,
				pace: pace, mixes: map[*podRun]*mix{}, ledgers: map[*podRun]*ledger{},
			}
			l.clients = append(l.clients, c)
			l.work.Go(c.work)
		}
	}
	x.clients = l
	x.t.Cleanup(func() {
		l.end()
		l.work.Wait()
	})
}

// stop ends the traffic and returns what is known of each run and class.
func (l *tortureLoad) stop() map[*podRun]*[len(classes)]*ledger {
	l.end()
	l.work.Wait()
	all := map[*podRun]*[len(classes)]*ledger{}
	for _, r := range l.rig.runs {
		all[r] = &[len(classes)]*ledger{newLedger(), newLedger(), newLedger()}
	}
	for _, c := range l.clients {
		if c.err != nil {
			l.rig.t.Errorf("client of %s updates: %v", classes[c.class], c.err)
		}
		for r, of := range c.ledgers {
			all[r][c.class].join(of)
		}
	}
	return all
}

func (c *tortureClient) work() {
	ticker := time.NewTicker(c.pace)
	defer ticker.Stop()
	for {
		select {
		case <-c.load.quit:
			return
		case <-ticker.C:
		}
		r := c.target()
		if r == nil {
			continue
		}
		if c.err = c.send(r); c.err != nil {
			return
		}
	}
}

// target chooses an instance. Its caller must give it back by inFlight.
func (c *tortureClient) target() *podRun {
	places := c.load.rig.places
	n := c.home
	if c.away || c.rng.IntN(10) == 0 {
		n = c.rng.IntN(len(places))
	}
	for range places {
		r := places[n%len(places)].run.Load()
		n++
		r.inFlight.Add(1) // before the look at gone: whoever sets that waits for this to become 0
		if !r.gone.Load() {
			return r
		}
		r.inFlight.Add(-1)
	}
	return nil
}

func (c *tortureClient) mix(r *podRun) *mix {
	m := c.mixes[r]
	if m == nil {
		m = newMix(c.rng.Uint64())
		m.prefix = r.prefixOf(c.class)
		c.mixes[r] = m
	}
	return m
}

// send sends some updates in one request and notes what is known of them. The error says what no
// fault explains.
func (c *tortureClient) send(r *podRun) error {
	defer r.inFlight.Add(-1)
	m := c.mix(r)
	updates := make([]update, 1+c.rng.IntN(8))
	for i := range updates {
		updates[i] = m.next()
	}
	contentType, body, err := m.body(updates)
	if err != nil {
		return err
	}
	c.load.requests.Add(1)
	status, answer, err := r.postUpdates(classes[c.class], contentType, body)
	c.away = err != nil || status == http.StatusServiceUnavailable
	reached := ""
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return nil // there was nobody
	case err != nil:
		c.load.lost.Add(1)
	case status == http.StatusServiceUnavailable:
		c.load.refused.Add(1)
		return nil
	case status == http.StatusOK, status == http.StatusAccepted, status == http.StatusGatewayTimeout:
		var a struct{ Reached string }
		if err := json.Unmarshal([]byte(answer), &a); err != nil || a.Reached == "" {
			return fmt.Errorf("%s: %d: %.300s: %w", r.name, status, answer, err)
		}
		if reached = a.Reached; status == http.StatusGatewayTimeout {
			c.load.late.Add(1)
		}
	default:
		return fmt.Errorf("%s: %d: %.300s", r.name, status, answer)
	}
	c.enter(r, updates, reached)
	return nil
}

// enter notes updates that may have arrived, and as what they were acknowledged.
func (c *tortureClient) enter(r *podRun, updates []update, reached string) {
	l := c.ledgers[r]
	if l == nil {
		l = newLedger()
		c.ledgers[r] = l
	}
	for i := range updates {
		u := &updates[i]
		l.sent.add(u)
		if reached == "" {
			continue
		}
		l.recorded.add(u)
		if reached == classes[0] {
			continue
		}
		l.queued.add(u)
		if reached == classes[2] {
			l.committed.add(u)
		}
	}
}

// runOf returns the name of the run and class that an id belongs to.
func runOf(id string) string {
	prefix, _, _ := strings.Cut(id, "/")
	return prefix + "/"
}
