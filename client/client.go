// Package client sends updates to spendflush over HTTP, so that each counts once whatever happens
// to a request: every update has an id before it is sent for the first time, and is sent again, to
// the next address, until an instance has said that it is committed.
//
// It needs nothing but the standard library and package spend. Python and JavaScript have the same
// client under clients/.
package client

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// Options are the settings of a Client. Only URLs is needed.
type Options struct {
	URLs  []string // of the instances, such as http://10.0.0.1:4180; a failed request goes on to the next one
	Token string   // of the role write, "" if the instances want none

	MaxPending int           // updates that wait at once, beyond which Record returns ErrFull; 0: 100,000
	MaxBatch   int           // updates of one request, 1 to 10,000; 0: 1,000
	Interval   time.Duration // how long the first update of a request waits for others; 0: one second
	Requests   int           // requests under way at once; 0: 2
	Timeout    time.Duration // of one request, over 1s; 0: 30s

	// Refused is told of each update that the instances will never take, and why. It is called from
	// a goroutine of the client and must not call it. nil: it is logged.
	Refused func(u spend.Update, reason error)

	HTTP   *http.Client // nil: one of its own
	Logger *slog.Logger // nil: slog.Default()
}

// Errors of Record.
var (
	ErrFull   = errors.New("spendflush client: as many updates wait as MaxPending allows")
	ErrClosed = errors.New("spendflush client: it is closed")
)

// UnsentError is returned by Close: these updates aren't known to be committed. They keep their
// ids, so that they may be recorded again, by any client, within the window of ids.
type UnsentError struct{ Updates []spend.Update }

func (e *UnsentError) Error() string {
	return fmt.Sprintf("spendflush client: %d updates aren't known to be committed", len(e.Updates))
}

// Bounds of a request.
const (
	mostUpdates = 10_000
	mostBytes   = 4 << 20 // half of what an instance takes
	firstPause  = 100 * time.Millisecond
	mostPause   = 10 * time.Second
)

// Client sends updates in the background. Its methods are safe for concurrent use.
type Client struct {
	o     Options
	urls  []string // to post to
	wake  chan struct{}
	stop  context.CancelFunc
	ended sync.WaitGroup

	mu      sync.Mutex // no I/O under it
	closed  bool
	hurry   int             // calls of Flush and Close under way
	pending []spend.Update  // not taken by a request yet
	first   time.Time       // since when the first of them waits
	sending int             // updates in requests under way
	done    []chan struct{} // closed when nothing is left
}

// New returns a client, which runs until Close. An error names the option that is wrong.
func New(o Options) (*Client, error) {
	o.MaxPending = cmp.Or(o.MaxPending, 100_000)
	o.MaxBatch = cmp.Or(o.MaxBatch, 1000)
	o.Requests = cmp.Or(o.Requests, 2)
	o.Interval = cmp.Or(o.Interval, time.Second)
	o.Timeout = cmp.Or(o.Timeout, 30*time.Second)
	if o.HTTP == nil {
		o.HTTP = &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: o.Requests, IdleConnTimeout: 90 * time.Second}}
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}

	switch {
	case len(o.URLs) == 0:
		return nil, errors.New("spendflush client: URLs is empty; at least one address of an instance is needed")
	case o.MaxPending < 1 || o.MaxBatch < 1 || o.MaxBatch > mostUpdates || o.Requests < 1:
		return nil, fmt.Errorf("spendflush client: MaxPending is %d, MaxBatch %d, Requests %d; all must be at least 1, and MaxBatch at most %d",
			o.MaxPending, o.MaxBatch, o.Requests, mostUpdates)
	case o.Interval < 0 || o.Timeout <= time.Second:
		return nil, fmt.Errorf("spendflush client: Interval is %s and Timeout %s; Interval must not be negative, and Timeout over 1s", o.Interval, o.Timeout)
	}
	c := &Client{o: o, wake: make(chan struct{}, 1)}
	wait := min(o.Timeout-o.Timeout/4, time.Minute) // so that the instance answers before the request ends
	for _, base := range o.URLs {
		u, err := url.Parse(base)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return nil, fmt.Errorf("spendflush client: URLs has %q; want http://HOST:PORT or https://…", base)
		}
		c.urls = append(c.urls, strings.TrimSuffix(base, "/")+"/v1/updates?ack=committed&timeout="+wait.String())
	}

	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	for n := range o.Requests {
		c.ended.Go(func() { c.send(ctx, n) })
	}
	return c, nil
}

