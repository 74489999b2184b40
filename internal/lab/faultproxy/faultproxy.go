// Package faultproxy puts the faults of a network between a test's client and a real server.
package faultproxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// Proxy passes TCP connections on to a server until told to misbehave. All methods may be called at
// any time by several goroutines.
type Proxy struct {
	listener net.Listener
	serving  sync.WaitGroup
	over     chan struct{} // closed by Close

	mu       sync.Mutex // guards what follows
	target   string
	change   *sync.Cond // signals that silent has changed, or closed
	conns    map[net.Conn]bool
	silent   bool
	closed   bool
	refusing bool
	delay    time.Duration
	cutText  []byte // what is in the requests whose replies are cut; empty: in any
	cutLeft  int    // how many are to be cut
	cut      int    // and how many were
}

// New starts a proxy before the address. It ends, and its connections with it, when the test does.
func New(t testing.TB, target string) *Proxy {
	t.Helper()
	p, err := Start(target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// Start is New outside of a test. Close must be called at the end.
func Start(target string) (*Proxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{target: target, listener: listener, over: make(chan struct{}), conns: map[net.Conn]bool{}}
	p.change = sync.NewCond(&p.mu)
	p.serving.Go(p.accept)
	return p, nil
}

// Addr is where clients connect.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// CutNextReply lets the server get the next request and closes the connection instead of passing
// the reply on.
func (p *Proxy) CutNextReply() { p.CutReplies("", 1) }

// CutReplies does that with the next n requests whose bytes hold the text, and replaces an earlier
// CutReplies. The server gets all of such a request, however many pieces it comes in. An n of 0
// cuts no more.
func (p *Proxy) CutReplies(text string, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cutText, p.cutLeft = []byte(text), n
}

// Cut returns how many replies were cut so far.
func (p *Proxy) Cut() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cut
}

// Delay holds back every piece of a request or reply for so long. 0 ends that.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Refuse closes all connections, and new ones as soon as they are made, until Refuse(false).
func (p *Proxy) Refuse(refuse bool) {
	p.mu.Lock()
	p.refusing = refuse
	p.mu.Unlock()
	if refuse {
		p.Drop()
	}
}

// Silence stops passing bytes in both directions, on old and new connections, and closes none of
// them: nobody gets to know. This is how a cut network looks. Silence(false) passes on what was
// held back meanwhile.
func (p *Proxy) Silence(silent bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = silent
	p.change.Broadcast()
}

// Drop closes all connections. New ones can be made.
func (p *Proxy) Drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		_ = conn.Close()
	}
}

// Lead has new connections go to another address. Those that are open stay where they are; Drop
// ends them.
func (p *Proxy) Lead(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

// leadsTo returns where a new connection goes.
func (p *Proxy) leadsTo() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.target
}

// Close ends the proxy and all its connections, and waits until they are gone. It may be called
// once.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	close(p.over)
	p.change.Broadcast()
	p.mu.Unlock()
	_ = p.listener.Close()
	p.Drop()
	p.serving.Wait()
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.serving.Go(func() { p.serve(client) })
	}
}

func (p *Proxy) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.leadsTo())
	if err != nil {
		return
	}
	defer server.Close()
	if !p.keep(client, server) {
		return
	}
	defer p.remove(client, server)
	c := &connection{}
	var passing sync.WaitGroup
	pass := func(to, from net.Conn, gate func([]byte) error) {
		_, _ = io.Copy(gated{to, gate}, from)
		// One direction without the other is of no use here.
		_ = client.Close()
		_ = server.Close()
	}
	passing.Go(func() { pass(server, client, func(b []byte) error { return p.request(c, b) }) })
	passing.Go(func() { pass(client, server, func([]byte) error { return p.reply(c) }) })
	passing.Wait()
}

func (p *Proxy) keep(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range conns {
		p.conns[conn] = true
	}
	return !p.closed && !p.refusing
}

func (p *Proxy) remove(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range conns {
		delete(p.conns, conn)
	}
}

// connection is what is known of one client's connection. Guarded by Proxy.mu.
type connection struct {
	cut  bool   // the next reply is cut
	last []byte // the end of the requests so far: a text looked for may come in two pieces
}

var errCut = errors.New("cut")

// request is called before bytes go to the server.
func (p *Proxy) request(c *connection, b []byte) error {
	p.pause()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.awaitSound()
	if p.cutLeft == 0 {
		c.last = nil
		return nil
	}
	seen := append(c.last, b...)
	if !c.cut && bytes.Contains(seen, p.cutText) {
		p.cutLeft--
		c.cut = true
	}
	keep := min(len(seen), max(0, len(p.cutText)-1))
	c.last = bytes.Clone(seen[len(seen)-keep:])
	return nil
}

// reply is called before bytes go to the client.
func (p *Proxy) reply(c *connection) error {
	p.pause()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.awaitSound()
	if c.cut {
		p.cut++
		return errCut
	}
	return nil
}

// pause waits for as long as bytes are to be held back.
func (p *Proxy) pause() {
	p.mu.Lock()
	d := p.delay
	p.mu.Unlock()
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-p.over:
	}
}

// awaitSound blocks while the proxy is silent. The caller must hold the lock.
func (p *Proxy) awaitSound() {
	for p.silent && !p.closed {
		p.change.Wait()
	}
}

// gated is a connection that asks before each write.
type gated struct {
	net.Conn
	gate func([]byte) error
}

func (g gated) Write(b []byte) (int, error) {
	if err := g.gate(b); err != nil {
		return 0, err
	}
	return g.Conn.Write(b)
}
