// Package faultproxy puts the faults of a network between a test's client and a real server.
package faultproxy

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
)

// Proxy passes TCP connections on to a server until told to misbehave.
type Proxy struct {
	target   string
	listener net.Listener
	serving  sync.WaitGroup

	mu       sync.Mutex // guards what follows
	change   *sync.Cond // signals that silent has changed, or closed
	conns    map[net.Conn]bool
	silent   bool
	closed   bool
	cutReply bool
}

// New starts a proxy before the address. It ends, and its connections with it, when the test does.
func New(t testing.TB, target string) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{target: target, listener: listener, conns: map[net.Conn]bool{}}
	p.change = sync.NewCond(&p.mu)
	p.serving.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// Addr is where clients connect.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// CutNextReply lets the server get the next request and closes the connection instead of passing the reply on.
func (p *Proxy) CutNextReply() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cutReply = true
}

// Silence stops passing bytes in both directions, on old and new connections, and closes none of them: nobody gets to
// know. This is how a cut network looks. Silence(false) passes on what was held back meanwhile.
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

func (p *Proxy) close() {
	p.mu.Lock()
	p.closed = true
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
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer server.Close()
	if !p.keep(client, server) {
		return
	}
	defer p.forget(client, server)
	c := &connection{}
	var passing sync.WaitGroup
	pass := func(to, from net.Conn, gate func() error) {
		_, _ = io.Copy(gated{to, gate}, from)
		// One direction without the other is of no use here.
		_ = client.Close()
		_ = server.Close()
	}
	passing.Go(func() { pass(server, client, func() error { return p.request(c) }) })
	passing.Go(func() { pass(client, server, func() error { return p.reply(c) }) })
	passing.Wait()
}

func (p *Proxy) keep(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range conns {
		p.conns[conn] = true
	}
	return !p.closed
}

func (p *Proxy) forget(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range conns {
		delete(p.conns, conn)
	}
}

// connection is what is known of one client's connection. Guarded by Proxy.mu.
type connection struct {
	cut bool
}

var errCut = errors.New("cut")

// request is called before bytes go to the server.
func (p *Proxy) request(c *connection) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.awaitSound()
	if p.cutReply {
		p.cutReply, c.cut = false, true
	}
	return nil
}

// reply is called before bytes go to the client.
func (p *Proxy) reply(c *connection) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.awaitSound()
	if c.cut {
		return errCut
	}
	return nil
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
	gate func() error
}

func (g gated) Write(b []byte) (int, error) {
	if err := g.gate(); err != nil {
		return 0, err
	}
	return g.Conn.Write(b)
}