// Record takes an update, which the client sends soon. It doesn't block. An update without an ID
// gets a random one, and one without a time the present. The error is ErrFull, ErrClosed, or says
// what is wrong with the update, which is not taken then. What u points to may be changed
// afterwards.
func (c *Client) Record(u *spend.Update) error {
	own := *u
	own.Tags = append([]string(nil), u.Tags...)
	if own.ID == "" {
		var id [16]byte
		_, _ = rand.Read(id[:]) // it never fails
		own.ID = hex.EncodeToString(id[:])
	}
	if own.Time.IsZero() {
		own.Time = time.Now().UTC()
	}
	if err := own.Check(0); err != nil {
		return err
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return ErrClosed
	case len(c.pending)+c.sending >= c.o.MaxPending:
		return ErrFull
	}
	if len(c.pending) == 0 {
		c.first = time.Now()
	}
	c.pending = append(c.pending, own)
	if len(c.pending) == 1 || len(c.pending) >= c.o.MaxBatch {
		c.signal()
	}
	return nil
}

// Flush waits until all that was recorded is committed or refused. The error is ctx's.
func (c *Client) Flush(ctx context.Context) error {
	c.mu.Lock()
	if len(c.pending)+c.sending == 0 {
		c.mu.Unlock()
		return nil
	}
	done := make(chan struct{})
	c.done = append(c.done, done)
	c.hurry++
	c.signal()
	c.mu.Unlock()

	defer func() {
		c.mu.Lock()
		c.hurry--
		c.mu.Unlock()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close takes no more updates, sends what is left until ctx ends, and stops. The error is an
// *UnsentError with what isn't known to be committed.
func (c *Client) Close(ctx context.Context) error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	_ = c.Flush(ctx)
	c.stop()
	c.ended.Wait()

	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.pending) > 0 {
		return &UnsentError{c.pending}
	}
	return nil
}

// signal has a sender look. The caller must hold mu.
func (c *Client) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// send makes one request after the other, until ctx ends.
func (c *Client) send(ctx context.Context, at int) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		batch, wait := c.take()
		if batch == nil {
			timer.Reset(wait)
			select {
			case <-ctx.Done():
				return
			case <-c.wake:
			case <-timer.C:
			}
			continue
		}

		left := batch
		for pause := firstPause; len(left) > 0 && ctx.Err() == nil; {
			var after time.Duration
			var again bool
			if left, after, again = c.try(ctx, c.urls[at%len(c.urls)], left); !again {
				pause = firstPause
				continue
			}
			at++
			sleep(ctx, max(after, time.Duration(mathrand.Int64N(int64(pause)))))
			pause = min(2*pause, mostPause)
		}
		c.finish(len(batch), left)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// take takes the updates of a request. If it isn't time for one, it says when to look again.
func (c *Client) take() (batch []spend.Update, wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := min(len(c.pending), c.o.MaxBatch)
	if n == 0 {
		return nil, time.Hour
	}
	if wait := c.o.Interval - time.Since(c.first); n < c.o.MaxBatch && c.hurry == 0 && wait > 0 {
		return nil, wait
	}
	batch = c.pending[:n:n]
	c.pending = c.pending[n:]
	c.first = time.Now()
	c.sending += n
	if len(c.pending) > 0 {
		c.signal() // another sender has work
	}
	return batch, 0
}

// finish notes that a request has come to its end, and what is left of it.
func (c *Client) finish(n int, left []spend.Update) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sending -= n
	c.pending = append(left, c.pending...)
	if len(c.pending)+c.sending == 0 {
		for _, done := range c.done {
			close(done)
		}
		c.done = nil
	}
}

