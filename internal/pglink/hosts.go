package pglink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// ErrOldPrimary is wrapped where a server takes writes although another one was promoted in its
// place.
var ErrOldPrimary = errors.New("the server takes writes, but another one was promoted in its place")

var errSilent = errors.New("it doesn't answer, while another server takes writes")

const (
	silentAfter  = time.Second            // a server that owes an answer for that long may be frozen
	probeTimeout = time.Second            // for one look at all servers
	lookSoonest  = time.Second            // from one look to the next
	lookAnyway   = 10 * time.Second       // with nothing amiss
	watchTick    = 250 * time.Millisecond // between looks whether a server is silent
	logInterval  = time.Minute            // between two lines that say the same
)

// Hosts are the servers of a URL that names several. It finds out which of them is the one to write
// to where a connection by itself can't: one that is frozen (its machine acknowledges what is sent,
// and nothing answers), and one that takes writes although another was promoted. All methods may be
// called on nil.
//
// A server is looked at on a connection of its own: when one hasn't answered for silentAfter, when
// none could be connected to, and every lookAnyway. Where one is found that takes writes, the
// others that don't answer are left: nobody connects to them, and where a call hangs, all
// connections to that server are closed, so that it fails at once. Of two that take writes, the one
// of the lower timeline is left. The highest timeline is remembered as long as the process lives.
type Hosts struct {
	log     *slog.Logger
	configs []*pgconn.Config // one of each server
	dial    pgconn.DialFunc
	first   sync.Once
	poked   chan struct{}

	mu        sync.Mutex // guards what follows; no I/O under it
	conns     map[*hostConn]struct{}
	left      map[string]error  // by address: why it isn't connected to
	timelines map[string]uint32 // the highest by system
	old       string            // says which servers are old primaries
	logged    time.Time
}

// newHosts takes over the dialing of the configuration.
func newHosts(config *pgx.ConnConfig, log *slog.Logger) *Hosts {
	h := &Hosts{
		log: log, dial: config.DialFunc, poked: make(chan struct{}, 1),
		conns: map[*hostConn]struct{}{}, left: map[string]error{}, timelines: map[string]uint32{},
	}
	all := append([]*pgconn.FallbackConfig{{Host: config.Host, Port: config.Port, TLSConfig: config.TLSConfig}}, config.Fallbacks...)
	for _, f := range all {
		i := slices.IndexFunc(h.configs, func(c *pgconn.Config) bool { return c.Host == f.Host && c.Port == f.Port })
		if i >= 0 {
			h.configs[i].Fallbacks = append(h.configs[i].Fallbacks, f) // with and without TLS
			continue
		}
		c := config.Copy().Config
		c.Host, c.Port, c.TLSConfig, c.Fallbacks = f.Host, f.Port, f.TLSConfig, nil
		c.ValidateConnect, c.ConnectTimeout = nil, probeTimeout // a standby is looked at too
		h.configs = append(h.configs, &c)
	}
	config.DialFunc = h.dialHost
	return h
}

// OldPrimary says in a sentence which server takes writes although another was promoted in its
// place; "" if none does.
func (h *Hosts) OldPrimary() string {
	if h == nil {
		return ""
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.old
}

// Watch looks at the servers until ctx ends.
func (h *Hosts) Watch(ctx context.Context) {
	if h == nil {
		return
	}
	tick := time.NewTicker(watchTick)
	defer tick.Stop()
	last := time.Now()
	for {
		due := lookAnyway
		select {
		case <-ctx.Done():
			return
		case <-h.poked:
			due = lookSoonest
		case <-tick.C:
			if h.isAnySilent() {
				due = lookSoonest
			}
		}
		if time.Since(last) >= due {
			h.probe(ctx)
			last = time.Now()
		}
	}
}

func (h *Hosts) isAnySilent() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.conns {
		if c.isSilent() {
			return true
		}
	}
	return false
}

// seen is what a look found out about a server.
type seen struct {
	name      string
	addresses []string // that were dialed
	err       error
	primary   bool
	system    string // "" if that can't be told
	timeline  uint32 // 0 if that can't be told
}

// probe looks at all servers and takes note of what they are.
func (h *Hosts) probe(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	all := make([]seen, len(h.configs))
	var work sync.WaitGroup
	for i, c := range h.configs {
		work.Go(func() { all[i] = h.see(ctx, c) })
	}
	work.Wait()
	if !errors.Is(ctx.Err(), context.Canceled) {
		h.note(all)
	}
}