// problem is an answer that says what is wrong (RFC 9457).
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
	Errors []struct {
		Index  int    `json:"index"`
		Field  string `json:"field"`
		Detail string `json:"detail"`
	} `json:"errors"`
}

// try makes one request. It returns what is left to be sent: again says whether it failed for a
// reason that isn't the updates', and then after is how long the instance wants to be left alone.
func (c *Client) try(ctx context.Context, to string, batch []spend.Update) (left []spend.Update, after time.Duration, again bool) {
	body, n, err := encode(batch)
	if err != nil { // it was seen to be valid
		c.refuse(batch[0], err)
		return batch[1:], 0, false
	}
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	status, header, answer, err := c.post(ctx, to, body)
	switch {
	case err == nil && status/100 == 2:
		return batch[n:], 0, false
	case err != nil || status == http.StatusRequestTimeout || status == http.StatusTooManyRequests || status >= 500:
		c.o.Logger.Debug("spendflush: updates are sent again", "to", to, "status", status, "error", err)
		seconds, _ := strconv.Atoi(header.Get("Retry-After"))
		return batch, min(time.Duration(seconds)*time.Second, time.Minute), true
	}

	var p problem
	_ = json.Unmarshal(answer, &p)
	switch {
	case len(p.Errors) > 0 && (status == http.StatusBadRequest || status == http.StatusUnprocessableEntity):
		return c.without(batch, n, p), 0, false
	case (status == http.StatusBadRequest || status == http.StatusRequestEntityTooLarge) && n > 1: // one of them, and it isn't said which
		left, after, again := c.try(ctx, to, batch[:n/2:n/2])
		return append(left, batch[n/2:]...), after, again
	case status == http.StatusBadRequest || status == http.StatusRequestEntityTooLarge || status == http.StatusUnprocessableEntity:
		c.refuse(batch[0], fmt.Errorf("%s %s", p.Title, p.Detail))
		return batch[1:], 0, false
	}
	c.o.Logger.Error("spendflush: an instance refuses requests of this client; they are tried again", "to", to, "status", status, "title", p.Title, "detail", p.Detail)
	return batch, mostPause, true
}

// without refuses the updates that an instance has named, and returns the others.
func (c *Client) without(batch []spend.Update, n int, p problem) (left []spend.Update) {
	refused := map[int]string{}
	for _, e := range p.Errors {
		if _, named := refused[e.Index]; !named {
			refused[e.Index] = strings.TrimSpace(e.Field + " " + e.Detail)
		}
	}
	for i, u := range batch[:n] {
		if why, isRefused := refused[i]; isRefused {
			c.refuse(u, fmt.Errorf("%s %s", p.Title, why))
		} else {
			left = append(left, u)
		}
	}
	return append(left, batch[n:]...)
}

func (c *Client) refuse(u spend.Update, reason error) {
	if c.o.Refused != nil {
		c.o.Refused(u, reason)
		return
	}
	c.o.Logger.Error("spendflush: an update is refused, and is not counted", "id", u.ID, "spend", u.Spend, "reason", reason)
}

func (c *Client) post(ctx context.Context, to string, body []byte) (status int, header http.Header, answer []byte, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		return 0, nil, nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	if c.o.Token != "" {
		r.Header.Set("Authorization", "Bearer "+c.o.Token)
	}
	response, err := c.o.HTTP.Do(r)
	if err != nil {
		return 0, nil, nil, err
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(response.Body, 1<<20))
	return response.StatusCode, response.Header, answer, err
}

// encode returns as many updates as fit into a request, at least one, as a JSON array.
func encode(batch []spend.Update) (body []byte, n int, err error) {
	body = []byte{'['}
	for i := range batch {
		one, err := json.Marshal(batch[i])
		if err != nil {
			return nil, 0, err
		}
		if i > 0 && len(body)+len(one) > mostBytes {
			break
		}
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, one...)
		n++
	}
	return append(body, ']'), n, nil
}