// see asks one server.
func (h *Hosts) see(ctx context.Context, config *pgconn.Config) (s seen) {
	s.name = net.JoinHostPort(config.Host, strconv.Itoa(int(config.Port)))
	var mu sync.Mutex
	var dialed []string
	own := config.Copy()
	own.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		mu.Lock()
		dialed = append(dialed, address)
		mu.Unlock()
		return h.dial(ctx, network, address)
	}
	conn, err := pgconn.ConnectConfig(ctx, own)
	mu.Lock() // pgx dials once more, at any time, to cancel a query that takes too long
	s.addresses = slices.Clone(dialed)
	mu.Unlock()
	if err != nil {
		s.err = err
		return s
	}
	defer conn.Close(ctx)
	ask := func(query string) ([][]byte, error) {
		results, err := conn.Exec(ctx, query).ReadAll()
		if err != nil {
			return nil, err
		}
		return results[len(results)-1].Rows[0], nil
	}
	row, err := ask("SELECT pg_catalog.pg_is_in_recovery()")
	if err != nil {
		s.err = err
		return s
	}
	if s.primary = string(row[0]) == "f"; !s.primary {
		return s
	}
	// Some services have no such functions, or let nobody call them. Then nothing can be told of
	// timelines.
	row, err = ask("SELECT system_identifier, pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()) " +
		"FROM pg_catalog.pg_control_system()")
	if err != nil || len(row[1]) < 8 {
		return s
	}
	if timeline, err := strconv.ParseUint(string(row[1][:8]), 16, 32); err == nil {
		s.system, s.timeline = string(row[0]), uint32(timeline)
	}
	return s
}

// note decides which servers are left, and ends the connections to them.
func (h *Hosts) note(all []seen) {
	h.mu.Lock()
	for _, s := range all {
		if s.primary && s.timeline > h.timelines[s.system] {
			h.timelines[s.system] = s.timeline
		}
	}
	left, current, old := map[string]error{}, false, []string{}
	for _, s := range all {
		switch newest := h.timelines[s.system]; {
		case s.primary && s.timeline < newest:
			old = append(old, fmt.Sprintf("%s, which is of timeline %d, while there is %d", s.name, s.timeline, newest))
			for _, address := range s.addresses {
				left[address] = ErrOldPrimary
			}
		case s.primary:
			current = true
		}
	}
	for _, s := range all {
		if _, answers := errors.AsType[*pgconn.PgError](s.err); s.err == nil || answers || !current {
			continue
		}
		for _, address := range s.addresses {
			left[address] = errSilent
		}
	}
	h.left, h.old = left, strings.Join(old, "; ")
	ended := h.ofNoUse()
	tell := h.old != "" && time.Since(h.logged) > logInterval
	if tell {
		h.logged = time.Now()
	}
	if h.old == "" {
		h.logged = time.Time{}
	}
	h.mu.Unlock()

	for _, c := range ended {
		_ = c.Conn.Close() // the call that waits there fails
	}
	if tell {
		h.log.Error("A SERVER IN DATABASE_URL TAKES WRITES ALTHOUGH ANOTHER WAS PROMOTED IN ITS PLACE. Nothing is written "+
			"there. Stop it, and make it a standby of the other one. If it is meant to be the right one, stop the other "+
			"and restart the instances", "server", h.OldPrimary())
	}
}

// ofNoUse returns the connections to servers that are left. One that doesn't answer in time may
// only be slow, as a pooler is with many clients: then nothing hangs there yet. The caller holds
// mu.
func (h *Hosts) ofNoUse() (conns []*hostConn) {
	silent := map[string]bool{}
	for c := range h.conns {
		silent[c.address] = silent[c.address] || c.isSilent()
	}
	for c := range h.conns {
		if why := h.left[c.address]; why != nil && (silent[c.address] || !errors.Is(why, errSilent)) {
			conns = append(conns, c)
		}
	}
	return conns
}

// refused returns why the address isn't to be connected to.
func (h *Hosts) refused(address string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.left[address]
}

func (h *Hosts) wake() {
	select {
	case h.poked <- struct{}{}:
	default:
	}
}

// dialHost is a pgconn.DialFunc.
func (h *Hosts) dialHost(ctx context.Context, network, address string) (net.Conn, error) {
	h.first.Do(func() { h.probe(ctx) }) // which of them is old isn't known by any single one
	conn, err := net.Conn(nil), h.refused(address)
	if err == nil {
		conn, err = h.dial(ctx, network, address)
	}
	if err != nil {
		h.wake()
		return nil, &net.OpError{Op: "dial", Net: network, Err: fmt.Errorf("%s: %w", address, err)}
	}
	c := &hostConn{Conn: conn, hosts: h, address: address}
	h.mu.Lock()
	h.conns[c] = struct{}{}
	h.mu.Unlock()
	return c, nil
}

// hostConn knows since when its server owes an answer.
type hostConn struct {
	net.Conn
	hosts   *Hosts
	address string
	owed    atomic.Int64 // Unix nanoseconds; 0: it owes none
}

func (c *hostConn) isSilent() bool {
	owed := c.owed.Load()
	return owed != 0 && time.Since(time.Unix(0, owed)) > silentAfter
}

func (c *hostConn) Write(b []byte) (int, error) {
	c.owed.CompareAndSwap(0, time.Now().UnixNano())
	return c.Conn.Write(b)
}

func (c *hostConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.owed.Store(0)
	}
	return n, err
}

func (c *hostConn) Close() error {
	c.hosts.mu.Lock()
	delete(c.hosts.conns, c)
	c.hosts.mu.Unlock()
	return c.Conn.Close()
}
